//! A hook for connections that do not get in.

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::conn::{Ending, Record};
use crate::dispatch::ListenerInfo;

/// A connection that has ended before it reached a pool or a relay.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Refused<'a> {
    /// The listener it came through.
    pub listener: &'a ListenerInfo,
    /// The socket's peer: whoever has connected, usually the balancer.
    pub peer: SocketAddr,
    /// The address that it has connected to, where the listener is bound to one.
    pub local: Option<SocketAddr>,
    /// Why. [`Ending::code`] is the `reason=` of the log and the name of a counter.
    pub ending: Ending,
    /// What was read of it: none of a peer that door 1 has turned away, but for some that the log asks about.
    pub bytes: &'a [u8],
    /// How long it was there.
    pub waited: Duration,
}

/// What is called for each of them.
type Hear = dyn Fn(&Refused<'_>) + Send + Sync;

/// Who is told of them.
#[derive(Clone, Default)]
pub struct Hook(Option<Arc<Hear>>);

impl Hook {
    /// Tells `hear`.
    pub fn new(hear: impl Fn(&Refused<'_>) + Send + Sync + 'static) -> Hook {
        Hook(Some(Arc::new(hear)))
    }

    /// Whether there is anybody to tell.
    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Tells of an ending; a panic there goes no further.
    pub fn tell(&self, listener: &ListenerInfo, ending: Ending, record: &Record<'_>) {
        let Some(hear) = &self.0 else { return };
        let &Record { peer, local, bytes, waited, .. } = record;
        let refused = Refused { listener, peer, local, ending, bytes, waited };
        if catch_unwind(AssertUnwindSafe(|| hear(&refused))).is_err() {
            tracing::error!("the hook for refused connections has panicked");
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "none" })
    }
}
