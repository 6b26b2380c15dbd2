//! What the service manager is told (sd_notify(3)), and what it keeps for the next process. Without one nothing of this has an effect, but that a ring which does not turn is logged.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use vestibule::engine::Pulse;

use super::lock;

/// Whether there is a service manager that wants to be told anything.
pub fn is_there() -> bool {
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    *IS_THERE.get_or_init(|| std::env::var_os("NOTIFY_SOCKET").is_some())
}

/// With this begin the names (`FDNAME=`) of sockets in the descriptor store.
pub(super) const KEPT: &str = "kept.";
/// Descriptors in one message; the kernel takes 253 (SCM_MAX_FD, unix(7)).
const KEPT_AT_ONCE: usize = 64;

/// The listening sockets that the service manager keeps for the next process, should this one be killed
/// (`FileDescriptorStoreMax=`, systemd.service(5)): who waits in their backlogs is served by that one. Without a store the
/// manager closes what it gets.
#[derive(Debug, Default)]
pub struct Store(Vec<String>);

impl Store {
    /// These and no others are kept.
    pub fn keep(&mut self, sockets: &[(SocketAddr, TcpListener)]) {
        self.forget();
        let mut by_address: BTreeMap<SocketAddr, Vec<BorrowedFd<'_>>> = BTreeMap::new();
        for (address, socket) in sockets {
            by_address.entry(*address).or_default().push(socket.as_fd());
        }
        for (address, descriptors) in by_address {
            let name = kept_name(address);
            for some in descriptors.chunks(KEPT_AT_ONCE) {
                let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
                if let Err(error) = sd_notify::notify_with_fds(&states, some) {
                    tracing::warn!("the service manager does not keep the sockets of {address}: {error}");
                }
            }
            self.0.push(name);
        }
    }

    /// None is kept any more: nobody shall wait in the backlog of a service that is stopped.
    pub fn forget(&mut self) {
        for name in self.0.drain(..) {
            tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
        }
    }
}

/// What the process before had kept of an address that is not listened on any more.
pub fn keep_no_longer(address: SocketAddr) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&kept_name(address))]);
}

/// A name may have no colon: it separates those of LISTEN_FDNAMES.
fn kept_name(address: SocketAddr) -> String {
    format!("{KEPT}{}.{}", address.port(), address.ip().to_string().replace(':', "_"))
}

/// The daemon accepts connections.
pub fn ready(listeners: usize) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("accepting on {listeners} addresses"))]);
}

/// The daemon accepts as before: what it was to do instead has failed.
pub fn reload_failed(listeners: usize, why: &str) {
    let status = format!("accepting on {listeners} addresses; the last reload has failed: {}", why.replace('\n', " "));
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The same, from a process that may have taken the place of another one: it is the main one of the service from now on.
/// The unit needs `NotifyAccess=all` for that.
pub fn ready_instead(listeners: usize) {
    let status = format!("accepting on {listeners} addresses");
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The daemon drains.
pub fn stopping(limit: Duration) {
    tell(&[NotifyState::Stopping, NotifyState::Status(&format!("draining for at most {} s", limit.as_secs()))]);
}

/// The daemon re-reads its configuration; [`ready`] follows in any case.
pub fn reloading() {
    if !is_there() {
        return;
    }
    let since = NotifyState::monotonic_usec_now();
    tell(&[NotifyState::Reloading].into_iter().chain(since.ok()).collect::<Vec<_>>());
}

/// How often the rings are looked at where there is no watchdog, for the log alone.
const UNWATCHED_STEP: Duration = Duration::from_secs(10);

/// Feeds the watchdog (`WatchdogSec=`), if there is one, as long as every ring turns.
pub struct Watchdog(Arc<Mutex<Fed>>);

#[derive(Clone)]
enum Fed {
    /// As long as the rings turn.
    By(Pulse),
    /// In any case: the rings are ending.
    Always,
    /// No longer: another process does.
    Never,
}

impl Watchdog {
    /// Starts to feed it by the rings' pulse. Where nobody watches, a ring that does not turn is only logged.
    pub fn start(pulse: Pulse) -> Watchdog {
        let pulse = Arc::new(Mutex::new(Fed::By(pulse)));
        let interval = sd_notify::watchdog_enabled();
        let fed = pulse.clone();
        let feed = move || feed(&fed, interval.map_or(UNWATCHED_STEP, |interval| interval / 4), interval.is_some());
        if let Err(error) = thread::Builder::new().name("watchdog".into()).spawn(feed) {
            tracing::warn!("the watchdog is not fed: {error}");
        }
        Watchdog(pulse)
    }

    /// Other rings turn from now on.
    pub fn follow(&self, pulse: Pulse) {
        *lock(&self.0) = Fed::By(pulse);
    }

    /// The rings may end from now on: it is fed in any case.
    pub fn let_go(&self) {
        *lock(&self.0) = Fed::Always;
    }

    /// Another process feeds it from now on.
    pub fn stop(&self) {
        *lock(&self.0) = Fed::Never;
    }
}

fn feed(fed: &Mutex<Fed>, step: Duration, watched: bool) {
    loop {
        thread::sleep(step);
        let fed = lock(fed).clone();
        match fed {
            Fed::By(pulse) if !pulse.beats(step) => {
                tracing::error!("a ring has not turned for {} ms", step.as_millis());
            }
            Fed::By(_) | Fed::Always if watched => tell(&[NotifyState::Watchdog]),
            Fed::By(_) | Fed::Always | Fed::Never => {}
        }
    }
}

pub(super) fn tell(states: &[NotifyState<'_>]) {
    if is_there()
        && let Err(error) = sd_notify::notify(states)
    {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}
