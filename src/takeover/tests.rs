//! Both sides over a real socket, in one process: what the old one does for whatever the new one does, and the other
//! way round.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::{ClientDebt, LiveSession, Pending, SessionState};
use crate::relay::{PairState, SessionId};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tempfile::TempDir;

use super::channel::Channel;
use super::wire::{Message, VERSION};
use super::*;

const SOON: Duration = Duration::from_secs(5);
const BYTES: &[u8] = b"PROXY TCP4 198.51.";

/// An old process that notes what is asked of it.
struct Old {
    listener: TcpListener,
    pending: Vec<Pending>,
    sessions: Vec<LiveSession>,
    calls: Vec<String>,
    /// When the other process serves, this one ends,
    dies: bool,
    /// or only the thread that speaks to it.
    panics: bool,
    /// What it has counted.
    account: String,
}

const EXIT_OF_THE_DYING: i32 = 7;

impl Old {
    fn new(listener: TcpListener, pending: Vec<Pending>) -> Old {
        Old {
            listener,
            pending,
            sessions: Vec::new(),
            calls: Vec::new(),
            dies: false,
            panics: false,
            account: String::new(),
        }
    }
}

impl Host for Old {
    fn offer(&mut self) -> Result<Vec<Offered>, Error> {
        self.calls.push("offer".into());
        let address = self.listener.local_addr().expect("it is bound");
        let socket = self.listener.try_clone().expect("descriptors are left");
        Ok(vec![Offered { address, name: "imap".into(), socket }])
    }

    fn hand_over(&mut self, listeners: &[SocketAddr]) -> Result<Vec<Pending>, Error> {
        self.calls.push(format!("hand over of {}", listeners.len()));
        if self.dies {
            std::process::exit(EXIT_OF_THE_DYING);
        }
        assert!(!self.panics, "as told");
        Ok(std::mem::take(&mut self.pending))
    }

    fn let_go(&mut self, _: u32) {
        self.calls.push("let go".into());
    }

    fn hand_over_sessions(&mut self) -> (Vec<LiveSession>, usize) {
        (std::mem::take(&mut self.sessions), 0)
    }

    fn stay(&mut self, Given { pending, sessions }: Given) {
        self.calls.push(format!("stay with {}", pending.len()));
        (self.pending, self.sessions) = (pending, sessions);
    }

    fn forget(&mut self) {
        self.calls.push("forget".into());
    }

    fn look(&mut self) {}

    fn counters(&self, form: Form) -> String {
        format!("{form:?}")
    }

    fn account(&self) -> String {
        self.account.clone()
    }

    fn client_debts(&self) -> Vec<ClientDebt> {
        let debt = |number: u16| ClientDebt { client: [number as u8; 16], left: Duration::from_micros(number.into()) };
        (0..DEBTS).map(debt).collect()
    }
}

/// More than fit in a message.
const DEBTS: u16 = 5000;

/// An old process with pending connections, and the other ends of those.
struct Stage {
    directory: TempDir,
    offer: Arc<Offer>,
    old: Arc<Mutex<Old>>,
    address: SocketAddr,
    clients: Vec<TcpStream>,
    thread: Option<JoinHandle<Outcome>>,
}

impl Stage {
    fn new(pending: usize) -> Stage {
        Stage::with_limits(pending, Limits::default())
    }

    /// An old process that waits no longer than this.
    fn with_limits(pending: usize, limits: Limits) -> Stage {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let offer = Offer::prepare_within(directory.path().join("socket"), limits).expect("the directory is ours");
        let offer = Arc::new(offer);
        offer.publish().expect("the directory is ours");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (clients, pending) = (0..pending).map(|number| connection(&listener, number)).unzip();
        let old = Arc::new(Mutex::new(Old::new(listener, pending)));
        let (its_offer, its_old) = (offer.clone(), old.clone());
        let thread = std::thread::spawn(move || its_offer.serve(&its_old));
        Stage { directory, offer, old, address, clients, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn claim(&self) -> Claim {
        Claim::connect(self.path()).expect("nothing is in the way")
    }

    /// Takes over, though nothing can be in the way.
    fn take(&self) -> Taken {
        self.claim().serve(&[self.address], || Ok(())).expect("nothing is in the way")
    }

    fn channel(&self) -> Channel {
        Channel::connect(&self.path(), SOON).expect("somebody listens there")
    }

    /// Waits until the old process has done exactly this.
    fn expect(&self, calls: &[&str]) {
        let end = Instant::now() + SOON;
        loop {
            let done = self.old.lock().unwrap_or_else(std::sync::PoisonError::into_inner).calls.clone();
            if done == calls {
                return;
            }
            assert!(Instant::now() < end, "{done:?} and not {calls:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What is wrong, in words.
fn failure<T>(result: Result<T, Error>) -> String {
    result.err().expect("it cannot be done").to_string()
}

fn connection(listener: &TcpListener, number: usize) -> (TcpStream, Pending) {
    let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let (socket, peer) = listener.accept().expect("one has come");
    let now = Instant::now();
    let pending = Pending {
        socket: socket.into(),
        listener: listener.local_addr().expect("it is bound"),
        peer,
        accepted_at: now.checked_sub(Duration::from_secs(1)).unwrap_or(now),
        deadline: now + Duration::from_secs(100 + number as u64),
        bytes: BYTES[..number % BYTES.len()].to_vec(),
    };
    (client, pending)
}

#[test]
fn everything_arrives_and_the_old_process_lets_go() {
    const MANY: usize = 200;
    let stage = Stage::new(MANY);
    let mut claim = stage.claim();
    let sockets = claim.sockets_at(stage.address);
    assert_eq!(sockets.len(), 1);
    stage.expect(&["offer"]);
    let taken = claim.serve(&[stage.address], || Ok(())).expect("nothing is in the way");
    stage.expect(&["offer", "hand over of 1", "let go"]);
    assert_eq!(taken.given.len(), MANY);
    let now = Instant::now();
    for (number, (one, mut client)) in taken.given.pending.into_iter().zip(&stage.clients).enumerate() {
        assert_eq!(one.bytes, BYTES[..number % BYTES.len()]);
        assert_eq!((one.listener, one.peer), (stage.address, client.local_addr().expect("connected")));
        let left = (one.deadline - now).as_secs_f64();
        assert!((left - 100.0 - number as f64).abs() < 10.0, "{left} s left for {number}");
        client.write_all(b"x").expect("the other end is open");
        let mut first = [0];
        std::io::Read::read_exact(&mut TcpStream::from(one.socket), &mut first).expect("it is the same connection");
    }
    drop(taken.predecessor);
    stage.expect(&["offer", "hand over of 1", "let go", "stay with 0"]);
}

#[test]
fn a_new_process_that_is_gone_before_it_serves_changes_nothing() {
    let stage = Stage::new(1);
    for _ in 0..3 {
        drop(stage.claim());
    }
    stage.expect(&["offer"; 3]);
}

#[test]
fn a_new_process_that_is_gone_before_it_has_everything_leaves_it_to_the_old_one() {
    let stage = Stage::new(3);
    let channel = stage.channel();
    for message in [Message::Hello { version: VERSION }, Message::Serving(vec![stage.address])] {
        channel.send(&message, &[]).expect("it listens");
    }
    while !matches!(channel.receive().expect("it answers").0, Message::End { .. }) {}
    drop(channel);
    stage.expect(&["offer", "hand over of 1", "stay with 3"]);
    assert_eq!(stage.take().given.pending.len(), 3);
}

#[test]
fn a_new_process_that_cannot_take_the_place_leaves_everything_to_the_old_one() {
    let stage = Stage::new(2);
    let claim = stage.claim();
    let failed = failure(claim.serve(&[stage.address], || Err(Error::other("no room"))));
    assert!(failed.contains("this one ends: no room"), "{failed}");
    stage.expect(&["offer", "hand over of 1", "stay with 2"]);
}

#[test]
fn a_new_process_that_is_gone_later_gives_place_to_the_old_one_again() {
    let stage = Stage::new(0);
    drop(stage.take());
    stage.expect(&["offer", "hand over of 1", "let go", "stay with 0"]);
    let end = Instant::now() + SOON;
    while !Offer::is_made(stage.path()) {
        assert!(Instant::now() < end, "it listens again");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Says to the test below that it is the process that dies, and where it is to listen.
const PATH_OF_THE_DYING: &str = "VESTIBULE_TEST_DYING";

#[test]
fn an_old_process_that_dies_in_the_middle_does_not_keep_the_new_one_from_serving() {
    if let Some(path) = std::env::var_os(PATH_OF_THE_DYING) {
        let offer = Offer::prepare(Path::new(&path)).expect("the directory is the parent's");
        offer.publish().expect("the directory is the parent's");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        offer.serve(&Mutex::new(Old { dies: true, ..Old::new(listener, Vec::new()) }));
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("socket");
    let (_, module) = module_path!().split_once("::").expect("the crate's name stands before it");
    let this = format!("{module}::an_old_process_that_dies_in_the_middle_does_not_keep_the_new_one_from_serving");
    let mut old = Command::new(std::env::current_exe().expect("it runs"));
    old.args(["--exact", &this]).env(PATH_OF_THE_DYING, &path).stdout(Stdio::null());
    let mut old = old.spawn().expect("a process can be had");
    let end = Instant::now() + SOON;
    while !Offer::is_made(&path) {
        assert!(Instant::now() < end, "it listens");
        std::thread::sleep(Duration::from_millis(2));
    }
    let claim = Claim::connect(&path).expect("nothing is in the way");
    assert_eq!(claim.serve(&[], || Ok(())).expect("it can serve").given.pending.len(), 0);
    assert_eq!(old.wait().expect("it is a child").code(), Some(EXIT_OF_THE_DYING));
}

#[test]
fn a_new_process_that_ends_on_purpose_does_not_make_the_old_one_accept_again() {
    let mut stage = Stage::new(0);
    let taken = stage.take();
    taken.predecessor.leave();
    drop(taken);
    let outcome = stage.thread.take().expect("there is one").join().expect("it has nothing left to hear");
    assert_eq!(outcome, Outcome::TakenOver(std::process::id()));
    stage.expect(&["offer", "hand over of 1", "let go", "forget"]);
}

#[test]
fn an_old_process_that_only_closes_the_connection_keeps_the_new_one_from_serving() {
    let mut stage = Stage::new(3);
    stage.old.lock().expect("nobody has panicked").panics = true;
    let claim = stage.claim();
    let failed = failure(claim.serve(&[stage.address], || Ok(())));
    assert!(failed.contains("it has closed the connection, and lives"), "{failed}");
    assert!(stage.thread.take().expect("there is one").join().is_err(), "its thread has panicked");
}

#[test]
fn whoever_only_asks_is_answered_before_and_after_a_takeover_that_fails() {
    let stage = Stage::new(0);
    let asked = || [Form::Table, Form::Json].map(|form| ask(stage.path(), form).expect("it answers"));
    assert_eq!(asked(), ["Table", "Json"]);
    drop(stage.claim());
    assert_eq!(asked(), ["Table", "Json"]);
    stage.expect(&["offer"]);
}

/// Less than a claimant sleeps to be late.
const BRIEF: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_millis(300);

#[test]
fn a_new_process_that_starts_too_late_is_refused_and_nothing_has_changed() {
    let stage = Stage::with_limits(1, Limits { start: BRIEF, ..Limits::default() });
    let claim = stage.claim();
    std::thread::sleep(LATE);
    let failed = failure(claim.serve(&[stage.address], || panic!("it is not its turn")));
    assert!(failed.contains("the other process refuses: no answer in time"), "{failed}");
    stage.expect(&["offer"]);
}

#[test]
fn a_new_process_that_confirms_too_late_is_refused_and_the_old_one_has_everything() {
    let stage = Stage::with_limits(3, Limits { pending: BRIEF, ..Limits::default() });
    let claim = stage.claim();
    let sleep = || {
        std::thread::sleep(LATE);
        Ok(())
    };
    let failed = failure(claim.serve(&[stage.address], sleep));
    assert!(failed.contains("the other process refuses: no answer in time"), "{failed}");
    stage.expect(&["offer", "hand over of 1", "stay with 3"]);
}

#[test]
fn a_new_process_finds_out_by_itself_that_it_is_late() {
    let stage = Stage::new(1);
    let claim = Claim::connect_within(stage.path(), Limits { start: BRIEF, ..Limits::default() }).expect("it listens");
    std::thread::sleep(LATE);
    let failed = failure(claim.serve(&[stage.address], || panic!("it is not its turn")));
    assert!(failed.contains("it took longer than 100ms to start"), "{failed}");
    let claim = Claim::connect_within(stage.path(), Limits { taking: BRIEF, ..Limits::default() }).expect("it listens");
    let sleep = || {
        std::thread::sleep(LATE);
        Ok(())
    };
    let failed = failure(claim.serve(&[stage.address], sleep));
    assert!(failed.contains("this one ends: no answer in time"), "{failed}");
    stage.expect(&["offer", "offer", "hand over of 1", "stay with 1"]);
}

#[test]
fn what_was_said_in_time_is_heard_by_one_who_hangs_up_and_nothing_later() {
    let (old, new) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("descriptors are left");
    let (old, new) = (Channel::new(old, Duration::ZERO), Channel::new(new, SOON));
    new.send(&Message::Taken { pending: 7 }, &[]).expect("it is connected");
    assert!(matches!(old.receive_or_hang_up(), Ok((Message::Taken { pending: 7 }, _))));
    assert!(matches!(new.send(&Message::Taken { pending: 8 }, &[]), Err(Error::Closed)));
    assert!(matches!(old.receive_or_hang_up(), Err(Error::Late)));
    old.refuse("too late");
    assert!(matches!(new.receive(), Err(Error::Refused(reason)) if reason == "too late"));
}

#[test]
fn whoever_says_something_else_is_told_why_he_is_turned_away() {
    let stage = Stage::new(0);
    for (first, words) in [
        (Message::Hello { version: VERSION + 1 }, "version 4 of the takeover protocol is spoken there, version 3 here"),
        (Message::End { pending: 0 }, "does not begin with Hello"),
    ] {
        let channel = stage.channel();
        channel.send(&first, &[]).expect("it listens");
        let Err(Error::Refused(reason)) = channel.receive() else { panic!("{first:?} is not refused") };
        assert!(reason.contains(words), "{reason}");
    }
    let channel = stage.channel();
    for message in [Message::Hello { version: VERSION }, Message::Taken { pending: 0 }] {
        channel.send(&message, &[]).expect("it listens");
    }
    let refused = std::iter::repeat_with(|| channel.receive()).find_map(Result::err);
    assert!(refused.is_some_and(|error| error.to_string().contains("does not say that it serves")));
    stage.expect(&["offer"]);
}

#[test]
fn the_file_is_for_its_owner_and_another_process_s_stays() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new(0);
    let mode = std::fs::metadata(stage.path()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let next = Offer::prepare(stage.path()).expect("the directory is ours");
    next.publish().expect("the directory is ours");
    stage.offer.leave();
    assert!(Offer::is_made(stage.path()), "the next one's file");
    next.leave();
    // It was left before; a takeover that was under way then brings it back no more.
    stage.offer.place.take_back();
    assert!(!stage.path().exists());
    assert_eq!(std::fs::read_dir(stage.directory.path()).expect("it is there").count(), 0, "nothing is left");
}

#[test]
fn an_unreachable_place_is_named_with_a_remedy() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let nobody = directory.path().join("nobody");
    assert!(Claim::find(&nobody).expect("it can be looked for").is_none());
    let nobody = failure(Claim::connect(nobody));
    assert!(nobody.contains("nobody listens there"), "{nobody}");
    let missing = failure(Offer::prepare(directory.path().join("missing/socket")));
    assert!(missing.contains("missing/socket: No such file or directory"), "{missing}");
    let long = failure(Offer::prepare(directory.path().join("x".repeat(100))));
    assert!(long.contains("at most 107 bytes"), "{long}");
}

#[test]
fn a_path_where_something_else_is_stays_as_it_is() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("precious");
    std::fs::write(&file, "text").expect("it is ours");
    for path in [&file, directory.path()] {
        let refused = failure(Offer::prepare(path));
        assert!(refused.contains("something else than a socket"), "{refused}");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("it is still there"), "text");
}

/// A session whose client and server are sockets of this process, and their other ends.
fn live_session() -> (LiveSession, [TcpStream; 2]) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let ((one, first), (two, second)) = (connection(&listener, 0), connection(&listener, 0));
    let state = state_of(first.peer, first.listener);
    (LiveSession { client: first.socket, server: second.socket, state }, [one, two])
}

/// A session that nobody speaks in, of a client from this port.
pub fn session_of(port: u16) -> LiveSession {
    let (client, server) = std::os::unix::net::UnixStream::pair().expect("descriptors are left");
    let state = state_of(SocketAddr::from(([198, 51, 100, 7], port)), SocketAddr::from(([192, 0, 2, 1], 143)));
    LiveSession { client: client.into(), server: server.into(), state }
}

fn state_of(client: SocketAddr, destination: SocketAddr) -> SessionState {
    SessionState {
        id: SessionId::new(5, client),
        service: "imap-login".into(),
        listener: "imap".into(),
        server: "mail1".into(),
        client,
        destination,
        ages: [Duration::from_secs(1); 6],
        awaits_greeting: false,
        is_tls: false,
        tls_at_peer: false,
        tls_certificate: false,
        unasked: false,
        attempts: 1,
        early: 0,
        pair: PairState::default(),
    }
}

/// One message, as its bytes.
fn say(to: &std::os::fd::OwnedFd, bytes: &[u8]) {
    rustix::net::send(to, bytes, rustix::net::SendFlags::empty()).expect("it listens");
}

/// The next one.
fn hear(from: &std::os::fd::OwnedFd) -> Vec<u8> {
    let mut room = [0; 4096];
    let (_, length) = rustix::net::recv(from, &mut room[..], rustix::net::RecvFlags::empty()).expect("it speaks");
    room[..length].to_vec()
}

/// What one side of version 1 says, byte by byte as it did: this must not change with what is spoken today.
const HELLO_1: &[u8] = b"\x01VESTIBUL\x00\x01";

#[test]
fn a_new_process_of_version_1_gets_sockets_and_headers_and_sessions_stay() {
    let stage = Stage::new(2);
    let (session, _ends) = live_session();
    stage.old.lock().expect("nobody has panicked").sessions.push(session);
    let new = channel::socket().expect("descriptors are left");
    rustix::net::connect(&new, &rustix::net::SocketAddrUnix::new(stage.path()).expect("short")).expect("it listens");
    let (say, hear) = (|bytes: &[u8]| say(&new, bytes), || hear(&new));
    say(HELLO_1);
    assert_eq!(hear(), b"\x02VESTIBUL\x00\x01\x00\x00\x00\x01", "Welcome of version 1 with one socket");
    assert_eq!(hear()[..3], [3, 0, 1], "one listening socket");
    let port = stage.address.port().to_be_bytes();
    say(&[&[4, 0, 1, 4, 127, 0, 0, 1][..], &port].concat());
    let pending = hear();
    assert_eq!(pending[..3], [5, 0, 2], "two connections whose header is awaited");
    assert_eq!(hear(), [6, 0, 0, 0, 2], "and no session before the end");
    say(&[7, 0, 0, 0, 2]);
    stage.expect(&["offer", "hand over of 1", "let go"]);
    assert_eq!(stage.old.lock().expect("nobody has panicked").sessions.len(), 1, "it has not been asked for");
}

#[test]
fn an_old_process_of_version_1_is_taken_over_from_without_its_sessions() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("socket");
    let place = channel::socket().expect("descriptors are left");
    rustix::net::bind(&place, &rustix::net::SocketAddrUnix::new(&path).expect("short")).expect("the directory is ours");
    rustix::net::listen(&place, 4).expect("it is bound");
    // What one of version 1 does: it knows its own version only.
    let old = std::thread::spawn(move || {
        let accept = || rustix::net::accept(&place).expect("somebody comes");
        for _ in 1..VERSION {
            let first = accept();
            assert_ne!(hear(&first), HELLO_1, "it tries its own version first, and those before it");
            say(&first, b"\xff\x00\x09version 1");
        }
        let second = accept();
        assert_eq!(hear(&second), HELLO_1);
        say(&second, b"\x02VESTIBUL\x00\x01\x00\x00\x00\x00");
        assert_eq!(hear(&second), [4, 0, 0], "it serves, and wants no pending connections");
        say(&second, &[6, 0, 0, 0, 0]);
        assert_eq!(hear(&second), [7, 0, 0, 0, 0]);
    });
    let claim = Claim::connect(&path).expect("it speaks version 1, too");
    let taken = claim.serve(&[], || Ok(())).expect("nothing is in the way");
    assert_eq!((taken.given.len(), &taken.account), (0, &None));
    old.join().expect("it has heard what it expects");
}

#[test]
fn live_sessions_go_along_and_come_back_when_the_new_process_fails() {
    let stage = Stage::new(0);
    let (ends, sessions): (Vec<_>, Vec<_>) = (0..100).map(|_| live_session()).map(|(one, ends)| (ends, one)).unzip();
    stage.old.lock().expect("nobody has panicked").sessions = sessions;
    failure(stage.claim().serve(&[stage.address], || Err(Error::other("no room"))));
    stage.expect(&["offer", "hand over of 1", "stay with 0"]);
    assert_eq!(stage.old.lock().expect("nobody has panicked").sessions.len(), 100);
    let taken = stage.take().given.sessions;
    assert_eq!(taken.len(), 100);
    for (one, [mut client, mut server]) in taken.into_iter().zip(ends) {
        let through = |end: &mut TcpStream, socket: std::os::fd::OwnedFd| {
            end.write_all(b"x").expect("the other end is open");
            std::io::Read::read_exact(&mut TcpStream::from(socket), &mut [0]).expect("it is the same connection");
        };
        through(&mut client, one.client);
        through(&mut server, one.server);
    }
}

#[test]
fn what_was_counted_goes_along_and_is_told_until_the_old_process_has_left() {
    let stage = Stage::new(1);
    let set = |account: &str| stage.old.lock().expect("nobody has panicked").account = account.to_owned();
    let long = "counted ".repeat(100_000);
    set(&long);
    let taken = stage.take();
    assert_eq!((taken.account.as_ref(), taken.debts.len()), (Some(&long), usize::from(DEBTS)));
    assert_eq!(taken.debts[4711].left, Duration::from_micros(4711));
    stage.expect(&["offer", "hand over of 1", "let go"]);
    set("more");
    let told = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let waits =
            scope.spawn(|| taken.predecessor.hear(|account| told.lock().expect("nobody has panicked").push(account)));
        let end = Instant::now() + SOON;
        while told.lock().expect("nobody has panicked").last().is_none_or(|last| last != "more") {
            assert!(Instant::now() < end, "it is told while both live");
            std::thread::sleep(Duration::from_millis(2));
        }
        stage.offer.conclude(|| "the last".to_owned());
        waits.join().expect("nobody has panicked").expect("it has left");
    });
    assert_eq!(told.lock().expect("nobody has panicked").last().map(String::as_str), Some("the last"));
}

/// The same of version 2, byte by byte as it did.
const HELLO_2: &[u8] = b"\x01VESTIBUL\x00\x02";

#[test]
fn a_new_process_of_version_2_gets_sessions_and_is_told_of_no_account() {
    let stage = Stage::new(1);
    stage.old.lock().expect("nobody has panicked").account = "counted".to_owned();
    let (session, _ends) = live_session();
    stage.old.lock().expect("nobody has panicked").sessions.push(session);
    let new = channel::socket().expect("descriptors are left");
    rustix::net::connect(&new, &rustix::net::SocketAddrUnix::new(stage.path()).expect("short")).expect("it listens");
    let (say, hear) = (|bytes: &[u8]| say(&new, bytes), || hear(&new));
    say(HELLO_2);
    assert_eq!(hear(), b"\x02VESTIBUL\x00\x02\x00\x00\x00\x01", "Welcome of version 2 with one socket");
    assert_eq!(hear()[..3], [3, 0, 1], "one listening socket");
    say(&[&[4, 0, 1, 4, 127, 0, 0, 1][..], &stage.address.port().to_be_bytes()].concat());
    assert_eq!(hear()[..3], [5, 0, 1], "a connection whose header is awaited");
    assert_eq!(hear()[..3], [11, 0, 1], "a session");
    assert_eq!(hear(), [6, 0, 0, 0, 2], "and nothing else before the end");
    say(&[7, 0, 0, 0, 2]);
    stage.expect(&["offer", "hand over of 1", "let go"]);
    stage.offer.conclude(|| panic!("nobody wants to know"));
}

#[test]
fn an_old_process_of_version_2_is_taken_over_from_with_its_sessions_and_without_its_counts() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("socket");
    let place = channel::socket().expect("descriptors are left");
    rustix::net::bind(&place, &rustix::net::SocketAddrUnix::new(&path).expect("short")).expect("the directory is ours");
    rustix::net::listen(&place, 4).expect("it is bound");
    let old = std::thread::spawn(move || {
        let channel = |socket| Channel::new(socket, SOON);
        let accept = || rustix::net::accept(&place).expect("somebody comes");
        let first = channel(accept());
        assert!(matches!(first.receive(), Ok((Message::Hello { version: VERSION }, _))));
        first.refuse("version 3 of the takeover protocol is spoken there, version 2 here: restart");
        let second = channel(accept());
        assert!(matches!(second.receive(), Ok((Message::Hello { version: 2 }, _))), "the one before, next");
        second.send(&Message::Welcome { version: 2, sockets: 0 }, &[]).expect("it listens");
        assert!(matches!(second.receive(), Ok((Message::Serving(_), _))));
        let (session, ends) = live_session();
        let sockets = [&session.client, &session.server].map(std::os::fd::AsFd::as_fd);
        second.send(&Message::Sessions(vec![session.state.clone()]), &sockets).expect("it listens");
        second.send(&Message::End { pending: 1 }, &[]).expect("it listens");
        assert!(matches!(second.receive(), Ok((Message::Taken { pending: 1 }, _))));
        ends
    });
    let claim = Claim::connect(&path).expect("it speaks version 2, too");
    let taken = claim.serve(&[], || Ok(())).expect("nothing is in the way");
    assert_eq!((taken.given.sessions.len(), &taken.account, taken.debts.len()), (1, &None, 0));
    old.join().expect("it has heard what it expects");
    taken.predecessor.hear(|account| panic!("{account}")).expect("it has left");
}
