//! One side of a pair: how far its stream is, and what is held for it.

use super::WINDOW_MIN;

/// One side of a pair at rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HalfState {
    /// Its end was read.
    pub ended: bool,
    /// It takes nothing any more.
    pub deaf: bool,
    /// We have ended our stream to it.
    pub shut: bool,
    /// Bytes read from it.
    pub received: u64,
    /// Bytes for it that it had no room for.
    pub held: Vec<u8>,
}

/// One side, as we see it.
#[derive(Debug)]
pub(super) struct Half {
    /// There may be something to read.
    pub(super) readable: bool,
    /// Its end, or a reset, is behind what is there to read.
    pub(super) hung: bool,
    /// Its end was read.
    pub(super) ended: bool,
    /// Its connection is gone.
    pub(super) broken: bool,
    /// It takes nothing any more.
    pub(super) deaf: bool,
    /// We have ended our stream to it.
    pub(super) shut: bool,
    /// How much is read from it at once.
    pub(super) window: u32,
    /// Bytes for it that it had no room for.
    pub(super) held: Held,
    /// Bytes read from it.
    pub(super) received: u64,
}

impl Default for Half {
    fn default() -> Half {
        Half {
            readable: false,
            hung: false,
            ended: false,
            broken: false,
            deaf: false,
            shut: false,
            window: WINDOW_MIN as u32,
            held: Held::default(),
            received: 0,
        }
    }
}

impl Half {
    pub(super) fn state(&self) -> HalfState {
        HalfState {
            ended: self.ended,
            deaf: self.deaf,
            shut: self.shut,
            received: self.received,
            held: self.held.rest().to_vec(),
        }
    }

    pub(super) fn resume(state: HalfState) -> Half {
        let HalfState { ended, deaf, shut, received, held } = state;
        let held = Held { bytes: held, sent: 0 };
        Half { readable: true, ended, deaf, shut, received, held, ..Half::default() }
    }

    /// Whether nothing will be read from it any more.
    pub(super) fn is_over(&self) -> bool {
        self.ended || self.broken
    }
}

/// Bytes that wait for room; no memory while there are none.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn take(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.bytes.len() {
            *self = Held::default();
        }
    }
}
