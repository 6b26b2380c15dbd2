//! The private endpoints of cloud providers through which clients may come.

use std::fmt;
use std::str::FromStr;

use crate::proxy::{Endpoint, Header};

/// A private endpoint as an operator names it: `vpce-08d2bf15fac5001c9` of AWS, `azure:LINKID`, or `gcp:ID`, the
/// connection id of Private Service Connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId(Owned);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owned {
    Aws(Box<str>),
    Azure(u32),
    Gcp(u64),
}

impl EndpointId {
    fn borrowed(&self) -> Endpoint<'_> {
        match &self.0 {
            Owned::Aws(id) => Endpoint::Aws(id),
            Owned::Azure(id) => Endpoint::Azure(*id),
            Owned::Gcp(id) => Endpoint::Gcp(*id),
        }
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrowed().fmt(f)
    }
}

/// Why a text names no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotAnEndpoint {
    /// Of no provider that is known here.
    Unknown,
    /// An AWS endpoint service, which is the other end.
    Service,
    /// No id of AWS.
    Aws,
    /// No LINKID.
    Azure,
    /// No connection id of Google Cloud.
    Gcp,
}

impl fmt::Display for NotAnEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotAnEndpoint::Unknown => "expected vpce-ID (AWS), azure:LINKID or gcp:ID",
            NotAnEndpoint::Service => {
                "it names the endpoint service, which is the provider's side: expected the client's endpoint, vpce-ID"
            }
            NotAnEndpoint::Aws => "expected hexadecimal digits in lower case behind vpce-",
            NotAnEndpoint::Azure => "expected a number from 0 to 4294967295 behind azure:",
            NotAnEndpoint::Gcp => "expected a number from 0 to 18446744073709551615 behind gcp:",
        })
    }
}

impl std::error::Error for NotAnEndpoint {}

impl FromStr for EndpointId {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<EndpointId, NotAnEndpoint> {
        let owned = if text.starts_with("vpce-svc-") {
            return Err(NotAnEndpoint::Service);
        } else if let Some(digits) = text.strip_prefix("vpce-") {
            let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let is_id = !digits.is_empty() && digits.bytes().all(hex);
            is_id.then(|| Owned::Aws(text.into())).ok_or(NotAnEndpoint::Aws)?
        } else if let Some(digits) = text.strip_prefix("azure:") {
            Owned::Azure(number(digits).ok_or(NotAnEndpoint::Azure)?)
        } else if let Some(digits) = text.strip_prefix("gcp:") {
            Owned::Gcp(number(digits).ok_or(NotAnEndpoint::Gcp)?)
        } else {
            return Err(NotAnEndpoint::Unknown);
        };
        Ok(EndpointId(owned))
    }
}

/// Digits only: the standard library would take a sign.
fn number<T: FromStr>(digits: &str) -> Option<T> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// A set of endpoints that answers membership in logarithmic time.
///
/// Invariant: sorted by what [`Endpoint`] compares, without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSet(Vec<EndpointId>);

impl EndpointSet {
    /// Whether the endpoint is one of them.
    pub fn contains(&self, endpoint: Endpoint<'_>) -> bool {
        self.0.binary_search_by(|id| id.borrowed().cmp(&endpoint)).is_ok()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = &EndpointId> {
        self.0.iter()
    }
}

impl Extend<EndpointId> for EndpointSet {
    fn extend<I: IntoIterator<Item = EndpointId>>(&mut self, ids: I) {
        self.0.extend(ids);
        self.0.sort_unstable_by(|a, b| a.borrowed().cmp(&b.borrowed()));
        self.0.dedup();
    }
}

impl FromIterator<EndpointId> for EndpointSet {
    fn from_iter<I: IntoIterator<Item = EndpointId>>(ids: I) -> EndpointSet {
        let mut set = EndpointSet::default();
        set.extend(ids);
        set
    }
}

/// `client_endpoint_missing`: what becomes of headers that name no endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMissingEndpoint {
    /// Refuse.
    #[default]
    Reject,
    /// Serve.
    Allow,
}

/// Through which private endpoints clients may come. By default through any, and through none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointRules {
    /// Those that may (`client_allowed_endpoints`). Empty: no endpoint is looked at.
    pub allowed: EndpointSet,
    /// What becomes of a header without one, where some are allowed.
    pub missing: OnMissingEndpoint,
}

/// What is wrong with a header's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objection {
    /// It names one that is not allowed.
    Refused,
    /// It names none.
    Missing,
}

impl EndpointRules {
    /// All that a header names must be allowed: which of several counts is defined nowhere.
    pub(super) fn judge(&self, header: &Header<'_>) -> Result<(), Objection> {
        if self.allowed.is_empty() {
            return Ok(());
        }
        let mut named = header.endpoints().map(|endpoint| self.allowed.contains(endpoint)).peekable();
        if named.peek().is_none() && self.missing == OnMissingEndpoint::Reject {
            return Err(Objection::Missing);
        }
        if named.all(|allowed| allowed) { Ok(()) } else { Err(Objection::Refused) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{Decoded, Rules, decode};

    fn set(text: &str) -> EndpointSet {
        text.split_whitespace().map(|id| id.parse::<EndpointId>().expect(id)).collect()
    }

    /// What the rules say of a version 2 header with these TLVs.
    fn judge(allowed: &str, missing: OnMissingEndpoint, tlvs: &[u8]) -> Result<(), Objection> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        bytes.extend((12 + tlvs.len() as u16).to_be_bytes());
        bytes.extend([198, 51, 100, 7, 192, 0, 2, 1, 0x13, 0x88, 0, 0x8f]);
        bytes.extend(tlvs);
        let Decoded::Complete(header) = decode(&bytes, &Rules::default()) else { panic!("{bytes:?} is a header") };
        EndpointRules { allowed: set(allowed), missing }.judge(&header)
    }

    #[test]
    fn names_are_read_and_shown() {
        for text in ["vpce-08d2bf15fac5001c9", "azure:0", "azure:4294967295", "gcp:18446744073709551615"] {
            assert_eq!(text.parse::<EndpointId>().expect(text).to_string(), text);
        }
        for (text, reason) in [
            ("", NotAnEndpoint::Unknown),
            ("vpc-08d2bf15", NotAnEndpoint::Unknown),
            ("AZURE:1", NotAnEndpoint::Unknown),
            ("536870930", NotAnEndpoint::Unknown),
            ("vpce-svc-08d2bf15fac5001c9", NotAnEndpoint::Service),
            ("vpce-", NotAnEndpoint::Aws),
            ("vpce-08D2", NotAnEndpoint::Aws),
            ("vpce-08d2,", NotAnEndpoint::Aws),
            ("azure:", NotAnEndpoint::Azure),
            ("azure:+1", NotAnEndpoint::Azure),
            ("azure:4294967296", NotAnEndpoint::Azure),
            ("gcp:0x1", NotAnEndpoint::Gcp),
            ("gcp:18446744073709551616", NotAnEndpoint::Gcp),
        ] {
            assert_eq!(text.parse::<EndpointId>(), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn each_provider_is_told_from_the_others() {
        // AWS's published example; Azure's number is little-endian, Google Cloud's big-endian.
        const AWS: &[u8] = b"\xea\0\x17\x01vpce-08d2bf15fac5001c9";
        const AZURE: &[u8] = b"\xee\0\x05\x01\x12\0\0\x20";
        const GCP: &[u8] = b"\xe0\0\x08\0\0\0\0\x20\0\0\x12";
        let both = [AWS, GCP].concat();
        for (allowed, tlvs, verdict) in [
            ("vpce-08d2bf15fac5001c9", AWS, Ok(())),
            ("azure:536870930", AZURE, Ok(())),
            ("gcp:536870930", GCP, Ok(())),
            ("vpce-08d2bf15fac5001c8", AWS, Err(Objection::Refused)),
            ("vpce-08d2bf15fac5001", AWS, Err(Objection::Refused)),
            ("gcp:536870930", AZURE, Err(Objection::Refused)),
            ("azure:536870930", GCP, Err(Objection::Refused)),
            ("azure:301989920", AZURE, Err(Objection::Refused)),
            ("gcp:1 azure:2 vpce-08d2bf15fac5001c9 vpce-0", AWS, Ok(())),
            ("vpce-08d2bf15fac5001c9", &both, Err(Objection::Refused)),
            ("vpce-08d2bf15fac5001c9 gcp:536870930", &both, Ok(())),
            ("", AWS, Ok(())),
        ] {
            assert_eq!(judge(allowed, OnMissingEndpoint::Reject, tlvs), verdict, "{allowed} {tlvs:?}");
        }
    }

    #[test]
    fn what_names_none_is_up_to_a_setting_and_what_names_another_is_not() {
        // The last four are malformed: another sub-type, another length, a character that no id has, no id.
        for tlvs in [
            &b""[..],
            b"\x02\0\x01a",
            b"\xee\0\x05\x02\x12\0\0\x20",
            b"\xe0\0\x04\0\0\0\x12",
            b"\xea\0\x03\x01a_",
            b"\xea\0\x01\x01",
        ] {
            assert_eq!(judge("gcp:18", OnMissingEndpoint::Reject, tlvs), Err(Objection::Missing), "{tlvs:?}");
            assert_eq!(judge("gcp:18", OnMissingEndpoint::Allow, tlvs), Ok(()), "{tlvs:?}");
            assert_eq!(judge("", OnMissingEndpoint::Reject, tlvs), Ok(()), "{tlvs:?}");
        }
        let other = b"\xe0\0\x08\0\0\0\0\0\0\0\x13";
        assert_eq!(judge("gcp:18", OnMissingEndpoint::Allow, other), Err(Objection::Refused));
    }

    #[test]
    fn a_set_agrees_with_a_list() {
        // A small range, so that there are repetitions and hits.
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let mut any = || match (next(3), next(40)) {
            (0, id) => Owned::Aws(format!("vpce-{id:x}").into()),
            (1, id) => Owned::Azure(id as u32),
            (_, id) => Owned::Gcp(id),
        };
        for _ in 0..200 {
            let list: Vec<EndpointId> = (0..12).map(|_| EndpointId(any())).collect();
            let set: EndpointSet = list.iter().cloned().collect();
            for _ in 0..50 {
                let one = EndpointId(any());
                assert_eq!(set.contains(one.borrowed()), list.contains(&one), "{one} in {list:?}");
            }
            assert!(list.iter().all(|one| set.contains(one.borrowed())));
        }
    }
}
