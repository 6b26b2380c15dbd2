//! The old process's side: the socket that it listens on, and how it lets another process take over.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use vestibule::engine::{ClientDebt, HELD_MOVED_MAX, LiveSession, Pending};
use vestibule::ring::Credentials;

use super::Limits;
use super::channel::{self, Broken, Channel};
use super::wire::{
    self, ACCOUNT_PART_MAX, ADDRESSES_MAX, CLIENTS_PART_MAX, Connection, ENTRIES_MAX, Form, MESSAGE_MAX, Message,
    SOCKETS_MAX, Socket, TEXT_MAX, VERSION, VERSION_MIN, WITH_ACCOUNTS, WITH_SESSIONS,
};
use crate::daemon::lock;

/// Those who may wait to be heard.
const WAITING_MAX: i32 = 8;
/// The same where operators ask.
const CONTROL_WAITING_MAX: i32 = 64;
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
pub struct Offered {
    pub address: SocketAddr,
    /// The `inet_listener`'s name.
    pub name: String,
    pub socket: TcpListener,
}

/// What a process does that another one takes the place of. Called in this order; `stay` if the other one fails, `forget` if
/// it ends on purpose.
pub trait Predecessor: Send {
    /// All listening sockets. Nothing changes.
    fn offer(&mut self) -> Result<Vec<Offered>, String>;

    /// The other process accepts: stops accepting, and gives what awaits its header on one of `listeners`.
    fn hand_over(&mut self, listeners: &[SocketAddr]) -> Result<Vec<Pending>, String>;

    /// Gives the live sessions that can move, after that, and tells how many stay.
    fn hand_over_sessions(&mut self) -> (Vec<LiveSession>, usize);

    /// The other process, of this number, has everything: finishes what there is and leaves.
    fn let_go(&mut self, successor: u32);

    /// The other process is gone: accepts again, and goes on with what it did not take.
    fn stay(&mut self, given: Given);

    /// The other process ends on purpose: lets go of what accepting again would need, for nobody is to wait there.
    fn forget(&mut self);

    /// Accepts who waits, woken or not.
    fn look(&mut self);

    /// Whether it has finished, and stays for other reasons than to accept again.
    fn has_left(&self) -> bool {
        false
    }

    /// What was counted so far. Asked at any time.
    fn counters(&self, form: Form) -> String;

    /// The same, with what processes before this one have counted, for one that goes on with it; empty: nothing.
    fn account(&self) -> String {
        String::new()
    }

    /// What is still to be finished here, in words; `None`: nothing.
    fn progress(&self) -> Option<String> {
        None
    }

    /// Clients that have spent of their connection rate, after [`hand_over`](Predecessor::hand_over).
    fn client_debts(&self) -> Vec<ClientDebt> {
        Vec::new()
    }
}

/// What one process gives another one. Nothing of it is given up before that one has confirmed it.
#[derive(Debug, Default)]
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

/// What a Unix socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Other processes ask to take over: packets, which carry descriptors.
    Takeover,
    /// Operators ask, and say what is to be done: a stream of lines.
    Control,
}

impl Purpose {
    /// The setting that names its path.
    pub fn setting(self) -> &'static str {
        match self {
            Purpose::Takeover => "takeover_socket",
            Purpose::Control => "control_socket",
        }
    }

    fn socket(self) -> io::Result<OwnedFd> {
        match self {
            Purpose::Takeover => channel::socket(),
            Purpose::Control => {
                let (family, sort) = (AddressFamily::UNIX, SocketType::STREAM);
                Ok(rustix::net::socket_with(family, sort, SocketFlags::CLOEXEC, None)?)
            }
        }
    }

    fn waiting_max(self) -> i32 {
        match self {
            Purpose::Takeover => WAITING_MAX,
            Purpose::Control => CONTROL_WAITING_MAX,
        }
    }
}

/// A Unix socket on which other processes ask for something.
pub struct Place {
    path: PathBuf,
    purpose: Purpose,
    listening: Mutex<Option<Listening>>,
    /// The process that has taken over, and goes on counting. Locked before the host is.
    heir: Mutex<Option<Arc<Channel>>>,
}

#[derive(Clone)]
struct Listening {
    socket: Arc<OwnedFd>,
    /// Device and inode of its file: another process may have put its own there.
    file: (u64, u64),
}

impl Listening {
    fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == self.file)
    }
}

impl Place {
    /// Binds the socket beside `path`, for this user only; [`publish`](Place::publish) puts it there.
    ///
    /// # Errors
    /// Say what to do.
    pub fn prepare(path: &Path, purpose: Purpose) -> Result<Place, String> {
        examine(path)?;
        let (listening, heir) = (Mutex::new(None), Mutex::new(None));
        let place = Place { path: path.to_owned(), purpose, listening, heir };
        place.bind().map_err(|error| place.failed(&error))?;
        Ok(place)
    }

    /// Whether somebody listens there.
    pub fn is_served(path: &Path, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Takeover => Channel::connect(path, Limits::USUAL.hello).is_ok(),
            Purpose::Control => UnixStream::connect(path).is_ok(),
        }
    }

    /// Puts the socket in its place, instead of that of a process before, in one step.
    pub fn publish(&self) -> Result<(), String> {
        fs::rename(self.temporary(), &self.path).map_err(|error| self.failed(&error))
    }

    /// Listens no longer; removes the file unless it is another process's.
    pub fn leave(&self) {
        let Some(listening) = lock(&self.listening).take() else { return };
        for path in [&self.path, &self.temporary()] {
            if listening.is_at(path) {
                let _ = fs::remove_file(path); // nothing depends on it
            }
        }
    }

    /// Hears nobody any more. The file stays: it is another process's by now.
    pub fn close(&self) {
        wake(lock(&self.listening).take());
    }

    /// Listens again, wherever another process has got to with its own socket.
    pub fn take_back(&self) {
        if lock(&self.listening).as_ref().is_some_and(|listening| listening.is_at(&self.path)) {
            return;
        }
        if let Err(error) = self.bind().map_err(|error| self.failed(&error)).and_then(|()| self.publish()) {
            tracing::error!("{error}");
        }
    }

    /// Tells the process that has taken over what was counted until now, if there is one. One account after the other: what
    /// is told later was counted later.
    pub fn tell(&self, account: impl FnOnce() -> String) {
        if let Some(heir) = &*lock(&self.heir) {
            // It may have gone, or not read for a while: the next one has it all again.
            let _ = tell(heir, &account());
        }
    }

    /// Tells it for the last time, and that no more is to come.
    pub fn conclude(&self, account: impl FnOnce() -> String) {
        self.tell(account);
        lock(&self.heir).take().iter().for_each(|heir| heir.hang_up());
    }

    fn bind(&self) -> io::Result<()> {
        let path = self.temporary();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {} // what a process of the same number has left there
        }
        let socket = self.purpose.socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        // Nobody can connect before it listens, so nobody has come through before the file is closed to others.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, self.purpose.waiting_max())?;
        let there = fs::symlink_metadata(&path)?;
        let listening = Listening { socket: Arc::new(socket), file: (there.dev(), there.ino()) };
        wake(lock(&self.listening).replace(listening));
        Ok(())
    }

    /// What listens there.
    pub fn listener(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.listening).as_ref().map(|listening| listening.socket.clone())
    }

    fn temporary(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{}", std::process::id()));
        path.into()
    }

    fn failed(&self, error: &io::Error) -> String {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "; its directory must exist (RuntimeDirectory= in the unit makes one)",
            io::ErrorKind::PermissionDenied => "; its directory must be writable for the user that the daemon runs as",
            _ if error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error()) => {
                "; a Unix socket's path has at most 107 bytes, and a dot and the process id are added for a moment"
            }
            _ => "",
        };
        format!("{} = {}: {error}{remedy}", self.purpose.setting(), self.path.display())
    }
}

/// Whoever waits on a socket that is given up learns of it.
fn wake(former: Option<Listening>) {
    if let Some(former) = former {
        let _ = rustix::net::shutdown(&former.socket, Shutdown::Both); // it is closed in any case
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Refuses a path where something else than a socket is, which would be replaced and in the end removed. Warns of a
/// directory in which others could put something else in the socket's place.
fn examine(path: &Path) -> Result<(), String> {
    const STICKY: u32 = 0o1000;
    if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
        let words = "something else than a socket is there; remove it, or name another path";
        return Err(format!("takeover_socket = {}: {words}", path.display()));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = fs::metadata(directory).map_or(0, |there| there.mode());
    if mode & 0o022 != 0 && mode & STICKY == 0 {
        tracing::warn!(
            "takeover_socket = {}: others may write to its directory, and put a socket of their own there; `chmod go-w` it, \
             or name a path in RuntimeDirectory=",
            path.display()
        );
    }
    Ok(())
}

/// Answers those who ask to take over, or for the counters, one after the other, as long as the place is held.
pub fn answer(place: &Place, host: &Mutex<impl Predecessor>, limits: Limits) {
    while let Some(listener) = place.listener() {
        match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(socket) => {
                drop(listener);
                converse(Channel::new(socket, limits.hello), place, host, limits);
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => {
                tracing::warn!("takeover_socket: {}", io::Error::from(error));
                thread::sleep(REST);
            }
        }
    }
}

/// One who has connected, from his first word to the end of this process or of his own.
pub(super) fn converse(mut channel: Channel, place: &Place, host: &Mutex<impl Predecessor>, limits: Limits) {
    let (peer, version) = match admit(&channel) {
        Ok(Wish::Succeed(peer, version)) => (peer, version),
        Ok(Wish::Counters(form)) => {
            let text = lock(host).counters(form);
            return channel.send_last(&Message::Answer(text));
        }
        Ok(Wish::Nothing) => return,
        Err(broken) => {
            channel.refuse(&broken.to_string());
            return tracing::warn!("takeover_socket: somebody is turned away: {broken}");
        }
    };
    tracing::info!(event = "takeover", "process {} asks to take over", peer.pid);
    let wanted = match introduce(&mut channel, host, version, limits.start) {
        Ok(wanted) => wanted,
        Err(broken) => {
            channel.refuse(&broken.to_string());
            return tracing::warn!(
                event = "takeover",
                "process {} does not take over, everything stays: {broken}",
                peer.pid
            );
        }
    };
    // Whoever wants to tell the heir something, though everything here may have ended at once, waits for this.
    let mut heir = lock(&place.heir);
    if let Err(broken) = hand_over(&mut channel, &wanted, host, (peer.pid, version), limits.pending) {
        drop(heir);
        channel.refuse(&broken.to_string());
        place.take_back();
        look_for_a_while(host);
        return tracing::error!(
            event = "takeover",
            "process {} has not taken over, this one goes on: {broken}",
            peer.pid
        );
    }
    let channel = Arc::new(channel);
    *heir = (version >= WITH_ACCOUNTS).then(|| channel.clone());
    drop(heir);
    tracing::info!(
        event = "takeover",
        "process {} has taken over; this one finishes what its workers hold and leaves",
        peer.pid
    );
    place.close();
    let gone = keep_telling(place, host, || await_its_end(&channel, host, peer.pid));
    let Some(broken) = gone else { return };
    channel.refuse("it had not left yet and goes on");
    tracing::error!(event = "takeover", "process {} is gone, this one goes on: {broken}", peer.pid);
    lock(host).stay(Given::default());
    place.take_back();
    look_for_a_while(host);
}

/// Waits for the end of the process that has taken over, should that be earlier than ours. How it ended, if this one has to
/// go on.
fn await_its_end(channel: &Channel, host: &Mutex<impl Predecessor>, pid: u32) -> Option<Broken> {
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
            Ok(_) => return Some(Broken::unexpected("it says something")),
            Err(broken) => return Some(broken),
        }
    }
}

/// While `body` runs, tells the process that has taken over what is counted here, if it wants to know, and the log how far
/// this one has got.
fn keep_telling<T>(place: &Place, host: &Mutex<impl Predecessor>, body: impl FnOnce() -> T) -> T {
    let (end, ended) = crossbeam_channel::bounded::<()>(0);
    let tell = move || {
        let mut told = 0;
        while ended.recv_timeout(ACCOUNT_STEP) == Err(RecvTimeoutError::Timeout) {
            place.tell(|| lock(host).account());
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
    *lock(&place.heir) = None;
    done
}

/// Says an account, in as many messages as it takes.
fn tell(channel: &Channel, account: &str) -> Result<(), Broken> {
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

/// The kernel takes the accepts of a dead process back only after a while: until then they may be woken in our place.
fn look_for_a_while(host: &Mutex<impl Predecessor>) {
    for _ in 0..LOOKS {
        thread::sleep(LOOK_REST);
        lock(host).look();
    }
}

/// Who may ask: root, or who could as well have stopped this process.
fn admit(channel: &Channel) -> Result<Wish, Broken> {
    let peer = channel.peer().map_err(Broken::System)?;
    may_ask(peer).map_err(Broken::Unexpected)?;
    match channel.receive() {
        Ok((Message::Hello { version: version @ VERSION_MIN..=VERSION }, _)) => Ok(Wish::Succeed(peer, version)),
        Ok((Message::Ask(form), _)) => Ok(Wish::Counters(form)),
        Ok((Message::Hello { version }, _)) => Err(Broken::Unexpected(other_version(version))),
        Ok(_) => Err(Broken::unexpected("it does not begin with Hello")),
        Err(Broken::Closed) => Ok(Wish::Nothing),
        Err(broken) => Err(broken),
    }
}

/// Root may, and who could as well have stopped this process.
///
/// # Errors
/// Say who asks.
pub fn may_ask(peer: Credentials) -> Result<(), String> {
    match nix::unistd::geteuid().as_raw() {
        own if peer.uid == own || peer.uid == 0 => Ok(()),
        own => Err(format!("process {} runs as user id {}, this one as {own}", peer.pid, peer.uid)),
    }
}

/// What to say to another version of the protocol.
pub fn other_version(theirs: u16) -> String {
    format!(
        "version {theirs} of the takeover protocol is spoken there, version {VERSION} here: restart instead of taking over"
    )
}

/// Offers the listening sockets and waits until the new process serves; tells whose pending connections it wants.
fn introduce(
    channel: &mut Channel,
    host: &Mutex<impl Predecessor>,
    version: u16,
    limit: Duration,
) -> Result<Vec<SocketAddr>, Broken> {
    let offered = lock(host).offer().map_err(Broken::Unexpected)?;
    if offered.len() > SOCKETS_MAX {
        return Err(Broken::Unexpected(format!(
            "{} listening sockets, and {SOCKETS_MAX} can be passed",
            offered.len()
        )));
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
        _ => Err(Broken::unexpected("it does not say that it serves")),
    }
}

/// The step that counts. The host is held all the time: no reload or drain comes between.
fn hand_over(
    channel: &mut Channel,
    wanted: &[SocketAddr],
    host: &Mutex<impl Predecessor>,
    (successor, version): (u32, u16),
    limit: Duration,
) -> Result<(), Broken> {
    let mut host = lock(host);
    let pending = host.hand_over(wanted).map_err(Broken::Unexpected)?;
    let (sessions, stay) = if version >= WITH_SESSIONS { host.hand_over_sessions() } else { Default::default() };
    let given = Given { pending, sessions };
    let known = if version >= WITH_ACCOUNTS { (host.account(), host.client_debts()) } else { Default::default() };
    channel.allow(limit);
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
        Err(broken) => {
            host.stay(given);
            return Err(broken);
        }
    }
    Ok(())
}

/// Sends the pending connections and the live sessions, and waits until the new process has them. All stay open here.
/// `known` is what goes along with them: counts, and what clients have spent of their rates.
fn give(channel: &Channel, given: &Given, known: (String, Vec<ClientDebt>)) -> Result<(), Broken> {
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
        _ => Err(Broken::unexpected("it does not say that it has taken everything")),
    }
}

/// Sends entries with their descriptors, as many a message as it takes.
fn send_all<'a, T>(
    channel: &Channel,
    all: impl Iterator<Item = (T, Vec<BorrowedFd<'a>>)>,
    size_bound: impl Fn(&T) -> usize,
    message: impl Fn(Vec<T>) -> Message,
) -> Result<(), Broken> {
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
