//! The kernel edge: rings, their buffers, listening sockets, and every call of libc.
//!
//! Two drivers stand on the kernel: a [`Ring`] of io_uring, and [`Epoll`] where io_uring is forbidden. An engine's thread is
//! made for one of them, through [`Native`], so that neither pays for the other.
//!
//! A [`Ring`] belongs to one thread. One core (queues, tokens, operations in flight) stands under two halves: the accept
//! half, which is the trait [`Driver`], and the stream half, [`Streams`]. The ring owns the memory that the kernel reads
//! into; a buffer in flight cannot be reached from safe code. It has no word of the PROXY protocol: the engine gives it
//! slots and listeners and gets [`Completion`]s. What the engine needs of a ring are these traits, so that a scripted one
//! can take its place; a client, which only connects, makes do with [`Ring::for_streams`].
//!
//! Kernel facts that shape it: io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
#![allow(unsafe_code)]

mod accept;
#[doc(hidden)]
pub mod bare;
mod buffers;
mod core;
mod driver;
mod epoll;
mod kernel_tls;
mod listener;
mod locked;
mod setup;
mod stream;
mod sys;
mod token;
mod waker;

pub use buffers::{LONG_MAX, SLOT_BYTES};
pub use driver::{Completion, Driver, Errno, Native, Newcomer, ReadMode};
pub use epoll::Epoll;
pub use kernel_tls::kernel_tls;
pub use listener::{
    BACKLOG, DEFER_ACCEPT_SECONDS, Options, adopt_group, bind_group, bound_to, listen_group, reserve_group,
    serves_both_families, share_group, takes_clients_of,
};
pub use locked::COMPLETIONS_MIN;
pub use setup::{Abilities, CQ_ENTRIES_MAX, Rung, SQ_ENTRIES, SetupError, completion_entries, disabled_by_sysctl};
pub use stream::{Readiness, Streams, stream_socket};
pub use sys::{Credentials, Resource, allowed_cpus, limit, peer_credentials, pin_to, raise_open_files};
pub use token::GENERATION_BITS;
pub use waker::Waker;

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::cqueue;

use self::core::Core;
use accept::reserve_phantoms;
use buffers::Buffers;
use listener::Sockets;
use token::Token;
use waker::Bell;

/// Most completions handled in one turn, so that deadlines and commands get theirs under any load.
pub const BATCH_MAX: usize = 1024;

/// How long a ring that goes waits for what is in flight.
const QUIESCE_MAX: Duration = Duration::from_secs(1);
/// From one look to the next.
const QUIESCE_STEP: Duration = Duration::from_millis(10);

/// What a ring is to hold.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Slots: connections whose header is awaited, and those that wait for room in a queue. 0 for a ring that accepts
    /// nothing.
    pub slots: u32,
    /// Bytes of a longer buffer, for headers that do not fit in [`SLOT_BYTES`].
    pub longest: u32,
    /// Completion queue entries; at least slots + backlog of every listener is advised.
    pub completions: u32,
    /// Whether the slots' buffers are to be registered, so that reads go by READ_FIXED; that locks them in memory.
    pub registered: bool,
}

/// The kernel's ring.
pub struct Ring {
    // Order matters for dropping: the queues go before the memory that the kernel may write to.
    core: Core,
    buffers: Buffers,
    bell: Option<Bell>,
    listeners: Sockets,
    /// Nothing is armed any more.
    ending: bool,
    /// READ_FIXED is used.
    registered: bool,
    /// Why it is not, though it was asked for.
    unregistered: Option<io::Error>,
}

impl Ring {
    /// Makes a ring on this thread, to be used only here.
    ///
    /// Where the kernel does not register the buffers, reads go by RECV instead and [`Ring::unregistered`] says why.
    ///
    /// # Errors
    /// [`SetupError`] names cause and remedy.
    pub fn new(sizes: Sizes, listeners: Vec<Arc<TcpListener>>, waker: Waker) -> Result<Ring, SetupError> {
        Ring::with(Abilities::ALL, sizes, listeners, waker)
    }

    /// Makes a ring on this thread whose stream half alone is used: it has neither slots nor listeners, and nobody wakes
    /// it. Its completion queue has room for `completions`, the next power of two.
    ///
    /// # Errors
    /// [`SetupError`] names cause and remedy.
    pub fn for_streams(completions: u32) -> Result<Ring, SetupError> {
        let sizes = Sizes { slots: 0, longest: 0, completions, registered: false };
        Ring::without_bell(Abilities::ALL, sizes, Vec::new())
    }

    /// [`Ring::new`] with no more than `abilities`.
    pub(crate) fn with(
        abilities: Abilities,
        sizes: Sizes,
        listeners: Vec<Arc<TcpListener>>,
        waker: Waker,
    ) -> Result<Ring, SetupError> {
        reserve_phantoms();
        let mut ring = Ring::without_bell(abilities, sizes, listeners)?;
        ring.bell.insert(Bell::new(waker)).arm(&mut ring.core);
        Ok(ring)
    }

    fn without_bell(abilities: Abilities, sizes: Sizes, listeners: Vec<Arc<TcpListener>>) -> Result<Ring, SetupError> {
        let mut core = Core::new(sizes.completions, abilities)?;
        let buffers = Buffers::new(sizes.slots, sizes.longest);
        let region = if sizes.registered && abilities.registers() { buffers.region() } else { None };
        let mut unregistered = region.and_then(|(base, len)| {
            let region = libc::iovec { iov_base: base.cast(), iov_len: len };
            // SAFETY: the region lives in `buffers`, which the ring owns until after `core` is gone.
            unsafe { core.register(region) }.err()
        });
        if !core.begin(sizes.completions, abilities)? || !abilities.registers() {
            unregistered = Some(io::Error::from_raw_os_error(libc::EACCES));
        }
        let unregistered = unregistered.filter(|_| sizes.registered);
        let registered = sizes.registered && unregistered.is_none();
        let listeners = Sockets::new(listeners);
        Ok(Ring { core, buffers, bell: None, listeners, ending: false, registered, unregistered })
    }

    /// Whether this process may use io_uring: a small ring is made and entered.
    ///
    /// # Errors
    /// [`SetupError`] names cause and remedy.
    pub fn probe() -> Result<(), SetupError> {
        let mut ring = Ring::for_streams(2)?;
        ring.core.wait(Some(Duration::ZERO)).map_err(SetupError::new)
    }

    /// The set-up flags that the kernel has accepted.
    pub fn rung(&self) -> Rung {
        self.core.rung()
    }

    /// Why the ring is not locked to its operations (IORING_REGISTER_RESTRICTIONS), if it is not.
    pub fn unlocked(&self) -> Option<&io::Error> {
        self.core.unlocked()
    }

    /// Why reads go by RECV and not by READ_FIXED, as was asked for.
    pub fn unregistered(&self) -> Option<&io::Error> {
        self.unregistered.as_ref()
    }

    /// What a completion means; `None` if it needs no answer.
    fn understand(&mut self, token: Token, entry: &cqueue::Entry) -> Option<Completion<OwnedFd>> {
        let armed = cqueue::more(entry.flags());
        match token {
            Token::Accept { listener } => Some(self.accepted(listener, entry.result(), armed)),
            Token::Read { slot, generation } => {
                if !self.buffers.give_back(slot) {
                    return None;
                }
                Some(Completion::Read { slot, generation, result: outcome(entry.result()) })
            }
            Token::Watch { place, generation } => {
                let readiness = stream::readiness(entry.result(), armed)?;
                Some(Completion::Ready { place, generation, readiness, armed })
            }
            Token::Cancel => None,
            Token::Wake => {
                let bell = self.bell.as_mut()?;
                bell.rung();
                if !self.ending {
                    bell.arm(&mut self.core);
                }
                Some(Completion::Woken)
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.quiesce() {
            tracing::error!("reads still in flight: their memory is left to the kernel");
        }
    }
}

impl Ring {
    /// Ends everything before the memory goes, so that sockets are closed when the ring is gone; closing the ring would
    /// cancel it too, but not at once. `false` if the kernel does not give all memory back.
    fn quiesce(&mut self) -> bool {
        self.ending = true;
        let until = Instant::now() + QUIESCE_MAX;
        let (mut before, mut limit) = (usize::MAX, Duration::ZERO);
        loop {
            self.drop_completions();
            let in_flight = self.core.in_flight();
            if in_flight == 0 || Instant::now() >= until {
                break;
            }
            // Not while ends come in that were asked for one by one: the kernel's search costs the square of what is in flight.
            if in_flight >= before {
                self.core.cancel_all();
                limit = QUIESCE_STEP;
            }
            before = self.core.in_flight();
            if self.wait(Some(limit)).is_err() {
                break;
            }
        }
        self.drop_completions();
        self.buffers.busy_count() == 0 && self.bell.as_ref().is_none_or(Bell::is_at_rest)
    }

    /// Connections that come out now have nobody left to serve them: dropping closes them.
    fn drop_completions(&mut self) {
        while self.next().is_some() {}
    }
}

fn outcome(result: i32) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno(-result))
}

#[cfg(test)]
mod both;
#[cfg(test)]
mod tests;
