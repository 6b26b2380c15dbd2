//! What decodes encodes to the same again, and whatever the encoder makes decodes to what was asked for.
#![no_main]

mod input;
#[path = "../../tests/support/observe.rs"]
mod observe;
#[allow(dead_code)] // only its words are used here
#[path = "../../tests/support/oracle.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use vestibule::proxy::{Command, Decoded, EncodeError, Encoder, Header, Limits, Rules, Tlv, Version, decode, kind};

const RULES: Rules = Rules { header_limit: 65551, v4_in_tcp6: false };
const VENDORS: [u8; 3] = [kind::AWS, kind::AZURE, 0xf3];

fuzz_target!(|data: &[u8]| {
    let Some((_, bytes)) = input::read(data) else { return };
    let Decoded::Complete(header) = decode(&bytes, &RULES) else { return };
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
});

/// Version 2 byte for byte, version 1 in a canonical form that means the same.
fn same_again(header: &Header<'_>) {
    let again = written(&Encoder::again(header)).expect("what was decoded can be encoded");
    match header.version() {
        Version::V2 => assert_eq!(again, header.bytes()),
        Version::V1 => {
            let Decoded::Complete(second) = decode(&again, &RULES) else { panic!("{again:?} does not decode") };
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
    let Decoded::Complete(sent) = decode(&bytes, &RULES) else { panic!("{bytes:?} does not decode") };
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
            let Decoded::Complete(sent) = decode(&bytes, &RULES) else { panic!("{bytes:?} does not decode") };
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
