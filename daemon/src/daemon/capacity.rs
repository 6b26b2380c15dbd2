//! What this process may have of threads and descriptors, found out before it promises anything: later there would be
//! nobody left who could say what is missing.

use std::io;
use std::num::NonZeroUsize;
use std::thread::{self, JoinHandle};

use crossbeam_channel::Receiver;
use nix::sys::resource::{Resource, getrlimit};
use vestibule::config::Settings;
use vestibule::engine::{RINGS_MAX, cpus};

use super::plan;

/// Threads beside rings and workers: two write the log and one ends it, one each for signals, takeovers, control,
/// the process before, the watchdog, and the end of an engine.
const THREADS: usize = 9;
/// Descriptors beside rings and listeners: the standard ones, the signals' and the takeover's, those that are reserved for
/// kernels with a certain fault, and what is opened for a moment.
const DESCRIPTORS: u64 = 24;
/// HTTP's: one that serves, and one that waits for the rings.
const THREADS_OF_HTTP: usize = 2;
/// HTTP's: what its thread waits by, its socket, and some connections.
const DESCRIPTORS_OF_HTTP: u64 = 12;
/// Descriptors of a ring beside its listeners: itself and what wakes it.
const DESCRIPTORS_OF_RING: u64 = 2;
/// Connections that there must be room for, with two descriptors each.
const CONNECTIONS: u64 = 8;
/// They do nothing.
const STACK: usize = 16 << 10;

/// Whether a daemon with these settings may have what it needs.
///
/// # Errors
/// What it needs, what the limit is, and where to raise it.
pub fn check(settings: &Settings) -> Result<(), String> {
    let rings = settings.rings.unwrap_or_else(cpus).get().min(RINGS_MAX);
    check_descriptors(settings, rings as u64)?;
    check_threads(settings, rings)
}

fn check_descriptors(settings: &Settings, rings: u64) -> Result<(), String> {
    // The soft limit is raised to the hard one.
    let Ok((_, allowed)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let listeners = settings.services.iter().flat_map(|service| &service.listeners);
    let addresses: usize = listeners.map(|listener| listener.addresses.len()).sum();
    let http = settings.http_listen.map_or(0, |_| DESCRIPTORS_OF_HTTP);
    let needed = DESCRIPTORS + http + rings * (DESCRIPTORS_OF_RING + addresses as u64) + 2 * CONNECTIONS;
    if allowed >= needed {
        return Ok(());
    }
    Err(format!(
        "cannot start: {needed} descriptors are needed ({rings} rings on {addresses} addresses, and {CONNECTIONS} \
         connections), and RLIMIT_NOFILE is {allowed}: raise it (LimitNOFILE= in the unit, `ulimit -n` in a shell)"
    ))
}

fn check_threads(settings: &Settings, rings: usize) -> Result<(), String> {
    let workers: usize = settings.services.iter().filter_map(plan::workers).map(NonZeroUsize::get).sum();
    let handshakes = settings.ssl_handshake_threads as usize;
    let needed = rings + workers + handshakes + THREADS + settings.http_listen.map_or(0, |_| THREADS_OF_HTTP);
    let (release, hold) = crossbeam_channel::bounded::<()>(0);
    let (threads, failed) = start(needed, &hold);
    drop(release);
    let possible = threads.len();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    let Some(error) = failed else { return Ok(()) };
    let limit = getrlimit(Resource::RLIMIT_NPROC).map_or_else(
        |_| "unknown".to_owned(),
        |(soft, _)| match soft {
            u64::MAX => "unlimited".to_owned(),
            soft => soft.to_string(),
        },
    );
    Err(format!(
        "cannot start: {needed} threads are needed ({rings} rings, {workers} workers, {handshakes} for \
         handshakes, {THREADS} others), and no more than \
         {possible} can be had: {error}; RLIMIT_NPROC is {limit} for all processes of this user, and a control group may \
         allow less: raise LimitNPROC= or TasksMax= in the unit, the container's limit of processes, or set fewer workers"
    ))
}

/// So many threads that wait until nobody can send any more, or as many as there can be.
fn start(count: usize, hold: &Receiver<()>) -> (Vec<JoinHandle<()>>, Option<io::Error>) {
    let mut threads = Vec::new();
    while threads.len() < count {
        let hold = hold.clone();
        match thread::Builder::new().stack_size(STACK).spawn(move || _ = hold.recv()) {
            Ok(thread) => threads.push(thread),
            Err(error) => return (threads, Some(error)),
        }
    }
    (threads, None)
}
