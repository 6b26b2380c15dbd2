//! What the page shows, as one object.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use vestibule::config::WorkerKind;
use vestibule::engine::{ListenerAccount, RefusalSeen, RingAccount, ServerAccount, Snapshot};
use vestibule::proxy::Escaped;

use super::answers::now;
use super::facts::{Facts, Usage, usage};
use crate::daemon::control::{backend_of, tls_value};
use crate::daemon::figures;
use crate::daemon::tier::{Glance, Served};
use crate::hex;

/// Points of a latency curve.
const CURVE_POINTS: usize = 64;

/// Everything.
pub fn view(glance: &Glance, facts: &Facts) -> Value {
    let snapshot = glance.snapshot();
    let Usage { cpu, resident, files, files_max } = usage();
    json!({
        "now": now(), "version": vestibule::VERSION, "kernel": facts.kernel(), "pid": std::process::id(),
        "started": facts.started(), "ready": glance.ready.is_ok(), "why-not-ready": glance.ready.as_ref().err(),
        "reload-failed": glance.in_force.failed.as_ref().and_then(|failed| failed.errors.first()),
        "process": { "cpu": cpu, "resident": resident, "files": files, "files-max": files_max },
        "log-lines-lost": facts.lines_lost(),
        "counters": figures::counters(&snapshot),
        "rings": snapshot.rings().iter().map(ring).collect::<Vec<_>>(),
        "listeners": listeners(glance, &snapshot),
        "backends": snapshot.backends().iter().map(backend_of).collect::<Vec<_>>(),
        "latencies": latencies(&snapshot),
        "refusals": refusals_of(&glance.refusals()),
    })
}

/// Who was refused of late. What they sent is escaped: every byte that is not printable ASCII stands as `\xNN`.
pub fn refusals_of(all: &[RefusalSeen]) -> Value {
    all.iter().map(refusal).collect()
}

fn refusal(one: &RefusalSeen) -> Value {
    json!({
        "service": one.service, "listener": one.listener, "source": one.source.to_string(),
        "peer": one.peer.to_string(), "reason": one.reason, "diagnosis": one.diagnosis, "advice": one.advice,
        "text": one.text, "sent": Escaped(&one.bytes).to_string(), "hex": hex::show(&one.bytes, " "),
        "tls": one.tls.as_ref().map(tls_value), "count": one.count, "first": one.first.as_secs_f64(), "last": one.last.as_secs_f64(),
    })
}

fn ring(ring: &RingAccount) -> Value {
    let RingAccount { accepted, pending, turns, cq_overflows, stale, phantom, replaced, locked, .. } = *ring;
    json!({
        "accepted": accepted, "pending": pending, "turns": turns, "cq-overflows": cq_overflows, "stale": stale,
        "phantom": phantom, "replaced": replaced, "locked-bytes": locked,
    })
}

/// Those of the present configuration, and those of former ones that have counted something.
fn listeners(glance: &Glance, snapshot: &Snapshot) -> Vec<Value> {
    let accounts = snapshot.listeners();
    let mut former: Vec<&ListenerAccount<'_>> = accounts.iter().collect();
    let mut all: Vec<Value> = Vec::new();
    for served in glance.listeners.iter() {
        let at = former.iter().position(|one| one.service == served.service && one.name == served.name);
        let account = at.map(|at| former.remove(at));
        all.push(listener(&served.service, &served.name, Some(served), account, snapshot));
    }
    let counted = former.into_iter().filter(|one| one.accepted > 0);
    all.extend(counted.map(|one| listener(one.service, one.name, None, Some(one), snapshot)));
    all
}

fn listener(
    service: &str,
    name: &str,
    served: Option<&Served>,
    account: Option<&ListenerAccount<'_>>,
    snapshot: &Snapshot,
) -> Value {
    let of = |count: fn(&ListenerAccount<'_>) -> u64| account.map_or(0, count);
    let endings = snapshot.endings();
    let own = endings.iter().filter(|one| one.service == service && one.listener == name);
    let reasons: Map<String, Value> = own.map(|one| (one.reason.to_owned(), one.count.into())).collect();
    json!({
        "service": service, "listener": name, "present": served.is_some(),
        "addresses": served.map_or(&[][..], |served| &served.addresses),
        "haproxy": served.is_some_and(|served| served.haproxy), "ssl": served.is_some_and(|served| served.ssl),
        "worker": served.map(|served| match served.worker {
            WorkerKind::Whoami => "whoami",
            WorkerKind::Discard => "discard",
            WorkerKind::Relay => "relay",
            WorkerKind::HandOff => "handoff",
        }),
        "backend": served.and_then(|served| served.backend.as_deref()),
        "accepted": of(|one| one.accepted), "pending": of(|one| one.pending), "served": of(|one| one.handed_on),
        "refused": of(|one| one.ended), "reasons": reasons, "drained": served.is_some_and(|served| served.drained),
    })
}

fn latencies(snapshot: &Snapshot) -> Vec<Value> {
    let servers = || snapshot.backends().iter().flat_map(|backend| &backend.servers);
    let sum = |of: fn(&ServerAccount) -> &Histogram<u64>| {
        let mut all = servers().map(of);
        let first = all.next().cloned();
        first.map(|first| {
            all.fold(first, |mut sum, one| {
                // All histograms of a kind have the same bounds.
                let _ = sum.add(one);
                sum
            })
        })
    };
    let mut all = vec![
        curve("header", "accept to header", Some(snapshot.header_wait())),
        curve("worker", "accept to worker", Some(snapshot.accept_to_worker())),
    ];
    all.push(curve("connect", "connect to server", sum(|server| &server.traffic.connect).as_ref()));
    all.push(curve("greeting", "server's greeting", sum(|server| &server.traffic.greeting).as_ref()));
    all.into_iter().flatten().collect()
}

/// Quantiles, and points of the curve: microseconds, and the share of all that took so long at most.
fn curve(name: &str, label: &str, recorded: Option<&Histogram<u64>>) -> Option<Value> {
    let recorded = recorded.filter(|recorded| !recorded.is_empty())?;
    let all = recorded.len() as f64;
    let steps: Vec<(u64, u64)> =
        recorded.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
    let every = steps.len().div_ceil(CURVE_POINTS);
    let mut so_far = 0;
    let mut points = Vec::new();
    for (index, (micros, count)) in steps.iter().enumerate() {
        so_far += count;
        if index % every == 0 || index + 1 == steps.len() {
            points.push(json!([micros, so_far as f64 / all]));
        }
    }
    Some(json!({ "name": name, "label": label, "quantiles": figures::quantiles(recorded), "curve": points }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_to_all_of_them_in_few_points() {
        let mut recorded = vestibule::stats::empty_histogram();
        (1..100_000_u64).step_by(7).for_each(|micros| recorded.saturating_record(micros));
        let curve = curve("x", "an x", Some(&recorded)).expect("something was recorded");
        let points = curve["curve"].as_array().expect("points");
        assert!(points.len() <= CURVE_POINTS + 1, "{}", points.len());
        let shares: Vec<f64> = points.iter().map(|point| point[1].as_f64().expect("a share")).collect();
        assert!(shares.is_sorted() && shares.last() == Some(&1.0), "{shares:?}");
        assert!(super::curve("x", "", Some(&vestibule::stats::empty_histogram())).is_none());
    }
}
