//! Dovecot's words for a version 1 line that is refused, field by field.

use std::net::IpAddr;

use crate::proxy::{Escaped, Reason, walk};

/// Bytes of a field that a log line shows at most: an IPv6 address in full.
const FIELD_SHOWN_MAX: usize = 39;

/// The fields behind the keyword: Dovecot's name, and the key under which it shows the value.
const FIELDS: [(&str, &str); 4] =
    [("remote address", "address"), ("local address", "address"), ("remote port", "port"), ("local port", "port")];

/// What is wrong with the line at the start of `bytes`; `rip` is the peer.
pub(super) fn v1_words(reason: Reason, bytes: &[u8], rip: IpAddr) -> String {
    let mut words = Vec::new();
    walk(bytes, |field| words.extend(field.what.is_word().then(|| field.word())));
    let (keyword, fields) = words.split_first().map_or((&[][..], &[][..]), |(keyword, fields)| (*keyword, fields));
    let invalid = |at: usize| {
        let (name, key) = FIELDS[at];
        format!("Proxied {name} is invalid ({key}=`{}', rip={rip})", shown(fields.get(at).copied().unwrap_or_default()))
    };
    match reason {
        Reason::BadFamily => format!("Unknown proxied protocol (protocol=`{}', rip={rip})", shown(keyword)),
        Reason::BadAddress | Reason::FamilyMismatch => invalid(usize::from(is_address(fields, 0, keyword))),
        Reason::BadPort => invalid(2 + usize::from(is_port(fields, 2))),
        Reason::BadSpacing => match (fields.iter().take(4).position(|field| field.is_empty()), fields.get(4)) {
            (Some(at), _) => invalid(at),
            (None, Some(extra)) => format!("Header line has spurius extra field (field=`{}', rip={rip})", shown(extra)),
            (None, None) => format!("Field for proxied {} is missing (rip={rip})", FIELDS[fields.len().min(3)].0),
        },
        _ => format!("Failed to read valid HAproxy data (rip={rip})"),
    }
}

fn is_address(fields: &[&[u8]], at: usize, keyword: &[u8]) -> bool {
    let ip: Option<IpAddr> = text(fields, at).and_then(|text| text.parse().ok());
    ip.is_some_and(|ip| ip.is_ipv4() == (keyword == b"TCP4"))
}

fn is_port(fields: &[&[u8]], at: usize) -> bool {
    let plain =
        |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit()) && (*text == "0" || !text.starts_with('0'));
    text(fields, at).filter(plain).is_some_and(|text| text.parse::<u16>().is_ok())
}

fn text<'a>(fields: &[&'a [u8]], at: usize) -> Option<&'a str> {
    fields.get(at).and_then(|field| str::from_utf8(field).ok())
}

fn shown(field: &[u8]) -> Escaped<'_> {
    Escaped(&field[..field.len().min(FIELD_SHOWN_MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_field_at_fault() {
        let cases = [
            (Reason::BadFamily, "tcp4 1.2.3.4", "Unknown proxied protocol (protocol=`tcp4', rip=192.0.2.1)"),
            (Reason::FamilyMismatch, "TCP4 ::1 5.6.7.8 1 2", "Proxied remote address is invalid (address=`::1', rip"),
            (
                Reason::FamilyMismatch,
                "TCP6 ::1 5.6.7.8 1 2",
                "Proxied local address is invalid (address=`5.6.7.8', rip",
            ),
            (Reason::BadAddress, "TCP4 a.2.3.4", "Proxied remote address is invalid (address=`a.2.3.4', rip"),
            (Reason::BadAddress, "TCP4 1.2.3.4 5.6.7.x", "Proxied local address is invalid (address=`5.6.7.x', rip"),
            (Reason::BadPort, "TCP4 1.2.3.4 5.6.7.8 +1", "Proxied remote port is invalid (port=`+1', rip"),
            (Reason::BadPort, "TCP4 1.2.3.4 5.6.7.8 1 080", "Proxied local port is invalid (port=`080', rip"),
            (Reason::BadSpacing, "TCP4  1.2.3.4", "Proxied remote address is invalid (address=`', rip"),
            (Reason::BadSpacing, "TCP4 1.2.3.4 5.6.7.8 1 2 x", "Header line has spurius extra field (field=`x', rip"),
            (Reason::BadSpacing, "TCP4", "Field for proxied remote address is missing (rip=192.0.2.1)"),
            (Reason::BadSpacing, "TCP4 1.2.3.4 5.6.7.8 1", "Field for proxied local port is missing (rip=192.0.2.1)"),
            (Reason::LineTooLong, "UNKNOWN", "Failed to read valid HAproxy data (rip=192.0.2.1)"),
        ];
        for (reason, rest, words) in cases {
            let text = v1_words(reason, format!("PROXY {rest}\r\n").as_bytes(), IpAddr::from([192, 0, 2, 1]));
            assert!(text.starts_with(words), "{rest}: {text}");
        }
    }

    #[test]
    fn says_something_of_every_prefix_of_anything() {
        let bytes = b"PROXY TCP4 \xff\0 1.2.3.4 5 6 7 8\r\nx";
        for length in 0..bytes.len() {
            for reason in Reason::ALL {
                assert!(v1_words(reason, &bytes[..length], IpAddr::from([192, 0, 2, 1])).ends_with("rip=192.0.2.1)"));
            }
        }
    }
}
