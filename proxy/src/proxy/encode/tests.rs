//! What is encoded decodes to what was meant.

use fastrand::Rng;

use super::*;
use crate::proxy::{Decoded, Family, Rules, decode};

const ANY_LENGTH: Rules = Rules { header_limit: V2_LENGTH_MAX as u32, v4_in_tcp6: false, v6_in_tcp4: false };

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

fn v4() -> Encoder<'static> {
    Encoder::proxy(socket("198.51.100.7:5000"), socket("192.0.2.1:143"))
}

fn encoded(encoder: &Encoder<'_>) -> Vec<u8> {
    let mut out = vec![0xaa; V2_LENGTH_MAX + 1];
    let length = encoder.encode(&mut out).expect("a header that can be sent");
    assert_eq!(length, encoder.encoded_len());
    assert!(out[length..].iter().all(|&byte| byte == 0xaa), "nothing is written behind the header");
    out.truncate(length);
    assert_eq!(encoder.encode(&mut vec![0; length - 1]), Err(EncodeError::BufferTooSmall { needed: length }));
    assert_eq!(encoder.encode(&mut vec![0; length]), Ok(length), "an exact buffer is enough");
    out
}

fn decoded(bytes: &[u8]) -> Header<'_> {
    match decode(bytes, &ANY_LENGTH) {
        Decoded::Complete(header) if header.len() == bytes.len() => header,
        other => panic!("{} is {other:?}", bytes.escape_ascii()),
    }
}

fn kinds(bytes: &[u8]) -> Vec<u8> {
    decoded(bytes).tlvs().map(|tlv| tlv.kind).collect()
}

#[test]
fn sizes() {
    assert_eq!(encoded(&Encoder::local()).len(), 16);
    assert_eq!(encoded(&v4()).len(), 28);
    let v6 = Encoder::proxy(socket("[2001:db8::7]:5000"), socket("[2001:db8::1]:143"));
    assert_eq!(encoded(&v6).len(), 52);
    assert_eq!(encoded(&v6.checksum(true)).len(), 59);
}

#[test]
fn lines() {
    for (source, destination, line) in [
        ("198.51.100.7:5000", "192.0.2.1:143", "PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n"),
        ("[2001:DB8:0:0:0:0:0:7]:0", "[::]:65535", "PROXY TCP6 2001:db8::7 :: 0 65535\r\n"),
        ("198.51.100.7:1", "[2001:db8:0:1:0:0:0:1]:2", "PROXY TCP6 ::ffff:198.51.100.7 2001:db8:0:1::1 1 2\r\n"),
        ("[::1]:1", "192.0.2.1:2", "PROXY TCP6 ::1 ::ffff:192.0.2.1 1 2\r\n"),
    ] {
        let bytes = encoded(&Encoder::proxy(socket(source), socket(destination)).version(Version::V1));
        assert_eq!(str::from_utf8(&bytes), Ok(line));
        let again = Encoder::again(&decoded(&bytes));
        assert_eq!(encoded(&again), bytes);
    }
}

// spec 2.1 MUST "maximum line lengths"
#[test]
fn longest_lines_are_as_the_specification_says() {
    let v4 = Encoder::proxy(socket("255.255.255.255:65535"), socket("255.255.255.255:65535"));
    assert_eq!(encoded(&v4.version(Version::V1)).len(), 56);
    let far = socket("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65535");
    assert_eq!(encoded(&Encoder::proxy(far, far).version(Version::V1)).len(), 104);
}

#[test]
fn mixed_families_are_mapped() {
    let bytes = encoded(&Encoder::proxy(socket("198.51.100.7:5000"), socket("[2001:db8::1]:143")));
    let header = decoded(&bytes);
    assert_eq!(header.family(), Family::Inet6);
    assert_eq!(header.source(), Some(socket("[::ffff:198.51.100.7]:5000")));
    assert_eq!(header.destination(), Some(socket("[2001:db8::1]:143")));
}

#[test]
fn version_1_is_addresses_and_nothing_else() {
    assert_eq!(Encoder::local().version(Version::V1).encode(&mut [0; 64]), Err(EncodeError::LocalNeedsV2));
    let own = [Tlv { kind: kind::ALPN, value: b"imap" }];
    let encoder = v4().tlvs(&own).version(Version::V1);
    assert_eq!(encoded(&encoder), b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n");
    assert_eq!(encoder.dropped().collect::<Vec<_>>(), [kind::ALPN]);
}

#[test]
fn version_2_again_is_the_same_bytes() {
    let opaque = b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x02\xff\xff";
    let aws = b"\r\n\r\n\0\r\nQUIT\n\x20\x11\x00\x05\x04\0\x02xy";
    let mut unix = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd8/path\0behind".to_vec();
    unix.resize(16 + 216, 7);
    for bytes in [&opaque[..], aws, &unix] {
        assert_eq!(encoded(&Encoder::again(&decoded(bytes))), bytes);
    }
    let line = b"PROXY UNKNOWN whatever\r\n";
    assert_eq!(encoded(&Encoder::again(&decoded(line))), b"PROXY UNKNOWN\r\n");
}

#[test]
fn tlvs_have_an_order() {
    let own = [
        Tlv { kind: 0xe0, value: b"12345678" },
        Tlv { kind: kind::NOOP, value: b"" },
        Tlv { kind: kind::ALPN, value: b"imap" },
        Tlv { kind: kind::AUTHORITY, value: b"mail.example" },
        Tlv { kind: kind::SSL, value: b"\0\0\0\0\0" },
        Tlv { kind: kind::UNIQUE_ID, value: b"id" },
    ];
    let bytes = encoded(&v4().checksum(true).tlvs(&own));
    let expected = [
        kind::CRC32C,
        kind::UNIQUE_ID,
        kind::SSL,
        kind::AUTHORITY,
        kind::ALPN,
        kind::GCP_PSC_CONNECTION_ID,
        kind::NOOP,
    ];
    assert_eq!(kinds(&bytes), expected);
    assert!(decoded(&bytes).checksum().is_some());
}

#[test]
fn what_the_decoder_would_refuse_is_not_built() {
    let refusal = |own: &[Tlv<'_>]| v4().tlvs(own).encode(&mut vec![0; 70000]);
    let id = [b'x'; 129];
    let refused = |reason| Err(EncodeError::Refused(reason));
    assert_eq!(refusal(&[Tlv { kind: kind::UNIQUE_ID, value: &id }]), refused(Reason::BadTlv));
    assert_eq!(refusal(&[Tlv { kind: kind::AUTHORITY, value: b"a" }; 2]), refused(Reason::DuplicateTlv));
    assert_eq!(refusal(&[Tlv { kind: kind::SSL, value: b"\0" }]), refused(Reason::BadTlv));
    assert_eq!(refusal(&[Tlv { kind: kind::SSL, value: b"\0\0\0\0\0!" }]), refused(Reason::TlvTruncated));
    assert_eq!(refusal(&[Tlv { kind: kind::CRC32C, value: b"\0\0\0\0" }]), Err(EncodeError::ChecksumAsTlv));
    let long = vec![0; 65536];
    let too_long = |length| Err(EncodeError::TooLong { length, limit: V2_LENGTH_MAX });
    assert_eq!(refusal(&[Tlv { kind: kind::NOOP, value: &long }]), too_long(28 + 3 + 65536));
    assert_eq!(refusal(&[Tlv { kind: kind::NOOP, value: &long[..65521] }]), too_long(28 + 3 + 65521));
    assert_eq!(refusal(&[Tlv { kind: kind::NOOP, value: &long[..65520] }]), Ok(V2_LENGTH_MAX));
    // A malformed SSL value must not be mended by leaving something out.
    let own = [Tlv { kind: kind::SSL, value: b"\0\0\0\0\0!" }, Tlv { kind: kind::NOOP, value: &long[..300] }];
    let fitted = v4().tlvs(&own).fit(Limits::EXIM);
    assert_eq!(fitted.encode(&mut [0; 300]), refused(Reason::TlvTruncated));
}

/// SSL with version, name, cipher, algorithms, group, scheme and a certificate of 1200 bytes.
fn full_ssl() -> Vec<u8> {
    let mut value = vec![7, 0, 0, 0, 0];
    let items: [(u8, &[u8]); 9] = [
        (0x21, b"TLSv1.3"),
        (0x22, b"alice"),
        (0x23, b"TLS_AES_256_GCM_SHA384"),
        (0x24, b"RSA-SHA256"),
        (0x25, b"RSA2048"),
        (0x26, b"secp256r1"),
        (0x27, b"rsa_pss_rsae_sha256"),
        (0x28, &[0x30; 1200]),
        (0x2f, b"?"),
    ];
    for (kind, text) in items {
        value.push(kind);
        value.extend((text.len() as u16).to_be_bytes());
        value.extend(text);
    }
    value
}

#[test]
fn what_does_not_fit_is_dropped_in_order() {
    let ssl = full_ssl();
    let own = [
        Tlv { kind: kind::SSL, value: &ssl },
        Tlv { kind: kind::AUTHORITY, value: &[b'a'; 60] },
        Tlv { kind: kind::ALPN, value: b"imap" },
        Tlv { kind: kind::UNIQUE_ID, value: &[b'u'; 64] },
        Tlv { kind: kind::AWS, value: b"\x01vpce-1" },
    ];
    let encoder = v4().checksum(true).tlvs(&own);
    let whole = encoder.encoded_len();
    let order = [0x28, 0x2f, 0x27, 0x26, 0x25, 0x24, 0x23, kind::AWS, kind::ALPN, kind::AUTHORITY, kind::UNIQUE_ID];
    let least = encoder.fit(Limits { total: 0, ..Limits::NONE });
    assert_eq!(least.encode(&mut [0; 100]), Err(EncodeError::TooLong { length: 28 + 7 + 8 + 10 + 8, limit: 0 }));
    for total in least.encoded_len()..=whole {
        let fitted = encoder.fit(Limits { total, ..Limits::NONE });
        let bytes = encoded(&fitted);
        assert!(bytes.len() <= total);
        assert_eq!(decoded(&bytes).ssl().and_then(|ssl| ssl.verified_common_name()), Some("alice"));
        let mut dropped: Vec<u8> = fitted.dropped().collect();
        dropped.sort_by_key(|kind| order.iter().position(|known| known == kind));
        assert_eq!(dropped, order[..dropped.len()], "at {total}");
    }
    assert_eq!(encoder.fit(Limits::NONE).dropped().count(), 0);
    assert_eq!(encoded(&encoder.fit(Limits::NONE)).len(), whole);
}

#[test]
fn long_values_are_dropped_alone() {
    let ssl = full_ssl();
    let own = [
        Tlv { kind: kind::SSL, value: &ssl },
        Tlv { kind: kind::AUTHORITY, value: &[b'a'; 256] },
        Tlv { kind: kind::ALPN, value: b"imap" },
    ];
    let fitted = v4().tlvs(&own).fit(Limits::HAPROXY);
    let bytes = encoded(&fitted);
    assert_eq!(kinds(&bytes), [kind::SSL, kind::ALPN]);
    assert_eq!(fitted.dropped().collect::<Vec<_>>(), [0x28, 0x2f, kind::AUTHORITY]);
}

/// An SSL value that cannot become short enough costs nothing else.
#[test]
fn an_ssl_value_that_stays_too_long_is_an_error() {
    let mut ssl = vec![7, 0, 0, 0, 0, kind::SSL_CN, 0x04, 0x4c];
    ssl.resize(ssl.len() + 1100, b'n');
    ssl.extend([kind::SSL_CIPHER, 0, 1, b'c']);
    let own = [
        Tlv { kind: kind::SSL, value: &ssl },
        Tlv { kind: kind::UNIQUE_ID, value: b"id" },
        Tlv { kind: kind::AUTHORITY, value: b"mail.example" },
        Tlv { kind: kind::ALPN, value: b"imap" },
        Tlv { kind: kind::AWS, value: b"\x01vpce-1" },
    ];
    let fitted = v4().tlvs(&own).fit(Limits::HAPROXY);
    assert_eq!(fitted.dropped().collect::<Vec<_>>(), [kind::SSL_CIPHER]);
    assert_eq!(fitted.encode(&mut [0; 2000]), Err(EncodeError::SslTooLong { length: 1108, limit: 1024 }));
    let line = fitted.version(Version::V1).fit(Limits::HAPROXY);
    assert_eq!(encoded(&line).len(), 44, "version 1 sends no SSL");
}

#[test]
fn what_a_header_cannot_carry_is_named() {
    let own = [Tlv { kind: kind::ALPN, value: b"imap" }];
    let health_check = encoded(&Encoder::local());
    let received = encoded(&v4());
    for (encoder, bytes) in [
        (Encoder::local(), health_check.as_slice()),
        (Encoder::again(&decoded(&received)), &received),
        (v4().version(Version::V1), b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n"),
    ] {
        let encoder = encoder.checksum(true).tlvs(&own);
        assert_eq!(encoded(&encoder), bytes);
        assert_eq!(encoder.dropped().collect::<Vec<_>>(), [kind::CRC32C, kind::ALPN]);
        assert_eq!(encoder.tlvs(&[]).checksum(false).dropped().count(), 0);
    }
    assert_eq!(v4().checksum(true).tlvs(&own).dropped().count(), 0);
}

#[test]
fn a_relay_passes_on_what_it_should() {
    let own = [
        Tlv { kind: kind::NETNS, value: b"blue" },
        Tlv { kind: kind::AWS, value: b"\x01vpce-1" },
        Tlv { kind: kind::AZURE, value: b"\x01abcd" },
        Tlv { kind: kind::NOOP, value: b"" },
        Tlv { kind: kind::UNIQUE_ID, value: b"id" },
        Tlv { kind: 0xf0, value: b"" },
    ];
    let inbound = encoded(&v4().checksum(true).tlvs(&own));
    let header = decoded(&inbound);
    let (source, destination) = header.head().ip().expect("addresses");
    let relay = Encoder::relay(&header, source, destination, &[kind::AWS]);
    let bytes = encoded(&relay);
    assert_eq!(kinds(&bytes), [kind::UNIQUE_ID, kind::AWS]);
    assert_eq!(decoded(&bytes).source(), Some(source));
    assert_eq!(kinds(&encoded(&relay.checksum(true))), [kind::CRC32C, kind::UNIQUE_ID, kind::AWS]);
    let id = [Tlv { kind: kind::UNIQUE_ID, value: b"second" }];
    assert_eq!(relay.tlvs(&id).encode(&mut [0; 100]), Err(EncodeError::Refused(Reason::DuplicateTlv)));
}

#[test]
fn a_relay_sends_no_address_where_there_is_none() {
    let (peer, local) = (socket("198.51.100.7:5000"), socket("192.0.2.1:143"));
    let health_check = encoded(&Encoder::local());
    assert_eq!(encoded(&Encoder::relay(&decoded(&health_check), peer, local, &[])), health_check);
    let line = b"PROXY UNKNOWN\r\n";
    let bytes = encoded(&Encoder::relay(&decoded(line), peer, local, &[]));
    assert_eq!(decoded(&bytes).source(), Some(peer), "UNKNOWN goes out as PROXY with the socket's addresses");
}

fn any_bytes(random: &mut Rng, length: usize) -> Vec<u8> {
    (0..length).map(|_| random.u8(..)).collect()
}

fn any_socket(random: &mut Rng) -> SocketAddr {
    let (address, port) = (random.u128(..), random.u16(..));
    let bytes = address.to_ne_bytes();
    match random.bool() {
        true => (*bytes.first_chunk::<4>().expect("16 bytes"), port).into(),
        false => (bytes, port).into(),
    }
}

#[test]
fn random_headers_come_back() {
    const KINDS: [u8; 9] = [0x01, 0x02, 0x04, 0x05, 0x20, 0x30, 0xe0, 0xea, 0xf3];
    let mut random = Rng::with_seed(1);
    let (mut sent, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let (source, destination) = (any_socket(&mut random), any_socket(&mut random));
        let values: Vec<(u8, Vec<u8>)> = (0..random.u8(..6))
            .map(|_| {
                let length = random.usize(..140);
                (
                    KINDS[random.usize(..KINDS.len())],
                    if random.u8(..3) == 0 { vec![0; length] } else { any_bytes(&mut random, length) },
                )
            })
            .collect();
        let own: Vec<Tlv<'_>> = values.iter().map(|(kind, value)| Tlv { kind: *kind, value }).collect();
        let checksum = random.bool();
        let encoder = Encoder::proxy(source, destination).checksum(checksum).tlvs(&own);
        let mut out = [0; 1024];
        match encoder.encode(&mut out) {
            Ok(length) => {
                sent += 1;
                let header = decoded(&out[..length]);
                let mapped = source.is_ipv4() != destination.is_ipv4();
                let as_sent = |socket: SocketAddr| match mapped {
                    true => SocketAddr::new(super::mapped(socket.ip()).into(), socket.port()),
                    false => socket,
                };
                assert_eq!(header.head().ip(), Some((as_sent(source), as_sent(destination))));
                assert_eq!(header.checksum().is_some(), checksum);
                let mut expected = own.clone();
                expected.sort_by_key(|tlv| super::rank_of(tlv.kind));
                let got: Vec<Tlv<'_>> = header.tlvs().skip(usize::from(checksum)).collect();
                assert_eq!(got, expected);
                assert_eq!(encoded(&Encoder::again(&header)), out[..length]);
            }
            Err(EncodeError::Refused(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(sent > 5_000 && refused > 1_000, "{sent} sent, {refused} refused");
}
