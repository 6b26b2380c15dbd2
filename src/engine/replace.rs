//! Another configuration for a running engine: its rings go on, and so does whoever they serve.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Weak};

use super::driver::DriverChoice;
use super::listener::Listener;
use super::locked::Limit;
use super::start::EngineBuilder;
use super::{Engine, StartError, lock};
use crate::ring::{self, SLOT_BYTES};

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
    /// The threads that compute TLS handshakes.
    HandshakeThreads {
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
    /// The most memory that the rings may keep locked: they have what they have.
    LockedMemoryLimit {
        /// The limit that holds, in bytes; 0: none.
        present: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// The longest header: a ring's buffers cannot get longer.
    HeaderLimit {
        /// The limit that holds, in bytes.
        present: u32,
        /// What was asked for.
        wanted: u32,
    },
}

impl Replaced {
    fn of(kept: Vec<Kept>, before: &[SocketAddr], after: &[SocketAddr]) -> Replaced {
        let of = |all: &[SocketAddr], others: &[SocketAddr], among: bool| {
            let mut some: Vec<SocketAddr> = all.iter().copied().filter(|one| others.contains(one) == among).collect();
            some.dedup();
            some
        };
        let (opened, continued) = (of(after, before, false), of(after, before, true));
        Replaced { kept, opened, continued, closed: of(before, after, false) }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut stays = |setting, present: &dyn fmt::Display, wanted: &dyn fmt::Display| {
            let until = "until the daemon is restarted or taken over";
            write!(f, "{setting} stays at {present} {until} ({wanted} was asked for)")
        };
        match self {
            Kept::Driver { present, wanted } => stays("driver", present, wanted),
            Kept::Rings { present, wanted } => stays("rings", present, wanted),
            Kept::HandshakeThreads { present, wanted } => stays("ssl_handshake_threads", present, wanted),
            Kept::PendingLimit { present, wanted } => stays("pending_limit", present, wanted),
            Kept::LockedMemoryLimit { present, wanted } => {
                stays("locked_memory_limit", &Limit(*present), &Limit(*wanted))
            }
            Kept::HeaderLimit { present, wanted } => stays("header_limit", present, wanted),
        }
    }
}

/// What [`Engine::replace`] has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replaced {
    /// What cannot change in a running engine and stays as it was made.
    pub kept: Vec<Kept>,
    /// Addresses that are listened on from now on.
    pub opened: Vec<SocketAddr>,
    /// Addresses that are listened on as before, by the same sockets: nobody was refused there.
    pub continued: Vec<SocketAddr>,
    /// Addresses that are not listened on any more; whoever waited in a backlog there has been let in.
    pub closed: Vec<SocketAddr>,
}

impl Engine {
    /// Puts another configuration in the place of the present one, in the running rings: listeners, trust, limits, pools and
    /// relays may all differ. It is all that a reload takes: sockets of addresses that stay are taken over, so that nobody is
    /// refused; what clients count stays counted; connections whose header is awaited, and sessions, keep the terms that
    /// they came under; former pools serve what is in their queues and end by themselves. When this returns, every ring
    /// does what the new configuration says.
    ///
    /// To change who is trusted or banned, or a client's limits, and nothing else, [`set_trust`](Engine::set_trust),
    /// [`set_bans`](Engine::set_bans) and [`set_limits`](Engine::set_limits) are shorter, and leave the pools alone.
    ///
    /// ```
    /// use vestibule::{Accepted, Engine, Listener, Pool};
    /// use vestibule::engine::EngineBuilder;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// fn describe(listener: Listener) -> EngineBuilder {
    ///     Engine::builder().pool(Pool::threads("imap", 2, |_: Accepted| {})).listen(listener.pool("imap"))
    /// }
    /// let trusted = ["10.0.0.0/8".parse()?];
    /// let mut engine = describe(Listener::proxy("127.0.0.1:0".parse()?).trust(trusted)).start()?;
    /// let address = engine.addresses()[0];
    /// let replaced = engine.replace(describe(Listener::plain(address)))?;
    /// assert_eq!((&replaced.continued[..], &replaced.kept[..]), (&[address][..], &[][..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StartError`]; the present configuration stays in force then.
    pub fn replace(&mut self, mut builder: EngineBuilder) -> Result<Replaced, StartError> {
        let before = self.addresses.clone();
        let kept = self.keep(&mut builder);
        for listener in builder.listeners.iter_mut().filter(|listener| listener.sockets.is_empty()) {
            listener.sockets = self.sockets_for(listener.address);
            listener.prepared = listener.sockets.len() <= self.threads.len() && self.has_prepared(listener);
        }
        builder.listeners.iter().try_for_each(|listener| builder.service_of(listener).map(drop))?;
        let rings = self.threads.len();
        let (declared, sockets) = (builder.listeners.len(), builder.listen_on(builder.reserve(rings)?, rings)?);
        self.start_prober(&builder)?;
        self.put_in_force(builder, declared, sockets)?;
        Ok(Replaced::of(kept, &before, &self.addresses))
    }

    /// The sockets that listen at an address; or else those that take its clients beside those of the other family.
    fn sockets_for(&self, address: SocketAddr) -> Vec<Arc<TcpListener>> {
        let at = |address: SocketAddr| self.sockets.iter().filter(move |(bound, _)| *bound == address);
        let own: Vec<_> = at(address).filter_map(|(_, socket)| Weak::upgrade(socket)).collect();
        if !own.is_empty() || !address.ip().is_unspecified() {
            return own;
        }
        let other: IpAddr = if address.is_ipv4() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let shared = at(SocketAddr::new(other, address.port())).filter_map(|(_, socket)| Weak::upgrade(socket));
        shared.filter(|socket| ring::serves_both_families(socket)).collect()
    }

    /// Whether the sockets at the address of a listener have its options already.
    fn has_prepared(&self, listener: &Listener) -> bool {
        let plan = lock(&self.plan);
        let mut doors = plan.iter().flat_map(|plan| &plan.doors).filter(|door| door.bound == listener.address);
        doors.next().is_some_and(|door| door.listener.options() == listener.options())
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
        let (present, wanted) = (self.locked_memory_limit, builder.locked_memory_limit);
        if present != wanted {
            kept.push(Kept::LockedMemoryLimit { present, wanted });
        }
        let present = self.handshakes.count();
        if let Some(wanted) =
            builder.handshake_threads.map(|wanted| wanted as usize).filter(|&wanted| wanted != present)
        {
            kept.push(Kept::HandshakeThreads { present, wanted });
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
