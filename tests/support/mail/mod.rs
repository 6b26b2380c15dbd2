//! A small mail client for each protocol, over plain TCP, STARTTLS, and TLS from the first byte. Each panics with what was
//! said where a server answers otherwise than it should.

mod imap;
mod pop3;
mod sieve;
mod smtp;
mod wire;

pub use imap::Imap;
pub use pop3::Pop3;
pub use sieve::Sieve;
pub use smtp::Smtp;
pub use wire::{Wire, trusting_config};

/// The password of every user of the servers under test.
pub const PASSWORD: &str = "pw";

/// A message of about `size` bytes: a header, and random text in lines of mail, each with CRLF at its end.
pub fn message(size: usize) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const LINE: usize = 76;
    let mut random = fastrand::Rng::new();
    let mut text = b"From: a@mail.test\r\nTo: b@mail.test\r\nSubject: bytes\r\n\r\n".to_vec();
    while text.len() < size {
        text.extend((0..LINE).map(|_| LETTERS[random.usize(..LETTERS.len())]));
        text.extend(b"\r\n");
    }
    text
}

/// The base64 words of SASL PLAIN.
fn sasl_plain(user: &str) -> String {
    base64(format!("\0{user}\0{PASSWORD}").as_bytes())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.chunks(3).map(|group| {
        let bits = group.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        let digit = |place: usize| match place > group.len() {
            true => '=',
            false => char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63]),
        };
        (0..4).map(digit).collect::<String>()
    });
    groups.collect()
}
