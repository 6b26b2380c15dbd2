//! What is wrong with a PEM file, in words: what it holds instead of what it should, and how that is mended.

use rustls::pki_types::pem;

/// What stands first in a file that is DER, or PKCS #12: the tag of a SEQUENCE.
const SEQUENCE: u8 = 0x30;

/// What keys are of use, for an operator whose key is not.
pub const KEYS_OF_USE: &str = "RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519";

/// What a file holds in which no certificate was found, or no key that can be used; and what to do.
pub fn instead(content: &[u8]) -> &'static str {
    let holds = |word: &str| holds(content, word);
    if content.is_empty() {
        "it is empty"
    } else if has_pass_phrase(content) {
        "its key has a pass phrase, which `openssl pkey -in OLD -out NEW` takes off"
    } else if holds("PRIVATE KEY-----") {
        "it holds a private key: are two settings exchanged?"
    } else if holds("-----BEGIN CERTIFICATE REQUEST-----") || holds("-----BEGIN NEW CERTIFICATE REQUEST-----") {
        "it holds a request: the certificate is what the authority has made of that"
    } else if holds("-----BEGIN CERTIFICATE-----") {
        "it holds a certificate: are two settings exchanged?"
    } else if holds("-----BEGIN TRUSTED CERTIFICATE-----") {
        "it holds a certificate in a form of OpenSSL's own, which `openssl x509 -in OLD -out NEW` converts"
    } else if holds("-----BEGIN ") {
        "what it holds is something else"
    } else if content[0] == SEQUENCE {
        "it is not PEM but binary, which OpenSSL converts: `openssl x509 -inform DER`, `openssl pkey -inform DER`, or `openssl \
         pkcs12 -nodes`"
    } else {
        "it is not PEM, which begins with a line -----BEGIN"
    }
}

/// Whether a key in it is encrypted, in either of the two forms that OpenSSL writes.
pub fn has_pass_phrase(content: &[u8]) -> bool {
    holds(content, "-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds(content, "Proc-Type: 4,ENCRYPTED")
}

fn holds(content: &[u8], word: &str) -> bool {
    content.windows(word.len()).any(|window| window == word.as_bytes())
}

/// What is broken in a section of a file.
pub fn broken(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            let kind = String::from_utf8_lossy(end_marker).escape_debug().to_string();
            format!(
                "a line -----END {kind}----- is missing: the file is cut off, or its last line is joined with another"
            )
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("a section begins with {:?}", String::from_utf8_lossy(line))
        }
        error => error.to_string(),
    }
}
