//! Small changes to a running engine: who is trusted, who is banned, what a client may have. Doors, pools and connections stay.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::RecvTimeoutError;

use super::listener::Listener;
use super::start::{CHANGE_PATIENCE, Plan};
use super::{Command, Engine, lock};
use crate::admission::ClientLimits;
use crate::net::{Network, NetworkSet};

/// Some of an engine's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Which<'a> {
    /// All of them.
    All,
    /// Those of a service.
    Service(&'a str),
    /// Those of a name.
    Name(&'a str),
    /// The one that is bound to an address.
    Address(SocketAddr),
}

/// A change that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InForce {
    /// Rings that do what was asked for: all that there are.
    pub rings: usize,
    /// Listeners that it concerns; all, for what concerns clients.
    pub listeners: usize,
}

/// Why a change did not come into force everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AmendError {
    /// There is no such listener; nothing has changed.
    NoSuchListener,
    /// The engine drains or has ended; nothing has changed.
    Ending,
    /// So many rings have not made a turn for seconds. The change takes hold there when they do.
    Stuck {
        /// Rings that do not turn.
        rings: usize,
    },
}

impl fmt::Display for AmendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AmendError::NoSuchListener => f.write_str("there is no such listener"),
            AmendError::Ending => f.write_str("the engine is ending"),
            AmendError::Stuck { rings } => {
                write!(f, "{rings} rings have not turned for {} s", CHANGE_PATIENCE.as_secs())
            }
        }
    }
}

impl std::error::Error for AmendError {}

impl Engine {
    /// Trusts these networks and no others, on some listeners: their hosts may send a header. On a listener without a header
    /// they are those whose connections are health checks. Whoever connects from now on is judged by them; a connection
    /// that is in keeps its place. When this returns, it is so on every ring.
    ///
    /// ```
    /// use vestibule::engine::Which;
    ///
    /// # fn f(engine: &vestibule::Engine) -> Result<(), Box<dyn std::error::Error>> {
    /// let balancers = ["10.0.0.1".parse()?, "10.0.0.2".parse()?];
    /// let done = engine.set_trust(Which::Service("imap-login"), balancers)?;
    /// println!("in force on {} rings for {} listeners", done.rings, done.listeners);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AmendError`].
    pub fn set_trust(
        &self,
        which: Which<'_>,
        networks: impl IntoIterator<Item = Network>,
    ) -> Result<InForce, AmendError> {
        let networks: NetworkSet = networks.into_iter().collect();
        self.amend(|plan| {
            let of = plan.doors.iter_mut().filter(|door| which.means(&door.listener, door.bound));
            of.map(|door| door.listener.trust_only(&networks)).count()
        })
    }

    /// Bans these networks and no others: their clients are not let in, on no listener. Who is connected stays. When this
    /// returns, it is so on every ring.
    ///
    /// # Errors
    /// [`AmendError`].
    pub fn set_bans(&self, networks: impl IntoIterator<Item = Network>) -> Result<InForce, AmendError> {
        let banned: NetworkSet = networks.into_iter().collect();
        self.limit(|limits| limits.banned = banned)
    }

    /// Puts other limits on clients, bans included; [`client_limits`](Engine::client_limits) tells the present ones. What is
    /// counted stays counted as long as the size of the table does. When this returns, it is so on every ring.
    ///
    /// ```
    /// # fn f(engine: &vestibule::Engine) -> Result<(), vestibule::engine::AmendError> {
    /// let mut limits = engine.client_limits();
    /// limits.connections = std::num::NonZeroU32::new(20);
    /// engine.set_limits(limits)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AmendError`].
    pub fn set_limits(&self, limits: ClientLimits) -> Result<InForce, AmendError> {
        self.limit(|present| *present = limits)
    }

    /// Bans and limits on clients that are in force; none once the engine ends.
    pub fn client_limits(&self) -> ClientLimits {
        lock(&self.plan).as_ref().map(|plan| plan.limits.clone()).unwrap_or_default()
    }

    fn limit(&self, change: impl FnOnce(&mut ClientLimits)) -> Result<InForce, AmendError> {
        self.amend(|plan| {
            change(&mut plan.limits);
            plan.clients = plan.clients.changed(plan.limits.clone(), Instant::now());
            plan.doors.len()
        })
    }

    /// Lets every ring do what a changed plan says; `change` tells how many listeners it concerns.
    fn amend(&self, change: impl FnOnce(&mut Plan) -> usize) -> Result<InForce, AmendError> {
        // Held until all is done: one change after the other.
        let mut present = lock(&self.plan);
        let mut plan = Plan::clone(present.as_ref().ok_or(AmendError::Ending)?);
        let listeners = change(&mut plan);
        if listeners == 0 {
            return Err(AmendError::NoSuchListener);
        }
        let plan = Arc::new(plan);
        *lock(&self.clients) = plan.clients.clone();
        let (done, all_done) = crossbeam_channel::bounded(self.threads.len());
        for thread in &self.threads {
            thread.command(Command::Amend { plan: plan.clone(), done: done.clone() });
        }
        drop(done);
        *present = Some(plan);
        let end = Instant::now() + CHANGE_PATIENCE;
        let mut rings = 0;
        loop {
            match all_done.recv_deadline(end) {
                Ok(()) => rings += 1,
                // A ring that has failed for good accepts nobody, and has let go of its end.
                Err(RecvTimeoutError::Disconnected) => return Ok(InForce { rings, listeners }),
                Err(RecvTimeoutError::Timeout) => return Err(AmendError::Stuck { rings: self.threads.len() - rings }),
            }
        }
    }
}

impl Which<'_> {
    fn means(self, listener: &Listener, bound: SocketAddr) -> bool {
        let named = listener.named(bound);
        match self {
            Which::All => true,
            Which::Service(service) => named.service == service,
            Which::Name(name) => named.name == name,
            Which::Address(address) => bound == address,
        }
    }
}
