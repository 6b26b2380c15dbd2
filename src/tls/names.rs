//! Which certificate a client sees: by the name that it asks for (SNI), else the first.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Certificates by names, and one for everybody else.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) otherwise: Arc<CertifiedKey>,
    /// The first whose names match counts.
    pub(super) named: Vec<(Vec<String>, Arc<CertifiedKey>)>,
}

impl Shown {
    /// Whether everybody sees the same certificates.
    pub(super) fn is_same(&self, other: &Shown) -> bool {
        let same = |one: &CertifiedKey, other: &CertifiedKey| one.cert == other.cert;
        let named = || self.named.iter().zip(&other.named);
        same(&self.otherwise, &other.otherwise)
            && self.named.len() == other.named.len()
            && named().all(|(one, other)| one.0 == other.0 && same(&one.1, &other.1))
    }

    fn to(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let matches = |names: &[String]| name.is_some_and(|name| names.iter().any(|mask| is_matched(name, mask)));
        self.named.iter().find(|(names, _)| matches(names)).map_or(&self.otherwise, |(_, certified)| certified).clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.to(hello.server_name()))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("named", &self.named.len()).finish_non_exhaustive()
    }
}

/// Whether a host name is one of those that a mask of Dovecot stands for, in any case: `*` before a dot is the rest of
/// one label, `?` is one character. A `*` elsewhere matches nothing but an end.
pub fn is_matched(name: &str, mask: &str) -> bool {
    let (mut name, mut mask) = (name.as_bytes(), mask.as_bytes());
    while let ([first, rest @ ..], [wanted, more @ ..]) = (name, mask) {
        (name, mask) = match (wanted, more) {
            (b'*', [b'.', behind @ ..]) => match name.iter().position(|&byte| byte == b'.') {
                Some(dot) => (&name[dot + 1..], behind),
                None => return false,
            },
            (b'*', _) => return false,
            (b'?', _) => (rest, more),
            _ if first.eq_ignore_ascii_case(wanted) => (rest, more),
            _ => return false,
        };
    }
    name.is_empty() && matches!(mask, [] | [b'*'])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measured with doveconf 2.3.19.1 (`-f lname=NAME`).
    #[test]
    fn names_match_as_dovecot_matches_them() {
        for (mask, name, matched) in [
            ("mail.example.com", "mail.example.com", true),
            ("mail.example.com", "MAIL.example.COM", true),
            ("mail.example.com", "x.mail.example.com", false),
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "b.a.example.org", false),
            ("*.*.multi.test", "a.b.multi.test", true),
            ("*.*.multi.test", "b.multi.test", false),
            ("n*.part.test", "name.part.test", true),
            ("n*.part.test", "n.part.test", true),
            ("x*.test", "x.test", true),
            ("?.t.test", "s.t.test", true),
            ("*a.test", "ba.test", false),
            ("*.bar", "foo.bar", true),
            ("*.*", "foo.bar", false),
            ("foo.*", "foo.bar", false),
            ("f*", "foo.bar", false),
            ("*", "foo", false),
            ("foo", "foo", true),
        ] {
            assert_eq!(is_matched(name, mask), matched, "{mask} {name}");
        }
    }
}
