//! Handshakes and sessions in memory: a client of rustls on the other side, and no socket.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::{HANDSHAKE_BYTES_MAX, Identity, Termination};
use crate::dispatch::{
    Cut, TLS_FEED_MAX, TLS_UNSENT_MAX, TlsFailure, TlsHandshake, TlsInfo, TlsRecords, TlsSession, TlsTerms,
};

pub(super) fn identity() -> Identity {
    Identity::self_signed(&["mail.example"]).expect("a good name")
}

fn begin(identity: &Identity) -> Box<dyn TlsHandshake> {
    Termination::new(identity, &["imap"]).begin()
}

/// What a client that trusts `identity` alone is made of.
pub(super) fn configuration(
    identity: &Identity,
    version: &'static SupportedProtocolVersion,
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.certificate()).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("a known version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

pub(super) fn client_of(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("mail.example").expect("a name");
    ClientConnection::new(config.clone(), name).expect("a configuration")
}

fn client(identity: &Identity, version: &'static SupportedProtocolVersion, alpn: &[&str]) -> ClientConnection {
    client_of(&configuration(identity, version, alpn))
}

/// What a client has to send now.
pub(super) fn said(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("a vector takes every write");
    }
    bytes
}

/// Gives a client what the other side has to send.
fn answer(records: &mut dyn TlsRecords, client: &mut ClientConnection) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while records.has_unsent() {
        records.send(&mut bytes).expect("a vector takes every write");
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() && client.read_tls(&mut rest).expect("a slice has no errors") > 0 {
        client.process_new_packets()?;
    }
    Ok(())
}

/// Shakes hands, in pieces of `size` bytes.
fn shake(
    mut handshake: Box<dyn TlsHandshake>,
    client: &mut ClientConnection,
    size: usize,
) -> Result<Box<dyn TlsSession>, TlsFailure> {
    loop {
        let bytes = said(client);
        for piece in bytes.chunks(size) {
            handshake.feed(piece)?;
        }
        answer(&mut *handshake, client).expect("the client trusts us");
        if handshake.is_complete() {
            return Ok(handshake.into_session());
        }
        assert!(client.wants_write(), "somebody has something to say");
    }
}

fn established(version: &'static SupportedProtocolVersion) -> (Box<dyn TlsSession>, ClientConnection) {
    let identity = identity();
    let mut client = client(&identity, version, &["imap"]);
    let session = shake(begin(&identity), &mut client, 5000).expect("they agree");
    (session, client)
}

#[test]
fn the_clients_bytes_may_be_split_anywhere() {
    let identity = identity();
    for version in [&TLS12, &TLS13] {
        for size in [1, 2, 5, 6, 100, 5000] {
            let session =
                shake(begin(&identity), &mut client(&identity, version, &["imap"]), size).expect("they agree");
            assert_eq!(session.info().alpn.as_deref(), Some(&b"imap"[..]));
        }
        let hello = said(&mut client(&identity, version, &[]));
        for length in 0..hello.len() {
            let mut handshake = begin(&identity);
            handshake.feed(&hello[..length]).expect("it is a beginning");
            assert!(!handshake.has_unsent() && !handshake.is_complete(), "{length} bytes are no hello");
            handshake.feed(&hello[length..]).expect("it is whole");
            assert!(handshake.has_unsent());
        }
    }
}

#[test]
fn a_session_tells_what_was_agreed() {
    for (version, shown, cipher) in
        [(&TLS12, "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"), (&TLS13, "TLSv1.3", "TLS_AES_256_GCM_SHA384")]
    {
        let identity = identity();
        let session = shake(begin(&identity), &mut client(&identity, version, &[]), 5000).expect("they agree");
        let server_name = Some("mail.example".into());
        let (version, cipher) = (Some(shown), Some(cipher));
        assert_eq!(*session.info(), TlsInfo { version, cipher, server_name, ..TlsInfo::default() });
    }
}

#[test]
fn bytes_pass_both_ways_and_so_do_ends() {
    for version in [&TLS12, &TLS13] {
        let (mut session, mut client) = established(version);
        let mut random = fastrand::Rng::with_seed(7);
        let sent: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(300_000).collect();
        let (mut got, mut room) = (Vec::new(), vec![0; 40_000]);
        for piece in sent.chunks(7_777) {
            client.writer().write_all(piece).expect("it has room");
            for bytes in said(&mut client).chunks(1 + random.usize(..9_000)) {
                session.feed(bytes).expect("records");
                read_all(&mut *session, &mut room, &mut got);
            }
        }
        assert!(got == sent);
        client.send_close_notify();
        session.feed(&said(&mut client)).expect("an end");
        assert!(session.is_readable());
        assert_eq!(session.read(&mut room).expect("an end is no error"), 0);
        assert_eq!(back(&mut *session, &mut client, &sent), sent, "who has ended can be answered");
    }
}

/// Reads what is there; an end is left.
fn read_all(session: &mut dyn TlsSession, room: &mut [u8], got: &mut Vec<u8>) {
    loop {
        let most = 1 + got.len() % room.len();
        match session.read(&mut room[..most]) {
            Ok(count) => got.extend_from_slice(&room[..count]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                assert!(!session.is_readable());
                return;
            }
        }
    }
}

/// What the client reads of what is written to the session, with its end.
fn back(session: &mut dyn TlsSession, client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut got = Vec::new();
    while !bytes.is_empty() {
        let taken = session.write(bytes);
        bytes = &bytes[taken..];
        deliver(session, client, &mut got);
    }
    session.close();
    deliver(session, client, &mut got);
    assert_eq!(client.reader().read(&mut [0]).expect("close_notify came"), 0);
    got
}

fn deliver(session: &mut dyn TlsSession, client: &mut ClientConnection, got: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    while session.has_unsent() {
        session.send(&mut bytes).expect("a vector takes every write");
    }
    for mut piece in bytes.chunks(4000) {
        while !piece.is_empty() && client.read_tls(&mut piece).expect("a slice has no errors") > 0 {
            client.process_new_packets().expect("records");
        }
        let mut room = [0; 20_000];
        while let Ok(count @ 1..) = client.reader().read(&mut room) {
            got.extend_from_slice(&room[..count]);
        }
    }
}

#[test]
fn what_is_fed_at_once_waits_to_be_read_and_nothing_is_lost() {
    let (mut session, mut client) = established(&TLS13);
    let sent = vec![7; TLS_FEED_MAX - 4096];
    client.set_buffer_limit(None);
    client.writer().write_all(&sent).expect("it has no limit");
    let bytes = said(&mut client);
    assert!(bytes.len() <= TLS_FEED_MAX);
    session.feed(&bytes).expect("records");
    let (mut got, mut room) = (Vec::new(), vec![0; 1000]);
    read_all(&mut *session, &mut room, &mut got);
    assert_eq!(got, sent);
}

#[test]
fn what_was_said_before_a_fault_is_read_and_then_the_fault_is_told() {
    // As much as is decrypted at once, and more.
    for size in [9, TLS_FEED_MAX / 2] {
        let (mut session, mut client) = established(&TLS13);
        let sent = vec![7; size];
        client.set_buffer_limit(None);
        client.writer().write_all(&sent).expect("it has no limit");
        let bytes = [said(&mut client), vec![0x55; 100]].concat();
        let _ = session.feed(&bytes); // told now, or when what stands before it has been read
        let (mut got, mut room) = (Vec::new(), vec![0; 1000]);
        let error = loop {
            match session.read(&mut room) {
                Ok(count) => got.extend_from_slice(&room[..count]),
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), got), (ErrorKind::InvalidData, sent));
        assert_eq!(session.read(&mut room).expect_err("it stays so").kind(), ErrorKind::InvalidData);
        assert!(session.has_unsent(), "an alert");
    }
}

#[test]
fn what_nobody_takes_is_bounded() {
    let (mut session, _client) = established(&TLS13);
    let bytes = vec![0; 1 << 20];
    let mut taken = 0;
    loop {
        match session.write(&bytes) {
            0 => break,
            count => taken += count,
        }
    }
    assert!((TLS_UNSENT_MAX / 2..=TLS_UNSENT_MAX).contains(&taken), "{taken}");
}

#[test]
fn last_words_are_sealed_with_an_end() {
    let (mut session, mut client) = established(&TLS13);
    let words = vec![b'x'; 3 * TLS_UNSENT_MAX];
    let sealed = session.seal(&words);
    let mut rest = &sealed[..];
    let mut got = Vec::new();
    while !rest.is_empty() {
        client.read_tls(&mut rest).expect("a slice has no errors");
        client.process_new_packets().expect("records");
        let mut room = [0; 20_000];
        while let Ok(count @ 1..) = client.reader().read(&mut room) {
            got.extend_from_slice(&room[..count]);
        }
    }
    assert!(got == words);
    assert_eq!(client.reader().read(&mut [0]).expect("close_notify came"), 0);
}

#[test]
fn a_session_is_resumed_also_after_a_reload_but_not_with_another_certificate() {
    for version in [&TLS12, &TLS13] {
        let first = identity();
        let config = configuration(&first, version, &[]);
        let resumed = |identity: &Identity| {
            let mut client = client_of(&config);
            let mut session = shake(begin(identity), &mut client, 5000).expect("they agree");
            // The tickets of 1.3 come behind the handshake.
            answer(&mut *session, &mut client).expect("records");
            session.info().resumed
        };
        assert!(!resumed(&first), "nothing to resume");
        assert!(resumed(&first));
        assert!(resumed(&first.clone().succeed(&first)));
        let stranger = first.clone().with_other_tickets();
        assert!(!resumed(&stranger), "another key of tickets");
        assert!(resumed(&stranger), "whose tickets the client has now");
        let reloaded = first.clone().succeed(&stranger);
        assert!(resumed(&reloaded), "the same certificate takes over the key");
        assert!(reloaded.shares_tickets(&stranger) && !identity().succeed(&stranger).shares_tickets(&stranger));
    }
}

#[test]
fn a_client_without_a_common_protocol_is_refused_and_told() {
    let identity = identity();
    let mut client = client(&identity, &TLS13, &["h2"]);
    let mut handshake = begin(&identity);
    let failure = handshake.feed(&said(&mut client)).expect_err("h2 is no mail");
    assert_eq!((failure.code, failure.is_how_checks_end), (Some("tls"), false));
    let error = answer(&mut *handshake, &mut client).expect_err("an alert");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[test]
fn what_comes_instead_of_tls_is_named_with_its_remedy_and_answered_by_an_alert() {
    for (first, code, diagnosis) in [
        (&b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 993\r\n"[..], "header-on-tls", "diagnosis=header-on-tls (a PROXY"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "header-on-tls", "diagnosis=header-on-tls (a PROXY header, and"),
        (b"a LOGIN joe secret\r\n", "no-tls", "diagnosis=plaintext-on-tls (no TLS, and this listener has ssl = yes"),
    ] {
        let mut handshake = begin(&identity());
        let failure = handshake.feed(first).expect_err("that is no handshake");
        let text = failure.to_string();
        assert!(text.starts_with("no TLS: first=") && text.contains(diagnosis), "{text}");
        assert!(!text.contains("InvalidContentType") && text.len() < 600, "{text}");
        assert_eq!((failure.code, failure.is_how_checks_end), (Some(code), false));
        let mut alert = Vec::new();
        handshake.send(&mut alert).expect("a vector takes every write");
        assert_eq!(alert[0], 21, "content type 21 is an alert");
    }
}

#[test]
fn how_a_handshake_is_cut_short_decides_whether_it_was_a_check() {
    let hello = said(&mut client(&identity(), &TLS13, &[]));
    for (said, code, is_check) in [
        (&b""[..], None, true),
        (&hello[..1], Some("disconnected"), true),
        (&hello[..20], Some("disconnected"), true),
        (&hello, Some("disconnected"), true),
    ] {
        let mut handshake = begin(&identity());
        if !said.is_empty() {
            handshake.feed(said).expect("it may become TLS");
        }
        let closed = handshake.cut(Cut::Closed);
        assert_eq!((closed.code, closed.is_how_checks_end), (code, is_check), "{said:?}");
        assert_eq!(handshake.cut(Cut::Broken(std::io::Error::from_raw_os_error(113))).code, Some("socket"));
    }
}

#[test]
fn a_version_that_is_too_old_is_a_fault_also_of_the_balancers_own() {
    let only = identity().only_tls_1_3();
    let failure = begin(&only).feed(&said(&mut client(&only, &TLS12, &["imap"]))).expect_err("it is switched off");
    assert_eq!((failure.code, failure.is_how_checks_end), (Some("tls"), false));
}

#[test]
fn the_bytes_of_a_handshake_are_bounded() {
    let identity = identity();
    let mut handshake = begin(&identity);
    // Records that are allowed before a hello, and say nothing: fragments of one that never ends.
    let fragment = |bytes: &[u8]| [&[22, 3, 1][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let mut result = handshake.feed(&fragment(&[1, 0, 0xff, 0xf0]));
    let mut fed = 9;
    while result.is_ok() {
        let piece = fragment(&[0; 1000]);
        fed += piece.len();
        result = handshake.feed(&piece);
        assert!(fed <= HANDSHAKE_BYTES_MAX + piece.len());
    }
    assert!(!handshake.is_complete());
}
