//! What must hold for a ring's sessions between two calls; for tests.

use super::Relays;
use super::session::Phase;

impl<S> Relays<S> {
    /// What must hold between two calls.
    pub fn check_invariants(&mut self) {
        for slot in self.sessions.ids().collect::<Vec<_>>() {
            let session = self.sessions.get_mut(slot).expect("as listed");
            let (serves, opens) = match session.phase {
                Phase::Queued { .. } | Phase::Doubted { .. } => (false, true),
                Phase::Connecting => (true, true),
                Phase::Greeting | Phase::Open | Phase::Lingering { .. } => (true, false),
                Phase::Parting { .. } => (false, false),
            };
            let is_counted = session.chosen.is_some() || (session.elsewhere.is_some() && session.server.is_some());
            assert!(session.server.is_some() == serves && is_counted == serves, "{:?}", session.phase);
            assert!(session.opening.is_some() || !opens, "{:?}", session.phase);
            assert!(self.wheel.is_set(slot.index), "every session has a deadline");
            assert_eq!(session.busy, self.busy.contains(&slot), "who has more to do is in the queue, and only who has");
            session.pair.check_invariants();
        }
    }
}
