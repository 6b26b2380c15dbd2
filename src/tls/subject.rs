//! The common name in a certificate. Verification has read the whole of it before; here only the way to the name is
//! walked, in DER (ITU-T X.690), and whatever is not as it should be ends the walk.

/// `2.5.4.3`, id-at-commonName.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 6;
/// The version, `[0]`, which certificates of version 1 lack.
const VERSION: u8 = 0xA0;
const UTF8: u8 = 12;
const PRINTABLE: u8 = 19;
const TELETEX: u8 = 20;
const IA5: u8 = 22;

/// The last common name of the subject, which is the most specific one; `None` without one, or in an encoding that is
/// not of bytes.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let mut fields = Der(Der(Der(certificate).expect(SEQUENCE)?).expect(SEQUENCE)?);
    let (first, _) = fields.next()?;
    let before = if first == VERSION { 5 } else { 4 }; // serial number, algorithm, issuer, validity
    let (_, subject) = fields.nth(before - 1)?;
    Der(subject).filter(|(tag, _)| *tag == SET).flat_map(|(_, set)| Der(set)).filter_map(attribute).last()
}

/// One attribute of a name, if it is a common name.
fn attribute((tag, content): (u8, &[u8])) -> Option<String> {
    let mut fields = Der(content);
    let (kind, identifier) = fields.next().filter(|_| tag == SEQUENCE)?;
    let (encoding, value) = fields.next().filter(|_| (kind, identifier) == (OBJECT_IDENTIFIER, COMMON_NAME))?;
    match encoding {
        UTF8 | PRINTABLE | TELETEX | IA5 => Some(String::from_utf8_lossy(value).into_owned()),
        _ => None,
    }
}

/// Values one behind the other: tag and content.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn expect(mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, length], mut rest) = self.0.split_first_chunk()?;
        let mut size = usize::from(length);
        if length >= 0x80 {
            let (bytes, behind) = rest.split_at_checked(size & 0x7F).filter(|(bytes, _)| bytes.len() <= 4)?;
            size = bytes.iter().fold(0, |size, &byte| size << 8 | usize::from(byte));
            rest = behind;
        }
        let (content, behind) = rest.split_at_checked(size)?;
        self.0 = behind;
        Some((tag, content))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["mail.example".into()]).expect("a name");
        params.distinguished_name = DistinguishedName::new();
        names.iter().for_each(|(kind, name)| params.distinguished_name.push(kind.clone(), *name));
        let key = KeyPair::generate().expect("randomness");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn the_common_name_of_the_subject() {
        let organisation = (DnType::OrganizationName, "Example");
        for (names, expected) in [
            (&[(DnType::CommonName, "joe")][..], Some("joe")),
            (
                &[organisation.clone(), (DnType::CommonName, "J\u{f6}rg <j@example.com>")],
                Some("J\u{f6}rg <j@example.com>"),
            ),
            (&[organisation], None),
            (&[], None),
        ] {
            assert_eq!(common_name(&certificate(names)).as_deref(), expected);
        }
        let long = "n".repeat(300);
        assert_eq!(common_name(&certificate(&[(DnType::CommonName, &long)])), Some(long));
    }

    #[test]
    fn no_bytes_are_read_that_are_not_there() {
        let whole = certificate(&[(DnType::CommonName, "joe")]);
        for length in 0..whole.len() {
            common_name(&whole[..length]);
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut changed = whole.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..changed.len());
                changed[at] = random.u8(..);
            }
            common_name(&changed);
        }
    }
}
