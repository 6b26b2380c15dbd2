//! Wakes workers that sleep for want of connections: once for what a ring has queued in a turn, not once a connection.
//!
//! The channel's own blocking receive spins and yields before it sleeps, which on a core shared with the ring costs more
//! than the connection itself; and it wakes its receiver with the first connection of a batch, which then runs in the
//! ring's place.
//!
//! No call is lost: a worker makes itself known, then looks at the queue once more, then sleeps; a ring queues, then looks
//! whether anybody sleeps. Whichever comes second sees the other. A worker that is called while it finds work by itself
//! passes the call on: it was for a connection that may still be waiting. Tasks sleep by the same bell. `tests/loom` checks
//! this in every order.

use std::sync::Arc;
use std::task::{Poll, Waker};

use super::lock;
use super::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, Thread, fence, thread};

/// The bell of one pool.
#[derive(Default)]
pub(super) struct Bell {
    sleepers: Mutex<Vec<Sleeper>>,
    /// How many there are; a ring that finds none takes no lock.
    asleep: AtomicUsize,
}

struct Sleeper {
    whom: Whom,
    called: Arc<AtomicBool>,
}

/// Whom a call wakes.
enum Whom {
    Thread(Thread),
    Task(Waker),
}

impl Whom {
    fn wake(self) {
        match self {
            Whom::Thread(thread) => thread.unpark(),
            Whom::Task(waker) => waker.wake(),
        }
    }
}

impl Bell {
    /// Looks once more, and sleeps until called if there is nothing. `called` is the worker's own.
    pub fn sleep<T>(&self, called: &Arc<AtomicBool>, look: impl FnOnce() -> Option<T>) -> Option<T> {
        let found = self.enlist(called, Whom::Thread(thread::current()), look);
        while found.is_none() && !called.load(Ordering::Acquire) {
            thread::park();
        }
        found
    }

    /// The same for a task, which is woken when called and looks again then. If it does not, it has to
    /// [`leave`](Bell::leave): a call that reaches nobody is lost.
    pub fn poll<T>(&self, called: &Arc<AtomicBool>, waker: &Waker, look: impl FnOnce() -> Option<T>) -> Poll<T> {
        self.enlist(called, Whom::Task(waker.clone()), look).map_or(Poll::Pending, Poll::Ready)
    }

    /// Looks no more; a call that has come meanwhile is passed on.
    pub fn leave(&self, called: &Arc<AtomicBool>) {
        let was_called = self.change(|sleepers| {
            let place = sleepers.iter().position(|sleeper| Arc::ptr_eq(&sleeper.called, called));
            place.map(|place| sleepers.remove(place)).is_none()
        });
        if was_called {
            self.wake(1);
        }
    }

    /// Stands among the sleepers unless there is something.
    fn enlist<T>(&self, called: &Arc<AtomicBool>, whom: Whom, look: impl FnOnce() -> Option<T>) -> Option<T> {
        called.store(false, Ordering::Relaxed);
        self.change(|sleepers| {
            // A task that looks without having been called stands there already, maybe for another waker.
            if let Whom::Task(_) = whom {
                sleepers.retain(|sleeper| !Arc::ptr_eq(&sleeper.called, called));
            }
            sleepers.push(Sleeper { whom, called: called.clone() });
        });
        fence(Ordering::SeqCst);
        let found = look();
        if found.is_some() {
            self.leave(called);
        }
        found
    }

    /// Calls at most `count` of those that sleep, the last to fall asleep first: its caches are the warmest.
    pub fn wake(&self, count: usize) {
        fence(Ordering::SeqCst);
        for _ in 0..count {
            if self.asleep.load(Ordering::SeqCst) == 0 {
                return;
            }
            let Some(Sleeper { whom, called }) = self.change(Vec::pop) else { return };
            called.store(true, Ordering::Release);
            whom.wake();
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Sleeper>) -> T) -> T {
        let mut sleepers = lock(&self.sleepers);
        let result = change(&mut sleepers);
        self.asleep.store(sleepers.len(), Ordering::SeqCst);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dispatch::testing::until;

    #[test]
    fn calls_as_many_as_asked_for() {
        let bell = Bell::default();
        let woken = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    bell.sleep(&Arc::default(), || None::<()>);
                    woken.fetch_add(1, Ordering::SeqCst);
                });
            }
            until("all sleep", || bell.asleep.load(Ordering::SeqCst) == 3);
            bell.wake(0);
            bell.wake(2);
            until("two are called", || woken.load(Ordering::SeqCst) == 2);
            assert_eq!(bell.asleep.load(Ordering::SeqCst), 1);
            bell.wake(usize::MAX);
        });
        assert_eq!(woken.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn who_finds_work_does_not_sleep() {
        let bell = Bell::default();
        assert_eq!(bell.sleep(&Arc::default(), || Some(7)), Some(7));
        assert_eq!(bell.asleep.load(Ordering::SeqCst), 0);
        bell.wake(1);
    }

    #[test]
    fn who_is_called_while_it_finds_work_calls_another() {
        let bell = Bell::default();
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| bell.sleep(&Arc::default(), || None::<()>));
            until("it sleeps", || bell.asleep.load(Ordering::SeqCst) == 1);
            // The last to make itself known is called first.
            bell.sleep(&Arc::default(), || {
                bell.wake(1);
                Some(())
            });
            let called = bell.asleep.load(Ordering::SeqCst) == 0;
            bell.wake(usize::MAX);
            assert!(called, "the other sleeps on");
            sleeper.join().expect("it was called");
        });
    }

    struct Counting(AtomicUsize);

    impl std::task::Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_task_is_woken_once_a_call_however_often_it_looks() {
        let (bell, counting, called) = (Bell::default(), Arc::new(Counting(AtomicUsize::new(0))), Arc::default());
        let waker = Waker::from(counting.clone());
        for _ in 0..3 {
            assert_eq!(bell.poll(&called, &waker, || None::<()>), Poll::Pending);
        }
        bell.wake(usize::MAX);
        assert_eq!(counting.0.load(Ordering::SeqCst), 1);
        assert_eq!(bell.poll(&called, &waker, || Some(7)), Poll::Ready(7));
        assert_eq!(bell.asleep.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_task_that_gives_up_leaves_its_call_to_another() {
        let bell = Bell::default();
        let [one, other] = [(); 2].map(|()| Arc::new(Counting(AtomicUsize::new(0))));
        let (its, others) = (Arc::default(), Arc::default());
        assert!(bell.poll(&others, &Waker::from(other.clone()), || None::<()>).is_pending());
        assert!(bell.poll(&its, &Waker::from(one.clone()), || None::<()>).is_pending());
        bell.wake(1);
        assert_eq!(one.0.load(Ordering::SeqCst), 1, "the last to fall asleep");
        bell.leave(&its);
        assert_eq!(other.0.load(Ordering::SeqCst), 1);
    }

    /// A token of park(3) left over from another use of the thread is no call.
    #[test]
    fn an_early_end_of_the_pause_is_no_call() {
        let bell = Bell::default();
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                thread::current().unpark();
                bell.sleep(&Arc::default(), || None::<()>);
            });
            until("it sleeps", || bell.asleep.load(Ordering::SeqCst) == 1);
            thread::sleep(Duration::from_millis(5));
            assert!(!sleeper.is_finished());
            bell.wake(1);
        });
    }
}
