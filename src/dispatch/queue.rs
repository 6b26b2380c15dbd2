//! The bounded queue between the rings and one pool's workers.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};

use super::bell::Bell;
use super::gate::{Gate, Wake};
use super::sync::{AtomicBool, Ordering};
use super::{Accepted, Losses, lock};
use crate::stats::Latency;

/// What happens to connections while a pool's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// Stop accepting; the kernel's backlog holds new connections until the queue has drained to half.
    Pause,
    /// Abort the newest connection.
    Reject,
}

/// Why a connection was not queued; the connection comes back.
#[derive(Debug)]
pub enum Rejected {
    /// No room.
    Full(Accepted),
    /// The workers are gone.
    Closed(Accepted),
}

/// A queue of at most `capacity` connections for the pool called `name`.
#[cfg(test)]
pub fn queue(name: &str, capacity: usize, overload: Overload) -> (Queue, Intake) {
    queue_of(Arc::new(PoolRecord::new(name)), capacity, overload)
}

/// A queue for a pool that takes the place of another one, and goes on counting where that is.
pub fn queue_of(record: Arc<PoolRecord>, capacity: usize, overload: Overload) -> (Queue, Intake) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    let (gate, bell) = (Arc::new(Gate::new(capacity / 2)), Arc::new(Bell::default()));
    let closed = Arc::new(AtomicBool::default());
    let closing = Arc::new(Closing { bell: bell.clone(), closed: closed.clone() });
    let queue = Queue { sender, closing, overload, gate: gate.clone(), record: record.clone() };
    (queue, Intake::new(receiver, bell, Post::new(gate), record, closed))
}

/// The engine's end.
#[derive(Clone)]
pub struct Queue {
    // Fields are dropped in this order: whoever is woken by the last end of the queue finds it closed.
    sender: Sender<Accepted>,
    closing: Arc<Closing>,
    overload: Overload,
    gate: Arc<Gate>,
    record: Arc<PoolRecord>,
}

impl Queue {
    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// What to do when it is full.
    pub fn overload(&self) -> Overload {
        self.overload
    }

    /// Hands a connection over, or gives it back. Never blocks, and wakes nobody: [`Queue::wake_workers`] does, once for many.
    pub fn offer(&self, connection: Accepted) -> Result<(), Box<Rejected>> {
        self.sender.try_send(connection).map_err(|error| {
            Box::new(match error {
                TrySendError::Full(connection) => Rejected::Full(connection),
                TrySendError::Disconnected(connection) => Rejected::Closed(connection),
            })
        })
    }

    /// Wakes sleeping workers, as many as there are connections waiting. To be called after [`Queue::offer`], before
    /// anything that may block: until then connections may wait while all workers sleep.
    pub fn wake_workers(&self) {
        self.closing.bell.wake(self.sender.len());
    }

    /// Asks for one wake-up when the queue has drained to half. Returns `false` if it already has, or if the workers
    /// have gone: then nobody will wake `sleeper`, and the caller tries again at once.
    pub fn wake_when_low(&self, sleeper: &Arc<dyn Wake>) -> bool {
        self.gate.wake_when_low(sleeper, || self.sender.len())
    }

    /// Whether a pool of this length and conduct can go on with it: somebody still takes from it, and nothing differs.
    pub fn can_go_on(&self, capacity: usize, overload: Overload) -> bool {
        self.sender.capacity() == Some(capacity) && self.overload == overload && self.gate.is_manned()
    }

    /// Connections waiting for a worker.
    pub fn len(&self) -> usize {
        self.sender.len()
    }

    /// Whether none waits.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.sender.is_empty()
    }

    /// What the pool has measured and counted; it outlives the queue.
    #[cfg(test)]
    pub fn record(&self) -> Arc<PoolRecord> {
        self.record.clone()
    }
}

/// The workers' end; every worker has a clone of its own.
pub struct Intake {
    // Fields are dropped in this order: a worker leaves the queue before it leaves its post.
    receiver: Receiver<Accepted>,
    post: Post,
    bell: Arc<Bell>,
    called: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
    record: Arc<PoolRecord>,
    wait: Arc<Latency>,
}

impl Intake {
    fn new(
        receiver: Receiver<Accepted>,
        bell: Arc<Bell>,
        post: Post,
        record: Arc<PoolRecord>,
        closed: Arc<AtomicBool>,
    ) -> Intake {
        let wait = record.new_wait();
        // Not with the first connection.
        wait.take_memory();
        Intake { receiver, post, bell, called: Arc::default(), closed, record, wait }
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Waits for the next connection; `None` once the engine has closed the queue and it is empty.
    pub fn recv(&self) -> Option<Accepted> {
        loop {
            let found = self.look().or_else(|| self.bell.sleep(&self.called, || self.look()));
            if let Some(found) = found {
                return self.took(found);
            }
        }
    }

    /// The same for a task.
    ///
    /// ```
    /// use vestibule::dispatch::{Accepted, Intake};
    ///
    /// async fn serve(mut intake: Intake, handler: impl AsyncFn(Accepted)) {
    ///     while let Some(connection) = intake.next().await {
    ///         handler(connection).await;
    ///     }
    /// }
    /// ```
    #[allow(clippy::should_implement_trait)] // an iterator's `next` would block
    pub fn next(&mut self) -> Next<'_> {
        Next { intake: self, listed: false }
    }

    /// A connection, or later a call of `waker` when there may be one.
    pub(crate) fn poll_recv(&self, waker: &Waker) -> Poll<Option<Accepted>> {
        let found = self.look().map_or_else(|| self.bell.poll(&self.called, waker, || self.look()), Poll::Ready);
        found.map(|found| self.took(found))
    }

    /// To be called by who got [`Poll::Pending`] from `poll_recv` and does not ask again.
    pub(crate) fn leave(&self) {
        self.bell.leave(&self.called);
    }

    /// Whether it is the other end of this queue.
    pub(crate) fn takes_from(&self, queue: &Queue) -> bool {
        Arc::ptr_eq(&self.bell, &queue.closing.bell)
    }

    /// Whether the engine has closed the queue; connections may still be in it.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn took(&self, found: Result<Accepted, TryRecvError>) -> Option<Accepted> {
        let connection = found.ok()?;
        self.post.gate.taken(self.receiver.len());
        self.wait.record(Instant::now().saturating_duration_since(connection.accepted_at()));
        Some(connection)
    }

    /// A connection, or the error that there will be no more; `None`: not yet.
    fn look(&self) -> Option<Result<Accepted, TryRecvError>> {
        Some(self.receiver.try_recv()).filter(|found| !matches!(found, Err(TryRecvError::Empty)))
    }

    /// Where the workers contain the panics of their handlers, and where lost connections are counted.
    pub fn losses(&self) -> Arc<Losses> {
        self.record.losses_of_pool()
    }
}

/// The next connection, once there is one; `None` once the engine has closed the queue and it is empty. May be dropped at
/// any time: no connection is lost by it.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Next<'a> {
    intake: &'a Intake,
    listed: bool,
}

impl Future for Next<'_> {
    type Output = Option<Accepted>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Accepted>> {
        let polled = self.intake.poll_recv(context.waker());
        self.listed = polled.is_pending();
        polled
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        if self.listed {
            self.intake.leave();
        }
    }
}

impl Clone for Intake {
    fn clone(&self) -> Self {
        let post = Post::new(self.post.gate.clone());
        Intake::new(self.receiver.clone(), self.bell.clone(), post, self.record.clone(), self.closed.clone())
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("name", &self.name()).field("len", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// Shared by all ends of the queue on the engine's side; the last lets go of its sender first, and of this then.
struct Closing {
    bell: Arc<Bell>,
    closed: Arc<AtomicBool>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        self.bell.wake(usize::MAX);
    }
}

/// What a pool has measured and counted.
#[derive(Debug)]
pub struct PoolRecord {
    name: String,
    /// The times from accept to worker: each worker records into one of its own.
    waits: Mutex<Vec<Arc<Latency>>>,
    losses: Arc<Losses>,
}

impl PoolRecord {
    /// Nothing yet.
    pub fn new(name: &str) -> PoolRecord {
        PoolRecord { name: name.into(), waits: Mutex::default(), losses: Arc::new(Losses::new(name)) }
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where one worker records the times from accept on: beside what one that is gone has recorded, if there is such.
    pub(super) fn new_wait(&self) -> Arc<Latency> {
        let mut waits = lock(&self.waits);
        let left = waits.iter().find(|wait| Arc::strong_count(wait) == 1).cloned();
        left.unwrap_or_else(|| {
            waits.push(Arc::default());
            waits[waits.len() - 1].clone()
        })
    }

    /// How many of them there are.
    #[cfg(test)]
    pub(super) fn times_kept(&self) -> usize {
        lock(&self.waits).len()
    }

    pub(super) fn losses_of_pool(&self) -> Arc<Losses> {
        self.losses.clone()
    }

    /// Adds the time from accept to worker of every connection so far to `total`.
    pub fn add_waits_to(&self, total: &mut hdrhistogram::Histogram<u64>) {
        lock(&self.waits).iter().for_each(|wait| wait.add_to(total));
    }

    /// How many connections the pool has lost, by a panic in a handler above all.
    pub fn losses(&self) -> u64 {
        self.losses.count()
    }
}

/// Counts a worker as long as it lives. The last to leave disconnects the queue, and sleepers must find that out.
struct Post {
    gate: Arc<Gate>,
}

impl Post {
    fn new(gate: Arc<Gate>) -> Post {
        gate.enter();
        Post { gate }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.gate.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use crossbeam_channel::{Sender as Bell, bounded};

    use super::*;
    use crate::dispatch::testing::{SOON, mute};

    struct Sleeper(Bell<()>);

    impl Wake for Sleeper {
        fn wake(&self) {
            let _ = self.0.try_send(());
        }
    }

    fn sleeper() -> (Arc<dyn Wake>, Receiver<()>) {
        let (bell, rings) = bounded(1);
        (Arc::new(Sleeper(bell)), rings)
    }

    fn full(capacity: usize) -> (Queue, Intake) {
        let (queue, intake) = queue("imap", capacity, Overload::Pause);
        for _ in 0..capacity {
            queue.offer(mute()).expect("there is room");
        }
        (queue, intake)
    }

    #[test]
    fn a_full_queue_gives_the_connection_back() {
        let (queue, intake) = full(2);
        assert!(matches!(*queue.offer(mute()).expect_err("it is full"), Rejected::Full(_)));
        assert_eq!((queue.len(), queue.name(), queue.overload()), (2, "imap", Overload::Pause));
        drop(intake.recv());
        queue.offer(mute()).expect("there is room again");
    }

    #[test]
    fn a_queue_without_workers_gives_the_connection_back() {
        let (queue, intake) = full(2);
        drop(intake);
        assert!(matches!(*queue.offer(mute()).expect_err("nobody is there"), Rejected::Closed(_)));
    }

    #[test]
    fn a_closed_queue_is_emptied_first() {
        let (queue, intake) = full(3);
        drop(queue);
        assert_eq!(std::iter::from_fn(|| intake.recv()).count(), 3);
    }

    #[test]
    fn wakes_once_when_drained_to_half() {
        for capacity in [1, 2, 3, 8] {
            let (queue, intake) = full(capacity);
            let (sleeper, rings) = sleeper();
            assert!(queue.wake_when_low(&sleeper));
            assert!(queue.wake_when_low(&sleeper), "asking twice is asking once");
            while queue.len() > capacity / 2 {
                assert!(rings.try_recv().is_err(), "{} of {capacity} is not low", queue.len());
                drop(intake.recv());
            }
            assert!(rings.try_recv().is_ok(), "capacity {capacity}");
            while !queue.is_empty() {
                drop(intake.recv());
            }
            assert!(rings.try_recv().is_err(), "once");
        }
    }

    #[test]
    fn a_queue_that_is_low_already_says_so() {
        let (queue, intake) = full(4);
        let ((one, one_rings), (two, two_rings)) = (sleeper(), sleeper());
        assert!(queue.wake_when_low(&one));
        for _ in 0..2 {
            drop(intake.recv());
        }
        assert!(!queue.wake_when_low(&two));
        assert!(one_rings.try_recv().is_ok() && two_rings.try_recv().is_err());
    }

    #[test]
    fn sleepers_learn_that_the_workers_have_gone() {
        let (queue, intake) = full(4);
        let other = intake.clone();
        let (sleeper, rings) = sleeper();
        assert!(queue.wake_when_low(&sleeper));
        drop(intake);
        assert!(rings.try_recv().is_ok(), "the first may be the last");
        assert!(queue.wake_when_low(&sleeper), "but it was not");
        drop(other);
        assert!(rings.try_recv().is_ok());
        assert!(!queue.wake_when_low(&sleeper), "whoever asks later is told at once");
        assert!(matches!(*queue.offer(mute()).expect_err("nobody is there"), Rejected::Closed(_)));
    }

    /// Two engines that sleep whenever the queue is full, against three workers: a lost wake-up would hang.
    #[test]
    fn no_wake_up_is_lost() {
        const EACH: usize = 20_000;
        let (queue, intake) = queue("imap", 4, Overload::Pause);
        let engines: Vec<_> = (0..2)
            .map(|_| {
                thread::spawn({
                    let queue = queue.clone();
                    move || offer_all(&queue, EACH)
                })
            })
            .collect();
        let workers: Vec<_> = std::iter::repeat_n(intake, 3)
            .map(|intake| thread::spawn(move || std::iter::from_fn(|| intake.recv()).count()))
            .collect();
        let mut waits = crate::stats::empty_histogram();
        for engine in engines {
            engine.join().expect("it was woken each time");
        }
        queue.record().add_waits_to(&mut waits);
        drop(queue);
        let taken: usize = workers.into_iter().map(|worker| worker.join().expect("no panic")).sum();
        assert_eq!(taken, 2 * EACH);
        assert!(waits.len() <= 2 * EACH as u64 && waits.len() >= 2 * EACH as u64 - 7, "{} waits", waits.len());
    }

    /// Rings for three connections at a time, and before it sleeps.
    fn offer_all(queue: &Queue, count: usize) {
        let (sleeper, rings) = sleeper();
        for number in 0..count {
            let mut connection = mute();
            loop {
                let Err(rejected) = queue.offer(connection) else { break };
                let Rejected::Full(back) = *rejected else { panic!("the workers have gone") };
                connection = back;
                queue.wake_workers();
                if queue.wake_when_low(&sleeper) {
                    rings.recv_timeout(SOON).expect("a wake-up");
                }
            }
            if number % 3 == 0 {
                queue.wake_workers();
            }
        }
        queue.wake_workers();
    }

    /// Nobody rings for the last connection but the end of the queue itself.
    #[test]
    fn the_end_of_the_queue_wakes_everybody() {
        let (queue, intake) = queue("imap", 4, Overload::Pause);
        let workers: Vec<_> = std::iter::repeat_n(intake, 3)
            .map(|intake| thread::spawn(move || std::iter::from_fn(|| intake.recv()).count()))
            .collect();
        thread::sleep(Duration::from_millis(5));
        let other = queue.clone();
        drop(queue);
        other.offer(mute()).expect("there is room");
        drop(other);
        let taken: usize = workers.into_iter().map(|worker| worker.join().expect("no panic")).sum();
        assert_eq!(taken, 1);
    }

    #[test]
    fn measures_from_accept_to_worker() {
        let (queue, intake) = full(1);
        thread::sleep(Duration::from_millis(5));
        drop(intake.recv());
        let mut waits = crate::stats::empty_histogram();
        queue.record().add_waits_to(&mut waits);
        assert_eq!(waits.len(), 1);
        assert!(waits.max() >= 5000, "{} microseconds", waits.max());
    }
}
