//! The watches of a session's two sockets, and the numbers by which a ring knows a session again.

use crate::conn::{GENERATION_BITS, SlotId};
use crate::relay::Side;
use crate::ring::Streams;

/// The watch of one socket of a session. Each server that was tried has one of its own, so that what is told of one that
/// was given up is not taken for the next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    pub place: u32,
    pub generation: u32,
}

impl Watch {
    /// Servers of a session whose watches are told apart.
    const ATTEMPTS: u32 = 32;

    pub fn of(slot: SlotId, side: Side, attempts: u32) -> Watch {
        let place = slot.index * 2 + u32::from(side == Side::Server);
        let generation = match side {
            Side::Client => slot.generation,
            Side::Server => slot.generation.wrapping_mul(Watch::ATTEMPTS) + attempts % Watch::ATTEMPTS,
        };
        Watch { place, generation: generation & GENERATION_MASK }
    }

    pub fn begin<D: Streams>(self, driver: &mut D, socket: &D::Socket) {
        driver.watch(self.place, self.generation, socket);
    }

    pub fn end<D: Streams>(self, driver: &mut D) {
        driver.unwatch(self.place, self.generation);
    }
}

const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// A session's number for the backend in whose line it waits.
pub fn packed(slot: SlotId) -> u64 {
    u64::from(slot.generation) << 32 | u64::from(slot.index)
}

/// The session of such a number.
pub fn unpacked(packed: u64) -> SlotId {
    SlotId { index: packed as u32, generation: (packed >> 32) as u32 }
}
