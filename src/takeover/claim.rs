//! The new process's side.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use super::channel::Channel;
use super::offer::{Given, Offered};
use super::predecessor::{Predecessor, assemble};
use super::wire::{
    ADDRESSES_MAX, Connection, ENTRIES_MAX, Message, SOCKETS_MAX, Socket, VERSION, VERSION_MIN, WITH_SESSIONS,
};
use super::{Error, Legacy, Limits};
use crate::engine::{CLIENT_DEBTS_MAX, ClientDebt, Engine, EngineBuilder, LiveSession, Pending};
use crate::ring::takes_clients_of;

/// The running process, which this one is about to take the place of. Dropped before it has [served](Claim::serve), it
/// leaves everything as it is.
///
/// ```no_run
/// use vestibule::engine::EngineBuilder;
/// use vestibule::takeover::{Claim, Error, Legacy, Offer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let describe = || -> EngineBuilder { vestibule::Engine::builder() };
/// let path = "/run/greeter/takeover";
/// let mut claim = Claim::connect(path)?;
/// let engine = claim.equip(describe()).start()?; // both accept now
/// let offer = Offer::prepare(path)?;
/// let legacy = Legacy::default();
/// let predecessor = claim.take_over(&engine, &legacy, || offer.publish())?;
/// println!("process {} finishes what it has", predecessor.process());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Claim {
    channel: Channel,
    process: u32,
    /// What it listens on, and whether a listener of this process has it.
    sockets: Vec<(Offered, bool)>,
    limits: Limits,
    /// Parts of an account that is not complete yet.
    account: Vec<u8>,
}

/// What goes over to this process.
#[derive(Debug)]
#[non_exhaustive]
pub struct Taken {
    /// Connections of all kinds, for [`Engine::take_in`] and [`Engine::take_in_sessions`].
    pub given: Given,
    /// Clients that have spent of their connection rate, for [`Engine::take_in_client_debts`].
    pub debts: Vec<ClientDebt>,
    /// What the process before has counted, for a [`Legacy`]; `None`: it does not tell.
    pub account: Option<String>,
    /// The process before, which finishes what it has.
    pub predecessor: Predecessor,
}

/// It before the process before has heard of its success.
#[derive(Default)]
struct Received {
    given: Given,
    debts: Vec<ClientDebt>,
    account: Option<String>,
}

impl Claim {
    /// Asks the process that listens at `path` for its listening sockets. Nothing changes there, and it accepts as
    /// before.
    ///
    /// # Errors
    /// [`Error::Nobody`] if there is none, and the others of a connection.
    pub fn connect(path: impl AsRef<Path>) -> Result<Claim, Error> {
        Claim::connect_within(path, Limits::default())
    }

    /// The same with a patience of its own, which is no longer than the other process's.
    ///
    /// # Errors
    /// As of [`connect`](Claim::connect).
    pub fn connect_within(path: impl AsRef<Path>, limits: Limits) -> Result<Claim, Error> {
        let path = path.as_ref();
        let open = || Channel::to_trusted(path, limits.start);
        let (mut channel, peer) = open()?;
        let mut sockets = ask(&channel, VERSION);
        for version in (VERSION_MIN..VERSION).rev() {
            // One of a version before says that it does not know ours, and only then.
            let Err(Error::Refused(_)) = sockets else { break };
            let (other, _) = open()?;
            if let Ok(found) = ask(&other, version) {
                tracing::warn!("process {} speaks an older version: {}", peer.pid, what_stays(version));
                (channel, sockets) = (other, Ok(found));
            }
        }
        let sockets = sockets?;
        tracing::info!(event = "takeover", "takes over from process {}: {} listening sockets", peer.pid, sockets.len());
        let sockets = sockets.into_iter().map(|offered| (offered, false)).collect();
        Ok(Claim { channel, process: peer.pid, sockets, limits, account: Vec::new() })
    }

    /// The same as [`connect`](Claim::connect), but that `None` says that nobody listens at `path`.
    ///
    /// # Errors
    /// Those of a connection. To serve beside a process that cannot be taken over from is seldom what is wanted.
    pub fn find(path: impl AsRef<Path>) -> Result<Option<Claim>, Error> {
        match Claim::connect(path) {
            Err(Error::Nobody { .. }) => Ok(None),
            claim => claim.map(Some),
        }
    }

    /// The number of the process that is taken over from; 0 if it is in a PID namespace that cannot be seen from here.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// What the process before listens on.
    pub fn sockets(&self) -> impl Iterator<Item = &TcpListener> {
        self.sockets.iter().map(|(offered, _)| &offered.socket)
    }

    /// Gives the sockets that are passed for this address, each with its backlog; or else those that take its clients beside
    /// those of the other family, and may be given once more.
    pub fn sockets_at(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let own = self.sockets.iter_mut().filter(|(offered, _)| offered.address == address);
        let own: Vec<TcpListener> = own.filter_map(take).collect();
        if !own.is_empty() {
            return own;
        }
        let shared = self.sockets.iter_mut().filter(|(offered, _)| takes_clients_of(&offered.socket, address));
        shared.filter_map(take).collect()
    }

    /// Gives each listener that has no socket yet those of its address, and [lets go of the
    /// rest](Claim::let_go_of_the_rest).
    pub fn equip(&mut self, builder: EngineBuilder) -> EngineBuilder {
        let builder = builder.adopt(|address| self.sockets_at(address));
        self.let_go_of_the_rest();
        builder
    }

    /// Lets go of the sockets that no listener has taken, and tells their addresses.
    pub fn let_go_of_the_rest(&mut self) -> BTreeSet<SocketAddr> {
        let mut gone = BTreeSet::new();
        let rest = self.sockets.drain(..).filter(|(_, taken)| !taken);
        for (Offered { address, name, .. }, _) in rest {
            if gone.insert(address) {
                tracing::warn!("listener {name} on {address} is not in this configuration: it is let go");
            }
        }
        gone
    }

    /// The whole step for an engine that accepts already on the sockets of this claim: says so, gets what the other
    /// process has, lets `complete` put this process in its place for everybody to see (an [`Offer`](super::Offer)
    /// above all is published), and gives it to the engine: connections whose header is awaited, live sessions, what
    /// clients have spent of their rates. What was counted goes to `legacy`.
    ///
    /// # Errors
    /// [`Error::GoesOn`]: the process before goes on, and this one must end. Whom its engine has accepted meanwhile it
    /// has to serve to the end: [`Engine::drain`].
    pub fn take_over(
        self,
        engine: &Engine,
        legacy: &Legacy,
        complete: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Predecessor, Error> {
        let addresses = engine.addresses().iter().copied();
        let wanted: Vec<SocketAddr> = addresses.filter(|&address| engine.expects_header_at(address)).collect();
        let Taken { given: Given { pending, sessions }, debts, account, predecessor } =
            self.serve(&wanted, complete)?;
        // Before anybody can ask: counts must not seem to begin anew.
        account.iter().for_each(|account| legacy.replace(account));
        engine.take_in_client_debts(&debts);
        let (headers, live) = (pending.len(), sessions.len());
        tracing::info!(
            event = "takeover",
            "has taken over from process {}, with {headers} pending connections and {live} sessions",
            predecessor.process()
        );
        engine.take_in(pending);
        engine.take_in_sessions(sessions);
        Ok(predecessor)
    }

    /// The same for a program that gives what it gets to engines of its own: says that this process accepts, and gets
    /// the connections that await their header on one of `listeners`. When it has all, `complete` puts this process in
    /// its place for everybody to see, and the process before finishes and leaves.
    ///
    /// # Errors
    /// [`Error::GoesOn`]: the process before goes on, and this one must end.
    pub fn serve(
        mut self,
        listeners: &[SocketAddr],
        complete: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Taken, Error> {
        let taken = self.take(listeners).and_then(|received| {
            // One that was held up must not put itself in the place of a process that goes on.
            self.channel.check_time()?;
            complete()?;
            self.confirm(received)
        });
        match taken {
            Ok(Received { given, debts, account }) => {
                let predecessor = Predecessor::new(self.channel, self.process);
                Ok(Taken { given, debts, account, predecessor })
            }
            Err(error) => {
                self.channel.refuse(&error.to_string());
                Err(Error::GoesOn { process: self.process, cause: Box::new(error) })
            }
        }
    }

    fn take(&mut self, listeners: &[SocketAddr]) -> Result<Received, Error> {
        let wanted = listeners.iter().copied().take(ADDRESSES_MAX).collect();
        say(&self.channel, &Message::Serving(wanted)).map_err(|error| match error {
            Error::Late => Error::Protocol(format!("it took longer than {:?} to start", self.limits.start)),
            error => error,
        })?;
        self.channel.allow(self.limits.taking);
        let mut taken = Received::default();
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
                Ok(_) => return Err(Error::protocol("its pending connections are not complete")),
                Err(Error::Closed) => {
                    self.outlived()?;
                    tracing::warn!(
                        event = "takeover",
                        "process {} has ended before it had handed everything over",
                        self.process
                    );
                    return Ok(taken);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn confirm(&self, taken: Received) -> Result<Received, Error> {
        match self.channel.send(&Message::Taken { pending: taken.given.len() as u32 }, &[]) {
            Ok(()) => Ok(taken),
            // It has thought better of it, and says so; or it has died.
            Err(Error::Closed) => match self.channel.receive() {
                Err(Error::Closed) => self.outlived().map(|()| taken),
                Err(error) => Err(error),
                Ok(_) => Err(Error::protocol("it says something else after the end")),
            },
            Err(error) => Err(error),
        }
    }

    /// The other process has closed the connection without a word: an error unless it has ended.
    fn outlived(&self) -> Result<(), Error> {
        match self.channel.peer_has_ended() {
            true => Ok(()),
            false => Err(Error::protocol("it has closed the connection, and lives")),
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

/// Says something to a process that may have closed already: then it is to be read why.
fn say(channel: &Channel, message: &Message) -> Result<(), Error> {
    match channel.send(message, &[]) {
        Err(Error::Closed) => Ok(()),
        sent => sent,
    }
}

fn ask(channel: &Channel, version: u16) -> Result<Vec<Offered>, Error> {
    say(channel, &Message::Hello { version })?;
    let spoken = version;
    let sockets = match channel.receive()?.0 {
        Message::Welcome { version, sockets } if version == spoken && sockets as usize <= SOCKETS_MAX => {
            sockets as usize
        }
        Message::Welcome { version, .. } if version != spoken => {
            return Err(Error::OtherVersion { theirs: version });
        }
        _ => return Err(Error::protocol("it does not answer with Welcome")),
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
            _ => return Err(Error::protocol("its listening sockets are not complete")),
        }
    }
    Ok(all)
}

/// Gives a socket, which another listener may have too.
fn take((offered, taken): &mut (Offered, bool)) -> Option<TcpListener> {
    let given = offered.socket.try_clone();
    if let Err(error) = &given {
        tracing::warn!("the socket of {} cannot be taken: {error}", offered.address);
    }
    *taken |= given.is_ok();
    given.ok()
}

/// A socket that is what it is said to be.
fn offered(entry: Socket, descriptor: OwnedFd) -> Result<Offered, Error> {
    let Socket { address, name } = entry;
    let listens = rustix::net::sockopt::socket_acceptconn(&descriptor).unwrap_or(false);
    let socket = TcpListener::from(descriptor);
    match listens && takes_clients_of(&socket, address) {
        true => Ok(Offered { address, name, socket }),
        false => Err(Error::Protocol(format!("what it passes as {address} is no listening socket of that address"))),
    }
}

fn pending(entry: Connection, socket: OwnedFd, now: Instant) -> Pending {
    let Connection { listener, peer, age, left, bytes } = entry;
    // Times that no clock can show end now.
    let (accepted_at, deadline) = (now.checked_sub(age).unwrap_or(now), now.checked_add(left).unwrap_or(now));
    Pending { socket, listener, peer, accepted_at, deadline, bytes }
}

const _: () = assert!(ENTRIES_MAX <= 253, "SCM_MAX_FD");
