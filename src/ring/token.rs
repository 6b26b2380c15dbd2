//! `user_data`: what a submission says of itself and its completion says back, packed into 64 bits.
//!
//! ```text
//!  63      60 59               32 31                0
//! |   kind   |    generation     |      index       |
//! ```
//! The index is a slot, a listener, or the place of a watched socket. The generation tells the users of a slot or a place
//! apart: a completion whose generation is not its own belongs to an earlier user and must touch nothing.

/// Generations count from 0 and wrap at 28 bits; a slot would have to be reused 268 million times between a submission
/// and its completion to be taken for another.
pub const GENERATION_BITS: u32 = 28;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// What a completion is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The multishot accept of a listener.
    Accept {
        /// Index of the listener in this ring.
        listener: u32,
    },
    /// The read of a slot.
    Read {
        /// Index of the slot.
        slot: u32,
        /// The slot's user, [`GENERATION_BITS`] wide.
        generation: u32,
    },
    /// The watch of a connected socket.
    Watch {
        /// Where its user keeps it.
        place: u32,
        /// The place's user, [`GENERATION_BITS`] wide.
        generation: u32,
    },
    /// The answer to a cancel request; what was cancelled completes by itself.
    Cancel,
    /// The read of the eventfd by which other threads wake this one.
    Wake,
}

const KIND_SHIFT: u32 = 60;
const ACCEPT: u64 = 1;
const READ: u64 = 2;
const CANCEL: u64 = 3;
const WAKE: u64 = 4;
const WATCH: u64 = 5;

impl Token {
    /// The token as `user_data`.
    pub fn pack(self) -> u64 {
        match self {
            Token::Accept { listener } => ACCEPT << KIND_SHIFT | u64::from(listener),
            Token::Read { slot, generation } => used(READ, slot, generation),
            Token::Watch { place, generation } => used(WATCH, place, generation),
            Token::Cancel => CANCEL << KIND_SHIFT,
            Token::Wake => WAKE << KIND_SHIFT,
        }
    }

    /// The token in `user_data`; `None` for a value that [`Token::pack`] never makes.
    pub fn unpack(user_data: u64) -> Option<Token> {
        let index = user_data as u32;
        let generation = (user_data >> 32) as u32 & GENERATION_MASK;
        match user_data >> KIND_SHIFT {
            ACCEPT => Some(Token::Accept { listener: index }),
            READ => Some(Token::Read { slot: index, generation }),
            WATCH => Some(Token::Watch { place: index, generation }),
            CANCEL => Some(Token::Cancel),
            WAKE => Some(Token::Wake),
            _ => None,
        }
    }
}

/// A token with a user of its index.
fn used(kind: u64, index: u32, generation: u32) -> u64 {
    kind << KIND_SHIFT | u64::from(generation & GENERATION_MASK) << 32 | u64::from(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_and_unpacks() {
        for token in [
            Token::Accept { listener: 0 },
            Token::Accept { listener: u32::MAX },
            Token::Read { slot: 0, generation: 0 },
            Token::Read { slot: u32::MAX, generation: GENERATION_MASK },
            Token::Read { slot: 16_383, generation: 7 },
            Token::Watch { place: u32::MAX, generation: GENERATION_MASK },
            Token::Cancel,
            Token::Wake,
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(0), None);
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
