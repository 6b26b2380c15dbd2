//! TLS of a client, as it is shown to whoever asks for sessions and refusals.

use crate::dispatch::TlsInfo;
use crate::proxy::{Escaped, Header};

/// Characters that are kept of what a client or its balancer has said.
const TEXT_MAX: usize = 256;

/// Where a client's TLS ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsEnd {
    /// Here.
    Here,
    /// At the peer, which says so in its header.
    Peer,
    /// At the server: it passes through, and nothing is known of it.
    Server,
}

impl TlsEnd {
    /// In a word: `here`, `peer`, `server`.
    pub fn name(self) -> &'static str {
        match self {
            TlsEnd::Here => "here",
            TlsEnd::Peer => "peer",
            TlsEnd::Server => "server",
        }
    }
}

/// What is known of a client's TLS. Texts are escaped: every byte that is not printable ASCII stands as `\\xNN`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsSeen {
    /// Where it ends.
    pub ends: TlsEnd,
    /// Such as `TLSv1.3`; `None`: not known, since no session came about, or the header does not say.
    pub version: Option<String>,
    /// The server name that the client has asked for (SNI).
    pub server_name: Option<String>,
    /// Whether the client has shown a certificate; `None`: not known.
    pub certificate: Option<bool>,
    /// The common name in it, if it was verified and has one.
    pub client_name: Option<String>,
}

impl TlsSeen {
    fn at(ends: TlsEnd) -> TlsSeen {
        TlsSeen { ends, version: None, server_name: None, certificate: None, client_name: None }
    }

    /// A session that has ended here.
    pub(super) fn here(info: &TlsInfo) -> TlsSeen {
        let client = info.client_name.as_deref();
        TlsSeen {
            version: info.version.map(str::to_owned),
            server_name: info.server_name.as_deref().map(kept),
            certificate: Some(client.is_some()),
            client_name: client.filter(|name| !name.is_empty()).map(kept),
            ..TlsSeen::at(TlsEnd::Here)
        }
    }

    /// A handshake here that has failed.
    pub(super) fn failed(server_name: Option<&str>) -> TlsSeen {
        TlsSeen { server_name: server_name.map(kept), ..TlsSeen::at(TlsEnd::Here) }
    }

    /// A session of the peer's, as its header tells of it; `None`: there is none.
    pub(super) fn conveyed(header: &Header<'_>) -> Option<TlsSeen> {
        let ssl = header.ssl().filter(|ssl| ssl.tls())?;
        Some(TlsSeen {
            version: ssl.version().map(kept),
            server_name: header.authority().map(kept),
            certificate: Some(ssl.certificate_presented()),
            client_name: ssl.verified_common_name().filter(|name| !name.is_empty()).map(kept),
            ..TlsSeen::at(TlsEnd::Peer)
        })
    }

    /// One that a process before has known of: no more than this goes along with a session.
    pub(super) fn known_before(certificate: bool) -> TlsSeen {
        TlsSeen { certificate: Some(certificate), ..TlsSeen::at(TlsEnd::Peer) }
    }

    /// One that passes through.
    pub(super) fn passed_on() -> TlsSeen {
        TlsSeen::at(TlsEnd::Server)
    }
}

/// A text that can be shown anywhere, of bounded length.
fn kept(text: &str) -> String {
    Escaped(text.as_bytes()).to_string().chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Head;

    /// A version 2 header over IPv4 with these TLVs.
    fn header(tlvs: &[u8]) -> Vec<u8> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        bytes.extend_from_slice(&(12 + tlvs.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&[198, 51, 100, 7, 192, 0, 2, 1, 0x13, 0x88, 0, 143]);
        bytes.extend_from_slice(tlvs);
        bytes
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind, 0, value.len() as u8][..], value].concat()
    }

    fn conveyed(tlvs: &[u8]) -> Option<TlsSeen> {
        let bytes = header(tlvs);
        let head = Head::of(&bytes).expect("a complete header");
        TlsSeen::conveyed(&head.over(&bytes).expect("it was just read"))
    }

    #[test]
    fn what_the_header_tells_of_tls_is_seen_and_nothing_is_made_up() {
        let with = |client: u8| {
            let inner = [tlv(0x21, b"TLSv1.3"), tlv(0x22, "a\u{1b}[2J".as_bytes())].concat();
            let ssl = [&[client, 0, 0, 0, 0][..], &inner].concat();
            [tlv(0x02, b"mail.example"), tlv(0x20, &ssl)].concat()
        };
        assert_eq!(conveyed(&[]), None);
        assert_eq!(conveyed(&with(0)), None, "the TLV alone does not mean TLS");
        let bare = conveyed(&with(1)).expect("TLS");
        assert_eq!((bare.version.as_deref(), bare.server_name.as_deref()), (Some("TLSv1.3"), Some("mail.example")));
        assert_eq!((bare.ends.name(), bare.certificate, bare.client_name), ("peer", Some(false), None));
        let named = conveyed(&with(3)).expect("TLS");
        assert_eq!(named.certificate, Some(true));
        assert_eq!(named.client_name.as_deref(), Some("a\\x1b[2J"), "nothing that was sent commands a terminal");
    }

    #[test]
    fn a_session_that_ends_here_is_seen_with_its_certificate() {
        let mut info =
            TlsInfo { version: Some("TLSv1.2"), server_name: Some("imap.example".into()), ..TlsInfo::default() };
        let seen = TlsSeen::here(&info);
        assert_eq!((seen.ends.name(), seen.certificate, seen.client_name.as_deref()), ("here", Some(false), None));
        info.client_name = Some(String::new());
        let seen = TlsSeen::here(&info);
        assert_eq!((seen.certificate, seen.client_name.as_deref()), (Some(true), None), "it has no common name");
    }
}
