//! Servers that are given by name: their names are looked up again and again, on a thread that may wait for it.
//!
//! A server keeps its address as long as that is among the answers, and keeps it, too, while there is no answer. Sessions
//! stay where they are.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::engine::relay::SharedBackend;

/// From one look-up of all names to the next.
pub const NAMES_EVERY: Duration = Duration::from_secs(30);
/// The same while a server has no address at all.
const NAMES_MISSING: Duration = Duration::from_secs(3);
/// Lists of backends that may wait; reloads are rarer than look-ups are long.
const LISTS_MAX: usize = 16;

type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// How the addresses of a name are found, and how often.
#[derive(Clone)]
pub struct Resolver {
    look_up: Arc<LookUp>,
    every: Duration,
}

impl Default for Resolver {
    /// The system's, every [`NAMES_EVERY`].
    fn default() -> Resolver {
        let look_up = |host: &str, port: u16| Ok((host, port).to_socket_addrs()?.collect());
        Resolver { look_up: Arc::new(look_up), every: NAMES_EVERY }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("every", &self.every).finish_non_exhaustive()
    }
}

impl Resolver {
    /// One that asks `look_up` for the addresses of a host with a port, from one time to the next after `every`. It may
    /// wait for the answer.
    pub fn new(
        look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
        every: Duration,
    ) -> Resolver {
        Resolver { look_up: Arc::new(look_up), every }
    }
}

/// The address of a server among those of its name: the present one if that is among them, else the first.
pub fn address_among(present: Option<SocketAddr>, answers: &[SocketAddr]) -> Option<SocketAddr> {
    present.filter(|address| answers.contains(address)).or_else(|| answers.first().copied())
}

/// The thread that looks names up.
#[derive(Debug)]
pub struct Names(Sender<Vec<SharedBackend>>);

impl Names {
    /// Starts it. It ends when this is dropped, or, if it waits for an answer then, when that has come: nobody waits for it.
    pub fn start(resolver: Resolver) -> io::Result<Names> {
        let (lists, inbox) = crossbeam_channel::bounded(LISTS_MAX);
        thread::Builder::new().name("names".into()).spawn(move || run(&inbox, resolver))?;
        Ok(Names(lists))
    }

    /// The names of these from now on. `false`: it is behind.
    pub fn watch(&self, backends: Vec<SharedBackend>) -> bool {
        self.0.try_send(backends).is_ok()
    }
}

fn run(inbox: &Receiver<Vec<SharedBackend>>, resolver: Resolver) {
    let mut book = Book { resolver, unanswered: HashSet::new() };
    let mut backends: Vec<SharedBackend> = Vec::new();
    let mut next = Instant::now() + book.resolver.every;
    loop {
        match inbox.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(list) => {
                backends = list;
                next = next.min(Instant::now() + book.pause(&backends));
            }
            Err(RecvTimeoutError::Timeout) => {
                backends.iter().for_each(|backend| book.renew(backend));
                next = Instant::now() + book.pause(&backends);
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Who looks up.
struct Book {
    resolver: Resolver,
    /// Servers whose names had no address when they were looked up last; at most those that are configured.
    unanswered: HashSet<String>,
}

/// A server that is given by name.
struct Named {
    name: String,
    host: String,
    port: u16,
    address: Option<SocketAddr>,
}

impl Book {
    /// Until the next time.
    fn pause(&self, backends: &[SharedBackend]) -> Duration {
        let is_missing = |backend: &SharedBackend| named(backend).iter().any(|server| server.address.is_none());
        let missing = backends.iter().any(is_missing);
        if missing { NAMES_MISSING.min(self.resolver.every) } else { self.resolver.every }
    }

    /// Looks up the names of a backend's servers.
    fn renew(&mut self, backend: &SharedBackend) {
        for server in named(backend) {
            let answers = (self.resolver.look_up)(&server.host, server.port);
            let problem = answers.as_ref().err().map_or("no address".to_owned(), ToString::to_string);
            let address = address_among(server.address, &answers.unwrap_or_default());
            let key = format!("{}/{}", backend.name(), server.name);
            match address {
                Some(_) => _ = self.unanswered.remove(&key),
                None if self.unanswered.insert(key) => no_answer(backend, &server, &problem),
                None => {}
            }
            if address.is_some()
                && address != server.address
                && backend.move_server(&server.name, &server.host, address)
            {
                moved(backend, &server, address);
            }
        }
    }
}

fn named(backend: &SharedBackend) -> Vec<Named> {
    let state = backend.lock();
    let servers = state.servers(Instant::now()).filter(|server| server.host.parse::<IpAddr>().is_err());
    servers
        .map(|server| Named {
            name: server.name.to_owned(),
            host: server.host.to_owned(),
            port: server.port,
            address: server.address,
        })
        .collect()
}

fn no_answer(backend: &SharedBackend, server: &Named, problem: &str) {
    let (backend, Named { name, host, address, .. }) = (backend.name(), server);
    match address {
        Some(address) => {
            tracing::warn!(event = "server", "backend {backend}: server {name} stays at {address}: {host}: {problem}")
        }
        None => {
            tracing::warn!(
                event = "server",
                "backend {backend}: server {name} has no address, so it serves nobody: {host}: {problem}"
            )
        }
    }
}

fn moved(backend: &SharedBackend, server: &Named, address: Option<SocketAddr>) {
    let (backend, Named { name, host, .. }) = (backend.name(), server);
    let before = server.address.map_or("without an address".to_owned(), |before| format!("at {before}"));
    let now = address.map_or_else(String::new, |now| now.to_string());
    tracing::info!(
        event = "server",
        "backend {backend}: server {name} is at {now} now, by its name {host}; it was {before}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stays_while_it_is_among_the_answers() {
        let [a, b, c] = [1, 2, 3].map(|last| SocketAddr::from(([192, 0, 2, last], 143)));
        assert_eq!(address_among(Some(b), &[a, b]), Some(b));
        assert_eq!(address_among(Some(c), &[a, b]), Some(a));
        assert_eq!((address_among(None, &[b, a]), address_among(Some(a), &[])), (Some(b), None));
    }
}
