//! What `ctl stats` tells beside counts: which configuration is in force, what has failed last, and how far a takeover or a
//! drain has got.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::{Value, json};

use crate::daemon::in_force::Failed;
use crate::daemon::tier::{Glance, Served};

/// Errors of a reload that stand in the table; the log has all.
const ERRORS_SHOWN: usize = 5;

/// Puts it to the other numbers.
pub fn enter(glance: &Glance, stats: &mut Value) {
    let ago = |at: Instant| at.elapsed().as_secs_f64();
    let in_force = &glance.in_force;
    let failed = in_force.failed.as_ref();
    stats["pid"] = std::process::id().into();
    stats["configuration"] = json!({
        "file": in_force.file.as_ref().map(|file| file.display().to_string()), "in-force": ago(in_force.since), "reloads": in_force.reloads,
        "failed": failed.map(|failed| json!({ "ago": ago(failed.at), "errors": failed.errors[..] })),
    });
    stats["ready"] = glance.ready.is_ok().into();
    stats["why-not-ready"] = glance.ready.as_ref().err().cloned().into();
    stats["drained-listeners"] = drained(glance).collect::<Vec<_>>().into();
    stats["takeover"] = json!({
        "successor": glance.successor, "predecessor-finishes": glance.predecessor_lives,
        "engines-that-finish": glance.finishing, "sessions-here": glance.sessions(),
    });
}

/// The same as lines.
pub fn table(glance: &Glance) -> String {
    let mut out = String::new();
    let mut line = |name: &str, words: String| {
        let _ = writeln!(out, "{name:<24} {words}"); // a String takes everything
    };
    let in_force = &glance.in_force;
    let file = in_force.file.as_ref().map_or("(built-in)".to_owned(), |file| file.display().to_string());
    let reloads = match in_force.reloads {
        0 => String::new(),
        1 => ", after 1 reload".to_owned(),
        count => format!(", after {count} reloads"),
    };
    line("configuration", format!("{file}, in force for {}{reloads}", time(in_force.since)));
    if let Some(Failed { at, errors }) = &in_force.failed {
        line("last reload", format!("failed {} ago, and nothing has changed", time(*at)));
        errors.iter().take(ERRORS_SHOWN).for_each(|error| line("", error.clone()));
    }
    if let Err(reason) = &glance.ready {
        line("not ready", reason.clone());
    }
    drained(glance).for_each(|listener| line("drained listener", listener));
    if glance.successor.is_some() || glance.finishing > 0 {
        let who = glance.successor.map_or(String::new(), |pid| format!("process {pid} has taken over; "));
        let (engines, sessions) = (glance.finishing, glance.sessions());
        line("finishing", format!("{who}{engines} engines finish here, {sessions} sessions are left"));
    }
    if glance.predecessor_lives {
        line("takeover", "the process before still finishes what it has; its counts are in these".to_owned());
    }
    out
}

fn drained(glance: &Glance) -> impl Iterator<Item = String> {
    let name = |one: &Served| format!("{}/{}", one.service, one.name);
    glance.listeners.iter().filter(|one| one.drained).map(name).collect::<Vec<_>>().into_iter()
}

/// How long ago.
fn time(at: Instant) -> String {
    age(at.elapsed().as_secs())
}

/// A time as HAProxy shows it: its two largest units.
pub fn age(all: u64) -> String {
    let (days, hours, minutes, seconds) = (all / 86_400, all / 3600 % 24, all / 60 % 60, all % 60);
    match all {
        86_400.. => format!("{days}d{hours}h"),
        3600.. => format!("{hours}h{minutes}m"),
        60.. => format!("{minutes}m{seconds}s"),
        _ => format!("{seconds}s"),
    }
}
