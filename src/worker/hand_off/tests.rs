use std::collections::HashSet;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::*;
use crate::dispatch::testing::{SOON, until};
use crate::worker::testing::{Running, all_of};

/// A receiver that does as it is told.
struct Receiver(OwnedFd);

impl Receiver {
    fn connect(path: &Path, hello: &str) -> Receiver {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket");
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).expect("it fits")).expect("somebody listens");
        let receiver = Receiver(socket);
        receiver.say(hello);
        receiver
    }

    fn say(&self, line: &str) {
        rustix::net::send(&self.0, line.as_bytes(), SendFlags::NOSIGNAL).expect("somebody hears");
    }

    /// The next offer: its id and its socket; `None` once nothing more comes.
    fn offer(&self) -> Option<(u64, TcpStream)> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut room);
        let mut record = [0; 4096];
        let mut parts = [IoSliceMut::new(&mut record)];
        let got =
            rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).expect("connected");
        if got.bytes == 0 {
            return None;
        }
        let mut descriptors = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let socket = TcpStream::from(descriptors.next().expect("a descriptor comes with it"));
        Some((u64::from_be_bytes(record[8..16].try_into().expect("8 bytes")), socket))
    }

    fn take(&self) -> Option<(u64, TcpStream)> {
        let offer = self.offer()?;
        self.say(&format!("taken {}", offer.0));
        Some(offer)
    }

    /// Takes a connection, answers and is done with it.
    fn serve_one(&self) -> bool {
        let Some((id, mut socket)) = self.take() else { return false };
        socket.write_all(b"hello").expect("the client is there");
        drop(socket);
        self.say(&format!("done {id}"));
        true
    }
}

/// A pool that hands off, and where.
fn pool(name: &str, patience: Duration) -> (Running, PathBuf) {
    let path = std::env::temp_dir().join(format!("vestibule-{name}-{}.sock", std::process::id()));
    let pool = Pool::hand_off("imap", HandOff::at(&path).take_patience(patience));
    (Running::start(pool), path)
}

fn lost(running: &Running) -> u64 {
    running.queue.record().losses()
}

#[test]
fn several_receivers_serve_a_thousand_and_the_pool_ends() {
    let (running, path) = pool("thousand", SOON);
    let receivers: Vec<_> = (0..3)
        .map(|number| {
            let receiver = Receiver::connect(&path, &format!("hello 1 {}", number + 1));
            std::thread::spawn(move || std::iter::from_fn(|| receiver.serve_one().then_some(())).count())
        })
        .collect();
    for _ in 0..20 {
        let clients: Vec<_> = (0..50).map(|_| running.ask(b"", b"")).collect();
        clients.into_iter().for_each(|client| assert_eq!(all_of(client), b"hello"));
    }
    assert_eq!(lost(&running), 0);
    assert!(running.end(SOON));
    let counts: Vec<usize> = receivers.into_iter().map(|receiver| receiver.join().expect("no panic")).collect();
    assert!(counts.iter().sum::<usize>() == 1000 && counts.iter().all(|count| *count > 0), "{counts:?}");
    assert!(!path.exists(), "the socket goes with its pool");
}

#[test]
fn nobody_gets_more_than_said_and_what_was_not_taken_goes_to_the_next() {
    let (running, path) = pool("capacity", SOON);
    let clients: Vec<_> = (0..5).map(|_| running.ask(b"", b"")).collect();
    let first = Receiver::connect(&path, "hello 1 3");
    let (taken, socket) = first.take().expect("the first");
    let offered: HashSet<u64> = (0..2).map(|_| first.offer().expect("two more").0).collect();
    assert!(!offered.contains(&taken));
    std::thread::sleep(Duration::from_millis(30)); // time for a fourth, if it came
    assert_eq!(running.queue.len(), 2);
    drop((first, socket));
    let next = Receiver::connect(&path, "hello 1 64");
    (0..4).for_each(|_| assert!(next.serve_one()));
    let answers: Vec<_> = clients.into_iter().map(all_of).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == b"hello").count(), 4);
    until("the one that it had taken is counted", || lost(&running) == 1);
    drop(next);
    assert!(running.end(SOON));
}

#[test]
fn what_a_receiver_has_said_before_its_end_counts() {
    let (running, path) = pool("said", SOON);
    let client = running.ask(b"", b"");
    let receiver = Receiver::connect(&path, "hello 1 2");
    assert!(receiver.serve_one());
    let _more = running.ask(b"", b"");
    drop(receiver); // with an offer that it has not read
    assert_eq!(all_of(client), b"hello");
    let next = Receiver::connect(&path, "hello 1 64");
    assert!(next.serve_one());
    assert_eq!(lost(&running), 0);
}

#[test]
fn who_does_not_take_is_let_go_and_cannot_take_later() {
    let (running, path) = pool("patience", Duration::from_millis(50));
    let client = running.ask(b"", b"");
    let slow = Receiver::connect(&path, "hello 1 1");
    let (id, socket) = slow.offer().expect("it is offered");
    let next = Receiver::connect(&path, "hello 1 1");
    assert!(next.serve_one(), "it is offered again");
    let late = rustix::net::send(&slow.0, format!("taken {id}").as_bytes(), SendFlags::NOSIGNAL);
    assert_eq!(late, Err(rustix::io::Errno::PIPE));
    drop(socket);
    assert_eq!(all_of(client), b"hello");
    assert_eq!(lost(&running), 0);
}

#[test]
fn who_breaks_the_protocol_is_let_go_and_costs_nobody() {
    let (running, path) = pool("nonsense", SOON);
    let client = running.ask(b"", b"");
    let long = "x".repeat(5000);
    for nonsense in ["hello 2 1", "good morning", "taken 77", "done 0", long.as_str()] {
        let wrong = Receiver::connect(&path, "hello 1 1");
        let (id, _) = wrong.offer().expect("it is offered");
        wrong.say(nonsense.replace("done 0", &format!("done {id}")).as_str());
        assert!(wrong.offer().is_none(), "{nonsense}");
    }
    assert!(Receiver::connect(&path, "hello 1 1").serve_one());
    assert_eq!(all_of(client), b"hello");
    assert_eq!(lost(&running), 0);
}

#[test]
fn a_closed_pool_serves_what_it_has_and_waits_for_what_is_taken() {
    let (running, path) = pool("closed", SOON);
    let receiver = Receiver::connect(&path, "hello 1 1");
    let held = running.ask(b"", b"");
    let (id, mut socket) = receiver.take().expect("it is offered");
    let waiting = running.ask(b"", b"");
    let ending = std::thread::spawn(move || running.end(SOON));
    socket.write_all(b"hello").and_then(|()| socket.shutdown(Shutdown::Write)).expect("the client is there");
    assert_eq!(all_of(held), b"hello");
    receiver.say(&format!("done {id}"));
    assert!(receiver.serve_one(), "what was in the queue");
    assert_eq!(all_of(waiting), b"hello");
    assert!(receiver.offer().is_none(), "nothing more comes");
    assert!(ending.join().expect("no panic"));
}

#[test]
fn a_pool_takes_the_place_of_another_at_once() {
    let (old, path) = pool("place", SOON);
    let leaving = Receiver::connect(&path, "hello 1 1");
    let client = old.ask(b"", b"");
    let (id, mut socket) = leaving.take().expect("it is offered");
    let (new, same) = pool("place", SOON);
    assert_eq!(path, same);
    let ending = std::thread::spawn(move || old.end(SOON));
    assert!(leaving.offer().is_none(), "the old pool has nothing more");
    let other = new.ask(b"", b"");
    assert!(Receiver::connect(&path, "hello 1 1").serve_one());
    assert_eq!(all_of(other), b"hello");
    socket.write_all(b"hello").expect("the client is there");
    drop(socket);
    leaving.say(&format!("done {id}"));
    assert!(ending.join().expect("no panic"));
    let mut text = String::new();
    (&client).read_to_string(&mut text).expect("an orderly close");
    assert!(text == "hello" && path.exists(), "the path is the new pool's");
    assert!(new.end(SOON));
}

#[test]
fn what_is_no_socket_is_not_replaced() {
    let path = std::env::temp_dir().join(format!("vestibule-file-{}", std::process::id()));
    std::fs::write(&path, "a file").expect("a temporary file");
    let error = Place::take(&path, 0o600).err().expect("it is no socket");
    assert_eq!((error.kind(), remedy(&error)), (io::ErrorKind::AlreadyExists, "; remove that, or name another path"));
    assert_eq!(std::fs::read(&path).expect("it is there"), b"a file");
    std::fs::remove_file(&path).expect("it is ours");
    let missing = Place::take(Path::new("/no/such/directory/x"), 0o600).err().expect("there is no such directory");
    assert_eq!((missing.kind(), remedy(&missing)), (io::ErrorKind::NotFound, "; make its directory"));
}

#[test]
fn receivers_may_come_and_go() {
    let (running, path) = pool("level", SOON);
    for _ in 0..50 {
        let client = running.ask(b"", b"");
        let going = Receiver::connect(&path, "hello 1 4");
        drop(going.offer());
        drop(going);
        assert!(Receiver::connect(&path, "hello 1 4").serve_one());
        assert_eq!(all_of(client), b"hello");
    }
    assert_eq!(lost(&running), 0);
    assert!(running.end(SOON));
}
