//! The value of `servers`: Dovecot's `director_mail_servers`, with ports.
//!
//! ```text
//! 10.0.1.11-10.0.1.14:10143   mail5.example.com:10143   [2001:db8::1]:143   2001:db8::2   [2001:db8::4]-[2001:db8::9]:143
//! ```

use std::net::IpAddr;

use crate::backend::SERVERS_MAX;

/// Longest host name in bytes (RFC 1035, without the final dot).
const HOST_MAX: usize = 253;
/// Longest label of it.
const LABEL_MAX: usize = 63;

/// One server: an address, or a name that is not looked up here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// The servers that one item of the list stands for, at most [`SERVERS_MAX`].
pub(super) fn endpoints(item: &str) -> Result<Vec<Endpoint>, String> {
    if item.contains('@') {
        return Err(format!("Invalid server '{item}': tags (@) are not supported: make a backend of each tag"));
    }
    let (hosts, port) = split_port(item)?;
    let hosts = match range(hosts) {
        Some((first, last)) => addresses(first, last).map_err(|words| format!("Invalid server '{item}': {words}"))?,
        None => vec![host(hosts)?],
    };
    Ok(hosts.into_iter().map(|host| Endpoint { host, port }).collect())
}

/// An address as it is shown everywhere, without brackets, or a host name as it was written.
pub(super) fn host(text: &str) -> Result<String, String> {
    if let Some(address) = literal(text) {
        return Ok(address.to_string());
    }
    // Without a letter in its last label it would be a slip of an address, which a resolver may read as another one.
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let letter = last.bytes().any(|byte| byte.is_ascii_alphabetic());
    match letter && text.len() <= HOST_MAX && text.trim_end_matches('.').split('.').all(is_label) {
        true => Ok(text.to_string()),
        false => Err(format!("Invalid server '{text}': write an IPv4 or IPv6 address, or a host name")),
    }
}

fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !label.is_empty() && label.len() <= LABEL_MAX && !label.starts_with('-') && label.bytes().all(plain)
}

/// An address, in brackets or not.
fn literal(text: &str) -> Option<IpAddr> {
    text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text).parse().ok()
}

/// `HOSTS:PORT`, where the colons of an IPv6 address without brackets are its own.
fn split_port(item: &str) -> Result<(&str, Option<u16>), String> {
    let in_brackets = item.ends_with(']');
    match item.rsplit_once(':') {
        Some((hosts, port)) if !in_brackets && (hosts.ends_with(']') || !hosts.contains(':')) => {
            let number = super::value::port(port).ok().filter(|&port| port != 0);
            number.map(|port| (hosts, Some(port))).ok_or_else(|| format!("Invalid server '{item}': no port '{port}'"))
        }
        _ => Ok((item, None)),
    }
}

/// `FIRST-LAST` of addresses; a `-` in a host name is its own.
fn range(hosts: &str) -> Option<(IpAddr, &str)> {
    hosts.split_once('-').and_then(|(first, last)| Some((literal(first)?, last)))
}

fn addresses(first: IpAddr, last: &str) -> Result<Vec<String>, String> {
    let last = literal(last).ok_or("a range is FIRST-LAST, two addresses")?;
    let (first, count) = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (first, u128::from(u32::from(b)).checked_sub(u32::from(a).into())),
        (IpAddr::V6(a), IpAddr::V6(b)) => (first, u128::from(b).checked_sub(a.into())),
        _ => return Err("a range is of one family".into()),
    };
    match count {
        None => Err("the range ends before it begins".into()),
        Some(more) if more >= SERVERS_MAX as u128 => Err(format!("the range has more than {SERVERS_MAX} addresses")),
        Some(more) => Ok((0..=more).map(|step| after(first, step).to_string()).collect()),
    }
}

/// The address that comes `step` after this one; the caller knows that there is one.
fn after(first: IpAddr, step: u128) -> IpAddr {
    match first {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + step as u32).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + step).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(item: &str) -> Vec<(String, Option<u16>)> {
        let endpoints = endpoints(item).unwrap_or_else(|words| panic!("{item}: {words}"));
        endpoints.into_iter().map(|one| (one.host, one.port)).collect()
    }

    #[test]
    fn every_form_of_a_server() {
        for (item, host, port) in [
            ("10.0.1.11", "10.0.1.11", None),
            ("10.0.1.11:10143", "10.0.1.11", Some(10143)),
            ("mail-5.example.com:143", "mail-5.example.com", Some(143)),
            ("mail_5", "mail_5", None),
            ("2001:DB8::1", "2001:db8::1", None),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("[2001:db8::1]:143", "2001:db8::1", Some(143)),
        ] {
            assert_eq!(shown(item), [(host.to_string(), port)], "{item}");
        }
    }

    #[test]
    fn ranges() {
        let hosts = |item| shown(item).into_iter().map(|(host, _)| host).collect::<Vec<_>>();
        assert_eq!(hosts("10.0.1.254-10.0.2.1:10143"), ["10.0.1.254", "10.0.1.255", "10.0.2.0", "10.0.2.1"]);
        assert_eq!(shown("10.0.1.1-10.0.1.1:7"), [("10.0.1.1".to_string(), Some(7))]);
        assert_eq!(hosts("2001:db8::fffe-2001:db8::1:0"), ["2001:db8::fffe", "2001:db8::ffff", "2001:db8::1:0"]);
        assert_eq!(hosts("[2001:db8::1]-[2001:db8::2]:143"), ["2001:db8::1", "2001:db8::2"]);
        assert_eq!(hosts("255.255.255.254-255.255.255.255").len(), 2);
        assert_eq!(hosts("10.0.0.0-10.0.3.255").len(), SERVERS_MAX);
        assert_eq!(hosts("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").len(), 2);
    }

    #[test]
    fn what_is_no_server() {
        for (item, words) in [
            ("10.0.1.14-10.0.1.11", "the range ends before it begins"),
            ("10.0.0.0-10.0.4.0", "the range has more than 1024 addresses"),
            ("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "the range has more than 1024 addresses"),
            ("10.0.1.1-::1", "a range is of one family"),
            ("10.0.1.1-14", "a range is FIRST-LAST, two addresses"),
            ("10.0.1.1@de", "tags (@) are not supported"),
            ("10.0.1.1:0", "no port '0'"),
            ("10.0.1.1:x", "no port 'x'"),
            ("10.0.1.1:", "no port ''"),
            ("10.0.1.300", "write an IPv4 or IPv6 address, or a host name"),
            ("10.0.1", "write an IPv4 or IPv6 address, or a host name"),
            ("mail..example", "write an IPv4 or IPv6 address, or a host name"),
            ("-mail", "write an IPv4 or IPv6 address, or a host name"),
            ("ma/il", "write an IPv4 or IPv6 address, or a host name"),
            (":143", "write an IPv4 or IPv6 address, or a host name"),
            ("", "write an IPv4 or IPv6 address, or a host name"),
        ] {
            let found = endpoints(item).expect_err(item);
            assert!(found.contains(words), "{item}: {found}");
        }
    }
}
