//! A snapshot's counters and times as JSON: what `ctl stats`, the page and the line at SIGUSR1 show.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use vestibule::engine::{DriverInUse, Ended, Snapshot};

use super::control;

/// Counts of what is only tried that are shown.
const WOULD_REFUSE_MAX: usize = 64;

/// All counters and latencies, in one line.
pub fn json(snapshot: &Snapshot) -> String {
    format!("{}\n", value(snapshot))
}

/// All counters and latencies.
pub fn value(snapshot: &Snapshot) -> Value {
    let latencies = snapshot.latencies().into_iter();
    let microseconds: Map<String, Value> =
        latencies.map(|(name, histogram)| (name.replace(' ', "-"), quantiles(histogram))).collect();
    let (endings, more) = snapshot.main_endings();
    let ended: Vec<Value> = endings.iter().map(self::ended).collect();
    let (shown, more_servers) = snapshot.main_servers();
    let servers: Vec<Value> = shown.into_iter().map(|(backend, server)| control::server_of(backend, server)).collect();
    let driver = snapshot.driver();
    let would_refuse: Vec<Value> = snapshot.would_refuse().iter().take(WOULD_REFUSE_MAX).map(self::ended).collect();
    json!({
        "driver": driver.map(DriverInUse::name), "driver-reason": driver.and_then(DriverInUse::instead),
        "locked-memory-bytes": snapshot.locked_memory(),
        "counters": counters(snapshot), "ended": ended, "ended-not-shown": more, "would-refuse": would_refuse,
        "servers": servers,
        "servers-not-shown": more_servers, "microseconds": microseconds,
    })
}

fn ended(one: &Ended<'_>) -> Value {
    json!({ "service": one.service, "listener": one.listener, "reason": one.reason, "count": one.count })
}

/// All counters by name.
pub fn counters(snapshot: &Snapshot) -> Value {
    object(snapshot.counters().iter().copied())
}

/// The quantiles of a histogram that are shown, and how many values it has.
pub fn quantiles(histogram: &Histogram<u64>) -> Value {
    let quantiles = Snapshot::QUANTILES.map(|(name, quantile)| (name, histogram.value_at_quantile(quantile)));
    object(quantiles.into_iter().chain([("count", histogram.len())]))
}

fn object(numbers: impl Iterator<Item = (&'static str, u64)>) -> Value {
    numbers.map(|(name, number)| (name.to_owned(), number.into())).collect::<Map<_, _>>().into()
}
