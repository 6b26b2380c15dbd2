use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits(connections: u32, rate: Option<(u32, Duration)>) -> ClientLimits {
    let rate = rate.map(|(count, period)| ClientRate { connections: count.try_into().expect("not 0"), period });
    ClientLimits { connections: NonZeroU32::new(connections), rate, ..ClientLimits::default() }
}

fn client(n: u32) -> IpAddr {
    IpAddr::from(n.to_be_bytes())
}

#[test]
fn connections_at_a_time() {
    let now = Instant::now();
    let (table, limits) = (ClientTable::new(0, now), limits(2, None));
    let one = table.admit(client(1), &limits, now).expect("the first").expect("counted");
    let two = table.admit(client(1), &limits, now).expect("the second").expect("counted");
    assert_eq!(table.admit(client(1), &limits, now), Err(Refusal::ClientConnectionLimit));
    assert!(table.admit(client(2), &limits, now).is_ok(), "another client is not concerned");
    assert_eq!(one, two, "both count in the client's entry");
    table.release(one);
    assert!(table.admit(client(1), &limits, now).is_ok());
    assert_eq!(table.known(now), 2);
}

#[test]
fn a_burst_and_then_an_even_rate() {
    let start = Instant::now();
    let (table, limits) = (ClientTable::new(0, start), limits(0, Some((10, 10 * SECOND))));
    let let_in = |at: Instant| (0..100).take_while(|_| table.admit(client(1), &limits, at).is_ok()).count();
    assert_eq!(let_in(start + SECOND), 10);
    assert_eq!(let_in(start + SECOND + SECOND / 2), 0);
    assert_eq!(let_in(start + 2 * SECOND), 1);
    assert_eq!(let_in(start + 5 * SECOND), 3);
    assert_eq!(let_in(start + 60 * SECOND), 10, "never more than the burst");
    assert_eq!((table.known(start + 61 * SECOND), table.known(start + 70 * SECOND)), (1, 0), "forgotten when whole");
}

#[test]
fn the_fastest_rate_and_the_longest_period_do_not_overflow() {
    let start = Instant::now();
    let table = ClientTable::new(0, start);
    for (count, period) in [(u32::MAX, Duration::from_secs(1)), (1, Duration::MAX), (u32::MAX, Duration::MAX)] {
        let limits = limits(0, Some((count, period)));
        assert!(table.admit(client(count), &limits, start + SECOND).is_ok());
    }
}

#[test]
fn a_clock_that_stands_still_or_goes_back_changes_nothing() {
    let start = Instant::now();
    let (table, limits) = (ClientTable::new(0, start + SECOND), limits(0, Some((1, SECOND))));
    assert!(table.admit(client(1), &limits, start).is_ok());
    assert_eq!(table.admit(client(1), &limits, start), Err(Refusal::ClientRateLimit));
}

#[test]
fn its_memory_is_bounded_whoever_comes() {
    let now = Instant::now();
    let (table, limits) = (ClientTable::new(CLIENTS_MIN, now), limits(4, Some((4, 60 * SECOND))));
    let (room, bytes) = (table.room(), table.bytes());
    assert_eq!((room, bytes), (1024, 128 * (8 * 32 + 8)));
    let mut tickets = Vec::new();
    for n in 0..100_000 {
        match table.admit(client(n), &limits, now).expect("a new client has all its allowance") {
            Some(ticket) if n % 2 == 0 => tickets.push(ticket),
            Some(ticket) => table.release(ticket),
            None => {}
        }
    }
    assert!(table.known(now) <= room && table.bytes() == bytes);
    assert_eq!(tickets.len(), room, "the live fill the table, and only the idle were forgotten");
    assert!(table.evicted() > 0 && table.uncounted() > 0);
    tickets.into_iter().for_each(|ticket| table.release(ticket));
    assert_eq!(table.known(now + 60 * SECOND), 0);
}

#[test]
fn the_stalest_goes_first() {
    let table = ClientTable::new(0, Instant::now());
    let mut bucket: Bucket = Default::default();
    for (way, entry) in bucket.iter_mut().enumerate() {
        *entry = Entry { client: [way as u8 + 1; 16], whole_at: u64::MAX, used_at: 100 - way as u32, live: 0 };
    }
    bucket[7].live = 1;
    assert_eq!(table.find(&mut bucket, [99; 16], 0), Some(6), "7 came first, but is live");
    bucket[6] = Entry { whole_at: u64::MAX, used_at: 50, ..bucket[6] };
    bucket[2].whole_at = 0;
    assert_eq!(table.find(&mut bucket, [98; 16], 0), Some(2), "a free one before the stalest");
    assert_eq!(table.evicted(), 1);
    bucket.iter_mut().for_each(|entry| entry.live = 1);
    assert_eq!(table.find(&mut bucket, [97; 16], 0), None);
}

/// Random admissions and ends against a plain map; few enough clients that no bucket overflows.
#[test]
fn agrees_with_a_plain_map_on_random_moves() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut below = |n: u64| random.u64(..n);
    let start = Instant::now();
    let (most, rate, period) = (3, 5, 8 * SECOND);
    let (table, limits) = (ClientTable::new(1 << 16, start), limits(most, Some((rate, period))));
    let mut model: HashMap<u32, (Vec<Ticket>, f64, Instant)> = HashMap::new();
    let mut now = start;
    let mut outcomes = [0; 3];
    for _ in 0..100_000 {
        now += Duration::from_millis(below(40));
        let n = below(20) as u32;
        let (live, tokens, since) = model.entry(n).or_insert_with(|| (Vec::new(), f64::from(rate), now));
        if below(3) == 0 {
            live.pop().into_iter().for_each(|ticket| table.release(ticket));
            continue;
        }
        let gained = (now - *since).as_secs_f64() * f64::from(rate) / period.as_secs_f64();
        (*tokens, *since) = ((*tokens + gained).min(f64::from(rate)), now);
        let expected = match () {
            () if live.len() as u32 >= most => Err(Refusal::ClientConnectionLimit),
            () if *tokens < 1.0 - 1e-6 => Err(Refusal::ClientRateLimit),
            () => Ok(()),
        };
        let got = table.admit(client(n), &limits, now);
        assert_eq!(got.map(drop), expected, "client {n}: {} live, {tokens} tokens", live.len());
        match got {
            Ok(ticket) => {
                *tokens -= 1.0;
                live.push(ticket.expect("concurrency is limited, so it counts"));
                outcomes[0] += 1;
            }
            Err(Refusal::ClientConnectionLimit) => outcomes[1] += 1,
            Err(_) => outcomes[2] += 1,
        }
    }
    assert!(outcomes.iter().all(|&count| count > 1000), "every outcome was met: {outcomes:?}");
    assert_eq!((table.evicted(), table.uncounted()), (0, 0));
}

#[test]
fn threads_share_one_count() {
    const MOST: u32 = 5;
    let now = Instant::now();
    let (table, limits) = (Arc::new(ClientTable::new(0, now)), limits(MOST, None));
    let over = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if let Ok(Some(ticket)) = table.admit(client(1), &limits, now) {
                        if over.fetch_add(1, Ordering::SeqCst) >= u64::from(MOST) {
                            panic!("more than {MOST} at a time");
                        }
                        over.fetch_sub(1, Ordering::SeqCst);
                        table.release(ticket);
                    }
                }
            });
        }
    });
    assert_eq!(table.known(now), 0);
}
