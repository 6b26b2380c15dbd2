//! A snapshot as samples: of everything that an engine counts, in the families of [`crate::metrics`].

use hdrhistogram::Histogram;

use super::accounts::{BackendAccount, ServerAccount};
use super::snapshot::{PoolAccount, RingAccount, Snapshot, pending};
use super::tally::Passage;
use crate::backend::{AdminState, ServerTotals, Totals, Traffic};
use crate::metrics::{Scrape, families as f};

const MICROSECONDS: f64 = 1e-6;
const MILLISECONDS: f64 = 1e-3;

impl Snapshot {
    /// Enters everything that it holds.
    pub fn enter(&self, scrape: &mut Scrape) {
        self.enter_listeners(scrape);
        self.enter_counters(scrape);
        scrape.times(&f::HEADER_WAIT, [], &self.header_wait, MICROSECONDS);
        scrape.gauge(&f::RINGS, [], self.rings.len());
        scrape.gauge(&f::LOCKED_MEMORY, [], self.locked_memory());
        if let Some(driver) = &self.driver {
            scrape.info(&f::DRIVER, [driver.name()]);
        }
        for (number, ring) in self.rings.iter().enumerate() {
            enter_ring(scrape, &number.to_string(), ring);
        }
        for PoolAccount { name, lost, waits } in &self.pools {
            scrape.times(&f::DISPATCH, [name], waits, MICROSECONDS);
            scrape.count(&f::POOL_LOST, [name], *lost);
        }
        for backend in &self.backends {
            enter_backend(scrape, backend);
        }
    }

    fn enter_listeners(&self, scrape: &mut Scrape) {
        for ((service, listener), passages) in &self.listeners {
            let of = |passage: Passage| passages[passage as usize];
            let labels = [service.as_str(), listener.as_str()];
            scrape.count(&f::ACCEPTED, labels, of(Passage::Accepted));
            scrape.count(&f::RESET_EARLY, labels, of(Passage::ResetEarly));
            scrape.gauge(&f::PENDING, labels, pending(passages));
            scrape.count(&f::PENDING_MOVED, [service, listener, "in"], of(Passage::TakenOver));
            scrape.count(&f::PENDING_MOVED, [service, listener, "out"], of(Passage::HandedOver));
            for (passage, _) in Passage::SHADOWS.into_iter().filter(|(passage, _)| of(*passage) > 0) {
                scrape.count(&f::SHADOW, [service, listener, passage.name()], of(passage));
            }
            for (passage, version, command) in Passage::HANDED_ON {
                scrape.count(&f::HANDED_ON, [service, listener, version, command], of(passage));
            }
        }
        for ((service, listener, reason), count) in &self.endings {
            scrape.count(&f::REFUSED, [service, listener, reason], *count);
        }
        for ((service, listener, diagnosis), count) in &self.diagnosed {
            scrape.count(&f::DIAGNOSED, [service, listener, diagnosis], *count);
        }
    }

    fn enter_counters(&self, scrape: &mut Scrape) {
        let of = |name| self.count(name);
        scrape.count(&f::LOOPBACK_SOURCES, [], of("loopback-source"));
        scrape.count(&f::PORT_ZERO, [], of("port-zero"));
        scrape.count(&f::ACCEPT_FAILURES, ["out-of-resources"], of("out-of-resources"));
        scrape.count(&f::ACCEPT_FAILURES, ["other"], of("accept-failed"));
        scrape.count(&f::PAUSED, [], of("paused"));
        scrape.count(&f::SESSIONS_MOVED, ["in"], of("session-taken"));
        scrape.count(&f::SESSIONS_MOVED, ["out"], of("session-moved"));
        scrape.count(&f::CLIENT_TABLE_EVICTED, [], of("client-evicted"));
        scrape.count(&f::CLIENT_TABLE_UNCOUNTED, [], of("client-uncounted"));
        let (used, size) = self.clients;
        scrape.gauge(&f::CLIENT_TABLE_USED, [], used);
        scrape.gauge(&f::CLIENT_TABLE_SIZE, [], size);
        let resumed = of("tls-resumed");
        scrape.count(&f::TLS_SESSIONS, ["full"], of("tls-established").saturating_sub(resumed));
        scrape.count(&f::TLS_SESSIONS, ["resumed"], resumed);
        scrape.count(&f::TLS_FAILURES, [], of("tls-failed"));
        scrape.count(&f::TLS_CHECKS, [], of("tls-checked"));
        scrape.count(&f::TLS_THREADS_FULL, [], of("tls-threads-full"));
        scrape.count(&f::TLS_TO_KERNEL, [], of("tls-to-kernel"));
    }
}

fn enter_ring(scrape: &mut Scrape, ring: &str, account: &RingAccount) {
    let RingAccount { accepted, pending, turns, cq_overflows, stale, phantom, replaced, locked: _ } = *account;
    scrape.count(&f::RING_ACCEPTED, [ring], accepted);
    scrape.gauge(&f::RING_PENDING, [ring], pending);
    scrape.count(&f::RING_TURNS, [ring], turns);
    scrape.count(&f::RING_CQ_OVERFLOWS, [ring], cq_overflows);
    scrape.count(&f::RING_STALE, [ring], stale);
    scrape.count(&f::RING_PHANTOM, [ring], phantom);
    scrape.count(&f::RING_REPLACED, [ring], replaced);
}

fn enter_backend(scrape: &mut Scrape, backend: &BackendAccount) {
    let name = backend.name.as_str();
    let Totals { full, nobody, waited, line_full, abandoned } = backend.totals;
    scrape.gauge(&f::QUEUE, [name], backend.waiting);
    scrape.gauge(&f::QUEUE_MAX, [name], backend.waiting_max);
    scrape.gauge(&f::QUEUE_LIMIT, [name], backend.queue);
    for (outcome, count) in [("waited", waited), ("queue-full", line_full), ("abandoned", abandoned)] {
        scrape.count(&f::QUEUED, [name, outcome], count);
    }
    scrape.count(&f::NOT_CHOSEN, [name, "full"], full);
    scrape.count(&f::NOT_CHOSEN, [name, "nobody"], nobody);
    scrape.gauge(&f::STICK_TABLE_USED, [name], backend.stick_used);
    scrape.gauge(&f::STICK_TABLE_SIZE, [name], backend.stick_size);
    for (reason, count) in backend.unserved_ends() {
        scrape.count(&f::UNSERVED, [name, reason], count);
    }
    let times = |of: fn(&Traffic) -> &Histogram<u64>| merged(backend.servers.iter().map(|server| of(&server.traffic)));
    for (family, unit, recorded) in [
        (&f::CONNECT_SECONDS, MICROSECONDS, times(|traffic| &traffic.connect)),
        (&f::GREETING_SECONDS, MICROSECONDS, times(|traffic| &traffic.greeting)),
        (&f::SESSION_SECONDS, MILLISECONDS, times(|traffic| &traffic.lasted)),
    ] {
        recorded.iter().for_each(|recorded| scrape.times(family, [name], recorded, unit));
    }
    backend.servers.iter().for_each(|server| enter_server(scrape, name, server));
}

fn merged<'a>(mut all: impl Iterator<Item = &'a Histogram<u64>>) -> Option<Histogram<u64>> {
    let mut sum = all.next()?.clone();
    all.for_each(|one| sum.add(one).expect("all histograms of a kind have the same bounds"));
    Some(sum)
}

fn enter_server(scrape: &mut Scrape, backend: &str, server: &ServerAccount) {
    let labels = [backend, server.name.as_str()];
    let [_, name] = labels;
    scrape.gauge(&f::SESSIONS, labels, server.sessions);
    scrape.gauge(&f::SESSIONS_MAX, labels, server.sessions_max);
    server.limit.iter().for_each(|limit| scrape.gauge(&f::SESSIONS_LIMIT, labels, *limit));
    scrape.count(&f::BYTES, [backend, name, "in"], server.traffic.from_clients);
    scrape.count(&f::BYTES, [backend, name, "out"], server.traffic.to_clients);
    for (reason, count) in server.ends() {
        scrape.count(&f::SESSION_ENDS, [backend, name, reason], count);
    }
    scrape.gauge(&f::SERVER_UP, labels, server.up);
    for (state, word) in AdminState::ALL {
        scrape.gauge(&f::SERVER_STATE, [backend, name, word], server.state == state);
    }
    scrape.gauge(&f::SERVER_SINCE, labels, server.since.as_secs_f64());
    scrape.gauge(&f::SERVER_WEIGHT, labels, server.weight_now);
    enter_totals(scrape, labels, &server.totals);
}

fn enter_totals(scrape: &mut Scrape, labels: [&str; 2], totals: &ServerTotals) {
    let [backend, server] = labels;
    scrape.count(&f::SESSIONS_GIVEN, labels, totals.sessions);
    scrape.count(&f::REDISPATCHED, labels, totals.redispatched);
    scrape.count(&f::OVERLOADED, labels, totals.overloaded);
    scrape.count(&f::SERVER_DOWNS, labels, totals.downs);
    scrape.count(&f::CHECKS, [backend, server, "passed"], totals.checks_passed);
    scrape.count(&f::CHECKS, [backend, server, "failed"], totals.checks_failed);
    for (cause, count) in
        [("server", totals.connect_errors), ("own-fault", totals.own_faults), ("not-greeted", totals.not_greeted)]
    {
        scrape.count(&f::CONNECT_ERRORS, [backend, server, cause], count);
    }
}
