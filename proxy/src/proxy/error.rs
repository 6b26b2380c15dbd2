//! Why bytes are not an acceptable header.

use core::fmt;

/// A broken rule of the grammar. [`Reason::code`] is the stable name used in logs, counters and JSON.
///
/// Bytes that are no header at all break no rule: they are [`Decoded::Absent`](super::Decoded::Absent).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Version 2 signature, version nibble not 2.
    BadVersion,
    /// Version 2: the command is neither LOCAL nor PROXY.
    BadCommand,
    /// Version 1 keyword or version 2 address family undefined.
    BadFamily,
    /// Version 2: the transport is undefined for a defined family.
    BadTransport,
    /// Version 2: the header is longer than [`Rules::header_limit`](super::Rules::header_limit).
    HeaderTooLong,
    /// Version 2: the length is shorter than the family's address block.
    AddressTruncated,
    /// A TLV, or one inside SSL, runs past its end, or 1 or 2 bytes are left over.
    TlvTruncated,
    /// A TLV's value has an impossible length: CRC32C not 4, UNIQUE_ID over 128, SSL under 5.
    BadTlv,
    /// A TLV that may occur once occurs twice.
    DuplicateTlv,
    /// The checksum that the header carries is not the header's.
    BadChecksum,
    /// Version 1: no CRLF within the longest line of its kind.
    LineTooLong,
    /// Version 1: CR or LF not as the pair CRLF.
    BadLineEnding,
    /// Version 1: not exactly one space between fields, or too few or too many fields.
    BadSpacing,
    /// Version 1: not an address of any family.
    BadAddress,
    /// Version 1: a port is not 0..=65535 in plain digits.
    BadPort,
    /// Version 1: a good address of the other family.
    FamilyMismatch,
}

impl Reason {
    /// All reasons, in the order in which a header is read.
    pub const ALL: [Reason; 16] = [
        Reason::BadVersion,
        Reason::BadCommand,
        Reason::BadFamily,
        Reason::BadTransport,
        Reason::HeaderTooLong,
        Reason::AddressTruncated,
        Reason::TlvTruncated,
        Reason::BadTlv,
        Reason::DuplicateTlv,
        Reason::BadChecksum,
        Reason::LineTooLong,
        Reason::BadLineEnding,
        Reason::BadSpacing,
        Reason::BadAddress,
        Reason::BadPort,
        Reason::FamilyMismatch,
    ];

    /// The kebab-case name.
    pub const fn code(self) -> &'static str {
        self.texts().0
    }

    const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Reason::BadVersion => ("bad-version", "the signature is version 2's, the version number is not 2"),
            Reason::BadCommand => ("bad-command", "the command is neither LOCAL nor PROXY"),
            Reason::BadFamily => ("bad-family", "the address family is not one that the protocol defines"),
            Reason::BadTransport => ("bad-transport", "the transport is not one that the protocol defines"),
            Reason::HeaderTooLong => ("header-too-long", "the header is longer than this listener's limit"),
            Reason::AddressTruncated => ("address-truncated", "the length is too small for the family's addresses"),
            Reason::TlvTruncated => ("tlv-truncated", "a TLV runs past the end of what contains it"),
            Reason::BadTlv => ("bad-tlv", "a TLV's value has a length that its type does not allow"),
            Reason::DuplicateTlv => ("duplicate-tlv", "a TLV that may occur only once occurs twice"),
            Reason::BadChecksum => ("bad-checksum", "the CRC32C checksum does not match the header"),
            Reason::LineTooLong => ("line-too-long", "the line does not end within the longest legal length"),
            Reason::BadLineEnding => ("bad-line-ending", "a CR or LF does not stand in a CRLF pair"),
            Reason::BadSpacing => ("bad-spacing", "the fields are too few, too many, or not one space apart"),
            Reason::BadAddress => ("bad-address", "an address field is not an IP address"),
            Reason::BadPort => ("bad-port", "a port is not a number from 0 to 65535 in plain digits"),
            Reason::FamilyMismatch => ("family-mismatch", "an address is not of the family that the line announces"),
        }
    }
}

impl fmt::Display for Reason {
    /// One sentence for a human, without a full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.texts().1)
    }
}

impl core::error::Error for Reason {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_names_in_kebab_case() {
        for reason in Reason::ALL {
            let mut kebab = String::new();
            for (i, c) in format!("{reason:?}").chars().enumerate() {
                if c.is_ascii_uppercase() && i > 0 {
                    kebab.push('-');
                }
                kebab.push(c.to_ascii_lowercase());
            }
            assert_eq!(reason.code(), kebab);
            assert!(!reason.to_string().is_empty());
        }
    }

    #[test]
    fn all_has_each_once_in_order() {
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
        }
    }
}
