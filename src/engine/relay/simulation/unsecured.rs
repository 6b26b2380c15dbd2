//! In the place of TLS where it is not built in.

use fastrand::Rng;

use super::peer::Speech;
use super::records::Records;
use crate::dispatch::TlsSession;

/// There is none.
pub fn of(_: u64) -> Option<Rng> {
    None
}

pub fn shake(_: &mut Rng, _: bool, _: Speech, _: usize) -> (Box<dyn TlsSession>, Records, usize) {
    unreachable!("no schedule has clients by TLS")
}
