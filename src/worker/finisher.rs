//! The end of conversations, for those who must not wait: what is left is sent, and what the client still sends is read
//! away, on a thread that serves many at a time.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use socket2::SockRef;

use crate::dispatch::{Accepted, FINISH_BYTES_MAX, Permit};

/// Connections that one finisher ends at a time; as many may wait for it.
pub const FINISHING_MAX: usize = 1024;
/// Bytes read away at once.
const SCRATCH: usize = 4096;

/// Ends conversations for handlers that must not wait ([`Pool::here`](crate::Pool::here)): sends what is left, then FIN, then
/// reads away what the client still sends until it closes too. Closing at once would reset a connection with unread bytes,
/// and a reset can destroy what is under way.
///
/// Its thread starts with the first connection, serves up to [`FINISHING_MAX`], and ends with the last clone.
///
/// ```
/// use std::time::Duration;
/// use vestibule::worker::Finisher;
/// use vestibule::{Accepted, Pool};
///
/// let finisher = Finisher::new("full", Duration::from_secs(1));
/// let pool = Pool::here("full", move |connection: Accepted| {
///     finisher.finish(connection, b"* BYE we are full, try again later\r\n");
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Finisher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    patience: Duration,
    /// `None` before the first connection.
    thread: Mutex<Option<Running>>,
}

#[derive(Clone, Debug)]
struct Running {
    inbox: Sender<Task>,
    bell: Arc<OwnedFd>,
}

/// One connection on its way out. What counts it against its client's limit is dropped behind the socket.
#[derive(Debug)]
struct Task {
    socket: TcpStream,
    rest: Vec<u8>,
    /// Bytes of `rest` that are sent.
    sent: usize,
    /// FIN is sent, too.
    ended: bool,
    /// Bytes that were read away.
    read: usize,
    deadline: Instant,
    _permit: Option<Permit>,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Waits,
    Done,
}

impl Finisher {
    /// A finisher whose thread bears `name`. A client has `patience` to take what is left, and as long again to close.
    pub fn new(name: impl Into<String>, patience: Duration) -> Finisher {
        Finisher(Arc::new(Inner { name: name.into(), patience, thread: Mutex::new(None) }))
    }

    /// Ends a conversation after `rest`; never waits. `false` if it was closed at once, because [`FINISHING_MAX`] others wait
    /// already, or a thread cannot be had.
    pub fn finish(&self, mut connection: Accepted, rest: &[u8]) -> bool {
        let Some(running) = self.running() else { return false };
        let deadline = Instant::now() + self.0.patience;
        let rest = connection.seal(rest).unwrap_or_else(|| rest.into());
        let (socket, permit) = connection.into_socket();
        let task = Task { socket, rest, sent: 0, ended: false, read: 0, deadline, _permit: permit };
        let taken = running.inbox.try_send(task).is_ok();
        // Full only of rings that nobody has heard: then it is heard anyway.
        let _ = rustix::io::write(&running.bell, &1u64.to_ne_bytes());
        taken
    }

    fn running(&self) -> Option<Running> {
        let mut thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = self.start().inspect_err(|error| tracing::warn!("{}: no thread: {error}", self.0.name)).ok();
        }
        thread.clone()
    }

    fn start(&self) -> io::Result<Running> {
        let bell = Arc::new(rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let (inbox, tasks) = crossbeam_channel::bounded(FINISHING_MAX);
        let (patience, heard) = (self.0.patience, bell.clone());
        thread::Builder::new().name(self.0.name.clone()).spawn(move || serve(&tasks, &heard, patience))?;
        Ok(Running { inbox, bell })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(Running { inbox, bell }) = thread.take() {
            drop(inbox);
            let _ = rustix::io::write(&bell, &1u64.to_ne_bytes());
        }
    }
}

/// Until nobody sends any more and all are done.
fn serve(inbox: &Receiver<Task>, bell: &OwnedFd, patience: Duration) {
    let (mut tasks, mut open) = (Vec::new(), true);
    while open || !tasks.is_empty() {
        wait(&tasks, bell);
        let _ = rustix::io::read(bell, &mut [0; 8]);
        while open && tasks.len() < FINISHING_MAX {
            match inbox.try_recv() {
                Ok(task) => tasks.push(task),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => open = false,
            }
        }
        let now = Instant::now();
        tasks.retain_mut(|task| task.advance(now, patience) == Step::Waits);
    }
}

/// Until the bell rings, a socket is ready, or a deadline passes.
fn wait(tasks: &[Task], bell: &OwnedFd) {
    let mut sockets = vec![PollFd::new(bell, PollFlags::IN)];
    sockets.extend(tasks.iter().map(|task| PollFd::from_borrowed_fd(task.socket.as_fd(), task.awaits())));
    let now = Instant::now();
    let next = tasks.iter().map(|task| task.deadline.saturating_duration_since(now)).min();
    let limit = next.and_then(|left| Timespec::try_from(left).ok());
    let _ = rustix::event::poll(&mut sockets, limit.as_ref());
}

impl Task {
    fn awaits(&self) -> PollFlags {
        if self.ended { PollFlags::IN } else { PollFlags::OUT }
    }

    fn advance(&mut self, now: Instant, patience: Duration) -> Step {
        if !self.ended {
            match self.send(now, patience) {
                Ok(Step::Done) => {}
                Ok(Step::Waits) => return self.unless_late(now),
                Err(_) => return Step::Done,
            }
        }
        match self.read_away() {
            Step::Done => Step::Done,
            Step::Waits => self.unless_late(now),
        }
    }

    fn unless_late(&self, now: Instant) -> Step {
        if self.deadline <= now { Step::Done } else { Step::Waits }
    }

    /// Sends what fits, and FIN behind the last byte.
    fn send(&mut self, now: Instant, patience: Duration) -> io::Result<Step> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        while self.sent < self.rest.len() {
            match SockRef::from(&self.socket).send_with_flags(&self.rest[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Waits),
                Err(error) => return Err(error),
            }
        }
        self.socket.shutdown(Shutdown::Write)?;
        self.ended = true;
        self.deadline = now + patience;
        Ok(Step::Done)
    }

    fn read_away(&mut self) -> Step {
        let mut scratch = [std::mem::MaybeUninit::uninit(); SCRATCH];
        while self.read < FINISH_BYTES_MAX {
            match SockRef::from(&self.socket).recv_with_flags(&mut scratch, libc::MSG_DONTWAIT) {
                Ok(0) => return Step::Done,
                Ok(count) => self.read += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Waits,
                Err(_) => return Step::Done,
            }
        }
        Step::Done
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::dispatch::testing::{SOON, proxied, until};
    use crate::worker::testing::all_of;

    #[test]
    fn the_last_words_arrive_though_nobody_reads_what_the_client_sent() {
        let finisher = Finisher::new("end", SOON);
        let clients: Vec<_> = (0..50)
            .map(|number| {
                let (mut client, connection) = proxied(b"");
                client.write_all(&vec![b'x'; number * 1000]).expect("connected");
                assert!(finisher.finish(connection, b"* BYE\r\n"));
                client
            })
            .collect();
        for client in clients {
            client.shutdown(Shutdown::Write).expect("connected");
            assert_eq!(all_of(client), b"* BYE\r\n");
        }
    }

    #[test]
    fn who_neither_reads_nor_closes_is_left_after_a_while() {
        let finisher = Finisher::new("end", Duration::from_millis(30));
        let (silent, connection) = proxied(b"");
        let (full, other) = proxied(b"");
        assert!(finisher.finish(connection, b"* BYE\r\n") && finisher.finish(other, &vec![b'x'; 16 << 20]));
        let gone = |client: &TcpStream| {
            let mut client = client;
            client.write_all(b"a").is_err()
        };
        until("both are closed", || gone(&silent) && gone(&full));
    }

    #[test]
    fn the_thread_ends_when_all_are_done() {
        let finisher = Finisher::new("end", SOON);
        let (client, connection) = proxied(b"");
        finisher.finish(connection, b"a");
        let inbox = finisher.running().expect("it runs").inbox;
        let weak = Arc::downgrade(&finisher.running().expect("it runs").bell);
        drop((finisher, inbox));
        assert!(weak.upgrade().is_some(), "one is not done");
        client.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(all_of(client), b"a");
        until("the thread ends", || weak.upgrade().is_none());
    }
}
