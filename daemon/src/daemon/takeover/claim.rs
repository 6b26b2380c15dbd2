//! The new process's side.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use vestibule::engine::{CLIENT_DEBTS_MAX, ClientDebt, LiveSession, Pending};

use super::Limits;
use super::channel::{Broken, Channel};
use super::offer::{Given, Offered, other_version};
use super::wire::{
    ACCOUNT_MAX, ADDRESSES_MAX, Connection, ENTRIES_MAX, Message, SOCKETS_MAX, Socket, VERSION, VERSION_MIN,
    WITH_SESSIONS,
};

/// The running process, which this one is about to take the place of. Dropped before [`serve`](Claim::serve), it leaves
/// everything as it is.
pub struct Claim {
    channel: Channel,
    /// The process's number, for the log.
    pub pid: u32,
    sockets: Vec<Offered>,
    limits: Limits,
    /// Parts of an account that is not complete yet.
    account: Vec<u8>,
}

/// What goes over to this process.
#[derive(Debug, Default)]
pub struct Taken {
    /// Connections of all kinds.
    pub given: Given,
    /// Clients that have spent of their connection rate.
    pub debts: Vec<ClientDebt>,
    /// What the process before has counted; `None`: it does not tell.
    pub account: Option<String>,
}

impl Claim {
    /// Asks the process that listens at `path` for its listening sockets.
    ///
    /// # Errors
    /// Say what to do. Nothing has changed then.
    pub fn open(path: &Path, limits: Limits) -> Result<Claim, String> {
        let failed = |problem: String| format!("--takeover {}: {problem}", path.display());
        let otherwise = ", or start without --takeover";
        let open = || Channel::to_trusted(path, limits.start, otherwise).map_err(failed);
        let (mut channel, peer) = open()?;
        let mut sockets = ask(&channel, VERSION);
        for version in (VERSION_MIN..VERSION).rev() {
            // One of a version before says that it does not know ours, and only then.
            let Err(Broken::Refused(_)) = sockets else { break };
            let (other, _) = open()?;
            if let Ok(found) = ask(&other, version) {
                tracing::warn!("process {} speaks an older version: {}", peer.pid, what_stays(version));
                (channel, sockets) = (other, Ok(found));
            }
        }
        let sockets = sockets.map_err(|broken| failed(broken.to_string()))?;
        tracing::info!(event = "takeover", "takes over from process {}: {} listening sockets", peer.pid, sockets.len());
        Ok(Claim { channel, pid: peer.pid, sockets, limits, account: Vec::new() })
    }

    /// Takes the sockets that are bound to this address.
    pub fn sockets_at(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        self.sockets.extract_if(.., |offered| offered.address == address).map(|offered| offered.socket).collect()
    }

    /// Lets go of the sockets that no listener has taken, and tells their addresses.
    pub fn let_go_of_the_rest(&mut self) -> BTreeSet<SocketAddr> {
        let mut gone = BTreeSet::new();
        for Offered { address, name, .. } in self.sockets.drain(..) {
            if gone.insert(address) {
                tracing::warn!("listener {name} on {address} is not in this configuration: it is let go");
            }
        }
        gone
    }

    /// Says that this process accepts, and gets the connections that await their header on one of `listeners`. When it has
    /// all, `complete` puts this process in its place for everybody to see, and the process before finishes and leaves.
    ///
    /// # Errors
    /// The process before goes on: this one must end.
    pub fn serve(
        &mut self,
        listeners: &[SocketAddr],
        complete: impl FnOnce() -> Result<(), String>,
    ) -> Result<Taken, String> {
        let taken = self.take(listeners).and_then(|taken| {
            // One that was held up must not put itself in the place of a process that goes on.
            self.channel.check_time()?;
            complete().map_err(Broken::Unexpected)?;
            self.confirm(taken)
        });
        taken.map_err(|broken| {
            self.channel.refuse(&broken.to_string());
            format!("process {} goes on, this one ends: {broken}", self.pid)
        })
    }

    /// Waits for the end of the process before; `count` is told what that one has counted, as often as it says so. An error
    /// if it takes everything back and goes on.
    pub fn await_its_end(&self, mut count: impl FnMut(String)) -> Result<(), String> {
        let mut parts = Vec::new();
        loop {
            match self.channel.receive_at_any_time() {
                Ok((message @ Message::Account { .. }, _)) => match assemble(&mut parts, message) {
                    Ok(account) => account.into_iter().for_each(&mut count),
                    Err(broken) => tracing::warn!("process {}: {broken}", self.pid),
                },
                Err(Broken::Refused(reason)) => return Err(format!("process {} goes on: {reason}", self.pid)),
                _ => return Ok(()),
            }
        }
    }

    /// Tells the process before that this one ends on purpose: it shall not accept again.
    pub fn leave(&self) {
        self.channel.send_last(&Message::Leaving);
    }

    fn take(&mut self, listeners: &[SocketAddr]) -> Result<Taken, Broken> {
        let wanted = listeners.iter().copied().take(ADDRESSES_MAX).collect();
        say(&self.channel, &Message::Serving(wanted)).map_err(|broken| match broken {
            Broken::Late => Broken::Unexpected(format!("it took longer than {:?} to start", self.limits.start)),
            broken => broken,
        })?;
        self.channel.allow(self.limits.taking);
        let mut taken = Taken::default();
        let all = &mut taken.given;
        // Until the end, be it that of the other process.
        loop {
            match self.channel.receive() {
                Ok((Message::Pending(entries), descriptors)) if entries.len() == descriptors.len() => {
                    let now = Instant::now();
                    let taken = entries.into_iter().zip(descriptors).map(|(entry, socket)| pending(entry, socket, now));
                    all.pending.extend(taken);
                }
                Ok((Message::Sessions(entries), descriptors)) if entries.len() * 2 == descriptors.len() => {
                    let mut descriptors = descriptors.into_iter();
                    let two = || Some((descriptors.next()?, descriptors.next()?));
                    let sockets = std::iter::from_fn(two);
                    let taken = entries.into_iter().zip(sockets);
                    all.sessions.extend(taken.map(|(state, (client, server))| LiveSession { client, server, state }));
                }
                Ok((Message::Clients(some), _)) if taken.debts.len() < CLIENT_DEBTS_MAX => taken.debts.extend(some),
                Ok((message @ Message::Account { .. }, _)) => {
                    let account = assemble(&mut self.account, message)?;
                    taken.account = account.or(taken.account);
                }
                Ok((Message::End { pending }, _)) if pending as usize == all.len() => return Ok(taken),
                Ok(_) => return Err(Broken::unexpected("its pending connections are not complete")),
                Err(Broken::Closed) => {
                    self.outlived()?;
                    tracing::warn!(
                        event = "takeover",
                        "process {} has ended before it had handed everything over",
                        self.pid
                    );
                    return Ok(taken);
                }
                Err(broken) => return Err(broken),
            }
        }
    }

    fn confirm(&self, taken: Taken) -> Result<Taken, Broken> {
        match self.channel.send(&Message::Taken { pending: taken.given.len() as u32 }, &[]) {
            Ok(()) => Ok(taken),
            // It has thought better of it, and says so; or it has died.
            Err(Broken::Closed) => match self.channel.receive() {
                Err(Broken::Closed) => self.outlived().map(|()| taken),
                Err(broken) => Err(broken),
                Ok(_) => Err(Broken::unexpected("it says something else after the end")),
            },
            Err(broken) => Err(broken),
        }
    }

    /// The other process has closed the connection without a word: an error unless it has ended.
    fn outlived(&self) -> Result<(), Broken> {
        match self.channel.peer_has_ended() {
            true => Ok(()),
            false => Err(Broken::unexpected("it has closed the connection, and lives")),
        }
    }
}

/// What cannot go along from a process that speaks an older version.
fn what_stays(version: u16) -> &'static str {
    if version < WITH_SESSIONS {
        "its live sessions stay there, and counting begins anew"
    } else {
        "counting begins anew"
    }
}

/// Puts a part to those before it; the account, once it is complete.
fn assemble(parts: &mut Vec<u8>, message: Message) -> Result<Option<String>, Broken> {
    let Message::Account { first, last, part } = message else { return Ok(None) };
    if first {
        parts.clear();
    }
    parts.extend(part);
    if parts.len() > ACCOUNT_MAX {
        parts.clear();
        return Err(Broken::unexpected("an account that is too long"));
    }
    if !last {
        return Ok(None);
    }
    String::from_utf8(std::mem::take(parts)).map(Some).map_err(|_| Broken::unexpected("an account that is no text"))
}

/// Says something to a process that may have closed already: then it is to be read why.
fn say(channel: &Channel, message: &Message) -> Result<(), Broken> {
    match channel.send(message, &[]) {
        Err(Broken::Closed) => Ok(()),
        sent => sent,
    }
}

fn ask(channel: &Channel, version: u16) -> Result<Vec<Offered>, Broken> {
    say(channel, &Message::Hello { version })?;
    let spoken = version;
    let sockets = match channel.receive()?.0 {
        Message::Welcome { version, sockets } if version == spoken && sockets as usize <= SOCKETS_MAX => {
            sockets as usize
        }
        Message::Welcome { version, .. } if version != spoken => {
            return Err(Broken::Unexpected(other_version(version)));
        }
        _ => return Err(Broken::unexpected("it does not answer with Welcome")),
    };
    let mut all = Vec::new();
    while all.len() < sockets {
        let (message, descriptors) = channel.receive()?;
        match message {
            Message::Sockets(entries) if !entries.is_empty() && entries.len() == descriptors.len() => {
                for (entry, descriptor) in entries.into_iter().zip(descriptors) {
                    all.push(offered(entry, descriptor)?);
                }
            }
            _ => return Err(Broken::unexpected("its listening sockets are not complete")),
        }
    }
    Ok(all)
}

/// A socket that is what it is said to be.
fn offered(entry: Socket, descriptor: OwnedFd) -> Result<Offered, Broken> {
    let Socket { address, name } = entry;
    let listens = rustix::net::sockopt::socket_acceptconn(&descriptor).unwrap_or(false);
    let socket = TcpListener::from(descriptor);
    match socket.local_addr() {
        Ok(bound) if bound == address && listens => Ok(Offered { address, name, socket }),
        _ => Err(Broken::Unexpected(format!("what it passes as {address} is no listening socket of that address"))),
    }
}

fn pending(entry: Connection, socket: OwnedFd, now: Instant) -> Pending {
    let Connection { listener, peer, age, left, bytes } = entry;
    // Times that no clock can show end now.
    let (accepted_at, deadline) = (now.checked_sub(age).unwrap_or(now), now.checked_add(left).unwrap_or(now));
    Pending { socket, listener, peer, accepted_at, deadline, bytes }
}

const _: () = assert!(ENTRIES_MAX <= 253, "SCM_MAX_FD");
