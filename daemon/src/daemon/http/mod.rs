//! HTTP, on one thread of its own that touches no ring: `/metrics`, `/healthz`, `/readyz` and a page for people.
//!
//! What is asked is answered from a glance at the tier, as on the control socket. Connections, their number and their
//! time are bounded: see [`server`]. Everything is read only.

mod answers;
mod facts;
mod history;
mod server;
mod view;

pub use facts::Facts;
pub use view::refusals_of;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::task::AbortHandle;
use vestibule::ring;

use super::watcher::Watcher;
use answers::Answers;

/// How long an address is tried to be had that another process still has, which is about to leave it.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(60);
/// Rest between two tries.
const HANDOVER_REST: Duration = Duration::from_millis(100);

/// The server, if there is one: it begins with the first address.
pub struct Http {
    /// Whom it looks at; from the beginning of the tier on.
    watcher: Option<Arc<Watcher>>,
    facts: Arc<Facts>,
    running: Option<Running>,
}

struct Running {
    runtime: Handle,
    answers: Arc<Answers>,
    /// What accepts at the moment.
    accepting: Option<AbortHandle>,
}

/// An address to serve at.
pub enum Bound {
    /// It listens already.
    Now(TcpListener),
    /// The process before still has it, and will leave it.
    Later(SocketAddr),
}

/// Listens, or says why that cannot be. `shared`: a predecessor of this process may listen there, too.
pub fn bind(address: SocketAddr, shared: bool) -> Result<Bound, String> {
    let options = ring::Options { defer_accept: false, share_port: shared };
    match ring::bind_group(address, 1, options) {
        Ok(sockets) => {
            let socket = sockets.into_iter().next().and_then(Arc::into_inner);
            Ok(Bound::Now(socket.expect("one was asked for, and nobody else has it")))
        }
        Err(error) if shared && error.kind() == io::ErrorKind::AddrInUse => Ok(Bound::Later(address)),
        Err(error) => Err(format!("http_listen = {address}: {error}{}", remedy(&error))),
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there: `ss -ltnp` tells which",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        _ => "",
    }
}

impl Http {
    /// One that serves nowhere yet.
    pub fn new(facts: Arc<Facts>) -> Http {
        Http { watcher: None, facts, running: None }
    }

    /// Tells whom it looks at.
    pub fn attach(&mut self, watcher: Arc<Watcher>) {
        self.watcher = Some(watcher);
    }

    /// Serves there from now on, and nowhere else.
    pub fn listen(&mut self, bound: Bound) {
        self.close();
        match self.running() {
            Ok(running) => {
                let task = running.runtime.spawn(server::accept(bound, running.answers.clone()));
                running.accepting = Some(task.abort_handle());
            }
            Err(error) => tracing::error!("http_listen: no thread for it: {error}"),
        }
    }

    /// Serves nowhere from now on. Who is connected gets his answer.
    pub fn close(&mut self) {
        let accepting = self.running.as_mut().and_then(|running| running.accepting.take());
        accepting.iter().for_each(AbortHandle::abort);
    }

    fn running(&mut self) -> io::Result<&mut Running> {
        match &mut self.running {
            Some(running) => Ok(running),
            none => {
                let watcher = self.watcher.clone().ok_or(io::ErrorKind::NotConnected)?;
                Ok(none.insert(start(Arc::new(Answers::new(watcher, self.facts.clone())))?))
            }
        }
    }
}

/// The thread; it lives as long as the process.
fn start(answers: Arc<Answers>) -> io::Result<Running> {
    let runtime = runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
    let (handle, remembering) = (runtime.handle().clone(), answers.clone());
    let body = move || runtime.block_on(remembering.remember());
    std::thread::Builder::new().name("http".into()).spawn(body)?;
    Ok(Running { runtime: handle, answers, accepting: None })
}

/// Tries until the address is free.
async fn had(address: SocketAddr) -> io::Result<TcpListener> {
    let end = tokio::time::Instant::now() + HANDOVER_PATIENCE;
    loop {
        match bind(address, true) {
            Ok(Bound::Now(socket)) => return Ok(socket),
            Ok(Bound::Later(_)) if tokio::time::Instant::now() >= end => return Err(io::ErrorKind::AddrInUse.into()),
            Ok(Bound::Later(_)) => tokio::time::sleep(HANDOVER_REST).await,
            Err(words) => return Err(io::Error::other(words)),
        }
    }
}
