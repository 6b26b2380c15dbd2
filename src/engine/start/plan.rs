//! What rings do under a configuration, and how they come to do it.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use crate::admission::{ClientLimits, Clients};
use crate::dispatch::Entrance;
use crate::engine::acceptor::{Acceptor, Change};
use crate::engine::door::Door;
use crate::engine::listener::Listener;
use crate::engine::pools::Pools;
use crate::engine::relay::Terms;
use crate::ring::Native;

/// Where connections go: a pool with workers, by index, or on from the ring itself.
#[derive(Clone, Debug)]
pub(in crate::engine) enum Service {
    Pool(usize),
    Relay(Arc<Terms>),
}

/// What all rings do under a configuration.
#[derive(Clone)]
pub(in crate::engine) struct Plan {
    pub(in crate::engine) doors: Vec<DoorPlan>,
    /// By pool: whether its connections leave the residual in the socket.
    pub(super) exact: Vec<bool>,
    /// By pool, for those that go on with plain sockets only: how the ring relays to them where TLS ends here.
    pub(super) between: Vec<Option<Arc<Terms>>>,
    pub(super) pending_limit: u32,
    pub(super) pending_peer_limit: u32,
    pub(in crate::engine) limits: ClientLimits,
    pub(in crate::engine) clients: Clients,
}

#[derive(Clone)]
pub(in crate::engine) struct DoorPlan {
    pub(in crate::engine) listener: Listener,
    pub(super) service: Service,
    pub(in crate::engine) bound: SocketAddr,
    /// The listener's place in the report and in the counters.
    pub(super) row: u32,
}

/// A plan with what it takes in one ring.
pub(in crate::engine) struct RingPlan {
    pub(super) plan: Arc<Plan>,
    pub(super) pools: Vec<Entrance>,
    /// By listener; `None` if it was given up.
    pub(in crate::engine) sockets: Vec<Option<Arc<TcpListener>>>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("doors", &self.doors.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for RingPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingPlan").field("sockets", &self.sockets.len()).finish_non_exhaustive()
    }
}

impl RingPlan {
    /// The same on other sockets.
    pub(in crate::engine) fn on(&self, sockets: Vec<Option<Arc<TcpListener>>>) -> RingPlan {
        RingPlan { plan: self.plan.clone(), pools: self.pools.clone(), sockets }
    }

    /// The same doors and pools, as another plan has them.
    pub(in crate::engine) fn amend(&mut self, plan: Arc<Plan>) {
        self.plan = plan;
    }

    /// Puts it in force.
    pub(in crate::engine) fn apply<D: Native>(self, acceptor: &mut Acceptor<D, Pools>) {
        let RingPlan { plan, pools, sockets } = self;
        let pools = pools.into_iter().map(|entrance| acceptor.sink_mut().open(entrance)).collect();
        let doors = plan.doors.iter().zip(sockets);
        let hung = doors.filter_map(|(door, socket)| Some((socket?, door.door(&plan, acceptor)))).collect();
        acceptor.change(Change {
            doors: hung,
            pools,
            pending_limit: plan.pending_limit as usize,
            pending_peer_limit: (plan.pending_peer_limit, plan.pending_limit),
            clients: plan.clients.clone(),
        });
    }
}

impl Plan {
    /// Puts what it says of trust and limits in force where its doors hang already.
    pub(in crate::engine) fn amend<D: Native>(&self, acceptor: &mut Acceptor<D, Pools>) {
        acceptor.amend(self.clients.clone(), |door| {
            if let Some(plan) = self.doors.iter().find(|plan| plan.bound == door.bound) {
                plan.listener.entrust(door);
            }
        });
    }
}

impl DoorPlan {
    fn door<D: Native>(&self, plan: &Plan, acceptor: &mut Acceptor<D, Pools>) -> Door {
        let (pool, relay) = match &self.service {
            Service::Pool(index) => (*index, None),
            Service::Relay(terms) => (0, Some(terms.clone())),
        };
        let exact = relay.is_none() && plan.exact[pool];
        let mut door = self.listener.door(self.bound, pool, exact, acceptor.deadlines_mut());
        if relay.is_none() && self.listener.ends_tls() {
            door.between = plan.between[pool].clone();
        }
        door.relay = relay;
        door.in_row(self.row, acceptor.tally().row(self.row))
    }
}
