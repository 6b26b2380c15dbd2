//! The old process's side: the socket that it listens on, and how it lets another process take over.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::channel::{Channel, may_ask};
use super::wire::{
    self, ACCOUNT_PART_MAX, ADDRESSES_MAX, CLIENTS_PART_MAX, Connection, ENTRIES_MAX, Form, MESSAGE_MAX, Message,
    SOCKETS_MAX, Socket, TEXT_MAX, VERSION, VERSION_MIN, WITH_ACCOUNTS, WITH_SESSIONS,
};
use super::{Error, Limits, Place, lock};
use crate::engine::{ClientDebt, HELD_MOVED_MAX, LiveSession, Pending};
use crate::ring::Credentials;

/// How often, after another process has died, the backlogs are looked at, and the rest between: 2 s in all.
const LOOKS: u32 = if cfg!(test) { 1 } else { 100 };
const LOOK_REST: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 20 });
/// Rest after a failed accept.
const REST: Duration = Duration::from_millis(500);
/// How often a process that has been taken over from tells what it has counted, while it finishes what it has.
const ACCOUNT_STEP: Duration = Duration::from_secs(1);
/// After so many accounts the log says what is still to be finished.
const PROGRESS_EVERY: u32 = 10;
/// How long an account may take.
const ACCOUNT_LIMIT: Duration = Duration::from_secs(2);

/// A listening socket that is offered.
#[derive(Debug)]
pub struct Offered {
    /// What it is bound to.
    pub address: SocketAddr,
    /// The listener's name, for the log.
    pub name: String,
    /// A clone of it.
    pub socket: TcpListener,
}

/// What a program does whose place another process takes. An [`Upgradable`](super::Upgradable) does all of it for one
/// engine; a program that has more than that, such as the daemon, does it by itself. Called in this order, one call at
/// a time; [`stay`](Host::stay) if the other process fails, [`forget`](Host::forget) if it ends on purpose.
pub trait Host: Send {
    /// All listening sockets. Nothing changes.
    ///
    /// # Errors
    /// Why nobody can take over now; the other process is told.
    fn offer(&mut self) -> Result<Vec<Offered>, Error>;

    /// The other process accepts: stops accepting, and gives what awaits its header on one of `listeners`:
    /// [`Engine::hand_over`](crate::Engine::hand_over).
    ///
    /// # Errors
    /// Why it cannot after all; the other process is told, and [`stay`](Host::stay) is not called.
    fn hand_over(&mut self, listeners: &[SocketAddr]) -> Result<Vec<Pending>, Error>;

    /// Gives the live sessions that can move, after that, and tells how many stay:
    /// [`Engine::hand_over_sessions`](crate::Engine::hand_over_sessions).
    fn hand_over_sessions(&mut self) -> (Vec<LiveSession>, usize) {
        Default::default()
    }

    /// Clients that have spent of their connection rate, after [`hand_over`](Host::hand_over):
    /// [`Engine::client_debts`](crate::Engine::client_debts).
    fn client_debts(&self) -> Vec<ClientDebt> {
        Vec::new()
    }

    /// What was counted so far, here and by processes before this one, for one that goes on with it:
    /// [`Snapshot::to_text`](crate::engine::Snapshot::to_text). Asked once more every second while this process
    /// finishes. Empty: nothing is told.
    fn account(&self) -> String {
        String::new()
    }

    /// The other process, of this number, has everything: finishes what there is and leaves.
    fn let_go(&mut self, successor: u32);

    /// The other process is gone: accepts again, and goes on with what it did not take.
    fn stay(&mut self, given: Given);

    /// The other process ends on purpose: lets go of what accepting again would need, for nobody is to wait there.
    fn forget(&mut self);

    /// Accepts who waits, woken or not, after [`stay`](Host::stay): [`Engine::look`](crate::Engine::look).
    fn look(&mut self);

    /// Whether it has finished, and does not accept again whatever happens to the other process.
    fn has_left(&self) -> bool {
        false
    }

    /// What is still to be finished here, in words for the log; `None`: nothing. Asked every ten seconds.
    fn progress(&self) -> Option<String> {
        None
    }

    /// What was counted so far, for somebody who [asks](super::ask). At any time.
    fn counters(&self, form: Form) -> String;
}

/// What one process gives another one. Nothing of it is given up before that one has confirmed it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Given {
    /// Connections whose header is awaited.
    pub pending: Vec<Pending>,
    /// Live sessions.
    pub sessions: Vec<LiveSession>,
}

impl Given {
    /// Connections of all kinds.
    pub fn len(&self) -> usize {
        self.pending.len() + self.sessions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How it ended that a process let others take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Nobody has taken over, and the offer was [left](Offer::leave): nobody can any more.
    Left,
    /// The process of this number has taken over. It is served there or, if that one has ended on purpose, nowhere;
    /// here only what was begun is finished.
    TakenOver(u32),
}

/// Why somebody has connected.
enum Wish {
    /// To take over, by this version of the protocol.
    Succeed(Credentials, u16),
    /// To know what was counted.
    Counters(Form),
    /// To see whether somebody is there.
    Nothing,
}

/// A place where another process can take over from this one.
///
/// ```
/// use std::sync::Mutex;
/// use vestibule::takeover::{Error, Host, Offer};
///
/// fn offer(path: &str, host: &'static Mutex<impl Host>) -> Result<(), Error> {
///     let offer = Offer::prepare(path)?;
///     offer.publish()?; // or, if there is a process before, when its claim succeeds
///     std::thread::spawn(move || println!("{:?}", offer.serve(host)));
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Offer {
    pub(super) place: Place,
    limits: Limits,
    /// The process that has taken over, and goes on counting. Locked before the host is.
    heir: Mutex<Option<Arc<Channel>>>,
}

impl Offer {
    /// Binds the socket beside `path`, with a dot and the process id behind its name; [`publish`](Offer::publish) puts
    /// it there. Only root and this user can connect.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::NoSocket`].
    pub fn prepare(path: impl AsRef<Path>) -> Result<Offer, Error> {
        Offer::prepare_within(path, Limits::default())
    }

    /// The same with a patience of its own.
    ///
    /// # Errors
    /// As of [`prepare`](Offer::prepare).
    pub fn prepare_within(path: impl AsRef<Path>, limits: Limits) -> Result<Offer, Error> {
        Ok(Offer { place: Place::packets(path.as_ref())?, limits, heir: Mutex::default() })
    }

    /// Whether some process offers itself at this path.
    pub fn is_made(path: impl AsRef<Path>) -> bool {
        Channel::connect(path.as_ref(), Limits::default().hello).is_ok()
    }

    /// Puts the socket in its place, instead of that of a process before, in one step: from now on others find this
    /// process.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn publish(&self) -> Result<(), Error> {
        self.place.publish()
    }

    /// Puts the socket back where its file was removed: see [`Place::restore`].
    pub fn restore(&self) -> bool {
        self.place.restore()
    }

    /// Hears those who ask to take over, or for the counters, one after the other, until the offer was left, or another
    /// process has taken over for good. It blocks: give it a thread.
    ///
    /// Should a process that has taken over end before this one has left, and not on purpose, then the `host` is told
    /// to [stay](Host::stay), and this goes on. The log tells of everything that happens.
    pub fn serve(&self, host: &Mutex<impl Host>) -> Outcome {
        let mut outcome = Outcome::Left;
        while let Some(listener) = self.place.listener() {
            match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    drop(listener);
                    outcome = self.converse(Channel::new(socket, self.limits.hello), host);
                }
                // The place was given up, or lies elsewhere now.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::INVAL) => {}
                Err(error) => {
                    tracing::warn!("{}: {}", self.place.path().display(), io::Error::from(error));
                    thread::sleep(REST);
                }
            }
        }
        outcome
    }

    /// Tells the process that has taken over, if there is one, for the last time what was counted, and that no more is
    /// to come: this process leaves. A [`Host`] that does not say by then that it [has left](Host::has_left) is told to
    /// stay.
    pub fn conclude(&self, account: impl FnOnce() -> String) {
        self.tell(account);
        lock(&self.heir).take().iter().for_each(|heir| heir.hang_up());
    }

    /// Nobody can take over any more; the file is removed unless it is another process's. Dropping it does the same.
    pub fn leave(&self) {
        self.place.leave();
    }

    /// Tells the process that has taken over what was counted until now, if there is one. One account after the other:
    /// what is told later was counted later.
    fn tell(&self, account: impl FnOnce() -> String) {
        if let Some(heir) = &*lock(&self.heir) {
            // It may have gone, or not read for a while: the next one has it all again.
            let _ = tell(heir, &account());
        }
    }

    /// One who has connected, from his first word to the end of this process or of his own.
    pub(super) fn converse(&self, mut channel: Channel, host: &Mutex<impl Host>) -> Outcome {
        let (peer, version) = match admit(&channel) {
            Ok(Wish::Succeed(peer, version)) => (peer, version),
            Ok(Wish::Counters(form)) => {
                let text = lock(host).counters(form);
                channel.send_last(&Message::Answer(text));
                return Outcome::Left;
            }
            Ok(Wish::Nothing) => return Outcome::Left,
            Err(error) => {
                channel.refuse(&error.to_string());
                tracing::warn!("{}: somebody is turned away: {error}", self.place.path().display());
                return Outcome::Left;
            }
        };
        tracing::info!(event = "takeover", "process {} asks to take over", peer.pid);
        match introduce(&mut channel, host, version, self.limits.start) {
            Ok(wanted) => self.give_way(channel, &wanted, host, (peer.pid, version)),
            Err(error) => {
                channel.refuse(&error.to_string());
                tracing::warn!(
                    event = "takeover",
                    "process {} does not take over, everything stays: {error}",
                    peer.pid
                );
                Outcome::Left
            }
        }
    }

    /// The other process accepts: gives it what there is, and waits for its end or this one's.
    fn give_way(
        &self,
        mut channel: Channel,
        wanted: &[SocketAddr],
        host: &Mutex<impl Host>,
        (successor, version): (u32, u16),
    ) -> Outcome {
        // Whoever wants to tell the heir something, though everything here may have ended at once, waits for this.
        let mut heir = lock(&self.heir);
        if let Err(error) = self.hand_over(&mut channel, wanted, host, (successor, version)) {
            drop(heir);
            channel.refuse(&error.to_string());
            tracing::error!(event = "takeover", "process {successor} has not taken over, this one goes on: {error}");
            self.look_for_a_while(host);
            return Outcome::Left;
        }
        let channel = Arc::new(channel);
        *heir = (version >= WITH_ACCOUNTS).then(|| channel.clone());
        drop(heir);
        tracing::info!(
            event = "takeover",
            "process {successor} has taken over; this one finishes what its workers hold and leaves"
        );
        self.place.close();
        let gone = self.keep_telling(host, || await_its_end(&channel, host, successor));
        let Some(error) = gone else { return Outcome::TakenOver(successor) };
        channel.refuse("it had not left yet and goes on");
        tracing::error!(event = "takeover", "process {successor} is gone, this one goes on: {error}");
        self.stay(&mut *lock(host), Given::default());
        self.look_for_a_while(host);
        Outcome::Left
    }

    /// The step that counts. The host is held all the time: no reload or drain comes between.
    fn hand_over(
        &self,
        channel: &mut Channel,
        wanted: &[SocketAddr],
        host: &Mutex<impl Host>,
        (successor, version): (u32, u16),
    ) -> Result<(), Error> {
        let mut host = lock(host);
        let pending = host.hand_over(wanted)?;
        let (sessions, stay) = if version >= WITH_SESSIONS { host.hand_over_sessions() } else { Default::default() };
        let given = Given { pending, sessions };
        let known = if version >= WITH_ACCOUNTS { (host.account(), host.client_debts()) } else { Default::default() };
        channel.allow(self.limits.pending);
        match give(channel, &given, known) {
            Ok(()) => {
                let moved = given.sessions.len();
                if moved + stay > 0 {
                    tracing::info!(
                        event = "takeover",
                        "{moved} sessions go on in the other process, {stay} stay and finish here"
                    );
                }
                host.let_go(successor);
            }
            Err(error) => {
                self.stay(&mut *host, given);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Others find this process again, and then it accepts again: whoever sees that it does can take over.
    fn stay(&self, host: &mut impl Host, given: Given) {
        self.place.take_back();
        host.stay(given);
    }

    /// The kernel takes the accepts of a dead process back only after a while: until then they may be woken in our place.
    fn look_for_a_while(&self, host: &Mutex<impl Host>) {
        for _ in 0..LOOKS {
            thread::sleep(LOOK_REST);
            lock(host).look();
        }
        // A process that was held up may have put itself there before it has heard that it is too late.
        self.place.take_back();
    }

    /// While `body` runs, tells the process that has taken over what is counted here, if it wants to know, and the log
    /// how far this one has got.
    fn keep_telling<T>(&self, host: &Mutex<impl Host>, body: impl FnOnce() -> T) -> T {
        let (end, ended) = crossbeam_channel::bounded::<()>(0);
        let tell = move || {
            let mut told = 0;
            while ended.recv_timeout(ACCOUNT_STEP) == Err(RecvTimeoutError::Timeout) {
                self.tell(|| lock(host).account());
                told += 1;
                if told % PROGRESS_EVERY == 0
                    && let Some(progress) = lock(host).progress()
                {
                    tracing::info!(event = "takeover", "{progress}");
                }
            }
        };
        let done = thread::scope(|scope| {
            if let Err(error) = thread::Builder::new().name("accounts".into()).spawn_scoped(scope, tell) {
                tracing::warn!("what is still counted here is told at the end only, since there is no thread: {error}");
            }
            let done = body();
            drop(end);
            done
        });
        *lock(&self.heir) = None;
        done
    }
}

/// Waits for the end of the process that has taken over, should that be earlier than ours. How it ended, if this one
/// has to go on.
fn await_its_end(channel: &Channel, host: &Mutex<impl Host>, pid: u32) -> Option<Error> {
    let mut on_purpose = false;
    loop {
        match channel.receive_at_any_time() {
            Ok((Message::Leaving, _)) if !on_purpose => {
                on_purpose = true;
                lock(host).forget();
                tracing::info!(event = "takeover", "process {pid} ends on purpose: this one does not accept again");
            }
            // It may still want to know what is counted here.
            Err(_) if on_purpose || lock(host).has_left() => return None,
            Ok(_) => return Some(Error::protocol("it says something")),
            Err(error) => return Some(error),
        }
    }
}

/// Says an account, in as many messages as it takes.
fn tell(channel: &Channel, account: &str) -> Result<(), Error> {
    let deadline = Instant::now() + ACCOUNT_LIMIT;
    for message in account_of(account) {
        channel.send_by(deadline, &message)?;
    }
    Ok(())
}

/// The messages of an account.
fn account_of(account: &str) -> impl Iterator<Item = Message> {
    let parts = account.as_bytes().chunks(ACCOUNT_PART_MAX);
    let count = parts.len();
    parts.enumerate().map(move |(number, part)| Message::Account {
        first: number == 0,
        last: number + 1 == count,
        part: part.to_vec(),
    })
}

/// What somebody wants who may ask.
fn admit(channel: &Channel) -> Result<Wish, Error> {
    let peer = channel.peer().map_err(Error::System)?;
    may_ask(peer)?;
    match channel.receive() {
        Ok((Message::Hello { version: version @ VERSION_MIN..=VERSION }, _)) => Ok(Wish::Succeed(peer, version)),
        Ok((Message::Ask(form), _)) => Ok(Wish::Counters(form)),
        Ok((Message::Hello { version }, _)) => Err(Error::OtherVersion { theirs: version }),
        Ok(_) => Err(Error::protocol("it does not begin with Hello")),
        Err(Error::Closed) => Ok(Wish::Nothing),
        Err(error) => Err(error),
    }
}

/// Offers the listening sockets and waits until the new process serves; tells whose pending connections it wants.
fn introduce(
    channel: &mut Channel,
    host: &Mutex<impl Host>,
    version: u16,
    limit: Duration,
) -> Result<Vec<SocketAddr>, Error> {
    let offered = lock(host).offer()?;
    if offered.len() > SOCKETS_MAX {
        return Err(Error::Protocol(format!("{} listening sockets, and {SOCKETS_MAX} can be passed", offered.len())));
    }
    channel.allow(limit);
    channel.send(&Message::Welcome { version, sockets: offered.len() as u32 }, &[])?;
    for some in offered.chunks(ENTRIES_MAX) {
        let entries = some.iter().map(|one| Socket { address: one.address, name: one.name.clone() }).collect();
        let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(|one| one.socket.as_fd()).collect();
        channel.send(&Message::Sockets(entries), &descriptors)?;
    }
    match channel.receive()?.0 {
        Message::Serving(wanted) => Ok(wanted),
        _ => Err(Error::protocol("it does not say that it serves")),
    }
}

/// Sends the pending connections and the live sessions, and waits until the new process has them. All stay open here.
/// `known` is what goes along with them: counts, and what clients have spent of their rates.
fn give(channel: &Channel, given: &Given, known: (String, Vec<ClientDebt>)) -> Result<(), Error> {
    let now = Instant::now();
    let pending = given.pending.iter().map(|one| (entry(one, now), vec![one.socket.as_fd()]));
    send_all(channel, pending, Connection::size_bound, Message::Pending)?;
    let sessions = given.sessions.iter();
    let sessions = sessions.map(|one| (one.state.clone(), vec![one.client.as_fd(), one.server.as_fd()]));
    send_all(channel, sessions, wire::size_bound, Message::Sessions)?;
    let (account, debts) = known;
    for some in debts.chunks(CLIENTS_PART_MAX) {
        channel.send(&Message::Clients(some.to_vec()), &[])?;
    }
    for message in account_of(&account) {
        channel.send(&message, &[])?;
    }
    channel.send(&Message::End { pending: given.len() as u32 }, &[])?;
    match channel.receive_or_hang_up()?.0 {
        Message::Taken { pending: taken } if taken as usize == given.len() => Ok(()),
        _ => Err(Error::protocol("it does not say that it has taken everything")),
    }
}

/// Sends entries with their descriptors, as many a message as it takes.
fn send_all<'a, T>(
    channel: &Channel,
    all: impl Iterator<Item = (T, Vec<BorrowedFd<'a>>)>,
    size_bound: impl Fn(&T) -> usize,
    message: impl Fn(Vec<T>) -> Message,
) -> Result<(), Error> {
    let (mut entries, mut descriptors, mut size) = (Vec::new(), Vec::new(), 0);
    for (entry, mut its) in all {
        let full = descriptors.len() + its.len() > ENTRIES_MAX || size + size_bound(&entry) > MESSAGE_MAX / 2;
        if full && !entries.is_empty() {
            channel.send(&message(std::mem::take(&mut entries)), &std::mem::take(&mut descriptors))?;
            size = 0;
        }
        size += size_bound(&entry);
        entries.push(entry);
        descriptors.append(&mut its);
    }
    if entries.is_empty() { Ok(()) } else { channel.send(&message(entries), &descriptors) }
}

fn entry(one: &Pending, now: Instant) -> Connection {
    Connection {
        listener: one.listener,
        peer: one.peer,
        age: now.saturating_duration_since(one.accepted_at),
        left: one.deadline.saturating_duration_since(now),
        bytes: one.bytes.clone(),
    }
}

const _: () = assert!(HELD_MOVED_MAX + 4 * TEXT_MAX + 1024 <= MESSAGE_MAX / 2, "a session fits in a message");
const _: () = assert!(ADDRESSES_MAX * 27 + 3 <= MESSAGE_MAX, "the wanted addresses fit in a message");
