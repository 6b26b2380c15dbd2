//! From which of our addresses servers are connected to.

use std::net::{IpAddr, SocketAddr};

use crate::ring::{Errno, Streams};

/// Begins to connect from the next of these addresses, of the target's family; where no port is left, from the one after,
/// each once. `turn` goes round.
pub fn connect_in_turn<D: Streams>(
    driver: &mut D,
    target: SocketAddr,
    sources: &[IpAddr],
    turn: &mut usize,
) -> Result<D::Socket, Errno> {
    let fitting = || sources.iter().copied().filter(|source| source.is_ipv4() == target.is_ipv4());
    let count = fitting().count();
    let mut last = Errno(libc::EADDRNOTAVAIL);
    for _ in 0..count.max(1) {
        *turn = turn.wrapping_add(1);
        let source = turn.checked_rem(count).and_then(|at| fitting().nth(at));
        match driver.connect(target, source) {
            Err(errno @ Errno(libc::EADDRNOTAVAIL | libc::EADDRINUSE)) => last = errno,
            begun_or_failed => return begun_or_failed,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Ring, SLOT_BYTES, Sizes, Waker};
    use std::net::TcpListener;

    #[test]
    fn an_address_without_a_port_gives_way_to_the_next() {
        let sizes = Sizes { slots: 1, longest: SLOT_BYTES, completions: 8, registered: true };
        let waker = Waker::new().expect("descriptors are left");
        let mut ring = Ring::new(sizes, Vec::new(), waker).expect("io_uring is there");
        let server = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let target = server.local_addr().expect("bound");
        // This host has the second only; the third is of another family.
        let sources = ["192.0.2.77", "127.0.0.9", "::1"].map(|source| source.parse().expect("an address"));
        let mut turn = 0;
        for _ in 0..4 {
            let socket = connect_in_turn(&mut ring, target, &sources, &mut turn).expect("the second address does");
            let from = ring.local(&socket).expect("connecting").ip();
            assert_eq!(from, sources[1]);
        }
        let none = connect_in_turn(&mut ring, target, &sources[..1], &mut turn).expect_err("it is not ours");
        assert_eq!(none, Errno(libc::EADDRNOTAVAIL));
    }
}
