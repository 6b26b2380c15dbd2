//! The last minutes of what the page draws: whoever opens it sees what has been.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use vestibule::engine::Snapshot;

/// Time between two samples.
pub const STEP: Duration = Duration::from_secs(2);
/// Samples that are kept: ten minutes.
pub const SAMPLES_MAX: usize = 300;
/// Lines that are kept; those of further listeners and servers are not.
const SERIES_MAX: usize = 512;

/// What was counted, every [`STEP`].
#[derive(Default)]
pub struct History {
    /// When, in seconds since 1970.
    times: VecDeque<f64>,
    /// By name: as many values as times; `None` where it was not there.
    series: BTreeMap<String, VecDeque<Option<u64>>>,
}

impl History {
    /// Keeps what there is at a time.
    pub fn keep(&mut self, snapshot: &Snapshot, now: f64) {
        self.keep_all(values(snapshot), now);
    }

    fn keep_all(&mut self, values: Vec<(String, u64)>, now: f64) {
        let kept = self.times.len();
        self.times.push_back(now);
        for (name, value) in values {
            if self.series.len() < SERIES_MAX || self.series.contains_key(&name) {
                let line = self.series.entry(name).or_default();
                line.resize(kept, None);
                line.push_back(Some(value));
            }
        }
        let (all, drop_first) = (self.times.len(), self.times.len() > SAMPLES_MAX);
        for line in self.series.values_mut() {
            line.resize(all, None);
            drop_first.then(|| line.pop_front());
        }
        drop_first.then(|| self.times.pop_front());
        self.series.retain(|_, line| line.iter().any(Option::is_some));
    }

    /// All of it.
    pub fn value(&self) -> Value {
        json!({ "step": STEP.as_secs_f64(), "times": self.times, "series": self.series })
    }
}

/// What the page draws, by the names that it has there.
fn values(snapshot: &Snapshot) -> Vec<(String, u64)> {
    let listeners = snapshot.listeners();
    let sum = |of: fn(&vestibule::engine::ListenerAccount<'_>) -> u64| listeners.iter().map(of).sum();
    let servers =
        || snapshot.backends().iter().flat_map(|backend| backend.servers.iter().map(move |one| (backend, one)));
    let mut all = vec![
        ("all accepted".to_owned(), sum(|one| one.accepted)),
        ("all served".to_owned(), sum(|one| one.handed_on)),
        ("all refused".to_owned(), sum(|one| one.ended)),
        ("all sessions".to_owned(), servers().map(|(_, server)| u64::from(server.sessions)).sum()),
    ];
    all.extend(listeners.iter().map(|one| (format!("listener {}/{}", one.service, one.name), one.accepted)));
    for (backend, server) in servers() {
        all.push((format!("server {}/{}", backend.name, server.name), server.sessions.into()));
        all.push((format!("total {}/{}", backend.name, server.name), server.totals.sessions));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_and_lines_are_bounded_and_stay_beside_their_times() {
        let mut history = History::default();
        for second in 0..SAMPLES_MAX + 5 {
            let mut values = vec![("all accepted".to_owned(), second as u64)];
            if second == SAMPLES_MAX {
                values.push(("listener late".to_owned(), 7));
            }
            history.keep_all(values, second as f64);
        }
        assert_eq!((history.times.len(), history.times[0]), (SAMPLES_MAX, 5.0));
        let [accepted, late] = ["all accepted", "listener late"].map(|name| &history.series[name]);
        assert_eq!((accepted.len(), accepted[0], late.len()), (SAMPLES_MAX, Some(5), SAMPLES_MAX));
        let at = late.iter().position(Option::is_some).expect("it was there once");
        assert_eq!((history.times[at], late[at]), (SAMPLES_MAX as f64, Some(7)));
        history.keep_all((0..2 * SERIES_MAX).map(|n| (format!("server {n}"), 1)).collect(), 1e6);
        assert!(history.series.len() <= SERIES_MAX);
    }
}
