//! Where the main thread waits for what happens.
//!
//! A channel looks again and again for a while before it sleeps, for the sake of those who are sent to all the time. Here
//! something comes once in minutes, and looking was a part of what a reload costs.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::lock;

/// Sends; every thread has one of its own.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Receives.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    waiting: Mutex<VecDeque<T>>,
    something_came: Condvar,
}

/// An empty mailbox. It has no limit of its own.
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared { waiting: Mutex::default(), something_came: Condvar::new() });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    /// Puts something behind what waits already.
    pub fn send(&self, one: T) {
        lock(&self.0.waiting).push_back(one);
        self.0.something_came.notify_one();
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        lock(&self.0.waiting).len()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender(self.0.clone())
    }
}

impl<T> Receiver<T> {
    /// The next, however long it takes.
    pub fn recv(&self) -> T {
        let mut waiting = lock(&self.0.waiting);
        loop {
            match waiting.pop_front() {
                Some(one) => return one,
                None => waiting = self.0.something_came.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The next, if it comes in time.
    pub fn recv_timeout(&self, limit: Duration) -> Option<T> {
        let end = Instant::now() + limit;
        let mut waiting = lock(&self.0.waiting);
        while waiting.is_empty() {
            let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            let woken = self.0.something_came.wait_timeout(waiting, left);
            (waiting, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_order_from_whichever_thread() {
        const EACH: u32 = 10_000;
        let (sender, receiver) = mailbox();
        let threads: Vec<_> = (0..2)
            .map(|number| {
                let sender = sender.clone();
                std::thread::spawn(move || (0..EACH).for_each(|one| sender.send((number, one))))
            })
            .collect();
        let mut next = [0; 2];
        for _ in 0..2 * EACH {
            let (number, one) = receiver.recv();
            assert_eq!(one, next[number]);
            next[number] += 1;
        }
        threads.into_iter().for_each(|thread| thread.join().expect("it only sends"));
        assert_eq!((next, sender.len()), ([EACH; 2], 0));
    }

    #[test]
    fn who_waits_for_nothing_is_told_in_time() {
        let (sender, receiver) = mailbox();
        assert_eq!(receiver.recv_timeout(Duration::ZERO), None);
        assert_eq!(receiver.recv_timeout(Duration::from_millis(5)), None);
        sender.send(1);
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Some(1));
    }
}
