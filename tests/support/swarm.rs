//! Many connections at a time, each with a header of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

use super::client::{Client, address};
use super::header;

/// How many connections a swarm makes, and how many are open at the same time.
pub const CONNECTIONS: u32 = 10_000;
pub const IN_FLIGHT: usize = 256;

/// Makes [`CONNECTIONS`] connections to `to`, [`IN_FLIGHT`] at a time, each conveying another client; gives the number
/// of those whose whole answer is right.
pub fn swarm(to: SocketAddr, is_right: impl Fn(&[u8], SocketAddr) -> bool + Sync) -> usize {
    let next = AtomicU32::new(0);
    let right = AtomicUsize::new(0);
    let one_after_another = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= CONNECTIONS {
                return;
            }
            let source = client_address(number);
            let header = header::v2(source, address("192.0.2.1:143"), &[]);
            let (said, _, _) = Client::send_to(to, &header).read_to_end();
            right.fetch_add(is_right(&said, source).into(), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 0..IN_FLIGHT {
            // Small stacks: there are hundreds of them.
            thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, one_after_another).expect("a thread");
        }
    });
    right.into_inner()
}

/// 198.18.0.0/15 is set aside for benchmarks.
fn client_address(number: u32) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number);
    (ip, 1024 + number as u16).into()
}
