//! Places at servers that are granted to sessions of other rings: a session ends on one ring, and one that waits on another
//! gets its place.
//!
//! A backend outlives rings and engines, and sessions of several may wait in its one line: so it is the backend that knows
//! their letterboxes. A ring that ends closes its box. What lies there, or comes too late, goes to the next who waits: no
//! place is lost with a ring.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::service::SharedBackend;
use crate::backend::{Grant, ServerIndex};
use crate::ring::Waker;

/// Where a ring gets grants, as long as it lives; the ring that takes its place has another one. It holds at most one grant
/// for each session that waits: as many as the backends' deadlines allow.
#[derive(Clone, Debug)]
pub struct Letterbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// No other box of this process has it, until 2^32 rings have been.
    number: u32,
    /// How its ring is told.
    waker: Option<Waker>,
    /// `None`: nobody empties it any more.
    grants: Mutex<Option<Vec<(SharedBackend, Grant)>>>,
}

impl Letterbox {
    /// An empty one, open.
    pub fn new(waker: Option<Waker>) -> Letterbox {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Letterbox(Arc::new(Inner { number, waker, grants: Mutex::new(Some(Vec::new())) }))
    }

    /// Tells it from all others: the ring of a [`Waiter`](crate::backend::Waiter).
    pub fn number(&self) -> u32 {
        self.0.number
    }

    /// Takes what has come.
    pub fn take(&self) -> Vec<(SharedBackend, Grant)> {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes what has come, the last that anybody takes.
    pub fn close(&self) -> Vec<(SharedBackend, Grant)> {
        self.lock().take().unwrap_or_default()
    }

    /// What is there.
    #[cfg(test)]
    pub fn peek(&self) -> Vec<(SharedBackend, Grant)> {
        self.lock().clone().unwrap_or_default()
    }

    /// `false`: it is closed.
    fn put(&self, backend: &SharedBackend, grant: Grant) -> bool {
        match &mut *self.lock() {
            Some(grants) => grants.push((backend.clone(), grant)),
            None => return false,
        }
        self.0.waker.iter().for_each(Waker::wake);
        true
    }

    fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<(SharedBackend, Grant)>>> {
        self.0.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The letterboxes of those who wait at a backend, or have waited.
#[derive(Debug, Default)]
pub(super) struct Boxes(Mutex<Vec<Letterbox>>);

impl Boxes {
    /// Before a session of its ring begins to wait. Those of rings that have ended go meanwhile.
    pub(super) fn add(&self, letterbox: &Letterbox) {
        let mut boxes = self.lock();
        if !boxes.iter().any(|known| known.number() == letterbox.number()) {
            boxes.retain(Letterbox::is_open);
            boxes.push(letterbox.clone());
        }
    }

    fn find(&self, number: u32) -> Option<Letterbox> {
        self.lock().iter().find(|letterbox| letterbox.number() == number).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Letterbox>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedBackend {
    /// A session at this server is over, or was never made. Its place goes to the first who waits.
    pub(in crate::engine) fn release(&self, server: ServerIndex, now: Instant) {
        let grant = self.lock().release(server, now);
        self.deliver(grant, now);
    }

    /// Gives places to those who wait, if there are some that nobody's end has made.
    pub(in crate::engine) fn grant_places(&self, now: Instant) {
        // Each grant takes one out of a bounded line.
        loop {
            let grant = self.lock().next_grant(now);
            if grant.is_none() {
                return;
            }
            self.deliver(grant, now);
        }
    }

    /// Sends a grant to the ring of the session that it is for. If that has ended, so has the session: the place goes to the
    /// next, each of whom leaves the line.
    pub(in crate::engine) fn deliver(&self, mut grant: Option<Grant>, now: Instant) {
        while let Some(granted) = grant {
            let letterbox = self.boxes().find(granted.waiter.ring);
            if letterbox.is_some_and(|letterbox| letterbox.put(self, granted)) {
                return;
            }
            grant = self.lock().release(granted.index, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::*;
    use crate::backend::{Choice, Tried, Waiter};
    use std::net::{IpAddr, Ipv4Addr};

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A backend of one server with one place, which is taken.
    fn full() -> SharedBackend {
        let mut settings = settings(&[([127, 0, 0, 1], 143).into()]);
        settings.servers[0].connection_limit = 1;
        let backend = SharedBackend::new(settings);
        let chosen = backend.lock().choose(CLIENT, &Tried::NONE, Instant::now());
        assert!(matches!(chosen, Choice::Server { .. }), "{chosen:?}");
        backend
    }

    fn wait(backend: &SharedBackend, letterbox: &Letterbox, slot: u64) {
        backend.boxes().add(letterbox);
        let waiter = Waiter { ring: letterbox.number(), session: slot };
        backend.lock().wait(waiter, CLIENT, Instant::now()).expect("the line has room");
    }

    fn held(backend: &SharedBackend) -> u32 {
        backend.lock().servers(Instant::now()).map(|server| server.sessions).sum()
    }

    #[test]
    fn a_place_that_comes_to_a_ring_after_its_end_goes_to_the_next_who_waits() {
        let (backend, now) = (full(), Instant::now());
        let [gone, there] = [(); 2].map(|()| Letterbox::new(None));
        wait(&backend, &gone, 1);
        wait(&backend, &gone, 2);
        wait(&backend, &there, 3);
        assert!(gone.close().is_empty());
        backend.release(ServerIndex(0), now);
        let granted: Vec<u64> = there.take().iter().map(|(_, grant)| grant.waiter.session).collect();
        assert_eq!((granted, held(&backend), backend.lock().view().waiting), (vec![3], 1, 0));
        backend.release(ServerIndex(0), now);
        assert_eq!(held(&backend), 0);
    }

    #[test]
    fn a_place_for_which_no_ring_is_left_is_free_again() {
        let (backend, now) = (full(), Instant::now());
        let gone = Letterbox::new(None);
        wait(&backend, &gone, 1);
        gone.close();
        backend.release(ServerIndex(0), now);
        assert_eq!((held(&backend), backend.lock().view().waiting), (0, 0));
    }

    #[test]
    fn rings_of_two_engines_that_share_a_backend_are_told_apart() {
        let (backend, now) = (full(), Instant::now());
        let [old, new] = [(); 2].map(|()| Letterbox::new(None));
        wait(&backend, &old, 7);
        wait(&backend, &new, 7);
        backend.release(ServerIndex(0), now);
        assert_eq!((old.take().len(), new.take().len()), (1, 0));
        backend.release(ServerIndex(0), now);
        assert_eq!((old.take().len(), new.take().len()), (0, 1));
    }
}
