//! Lines and words that the in-band exchanges and the filters have in common.

use super::Protocol;

/// The first line, ended by LF, and what stands behind it; `None` while there is no LF. The line comes without its CRLF
/// or LF.
pub(super) fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (line, rest) = (bytes.get(..end)?, bytes.get(end + 1..)?);
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest))
}

/// Whether the text begins with the word (any case) and the word ends there: at the end, a space, or `=`.
pub(super) fn begins_with_word(text: &[u8], word: &str) -> bool {
    text.split_at_checked(word.len()).is_some_and(|(start, rest)| {
        start.eq_ignore_ascii_case(word.as_bytes()) && matches!(rest.first(), None | Some(b' ' | b'\t' | b'='))
    })
}

/// Whether a line can be read in one way only: no control character but TAB, so no CR and no NUL at which some server
/// would end it.
pub(super) fn is_clean(line: &[u8]) -> bool {
    line.iter().all(|&byte| (byte >= b' ' && byte != 0x7f) || byte == b'\t')
}

/// The three digits of an SMTP reply line and whether it is the reply's last; `None`: it is no such line.
pub(super) fn reply_code(line: &[u8]) -> Option<(u16, bool)> {
    let (digits, rest) = line.split_first_chunk::<3>()?;
    let last = match rest.first() {
        None | Some(b' ') => true,
        Some(b'-') => false,
        Some(_) => return None,
    };
    Some((str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit))?.parse().ok()?, last))
}

/// Capabilities that a client behind XCLIENT must not see, for it would be refused them: ways to speak for someone
/// else, and TLS, which would carry them past the filter.
const HIDDEN: [&str; 5] = ["XCLIENT", "XFORWARD", "XRCPTFORWARD", "STARTTLS", "STLS"];

/// Whether a capability is kept from the client: SMTP's as it stands behind `250-`, POP3's as a line of CAPA,
/// ManageSieve's as a quoted line.
pub(super) fn is_hidden(protocol: Protocol, capability: &[u8]) -> bool {
    match protocol {
        Protocol::Sieve => HIDDEN.iter().any(|name| {
            let quoted = capability.strip_prefix(b"\"").and_then(|text| text.split_at_checked(name.len()));
            quoted.is_some_and(|(start, rest)| start.eq_ignore_ascii_case(name.as_bytes()) && rest.starts_with(b"\""))
        }),
        _ => HIDDEN.iter().any(|name| begins_with_word(capability, name)),
    }
}

/// What an IMAP or ManageSieve line announces at its end: `{12}` or `{12+}`, a literal of that many bytes behind the
/// line.
pub(super) fn literal(line: &[u8]) -> Option<Literal> {
    let inside = line.strip_suffix(b"}")?;
    let open = inside.iter().rposition(|&byte| byte == b'{')?;
    let digits = inside.get(open + 1..)?;
    let (digits, waits) = digits.strip_suffix(b"+").map_or((digits, true), |digits| (digits, false));
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = str::from_utf8(digits).ok()?.parse().unwrap_or(usize::MAX);
    Some(Literal { at: open, length, waits })
}

/// A literal that a line announces.
pub(super) struct Literal {
    /// Where in the line the brace opens.
    pub(super) at: usize,
    /// Bytes; `usize::MAX` for more than can be counted.
    pub(super) length: usize,
    /// Without `+`.
    pub(super) waits: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies() {
        assert_eq!(reply_code(b"250-XCLIENT"), Some((250, false)));
        assert_eq!(reply_code(b"250 OK"), Some((250, true)));
        assert_eq!(reply_code(b"421"), Some((421, true)));
        for none in ["", "25", "2500", "+25 x", "abc def", "250x", " 250 "] {
            assert_eq!(reply_code(none.as_bytes()), None, "{none:?}");
        }
    }

    #[test]
    fn hidden_capabilities() {
        assert!(is_hidden(Protocol::Smtp, b"XCLIENT NAME ADDR") && is_hidden(Protocol::Lmtp, b"StartTLS"));
        assert!(is_hidden(Protocol::Pop3, b"STLS") && is_hidden(Protocol::Sieve, b"\"starttls\""));
        assert!(is_hidden(Protocol::Sieve, b"\"XCLIENT\" \"ADDR\""));
        assert!(!is_hidden(Protocol::Smtp, b"XCLIENTS") && !is_hidden(Protocol::Sieve, b"\"SIEVE\" \"STARTTLS\""));
    }

    #[test]
    fn literals() {
        let read = |line: &str| literal(line.as_bytes()).map(|found| (found.at, found.length, found.waits));
        assert_eq!(read("A {12+}"), Some((2, 12, false)));
        assert_eq!(read("{0}"), Some((0, 0, true)));
        assert_eq!(read("{99999999999999999999999}"), Some((0, usize::MAX, true)));
        for none in ["", "}", "{}", "{+}", "{1 }", "{-1}", "{1++}", "{1+} "] {
            assert_eq!(read(none), None, "{none:?}");
        }
    }
}
