//! Hexadecimal text, in the forms in which bytes are pasted.

use std::fmt::Write;

/// The bytes that a line spells: hexadecimal digits, which white space, `:`, `-`, `,` and `0x` may separate, or text with
/// escapes such as `\x0d`, as the log's `first=` shows it. Of a whole log line, `first=` counts. The error names the place.
pub fn read(text: &str) -> Result<Vec<u8>, String> {
    match text.find(FIRST) {
        Some(at) => {
            let value = &text[at + FIRST.len()..];
            let end = value.find(char::is_whitespace).unwrap_or(value.len());
            read_escaped(&value[..end], at + FIRST.len())
        }
        None if text.contains('\\') => read_escaped(text.trim_end_matches(['\r', '\n']), 0),
        None => read_digits(text),
    }
}

/// The key under which the log shows a peer's first bytes.
const FIRST: &str = "first=";

/// Two digits a byte; `0x` and separators stand between bytes, white space anywhere.
fn read_digits(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut high = None;
    let mut characters = text.char_indices().filter(|(_, character)| !character.is_whitespace()).peekable();
    while let Some((column, character)) = characters.next() {
        match (character, high) {
            (':' | '-' | ',', None) => continue,
            ('0', None) if characters.next_if(|(_, next)| matches!(next, 'x' | 'X')).is_some() => continue,
            _ => {}
        }
        let Some(digit) = character.to_digit(16) else {
            return Err(format!("column {}: {character:?} is no hexadecimal digit", column + 1));
        };
        match high.take() {
            None => high = Some(digit),
            Some(high) => bytes.push((high * 16 + digit) as u8),
        }
    }
    match high {
        None => Ok(bytes),
        Some(_) => Err("an odd number of hexadecimal digits: every byte needs two".into()),
    }
}

/// Characters that stand for themselves, and escapes; `before` characters stand left of the text.
fn read_escaped(text: &str, before: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let (value, behind) = match byte {
            b'\\' => {
                let column = before + text.len() - rest.len() + 1;
                escape(behind)
                    .ok_or_else(|| format!("column {column}: an escape is none of \\xNN \\r \\n \\t \\0 \\\\"))?
            }
            plain => (plain, behind),
        };
        bytes.push(value);
        rest = behind;
    }
    Ok(bytes)
}

/// The byte that an escape stands for, whose backslash has been read, and what follows it.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match text {
        [b'x', high, low, rest @ ..] => Some(((digit(*high)? * 16 + digit(*low)?) as u8, rest)),
        [b'r', rest @ ..] => Some((b'\r', rest)),
        [b'n', rest @ ..] => Some((b'\n', rest)),
        [b't', rest @ ..] => Some((b'\t', rest)),
        [b'0', rest @ ..] => Some((0, rest)),
        [same @ (b'\\' | b'"' | b'\''), rest @ ..] => Some((*same, rest)),
        _ => None,
    }
}

/// Bytes as lower-case digits, with `between` after each byte but the last.
pub fn show(bytes: &[u8], between: &str) -> String {
    let mut text = String::with_capacity(bytes.len() * (2 + between.len()));
    for (index, byte) in bytes.iter().enumerate() {
        let before = if index == 0 { "" } else { between };
        write!(text, "{before}{byte:02x}").expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_shows() {
        let bytes: Vec<u8> = (0..=255).collect();
        for between in ["", " ", ":", "-", ", 0x"] {
            assert_eq!(read(&show(&bytes, between)), Ok(bytes.clone()));
            assert_eq!(read(&show(&bytes, between).to_uppercase()), Ok(bytes.clone()));
        }
        assert_eq!(read(""), Ok(Vec::new()));
    }

    #[test]
    fn reads_the_forms_in_which_bytes_are_pasted() {
        for text in [
            "0d0a 0d 0a",
            "0d:0a:0d:0a\n",
            "0x0d, 0x0a, 0x0d, 0x0A,",
            "0x0d0a0d0a",
            "0D-0A-0D-0A",
            "\\x0d\\x0a\\x0d\\x0a",
            "\\r\\n\\x0D\\n\n",
            "first=\\x0d\\x0a\\x0d\\x0a",
            "2026-11-28T18:00:00Z imap-login: Error: haproxy: x (rip=192.0.2.1): bytes=9 first=\\x0d\\x0a\\x0d\\x0a diagnosis=x",
        ] {
            assert_eq!(read(text), Ok(b"\r\n\r\n".to_vec()), "{text}");
        }
        let shown = vestibule::proxy::Escaped(b"EHLO a\\\r\n\x00\xff").to_string();
        assert_eq!(read(&format!("first={shown}")), Ok(b"EHLO a\\\r\n\x00\xff".to_vec()));
        assert_eq!(read("PROXY UNKNOWN\\r\\n"), Ok(b"PROXY UNKNOWN\r\n".to_vec()));
    }

    #[test]
    fn names_the_place_of_a_mistake() {
        assert_eq!(read("0d 0g"), Err("column 5: 'g' is no hexadecimal digit".into()));
        assert_eq!(read("0d:0:"), Err("column 5: ':' is no hexadecimal digit".into()));
        assert_eq!(read("0d0"), Err("an odd number of hexadecimal digits: every byte needs two".into()));
        let escape = "an escape is none of \\xNN \\r \\n \\t \\0 \\\\";
        assert_eq!(read("a\\xd"), Err(format!("column 2: {escape}")));
        assert_eq!(read("first=\\q"), Err(format!("column 7: {escape}")));
    }
}
