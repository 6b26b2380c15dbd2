//! Hexadecimal text.

use std::fmt::Write;

/// The bytes that hexadecimal digits spell; white space between them does not count. The error names the place.
pub fn read(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut high = None;
    for (column, character) in text.char_indices().filter(|(_, character)| !character.is_whitespace()) {
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
        assert_eq!(read(&show(&bytes, "")), Ok(bytes.clone()));
        assert_eq!(read(&show(&bytes, " ").to_uppercase()), Ok(bytes));
        assert_eq!(read(""), Ok(Vec::new()));
    }

    #[test]
    fn names_the_place_of_a_mistake() {
        assert_eq!(read("0d 0g"), Err("column 5: 'g' is no hexadecimal digit".into()));
        assert_eq!(read("0d0"), Err("an odd number of hexadecimal digits: every byte needs two".into()));
    }
}
