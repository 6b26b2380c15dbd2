//! A pool whose connections are pulled by the program, in an accept loop of its own.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{Accepted, Intake, Queue, RunningWorkers};

/// The connections of a pool made by [`Pool::incoming`](super::Pool::incoming), for a program with an accept loop of its own;
/// [`Engine::incoming`](crate::Engine::incoming) gives it out. Clones share the work: each connection goes to one of them.
///
/// Pulled by threads with [`recv`](Incoming::recv) or by iterating, by tasks of any runtime with [`next`](Incoming::next).
/// It goes on over [`Engine::replace`](crate::Engine::replace) if the new configuration has a pool of the same name that is
/// pulled, too, with the same [queue](super::Pool::queue) and [overload](super::Pool::overload). Otherwise, and by a drain, the
/// pool is closed: it ends then, with `None`, once it is empty. Once the last clone is dropped nobody serves the pool, and its connections are closed and counted as
/// `overload`.
#[derive(Clone)]
pub struct Incoming {
    /// `None` once it has ended.
    open: Option<Open>,
}

#[derive(Clone)]
struct Open {
    intake: Intake,
    /// Nobody sends on it: when all are gone, so is everybody who pulls.
    _puller: Sender<Infallible>,
}

/// Those who pull, as a drain sees them.
pub(super) struct Pullers(Receiver<Infallible>);

impl Incoming {
    pub(super) fn new(intake: Intake) -> (Incoming, Pullers) {
        let (puller, gone) = crossbeam_channel::bounded(0);
        (Incoming { open: Some(Open { intake, _puller: puller }) }, Pullers(gone))
    }

    /// Waits for the next connection; `None` once the pool is closed and empty.
    pub fn recv(&mut self) -> Option<Accepted> {
        let connection = self.open.as_ref()?.intake.recv();
        self.note(connection)
    }

    /// The same for a task. The future may be dropped at any time, such as by a `select!`: no connection is lost by it.
    ///
    /// ```
    /// # async fn accept_loop(engine: &vestibule::Engine) {
    /// let mut incoming = engine.incoming("imap").expect("a pool made by Pool::incoming");
    /// while let Some(connection) = incoming.next().await {
    ///     println!("{}", connection.client()); // spawn a task for it
    /// }
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Accepted> {
        let connection = self.open.as_mut()?.intake.next().await;
        self.note(connection)
    }

    /// The pool's name; `None` once it has ended.
    pub fn pool(&self) -> Option<&str> {
        self.open.as_ref().map(|open| open.intake.name())
    }

    /// Whether it takes from this queue.
    pub(crate) fn pulls(&self, queue: &Queue) -> bool {
        self.open.as_ref().is_some_and(|open| open.intake.takes_from(queue))
    }

    fn note(&mut self, connection: Option<Accepted>) -> Option<Accepted> {
        if connection.is_none() {
            self.open = None;
        }
        connection
    }
}

/// Connections one after the other, for a thread.
#[derive(Debug)]
pub struct IntoIter(Incoming);

impl IntoIterator for Incoming {
    type Item = Accepted;
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter(self)
    }
}

impl Iterator for IntoIter {
    type Item = Accepted;

    fn next(&mut self) -> Option<Accepted> {
        self.0.recv()
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("pool", &self.pool()).finish_non_exhaustive()
    }
}

impl RunningWorkers for Pullers {
    fn join(&mut self, limit: Duration) -> bool {
        matches!(self.0.recv_timeout(limit), Err(RecvTimeoutError::Disconnected))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::{self, Thread};

    use super::*;
    use crate::dispatch::testing::mute;
    use crate::dispatch::{Overload, queue};

    struct Parked(Thread);

    impl Wake for Parked {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// The smallest runtime.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let waker = Waker::from(Arc::new(Parked(thread::current())));
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            thread::park();
        }
    }

    #[test]
    fn tasks_and_threads_pull_from_one_pool_and_none_is_lost() {
        const ALL: usize = 20_000;
        let (queue, intake) = queue("imap", 8, Overload::Pause);
        let (incoming, mut pullers) = Incoming::new(intake);
        let by_tasks: Vec<_> = std::iter::repeat_n(incoming.clone(), 2)
            .map(|mut incoming| thread::spawn(move || block_on(count(&mut incoming))))
            .collect();
        let by_thread = thread::spawn(move || incoming.into_iter().count());
        assert!(!pullers.join(Duration::ZERO));
        let mut left = ALL;
        while left > 0 {
            left -= usize::from(queue.offer(mute()).is_ok());
            queue.wake_workers();
        }
        drop(queue);
        let counts = by_tasks.into_iter().chain([by_thread]).map(|one| one.join().expect("no panic"));
        assert_eq!(counts.sum::<usize>(), ALL);
        assert!(pullers.join(Duration::from_secs(20)), "all have seen the end");
    }

    async fn count(incoming: &mut Incoming) -> usize {
        let mut count = 0;
        while incoming.next().await.is_some() {
            count += 1;
        }
        assert!(incoming.next().await.is_none(), "and so it stays");
        count
    }

    #[test]
    fn a_future_that_is_dropped_takes_no_connection_with_it() {
        let (queue, intake) = queue("imap", 8, Overload::Pause);
        let (mut incoming, _pullers) = Incoming::new(intake);
        let mut other = incoming.clone();
        let waiting = thread::spawn(move || other.recv().is_some());
        for _ in 0..3 {
            let mut next = Box::pin(incoming.next());
            assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        queue.offer(mute()).expect("there is room");
        queue.wake_workers();
        assert!(waiting.join().expect("no panic"));
    }
}
