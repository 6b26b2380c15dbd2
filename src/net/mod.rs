//! Networks and addresses, on crate `ipnet`.
//!
//! This is the one place where an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) becomes plain IPv4: peers, header
//! addresses and configured networks all pass through [`canonical`] before they are compared or logged.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
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

/// A set of networks that answers membership in logarithmic time, whatever its size, and by which of them it is.
///
/// Invariant: the networks are sorted, each once; each family's spans are sorted and disjoint, and each names the longest
/// network around it, so one binary search decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSet {
    networks: Vec<Network>,
    v4: Vec<Span<u32>>,
    v6: Vec<Span<u128>>,
}

/// Addresses from the first to the last, and the index of their network.
type Span<T> = (T, T, u32);

impl NetworkSet {
    /// Whether the address, IPv4-mapped or not, lies in any of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.locate(address).is_some()
    }

    /// The longest of the networks that the address, IPv4-mapped or not, lies in: its index among
    /// [`networks`](NetworkSet::networks).
    pub fn locate(&self, address: IpAddr) -> Option<usize> {
        match canonical(address) {
            IpAddr::V4(ip) => within(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => within(&self.v6, u128::from(ip)),
        }
    }

    /// The networks, sorted, each once.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Whether no address at all is inside.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    fn of(mut networks: Vec<Network>) -> NetworkSet {
        networks.sort_unstable_by_key(|network| network.0);
        networks.dedup();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (index, Network(net)) in networks.iter().enumerate() {
            match net {
                IpNet::V4(n) => v4.push((u32::from(n.network()).into(), u32::from(n.broadcast()).into(), index as u32)),
                IpNet::V6(n) => v6.push((u128::from(n.network()), u128::from(n.broadcast()), index as u32)),
            }
        }
        let v4 = Spans::of(v4).into_iter().map(|(first, last, index)| (first as u32, last as u32, index)).collect();
        NetworkSet { networks, v4, v6: Spans::of(v6) }
    }
}

impl Extend<Network> for NetworkSet {
    fn extend<I: IntoIterator<Item = Network>>(&mut self, networks: I) {
        *self = NetworkSet::of(self.networks.drain(..).chain(networks).collect());
    }
}

impl FromIterator<Network> for NetworkSet {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        NetworkSet::of(networks.into_iter().collect())
    }
}

fn within<T: Ord + Copy>(spans: &[Span<T>], address: T) -> Option<usize> {
    let after = spans.partition_point(|&(first, ..)| first <= address);
    let &(_, last, network) = spans[..after].last()?;
    (address <= last).then_some(network as usize)
}

/// Cuts networks, which nest or are disjoint, into spans.
#[derive(Default)]
struct Spans {
    done: Vec<Span<u128>>,
    /// The networks around the address that comes next, the shortest first: the last address of each, and its index.
    around: Vec<(u128, u32)>,
    /// `None`: behind the last address that there is.
    next: Option<u128>,
}

impl Spans {
    fn of(mut networks: Vec<Span<u128>>) -> Vec<Span<u128>> {
        networks.sort_unstable_by_key(|&(first, last, _)| (first, Reverse(last)));
        let mut spans = Spans::default();
        for (first, last, index) in networks {
            spans.leave(|end| end < first);
            if let (Some(&(_, around)), Some(next)) = (spans.around.last(), spans.next)
                && next < first
            {
                spans.done.push((next, first - 1, around));
            }
            spans.next = Some(first);
            spans.around.push((last, index));
        }
        spans.leave(|_| true);
        spans.done.shrink_to_fit();
        spans.done
    }

    /// Comes to the end of the innermost networks whose last address is such a one.
    fn leave(&mut self, is_over: impl Fn(u128) -> bool) {
        while let Some((end, index)) = self.around.pop_if(|(end, _)| is_over(*end)) {
            if let Some(next) = self.next.filter(|next| *next <= end) {
                self.done.push((next, end, index));
            }
            self.next = end.checked_add(1);
        }
    }
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
        let longest = |address| list.iter().filter(|n| n.contains(address)).max_by_key(|n| n.prefix());
        for text in [
            "9.255.255.255",
            "10.0.0.0",
            "10.0.255.255",
            "10.1.0.0",
            "10.1.255.255",
            "10.2.0.0",
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
            assert_eq!(set.locate(address).map(|index| &set.networks()[index]), longest(address), "{text}");
            assert_eq!(set.contains(address), longest(address).is_some(), "{text}");
        }
    }

    #[test]
    fn networks_are_told_apart_down_to_the_last_address() {
        let list = ["0.0.0.0/0", "255.255.255.254/31", "255.255.255.255", "::/0", "ffff::/16"].map(net);
        let mut set: NetworkSet = list[..2].iter().copied().collect();
        set.extend(list[1..].iter().copied());
        assert_eq!(set, list.into_iter().rev().collect(), "whatever the order, and each once");
        for (text, by) in [
            ("0.0.0.0", "0.0.0.0/0"),
            ("255.255.255.253", "0.0.0.0/0"),
            ("255.255.255.254", "255.255.255.254/31"),
            ("255.255.255.255", "255.255.255.255/32"),
            ("fffe::", "::/0"),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff::/16"),
        ] {
            let index = set.locate(text.parse().expect("an address")).expect("all are inside");
            assert_eq!(set.networks()[index].to_string(), by, "{text}");
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
