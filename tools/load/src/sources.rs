//! Address pools: the sockets' own source addresses, and the clients that headers name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::Ipv4Net;

/// Lowest port that a made-up client uses.
const CLIENT_PORT_MIN: u16 = 1024;
const CLIENT_PORTS: u64 = 65536 - CLIENT_PORT_MIN as u64;

/// A run of IPv4 addresses: the usable ones of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    first: u32,
    count: u32,
}

impl Pool {
    /// The hosts of a network; of a /31 and a /32 all addresses.
    pub fn hosts(net: Ipv4Net) -> Pool {
        let first = u32::from(net.network());
        let last = u32::from(net.broadcast());
        match last - first {
            0 | 1 => Pool { first, count: last - first + 1 },
            between => Pool { first: first + 1, count: between - 1 },
        }
    }

    /// How many addresses there are, 1 or more.
    pub fn count(&self) -> u64 {
        u64::from(self.count)
    }

    /// The address of connection `number`, in turn.
    pub fn address(&self, number: u64) -> Ipv4Addr {
        Ipv4Addr::from(self.first + (number % self.count()) as u32)
    }

    /// The client of connection `number`: address and port together differ for the first `count * 64512` numbers.
    pub fn client(&self, number: u64) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address(number)), self.port(number))
    }

    /// The same client in IPv6, each address in a /64 of its own, because limits count a /64 as one client.
    pub fn client_inet6(&self, number: u64) -> SocketAddr {
        let [a, b, c, d] = self.address(number).octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, high, low, 0, 0, 0, 1)), self.port(number))
    }

    fn port(&self, number: u64) -> u16 {
        CLIENT_PORT_MIN + (number / self.count() % CLIENT_PORTS) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn pool(net: &str) -> Pool {
        Pool::hosts(net.parse().expect("a network"))
    }

    #[test]
    fn network_and_broadcast_address_are_left_out() {
        assert_eq!(pool("127.1.0.0/24").count(), 254);
        assert_eq!(pool("127.1.0.0/24").address(0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(pool("127.1.0.0/24").address(253), Ipv4Addr::new(127, 1, 0, 254));
        assert_eq!(pool("127.1.0.0/24").address(254), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(pool("10.0.0.9/32").count(), 1);
        assert_eq!(pool("10.0.0.8/31").count(), 2);
        assert_eq!(pool("0.0.0.0/0").count(), u64::from(u32::MAX) - 1);
    }

    #[test]
    fn clients_do_not_repeat_before_the_ports_do() {
        let pool = pool("198.18.0.0/29");
        let all = pool.count() * CLIENT_PORTS;
        let clients: HashSet<SocketAddr> = (0..all).map(|number| pool.client(number)).collect();
        assert_eq!(clients.len() as u64, all);
        assert_eq!(pool.client(all), pool.client(0));
        assert_eq!(pool.client_inet6(1).to_string(), "[2001:db8:c612:2::1]:1024");
    }
}
