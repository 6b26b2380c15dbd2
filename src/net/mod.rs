//! Networks and addresses, on crate `ipnet`.
//!
//! This is the one place where an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) becomes plain IPv4: peers, header
//! addresses and configured networks all pass through [`canonical`] before they are compared or logged.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// An address as policy and logs see it: IPv4-mapped IPv6 is plain IPv4.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// [`canonical`] for an address with a port; the scope of an IPv6 address is kept.
pub fn canonical_socket(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(IpAddr::V4(ip), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// An IPv4 or IPv6 network; host bits are cut off, a mapped IPv6 network of /96 or longer is the IPv4 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

impl Network {
    /// The network of `prefix` bits that holds `address`; `None` if the family has fewer bits.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Network> {
        let net = IpNet::new(address, prefix).ok()?.trunc();
        if let IpNet::V6(v6) = net
            && v6.prefix_len() >= 96
            && let Some(ip) = v6.network().to_ipv4_mapped()
        {
            return Some(Network(IpNet::V4(Ipv4Net::new(ip, v6.prefix_len() - 96).ok()?)));
        }
        Some(Network(net))
    }

    /// Prefix length in bits.
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }

    /// Whether the address, IPv4-mapped or not, lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&canonical(address))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotANetwork;

impl fmt::Display for NotANetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an IPv4 or IPv6 network (expected ADDRESS or ADDRESS/BITS)")
    }
}

impl std::error::Error for NotANetwork {}

impl FromStr for Network {
    type Err = NotANetwork;

    /// Reads `10.0.0.0/8`, `192.0.2.7` (all bits), `2001:db8::/32`, with or without host bits set.
    fn from_str(text: &str) -> Result<Network, NotANetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match bits {
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().map_err(|_| NotANetwork)?,
            Some(_) => return Err(NotANetwork),
            None => all,
        };
        Network::new(address, prefix).ok_or(NotANetwork)
    }
}

/// A set of networks that answers membership in logarithmic time, whatever its size.
///
/// Invariant: each family's ranges are sorted, disjoint and not adjacent, so one binary search decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl NetworkSet {
    /// Whether the address, IPv4-mapped or not, lies in any of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        match canonical(address) {
            IpAddr::V4(ip) => within(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => within(&self.v6, u128::from(ip)),
        }
    }

    /// Whether no address at all is inside.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

impl Extend<Network> for NetworkSet {
    fn extend<I: IntoIterator<Item = Network>>(&mut self, networks: I) {
        let more: NetworkSet = networks.into_iter().collect();
        self.v4 = merged([&self.v4[..], &more.v4].concat(), |end| end.checked_add(1));
        self.v6 = merged([&self.v6[..], &more.v6].concat(), |end| end.checked_add(1));
    }
}

impl FromIterator<Network> for NetworkSet {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for Network(net) in networks {
            match net {
                IpNet::V4(n) => v4.push((u32::from(n.network()), u32::from(n.broadcast()))),
                IpNet::V6(n) => v6.push((u128::from(n.network()), u128::from(n.broadcast()))),
            }
        }
        NetworkSet { v4: merged(v4, |end| end.checked_add(1)), v6: merged(v6, |end| end.checked_add(1)) }
    }
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= address);
    after > 0 && address <= ranges[after - 1].1
}

fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(previous) if next(previous.1).is_none_or(|adjacent| first <= adjacent) => {
                previous.1 = previous.1.max(last);
            }
            _ => out.push((first, last)),
        }
    }
    out.shrink_to_fit();
    out
}

/// Whether a source address can be a client at all: not multicast, unspecified or limited broadcast.
pub fn is_plausible_source(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(ip) => !(ip.is_multicast() || ip.is_unspecified() || ip == Ipv4Addr::BROADCAST),
        IpAddr::V6(ip) => !(ip.is_multicast() || ip == Ipv6Addr::UNSPECIFIED),
    }
}

/// Whether it is an address of a network that is not part of the Internet: RFC 1918, RFC 6598, RFC 4193.
pub fn is_private(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(ip) => ip.is_private() || ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Network {
        text.parse().unwrap_or_else(|_| panic!("{text} is a network"))
    }

    #[test]
    fn reads_what_operators_write() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.77/24", "192.0.2.0/24"),
            ("2001:db8:10::1/64", "2001:db8:10::/64"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(net(text).to_string(), shown);
        }
        for text in
            ["", "mail.example", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.1/8/8"]
        {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
    }

    #[test]
    fn set_agrees_with_walking_the_list() {
        let list: Vec<Network> =
            ["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "192.0.2.7", "255.255.255.255", "2001:db8::/32", "ffff::/16"]
                .into_iter()
                .map(net)
                .collect();
        let set: NetworkSet = list.iter().copied().collect();
        assert_eq!(set.v4.len(), 3, "adjacent and nested networks merge");
        for text in [
            "9.255.255.255",
            "10.0.0.0",
            "10.127.255.255",
            "10.128.0.0",
            "10.255.255.255",
            "11.0.0.0",
            "192.0.2.6",
            "192.0.2.7",
            "192.0.2.8",
            "255.255.255.254",
            "255.255.255.255",
            "::ffff:10.9.9.9",
            "2001:db7:ffff::1",
            "2001:db8::",
            "2001:db9::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "::",
            "0.0.0.0",
        ] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(set.contains(address), list.iter().any(|n| n.contains(address)), "{text}");
        }
    }

    #[test]
    fn an_empty_set_trusts_nobody() {
        let set = NetworkSet::default();
        assert!(set.is_empty() && !set.contains("127.0.0.1".parse().expect("an address")));
    }

    #[test]
    fn impossible_sources() {
        for (text, plausible) in [
            ("224.0.0.1", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("::", false),
            ("ff02::1", false),
            ("::ffff:224.0.0.1", false),
            ("127.0.0.1", true),
            ("198.51.100.7", true),
            ("2001:db8::7", true),
            ("::1", true),
        ] {
            assert_eq!(is_plausible_source(text.parse().expect("an address")), plausible, "{text}");
        }
    }

    #[test]
    fn private_networks_are_known() {
        for (text, private) in [
            ("10.0.0.1", true),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("::ffff:192.168.1.1", true),
            ("100.64.0.0", true),
            ("100.127.255.255", true),
            ("100.128.0.0", false),
            ("100.63.255.255", false),
            ("127.0.0.1", false),
            ("198.51.100.7", false),
            ("fd00::1", true),
            ("fe80::1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_private(text.parse().expect("an address")), private, "{text}");
        }
    }
}
