//! What both halves of a ring stand on: operations go in with a token, completions come out with it.
//!
//! The core owns no memory that the kernel writes to. Whoever pushes an operation that names memory keeps it until that
//! operation has completed; [`Core::in_flight`] tells when the last one has.

use std::collections::VecDeque;
use std::io;
use std::thread;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::setup::{self, Abilities, Lock, Rung, SetupError};
use super::token::Token;
use super::{BATCH_MAX, locked};

/// Pieces of deferred work that one entry of a DEFER_TASKRUN ring runs, if no more completions than that are waited for
/// (since 6.13).
const DEFERRED_MAX: usize = 20;

/// How often a submission that the kernel refuses is tried in a row, and the rest after one that failed for want of memory:
/// a second in all.
const SUBMIT_ATTEMPTS: u32 = 500;
const SUBMIT_REST: Duration = Duration::from_millis(2);

/// The kernel's queues.
pub struct Core {
    io: IoUring,
    /// Completions that have left the kernel's queue: less than a batch, and what one entry brings at most.
    reaped: VecDeque<cqueue::Entry>,
    rung: Rung,
    /// Completions that there should be room for.
    wanted: u32,
    /// Why it may do more than it is asked for, if it may.
    unlocked: Option<io::Error>,
    /// The completion queue was full, which nobody has been told yet.
    overflowed: bool,
    /// Operations that were pushed, and whose last completion was not handed out yet.
    in_flight: usize,
    /// The kernel takes no submissions any more.
    refused: Option<io::Error>,
    #[cfg(test)]
    pub entries: usize,
}

impl Core {
    /// Queues with room for `completions` completions; must be called on the thread that will use them. They are there for
    /// what has to be registered, and take operations after [`Core::begin`].
    pub fn new(completions: u32, abilities: Abilities) -> Result<Core, SetupError> {
        let (io, rung) = setup::ring(completions, abilities)?;
        let reaped = VecDeque::with_capacity(io.params().cq_entries() as usize);
        Ok(Core {
            io,
            reaped,
            rung,
            wanted: setup::completion_entries(completions),
            unlocked: None,
            overflowed: false,
            in_flight: 0,
            refused: None,
            #[cfg(test)]
            entries: 0,
        })
    }

    /// The set-up flags that the kernel has accepted.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Completions that there is room for, and that there should be.
    pub fn completion_entries(&self) -> (u32, u32) {
        (self.io.params().cq_entries(), self.wanted)
    }

    /// Bytes of memory that the queues keep locked.
    pub fn locked(&self) -> u64 {
        locked::queues(self.io.params().sq_entries(), self.io.params().cq_entries())
    }

    /// Locks the queues to what a ring is asked for and lets them begin. Where that is refused they are made anew, with
    /// nothing registered and no lock: `false` then.
    pub fn begin(&mut self, completions: u32, abilities: Abilities) -> Result<bool, SetupError> {
        let operations = match abilities.lock {
            Lock::Own => setup::OPERATIONS,
            #[cfg(test)]
            Lock::Fewer(these) => these,
            Lock::Open => {
                self.unlocked = Some(io::Error::other("not asked for"));
                return Ok(true);
            }
        };
        self.unlocked = setup::lock(&self.io, operations).err();
        let Err(refused) = setup::begin(&self.io) else { return Ok(true) };
        *self = Core::new(completions, Abilities { lock: Lock::Open, ..abilities })?;
        self.unlocked = Some(refused);
        Ok(false)
    }

    /// Why the ring is not locked to its operations, if it is not.
    pub fn unlocked(&self) -> Option<&io::Error> {
        self.unlocked.as_ref()
    }

    /// Lets the kernel know memory for READ_FIXED.
    ///
    /// # Safety
    /// The memory stays until the core is dropped.
    pub unsafe fn register(&self, region: libc::iovec) -> io::Result<()> {
        // SAFETY: what the caller says.
        unsafe { self.io.submitter().register_buffers(&[region]) }
    }

    /// Operations whose last completion has not come out yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Completions that are there without asking the kernel.
    #[cfg(test)]
    pub fn reaped(&self) -> usize {
        self.reaped.len()
    }

    /// Puts an operation into the submission queue, which is submitted in between if it is full.
    ///
    /// # Safety
    /// Memory that the entry names stays where it is, and is touched by nobody else, until its last completion has come
    /// out of [`Core::next`]; if that does not happen, for good.
    pub unsafe fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.pack());
        let mut attempts = 0;
        while self.refused.is_none() {
            // SAFETY: what the caller says of memory. An operation on a descriptor whose number was closed, or given to
            // another file, before it is submitted fails, or brings readiness that its token assigns to nobody.
            let pushed = unsafe { self.io.submission().push(&entry) };
            match pushed {
                Ok(()) => {
                    self.in_flight += 1;
                    return;
                }
                Err(_) => self.flush(&mut attempts),
            }
        }
        // It never happens, and the next wait says why: the ring is broken.
    }

    /// Asks for the end of an operation, which completes by itself.
    pub fn cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.pack()).build();
        // SAFETY: no memory is named.
        unsafe { self.push(entry, Token::Cancel) };
    }

    /// Asks for the end of everything. Dear where much is in flight: the kernel searches.
    pub fn cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        // SAFETY: no memory is named.
        unsafe { self.push(entry, Token::Cancel) };
    }

    /// Submits what was pushed and waits for a completion, at most `limit` (`None`: as long as it takes).
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        // Who has a whole batch to handle must not ask for more: every entry lets the kernel accept all that wait.
        if self.reaped.len() >= BATCH_MAX {
            return Ok(());
        }
        // What is left of the last batch must be handled before anything is waited for.
        let limit = if self.reaped.is_empty() { limit } else { Some(Duration::ZERO) };
        let before = self.reaped.len();
        self.enter(1, limit)?;
        // The kernel has stopped at its bound, not for want of work: once more for the rest of the batch, which it runs in
        // one piece if so much is asked for. Nothing is waited for, as it may be less.
        let room = BATCH_MAX.saturating_sub(self.reaped.len());
        if room > 0 && self.reaped.len() - before >= DEFERRED_MAX && self.io.submission().taskrun() {
            self.enter(room, Some(Duration::ZERO))?;
        }
        Ok(())
    }

    /// The next completion that was reaped, by its token; `None` for tokens of nobody.
    pub fn next(&mut self) -> Option<(Option<Token>, cqueue::Entry)> {
        let entry = self.reaped.pop_front()?;
        if !cqueue::more(entry.flags()) {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        Some((Token::unpack(entry.user_data()), entry))
    }

    /// Whether the completion queue was full since this was asked last.
    pub fn take_overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    fn enter(&mut self, want: usize, limit: Option<Duration>) -> io::Result<()> {
        #[cfg(test)]
        {
            self.entries += 1;
        }
        let entered = match limit {
            None => self.io.submitter().submit_and_wait(want),
            Some(limit) => {
                let limit = Timespec::from(limit);
                self.io.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&limit))
            }
        };
        self.overflowed |= self.io.submission().cq_overflow();
        self.reap();
        entered.map(drop).or_else(pass)
    }

    /// Submits without waiting, to make room in the submission queue. Where the kernel has no memory for that it gets some
    /// time, and after [`SUBMIT_ATTEMPTS`] the ring counts as broken.
    fn flush(&mut self, attempts: &mut u32) {
        let Err(error) = self.io.submit() else { return };
        // EBUSY passes when completions are taken out of the queue.
        tracing::debug!(%error, "submitting in mid-turn");
        self.reap();
        *attempts += 1;
        if *attempts == SUBMIT_ATTEMPTS {
            self.refused = Some(error);
        } else if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM)) {
            thread::sleep(SUBMIT_REST);
        }
    }

    fn reap(&mut self) {
        self.reaped.extend(self.io.completion());
    }
}

/// Whether a ring is whole though waiting for it has failed.
pub(super) fn pass(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        // The time is up; a signal; or completions must be taken out first, which is always done next.
        Some(libc::ETIME | libc::EINTR | libc::EBUSY) => Ok(()),
        // No memory for an operation, which is tried again.
        Some(libc::EAGAIN | libc::ENOMEM) => {
            thread::sleep(SUBMIT_REST);
            Ok(())
        }
        // An accept, or a slot, would wait for ever.
        Some(libc::EBADR) => {
            Err(io::Error::other("the kernel had no memory for completions and has dropped some (EBADR)"))
        }
        _ => Err(error),
    }
}
