//! A ring that says which sockets are ready, and nothing else: what the floor of `vestibule-profile relay` stands on.
//!
//! Safe to use from code that knows nothing of io_uring: no operation here hands the kernel an address of memory, and the
//! kernel holds a reference to the file of every operation in flight. Who closes a socket too early gets the events of
//! nobody, at worst.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::accept::{is_phantom, reserve_phantoms};
use super::setup::{self, Abilities, Lock, SetupError};

/// Bytes can be read (poll(2)).
pub const READABLE: u32 = libc::POLLIN as u32;
/// Bytes can be written.
pub const WRITABLE: u32 = libc::POLLOUT as u32;
/// The peer writes no more.
pub const PEER_DONE: u32 = libc::POLLRDHUP as u32;

/// A burst larger than this stays in the kernel's overflow list until the next turn.
const CQ_ENTRIES: u32 = 32_768;
/// Marks the accept; tokens of the caller are smaller.
const ACCEPT: u64 = u64::MAX;
/// Marks what nobody waits for.
const FORGET: u64 = u64::MAX - 1;
/// One below which tokens have to stay.
const TOKENS: u64 = FORGET;

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// A connection.
    Accepted(OwnedFd),
    /// A socket is ready.
    Ready {
        /// As given to [`Bare::poll`].
        token: u64,
        /// For what, as poll(2) has it; 0 if polling has failed or was ended.
        mask: u32,
        /// Whether more will come without another [`Bare::poll`].
        armed: bool,
    },
}

/// The ring, for one thread and one listener.
pub struct Bare {
    io: IoUring,
    listener: TcpListener,
    /// Built, not yet in the submission queue.
    queued: VecDeque<squeue::Entry>,
}

impl Bare {
    /// Makes a ring on this thread, to be used only here, and accepts from then on.
    ///
    /// # Errors
    /// [`SetupError`] names cause and remedy.
    pub fn new(listener: TcpListener) -> Result<Bare, SetupError> {
        reserve_phantoms();
        let (io, _) = setup::ring(CQ_ENTRIES, Abilities { lock: Lock::Open, ..Abilities::ALL })?;
        let mut bare = Bare { io, listener, queued: VecDeque::new() };
        bare.accept();
        Ok(bare)
    }

    /// Tells from now on, or once, when the socket is ready for what `mask` says. `token` comes back in events.
    ///
    /// # Panics
    /// If the token is one of the two largest numbers.
    pub fn poll(&mut self, socket: impl AsFd, mask: u32, once: bool, token: u64) {
        assert!(token < TOKENS, "the largest numbers are not for callers");
        let fd = Fd(socket.as_fd().as_raw_fd());
        self.queued.push_back(opcode::PollAdd::new(fd, mask).multi(!once).build().user_data(token));
    }

    /// Ends the polling of `token`: its last event, with `armed: false`, is yet to come.
    pub fn forget(&mut self, token: u64) {
        let remove = opcode::PollRemove::new(token).build().user_data(FORGET);
        self.queued.push_back(remove.flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Hands over what was asked for, waits for an event unless `now`, and appends the events.
    ///
    /// # Errors
    /// That of io_uring_enter(2), EINTR aside.
    pub fn turn(&mut self, now: bool, events: &mut Vec<Event>) -> io::Result<()> {
        self.hand_over()?;
        // Even when nothing is waited for: without GETEVENTS a DEFER_TASKRUN ring completes nothing.
        let zero = Timespec::new();
        let arguments = if now { SubmitArgs::new().timespec(&zero) } else { SubmitArgs::new() };
        match self.io.submitter().submit_with_args(1, &arguments).map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::EINTR | libc::EBUSY | libc::ETIME), _)) => {}
            Err((_, error)) => return Err(error),
        }
        let mut accepting = true;
        for entry in self.io.completion() {
            accepting &= entry.user_data() != ACCEPT || cqueue::more(entry.flags());
            events.extend(event(&entry));
        }
        if !accepting {
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        let fd = Fd(self.listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        self.queued.push_back(entry.user_data(ACCEPT));
    }

    fn hand_over(&mut self) -> io::Result<()> {
        while let Some(entry) = self.queued.front() {
            // SAFETY: entries are built in this file only, and none of them has an address of memory.
            if unsafe { self.io.submission().push(entry) }.is_ok() {
                self.queued.pop_front();
            } else {
                self.io.submit()?;
            }
        }
        Ok(())
    }
}

fn event(entry: &cqueue::Entry) -> Option<Event> {
    let result = entry.result();
    match entry.user_data() {
        ACCEPT if result >= 0 && !is_phantom(result) => {
            // SAFETY: the kernel has just made this descriptor for this accept, and nobody else has it.
            Some(Event::Accepted(unsafe { OwnedFd::from_raw_fd(result) }))
        }
        ACCEPT | FORGET => None,
        token => Some(Event::Ready { token, mask: result.try_into().unwrap_or(0), armed: cqueue::more(entry.flags()) }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use super::*;

    /// Turns until something has happened, and that has to be one thing.
    fn one(bare: &mut Bare) -> Event {
        let mut events = Vec::new();
        while events.is_empty() {
            bare.turn(false, &mut events).expect("the ring turns");
        }
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }

    #[test]
    fn it_accepts_polls_and_forgets() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let mut bare = Bare::new(listener).expect("the kernel makes rings");
        let mut client = TcpStream::connect(address).expect("it listens");
        let Event::Accepted(socket) = one(&mut bare) else { panic!("nothing else was asked for") };
        bare.poll(&socket, READABLE | PEER_DONE, false, 7);
        for _ in 0..2 {
            client.write_all(b"x").expect("connected");
            let Event::Ready { token: 7, mask, armed: true } = one(&mut bare) else { panic!("it is polled") };
            assert_eq!(mask & (READABLE | PEER_DONE), READABLE);
        }
        bare.forget(7);
        assert!(matches!(one(&mut bare), Event::Ready { token: 7, mask: 0, armed: false }));
        bare.poll(&socket, WRITABLE, true, 8);
        assert!(matches!(one(&mut bare), Event::Ready { token: 8, mask: WRITABLE, armed: false }));
    }
}
