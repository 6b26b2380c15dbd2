//! What a log line says of a connection that has passed both doors: one for every connection where the operator asks for
//! it, and one for a header that is valid and looks wrong all the same.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::wording::add_diagnosis;
use super::{Admitted, Severity, Wording};
use crate::net::canonical_socket;
use crate::proxy::{Addresses, Command, Diagnosis, Escaped, Header, Version, diagnose, kind};

/// TLVs that a line names at most.
const TLVS_SHOWN_MAX: usize = 16;
/// Bytes of a name in a TLV that a line shows at most.
const NAME_SHOWN_MAX: usize = 64;
/// Ports that mail servers listen on, and no client comes from.
const MAIL_PORTS: [u16; 9] = [25, 110, 143, 465, 587, 993, 995, 2525, 4190];
/// Ports of clients.
const CLIENT_PORT_MIN: u16 = 1024;

/// A connection on its way to a pool.
#[derive(Clone, Copy, Debug)]
pub struct Handed<'a> {
    /// Who connected.
    pub peer: SocketAddr,
    /// The listener's address, unless it is bound to all.
    pub local: Option<SocketAddr>,
    /// The listener's name.
    pub listener: &'a str,
    /// Whether the listener expects TLS behind the header.
    pub ssl: bool,
    /// Its header; `None` where none is expected.
    pub admitted: Option<Admitted>,
    /// The header, and what came right behind it.
    pub bytes: &'a [u8],
    /// From accept to the complete header.
    pub waited: Duration,
}

impl<'a> Handed<'a> {
    /// The client: whom the header names, else the peer.
    pub fn client(&self) -> IpAddr {
        let peer = canonical_socket(self.peer).ip();
        self.admitted.and_then(|admitted| admitted.client()).map_or(peer, |client| client.to_canonical())
    }

    /// Bytes that came right behind the header.
    pub fn residual(&self) -> &'a [u8] {
        let header = self.admitted.map_or(0, |admitted| admitted.head().len());
        self.bytes.get(header..).unwrap_or_default()
    }

    /// What looks wrong although the header is valid.
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        let admitted = self.admitted.as_ref()?;
        let residual = self.residual();
        if !self.ssl && residual.first() == Some(&0x16) && diagnose(residual) == Diagnosis::TlsClientHello {
            return Some(Diagnosis::TlsBehindHeader);
        }
        if admitted.is_user_behind_local(residual.len(), self.ssl) {
            return Some(Diagnosis::LocalSpeaks);
        }
        let (source, destination) = admitted.head().ip()?;
        let exchanged = MAIL_PORTS.contains(&source.port())
            && destination.port() >= CLIENT_PORT_MIN
            && !MAIL_PORTS.contains(&destination.port());
        exchanged.then_some(Diagnosis::Exchanged)
    }

    fn header(&self) -> Option<Header<'a>> {
        self.admitted?.head().over(self.bytes)
    }
}

/// The line for one connection.
pub fn describe_handed(handed: &Handed<'_>) -> Wording {
    let mut text = format!("haproxy: Connected (rip={}):", handed.client());
    add_connection(&mut text, handed).expect("a String takes everything");
    Wording { severity: Severity::Info, text }
}

/// The line for a header that is valid and looks wrong.
pub fn describe_oddity(handed: &Handed<'_>, diagnosis: Diagnosis) -> Wording {
    // A check that speaks first looks the same, and comes every few seconds.
    let severity = if diagnosis == Diagnosis::LocalSpeaks { Severity::Info } else { Severity::Warning };
    let mut text = format!("haproxy: Client served, but something is odd (rip={}):", handed.client());
    add_connection(&mut text, handed)
        .and_then(|()| add_diagnosis(&mut text, diagnosis))
        .expect("a String takes everything");
    Wording { severity, text }
}

fn add_connection(text: &mut String, handed: &Handed<'_>) -> std::fmt::Result {
    write!(text, " listener={} peer={}", handed.listener, canonical_socket(handed.peer))?;
    if let Some(local) = handed.local {
        write!(text, " local={local}")?;
    }
    match handed.header() {
        Some(header) => add_header(text, &header)?,
        None => write!(text, " header=none")?,
    }
    let micros = handed.waited.as_micros();
    write!(text, " waited={}.{:03}ms", micros / 1000, micros % 1000)?;
    write!(text, " residual={}", handed.residual().len())
}

fn add_header(text: &mut String, header: &Header<'_>) -> std::fmt::Result {
    let version = match header.version() {
        Version::V1 => "v1",
        Version::V2 => "v2",
    };
    write!(text, " header={version}")?;
    match (header.command(), header.addresses()) {
        (Command::Local, _) => write!(text, " command=LOCAL")?,
        (_, Addresses::Ip { source, destination }) => write!(text, " source={source} destination={destination}")?,
        (_, Addresses::Unix { .. }) => write!(text, " source=unix")?,
        (_, Addresses::None) => write!(text, " source=unknown")?,
    }
    add_tlvs(text, header)
}

fn add_tlvs(text: &mut String, header: &Header<'_>) -> std::fmt::Result {
    let named = [("authority", header.authority_raw()), ("alpn", header.alpn()), ("unique_id", header.unique_id())];
    for (name, value) in named.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        write!(text, " {name}={}", Escaped(value.get(..NAME_SHOWN_MAX).unwrap_or(value)))?;
    }
    if let Some(ssl) = header.ssl() {
        write!(text, " tls={}", if ssl.tls() { ssl.version().unwrap_or("yes") } else { "no" })?;
        if let Some(name) = ssl.verified_common_name() {
            let name = name.as_bytes();
            write!(text, " cn={}", Escaped(name.get(..NAME_SHOWN_MAX).unwrap_or(name)))?;
        }
    }
    add_endpoints(text, header)?;
    let others = header.tlvs().filter(|tlv| !SHOWN_BY_NAME.contains(&tlv.kind) && tlv.endpoint().is_none());
    for (index, tlv) in others.take(TLVS_SHOWN_MAX).enumerate() {
        write!(text, "{}0x{:02x}", if index == 0 { " tlvs=" } else { "," }, tlv.kind)?;
    }
    Ok(())
}

/// Private endpoints through which the client came, if the header names some.
pub(super) fn add_endpoints(text: &mut String, header: &Header<'_>) -> std::fmt::Result {
    for (index, endpoint) in header.endpoints().take(TLVS_SHOWN_MAX).enumerate() {
        write!(text, "{}{endpoint}", if index == 0 { " endpoint=" } else { "," })?;
    }
    Ok(())
}

const SHOWN_BY_NAME: [u8; 4] = [kind::AUTHORITY, kind::ALPN, kind::UNIQUE_ID, kind::SSL];

#[cfg(test)]
mod tests {
    use super::super::{Action, Terms, Waiting};
    use super::*;
    use crate::proxy::V2_SIGNATURE;

    fn handed(bytes: &[u8], ssl: bool) -> Handed<'_> {
        let mut waiting = Waiting::default();
        let terms = Terms::default();
        waiting.start(&terms);
        let Action::Dispatch(admitted) = waiting.handle_read(bytes.len() as u32, |_| bytes, &terms) else {
            panic!("{bytes:?} is no header")
        };
        Handed {
            peer: "[::ffff:192.0.2.10]:40000".parse().expect("an address"),
            local: Some("192.0.2.1:143".parse().expect("an address")),
            listener: "imap_haproxy",
            ssl,
            admitted: Some(admitted),
            bytes,
            waited: Duration::from_micros(1234),
        }
    }

    fn v2(rest: &[u8]) -> Vec<u8> {
        [&V2_SIGNATURE[..], rest].concat()
    }

    #[test]
    fn names_client_balancer_listener_wait_and_what_it_carried() {
        let line = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\na1";
        assert_eq!(
            describe_handed(&handed(line, false)).text,
            "haproxy: Connected (rip=198.51.100.7): listener=imap_haproxy peer=192.0.2.10:40000 local=192.0.2.1:143 \
             header=v1 source=198.51.100.7:5000 destination=192.0.2.1:143 waited=1.234ms residual=2"
        );
        let tlvs = b"\x02\0\x04m\x20.t\x20\0\x0d\x01\0\0\0\0\x21\0\x05TLSv1\xea\0\x01x";
        let header =
            v2(&[&[0x21, 0x11, 0, 12 + tlvs.len() as u8][..], &[198, 51, 100, 7, 192, 0, 2, 1], &[1; 4], tlvs]
                .concat());
        let text = describe_handed(&handed(&header, false)).text;
        assert!(text.contains(" authority=m\\x20.t tls=TLSv1 tlvs=0xea waited="), "{text}");
        let endpoints = b"\xe0\0\x08\0\0\0\0\0\0\0\x07\xee\0\x05\x01\x01\x02\0\0\xe0\0\x01x";
        let header = v2(&[&[0x21, 0x11, 0, 12 + endpoints.len() as u8][..], &[1; 12], endpoints].concat());
        let text = describe_handed(&handed(&header, false)).text;
        assert!(text.contains(" endpoint=gcp:7,azure:513 tlvs=0xe0 waited="), "the malformed one is another: {text}");
        let says_nothing = v2(b"\x21\x11\0\x14\x01\x02\x03\x04\x05\x06\x07\x08\x13\x88\0\x8f\x20\0\x05\0\0\0\0\0");
        assert!(describe_handed(&handed(&says_nothing, false)).text.contains(" tls=no waited="));
        assert!(describe_handed(&handed(&v2(b"\x20\0\0\0"), false)).text.contains(" header=v2 command=LOCAL waited="));
        let plain = Handed { admitted: None, bytes: b"", ..handed(line, false) };
        assert!(describe_handed(&plain).text.starts_with("haproxy: Connected (rip=192.0.2.10): listener="));
        assert!(describe_handed(&plain).text.contains(" header=none "));
    }

    #[test]
    fn what_looks_wrong_is_named() {
        let inet = |source: u16, destination: u16| {
            format!("PROXY TCP4 198.51.100.7 192.0.2.1 {source} {destination}\r\n").into_bytes()
        };
        let hello = b"\x16\x03\x01\x02\x00\x01";
        let local = v2(b"\x20\0\0\0");
        for (bytes, ssl, diagnosis) in [
            (inet(5000, 143), false, None),
            (inet(143, 5000), false, Some(Diagnosis::Exchanged)),
            (inet(25, 25), false, None),
            (inet(143, 110), false, None),
            ([&inet(5000, 143)[..], hello].concat(), false, Some(Diagnosis::TlsBehindHeader)),
            ([&inet(5000, 143)[..], hello].concat(), true, None),
            (local.clone(), false, None),
            ([&local[..], b"EHLO x\r\n"].concat(), false, Some(Diagnosis::LocalSpeaks)),
            ([&local[..], hello].concat(), true, None),
        ] {
            assert_eq!(handed(&bytes, ssl).diagnosis(), diagnosis, "{}", Escaped(&bytes));
        }
        let bytes = inet(993, 50_000);
        let wording = describe_oddity(&handed(&bytes, true), Diagnosis::Exchanged);
        assert_eq!(wording.severity, Severity::Warning);
        assert!(
            wording.text.contains("something is odd (rip=198.51.100.7): listener=imap_haproxy"),
            "{}",
            wording.text
        );
        assert!(
            wording.text.contains(" diagnosis=exchanged (source and destination look exchanged"),
            "{}",
            wording.text
        );
    }
}
