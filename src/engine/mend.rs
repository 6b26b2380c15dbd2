//! A ring's thread: one ring after the other, until one ends in order.
//!
//! A ring that ends by a fault of its own, or of the kernel's, is replaced on the same sockets, whose backlogs hold who
//! comes meanwhile; the others go on. Whose header was awaited is lost. Sessions go on if the ring itself says that it is
//! broken: nothing of them is in flight between two turns. After a panic nobody knows what state they are in, and they end.

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

use super::acceptor::Acceptor;
use super::pools::Pools;
use super::relay::LiveSession;
use super::start::{Frame, RingPlan, Seat, build};
use super::tally::{Count, Tally};
use super::{Command, SetupError};
use crate::relay::End;
use crate::ring::{Native, Waker};

/// Rings that may fail one after the other, each within [`STEADY`], before nobody tries any more.
const FAILURES_MAX: u32 = 8;
/// Rest before a ring is replaced; it grows with each failure.
const REST: Duration = Duration::from_millis(50);
/// A ring that has run for so long was good.
const STEADY: Duration = Duration::from_secs(10);

/// What a ring's thread needs for its rings.
pub(super) struct Life {
    pub(super) seat: Seat,
    pub(super) frame: Frame,
    pub(super) waker: Waker,
    pub(super) tally: Arc<Tally>,
    pub(super) inbox: Receiver<Command>,
    /// What the next ring would have to do; `None` if there is to be none, because everything ends.
    pub(super) plan: Option<Former>,
}

/// A plan whose sockets are the ring's: it may have given some up.
pub(super) struct Former {
    pub(super) plan: RingPlan,
    pub(super) sockets: Vec<Weak<TcpListener>>,
}

/// Why a ring has stopped.
pub(super) enum Stop {
    /// It was told to.
    InOrder,
    /// Its kernel's side is broken; what is on this side is whole.
    Broken(std::io::Error),
}

impl Life {
    /// A ring that has nothing to do yet.
    pub(super) fn ring<D: Native>(&self) -> Result<Acceptor<D, Pools>, SetupError> {
        build(&self.seat, self.frame.clone(), self.waker.clone(), self.tally.clone())
    }

    /// Runs a ring and, should it fail, those that take its place.
    pub(super) fn live<D: Native>(mut self, mut acceptor: Acceptor<D, Pools>) {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let stopped =
                catch_unwind(AssertUnwindSafe(|| run(&mut acceptor, &self.inbox, &self.tally, &mut self.plan)));
            let number = self.seat.index;
            match &stopped {
                Ok(Stop::InOrder) => {
                    // There are some only if nobody has let them end.
                    acceptor.forsake_sessions(End::Drained);
                    drop(acceptor);
                    self.tally.locks(0);
                    // Whoever waits for an answer to what came too late must not wait until the engine is gone.
                    return self.inbox.try_iter().for_each(drop);
                }
                Ok(Stop::Broken(error)) => tracing::error!(event = "ring", "ring {number} is broken: {error}"),
                Err(_) => tracing::error!(
                    event = "ring",
                    "ring {number} has panicked: its connections are closed, other rings go on"
                ),
            }
            failures = if begun.elapsed() < STEADY { failures + 1 } else { 1 };
            let Some(next) = self.replace(acceptor, stopped.is_ok(), failures) else { return };
            acceptor = next;
        }
    }

    /// Another ring on the sockets of one that has failed.
    fn replace<D: Native>(
        &mut self,
        old: Acceptor<D, Pools>,
        whole: bool,
        mut failures: u32,
    ) -> Option<Acceptor<D, Pools>> {
        // Before the old one goes: what is closed loses its backlog.
        let plan = self.plan.as_ref().map(Former::again);
        let sessions = forsake(old, whole && plan.is_some());
        self.tally.locks(0);
        let plan = plan?;
        loop {
            if failures > FAILURES_MAX {
                tracing::error!(
                    event = "ring",
                    "ring {} is given up: {FAILURES_MAX} have failed one after the other",
                    self.seat.index
                );
                return None;
            }
            std::thread::sleep(REST * failures);
            match self.ring() {
                Ok(mut acceptor) => {
                    plan.apply(&mut acceptor);
                    self.tally.count(Count::RingReplaced);
                    tracing::warn!(
                        event = "ring",
                        "ring {} is replaced, with {} sessions",
                        self.seat.index,
                        sessions.len()
                    );
                    acceptor.take_in_sessions(sessions);
                    return Some(acceptor);
                }
                Err(error) => {
                    tracing::error!(event = "ring", "ring {} cannot be replaced yet: {error}", self.seat.index);
                    failures += 1;
                }
            }
        }
    }
}

/// Turn after turn until a drain is complete or the engine is gone. `plan` is what the next ring would have to do.
pub(super) fn run<D: Native>(
    acceptor: &mut Acceptor<D, Pools>,
    inbox: &Receiver<Command>,
    tally: &Tally,
    plan: &mut Option<Former>,
) -> Stop {
    loop {
        tally.turn();
        // All of them: several wakes may have come as one.
        loop {
            match inbox.try_recv() {
                Ok(command) => {
                    if let Some(stop) = obey(command, acceptor, plan) {
                        return stop;
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Stop::InOrder,
            }
        }
        match acceptor.turn() {
            Ok(false) => {}
            Ok(true) => return Stop::InOrder,
            Err(error) => return Stop::Broken(error),
        }
    }
}

/// Does what a ring is told; tells whether it is to stop.
fn obey<D: Native>(command: Command, acceptor: &mut Acceptor<D, Pools>, kept: &mut Option<Former>) -> Option<Stop> {
    match command {
        Command::Drain { grace, sessions, taken_over } => {
            *kept = None;
            acceptor.drain(grace);
            match taken_over {
                true => acceptor.let_sessions_leave(sessions),
                false => acceptor.let_sessions_go(sessions),
            }
        }
        Command::HandOver { listeners, grace, to } => {
            *kept = None;
            acceptor.hand_over(&listeners, grace, to);
        }
        Command::HandOverSessions { to, stay } => {
            stay.fetch_add(acceptor.hand_over_sessions(&to), Ordering::Relaxed);
        }
        Command::TakeSessions(sessions) => acceptor.take_in_sessions(sessions),
        Command::Look => acceptor.look(),
        Command::TakeIn(arrivals) => acceptor.take_in(arrivals),
        Command::Change { plan, done } => {
            *kept = Some(Former::of(&plan));
            plan.apply(acceptor);
            drop(done);
        }
        Command::Amend { plan, done } => {
            plan.amend(acceptor);
            if let Some(kept) = kept {
                kept.plan.amend(plan);
            }
            let _ = done.send(());
        }
        Command::LetGo { backend, server, end, over } => acceptor.let_go(&backend, server, end, over),
        Command::Ask(question) => acceptor.ask(question),
        Command::Quit => return Some(Stop::InOrder),
        #[cfg(test)]
        Command::Panic => panic!("as asked for"),
        #[cfg(test)]
        Command::Break => return Some(Stop::Broken(std::io::Error::other("as asked for"))),
    }
    None
}

impl Former {
    fn of(plan: &RingPlan) -> Former {
        let sockets = plan.sockets.iter().flatten().map(Arc::downgrade).collect();
        Former { plan: plan.on(Vec::new()), sockets }
    }

    /// The plan on those of its sockets that are still open.
    fn again(&self) -> RingPlan {
        self.plan.on(self.sockets.iter().map(Weak::upgrade).collect())
    }
}

/// Lets go of a ring that has failed, and takes its sessions out if they can go on.
fn forsake<D: Native>(mut old: Acceptor<D, Pools>, whole: bool) -> Vec<LiveSession> {
    let (to, from) = crossbeam_channel::unbounded(); // bounded by the ring's sessions
    // What has failed once may do so again.
    let done = catch_unwind(AssertUnwindSafe(move || {
        if whole {
            old.hand_over_sessions(&to);
        }
        old.forsake_guests();
        old.forsake_sessions(End::RingFailed);
    }));
    if done.is_err() {
        tracing::error!("not everything of a ring that has failed could be ended in order");
    }
    from.try_iter().collect()
}
