//! Golden headers and refusals, each at every split.

use core::net::SocketAddr;

use super::*;

/// What a whole input leads to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Complete(usize),
    Absent(usize),
    Invalid(Reason, usize),
}

/// Checks that every prefix before the deciding byte is incomplete and that every longer one repeats the verdict, also
/// with other bytes behind.
fn at_every_split(input: &[u8], rules: &Rules, expected: &Verdict) {
    let decided = match *expected {
        Verdict::Complete(at) | Verdict::Absent(at) | Verdict::Invalid(_, at) => at,
    };
    let longer = [input, b"PROXY \r\n\r\n\0\r\nQUIT\n\x21\x11 0 1:a.\r\n"].concat();
    for n in 0..=longer.len() {
        let got = match decode(&longer[..n], rules) {
            Decoded::Complete(header) => {
                assert_eq!(header.bytes(), &longer[..header.len()]);
                assert_eq!(header.head().over(&longer), Some(header));
                Verdict::Complete(header.len())
            }
            Decoded::Absent { at } => Verdict::Absent(at),
            Decoded::Invalid { reason, at } => Verdict::Invalid(reason, at),
            Decoded::Incomplete { need } => {
                assert!(n < decided, "{n} bytes of {} are enough", input.escape_ascii());
                assert!(n < need && need <= decided.max(need.min(V2_FIXED)), "need {need} at {n}");
                continue;
            }
        };
        assert!(n >= decided, "{n} bytes of {} cannot decide {got:?}", input.escape_ascii());
        assert_eq!(&got, expected, "{n} bytes of {}", input.escape_ascii());
    }
}

fn refused(input: &[u8], reason: Reason, at: usize) {
    at_every_split(input, &Rules::default(), &Verdict::Invalid(reason, at));
}

fn absent(input: &[u8], at: usize) {
    at_every_split(input, &Rules::default(), &Verdict::Absent(at));
}

/// A complete header; its length is that of the input.
fn complete(input: &[u8]) -> Header<'_> {
    at_every_split(input, &Rules::default(), &Verdict::Complete(input.len()));
    whole(input, &Rules::default())
}

fn whole<'a>(input: &'a [u8], rules: &Rules) -> Header<'a> {
    match decode(input, rules) {
        Decoded::Complete(header) => header,
        other => panic!("{} is {other:?}", input.escape_ascii()),
    }
}

/// The signature and then these bytes, in hexadecimal.
fn v2(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let bytes = digits.chunks(2).map(|pair| {
        let text = str::from_utf8(pair).expect("hexadecimal digits");
        u8::from_str_radix(text, 16).expect("hexadecimal digits")
    });
    V2_SIGNATURE.iter().copied().chain(bytes).collect()
}

/// PROXY, the family and transport, the length, then what follows.
fn v2_body(fam: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = v2("21");
    bytes.push(fam);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// 10.0.0.1:4660 to 10.0.0.2:25, then TLVs.
fn v2_inet(tlvs: &[u8]) -> Vec<u8> {
    v2_body(0x11, &[&[10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0, 25], tlvs].concat())
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

fn conveys(header: &Header<'_>, source: &str, destination: &str) {
    assert_eq!(header.addresses(), Addresses::Ip { source: socket(source), destination: socket(destination) });
    assert_eq!(header.source(), Some(socket(source)));
    assert_eq!(header.destination(), Some(socket(destination)));
    assert_eq!(header.head().ip(), Some((socket(source), socket(destination))));
}

/// An AWS health check: LOCAL, INET, no addresses.
fn aws_health_check(checksum: &str) -> Vec<u8> {
    v2(&format!("20110054 030004{checksum} 04004a {}", "00".repeat(74)))
}

#[test]
fn v1_aws_health_check_is_local_and_has_no_addresses() {
    let bytes = aws_health_check("bce5951f");
    let header = complete(&bytes);
    assert_eq!((header.len(), header.command()), (100, Command::Local));
    assert_eq!((header.family(), header.transport()), (Family::Unspec, Transport::Unspec));
    assert_eq!(header.addresses(), Addresses::None);
    assert_eq!(header.tlvs().count(), 0);
    refused(&aws_health_check("bce59520"), Reason::BadChecksum, 100);
}

#[test]
fn v2_aws_with_vpc_endpoint() {
    let bytes = v2(&format!(
        "21110054 ac1f0771 ac1f0a1f c8f20050 030004e8d6892d
         ea001701767063652d3038643262663135666163353030316339 040024 {}",
        "00".repeat(36)
    ));
    let header = complete(&bytes);
    conveys(&header, "172.31.7.113:51442", "172.31.10.31:80");
    assert_eq!(header.aws_vpc_endpoint_id(), Some("vpce-08d2bf15fac5001c9"));
    assert_eq!(header.checksum(), Some(0xe8d6_892d));
    assert_eq!(header.tlvs().map(|tlv| tlv.kind).collect::<Vec<_>>(), [kind::CRC32C, kind::AWS, kind::NOOP]);
}

#[test]
fn v3_haproxy_with_crc32c_and_unique_id() {
    let bytes = v2("21110028 7f0000017f000001d93846b7 03000467e87bfa 05001237463030303030313a443933385f30303032");
    let header = complete(&bytes);
    conveys(&header, "127.0.0.1:55608", "127.0.0.1:18103");
    assert_eq!((header.len(), header.unique_id()), (56, Some(&b"7F000001:D938_0002"[..])));
}

#[test]
fn v4_swaks() {
    let bytes = v2("2111000c cb007109c0000201a0280019");
    let header = complete(&bytes);
    conveys(&header, "203.0.113.9:41000", "192.0.2.1:25");
    assert_eq!((header.version(), header.family(), header.transport()), (Version::V2, Family::Inet, Transport::Stream));
    assert_eq!(header.checksum(), None);
}

#[test]
fn v5_ssl_tlv_without_tls() {
    let bytes = v2("21110014 7f0000017f000001c2b046b8 2000050000000000");
    let ssl = complete(&bytes).ssl().expect("an SSL TLV");
    assert!(!ssl.tls() && !ssl.certificate_verified());
    assert_eq!((ssl.verify(), ssl.version()), (0, None));
}

#[test]
fn v6_haproxy_health_check() {
    let bytes = v2("20000000");
    let header = complete(&bytes);
    assert_eq!((header.len(), header.command(), header.source()), (16, Command::Local, None));
}

#[test]
fn v7_curl() {
    let header = complete(b"PROXY TCP4 127.0.0.1 127.0.0.1 43206 18001\r\n");
    conveys(&header, "127.0.0.1:43206", "127.0.0.1:18001");
    assert_eq!((header.version(), header.family(), header.command()), (Version::V1, Family::Inet, Command::Proxy));
}

#[test]
fn v8_nginx_with_residual() {
    let bytes = b"PROXY TCP4 203.0.113.5 127.0.0.1 4000 18108\r\na NOOP\r\n";
    at_every_split(bytes, &Rules::default(), &Verdict::Complete(45));
    conveys(&whole(bytes, &Rules::default()), "203.0.113.5:4000", "127.0.0.1:18108");
}

#[test]
fn v9_inet6_with_checksum() {
    let bytes =
        v2("2121002b 20010db8000000000000000000000007 20010db8000100000000000000000001 9c4003e1 0300049615ef46");
    let header = complete(&bytes);
    conveys(&header, "[2001:db8::7]:40000", "[2001:db8:1::1]:993");
    assert_eq!((header.len(), header.checksum()), (59, Some(0x9615_ef46)));
}

#[test]
fn v10_local_with_checksum() {
    let bytes = v2("20000007 030004a9b87e8f");
    assert_eq!(complete(&bytes).checksum(), None, "verified, not exposed");
    refused(&v2("20000007 030004a9b87e90"), Reason::BadChecksum, 23);
}

#[test]
fn v11_verified_common_name() {
    let bytes =
        v2("2111002d cb007109c0000201a02803e1 20001707000000002100 07544c5376312e33220005616c696365 030004f53bbfeb");
    let ssl = complete(&bytes).ssl().expect("an SSL TLV");
    assert!(ssl.tls() && ssl.certificate_presented() && ssl.certificate_verified());
    assert_eq!((ssl.version(), ssl.verified_common_name()), (Some("TLSv1.3"), Some("alice")));
}

#[test]
fn v12_mapped_source_is_kept_as_sent() {
    let bytes = v2("21210024 00000000000000000000ffffcb007109 20010db8000100000000000000000001 a02803e1");
    conveys(&complete(&bytes), "[::ffff:203.0.113.9]:41000", "[2001:db8:1::1]:993");
}

#[test]
fn absent_at_the_first_byte_that_tells() {
    absent(b"EHLO a", 1);
    absent(b"\0", 1);
    absent(b"PROXYxTCP4", 6);
    absent(b"PREX", 3);
    absent(b"\r\nE", 3);
    absent(b"\r\n\r\n\0\r\nQUIT\r", 12);
}

// spec 2.2 MUST "only accept this value"
// spec 2.2 MUST "drop connections presenting unexpected values"
// spec 2.2 MUST "other families rejected as invalid"
// spec 2.2 MUST "other transports rejected as invalid"
#[test]
fn v2_fixed_part() {
    refused(&v2("31"), Reason::BadVersion, 13);
    refused(&v2("32"), Reason::BadVersion, 13);
    refused(&v2("22"), Reason::BadCommand, 13);
    refused(&v2("2f"), Reason::BadCommand, 13);
    for fam in 0..=0xff {
        let reason = match fam {
            0x00 | 0x11 | 0x12 | 0x21 | 0x22 | 0x31 | 0x32 => continue,
            0x01 | 0x02 | 0x40.. => Reason::BadFamily,
            _ => Reason::BadTransport,
        };
        refused(&v2(&format!("21{fam:02x}")), reason, 14);
        assert_eq!(complete(&v2(&format!("20{fam:02x}0000"))).command(), Command::Local);
    }
    refused(&v2("211110"), Reason::HeaderTooLong, 15);
    refused(&v2("21110ff1"), Reason::HeaderTooLong, 16);
    refused(&v2("20000ff1"), Reason::HeaderTooLong, 16);
    refused(&v2("21110008"), Reason::AddressTruncated, 16);
    refused(&v2("21210023"), Reason::AddressTruncated, 16);
    refused(&v2("213100d7"), Reason::AddressTruncated, 16);
}

#[test]
fn v2_limit_is_inclusive() {
    let noop = |length: usize| [&[kind::NOOP][..], &(length as u16).to_be_bytes(), &vec![0; length]].concat();
    let bytes = v2_inet(&noop(4096 - 28 - 3));
    assert_eq!(complete(&bytes).len(), 4096);
    let bytes = v2_inet(&noop(V2_LENGTH_MAX - 28 - 3));
    let rules = Rules { header_limit: V2_LENGTH_MAX as u32, ..Rules::default() };
    assert_eq!(whole(&bytes, &rules).len(), V2_LENGTH_MAX);
    at_every_split(
        &bytes[..20],
        &Rules { header_limit: 255 + 16, ..rules },
        &Verdict::Invalid(Reason::HeaderTooLong, 15),
    );
}

#[test]
fn v2_tlvs_are_judged_at_the_last_byte_in_wire_order() {
    let refused = |tlvs: &[u8], reason| refused(&v2_inet(tlvs), reason, 28 + tlvs.len());
    refused(b"\x02\x00\x32\x01", Reason::TlvTruncated);
    refused(b"\x04", Reason::TlvTruncated);
    refused(b"\x04\x00", Reason::TlvTruncated);
    refused(b"\x03\x00\x02\0\0", Reason::BadTlv);
    refused(&[&b"\x05\x00\x81"[..], &[b'x'; 129]].concat(), Reason::BadTlv);
    refused(b"\x20\x00\x04\0\0\0\0", Reason::BadTlv);
    refused(b"\x20\x00\x06\0\0\0\0\0\x21", Reason::TlvTruncated);
    refused(b"\x20\x00\x08\0\0\0\0\0\x21\0\x01", Reason::TlvTruncated);
    refused(b"\x20\x00\x0d\0\0\0\0\0\x21\0\x01a\x21\0\x01b", Reason::DuplicateTlv);
    refused(b"\x02\0\x01a\x02\0\x01b", Reason::DuplicateTlv);
    refused(b"\x05\0\0\x05\0\0", Reason::DuplicateTlv);
    refused(b"\x20\x00\x05\0\0\0\0\0\x20\x00\x00", Reason::DuplicateTlv);
    refused(b"\x03\0\x04\x01\x02\x03\x04", Reason::BadChecksum);
    refused(b"\x03\0\x04\x01\x02\x03\x04\x04", Reason::TlvTruncated);
    refused(b"\x03\0\x04\x01\x02\x03\x04\x03\0\0", Reason::DuplicateTlv);
}

#[test]
fn v2_repeats_what_may_repeat() {
    let tlvs = b"\x04\0\0\x04\0\x01x\x01\0\x04imap\x01\0\x01h\x42\0\0\x42\0\0\x20\x00\x0b\0\0\0\0\0\x20\0\0\x20\0\0";
    assert_eq!(complete(&v2_inet(tlvs)).tlvs().count(), 7);
    let bytes = v2_inet(tlvs);
    let header = whole(&bytes, &Rules::default());
    assert_eq!(header.alpn(), Some(&b"imap"[..]), "the first counts");
    assert_eq!(header.ssl().expect("an SSL TLV").tlvs().count(), 2);
}

// spec 2.2 SHOULD "family UNSPEC: ignore address information"
#[test]
fn v2_unspec_exposes_only_what_is_a_chain() {
    let bytes = v2_body(0, b"\x04\0\x01x");
    assert_eq!(complete(&bytes).tlvs().count(), 1);
    let bytes = v2_body(0, b"\x04\0\x02x");
    let header = complete(&bytes);
    assert_eq!((header.tlvs().count(), header.family(), header.addresses()), (0, Family::Unspec, Addresses::None));
    refused(&v2_body(0, b"\x02\0\0\x02\0\0"), Reason::DuplicateTlv, 22);
    refused(&v2_body(0, b"\x03\0\x04aaaa"), Reason::BadChecksum, 23);
}

#[test]
fn v2_unix() {
    let mut body = [0; 216];
    body[..4].copy_from_slice(b"/a b");
    body[109..112].copy_from_slice(b"abs");
    let bytes = v2_body(0x31, &[&body[..], b"\x01\0\x01h"].concat());
    let header = complete(&bytes);
    assert_eq!(header.addresses(), Addresses::Unix { source: b"/a b", destination: b"\0abs" });
    assert_eq!((header.family(), header.source(), header.alpn()), (Family::Unix, None, Some(&b"h"[..])));
}

#[test]
fn v2_datagram() {
    let bytes = v2("2112000c cb007109c0000201a0280019");
    assert_eq!(complete(&bytes).transport(), Transport::Dgram);
}

#[test]
fn local_looks_for_a_checksum_at_two_places() {
    // Behind the block of 12 bytes, whatever it holds.
    let mut bytes = v2("20110013 ffffffff ffffffff ffffffff 030004 00000000");
    let crc = crc32c::crc32c(&bytes);
    bytes[31..].copy_from_slice(&crc.to_be_bytes());
    complete(&bytes);
    bytes[20] ^= 1;
    refused(&bytes, Reason::BadChecksum, 35);
    // Neither an exact chain nor just one checksum: no candidate, so nothing is judged.
    complete(&v2("20000008 030004a9b87e8f 00"));
    complete(&v2("2000000e 030004a9b87e8f 030004a9b87e8f"));
    complete(&v2("20000006 030003a9b87e"));
    // An undefined family has no block to look behind; a defined one may not fit.
    refused(&v2("2041000c 030004a9b87e8f 0400020000"), Reason::BadChecksum, 28);
    refused(&v2("20310007 030004a9b87e8f"), Reason::BadChecksum, 23);
}

#[test]
fn v1_keywords() {
    refused(b"PROXY tcp4 ", Reason::BadFamily, 7);
    refused(b"PROXY  TCP4", Reason::BadSpacing, 7);
    refused(b"PROXY \r\n", Reason::BadFamily, 7);
    refused(b"PROXY TCP5", Reason::BadFamily, 10);
    refused(b"PROXY UNKNOWNx", Reason::BadFamily, 14);
    refused(b"PROXY TCP45", Reason::BadFamily, 11);
    refused(b"PROXY TCP4\r\n", Reason::BadSpacing, 11);
    refused(b"PROXY TCP4\n", Reason::BadLineEnding, 11);
    refused(b"PROXY UNKNOWN\n", Reason::BadLineEnding, 14);
}

// spec 2.1 MUST "ignore anything presented before the CRLF"
#[test]
fn v1_unknown_ignores_the_rest_of_the_line() {
    for rest in ["", " ", " ffff::1 ffff::2 65535 65535", "   x  ", &format!(" {}", "x".repeat(91))] {
        let line = format!("PROXY UNKNOWN{rest}\r\n");
        let header = complete(line.as_bytes());
        assert_eq!((header.command(), header.family(), header.source()), (Command::Proxy, Family::Unspec, None));
    }
    refused(format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).as_bytes(), Reason::LineTooLong, 107);
    refused(format!("PROXY UNKNOWN {}\n", "x".repeat(92)).as_bytes(), Reason::BadLineEnding, 107);
    refused(format!("PROXY UNKNOWN {}\r\r", "x".repeat(91)).as_bytes(), Reason::BadLineEnding, 107);
    refused(format!("PROXY UNKNOWN {}", "x".repeat(93)).as_bytes(), Reason::LineTooLong, 107);
    refused(b"PROXY UNKNOWN a\rb\r\n", Reason::BadLineEnding, 17);
}

// spec 2.1 MUST NOT "tolerate a single CR or LF"
// spec 2.1 SHOULD "declare the line invalid"
#[test]
fn v1_lines_end_in_time() {
    let longest = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    assert_eq!(complete(longest).len(), 56);
    refused(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 655355\r\n", Reason::LineTooLong, 56);
    refused(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\rx", Reason::BadLineEnding, 56);
    refused(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 655355x", Reason::BadPort, 56);
    let group = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert_eq!(complete(format!("PROXY TCP6 {group} {group} 65535 65535\r\n").as_bytes()).len(), 104);
    refused(format!("PROXY TCP6 {group}0 {group} 65535 65535\r\n").as_bytes(), Reason::LineTooLong, 104);
    refused(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", Reason::BadLineEnding, 31);
    refused(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n", Reason::BadLineEnding, 32);
}

#[test]
fn v1_spacing() {
    refused(b"PROXY TCP4  1", Reason::BadSpacing, 12);
    refused(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 x", Reason::BadSpacing, 31);
    refused(b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n", Reason::BadSpacing, 20);
    refused(b"PROXY TCP4 \r\n", Reason::BadSpacing, 13);
    refused(b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", Reason::BadSpacing, 30);
    refused(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n", Reason::BadSpacing, 31);
    refused(b"PROXY TCP4 z", Reason::BadAddress, 12);
}

#[test]
fn v1_fields_are_judged_from_left_to_right() {
    let at_end = |line: &[u8], reason| refused(line, reason, line.len());
    at_end(b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n", Reason::BadAddress);
    at_end(b"PROXY TCP4 256.2.3.4 5.6.7.8 1 2\r\n", Reason::BadAddress);
    at_end(b"PROXY TCP4 1.2.3 5.6.7.8 a 2\r\n", Reason::BadAddress);
    at_end(b"PROXY TCP4 1.2.3.4 5.6.7.8 0080 2\r\n", Reason::BadPort);
    at_end(b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n", Reason::BadPort);
    at_end(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 a\r\n", Reason::BadPort);
    at_end(b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", Reason::FamilyMismatch);
    at_end(b"PROXY TCP4 ::1 5.6.7.8 1 2\r\n", Reason::FamilyMismatch);
    at_end(b"PROXY TCP4 1.2.3.4 ::1 1 a\r\n", Reason::FamilyMismatch);
    at_end(b"PROXY TCP6 1::2::3 ::1 1 2\r\n", Reason::BadAddress);
    at_end(b"PROXY TCP6 1:2:3:4:5:6:7::8 ::1 1 2\r\n", Reason::BadAddress);
    refused(b"PROXY TCP4 1.2.3.4 5.6.7.8 +", Reason::BadPort, 28);
    refused(b"PROXY TCP6 fe80::1%", Reason::BadAddress, 19);
}

// spec 2.1 MUST "exactly 4 integers"
// spec 2.1 MUST "sets of 4 hexadecimal digits"
// spec 2.1 MUST NOT "heading zeroes in the source port"
// spec 2.1 MUST NOT "heading zeroes in the destination port"
#[test]
fn v1_ports_and_addresses_at_their_ends() {
    let header = complete(b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n");
    conveys(&header, "0.0.0.0:0", "255.255.255.255:65535");
    let header = complete(b"PROXY TCP6 :: 1:2:3:4:5:6:7:: 0 1\r\n");
    conveys(&header, "[::]:0", "[1:2:3:4:5:6:7:0]:1");
    let header = complete(b"PROXY TCP6 ::FFFF:203.0.113.9 2001:DB8::a 41000 993\r\n");
    conveys(&header, "[::ffff:203.0.113.9]:41000", "[2001:db8::a]:993");
}

#[test]
fn v1_v4_text_under_tcp6_where_allowed() {
    let rules = Rules { v4_in_tcp6: true, ..Rules::default() };
    let line = b"PROXY TCP6 203.0.113.9 2001:db8::1 1 2\r\n";
    at_every_split(line, &rules, &Verdict::Complete(line.len()));
    conveys(&whole(line, &rules), "[::ffff:203.0.113.9]:1", "[2001:db8::1]:2");
    let other_way = b"PROXY TCP4 ::1 5.6.7.8 1 2\r\n";
    at_every_split(other_way, &rules, &Verdict::Invalid(Reason::FamilyMismatch, other_way.len()));
}

#[test]
fn v1_v6_text_under_tcp4_where_allowed() {
    let rules = Rules { v6_in_tcp4: true, ..Rules::default() };
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    for (addresses, source, destination) in [
        ("203.0.113.9 2001:db8::1", "[::ffff:203.0.113.9]:65535".to_string(), "[2001:db8::1]:65534".to_string()),
        ("2001:db8::1 203.0.113.9", "[2001:db8::1]:65535".into(), "[::ffff:203.0.113.9]:65534".into()),
        ("203.0.113.9 ::ffff:192.0.2.1", "[::ffff:203.0.113.9]:65535".into(), "[::ffff:192.0.2.1]:65534".into()),
        (&format!("{longest} {longest}"), format!("[{longest}]:65535"), format!("[{longest}]:65534")),
        ("203.0.113.9 192.0.2.1", "203.0.113.9:65535".into(), "192.0.2.1:65534".into()),
    ] {
        let line = format!("PROXY TCP4 {addresses} 65535 65534\r\n");
        at_every_split(line.as_bytes(), &rules, &Verdict::Complete(line.len()));
        conveys(&whole(line.as_bytes(), &rules), &source, &destination);
    }
    let too_long = format!("PROXY TCP4 {longest} {longest} 65535 655350\r\n");
    at_every_split(too_long.as_bytes(), &rules, &Verdict::Invalid(Reason::LineTooLong, 104));
    let other_way = b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n";
    at_every_split(other_way, &rules, &Verdict::Invalid(Reason::FamilyMismatch, other_way.len()));
}

#[test]
fn vendors() {
    let with = |tlvs: &[u8]| -> (Vec<u8>, Rules) { (v2_inet(tlvs), Rules::default()) };
    let (bytes, rules) =
        with(b"\xee\0\x05\x01\x0d\0\0\x01\xe0\0\x08\0\0\0\0\0\0\x01\x02\xe1\0\x05\x01vpc1\xe1\0\x03\x02ep");
    let header = whole(&bytes, &rules);
    assert_eq!(header.azure_link_id(), Some(0x0100_000d));
    assert_eq!(header.gcp_psc_connection_id(), Some(0x0102));
    assert_eq!((header.alibaba_vpc_id(), header.alibaba_endpoint_id()), (Some("vpc1"), Some("ep")));
    assert_eq!((header.alibaba_endpoint_service_id(), header.aws_vpc_endpoint_id()), (None, None));
    let (bytes, rules) = with(b"\xee\0\x04\x01\x0d\0\0\xe0\0\x01\0\xea\0\x03\x01a_\xe1\0\x01\x01");
    let header = whole(&bytes, &rules);
    assert_eq!((header.azure_link_id(), header.gcp_psc_connection_id()), (None, None));
    assert_eq!((header.aws_vpc_endpoint_id(), header.alibaba_vpc_id()), (None, None));
}

#[test]
fn common_name_only_where_verified() {
    let name = |client: u8, verify: u8| {
        let bytes = v2_inet(&[0x20, 0, 9, client, 0, 0, 0, verify, 0x22, 0, 1, b'a']);
        let ssl = whole(&bytes, &Rules::default()).ssl().expect("an SSL TLV");
        assert_eq!(ssl.tlv(kind::SSL_CN), Some(&b"a"[..]));
        ssl.verified_common_name().map(String::from)
    };
    for client in 0..=7 {
        assert_eq!(name(client, 0).is_some(), [3, 5, 7].contains(&client), "{client}");
        assert_eq!(name(client, 1), None);
    }
}

#[test]
fn authority_is_a_dns_name_or_nothing() {
    let bytes = v2_inet(b"\x02\0\x03a b");
    let header = whole(&bytes, &Rules::default());
    assert_eq!((header.authority(), header.authority_raw()), (None, Some(&b"a b"[..])));
    let bytes = v2_inet(b"\x02\0\x0cmail.example\x30\0\x02ns");
    let header = whole(&bytes, &Rules::default());
    assert_eq!((header.authority(), header.netns()), (Some("mail.example"), Some(&b"ns"[..])));
}

#[test]
fn a_second_header_is_recognised_whole_or_not_at_all() {
    assert!(starts_like_header(b"PROXY ") && starts_like_header(V2_SIGNATURE) && starts_like_header(b"PROXY x"));
    assert!(!starts_like_header(b"PROXY") && !starts_like_header(&V2_SIGNATURE[..11]) && !starts_like_header(b""));
}

#[test]
fn heads_are_small() {
    assert!(size_of::<Head>() <= 48);
    assert!(size_of::<Decoded<'_>>() <= 64);
}
