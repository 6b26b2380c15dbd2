//! Host names.

use core::str;

/// Longest DNS name in text form without the trailing dot. RFC 1035, section 2.3.4.
const NAME_MAX: usize = 253;
/// Longest label. RFC 1035, section 2.3.4.
const LABEL_MAX: usize = 63;

/// The bytes as a DNS name, if they are one in the form that SNI sends it (RFC 6066, section 3).
pub(super) fn dns(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > NAME_MAX || !bytes.split(|&byte| byte == b'.').all(is_label) {
        return None;
    }
    // A name whose last label is a number would be read as an IPv4 address somewhere.
    if bytes.rsplit(|&byte| byte == b'.').next()?.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(bytes).ok()
}

/// Underscores are no part of a host name by RFC 952, yet certificates and resolvers know them.
fn is_label(label: &[u8]) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && label.first() != Some(&b'-')
        && label.last() != Some(&b'-')
        && label.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names() {
        for good in ["mail.example.org", "localhost", "a", "xn--bcher-kva.example", "_imaps.example", "1.example", "4c"]
        {
            assert_eq!(dns(good.as_bytes()), Some(good));
        }
        for bad in
            ["", ".", "a.", ".a", "a..b", "a b", "-a", "a-", "b\u{fc}cher", "1.2.3.4", "12", "[::1]", "a\0b", "*.a"]
        {
            assert_eq!(dns(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(dns(b"a\xff"), None);
    }

    #[test]
    fn lengths() {
        let label = "x".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "x".repeat(61));
        assert_eq!(longest.len(), NAME_MAX);
        assert!(dns(longest.as_bytes()).is_some());
        assert!(dns(format!("{longest}x").as_bytes()).is_none());
        assert!(dns("x".repeat(64).as_bytes()).is_none());
    }
}
