//! Random moves of clients, servers and the operator, against a naive backend: who may be chosen, who must be, who waits.

use std::collections::VecDeque;

use super::*;

/// A server as the model knows it.
#[derive(Clone)]
struct Plain {
    state: AdminState,
    weight: u32,
    limit: u32,
    backup: bool,
    has_address: bool,
    up: bool,
    proven: bool,
    against: u32,
    out_until: Option<Instant>,
    held: u32,
}

impl Plain {
    fn takes_known(&self) -> bool {
        self.up && self.has_address && self.state != AdminState::Maint
    }

    fn takes_new(&self) -> bool {
        self.takes_known() && self.state == AdminState::Ready && self.weight > 0
    }

    fn is_full(&self) -> bool {
        self.limit > 0 && self.held >= self.limit
    }
}

struct Model {
    servers: Vec<Plain>,
    checked: bool,
    line: VecDeque<Waiter>,
    queue: usize,
}

impl Model {
    fn active(&self) -> Vec<usize> {
        let of = |backup: bool| -> Vec<usize> {
            (0..self.servers.len())
                .filter(|&at| self.servers[at].takes_new() && self.servers[at].backup == backup)
                .collect()
        };
        let regular = of(false);
        if regular.is_empty() { of(true) } else { regular }
    }

    /// Those who may get a new session; and whether somebody could, were it not full.
    fn candidates(&self, tried: &Tried) -> (Vec<usize>, bool) {
        for backup in [false, true] {
            let open: Vec<usize> = (0..self.servers.len())
                .filter(|&at| {
                    let server = &self.servers[at];
                    server.takes_new() && server.backup == backup && !tried.contains(ServerIndex(at as u16))
                })
                .collect();
            if !open.is_empty() {
                let free: Vec<usize> = open.iter().copied().filter(|&at| !self.servers[at].is_full()).collect();
                return (free, true);
            }
        }
        (Vec::new(), false)
    }

    fn down(&mut self, at: usize, now: Instant) {
        let out_until = (!self.checked).then(|| now + OUT_FOR);
        let server = &mut self.servers[at];
        (server.up, server.against, server.proven, server.out_until) = (false, 0, false, out_until);
    }

    fn pass_time(&mut self, now: Instant, fall: u32) {
        for server in self.servers.iter_mut().filter(|server| server.out_until.is_some_and(|until| until <= now)) {
            (server.up, server.against, server.proven, server.out_until) = (true, fall - 1, false, None);
        }
    }
}

#[test]
fn a_naive_backend_agrees() {
    let (mut waited, mut downs, mut stuck, mut nobody) = (0, 0, 0, 0);
    for seed in 0..120 {
        let seen = run(seed);
        (waited, downs, stuck, nobody) = (waited + seen.0, downs + seen.1, stuck + seen.2, nobody + seen.3);
    }
    assert!(waited > 1000 && downs > 1000 && stuck > 1000 && nobody > 1000, "{waited} {downs} {stuck} {nobody}");
}

/// One schedule. How often somebody was granted a place, a server went down, a client kept its server, nobody was there.
fn run(seed: u64) -> (u32, u32, u32, u32) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut now = Instant::now();
    let (base, model) = schedule(&mut random);
    let sticks = base.stick.is_some();
    let (slow, balance, checks) = (!base.slow_start.is_zero(), base.balance, base.check);
    let mut rig = Rig {
        backend: Backend::new(base, seed, now),
        model,
        sessions: Vec::new(),
        homes: HashMap::new(),
        counts: (0, 0, 0, 0),
    };
    for step in 0..1500 {
        now += Duration::from_millis(random.u64(..400));
        rig.model.pass_time(now, checks.fall);
        rig.grants(now);
        let at = random.usize(..rig.model.servers.len());
        match random.u32(..20) {
            0..8 => rig.arrive(&mut random, now, (balance, slow, sticks), step),
            8..14 => rig.leave(&mut random, now),
            14 => rig.abandon(&mut random),
            15 => rig.operate(at, &mut random, now),
            16 | 17 => rig.check(at, &mut random, now, &checks),
            _ => rig.session_news(at, &mut random, now, &checks),
        }
        rig.grants(now);
        rig.agree(now);
    }
    rig.counts
}

fn schedule(random: &mut fastrand::Rng) -> (Settings, Model) {
    let mut servers = named(random.usize(1..7));
    for server in &mut servers {
        server.weight = random.u32(..4);
        server.connection_limit = random.u32(..4) * random.u32(1..4);
        server.backup = random.u32(..4) == 0;
        server.state = AdminState::ALL[random.usize(..5).saturating_sub(2)].0;
    }
    let plain = |server: &ServerSettings| Plain {
        state: server.state,
        weight: server.weight,
        limit: server.connection_limit,
        backup: server.backup,
        has_address: true,
        up: true,
        proven: false,
        against: 0,
        out_until: None,
        held: 0,
    };
    let plain = servers.iter().map(plain).collect();
    let mut base = settings(Balance::ALL[random.usize(..3)].0, servers);
    base.queue = random.u32(..6);
    base.stick = if random.bool() { stick(1000) } else { None };
    base.slow_start = SECOND * random.u32(..2) * 20;
    base.check.fall = random.u32(1..4);
    base.check.rise = random.u32(1..4);
    base.check.kind = if random.bool() { CheckKind::Banner } else { CheckKind::None };
    let model = Model {
        servers: plain,
        checked: base.check.kind != CheckKind::None,
        line: VecDeque::new(),
        queue: base.queue as usize,
    };
    (base, model)
}

struct Rig {
    backend: Backend,
    model: Model,
    sessions: Vec<ServerIndex>,
    /// What the model remembers of clients: home, stand-in, and whether only the first session has come.
    homes: HashMap<u32, (u16, Option<u16>, bool)>,
    counts: (u32, u32, u32, u32),
}

impl Rig {
    fn arrive(&mut self, random: &mut fastrand::Rng, now: Instant, how: (Balance, bool, bool), step: u64) {
        let (balance, slow, sticks) = how;
        let n = random.u32(..40);
        let mut tried = Tried::NONE;
        (0..random.usize(..3) * random.usize(..2)).for_each(|_| {
            tried.add(ServerIndex(random.u16(..self.model.servers.len() as u16)));
        });
        let choice = self.backend.choose(client(n), &tried, now);
        let kept = sticks.then(|| self.kept(n, &tried)).flatten();
        let (free, somebody) = self.model.candidates(&tried);
        match choice {
            Choice::Server { index, address } => {
                assert_eq!(Some(address), self.backend.server(index, now).address);
                if let Some(kept) = kept {
                    assert_eq!(index.0, kept, "client {n} keeps its server");
                    self.counts.2 += 1;
                } else {
                    assert!(free.contains(&index.at()), "{index:?} is none of {free:?}");
                    if balance == Balance::LeastConn && !slow && !self.was_overloaded() {
                        self.is_least(index.at(), &free);
                    }
                }
                if sticks {
                    self.remember(n, index.0, &tried);
                }
                self.seat(index);
            }
            Choice::Full => {
                assert!(kept.is_none() && somebody && free.is_empty());
                let waiter = Waiter { ring: n % 3, session: step };
                let fits = self.backend.wait(waiter, client(n), now).is_ok();
                assert_eq!(fits, self.model.line.len() < self.model.queue);
                if fits {
                    self.model.line.push_back(waiter);
                }
            }
            Choice::Nobody => {
                assert!(kept.is_none() && !somebody);
                self.counts.3 += 1;
            }
        }
    }

    /// Where a client must go because it keeps its server.
    fn kept(&self, n: u32, tried: &Tried) -> Option<u16> {
        let (home, stand_in, _) = *self.homes.get(&n)?;
        let may = |at: &u16| {
            let server = &self.model.servers[usize::from(*at)];
            server.takes_known() && !server.is_full() && !tried.contains(ServerIndex(*at))
        };
        [Some(home), stand_in].into_iter().flatten().find(may)
    }

    fn remember(&mut self, n: u32, at: u16, tried: &Tried) {
        let again = tried.is_empty();
        let Some(entry) = self.homes.get_mut(&n) else {
            self.homes.insert(n, (at, None, true));
            return;
        };
        if entry.0 == at {
            entry.1 = None;
        } else if entry.2 && tried.contains(ServerIndex(entry.0)) {
            (entry.0, entry.1) = (at, None);
            return;
        } else {
            entry.1 = Some(at);
        }
        entry.2 &= !again;
    }

    fn is_least(&self, chosen: usize, free: &[usize]) {
        let load = |at: usize| f64::from(self.model.servers[at].held + 1) / f64::from(self.model.servers[at].weight);
        let least = free.iter().map(|&at| load(at)).fold(f64::INFINITY, f64::min);
        assert!(load(chosen) <= least + 1e-9, "{chosen} has {}, somebody {least}", load(chosen));
    }

    fn was_overloaded(&self) -> bool {
        self.backend.servers.iter().any(|server| server.totals.overloaded > 0)
    }

    fn seat(&mut self, index: ServerIndex) {
        self.sessions.push(index);
        let server = &mut self.model.servers[index.at()];
        server.held += 1;
        assert!(server.limit == 0 || server.held <= server.limit, "never above the limit");
    }

    fn leave(&mut self, random: &mut fastrand::Rng, now: Instant) {
        if self.sessions.is_empty() {
            return;
        }
        let index = self.sessions.swap_remove(random.usize(..self.sessions.len()));
        self.model.servers[index.at()].held -= 1;
        let gives = self.model.active().contains(&index.at()) && !self.model.servers[index.at()].is_full();
        let grant = self.backend.release(index, now);
        assert_eq!(grant.is_some(), gives && !self.model.line.is_empty());
        if let Some(grant) = grant {
            assert_eq!(grant.index, index, "a place is given where it was");
            self.granted(grant);
        }
    }

    fn granted(&mut self, grant: Grant) {
        assert_eq!(Some(grant.waiter), self.model.line.pop_front(), "who waits longest comes first");
        // Its client's entry follows; the model asks the table, which the other tests hold.
        self.homes.clear();
        if let Some(stick) = &mut self.backend.stick {
            stick.forget(|_| true);
        }
        self.seat(grant.index);
        self.counts.0 += 1;
    }

    fn grants(&mut self, now: Instant) {
        while let Some(grant) = self.backend.next_grant(now) {
            let server = &self.model.servers[grant.index.at()];
            assert!(server.takes_known() && !server.is_full());
            self.granted(grant);
        }
    }

    fn abandon(&mut self, random: &mut fastrand::Rng) {
        if let Some(at) = (!self.model.line.is_empty()).then(|| random.usize(..self.model.line.len())) {
            let waiter = self.model.line.remove(at).expect("it is there");
            assert!(self.backend.abandon(waiter));
            assert!(!self.backend.abandon(waiter));
        }
    }

    fn operate(&mut self, at: usize, random: &mut fastrand::Rng, now: Instant) {
        let index = ServerIndex(at as u16);
        let server = &mut self.model.servers[at];
        let mut renew = false;
        match random.u32(..3) {
            0 => {
                let state = AdminState::ALL[random.usize(..5).saturating_sub(2)].0;
                renew = server.state == AdminState::Maint && state != AdminState::Maint;
                server.state = state;
                self.backend.set_state(index, state, now);
            }
            1 => {
                server.weight = random.u32(..4);
                self.backend.set_weight(index, server.weight, now);
            }
            _ => {
                let host = random.u8(..3);
                let address = (host > 0).then(|| SocketAddr::from(([192, 0, 3, host], 143)));
                renew = self.backend.server(index, now).address != address;
                server.has_address = address.is_some();
                self.backend.set_address(index, address, now);
            }
        }
        if renew {
            (server.up, server.proven, server.against, server.out_until) = (true, false, 0, None);
        }
    }

    fn check(&mut self, at: usize, random: &mut fastrand::Rng, now: Instant, checks: &CheckSettings) {
        if !self.model.checked {
            return;
        }
        let findings = [Finding::Greeted, Finding::Silent, Finding::OwnFault, Finding::NoHeaderExpected];
        let finding = findings[random.usize(..9) % 4];
        let server = &mut self.model.servers[at];
        let change = self.backend.checked(ServerIndex(at as u16), verdict(finding), now);
        if !server.has_address || server.state == AdminState::Maint || finding == Finding::OwnFault {
            return assert_eq!(change, None);
        }
        let (good, was) = (finding.is_good(), server.up);
        match (good, was) {
            (true, true) => (server.against, server.proven) = (0, true),
            (false, false) => server.against = 0,
            _ => server.against += 1,
        }
        let unproven = !server.proven || finding.is_decisive();
        if was && !good && (unproven || server.against >= checks.fall) {
            assert!(matches!(change, Some(Change::Down { .. })));
            self.counts.1 += 1;
            self.model.down(at, now);
        } else if !was && good && server.against >= checks.rise {
            assert_eq!(change, Some(Change::Up));
            (server.up, server.against, server.proven) = (true, 0, true);
        } else {
            assert_eq!(change, None);
        }
    }

    fn session_news(&mut self, at: usize, random: &mut fastrand::Rng, now: Instant, checks: &CheckSettings) {
        let index = ServerIndex(at as u16);
        let server = &mut self.model.servers[at];
        let change = match random.u32(..8) {
            0..3 => {
                self.backend.greeted(index);
                if server.up {
                    (server.against, server.proven) = (0, true);
                }
                return;
            }
            3 => self.backend.connect_failed(index, ConnectFailure::TimedOut, now),
            4 => return assert_eq!(self.backend.connect_failed(index, ConnectFailure::PortsUsedUp, now), None),
            5 if random.u32(..20) == 0 => return self.backend.overloaded(index, now),
            _ => self.backend.not_greeted(index, now),
        };
        server.against += u32::from(server.up);
        let falls = server.up && server.against >= checks.fall;
        assert_eq!(change.is_some(), falls);
        if falls {
            self.counts.1 += 1;
            self.model.down(at, now);
        }
    }

    fn agree(&self, now: Instant) {
        self.backend.check_invariants();
        for (view, server) in self.backend.servers(now).zip(&self.model.servers) {
            assert_eq!((view.up, view.sessions), (server.up, server.held), "{}", view.name);
            assert_eq!(view.takes_new, self.model.active().contains(&view.index.at()), "{}", view.name);
        }
        assert_eq!(self.backend.view().waiting, self.model.line.len());
    }
}
