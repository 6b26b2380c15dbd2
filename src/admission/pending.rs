//! Door 1: how many headers one peer may keep a ring waiting for.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Refusal;
use crate::net::canonical;

/// The pending connections of one ring by peer. Only peers with pending connections have an entry, so the ring's own
/// limit of pending connections bounds it.
#[derive(Debug, Default)]
pub struct PendingPeers {
    /// 0: no limit, and nothing is counted.
    most: u32,
    peers: HashMap<IpAddr, u32>,
}

impl PendingPeers {
    /// `most` pending connections of one peer, among `pending` in all; a limit that cannot be reached costs nothing.
    pub fn new(most: u32, pending: u32) -> PendingPeers {
        let most = if most < pending { most } else { 0 };
        // Twice the room: a table that is never more than half full cleans up in place and does not allocate.
        let room = if most == 0 { 0 } else { 2 * pending as usize };
        PendingPeers { most, peers: HashMap::with_capacity(room) }
    }

    /// Counts one more; [`leave`](PendingPeers::leave) must follow when its header is complete or it is closed.
    pub fn enter(&mut self, peer: IpAddr) -> Result<(), Refusal> {
        if self.most == 0 {
            return Ok(());
        }
        let count = self.peers.entry(canonical(peer)).or_default();
        if *count >= self.most {
            return Err(Refusal::PeerPendingLimit);
        }
        *count += 1;
        Ok(())
    }

    /// Counts one that waits already, whatever the limit.
    pub fn count(&mut self, peer: IpAddr) {
        if self.most > 0 {
            *self.peers.entry(canonical(peer)).or_default() += 1;
        }
    }

    /// One that has entered waits no more.
    pub fn leave(&mut self, peer: IpAddr) {
        if self.most == 0 {
            return;
        }
        let peer = canonical(peer);
        match self.peers.get_mut(&peer) {
            Some(count) if *count > 1 => *count -= 1,
            known => {
                debug_assert!(known.is_some(), "only those leave that have entered");
                self.peers.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn each_peer_has_its_share() {
        let mut peers = PendingPeers::new(2, 16);
        assert!(peers.enter(peer(1)).is_ok() && peers.enter("::ffff:0.0.0.1".parse().expect("an address")).is_ok());
        assert_eq!(peers.enter(peer(1)), Err(Refusal::PeerPendingLimit));
        assert!(peers.enter(peer(2)).is_ok());
        peers.leave(peer(1));
        assert!(peers.enter(peer(1)).is_ok());
        for n in [1, 1, 2] {
            peers.leave(peer(n));
        }
        assert!(peers.peers.is_empty());
    }

    #[test]
    fn a_limit_that_cannot_be_reached_is_none() {
        for most in [0, 16, 17] {
            let mut peers = PendingPeers::new(most, 16);
            for _ in 0..100 {
                assert!(peers.enter(peer(1)).is_ok());
            }
            peers.leave(peer(1));
            assert_eq!(peers.peers.capacity(), 0);
        }
    }

    #[test]
    fn nothing_is_allocated_after_the_start() {
        let mut peers = PendingPeers::new(1, 64);
        let room = peers.peers.capacity();
        for n in 0..100_000 {
            assert!(peers.enter(peer(n)).is_ok());
            if n >= 64 {
                peers.leave(peer(n - 64));
            }
        }
        assert_eq!(peers.peers.len(), 64);
        // Less where places of removed entries wait for their clean-up; a table that grew would have twice as much.
        assert!(peers.peers.capacity() <= room, "{} of {room}", peers.peers.capacity());
    }
}
