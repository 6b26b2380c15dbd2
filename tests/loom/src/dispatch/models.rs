//! Threads that use the bell and the gate as the queue does.

use std::sync::Arc;

use super::bell::Bell;
use super::gate::{Gate, Wake};
use super::lock;
use super::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, thread};

/// A queue: how many wait, and whether more may come. No more of its order is relied on than that whoever takes sees what
/// was put in.
#[derive(Default)]
struct Channel {
    waiting: AtomicUsize,
    closed: AtomicBool,
}

impl Channel {
    /// Takes one if there is one.
    fn take(&self) -> bool {
        self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1)).is_ok()
    }

    fn len(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }
}

#[derive(Default)]
struct Pool {
    channel: Channel,
    bell: Bell,
}

impl Pool {
    fn offer(&self) {
        self.channel.waiting.fetch_add(1, Ordering::AcqRel);
    }

    fn wake_workers(&self) {
        self.bell.wake(self.channel.len());
    }

    fn close(&self) {
        self.channel.closed.store(true, Ordering::Release);
        self.bell.wake(usize::MAX);
    }

    /// As the queue does: whether there was one, or `false` once it is closed and empty.
    fn next(&self, called: &Arc<AtomicBool>) -> bool {
        let look = || {
            // In this order: what came before the end is still there.
            let closed = self.channel.closed.load(Ordering::Acquire);
            let found = self.channel.take();
            (found || closed).then_some(found)
        };
        loop {
            if let Some(found) = look().or_else(|| self.bell.sleep(called, look)) {
                return found;
            }
        }
    }
}

/// Workers that each take one connection and end, or take all there are.
fn workers(pool: &Arc<Pool>, count: usize, take_all: bool) -> Vec<thread::JoinHandle<usize>> {
    let worker = |_| {
        let pool = pool.clone();
        thread::spawn(move || {
            let called = Arc::new(AtomicBool::new(false));
            let mut taken = 0;
            while pool.next(&called) {
                taken += 1;
                if !take_all {
                    break;
                }
            }
            taken
        })
    };
    (0..count).map(worker).collect()
}

fn taken(workers: Vec<thread::JoinHandle<usize>>) -> usize {
    workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
}

pub fn one_worker() {
    let pool = Arc::new(Pool::default());
    let workers = workers(&pool, 1, false);
    pool.offer();
    pool.wake_workers();
    assert_eq!(taken(workers), 1);
}

pub fn two_workers_are_called_one_by_one() {
    let pool = Arc::new(Pool::default());
    let workers = workers(&pool, 2, false);
    for _ in 0..2 {
        pool.offer();
        pool.wake_workers();
    }
    assert_eq!(taken(workers), 2);
}

pub fn two_workers_are_called_at_once() {
    let pool = Arc::new(Pool::default());
    let workers = workers(&pool, 2, false);
    pool.offer();
    pool.offer();
    pool.wake_workers();
    assert_eq!(taken(workers), 2);
}

pub fn closing_calls_everybody() {
    let pool = Arc::new(Pool::default());
    let workers = workers(&pool, 2, true);
    pool.offer();
    // Nobody rings for it but the end.
    pool.close();
    assert_eq!(taken(workers), 1);
}

/// A ring that sleeps until it is woken.
struct Ring(loom::sync::Notify);

impl Wake for Ring {
    fn wake(&self) {
        self.0.notify();
    }
}

impl Ring {
    fn new() -> Arc<Ring> {
        Arc::new(Ring(loom::sync::Notify::new()))
    }

    fn sleep(&self) {
        self.0.wait();
    }
}

/// A queue of so many, and its gate.
struct Full {
    channel: Channel,
    gate: Gate,
    capacity: usize,
}

impl Full {
    fn new(capacity: usize) -> Arc<Full> {
        let full = Full { channel: Channel::default(), gate: Gate::new(capacity / 2), capacity };
        full.channel.waiting.store(capacity, Ordering::SeqCst);
        full.gate.enter();
        Arc::new(full)
    }

    /// Puts one in, or says that there is no room.
    fn offer(&self) -> bool {
        let room = |count| (count < self.capacity).then_some(count + 1);
        self.channel.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok()
    }

    /// A ring with one connection more than there is room for.
    fn offer_patiently(&self) {
        let ring = Ring::new();
        let sleeper: Arc<dyn Wake> = ring.clone();
        while !self.offer() {
            if self.gate.wake_when_low(&sleeper, || self.channel.len()) {
                ring.sleep();
            }
        }
    }

    fn take(&self) {
        assert!(self.channel.take(), "there are enough");
        self.gate.taken(self.channel.len());
    }
}

pub fn a_full_queue_drains() {
    let full = Full::new(2);
    let worker = full.clone();
    let worker = thread::spawn(move || {
        worker.take();
        worker.take();
    });
    full.offer_patiently();
    worker.join().expect("no panic");
}

pub fn two_wait_for_room() {
    let full = Full::new(2);
    let other = full.clone();
    let other = thread::spawn(move || other.offer_patiently());
    let worker = full.clone();
    let worker = thread::spawn(move || {
        worker.take();
        worker.take();
    });
    full.offer_patiently();
    other.join().expect("it was woken");
    worker.join().expect("no panic");
}

pub fn the_last_worker_goes() {
    let full = Full::new(2);
    let gone = Arc::new(Mutex::new(false));
    let worker = full.clone();
    let has_gone = gone.clone();
    let worker = thread::spawn(move || {
        // The queue is closed for rings before the post is left.
        *lock(&has_gone) = true;
        worker.gate.leave();
    });
    let ring = Ring::new();
    let sleeper: Arc<dyn Wake> = ring.clone();
    while !*lock(&gone) {
        if full.gate.wake_when_low(&sleeper, || full.channel.len()) {
            ring.sleep();
        }
    }
    worker.join().expect("no panic");
}
