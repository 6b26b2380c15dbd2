//! Every server checked once, without an engine: for whoever wants to know what its port speaks.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::checks::{self, Checks, Task};
use super::task;
use crate::backend::{CheckKind, Verdict};
use crate::engine::StartError;
use crate::engine::relay::{Relay, Terms};
use crate::relay::{Forward, Protocol};
use crate::ring::Waker;

/// What a server was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// Whether it greets, behind what `forward` sends; where nothing is known of the protocol, whether it can be connected
    /// to.
    Greeting,
    /// Whether it answers PING with PONG.
    Pong,
    /// Whether it takes a client's address in band (`forward = imap-id`, `xclient`).
    Address,
}

/// What was found out about a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerFinding {
    /// The relay's name.
    pub relay: String,
    /// The backend's name.
    pub backend: String,
    /// The server's name.
    pub server: String,
    /// Where was asked; `None`: the server's name has no address.
    pub address: Option<SocketAddr>,
    /// What was asked.
    pub asked: Asked,
    /// What was found; `None` without an address.
    pub verdict: Option<Verdict>,
}

/// Asks every server of these relays once what it speaks: for its greeting where the service's protocol has one, as a
/// session would be begun; for a PONG where its checks ask for that; and whether it takes a client's address where that is
/// told in band. At most 64 at a time; takes as long as the
/// slowest of them.
///
/// # Errors
/// [`StartError`] if no descriptor is left for it.
pub fn check_once(relays: &[Relay]) -> Result<Vec<ServerFinding>, StartError> {
    let mut driver = checks::driver(Waker::new().map_err(StartError::System)?).map_err(StartError::Ring)?;
    let mut found = Vec::new();
    let mut tasks: VecDeque<Task> = VecDeque::new();
    for relay in relays {
        tasks_of(&Arc::new(relay.terms.clone()), &mut tasks, &mut found);
    }
    let mut checks = Checks::new();
    while !tasks.is_empty() || !checks.is_empty() {
        for task in tasks.drain(..checks.room().min(tasks.len())) {
            checks.begin(&mut driver, task, Instant::now());
        }
        checks.turn(&mut driver, None).map_err(StartError::System)?;
        found.extend(checks.take_over().into_iter().map(|(task, verdict)| ServerFinding {
            address: Some(task.address),
            verdict: Some(verdict),
            ..blank(&task.terms, &task.terms.backend.server_name(task.server).unwrap_or_default(), asked(&task))
        }));
    }
    let order = |found: &ServerFinding| (found.backend.clone(), found.server.clone(), found.address);
    found.sort_by_key(order);
    Ok(found)
}

fn tasks_of(terms: &Arc<Terms>, tasks: &mut VecDeque<Task>, found: &mut Vec<ServerFinding>) {
    let backend = terms.backend.lock();
    let settings = backend.settings();
    let greeting = if terms.protocol == Protocol::None { CheckKind::Connect } else { CheckKind::Banner };
    for server in backend.servers(Instant::now()) {
        let Some(address) = server.address else {
            found.push(blank(terms, server.name, Asked::Greeting));
            continue;
        };
        let greets = task(terms, settings, server.index, address, greeting);
        if matches!(terms.forward, Forward::ImapId | Forward::Xclient) {
            tasks.push_back(Task { is_trial: true, ..greets.clone() });
        }
        tasks.push_back(greets);
        if settings.check.kind == CheckKind::Dovecot {
            let port = server.check_port.unwrap_or(address.port());
            let address = SocketAddr::new(address.ip(), port);
            tasks.push_back(task(terms, settings, server.index, address, CheckKind::Dovecot));
        }
    }
}

fn asked(task: &Task) -> Asked {
    match task.kind {
        _ if task.is_trial => Asked::Address,
        CheckKind::Dovecot => Asked::Pong,
        _ => Asked::Greeting,
    }
}

fn blank(terms: &Terms, server: &str, asked: Asked) -> ServerFinding {
    ServerFinding {
        relay: terms.name.to_string(),
        backend: terms.backend.name().to_owned(),
        server: server.to_owned(),
        address: None,
        asked,
        verdict: None,
    }
}
