use super::*;
use crate::proxy::{Decoded, Rules, decode};
use crate::relay::Protocol;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn facts<'a>(header: Option<Header<'a>>, client: &str, destination: &str) -> Facts<'a> {
    let (client, destination) = (address(client), address(destination));
    Facts { header, client, destination, session: SessionId::new(1_795_000_000_000_000, client), tls: None }
}

fn plain(client: &str, destination: &str) -> Facts<'static> {
    facts(None, client, destination)
}

fn announce(forward: Forward, target: Target) -> Announce {
    Announce::new(forward, target, None).expect("a header is sent")
}

fn write(announce: &Announce, facts: &Facts<'_>, whom: Whom) -> (Vec<u8>, Announced) {
    let mut out = vec![0; HEADER_MAX];
    let announced = announce.write(facts, whom, &mut out).expect("it can be written");
    out.truncate(announced.length);
    (out, announced)
}

fn read(bytes: &[u8]) -> Header<'_> {
    let rules = Rules { header_limit: 65551, ..Rules::default() };
    let Decoded::Complete(header) = decode(bytes, &rules) else { panic!("{:?}", decode(bytes, &rules)) };
    assert_eq!(header.len(), bytes.len());
    header
}

/// A header as a balancer sends it.
fn received(tlvs: &[Tlv<'_>]) -> Vec<u8> {
    let mut out = vec![0; HEADER_MAX];
    let encoder = Encoder::proxy(address("203.0.113.9:41000"), address("192.0.2.1:993")).tlvs(tlvs);
    let length = encoder.encode(&mut out).expect("it can be encoded");
    out.truncate(length);
    out
}

fn ssl(client: u8, verify: u8, items: &[(u8, &[u8])]) -> Vec<u8> {
    let mut value = vec![client, 0, 0, 0, verify];
    for (kind, text) in items {
        value.extend([*kind, (text.len() >> 8) as u8, text.len() as u8]);
        value.extend_from_slice(text);
    }
    value
}

#[test]
fn a_header_of_any_kind_goes_out_as_proxy_over_ip() {
    // spec 2.1 SHOULD NOT "recommended not to send UNKNOWN"
    // spec 2.1 SHOULD NOT "use the UNKNOWN protocol"
    let local = [crate::proxy::V2_SIGNATURE.as_slice(), &[0x20, 0, 0, 0]].concat();
    let unspec = [crate::proxy::V2_SIGNATURE.as_slice(), &[0x21, 0, 0, 0]].concat();
    let unix = [crate::proxy::V2_SIGNATURE.as_slice(), &[0x21, 0x31, 0, 216], &[b'/'; 216]].concat();
    let dgram = [crate::proxy::V2_SIGNATURE.as_slice(), &[0x21, 0x12, 0, 12], &[1; 12]].concat();
    for bytes in [local, unspec, unix, dgram, b"PROXY UNKNOWN\r\n".to_vec()] {
        for (_, target) in Target::ALL.map(|(target, _)| ((), target)) {
            for forward in [Forward::ProxyV1, Forward::ProxyV2] {
                let facts = facts(Some(read(&bytes)), "192.0.2.9:5000", "192.0.2.1:143");
                let (out, announced) = write(&announce(forward, target), &facts, Whom::Client);
                let header = read(&out);
                assert_eq!(header.command(), Command::Proxy);
                assert_eq!((header.source(), header.destination()), (Some(facts.client), Some(facts.destination)));
                assert!(header.transport() == crate::proxy::Transport::Stream && announced.gave_way.is_empty());
            }
        }
    }
}

#[test]
fn local_goes_out_only_for_a_probe_that_came_as_one() {
    let local = [crate::proxy::V2_SIGNATURE.as_slice(), &[0x20, 0, 0, 0]].concat();
    let came_local = facts(Some(read(&local)), "192.0.2.9:5000", "192.0.2.1:143");
    let came_plain = plain("192.0.2.9:5000", "192.0.2.1:143");
    let dovecot = announce(Forward::ProxyV2, Target::Dovecot);
    assert_eq!(write(&dovecot, &came_local, Whom::Probe).0, local);
    assert_eq!(read(&write(&dovecot, &came_plain, Whom::Probe).0).command(), Command::Proxy);
    let line = write(&announce(Forward::ProxyV1, Target::Dovecot), &came_local, Whom::Probe).0;
    assert_eq!(line, b"PROXY TCP4 192.0.2.9 192.0.2.1 5000 143\r\n");
}

#[test]
fn mapped_addresses_leave_unmapped_where_both_can() {
    let dovecot = announce(Forward::ProxyV1, Target::Dovecot);
    let both = plain("[::ffff:198.51.100.7]:5000", "[::ffff:192.0.2.1]:143");
    assert_eq!(write(&dovecot, &both, Whom::Client).0, b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n");
    let mixed = plain("[::ffff:198.51.100.7]:5000", "[2001:db8::1]:143");
    let line = write(&dovecot, &mixed, Whom::Client).0;
    assert_eq!(line, b"PROXY TCP6 ::ffff:198.51.100.7 2001:db8::1 5000 143\r\n");
}

#[test]
fn port_zero_never_reaches_dovecot_or_exim_in_version_1() {
    let facts = plain("198.51.100.7:0", "192.0.2.1:143");
    for (_, target) in Target::ALL.map(|(target, _)| ((), target)) {
        let (out, announced) = write(&announce(Forward::ProxyV1, target), &facts, Whom::Client);
        let port = read(&out).source().expect("an address").port();
        match target {
            Target::Dovecot | Target::Exim => assert_eq!((announced.version, port), (Version::V2, 0)),
            Target::Generic => assert_eq!((announced.version, port), (Version::V1, 1)),
            _ => assert_eq!((announced.version, port), (Version::V1, 0)),
        }
    }
    let (out, announced) = write(&announce(Forward::ProxyV2, Target::Generic), &facts, Whom::Client);
    assert_eq!((announced.version, read(&out).source()), (Version::V2, Some(facts.client)));
}

#[test]
fn tlvs_are_passed_on_as_the_target_takes_them() {
    let secured = ssl(7, 0, &[(kind::SSL_VERSION, b"TLSv1.3"), (kind::SSL_CN, b"alice")]);
    let tlvs = [
        Tlv { kind: kind::ALPN, value: b"imap" },
        Tlv { kind: kind::AUTHORITY, value: b"mail.example" },
        Tlv { kind: kind::UNIQUE_ID, value: b"abc" },
        Tlv { kind: kind::NETNS, value: b"blue" },
        Tlv { kind: kind::AWS, value: b"\x01vpce-1" },
        Tlv { kind: kind::SSL, value: &secured },
    ];
    let bytes = received(&tlvs);
    let facts = facts(Some(read(&bytes)), "203.0.113.9:41000", "192.0.2.1:993");
    let kinds = |target| {
        let (out, announced) = write(&announce(Forward::ProxyV2, target), &facts, Whom::Client);
        assert!(announced.gave_way.is_empty());
        read(&out).tlvs().map(|tlv| tlv.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(Target::Dovecot), [kind::SSL, kind::AUTHORITY]);
    let all = [kind::CRC32C, kind::UNIQUE_ID, kind::SSL, kind::AUTHORITY, kind::ALPN, kind::AWS];
    assert_eq!(kinds(Target::Vestibule), all);
    assert_eq!(kinds(Target::Haproxy), all[1..]);
    for target in [Target::Postfix, Target::Exim, Target::Nginx, Target::Opensmtpd, Target::Generic] {
        assert!(kinds(target).is_empty());
    }
    let (out, _) = write(&announce(Forward::ProxyV2, Target::Dovecot), &facts, Whom::Client);
    assert_eq!(read(&out).tlv(kind::SSL), Some(&*secured), "a verified name is passed on as it came");
}

#[test]
fn dovecot_gets_no_unverified_name_and_no_strange_authority() {
    for (client, verify) in [(7, 1), (1, 0)] {
        let secured = ssl(client, verify, &[(kind::SSL_CN, b"mallory"), (kind::SSL_CIPHER, b"X")]);
        let tlvs = [Tlv { kind: kind::AUTHORITY, value: b"a b" }, Tlv { kind: kind::SSL, value: &secured }];
        let bytes = received(&tlvs);
        let facts = facts(Some(read(&bytes)), "203.0.113.9:41000", "192.0.2.1:993");
        let (out, announced) = write(&announce(Forward::ProxyV2, Target::Dovecot), &facts, Whom::Client);
        assert_eq!(read(&out).tlv(kind::SSL), Some(&*ssl(client, verify, &[(kind::SSL_CIPHER, b"X")])));
        assert_eq!(read(&out).authority_raw(), None);
        assert_eq!(announced.gave_way.iter().collect::<Vec<_>>(), [kind::AUTHORITY, kind::SSL_CN]);
    }
}

#[test]
fn tls_that_ended_here_is_told_and_an_id_is_made() {
    let tls =
        Tls { version: Some("TLSv1.3"), server_name: Some("mail.example"), alpn: Some(b"imap"), ..Tls::default() };
    let facts = Facts { tls: Some(tls), ..plain("198.51.100.7:5000", "192.0.2.1:993") };
    let (out, _) = write(&announce(Forward::ProxyV2, Target::Vestibule), &facts, Whom::Client);
    let header = read(&out);
    assert_eq!(header.tlv(kind::SSL), Some(&*ssl(1, 0, &[(kind::SSL_VERSION, b"TLSv1.3")])));
    assert_eq!(header.ssl().map(|ssl| ssl.certificate_verified()), Some(false));
    assert_eq!(header.authority(), Some("mail.example"));
    assert_eq!(header.unique_id(), Some(facts.session.as_str().as_bytes()));
    assert!(header.checksum().is_some() && facts.secured());
    let shown = |name| Some(Tls { cipher: Some("TLS_AES_128_GCM_SHA256"), client_name: Some(name), ..Tls::default() });
    let cipher = (kind::SSL_CIPHER, &b"TLS_AES_128_GCM_SHA256"[..]);
    for (name, expected) in [
        ("joe", ssl(7, 0, &[cipher, (kind::SSL_CN, b"joe")])),
        ("", ssl(7, 0, &[cipher])), // a certificate without a name
    ] {
        let facts = Facts { tls: shown(name), ..plain("198.51.100.7:5000", "192.0.2.1:993") };
        let (out, _) = write(&announce(Forward::ProxyV2, Target::Vestibule), &facts, Whom::Client);
        assert_eq!(read(&out).tlv(kind::SSL), Some(&*expected));
        assert_eq!(read(&out).ssl().map(|ssl| ssl.certificate_verified()), Some(true));
    }
}

#[test]
fn every_preset_keeps_its_cap_whatever_was_received() {
    let certificate = vec![0x30; 3000];
    let name = vec![b'n'; 1400];
    let secured =
        ssl(7, 0, &[(kind::SSL_VERSION, b"TLSv1.3"), (kind::SSL_CN, &name), (kind::SSL_CLIENT_CERT, &certificate)]);
    let mut tlvs = vec![
        Tlv { kind: kind::AUTHORITY, value: b"mail.example" },
        Tlv { kind: kind::UNIQUE_ID, value: &[b'u'; 128] },
        Tlv { kind: kind::SSL, value: &secured },
    ];
    let vendor = [b'v'; 300];
    tlvs.extend([Tlv { kind: kind::AWS, value: &vendor }; 30]);
    let bytes = received(&tlvs);
    let facts = facts(Some(read(&bytes)), "203.0.113.9:41000", "192.0.2.1:993");
    for (target, name) in Target::ALL {
        let asks_all = Announce::new(Forward::ProxyV2, target, Some(ForwardTlvs::ALL)).expect("a header");
        let (out, announced) = write(&asks_all, &facts, Whom::Client);
        assert!(out.len() <= target.preset().limits.total, "{name}");
        assert_eq!(read(&out).source(), Some(facts.client), "{name}");
        assert!(!announced.gave_way.is_empty(), "{name}: what is left out is named");
        let kept = read(&out).tlv(kind::SSL).is_some();
        assert!(kept != announced.gave_way.iter().any(|kind| kind == kind::SSL), "{name}");
    }
    let mut tiny = [0; 40];
    let dovecot = announce(Forward::ProxyV2, Target::Dovecot);
    assert_eq!(dovecot.write(&facts, Whom::Client, &mut tiny).map(|announced| announced.length), Ok(28));
    assert!(dovecot.write(&facts, Whom::Client, &mut [0; 20]).is_err());
}

#[test]
fn checks_begin_as_each_kind_stands_it() {
    // spec 2.1 SHOULD "build a valid PROXY line"
    let (from, to) = (address("192.0.2.5:4000"), address("192.0.2.21:10143"));
    let check = |forward, target| {
        let mut out = [0; 128];
        let announced = announce(forward, target).write_check(from, to, &mut out).expect("it can be written");
        out[..announced.length].to_vec()
    };
    let line = b"PROXY TCP4 192.0.2.5 192.0.2.21 4000 10143\r\n";
    assert_eq!(read(&check(Forward::ProxyV2, Target::Dovecot)).command(), Command::Local);
    assert_eq!(check(Forward::ProxyV2, Target::Postscreen).len(), 16);
    assert_eq!(read(&check(Forward::ProxyV2, Target::Generic)).source(), Some(from));
    assert_eq!(check(Forward::ProxyV1, Target::Haraka), line);
    assert_eq!(check(Forward::ProxyV1, Target::Dovecot), line);
}

#[test]
fn early_bytes_wait_where_a_server_must_speak_first() {
    let early = |target: Target, protocol| target.preset().sends_early(protocol);
    assert!(early(Target::Dovecot, Protocol::Imap) && early(Target::Postfix, Protocol::None));
    assert!(!early(Target::Postfix, Protocol::Smtp) && !early(Target::Dovecot, Protocol::Submission));
    assert!(!early(Target::SmtpServer, Protocol::Imap) && early(Target::SmtpServer, Protocol::None));
}

#[test]
fn the_operators_words() {
    let both = ForwardTlvs::SSL.and(ForwardTlvs::CRC32C);
    assert_eq!(ForwardTlvs::parse(" ssl, crc32c "), Ok(both));
    assert_eq!(ForwardTlvs::parse("none"), Ok(ForwardTlvs::NONE));
    assert_eq!(ForwardTlvs::parse("all"), Ok(ForwardTlvs::ALL));
    assert_eq!(ForwardTlvs::parse("ssl sni"), Err("sni"));
    assert_eq!((both.words(), ForwardTlvs::NONE.words()), ("ssl crc32c".into(), "none".into()));
    assert_eq!(ForwardTlvs::parse(&ForwardTlvs::ALL.words()), Ok(ForwardTlvs::ALL));
    assert_eq!((ForwardTlvs::parse("none ssl"), ForwardTlvs::parse(" ,")), (Err("none"), Err("")));
}

#[test]
fn settings_that_cannot_work_are_found() {
    let terms = Terms {
        forward: Forward::ProxyV2,
        protocol: Protocol::Imap,
        target: Target::Dovecot,
        tlvs: None,
        tls_passthrough: false,
        header_limit: 4096,
    };
    assert_eq!(findings(&terms), []);
    let alpn = Some(ForwardTlvs::ALL);
    assert_eq!(
        findings(&Terms { tlvs: alpn, ..terms }),
        [Finding::AlpnToDovecot, Finding::UselessChecksum(Target::Dovecot)]
    );
    let found = |forward, protocol| findings(&Terms { forward, protocol, ..terms });
    assert_eq!(found(Forward::Xclient, Protocol::Imap), [Finding::NoXclient(Protocol::Imap)]);
    assert_eq!(found(Forward::Xclient, Protocol::Pop3), []);
    assert_eq!(found(Forward::ImapId, Protocol::Smtp), [Finding::ImapIdElsewhere(Protocol::Smtp)]);
    let through = Terms { forward: Forward::Xclient, protocol: Protocol::Smtp, tls_passthrough: true, ..terms };
    assert_eq!(findings(&through), [Finding::InBandUnderTls(Forward::Xclient)]);
    let exim = Terms { target: Target::Exim, tlvs: Some(ForwardTlvs::SSL), ..terms };
    assert_eq!(findings(&exim), [Finding::OverCap { largest: 328, cap: 232 }]);
    let v1_only = Terms { target: Target::Haraka, ..terms };
    assert_eq!(findings(&v1_only), [Finding::VersionUnread(Target::Haraka, Version::V2)]);
    let v2_only = Terms { target: Target::Opensmtpd, forward: Forward::ProxyV1, tlvs: alpn, ..terms };
    let expected = [Finding::VersionUnread(Target::Opensmtpd, Version::V1), Finding::TlvsWithoutV2(Forward::ProxyV1)];
    assert_eq!(findings(&v2_only), expected);
    assert_eq!(expected.map(|finding| finding.severity()), [Severity::Error, Severity::Warning]);
    assert_eq!(expected[0].to_string(), "opensmtpd reads version 2 of the PROXY protocol only: use forward = proxy-v2");
}
