//! Types of values: text to meaning and back, with Dovecot's words where a text has none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::slips;
use crate::net::Network;

/// `yes`, `y` or `no` in any case, or `1`; as in Dovecot, no other word for no.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    if text == "1" || text.eq_ignore_ascii_case("yes") || text.eq_ignore_ascii_case("y") {
        return Ok(true);
    }
    if text.eq_ignore_ascii_case("no") {
        return Ok(false);
    }
    Err(format!("Invalid boolean value: {text} (use yes or no)"))
}

/// 0..=65535; 0 means off.
pub(super) fn port(text: &str) -> Result<u16, String> {
    decimal(text).and_then(|n| u16::try_from(n).ok()).ok_or_else(|| format!("Invalid port number {text}"))
}

/// An IP address with a port, of IPv6 in brackets.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| format!("Invalid address and port: {text} (write 127.0.0.1:9900 or [::1]:9900)"))?;
    if address.port() == 0 { Err(format!("Invalid port number 0 in {text}")) } else { Ok(address) }
}

/// A decimal number within the bounds.
pub(super) fn number(text: &str, min: u64, max: u64) -> Result<u64, String> {
    decimal(text)
        .filter(|n| (min..=max).contains(n))
        .ok_or_else(|| format!("Invalid number {text}: not in the range {min} to {max}"))
}

/// Permissions of a file: octal, 0 to 0777.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = digits.then(|| u32::from_str_radix(text, 8).ok()).flatten().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("Invalid mode {text}: not in the range 0 to 0777 (octal)"))
}

/// `N UNIT`, any prefix of a unit's name; a bare number is seconds (Dovecot wants the unit).
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unit = text[digits..].trim_start_matches(' ');
    let invalid = || format!("Invalid time interval: {text}");
    let too_large = || format!("Time interval is too large: {text}");
    if digits == 0 {
        return Err(invalid());
    }
    let n: u64 = text[..digits].parse().map_err(|_| too_large())?;
    let seconds = match unit_seconds(unit).ok_or_else(invalid)? {
        Unit::Seconds(each) => n.checked_mul(each),
        Unit::Milliseconds if n.is_multiple_of(1000) => Some(n / 1000),
        Unit::Milliseconds => return Err(format!("Milliseconds not supported for this setting: {text}")),
    };
    seconds.filter(|&s| s <= u64::from(u32::MAX)).map(Duration::from_secs).ok_or_else(too_large)
}

enum Unit {
    Milliseconds,
    Seconds(u64),
}

fn unit_seconds(unit: &str) -> Option<Unit> {
    let unit = unit.to_ascii_lowercase();
    let is = |names: &[&str]| names.iter().any(|name| name.starts_with(&unit));
    // The order decides what a lone `m` means: minutes.
    Some(match () {
        () if is(&["secs", "seconds"]) => Unit::Seconds(1),
        () if is(&["mins", "minutes"]) => Unit::Seconds(60),
        () if is(&["msecs", "mseconds", "millisecs", "milliseconds"]) => Unit::Milliseconds,
        () if is(&["hours"]) => Unit::Seconds(60 * 60),
        () if is(&["days"]) => Unit::Seconds(24 * 60 * 60),
        () if is(&["weeks"]) => Unit::Seconds(7 * 24 * 60 * 60),
        () => return None,
    })
}

/// A time as `doveconf` prints it.
pub(super) fn show_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => "0".into(),
        s if s.is_multiple_of(7 * 24 * 60 * 60) => format!("{} weeks", s / (7 * 24 * 60 * 60)),
        s if s.is_multiple_of(24 * 60 * 60) => format!("{} days", s / (24 * 60 * 60)),
        s if s.is_multiple_of(60 * 60) => format!("{} hours", s / (60 * 60)),
        s if s.is_multiple_of(60) => format!("{} mins", s / 60),
        s => format!("{s} secs"),
    }
}

/// `N UNIT`: bytes, or with `k`, `M`, `G` or `T` in any case, and perhaps `B` or `iB` behind it, 1024 of the one before. As in
/// Dovecot.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let n = decimal(&text[..digits]).filter(|_| digits > 0);
    let unit = text[digits..].trim_start_matches(' ').to_ascii_lowercase();
    let (Some(n), Some(each)) = (n, unit_bytes(&unit)) else { return Err(format!("Invalid size: {text}")) };
    n.checked_mul(each).ok_or_else(|| format!("Size is too large: {text}"))
}

fn unit_bytes(unit: &str) -> Option<u64> {
    if ["", "b"].contains(&unit) {
        return Some(1);
    }
    let (_, each) = SIZES.into_iter().find(|(name, _)| unit.starts_with(name.to_ascii_lowercase()))?;
    ["", "i", "b", "ib"].contains(&&unit[1..]).then_some(each)
}

/// The units of sizes, the largest first, as `doveconf` prints them.
const SIZES: [(char, u64); 4] = [('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('k', 1 << 10)];

/// A size as `doveconf` prints it.
pub(super) fn show_size(bytes: u64) -> String {
    match SIZES.into_iter().find(|(_, each)| bytes > 0 && bytes.is_multiple_of(*each)) {
        Some((unit, each)) => format!("{} {unit}", bytes / each),
        None if bytes == 0 => "0".into(),
        None => format!("{bytes} B"),
    }
}

/// `unlimited` or 0, which is 0, or a size within the bounds.
pub(super) fn size_limit(text: &str, min: u64, max: u64) -> Result<u64, String> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(0);
    }
    let bytes = size(text).map_err(|words| format!("{words} (write 512 k, 64 M, or unlimited)"))?;
    match bytes {
        0 => Ok(0),
        bytes if (min..=max).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "Invalid size {text}: not unlimited, nor in the range {} to {}",
            show_size(min),
            show_size(max)
        )),
    }
}

/// A size that may be no limit, as it is written.
pub(super) fn show_size_limit(bytes: u64) -> String {
    if bytes == 0 { "unlimited".into() } else { show_size(bytes) }
}

/// The items of a list: runs of white space or commas between them.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_ascii_whitespace() || c == ',').filter(|item| !item.is_empty())
}

/// One trusted network; tells whether a scope (`%eth0`) was cut off.
pub(super) fn network(text: &str) -> Result<(Network, bool), String> {
    let (unscoped, scoped) = match text.split_once('%') {
        Some((address, rest)) => (format!("{address}{}", rest.find('/').map_or("", |at| &rest[at..])), true),
        None => (text.to_string(), false),
    };
    match without_brackets(&unscoped).parse() {
        Ok(network) => Ok((network, scoped)),
        Err(reason) => Err(slips::noted(
            text,
            format!("Invalid network '{text}': {reason}{}", slips::instead_of_network(&unscoped)),
        )),
    }
}

/// Dovecot takes IPv6 networks in brackets: `[::1]`, `[fd00::]/8`, also `[fd00::/8]`.
fn without_brackets(text: &str) -> String {
    match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, bits)) if address.contains(':') && (bits.is_empty() || bits.starts_with('/')) => {
            format!("{address}{bits}")
        }
        _ => text.into(),
    }
}

/// A literal address to listen on; `*` is all of IPv4, `::` all of IPv6.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text) {
        "*" => Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        "::" => Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        bare => bare.parse().map_err(|_| format!("Invalid address '{text}': write an IPv4 or IPv6 address, * or ::")),
    }
}

/// An address as it is written in `listen`.
pub(super) fn show_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => "*".into(),
        other => other.to_string(),
    }
}

fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dovecots() {
        // As Dovecot 2.3.19 takes and prints them.
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("1", 1, "1 B"),
            ("1b", 1, "1 B"),
            ("1 KB", 1 << 10, "1 k"),
            ("1  kib", 1 << 10, "1 k"),
            ("01Ki", 1 << 10, "1 k"),
            ("1000K", 1000 << 10, "1000 k"),
            ("1536", 1536, "1536 B"),
            ("1048576", 1 << 20, "1 M"),
            ("5G", 5 << 30, "5 G"),
            ("2 TiB", 2 << 40, "2 T"),
            ("17179869183G", 17_179_869_183 << 30, "17179869183 G"),
            ("18446744073709551615", u64::MAX, "18446744073709551615 B"),
        ] {
            assert_eq!((size(text), show_size(bytes).as_str()), (Ok(bytes), shown), "{text}");
        }
        for text in ["", "k", "1x", "1P", "1.5M", "1iB", "1Bi", "1bb", "1kBB", "1k b", "+1", "-1", "0x10", "unlimited"]
        {
            assert_eq!(size(text), Err(format!("Invalid size: {text}")));
        }
        assert_eq!(size("17179869184G"), Err("Size is too large: 17179869184G".into()));
    }

    #[test]
    fn no_limit_is_a_word_or_0() {
        let limit = |text| size_limit(text, 64 << 10, 1 << 40);
        assert_eq!([limit("unlimited"), limit("0"), limit("64k")], [Ok(0), Ok(0), Ok(64 << 10)]);
        for text in ["63 k", "65535", "1025 G"] {
            let words = format!("Invalid size {text}: not unlimited, nor in the range 64 k to 1 T");
            assert_eq!(limit(text), Err(words));
        }
        assert!(limit("much").is_err_and(|words| words.starts_with("Invalid size: much (write")));
        assert_eq!([show_size_limit(0), show_size_limit(64 << 20)], ["unlimited", "64 M"]);
    }

    #[test]
    fn booleans() {
        for (text, value) in [("yes", true), ("YES", true), ("y", true), ("1", true), ("no", false), ("No", false)] {
            assert_eq!(boolean(text), Ok(value), "{text}");
        }
        assert_eq!(boolean("true").unwrap_err(), "Invalid boolean value: true (use yes or no)");
        for text in ["", "0", "n", "N", "off", "false"] {
            assert!(boolean(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports() {
        assert_eq!(port("0143"), Ok(143));
        assert_eq!(port("65535"), Ok(65535));
        assert_eq!(port("70000").unwrap_err(), "Invalid port number 70000");
        for text in ["", "-1", "+1", "abc", "99999999999999999999999"] {
            assert!(port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, seconds) in [
            ("3", 3),
            ("0", 0),
            ("3 secs", 3),
            ("3s", 3),
            ("3  seco", 3),
            ("3 S", 3),
            ("2 m", 120),
            ("2 mi", 120),
            ("2000 ms", 2),
            ("2000 milliseconds", 2),
            ("1 hour", 3600),
            ("1d", 86400),
            ("1 week", 604800),
        ] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for (text, words) in [
            ("3x", "Invalid time interval: 3x"),
            ("", "Invalid time interval: "),
            ("infinite", "Invalid time interval: infinite"),
            ("3 secs x", "Invalid time interval: 3 secs x"),
            ("1500 ms", "Milliseconds not supported for this setting: 1500 ms"),
            ("4294967295 weeks", "Time interval is too large: 4294967295 weeks"),
            ("99999999999999999999999 s", "Time interval is too large: 99999999999999999999999 s"),
        ] {
            assert_eq!(time(text).unwrap_err(), words);
        }
    }

    #[test]
    fn times_are_shown_as_they_are_read() {
        for seconds in [0, 1, 3, 60, 90, 3600, 5400, 86400, 604800, 604801] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(time(&show_time(duration)), Ok(duration));
        }
    }

    #[test]
    fn networks() {
        for text in ["10.0.0.0/8 192.0.2.7,, ::1", "10.0.0.0/8\r\n192.0.2.7\r\n::1\r\n"] {
            assert_eq!(items(text).collect::<Vec<_>>(), ["10.0.0.0/8", "192.0.2.7", "::1"]);
        }
        assert_eq!(network("fe80::1%eth0/64").expect("a network").0.to_string(), "fe80::/64");
        assert!(network("fe80::1%eth0").expect("a network").1);
        assert!(network("10.0.0.0/33").unwrap_err().starts_with("Invalid network '10.0.0.0/33'"));
    }

    #[test]
    fn addresses() {
        for (text, shown) in [("*", "*"), ("::", "::"), ("[::1]", "::1"), ("127.0.0.1", "127.0.0.1")] {
            assert_eq!(show_address(address(text).expect(text)), shown);
        }
        assert!(address("mail.example").is_err() && address("").is_err());
    }
}
