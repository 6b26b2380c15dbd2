//! What the fuzzer checks, and the inputs it has kept: the smallest set that reaches every branch it has ever reached. Each
//! of them goes through all three checks here; `cargo +nightly fuzz run -O decode` (or `splits`, `encode`) looks for more.
//!
//! The first byte of an input holds options, the others are what a peer sends.

use vestibule::proxy::{Command, Decoded, EncodeError, Encoder, Header, Limits, Tlv, Version, kind};
use vestibule::proxy::{Rules as ProxyRules, decode as proxy_decode};

use crate::support::oracle::{self, Rules, Verdict};
use crate::support::{mend, observe};

/// The decoder and the naive oracle say the same to any bytes.
pub fn decode(data: &[u8]) {
    let Some((rules, bytes)) = read(data) else { return };
    assert_eq!(observe::decode(&bytes, rules), oracle::decode(&bytes, rules));
}

/// The verdict is a function of the stream: every prefix before the deciding byte is incomplete and asks for more than
/// it has, every one from it on is judged like the whole.
pub fn splits(data: &[u8]) {
    let Some((rules, bytes)) = read(data) else { return };
    let whole = observe::decode(&bytes, rules);
    let decided = match whole {
        Verdict::Complete { length: at, .. } | Verdict::Absent { at } | Verdict::Invalid { at, .. } => at,
        Verdict::Incomplete { .. } => usize::MAX,
    };
    for split in 0..bytes.len() {
        let part = observe::decode(&bytes[..split], rules);
        match part {
            Verdict::Incomplete { need } => assert!(split < decided && need > split, "at {split}: {part:?}, {whole:?}"),
            _ => assert!(split >= decided && part == whole, "at {split}: {part:?}, {whole:?}"),
        }
    }
}

/// What decodes encodes to the same again, and whatever the encoder makes decodes to what was asked for.
pub fn encode(data: &[u8]) {
    let Some((_, bytes)) = read(data) else { return };
    let Decoded::Complete(header) = proxy_decode(&bytes, &RULES) else { return };
    same_again(&header);
    if let Some((source, destination)) = header.head().ip() {
        for limits in
            [Limits::NONE, Limits::UNKNOWN, Limits::EXIM, Limits::HAPROXY, Limits { total: 40, ..Limits::NONE }]
        {
            relayed(
                &header,
                Encoder::relay(&header, source, destination, &VENDORS).checksum(data[0] & 32 != 0).fit(limits),
                limits,
            );
        }
        let tlvs: Vec<Tlv<'_>> = header.tlvs().collect();
        own_tlvs(&header, Encoder::proxy(source, destination).tlvs(&tlvs), &tlvs);
    }
}

const RULES: ProxyRules = ProxyRules { header_limit: 65551, v4_in_tcp6: false, v6_in_tcp4: false };
const VENDORS: [u8; 3] = [kind::AWS, kind::AZURE, 0xf3];

/// Bits 0 and 1: the header limit; 2: IPv4 text under TCP6; 7: IPv6 text under TCP4; 3 and 4: the true length and the true checksum are put in,
/// so that the fuzzer does not have to find them; 6: a payload follows, long enough for every way to read ahead. Bit 5 is
/// the target's own.
fn read(data: &[u8]) -> Option<(Rules, Vec<u8>)> {
    let (&options, bytes) = data.split_first()?;
    let rules = Rules {
        header_limit: [4096, 232, 1500, 65551][usize::from(options & 3)],
        v4_in_tcp6: options & 4 != 0,
        v6_in_tcp4: options & 128 != 0,
    };
    let mut bytes = bytes.to_vec();
    if options & 8 != 0 {
        mend::length(&mut bytes);
    }
    if options & 16 != 0 {
        mend::checksum(&mut bytes);
    }
    if options & 64 != 0 {
        bytes.extend(b"a NOOP\r\n".repeat(20));
    }
    Some((rules, bytes))
}

/// Version 2 byte for byte, version 1 in a canonical form that means the same.
fn same_again(header: &Header<'_>) {
    let again = written(&Encoder::again(header)).expect("what was decoded can be encoded");
    match header.version() {
        Version::V2 => assert_eq!(again, header.bytes()),
        Version::V1 => {
            let Decoded::Complete(second) = proxy_decode(&again, &RULES) else { panic!("{again:?} does not decode") };
            assert_eq!(observe::fields(&second), observe::fields(header));
            assert_eq!(written(&Encoder::again(&second)), Ok(again.clone()), "not canonical");
        }
    }
}

/// A relayed header keeps within the receiver's limits, and keeps addresses and, of its TLVs, only what may go on.
fn relayed(header: &Header<'_>, encoder: Encoder<'_>, limits: Limits) {
    let bytes = match written(&encoder) {
        Ok(bytes) => bytes,
        Err(EncodeError::TooLong { length, limit } | EncodeError::SslTooLong { length, limit }) => {
            return assert!(length > limit);
        }
        Err(error) => panic!("{error:?} for {header:?}"),
    };
    assert!(bytes.len() <= limits.total);
    let Decoded::Complete(sent) = proxy_decode(&bytes, &RULES) else { panic!("{bytes:?} does not decode") };
    assert_eq!(sent.head().ip(), header.head().ip());
    assert_eq!(sent.command(), Command::Proxy);
    for tlv in sent.tlvs() {
        assert!(tlv.kind == kind::CRC32C || tlv.value.len() <= limits.value);
        match tlv.kind {
            kind::CRC32C => {}
            kind::UNIQUE_ID | kind::AUTHORITY | kind::ALPN => assert!(header.tlvs().any(|received| received == tlv)),
            kind::SSL => assert!(
                header.ssl().is_some_and(|ssl| tlv.value[..5] == header.tlv(kind::SSL).expect("an SSL TLV")[..5]
                    && ssl.tlvs().count() >= sent.ssl().expect("an SSL TLV").tlvs().count())
            ),
            other => assert!(VENDORS.contains(&other) && header.tlvs().any(|received| received == tlv)),
        }
    }
}

/// TLVs that came in a header can be given as our own, all but the checksum.
fn own_tlvs(header: &Header<'_>, encoder: Encoder<'_>, tlvs: &[Tlv<'_>]) {
    let has_checksum = tlvs.iter().any(|tlv| tlv.kind == kind::CRC32C);
    match written(&encoder) {
        Ok(bytes) => {
            let Decoded::Complete(sent) = proxy_decode(&bytes, &RULES) else { panic!("{bytes:?} does not decode") };
            assert!(!has_checksum);
            assert_eq!(sent.head().ip(), header.head().ip());
            let sorted = |tlvs: &mut dyn Iterator<Item = Tlv<'_>>| {
                let mut list: Vec<(u8, Vec<u8>)> = tlvs.map(|tlv| (tlv.kind, tlv.value.to_vec())).collect();
                list.sort();
                list
            };
            assert_eq!(sorted(&mut sent.tlvs()), sorted(&mut tlvs.iter().copied()));
        }
        Err(error) => assert!(has_checksum, "{error:?}"),
    }
}

fn written(encoder: &Encoder<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut buffer = vec![0xaa; encoder.encoded_len() + 8];
    let length = encoder.encode(&mut buffer)?;
    assert_eq!(length, encoder.encoded_len());
    assert!(buffer[length..].iter().all(|&byte| byte == 0xaa), "wrote behind its end");
    buffer.truncate(length);
    let mut exact = vec![0; length];
    assert_eq!(encoder.encode(&mut exact), Ok(length));
    assert_eq!(exact, buffer);
    if length > 0 {
        assert_eq!(encoder.encode(&mut exact[1..]), Err(EncodeError::BufferTooSmall { needed: length }));
    }
    Ok(buffer)
}

#[test]
fn every_input_that_the_fuzzer_has_kept_passes_every_check() {
    let corpus = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("fuzz/corpus");
    let inputs = std::fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut replayed = 0;
    for input in inputs {
        let path = input.expect("a directory can be read").path();
        let data = std::fs::read(&path).expect("a file of the repository");
        for (check, run) in [("decode", decode as fn(&[u8])), ("splits", splits), ("encode", encode)] {
            let held = std::panic::catch_unwind(|| run(&data)).is_ok();
            assert!(held, "{} does not pass `{check}`; the assertion stands above", path.display());
        }
        replayed += 1;
    }
    assert!(replayed > 300, "only {replayed} inputs in {}", corpus.display());
}
