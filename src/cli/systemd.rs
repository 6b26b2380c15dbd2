//! The service manager's side: the sockets that it has opened for us (sd_listen_fds(3)), and what it is told
//! (sd_notify(3)). Without one nothing of this has an effect, but that a ring which does not turn is logged.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use vestibule::engine::Pulse;

use super::{Error, lock};

/// Sockets that were open when the process began and that no listener has taken yet.
pub struct Inherited(Vec<Socket>);

struct Socket {
    /// `FileDescriptorName=`; the unit's name if that is not set.
    name: String,
    address: SocketAddr,
    socket: TcpListener,
}

impl Inherited {
    /// Takes what LISTEN_FDS names.
    pub fn take() -> Result<Inherited, Error> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut all = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(all.len());
        for index in 0..all.len() {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("without a name").to_owned();
            let wrong =
                |error| format!("inherited socket {index} ({name}) is no TCP socket: {error}; use ListenStream=");
            let Some(socket) = all.take_tcp_listener(index).map_err(wrong)? else { continue };
            sockets.push(Socket { address: socket.local_addr()?, name, socket });
        }
        Ok(Inherited(sockets))
    }

    /// The sockets that are bound to this address.
    pub fn bound_to(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let (these, others) = std::mem::take(&mut self.0).into_iter().partition(|socket| socket.address == address);
        self.0 = others;
        let these: Vec<Socket> = these;
        these.into_iter().map(|socket| socket.socket).collect()
    }

    /// An error if something is left: it would accept connections into the void.
    pub fn all_taken(&self) -> Result<(), Error> {
        match self.0.first() {
            None => Ok(()),
            Some(Socket { name, address, .. }) => Err(format!(
                "the service manager has passed a socket on {address} ({name}), but no inet_listener has that address \
                 and port; add one, or remove ListenStream= from the socket unit"
            )
            .into()),
        }
    }
}

/// The daemon accepts connections.
pub fn ready(listeners: usize) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("accepting on {listeners} addresses"))]);
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

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}
