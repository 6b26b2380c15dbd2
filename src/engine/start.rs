//! Starting an engine: checking what was asked for, binding, and bringing up rings and pools.

mod error;
mod plan;

pub use error::StartError;
pub(super) use plan::{DoorPlan, Plan, RingPlan, Service};

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::acceptor::{Acceptor, Parts};
use super::driver::{DriverChoice, DriverInUse, Kind};
use super::handshake::{Entrance as HandshakeEntrance, Given, Threads};
use super::listener::Listener;
use super::locked::Rings;
use super::mend::Life;
use super::pools::Pools;
use super::prober::{Prober, Resolver};
use super::refused::{Hook, Refused};
use super::relay::{self, Letterbox, Relay, Relays, SessionLog, Terms};
use super::report::Report;
use super::tally::Tally;
use super::{ClientCounts, Command, Engine, RingThread, lock};
use crate::admission::{ClientLimits, Clients, PendingPeers};
use crate::conn::Deadlines;
use crate::dispatch::{Behind, Entrance, Incoming, Pool, PoolRecord, Queue, RunningWorkers};
use crate::ring::{self, BACKLOG, Epoll, Native, Ring, SLOT_BYTES, SetupError, Sizes, Waker};

/// Connections of one ring whose header is awaited, where nothing is set.
pub const PENDING_LIMIT_DEFAULT: u32 = 16_384;
/// Most connections of one ring whose header may be awaited.
pub const PENDING_LIMIT_MAX: u32 = 1 << 20;
/// Slots beyond the pending limit: for connections that are being shed, and those that wait for room in a queue.
const SPARE_SLOTS: u32 = 1024;
/// Most relayed sessions of one ring.
pub const SESSIONS_MAX: u32 = 1 << 20;
const _: () = assert!(2 * SESSIONS_MAX <= super::handshake::FIRST_PLACE, "watched sockets have places of their own");
/// Most rings of one engine.
pub const RINGS_MAX: usize = 1024;

/// Describes an engine; [`start`](EngineBuilder::start) makes it.
#[derive(Debug, Default)]
pub struct EngineBuilder {
    pools: Vec<Pool>,
    relays: Vec<Relay>,
    session_log: SessionLogger,
    resolver: Resolver,
    refused: Hook,
    pub(super) listeners: Vec<Listener>,
    pub(super) rings: Option<NonZeroUsize>,
    pub(super) pending_limit: Option<u32>,
    pending_peer_limit: u32,
    pub(super) locked_memory_limit: u64,
    clients: ClientLimits,
    counts: Clients,
    unpinned: bool,
    pub(super) driver: DriverChoice,
    pub(super) handshake_threads: Option<u32>,
}

impl EngineBuilder {
    /// Adds a pool of workers.
    pub fn pool(mut self, pool: Pool) -> EngineBuilder {
        self.pools.push(pool);
        self
    }

    /// Adds a relay, which listeners name like a pool.
    pub fn relay(mut self, relay: Relay) -> EngineBuilder {
        self.relays.push(relay);
        self
    }

    /// Who is told of the sessions of the relays.
    pub fn session_log(mut self, log: Arc<dyn SessionLog>) -> EngineBuilder {
        self.session_log = SessionLogger(Some(log));
        self
    }

    /// How the names of servers are looked up again while the engine runs; by the system's resolver if not set. An engine
    /// keeps what it was started with.
    pub fn resolver(mut self, resolver: Resolver) -> EngineBuilder {
        self.resolver = resolver;
        self
    }

    /// Calls `hear` for every connection that ends before it reaches a pool or a relay, whatever the log says of it. It runs
    /// on the ring, where nobody is served meanwhile: it must not block, and should be quick. An engine keeps what it was
    /// started with.
    ///
    /// ```
    /// use vestibule::Engine;
    ///
    /// let builder = Engine::builder().on_refused(|refused| {
    ///     eprintln!("{} at {}: {}", refused.peer, refused.listener.name, refused.ending.code());
    /// });
    /// ```
    pub fn on_refused(mut self, hear: impl Fn(&Refused<'_>) + Send + Sync + 'static) -> EngineBuilder {
        self.refused = Hook::new(hear);
        self
    }

    /// Adds a listener.
    pub fn listen(mut self, listener: Listener) -> EngineBuilder {
        self.listeners.push(listener);
        self
    }

    /// Gives each listener that has no [socket](Listener::socket) yet those that `open` has for its address: of an engine
    /// before, as a rule.
    pub fn adopt(mut self, mut open: impl FnMut(SocketAddr) -> Vec<TcpListener>) -> EngineBuilder {
        for listener in self.listeners.iter_mut().filter(|listener| listener.sockets.is_empty()) {
            listener.sockets = open(listener.address).into_iter().map(Arc::new).collect();
        }
        self
    }

    /// Number of rings, each with a thread of its own. If not set, [`cpus`]. Where the memory that may be locked is too
    /// little for all of them there are fewer, with a warning.
    pub fn rings(mut self, rings: NonZeroUsize) -> EngineBuilder {
        self.rings = Some(rings);
        self
    }

    /// Most bytes that all rings together may keep locked in memory: their queues, and the buffers that the kernel knows
    /// beforehand; 0, as if nothing is said: whatever RLIMIT_MEMLOCK allows. Where the rings need more, buffers are not
    /// registered, and reads go by RECV; or else completion queues are smaller, or else there are fewer rings, with a warning
    /// for each. On epoll nothing is locked.
    pub fn locked_memory_limit(mut self, bytes: u64) -> EngineBuilder {
        self.locked_memory_limit = bytes;
        self
    }

    /// Connections of one ring whose header may be awaited, 1..=[`PENDING_LIMIT_MAX`]; values outside are clamped.
    /// Beyond it the one that has been silent longest is closed.
    pub fn pending_limit(mut self, limit: u32) -> EngineBuilder {
        self.pending_limit = Some(limit.clamp(1, PENDING_LIMIT_MAX));
        self
    }

    /// Most of them from one peer (`pending_peer_limit`); 0: no limit. Beyond it the newest is refused.
    pub fn pending_peer_limit(mut self, limit: u32) -> EngineBuilder {
        self.pending_peer_limit = limit;
        self
    }

    /// Bans and limits on clients: those that a header names, and the peers of plain listeners. None if not set.
    pub fn client_limits(mut self, limits: ClientLimits) -> EngineBuilder {
        self.clients = limits;
        self
    }

    /// Goes on counting clients where another engine is, if the size of the table stays: whoever is connected there counts
    /// here too.
    pub fn client_counts(mut self, counts: ClientCounts) -> EngineBuilder {
        self.counts = counts.0;
        self
    }

    /// Whether each ring's thread is pinned to a CPU (it is if nothing is said).
    pub fn pin(mut self, pin: bool) -> EngineBuilder {
        self.unpinned = !pin;
        self
    }

    /// What the rings' threads run on ([`DriverChoice::Auto`] if nothing is said).
    pub fn driver(mut self, driver: DriverChoice) -> EngineBuilder {
        self.driver = driver;
        self
    }

    /// Threads that compute TLS handshakes in the rings' place (`ssl_handshake_threads`), at most
    /// [`HANDSHAKE_THREADS_MAX`](super::HANDSHAKE_THREADS_MAX);
    /// 0, or nothing said: the rings do it. Worth it where signatures are expensive, as those of RSA are: a ring that signs
    /// serves nobody else meanwhile. An engine keeps those that it was started with.
    #[cfg(feature = "tls")]
    pub fn handshake_threads(mut self, threads: u32) -> EngineBuilder {
        self.handshake_threads = Some(threads.min(super::handshake::HANDSHAKE_THREADS_MAX));
        self
    }

    /// What each ring is made for: the connections whose header is awaited, and what all listeners may bring at once.
    #[doc(hidden)] // for whoever asks beforehand whether the machine can do it
    pub fn ring_sizes(&self) -> Sizes {
        let slots = self.pending_limit_or_default() + SPARE_SLOTS;
        // At least what listeners of a later configuration have that say nothing of it.
        let usual = crate::conn::Terms::default().rules.header_limit;
        let longest = self.listeners.iter().map(Listener::header_limit).fold(usual, u32::max) + SLOT_BYTES;
        let completions = slots + BACKLOG * self.listeners.len() as u32;
        Sizes { slots, longest, completions, registered: true }
    }

    fn pending_limit_or_default(&self) -> u32 {
        self.pending_limit.unwrap_or(PENDING_LIMIT_DEFAULT)
    }

    /// Binds all listeners and starts rings and pools. No connection is accepted before all of them are there.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(self) -> Result<Engine, StartError> {
        self.bind()?.start()
    }

    /// Binds all listeners and starts nothing: a daemon that began as root gives up its privileges now, while it has no
    /// threads. Who connects is refused until [`Bound::start`] has rings for him.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left bound then.
    pub fn bind(self) -> Result<Bound, StartError> {
        let cpus = ring::allowed_cpus().map_err(StartError::System)?;
        let rings = self.rings.unwrap_or_else(self::cpus).get().min(RINGS_MAX);
        if let Err(error) = self.within_locked_memory(rings)
            && self.driver.decide().locks_memory()
        {
            return Err(error);
        }
        self.listeners.iter().try_for_each(|listener| self.service_of(listener).map(drop))?;
        let reserved = self.reserve(rings)?;
        Ok(Bound { builder: self, cpus, rings, reserved })
    }

    /// Sockets that are more than the rings make listeners of their own, so that a ring may have several of one address:
    /// an engine of more rings was here before. Closing them would reset who waits in their backlogs.
    fn share_out(&mut self, rings: usize) {
        let mut more = Vec::new();
        for listener in &mut self.listeners {
            let surplus = listener.sockets.split_off(rings.min(listener.sockets.len()));
            let on = |some: &[_]| {
                let mut another = listener.clone();
                another.sockets = some.to_vec();
                another
            };
            more.extend(surplus.chunks(rings).map(on));
        }
        self.listeners.append(&mut more);
    }

    fn start_bound(bound: Bound) -> Result<Engine, StartError> {
        let Bound { mut builder, cpus, rings, reserved } = bound;
        let driver = builder.driver.decide();
        driver.tell();
        let Rings { count: rings, sizes } = builder.rings_on(&driver, rings)?;
        let handshakes = Threads::start(builder.handshake_threads.unwrap_or(0) as usize).map_err(StartError::System)?;
        let frame = Frame {
            sizes,
            pending_limit: builder.pending_limit_or_default(),
            sessions: sessions_a_ring(rings),
            session_log: builder.session_log.clone(),
            handshakes: handshakes.entrance(),
            report: Arc::new(Report::new(builder.refused.clone())),
        };
        let seat = |index| Seat { index, cpu: (!builder.unpinned && rings <= cpus.len()).then(|| cpus[index]) };
        let threads = start_rings((0..rings).map(seat), &frame, &driver)?;
        let (report, sizes) = (frame.report.clone(), frame.sizes);
        // With it their way to the threads for handshakes: whoever waits for the end of those must not hold it.
        drop(frame);
        let declared = builder.listeners.len();
        builder.share_out(threads.len());
        let mut engine = Engine {
            addresses: Vec::new(),
            declared: 0,
            proxied: Vec::new(),
            sockets: Vec::new(),
            prober: None,
            resolver: builder.resolver.clone(),
            threads,
            handshakes,
            workers: Mutex::default(),
            incoming: Mutex::default(),
            pulled: Vec::new(),
            pools: Vec::new(),
            backends: Vec::new(),
            clients: Mutex::new(builder.counts.clone()),
            plan: Mutex::default(),
            report,
            sizes,
            locked_memory_limit: builder.locked_memory_limit,
            driver,
        };
        engine.start_prober(&builder)?;
        let sockets = builder.listen_on(reserved, engine.threads.len())?;
        // Only now that nothing else can fail: what a ring accepts from the backlogs would be lost with it.
        engine.put_in_force(builder, declared, sockets)?;
        Ok(engine)
    }

    /// Those that are made where so many are to be, with a word of what a limit has taken from them.
    fn rings_on(&self, driver: &DriverInUse, count: usize) -> Result<Rings, StartError> {
        if !driver.locks_memory() {
            return Ok(Rings { count, sizes: self.ring_sizes() });
        }
        let (rings, steps) = self.within_locked_memory(count)?;
        steps.iter().for_each(|step| tracing::warn!("{step}"));
        Ok(rings)
    }

    /// Where a listener's connections go.
    pub(super) fn service_of(&self, listener: &Listener) -> Result<Service, StartError> {
        let pool = self.pools.iter().position(|pool| pool.name == listener.pool).map(Service::Pool);
        let relay = || self.relays.iter().find(|relay| relay.name() == listener.pool);
        pool.or_else(|| relay().map(|relay| Service::Relay(Arc::new(relay.terms.clone()))))
            .ok_or_else(|| StartError::NoSuchPool { listener: listener.address, pool: listener.pool.clone() })
    }

    /// Binds every listener that has no sockets yet, once a ring.
    pub(super) fn reserve(&self, rings: usize) -> Result<Vec<Reserved>, StartError> {
        let reserve = |listener: &Listener| match &listener.sockets[..] {
            [] => patiently(|| ring::reserve_group(listener.address, rings, listener.options()))
                .map_err(|error| StartError::of_listener(listener, error)),
            _ => Ok(Reserved::new()),
        };
        self.listeners.iter().map(reserve).collect()
    }

    /// Listens on what was reserved, and on what listens already, once a ring. Listeners that came later have no place in
    /// `reserved`, but sockets.
    pub(super) fn listen_on(&self, reserved: Vec<Reserved>, rings: usize) -> Result<Sockets, StartError> {
        let by_ring = (0..rings).map(|_| Vec::new()).collect();
        let mut sockets = Sockets { addresses: Vec::new(), by_ring, all: Vec::new() };
        let reserved = reserved.into_iter().chain(std::iter::repeat_with(Reserved::new));
        for (listener, mut reserved) in self.listeners.iter().zip(reserved) {
            let failed = |error| StartError::of_listener(listener, error);
            // More than there are rings, where memory was short.
            reserved.truncate(rings);
            let group = match &listener.sockets[..] {
                [] => ring::listen_group(&reserved, listener.options()).map(|()| reserved),
                there if listener.prepared => Ok(ring::share_group(there, rings)),
                there => ring::adopt_group(there, rings, listener.options()),
            };
            let group = group.map_err(failed)?;
            let address = bound_as(listener.address, &group[0]).map_err(failed)?;
            sockets.addresses.push(address);
            // Of fewer sockets than rings, some come more than once.
            let different = if listener.sockets.is_empty() { rings } else { listener.sockets.len() };
            sockets.all.extend(group[..different].iter().map(|socket| (address, Arc::downgrade(socket))));
            for (socket, ring) in group.into_iter().zip(&mut sockets.by_ring) {
                ring.push(socket);
            }
        }
        Ok(sockets)
    }
}

/// The address that a listener has by its socket: its own if that is of IPv4, and the socket one of IPv6 that takes clients of
/// both families.
fn bound_as(wanted: SocketAddr, socket: &TcpListener) -> io::Result<SocketAddr> {
    let bound = socket.local_addr()?;
    let is_shared = wanted.is_ipv4() && bound.is_ipv6() && wanted.port() == bound.port();
    Ok(if is_shared { wanted } else { bound })
}

/// A listener's sockets that are bound and do not listen yet.
type Reserved = Vec<Arc<TcpListener>>;

/// As many of these rings as there is memory for, at least one.
fn start_rings(
    seats: impl ExactSizeIterator<Item = Seat>,
    frame: &Frame,
    driver: &DriverInUse,
) -> Result<Vec<RingThread>, StartError> {
    let wanted = seats.len();
    let mut threads = Vec::with_capacity(wanted);
    for seat in seats {
        // On failure the threads that are already there end, because their command channels close.
        match RingThread::start(seat, frame.clone(), driver) {
            Ok(thread) => threads.push(thread),
            Err(StartError::Ring(error)) if error.is_for_want_of_memory() && !threads.is_empty() => {
                tracing::warn!("{} of {wanted} rings: no memory for another one: {error}", threads.len());
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(threads)
}

/// How long a port that is in use is tried again: the kernel takes some time to let go of the sockets of a process that was
/// killed, 180 ms for 15,000.
const BIND_PATIENCE: Duration = Duration::from_secs(1);
const BIND_REST: Duration = Duration::from_millis(20);

/// Tries for a while to bind to a port that is in use.
fn patiently<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + BIND_PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => thread::sleep(BIND_REST),
            bound => return bound,
        }
    }
}

/// An engine whose sockets are bound and do not listen yet. Those that came from elsewhere do, and their backlogs hold who
/// comes meanwhile.
#[derive(Debug)]
pub struct Bound {
    builder: EngineBuilder,
    cpus: Vec<usize>,
    /// How many there are to be.
    rings: usize,
    /// By listener.
    reserved: Vec<Reserved>,
}

/// What listens.
#[derive(Debug)]
pub(super) struct Sockets {
    /// By listener.
    addresses: Vec<SocketAddr>,
    /// By ring, and there by listener.
    by_ring: Vec<Vec<Arc<TcpListener>>>,
    /// All, for the next engine.
    all: Vec<(SocketAddr, Weak<TcpListener>)>,
}

impl Bound {
    /// Starts rings, listens, and starts pools. No connection is accepted before all of them are there.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then, and sockets that came from another engine have lost nobody.
    pub fn start(self) -> Result<Engine, StartError> {
        EngineBuilder::start_bound(self)
    }
}

/// How many rings, or workers of a pool, there are if nothing is said: one for each CPU that this thread may run on, and no
/// more than the control group's quota allows at a time; where that is not known, one.
pub fn cpus() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Sessions that one ring may have: each needs two descriptors, and another ring may get more than its share of them.
fn sessions_a_ring(rings: usize) -> u32 {
    let descriptors = ring::limit(ring::Resource::OpenFiles).map_or(1024, |(soft, _)| soft);
    let share = if rings > 2 { descriptors / 4 } else { descriptors / 2 };
    share.clamp(16, SESSIONS_MAX.into()) as u32
}

/// Who is told of sessions.
#[derive(Clone, Default)]
struct SessionLogger(Option<Arc<dyn SessionLog>>);

impl fmt::Debug for SessionLogger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "none" })
    }
}

/// What all rings of an engine have in common, whatever the configuration.
#[derive(Clone)]
pub(super) struct Frame {
    sizes: Sizes,
    pending_limit: u32,
    /// Most sessions of a ring.
    sessions: u32,
    session_log: SessionLogger,
    /// The way to threads that compute handshakes.
    handshakes: Option<HandshakeEntrance>,
    report: Arc<Report>,
}

impl Engine {
    /// Starts the prober with the first relay.
    pub(super) fn start_prober(&mut self, builder: &EngineBuilder) -> Result<(), StartError> {
        if self.prober.is_none() && !builder.relays.is_empty() {
            let rings = self.threads.iter().filter_map(RingThread::reach).collect();
            self.prober = Some(Prober::start(rings, self.resolver.clone())?);
        }
        Ok(())
    }

    /// Starts the workers of a configuration and lets all rings do what it says, on these sockets.
    pub(super) fn put_in_force(
        &mut self,
        builder: EngineBuilder,
        declared: usize,
        sockets: Sockets,
    ) -> Result<(), StartError> {
        let Sockets { addresses, by_ring, all } = sockets;
        let services = builder.listeners.iter().map(|listener| builder.service_of(listener));
        let services = services.collect::<Result<Vec<_>, _>>()?;
        let relays: Vec<Arc<Terms>> = builder.relays.iter().map(|relay| Arc::new(relay.terms.clone())).collect();
        let pending_limit = builder.pending_limit_or_default();
        let exact = builder.pools.iter().map(|pool| pool.exact).collect();
        let between = |pool: &Pool| (!pool.carries_tls()).then(|| Arc::new(Terms::of_pool(&pool.name)));
        let between = builder.pools.iter().map(between).collect();
        let Opened { pools, behind, pulled } = self.open(builder.pools);
        let (workers, incoming) = man(behind).map_err(StartError::System)?;
        let doors = builder.listeners.into_iter().zip(services).zip(addresses.iter().copied());
        let plan = Arc::new(Plan {
            doors: doors.map(|((listener, service), bound)| self.door_plan(listener, service, bound)).collect(),
            exact,
            between,
            pending_limit,
            pending_peer_limit: builder.pending_peer_limit,
            clients: lock(&self.clients).changed(builder.clients.clone(), Instant::now()),
            limits: builder.clients,
        });
        self.say_what_overflows(plan.doors.len());
        self.report.begin_anew();
        self.keep_backends(&plan);
        *lock(&self.clients) = plan.clients.clone();
        self.proxied = plan.doors.iter().map(|door| door.listener.is_proxied()).collect();
        (self.addresses, self.declared, self.sockets) = (addresses, declared, all);
        // Those whose queues are closed end by themselves; who has not yet is waited for when the engine ends.
        let present = self.workers.get_mut().unwrap_or_else(PoisonError::into_inner);
        present.retain_mut(|workers| !workers.join(Duration::ZERO));
        present.extend(workers);
        let unclaimed = self.incoming.get_mut().unwrap_or_else(PoisonError::into_inner);
        unclaimed.retain(|one| pulled.iter().any(|queue| one.pulls(queue)));
        unclaimed.extend(incoming);
        self.pulled = pulled;
        let (done, all_done) = crossbeam_channel::bounded::<()>(0);
        for (thread, sockets) in self.threads.iter().zip(by_ring) {
            let sockets = sockets.into_iter().map(Some).collect();
            let plan = RingPlan { plan: plan.clone(), pools: pools.clone(), sockets };
            thread.command(Command::Change { plan, done: done.clone() });
        }
        drop((done, pools));
        *lock(&self.plan) = Some(plan);
        // Nobody sends: it is over when all rings have let go of their ends.
        let _ = all_done.recv_timeout(CHANGE_PATIENCE);
        self.prober.iter().for_each(|prober| prober.watch(&relays));
        Ok(())
    }

    /// The ways into the pools of a configuration.
    fn open(&mut self, pools: Vec<Pool>) -> Opened {
        let mut opened = Opened::default();
        for pool in pools {
            let record = self.record_of(&pool.name);
            let (name, is_pulled) = (pool.name.clone(), pool.is_pulled());
            let present = self.pulled.iter().find(|queue| queue.name() == name);
            let (entrance, behind) = pool.open(record, present);
            if let (true, Entrance::Queue(queue)) = (is_pulled, &entrance) {
                opened.pulled.push(queue.clone());
            }
            opened.pools.push(entrance);
            opened.behind.push(behind);
        }
        opened
    }

    /// The completion queues stay as long as the rings, and have a limit of the kernel's.
    fn say_what_overflows(&self, listeners: usize) {
        let room = ring::completion_entries(self.sizes.completions);
        let wanted = self.sizes.slots + BACKLOG * listeners as u32;
        if wanted > room {
            tracing::warn!(
                "full backlogs of all {listeners} listener addresses at once would overflow the completion queue of a ring, \
                 {room} entries: nobody is lost then, but it costs time (cq-overflow); a lower pending_limit makes room"
            );
        }
    }

    /// The backends of a plan; of those before, only those that are still needed.
    fn keep_backends(&mut self, plan: &Plan) {
        let now = Instant::now();
        self.backends.retain(|backend| backend.lock().servers(now).any(|server| server.sessions > 0));
        for door in &plan.doors {
            if let Service::Relay(terms) = &door.service
                && !self.backends.iter().any(|known| known.is(&terms.backend))
            {
                self.backends.push(terms.backend.clone());
            }
        }
    }

    fn door_plan(&self, mut listener: Listener, service: Service, bound: SocketAddr) -> DoorPlan {
        // The rings have what it came with, and close it.
        listener.sockets.clear();
        let row = self.report.row_of(listener.named(bound));
        DoorPlan { listener, service, bound, row }
    }

    /// What the pool of this name has counted so far.
    fn record_of(&mut self, name: &str) -> Arc<PoolRecord> {
        if let Some(record) = self.pools.iter().find(|record| record.name() == name) {
            return record.clone();
        }
        let record = Arc::new(PoolRecord::new(name));
        self.pools.push(record.clone());
        record
    }
}

/// The pools of a configuration.
#[derive(Default)]
struct Opened {
    pools: Vec<Entrance>,
    behind: Vec<Behind>,
    /// Those that the program pulls.
    pulled: Vec<Queue>,
}

/// Workers of a pool that run.
type Running = Box<dyn RunningWorkers>;

/// Starts the workers behind all entrances; beside them, what programs pull by.
fn man(behind: Vec<Behind>) -> io::Result<(Vec<Running>, Vec<Incoming>)> {
    let (mut workers, mut incoming): (Vec<Running>, _) = (Vec::new(), Vec::new());
    for one in behind {
        match one {
            Behind::Idle(idle, intake) => workers.push(idle.start(intake)?),
            Behind::Program(pulled, pullers) => {
                incoming.push(pulled);
                workers.push(pullers);
            }
            Behind::Nobody => {}
        }
    }
    Ok((workers, incoming))
}

/// How long rings may take to put a configuration in force; they need a turn.
pub(super) const CHANGE_PATIENCE: Duration = Duration::from_secs(5);

/// What one ring's thread gets.
pub(super) struct Seat {
    pub(super) index: usize,
    cpu: Option<usize>,
}

impl RingThread {
    /// A ring that has nothing to do before [`Command::Change`].
    fn start(seat: Seat, frame: Frame, driver: &DriverInUse) -> Result<RingThread, StartError> {
        let waker = Waker::new().map_err(StartError::System)?;
        let tally = Tally::new();
        let (commands, inbox) = crossbeam_channel::bounded::<Command>(super::COMMANDS_MAX);
        let (ready, is_ready) = crossbeam_channel::bounded(1);
        let name = format!("ring-{}", seat.index);
        let life = Life { seat, frame, waker: waker.clone(), tally: tally.clone(), inbox, plan: None };
        let kind = driver.kind;
        let body = move || match kind {
            Kind::IoUring => turn::<Ring>(life, &ready),
            Kind::Epoll => turn::<Epoll>(life, &ready),
        };
        let handle = thread::Builder::new().name(name).spawn(body).map_err(StartError::System)?;
        let thread = RingThread { handle: Some(handle), commands: Some(commands), waker, tally };
        match is_ready.recv() {
            Ok(Ok(())) => Ok(thread),
            Ok(Err(error)) => Err(StartError::Ring(error)),
            Err(_) => Err(StartError::System(io::Error::other("a ring's thread has ended before it was ready"))),
        }
    }
}

/// What a ring's thread does, on one driver or the other.
fn turn<D: Native>(life: Life, ready: &Sender<Result<(), SetupError>>) {
    match life.ring::<D>() {
        Ok(acceptor) => {
            let _ = ready.send(Ok(()));
            life.live(acceptor);
        }
        Err(error) => drop(ready.send(Err(error))),
    }
}

/// A ring that has nothing to do yet, on its own thread.
pub(super) fn build<D: Native>(
    seat: &Seat,
    frame: Frame,
    waker: Waker,
    tally: Arc<Tally>,
) -> Result<Acceptor<D, Pools>, SetupError> {
    if let Some(cpu) = seat.cpu
        && let Err(error) = ring::pin_to(cpu)
    {
        tracing::warn!("ring {} is not pinned to CPU {cpu}: {error}", seat.index);
    }
    let sizes = frame.sizes;
    let driver = D::make(sizes, waker.clone())?;
    tally.locks(driver.locked());
    for shortcoming in driver.shortcomings() {
        tracing::warn!("ring {} {shortcoming}", seat.index);
    }
    let sessions = relay::Parts {
        sessions: frame.sessions,
        letterbox: Letterbox::new(Some(waker.clone())),
        tally: tally.clone(),
        log: frame.session_log.0,
    };
    let handshakes = frame.handshakes.map(|way| Given::new(way, Arc::new(waker.clone()), tally.clone()));
    Ok(Acceptor::new(Parts {
        driver,
        sink: Pools::new(waker),
        doors: Vec::new(),
        relays: Relays::new(sessions, Instant::now()),
        deadlines: Deadlines::new(sizes.slots, Instant::now()),
        pools: 0,
        slots: sizes.slots,
        handshakes,
        pending_limit: frame.pending_limit as usize,
        peers: PendingPeers::default(),
        clients: Clients::default(),
        tally,
        report: frame.report,
    }))
}
