//! A backend as its users see it; `model` runs it against a naive one.

mod model;

use std::collections::HashMap;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn server(name: &str) -> ServerSettings {
    let last = name.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    ServerSettings {
        name: name.into(),
        host: format!("192.0.2.{last}"),
        port: 10143,
        address: Some(SocketAddr::from(([192, 0, 2, last], 10143))),
        weight: 1,
        connection_limit: 0,
        state: AdminState::Ready,
        backup: false,
        check_port: None,
    }
}

fn settings(balance: Balance, servers: Vec<ServerSettings>) -> Settings {
    Settings {
        name: "imap".into(),
        servers,
        balance,
        stick: None,
        connect_timeout: 5 * SECOND,
        retries: 3,
        queue: 4,
        queue_timeout: 10 * SECOND,
        slow_start: Duration::ZERO,
        check: CheckSettings { kind: CheckKind::Banner, interval: 10 * SECOND, rise: 2, fall: 3 },
    }
}

fn named(count: usize) -> Vec<ServerSettings> {
    (0..count).map(|n| server(&format!("mail{n}"))).collect()
}

fn weighted(weights: &[u32]) -> Vec<ServerSettings> {
    named(weights.len()).into_iter().zip(weights).map(|(s, &weight)| ServerSettings { weight, ..s }).collect()
}

fn stick(size: u32) -> Option<StickSettings> {
    Some(StickSettings { size, expire: 1800 * SECOND })
}

fn client(n: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + n).to_be_bytes())
}

fn waiter(session: u64) -> Waiter {
    Waiter { ring: 1, session }
}

fn verdict(finding: Finding) -> Verdict {
    Verdict { finding, message: format!("{finding:?}"), took: Duration::ZERO, kind: None }
}

/// The server that the client gets.
fn chosen(backend: &mut Backend, n: u32, now: Instant) -> u16 {
    match backend.choose(client(n), &Tried::NONE, now) {
        Choice::Server { index, .. } => index.0,
        other => panic!("{other:?}"),
    }
}

/// How many of `count` new sessions, which all stay, each server gets.
fn shares(backend: &mut Backend, count: u32, now: Instant) -> Vec<u32> {
    let mut shares = vec![0; backend.servers.len()];
    (0..count).for_each(|n| shares[usize::from(chosen(backend, n, now))] += 1);
    backend.check_invariants();
    shares
}

fn sessions(backend: &Backend, now: Instant) -> Vec<u32> {
    backend.servers(now).map(|server| server.sessions).collect()
}

fn take_down(backend: &mut Backend, server: ServerIndex, now: Instant) {
    let changes: Vec<_> = (0..3).filter_map(|_| backend.checked(server, verdict(Finding::Silent), now)).collect();
    assert_eq!(changes, [Change::Down { why: "Silent".into() }]);
}

fn bring_up(backend: &mut Backend, server: ServerIndex, now: Instant) {
    let changes: Vec<_> = (0..2).filter_map(|_| backend.checked(server, verdict(Finding::Greeted), now)).collect();
    assert_eq!(changes, [Change::Up]);
}

#[test]
fn leastconn_is_even_within_one_of_a_thousand_while_they_come_and_go() {
    let now = Instant::now();
    let mut backend = Backend::new(settings(Balance::LeastConn, named(7)), 1, now);
    let mut random = fastrand::Rng::with_seed(1);
    assert!(shares(&mut backend, 1000, now).iter().all(|share| (142..=143).contains(share)));
    // Sessions end at random, as many come: the fewest are filled up first.
    for n in 0..1000 {
        let held = sessions(&backend, now);
        let fullest = (0..7).max_by_key(|&at| (held[at], random.u32(..))).expect("seven");
        backend.release(ServerIndex(fullest as u16), now);
        chosen(&mut backend, n, now);
    }
    let held = sessions(&backend, now);
    assert!(held.iter().all(|held| (142..=143).contains(held)), "{held:?}");
}

#[test]
fn equals_take_turns_even_if_every_session_ends_at_once() {
    let now = Instant::now();
    let mut backend = Backend::new(settings(Balance::LeastConn, named(3)), 1, now);
    let order: Vec<u16> = (0..9)
        .map(|n| {
            let index = chosen(&mut backend, n, now);
            backend.release(ServerIndex(index), now);
            index
        })
        .collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn weights_hold_for_every_balance() {
    let now = Instant::now();
    for (balance, within) in [(Balance::LeastConn, 1), (Balance::RoundRobin, 1), (Balance::Source, 600)] {
        let mut backend = Backend::new(settings(balance, weighted(&[1, 2, 3, 0, 4])), 1, now);
        let shares = shares(&mut backend, 20_000, now);
        for (share, expected) in shares.iter().zip([2000_u32, 4000, 6000, 0, 8000]) {
            assert!(share.abs_diff(expected) <= within * expected.min(1), "{balance:?}: {shares:?}");
        }
    }
}

#[test]
fn roundrobin_is_smooth() {
    let now = Instant::now();
    let mut backend = Backend::new(settings(Balance::RoundRobin, weighted(&[5, 1, 1])), 1, now);
    let order: Vec<u16> = (0..14).map(|n| chosen(&mut backend, n, now)).collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn without_a_server_only_its_clients_move_and_with_it_they_return() {
    let now = Instant::now();
    for weights in [[1, 1, 1, 1, 1], [1, 7, 2, 3, 30]] {
        let mut backend = Backend::new(settings(Balance::Source, weighted(&weights)), 7, now);
        let before: Vec<u16> = (0..5000).map(|n| chosen(&mut backend, n, now)).collect();
        backend.set_state(ServerIndex(1), AdminState::Maint, now);
        for (n, &home) in before.iter().enumerate() {
            let now_at = chosen(&mut backend, n as u32, now);
            assert!(now_at == home || home == 1, "client {n} had no reason to move");
            let mut tried = Tried::NONE;
            tried.add(ServerIndex(1));
            backend.set_state(ServerIndex(1), AdminState::Ready, now);
            let Choice::Server { index, .. } = backend.choose(client(n as u32), &tried, now) else { panic!() };
            assert_eq!(index.0, now_at, "a server that was tried is as one that is not there");
            assert_eq!(chosen(&mut backend, n as u32, now), home);
            backend.set_state(ServerIndex(1), AdminState::Maint, now);
        }
        let moved: HashMap<u16, usize> =
            (0..5000).filter(|&n| before[n as usize] == 1).fold(HashMap::new(), |mut map, n| {
                *map.entry(chosen(&mut backend, n, now)).or_default() += 1;
                map
            });
        assert!(moved.len() == 4, "the clients of a lost server are spread over all others: {moved:?}");
    }
}

#[test]
fn the_seed_and_the_names_decide_not_the_order_of_the_files() {
    let now = Instant::now();
    let mut servers = named(5);
    let mut one = Backend::new(settings(Balance::Source, servers.clone()), 7, now);
    servers.reverse();
    let mut other = Backend::new(settings(Balance::Source, servers), 7, now);
    assert!((0..1000).all(|n| chosen(&mut one, n, now) + chosen(&mut other, n, now) == 4));
}

#[test]
fn ten_thousand_clients_keep_their_server_over_its_maint() {
    let now = Instant::now();
    let base = Settings { stick: stick(20_000), ..settings(Balance::LeastConn, named(4)) };
    let mut backend = Backend::new(base, 1, now);
    let home: Vec<u16> = (0..10_000).map(|n| chosen(&mut backend, n, now)).collect();
    let all_at_home =
        |backend: &mut Backend, at: Instant| (0..10_000).all(|n| chosen(backend, n, at) == home[n as usize]);
    assert!(all_at_home(&mut backend, now));
    backend.set_state(ServerIndex(2), AdminState::Maint, now + SECOND);
    let meanwhile: Vec<u16> = (0..10_000).map(|n| chosen(&mut backend, n, now + 2 * SECOND)).collect();
    for (n, &at) in meanwhile.iter().enumerate() {
        assert!(if home[n] == 2 { at != 2 } else { at == home[n] }, "client {n}");
        assert_eq!(chosen(&mut backend, n as u32, now + 3 * SECOND), at, "nor is it scattered meanwhile");
    }
    backend.set_state(ServerIndex(2), AdminState::Ready, now + 1000 * SECOND);
    assert!(all_at_home(&mut backend, now + 1001 * SECOND), "and everybody is home again");
    take_down(&mut backend, ServerIndex(2), now + 1002 * SECOND);
    (0..10_000).for_each(|n| assert_ne!(chosen(&mut backend, n, now + 1003 * SECOND), 2));
    bring_up(&mut backend, ServerIndex(2), now + 1004 * SECOND);
    assert!(all_at_home(&mut backend, now + 1005 * SECOND));
    backend.check_invariants();
}

#[test]
fn in_drain_and_without_weight_a_server_keeps_those_it_has() {
    let now = Instant::now();
    let base = Settings { stick: stick(100), ..settings(Balance::LeastConn, named(2)) };
    let mut backend = Backend::new(base, 1, now);
    assert_eq!([chosen(&mut backend, 1, now), chosen(&mut backend, 2, now)], [0, 1]);
    backend.set_state(ServerIndex(0), AdminState::Drain, now);
    assert_eq!([1, 2, 3, 4].map(|n| chosen(&mut backend, n, now)), [0, 1, 1, 1]);
    backend.set_state(ServerIndex(0), AdminState::Ready, now);
    backend.set_weight(ServerIndex(0), 0, now);
    assert_eq!([1, 2, 5, 6].map(|n| chosen(&mut backend, n, now)), [0, 1, 1, 1]);
    backend.set_weight(ServerIndex(0), 1, now);
    assert_eq!(chosen(&mut backend, 7, now), 0);
}

#[test]
fn sessions_of_one_client_that_come_from_another_process_are_one_client() {
    let now = Instant::now();
    let base = Settings { stick: stick(100), ..settings(Balance::LeastConn, named(2)) };
    let mut backend = Backend::new(base, 1, now);
    for server in ["mail1", "mail1", "mail0"] {
        assert!(backend.adopt(server, client(1), now).is_some());
        backend.check_invariants();
    }
    assert_eq!(backend.view().stick_used, 1);
    assert_eq!(chosen(&mut backend, 1, now), 1, "its home is where the first was");
    assert!(backend.adopt("mail7", client(1), now).is_none());
}

#[test]
fn a_client_whose_first_server_fails_at_once_is_at_home_where_it_is_served() {
    let now = Instant::now();
    let base = Settings { stick: stick(100), ..settings(Balance::LeastConn, named(3)) };
    let mut backend = Backend::new(base, 1, now);
    let mut tried = Tried::NONE;
    let first = chosen(&mut backend, 1, now);
    backend.release(ServerIndex(first), now);
    tried.add(ServerIndex(first));
    let Choice::Server { index, .. } = backend.choose(client(1), &tried, now) else { panic!() };
    assert_eq!([chosen(&mut backend, 1, now), chosen(&mut backend, 1, now)], [index.0; 2]);
    // Who has been at home before returns there.
    tried = Tried::NONE;
    tried.add(index);
    let Choice::Server { index: away, .. } = backend.choose(client(1), &tried, now) else { panic!() };
    assert!(away != index && chosen(&mut backend, 1, now) == index.0);
}

#[test]
fn backups_serve_only_while_nobody_else_does() {
    let now = Instant::now();
    let mut servers = named(3);
    servers[2].backup = true;
    servers[0].connection_limit = 1;
    servers[1].connection_limit = 1;
    let mut backend = Backend::new(settings(Balance::LeastConn, servers), 1, now);
    let none = &Tried::NONE;
    assert_eq!([chosen(&mut backend, 1, now), chosen(&mut backend, 2, now)], [0, 1]);
    assert_eq!(backend.choose(client(3), none, now), Choice::Full, "a full server is no reason");
    take_down(&mut backend, ServerIndex(0), now);
    assert_eq!(backend.choose(client(3), none, now), Choice::Full);
    backend.set_state(ServerIndex(1), AdminState::Drain, now);
    assert_eq!(chosen(&mut backend, 3, now), 2);
    take_down(&mut backend, ServerIndex(2), now);
    assert_eq!(backend.choose(client(3), none, now), Choice::Nobody, "a check is believed, even of the last one");
    bring_up(&mut backend, ServerIndex(0), now);
    backend.release(ServerIndex(0), now);
    assert_eq!(chosen(&mut backend, 4, now), 0);
    backend.check_invariants();
}

#[test]
fn who_has_tried_everything_gets_nobody() {
    let now = Instant::now();
    let mut backend = Backend::new(settings(Balance::LeastConn, named(20)), 1, now);
    let mut tried = Tried::NONE;
    for n in 0..=RETRIES_MAX {
        let Choice::Server { index, .. } = backend.choose(client(1), &tried, now) else { panic!("{n} tried") };
        assert!(!tried.contains(index) && tried.add(index) && tried.add(index));
    }
    assert_eq!((tried.len(), tried.add(ServerIndex(99))), (17, false));
    let mut two = Backend::new(settings(Balance::LeastConn, named(2)), 1, now);
    assert_eq!(two.choose(client(1), &tried, now), Choice::Nobody);
    let totals = two.view().totals;
    assert_eq!((totals.nobody, totals.full), (1, 0));
}

#[test]
fn a_free_place_goes_to_the_first_who_waits() {
    let now = Instant::now();
    let mut servers = named(2);
    servers.iter_mut().for_each(|server| server.connection_limit = 1);
    let mut backend = Backend::new(settings(Balance::LeastConn, servers), 1, now);
    shares(&mut backend, 2, now);
    for key in 1..=4 {
        assert_eq!(backend.choose(client(9), &Tried::NONE, now), Choice::Full);
        assert_eq!(backend.wait(waiter(key), client(9), now), Ok(()));
    }
    assert_eq!(backend.wait(waiter(5), client(9), now), Err(LineFull));
    assert!(backend.abandon(waiter(2)) && !backend.abandon(waiter(2)));
    let grant = backend.release(ServerIndex(1), now).expect("one waits");
    assert_eq!((grant.waiter, grant.index.0), (waiter(1), 1));
    assert_eq!(grant.address, backend.server(grant.index, now).address.expect("it has one"));
    assert!(!backend.abandon(waiter(1)), "it has its place");
    backend.set_state(ServerIndex(0), AdminState::Drain, now);
    assert_eq!(backend.release(ServerIndex(0), now), None, "places of a server in drain are nobody's");
    assert_eq!(backend.next_grant(now), None);
    backend.set_state(ServerIndex(0), AdminState::Ready, now);
    assert_eq!(backend.next_grant(now).map(|grant| (grant.waiter, grant.index.0)), Some((waiter(3), 0)));
    assert_eq!(backend.next_grant(now), None);
    backend.check_invariants();
    let view = backend.view();
    assert_eq!((view.waiting, view.waiting_max, view.totals.line_full, view.totals.abandoned), (1, 4, 1, 1));
    assert_eq!(sessions(&backend, now), [1, 1]);
}

#[test]
fn a_returning_server_is_not_flooded() {
    for balance in [Balance::LeastConn, Balance::RoundRobin] {
        let start = Instant::now();
        let base = Settings { slow_start: 30 * SECOND, ..settings(balance, named(4)) };
        let mut backend = Backend::new(base, 1, start);
        assert_eq!(
            shares(&mut backend, 4000, start),
            [1000; 4],
            "{balance:?}: no slow start at the daemon's own start"
        );
        take_down(&mut backend, ServerIndex(3), start);
        (0..1000).for_each(|_| _ = backend.release(ServerIndex(3), start));
        let up = start + 60 * SECOND;
        bring_up(&mut backend, ServerIndex(3), up);
        // A tenth of the time after the other, 200 sessions each, evenly.
        let mut of_200: Vec<u32> = Vec::new();
        for tenth in 0..10 {
            let came = (0..200).filter(|n| chosen(&mut backend, *n, up + tenth * 3 * SECOND + *n * SECOND / 70) == 3);
            of_200.push(came.count() as u32);
        }
        assert!(of_200[0] <= 20, "{balance:?}: a tenth at most in the first tenth: {of_200:?}");
        assert!(of_200.is_sorted() || balance == Balance::RoundRobin, "{balance:?}: {of_200:?}");
        assert!(of_200[9] > 5 * of_200[0] / 2 && of_200[9] >= 40, "{balance:?}: {of_200:?}");
        let view = backend.server(ServerIndex(3), up + 31 * SECOND);
        assert!((view.weight_now - 1.0).abs() < 1e-9);
        let later = shares(&mut backend, 400, up + 31 * SECOND);
        assert!(later[3] >= 100, "{balance:?}: at last it has its whole share: {later:?}");
    }
}

#[test]
fn every_return_is_slow() {
    let now = Instant::now();
    let base = Settings { slow_start: 30 * SECOND, ..settings(Balance::LeastConn, named(2)) };
    let mut backend = Backend::new(base, 1, now);
    let one = ServerIndex(1);
    let weight = |backend: &Backend| backend.server(one, now).weight_now;
    let address = backend.server(one, now).address;
    assert!((weight(&backend) - 1.0).abs() < 1e-9);
    type Leave = fn(&mut Backend, Instant);
    let ways: [(Leave, Leave); 4] = [
        (
            |b, now| b.set_state(ServerIndex(1), AdminState::Maint, now),
            |b, now| b.set_state(ServerIndex(1), AdminState::Ready, now),
        ),
        (
            |b, now| b.set_state(ServerIndex(1), AdminState::Drain, now),
            |b, now| b.set_state(ServerIndex(1), AdminState::Ready, now),
        ),
        (|b, now| b.set_weight(ServerIndex(1), 0, now), |b, now| b.set_weight(ServerIndex(1), 1, now)),
        (
            |b, now| (0..3).for_each(|_| _ = b.not_greeted(ServerIndex(1), now)),
            |b, now| bring_up(b, ServerIndex(1), now),
        ),
    ];
    for (leave, come) in ways {
        let later = now + 100 * SECOND;
        leave(&mut backend, now);
        assert!(!backend.server(one, now).takes_new);
        come(&mut backend, now);
        assert!(weight(&backend) < 0.02 && backend.server(one, later).weight_now > 0.99);
        backend.check_invariants();
    }
    backend.set_address(one, None, now);
    assert_eq!(backend.server(one, now).address, None);
    backend.set_address(one, address, now);
    assert!(weight(&backend) < 0.02);
}

#[test]
fn all_back_at_once_serve_at_once() {
    let now = Instant::now();
    let base = Settings { slow_start: 30 * SECOND, ..settings(Balance::LeastConn, named(3)) };
    let mut backend = Backend::new(base, 1, now);
    (0..3).for_each(|at| take_down(&mut backend, ServerIndex(at), now));
    assert_eq!(backend.choose(client(1), &Tried::NONE, now), Choice::Nobody);
    (0..3).for_each(|at| bring_up(&mut backend, ServerIndex(at), now));
    assert_eq!(shares(&mut backend, 300, now), [100; 3]);
}

#[test]
fn an_overloaded_server_gets_half_of_its_share_for_a_while() {
    let now = Instant::now();
    let mut backend = Backend::new(settings(Balance::RoundRobin, named(2)), 1, now);
    let weight = |backend: &Backend, at: Instant| (backend.server(ServerIndex(1), at).weight_now * 100.0) as u32;
    (0..50).for_each(|_| backend.overloaded(ServerIndex(1), now));
    assert_eq!(weight(&backend, now), 50, "told by many at once, it counts once");
    assert_eq!(shares(&mut backend, 300, now), [200, 100]);
    backend.overloaded(ServerIndex(1), now + SECOND);
    assert_eq!([1, 6, 11].map(|s| weight(&backend, now + s * SECOND)), [27, 63, 100]);
    assert!(backend.server(ServerIndex(1), now).up);
    let verdict = verdict(Finding::Overloaded);
    assert_eq!(backend.checked(ServerIndex(0), verdict, now), None, "nor does a check bring it down");
    assert!((backend.server(ServerIndex(0), now).weight_now - 0.5).abs() < 0.01);
}

#[test]
fn without_checks_failures_take_a_server_out_for_a_while() {
    let now = Instant::now();
    let mut base = settings(Balance::LeastConn, named(2));
    base.check.kind = CheckKind::None;
    let mut backend = Backend::new(base, 1, now);
    let refused = |backend: &mut Backend, at| backend.connect_failed(ServerIndex(0), ConnectFailure::Refused, at);
    assert_eq!((backend.next_check(now), backend.wake_at()), (NextCheck::Never, None));
    assert_eq!([refused(&mut backend, now), refused(&mut backend, now)], [None, None]);
    let Some(Change::Down { why }) = refused(&mut backend, now) else { panic!("three in a row") };
    assert_eq!(why, "3 sessions in a row failed, the last one: connection refused");
    assert_eq!(shares(&mut backend, 10, now + 9 * SECOND), [0, 10]);
    assert_eq!(backend.wake_at(), Some(now + OUT_FOR));
    assert_eq!(chosen(&mut backend, 1, now + OUT_FOR), 0, "then it is tried again");
    assert!(matches!(refused(&mut backend, now + OUT_FOR), Some(Change::Down { .. })), "and one failure is enough");
    assert_eq!(chosen(&mut backend, 1, now + 2 * OUT_FOR), 0);
    backend.greeted(ServerIndex(0));
    assert_eq!([refused(&mut backend, now), refused(&mut backend, now)], [None, None], "success has ended the row");
}

#[test]
fn used_up_ports_bring_nobody_down() {
    let now = Instant::now();
    let mut backend = Backend::new(settings(Balance::LeastConn, named(1)), 1, now);
    let zero = ServerIndex(0);
    (0..100).for_each(|_| assert_eq!(backend.connect_failed(zero, ConnectFailure::PortsUsedUp, now), None));
    (0..100).for_each(|_| assert_eq!(backend.checked(zero, verdict(Finding::OwnFault), now), None));
    let view = backend.server(zero, now);
    assert_eq!((view.up, view.totals.own_faults, view.totals.connect_errors), (true, 100, 0));
}

#[test]
fn a_connection_alone_proves_nothing_where_a_greeting_is_due() {
    let now = Instant::now();
    let mut backend = Backend::new(settings(Balance::LeastConn, named(1)), 1, now);
    let mut fail = |greets: bool| {
        backend.connected(ServerIndex(0), greets);
        backend.not_greeted(ServerIndex(0), now)
    };
    assert!((0..10).all(|_| fail(false).is_none()));
    assert_eq!((0..3).filter_map(|_| fail(true)).count(), 1);
}

#[test]
fn the_prober_is_told_whom_to_check_and_when() {
    let now = Instant::now();
    let mut servers = named(3);
    servers[1].check_port = Some(5001);
    servers[2].state = AdminState::Maint;
    let mut backend = Backend::new(settings(Balance::LeastConn, servers), 1, now);
    let soon = now + 2 * SECOND;
    let mut due: Vec<(u16, u16)> = Vec::new();
    while let NextCheck::Now { server, address } = backend.next_check(soon) {
        due.push((server.0, address.port()));
    }
    due.sort_unstable();
    assert_eq!(due, [(0, 10143), (1, 5001)], "all within a fast interval, none twice, none in maint");
    assert_eq!(backend.next_check(soon), NextCheck::Never);
    backend.checked(ServerIndex(0), verdict(Finding::Greeted), soon);
    let NextCheck::At(next) = backend.next_check(soon) else { panic!() };
    assert!((9 * SECOND..=11 * SECOND).contains(&(next - soon)));
    backend.connect_failed(ServerIndex(0), ConnectFailure::Refused, soon);
    let NextCheck::At(next) = backend.next_check(soon) else { panic!() };
    assert!(next - soon <= 3 * SECOND, "the failure of a session brings the next check forward");
    assert!(matches!(
        backend.checked(ServerIndex(1), verdict(Finding::NoHeaderExpected), soon),
        Some(Change::Down { .. })
    ));
    assert_eq!(backend.server(ServerIndex(1), soon).why, "NoHeaderExpected");
    // What began before a server was changed says nothing.
    assert!(matches!(backend.next_check(next), NextCheck::Now { server: ServerIndex(0), .. }));
    backend.set_address(ServerIndex(0), Some(([192, 0, 2, 99], 10143).into()), next);
    assert_eq!(backend.checked(ServerIndex(0), verdict(Finding::Silent), next), None);
    assert!(backend.server(ServerIndex(0), next).up);
}

#[test]
fn a_reload_keeps_what_is_known() {
    let now = Instant::now();
    let mut servers = named(3);
    servers.iter_mut().for_each(|server| server.connection_limit = 2);
    let base = Settings { stick: stick(100), slow_start: 30 * SECOND, ..settings(Balance::LeastConn, servers) };
    let mut backend = Backend::new(base.clone(), 1, now);
    assert_eq!(shares(&mut backend, 6, now), [2, 2, 2]);
    backend.wait(waiter(1), client(100), now).expect("the line is empty");
    take_down(&mut backend, ServerIndex(0), now);
    backend.set_weight(ServerIndex(1), 9, now);
    backend.set_state(ServerIndex(1), AdminState::Drain, now);

    let mut next = base.clone();
    next.servers.remove(2);
    next.servers.insert(0, server("fresh"));
    next.servers[2].weight = 5;
    next.queue = 0;
    backend.succeed(next.clone(), now).expect("few servers");
    let numbers = ["mail0", "mail1", "mail2", "fresh"].map(|name| backend.find(name).map(|index| index.0));
    assert_eq!(numbers, [Some(0), Some(1), None, Some(3)], "numbers stay, and new ones come behind");
    let view = |at: u16| backend.server(ServerIndex(at), now);
    assert_eq!((view(0).up, view(0).sessions, view(0).why), (false, 2, "Silent"));
    assert_eq!((view(1).state, view(1).weight, view(1).sessions), (AdminState::Drain, 5, 2));
    assert!(view(3).weight_now < 0.02, "a new server is brought in slowly");
    assert_eq!(backend.release(ServerIndex(2), now), None, "a session at a server that is gone ends as any other");
    let grant = backend.next_grant(now).expect("who waited goes on waiting, and there is a place now");
    assert_eq!((grant.waiter, grant.index.0), (waiter(1), 3));
    assert_eq!(backend.wait(waiter(2), client(100), now), Err(LineFull), "nobody else");
    backend.check_invariants();

    backend.release(ServerIndex(2), now);
    next.servers.push(server("mail9"));
    backend.succeed(next, now).expect("few servers");
    assert_eq!(backend.find("mail9"), Some(ServerIndex(2)), "a number without sessions is used again");
    backend.release(ServerIndex(1), now);
    assert_eq!(chosen(&mut backend, 1, now), 1, "client 1 is at home at mail1 still");
    bring_up(&mut backend, ServerIndex(0), now);
    backend.release(ServerIndex(0), now);
    assert_eq!(chosen(&mut backend, 0, now), 0);
    assert!([2, 3].contains(&chosen(&mut backend, 2, now)), "client 2 has lost its home");
    backend.check_invariants();
}

#[test]
fn reloads_without_end_leave_nothing_behind() {
    let now = Instant::now();
    let base = Settings { stick: stick(100), ..settings(Balance::LeastConn, named(3)) };
    let mut backend = Backend::new(base.clone(), 1, now);
    for round in 0..1000 {
        let mut next = base.clone();
        next.servers[2] = server(&format!("round{round}"));
        next.stick = stick(100 + round % 2);
        shares(&mut backend, 30, now);
        for server in 0..backend.servers.len() {
            while backend.field.loads[server].sessions > 0 {
                backend.release(ServerIndex(server as u16), now);
            }
        }
        backend.succeed(next, now).expect("few servers");
    }
    assert!(backend.servers.len() <= 4, "{}", backend.servers.len());
}
