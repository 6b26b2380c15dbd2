//! The jobs: what relays have to do, and what of it is measured.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::site::{Client, Site};
use super::systems::{Needs, System};
use super::task::{Latency, Limit, Outcome, Seen, Task};
use crate::bench::Bench;
use crate::measure::{Used, used_by};
use crate::server::{Server, free_address, pause};

/// Sessions that a fresh relay serves before it is measured.
const WARM_UP: u64 = 512;
/// The same where its memory is measured: those that come later must not find memory that these have left.
const WARM_UP_MEMORY: u32 = 16;
const IN_FLIGHT: u32 = 256;
const IN_FLIGHT_FEW: u32 = 8;
const COMMANDS: u32 = 4;
/// Sessions that fetch at a time.
const STREAMS: u32 = 4;
const GIB: f64 = (1u64 << 30) as f64;

/// What a relay has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Job {
    /// Connect, greeting, 4 commands, goodbye; 256 sessions at a time.
    Short,
    /// The same, 8 at a time.
    Short8,
    /// Connect, greeting, close; 256 at a time.
    Connect,
    /// Small messages now and then over many sessions.
    Chatter,
    /// Large answers.
    Bulk,
    /// Sessions that are silent.
    Idle,
    /// Chatter beside bulk.
    Mixed,
    /// Short sessions of Vestibule beside many others, with many servers, many stick entries.
    Scale,
}

use Job::{Bulk, Chatter, Connect, Idle, Mixed, Scale, Short, Short8};

/// How much of everything.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Extent {
    /// How long a system is measured in a round.
    pub seconds: f64,
    /// Idle sessions.
    pub idle: u32,
    /// Sessions that chat.
    pub chatters: u32,
    /// Round trips a second.
    pub chatter_rate: u32,
    /// Bytes of a large answer.
    pub answer: u64,
    /// How many seconds held sessions are left alone before memory is read: relays give buffers back meanwhile.
    pub rest: f64,
}

impl Extent {
    fn rest(&self) -> Result<(), String> {
        pause(Duration::from_secs_f64(self.rest))
    }
}

/// One system in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// In the unit of the job.
    pub cost: f64,
    /// Of that in user mode (sampled by the kernel's clock tick: coarse); 0 where no CPU time is meant.
    pub user: f64,
    /// Part of the server's CPU that others used meanwhile.
    pub others_core: f64,
    /// Part of the server's CPU that it used itself.
    pub core: f64,
    /// Sessions, round trips or bytes.
    pub count: u64,
    /// The same a second.
    pub rate: f64,
    /// Latency of the chatter, where there is one; of `mixed`, without bulk.
    pub latency: Option<Latency>,
    /// Of `mixed`, beside bulk.
    pub beside_bulk: Option<Latency>,
}

impl Job {
    /// What its cost is measured in.
    pub fn unit(self) -> &'static str {
        match self {
            Short | Short8 | Connect | Scale => "µs of CPU a session",
            Chatter => "µs of CPU a round trip",
            Bulk => "ms of CPU a GiB",
            Idle => "bytes a session",
            Mixed => "p99 beside bulk / p99 alone",
        }
    }

    /// Places behind the point that its cost is worth.
    pub fn places(self) -> usize {
        match self {
            Bulk | Idle => 0,
            Mixed => 2,
            Short | Short8 | Connect | Chatter | Scale => 1,
        }
    }

    /// In a few words.
    pub fn words(self) -> &'static str {
        match self {
            Short => "connect, greeting, 4 commands, goodbye; 256 sessions at a time",
            Short8 => "connect, greeting, 4 commands, goodbye; 8 sessions at a time",
            Connect => "connect, greeting, close; 256 at a time",
            Chatter => "small messages over idle sessions, evenly spread",
            Bulk => "large answers, 4 sessions at a time",
            Idle => "sessions that are silent after one command",
            Mixed => "chatter beside large answers on the same thread",
            Scale => "a short session as the rest grows",
        }
    }

    /// Measures a system once.
    pub fn measure(self, bench: &Bench, system: System, extent: &Extent) -> Result<Round, String> {
        match self {
            Short => sessions(bench, system, extent, IN_FLIGHT, COMMANDS, true),
            Short8 => sessions(bench, system, extent, IN_FLIGHT_FEW, COMMANDS, true),
            Connect => sessions(bench, system, extent, IN_FLIGHT, 0, false),
            Chatter => chatter(bench, system, extent),
            Bulk => bulk(bench, system, extent),
            Idle => idle(bench, system, extent),
            Mixed => mixed(bench, system, extent),
            Scale => Err("has points, not systems".to_owned()),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Short => "short",
            Short8 => "short8",
            Connect => "connect",
            Chatter => "chatter",
            Bulk => "bulk",
            Idle => "idle",
            Mixed => "mixed",
            Scale => "scale",
        })
    }
}

impl Round {
    fn new(used: Used, count: u64, outcome: &Outcome, scale: f64) -> Round {
        let cost = used.cpu().as_secs_f64() * scale;
        Round {
            cost,
            user: used.server.cpu.as_secs_f64() * scale * used.server.user_share(),
            others_core: used.others_core(),
            core: used.cpu().as_secs_f64() / used.time.as_secs_f64(),
            count,
            rate: count as f64 / outcome.seconds.max(1e-6),
            latency: outcome.latency,
            beside_bulk: None,
        }
    }

    /// Microseconds each.
    pub fn each(used: Used, outcome: &Outcome) -> Round {
        Round::new(used, outcome.done, outcome, 1e6 / outcome.done.max(1) as f64)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8.2}  {:8.0} /s  {:3.0} % of its core", self.cost, self.rate, self.core * 100.0)?;
        for latency in [self.latency, self.beside_bulk].into_iter().flatten() {
            write!(f, "  p50 {:.0} p99 {:.0} us", latency.p50, latency.p99)?;
        }
        Ok(())
    }
}

/// Sessions of one kind, a fixed number of them at a time.
fn sessions(
    bench: &Bench,
    system: System,
    extent: &Extent,
    in_flight: u32,
    commands: u32,
    goodbye: bool,
) -> Result<Round, String> {
    let mut site = Site::start(bench, system, Needs::default())?;
    let task = |until| Task::Sessions { in_flight, commands, goodbye, clients: 250, until };
    site.perform(&task(Limit::Count(WARM_UP)))?;
    let (used, outcome) = measured_sessions(bench, &mut site, &task(Limit::Seconds(extent.seconds)), commands)?;
    Ok(Round::each(used, &outcome))
}

/// Sessions under measurement, counted at all three places: client, backend, log.
pub fn measured_sessions(
    bench: &Bench,
    site: &mut Site,
    task: &Task,
    commands: u32,
) -> Result<(Used, Outcome), String> {
    let held = site.held;
    let all_over = |seen: &Seen| seen.sessions() == seen.ended + u64::from(held);
    let before = site.settled("sessions before the measurement do not end", || site.seen(), all_over)?;
    let lines = site.relay.lines();
    let (used, outcome) = used_by(bench, site.relay.pid(), || site.perform(task))?;
    let counts = |seen: &Seen| {
        let seen = seen.since(before);
        let of_version = if site.system.sends_v1() { seen.v1 } else { seen.v2 };
        let sessions = [seen.sessions(), of_version, seen.ended].iter().all(|count| *count == outcome.done);
        sessions && seen.wrong == 0 && seen.commands == outcome.done * u64::from(commands)
    };
    let what = format!("the backend has not seen {} sessions as they were; before {before:?}, now", outcome.done);
    site.settled(&what, || site.seen(), counts)?;
    let wanted = outcome.done * site.system.lines_a_session();
    let what = format!("a session log of {wanted} lines was expected after {lines} lines, and there are");
    site.settled(&what, || Ok(site.relay.lines()), |now| *now >= lines + wanted)?;
    Ok((used, outcome))
}

/// Holds sessions and counts them at the backend.
pub fn hold(site: &mut Site, count: u32) -> Result<(), String> {
    site.perform(&Task::Hold { count })?;
    site.held = count;
    let what = format!("the backend does not hold {count} sessions");
    site.settled(&what, || site.seen(), |seen| seen.sessions() - seen.ended >= u64::from(count) && seen.wrong == 0)?;
    Ok(())
}

fn chatter(bench: &Bench, system: System, extent: &Extent) -> Result<Round, String> {
    let mut site = Site::start(bench, system, Needs::default())?;
    hold(&mut site, extent.chatters)?;
    let task = |until| Task::Chatter { rate: extent.chatter_rate, until };
    site.perform(&task(Limit::Count(u64::from(extent.chatters))))?;
    let (used, outcome) = used_by(bench, site.relay.pid(), || site.perform(&task(Limit::Seconds(extent.seconds))))?;
    Ok(Round::each(used, &outcome))
}

fn bulk(bench: &Bench, system: System, extent: &Extent) -> Result<Round, String> {
    let mut site = Site::start(bench, system, Needs::default())?;
    let task = |until| Task::Bulk { streams: STREAMS, bytes: extent.answer, until };
    site.perform(&task(Limit::Count(u64::from(STREAMS))))?;
    let before = site.seen()?;
    let (used, outcome) = used_by(bench, site.relay.pid(), || site.perform(&task(Limit::Seconds(extent.seconds))))?;
    let what = format!("the backend has not sent {} bytes; before {before:?}, now", outcome.bytes);
    site.settled(&what, || site.seen(), |seen| seen.since(before).bytes == outcome.bytes && seen.wrong == 0)?;
    Ok(Round::new(used, outcome.bytes, &outcome, 1e3 * GIB / outcome.bytes as f64))
}

/// Memory of idle sessions: what the process grows by. Of Vestibule all that it has beyond a daemon that relays nothing, if
/// that is more, so that nothing can hide in what is allocated at the start.
fn idle(bench: &Bench, system: System, extent: &Extent) -> Result<Round, String> {
    let mut site = Site::start(bench, system, Needs::default())?;
    hold(&mut site, WARM_UP_MEMORY)?;
    extent.rest()?;
    let before = site.relay.memory();
    let (used, outcome) = used_by(bench, site.relay.pid(), || {
        let outcome = site.perform(&Task::Hold { count: extent.idle })?;
        extent.rest()?;
        Ok(outcome)
    })?;
    let what = format!("the backend does not hold {} sessions", extent.idle);
    let held = |seen: &Seen| seen.sessions() - seen.ended == u64::from(extent.idle) && seen.wrong == 0;
    site.settled(&what, || site.seen(), held)?;
    let all = used.memory;
    let bytes = |kib: u64| kib as f64 * 1024.0 / outcome.done as f64;
    let resident = (all.rss_kib + all.page_tables_kib).saturating_sub(before.rss_kib + before.page_tables_kib);
    let mut cost = bytes(resident);
    if matches!(system, System::Vestibule | System::VestibuleEpoll) {
        let without = without_relay(bench, system, extent)?.memory();
        let own =
            (all.anonymous_kib + all.page_tables_kib).saturating_sub(without.anonymous_kib + without.page_tables_kib);
        cost = cost.max(bytes(own));
    }
    // All of them still answer.
    site.perform(&Task::Release)?;
    site.settled("held sessions do not end", || site.seen(), |seen| seen.sessions() == seen.ended && seen.wrong == 0)?;
    Ok(Round { cost, user: 0.0, ..Round::new(used, outcome.done, &outcome, 0.0) })
}

/// A daemon with the same settings that closes what it has accepted.
fn without_relay(bench: &Bench, system: System, extent: &Extent) -> Result<Server, String> {
    let port = free_address().port();
    let server = system.recipe(&bench.tools, port, Needs { relay: false, ..Needs::default() })?;
    let server = Server::start(server, bench.server_cpu)?;
    extent.rest()?;
    Ok(server)
}

/// The clients and the backend of the bulk have the lowest priority on their CPU: what remains of the chatter's delay is the
/// relay's doing.
fn mixed(bench: &Bench, system: System, extent: &Extent) -> Result<Round, String> {
    let mut site = Site::start(bench, system, Needs::default())?;
    hold(&mut site, extent.chatters)?;
    let task = |until| Task::Chatter { rate: extent.chatter_rate, until };
    site.perform(&task(Limit::Count(u64::from(extent.chatters))))?;
    let measured = task(Limit::Seconds(extent.seconds));
    let alone = site.perform(&measured)?;
    let mut bulk = Client::start(bench, &site.relay, 1, true)?;
    let fetch = |until| Task::Bulk { streams: STREAMS, bytes: extent.answer, until };
    bulk.begin(&fetch(Limit::Count(u64::from(STREAMS))))?;
    bulk.end().map_err(|error| site.blame(&error))?;
    let (used, (beside, fetched)) = used_by(bench, site.relay.pid(), || {
        bulk.begin(&fetch(Limit::Seconds(extent.seconds)))?;
        Ok((site.perform(&measured)?, bulk.end()?))
    })?;
    let (Some(latency), Some(beside)) = (alone.latency, beside.latency) else { return Err("no latencies".into()) };
    let cost = beside.p99 / latency.p99.max(1.0);
    let round = Round::new(used, fetched.bytes, &fetched, 0.0);
    Ok(Round { cost, latency: Some(latency), beside_bulk: Some(beside), ..round })
}
