//! Another configuration for a running engine: its rings go on, and so does whoever they serve.

use std::fmt;
use std::sync::Weak;

use super::driver::DriverChoice;
use super::start::EngineBuilder;
use super::{Engine, StartError};
use crate::ring::SLOT_BYTES;

/// What a running engine keeps as it was made, whatever another configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// What the rings run on.
    Driver {
        /// Its name.
        present: &'static str,
        /// What was asked for.
        wanted: DriverChoice,
    },
    /// The number of rings.
    Rings {
        /// How many there are.
        present: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// The most connections whose header a ring awaits: it cannot get more slots.
    PendingLimit {
        /// The limit that holds.
        present: u32,
        /// What was asked for.
        wanted: u32,
    },
    /// The longest header: a ring's buffers cannot get longer.
    HeaderLimit {
        /// The limit that holds, in bytes.
        present: u32,
        /// What was asked for.
        wanted: u32,
    },
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (setting, present, wanted): (_, &dyn fmt::Display, &dyn fmt::Display) = match self {
            Kept::Driver { present, wanted } => ("driver", present, wanted),
            Kept::Rings { present, wanted } => ("rings", present, wanted),
            Kept::PendingLimit { present, wanted } => ("pending_limit", present, wanted),
            Kept::HeaderLimit { present, wanted } => ("header_limit", present, wanted),
        };
        write!(f, "{setting} stays at {present} until the daemon is restarted or taken over ({wanted} was asked for)")
    }
}

impl Engine {
    /// Puts another configuration in force in the running rings: listeners, trust, limits, pools and relays may all differ.
    /// Addresses that stay refuse nobody. Connections and sessions keep the terms that they came under. When this returns,
    /// every ring does what the new configuration says.
    ///
    /// What cannot change in a running engine is told; it stays as it is.
    ///
    /// # Errors
    /// [`StartError`]; the present configuration stays in force then.
    pub fn reconfigure(&mut self, mut builder: EngineBuilder) -> Result<Vec<Kept>, StartError> {
        let kept = self.keep(&mut builder);
        for listener in builder.listeners.iter_mut().filter(|listener| listener.sockets.is_empty()) {
            let present = self.sockets.iter().filter(|(bound, _)| *bound == listener.address);
            listener.sockets = present.map(|(_, socket)| socket).filter_map(Weak::upgrade).collect();
        }
        builder.listeners.iter().try_for_each(|listener| builder.service_of(listener).map(drop))?;
        let rings = self.threads.len();
        let (declared, sockets) = (builder.listeners.len(), builder.listen_on(builder.reserve(rings)?, rings)?);
        self.start_prober(&builder)?;
        self.put_in_force(builder, declared, sockets)?;
        Ok(kept)
    }

    /// Brings what was asked for within what the rings were made for.
    fn keep(&self, builder: &mut EngineBuilder) -> Vec<Kept> {
        let mut kept = Vec::new();
        if !builder.driver.allows(&self.driver) {
            kept.push(Kept::Driver { present: self.driver.name(), wanted: builder.driver });
        }
        let present = self.threads.len();
        if let Some(wanted) = builder.rings.map(usize::from).filter(|wanted| *wanted != present) {
            kept.push(Kept::Rings { present, wanted });
        }
        let wanted = builder.ring_sizes();
        if wanted.slots > self.sizes.slots {
            let present = builder.pending_limit.unwrap_or_default().saturating_sub(wanted.slots - self.sizes.slots);
            kept.push(Kept::PendingLimit { present, wanted: builder.pending_limit.unwrap_or_default() });
            builder.pending_limit = Some(present);
        }
        if wanted.longest > self.sizes.longest {
            let [present, wanted] =
                [self.sizes.longest, wanted.longest].map(|longest| longest.saturating_sub(SLOT_BYTES));
            kept.push(Kept::HeaderLimit { present, wanted });
            builder.listeners.iter_mut().for_each(|listener| listener.limit_headers(present));
        }
        kept
    }
}
