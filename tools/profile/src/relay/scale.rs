//! Whether a session costs the same beside many others, with many servers, with many stick entries.

use super::jobs::{Extent, Round, hold, measured_sessions};
use super::results::ScalePoint;
use super::site::{Client, Site};
use super::systems::{Needs, SERVERS, System};
use super::task::{Limit, Task};
use crate::bench::Bench;
use crate::rounds::rounds;

const HELD: &str = "held sessions";
const SERVERS_OF: &str = "servers";
const STICK: &str = "stick entries";
const IN_FLIGHT: u32 = 64;
const COMMANDS: u32 = 4;
/// Clients of the sessions that are measured.
const CLIENTS: u32 = 250;

/// Measures every point, in rounds.
pub fn measure(bench: &Bench, count: usize, extent: &Extent, quick: bool) -> Vec<ScalePoint> {
    let mut points = points(extent, quick);
    let say = |line| bench.say(line);
    rounds("scale", count, &mut points, say, |point| {
        let round = once(bench, point, extent)?;
        let result = round.to_string();
        point.rounds.push(round);
        Ok(result)
    });
    points
}

fn points(extent: &Extent, quick: bool) -> Vec<ScalePoint> {
    let kinds = match quick {
        true => [(HELD, vec![1, extent.idle]), (SERVERS_OF, vec![1, 8]), (STICK, vec![0, 2000])],
        false => [
            (HELD, vec![1, extent.idle / 9, extent.idle]),
            (SERVERS_OF, vec![1, 20, 200]),
            (STICK, vec![0, 20_000, 200_000]),
        ],
    };
    let point = |what, count, first| ScalePoint {
        what,
        count,
        first,
        is_first: count == first,
        rounds: Vec::new(),
        cost: None,
        ratio: None,
        failure: None,
    };
    kinds
        .into_iter()
        .flat_map(|(what, counts)| counts.clone().into_iter().map(move |n| point(what, n, counts[0])))
        .collect()
}

fn once(bench: &Bench, point: &ScalePoint, extent: &Extent) -> Result<Round, String> {
    let servers = if point.what == SERVERS_OF { point.count } else { SERVERS };
    let needs = Needs { servers, stick: point.what == STICK, ..Needs::default() };
    let mut site = Site::start(bench, System::Vestibule, needs)?;
    let task =
        |clients, until| Task::Sessions { in_flight: IN_FLIGHT, commands: COMMANDS, goodbye: true, clients, until };
    if point.what == HELD {
        hold(&mut site, point.count)?;
    }
    if point.what == STICK && point.count > 0 {
        // Each client once; those that are measured are the first of them, and known by then.
        let until = Limit::Count(u64::from(point.count));
        let (in_flight, commands, clients) = (IN_FLIGHT, 0, point.count);
        site.perform(&Task::Sessions { in_flight, commands, goodbye: true, clients, until })?;
    }
    // Held sessions stay with the first client; a second one measures.
    let mut other = Client::start(bench, &site.relay, 1, false)?;
    std::mem::swap(&mut site.client, &mut other);
    site.perform(&task(CLIENTS, Limit::Count(512)))?;
    let measured = task(CLIENTS, Limit::Seconds(extent.seconds));
    let (used, outcome) = measured_sessions(bench, &mut site, &measured, COMMANDS)?;
    Ok(Round::each(used, &outcome))
}
