#!/usr/bin/env bash
# rustls-pki-types: a private key with a pass phrase, in the form of RFC 1421 that `openssl ec` writes (header fields
# `Proc-Type: 4,ENCRYPTED` and `DEK-Info:` between the BEGIN line and the data), is reported as broken base64: the reader takes
# header fields for data, and 45 is the hyphen of `Proc-Type`. The same key in PKCS #8's encrypted form is "no items found". Neither
# says that there is a pass phrase: who loads keys has to look for both forms to be able to say so.
#
# Crate rustls-pki-types 1.15.1, OpenSSL 3. Seen:
#   plain PKCS #8: a key
#   pass phrase, PKCS #8: no items found
#   pass phrase, RFC 1421: base64 decode error: InvalidCharacter(45)
. "$(dirname "$0")/common"
needs cargo openssl
mkdir "$work"/src
cat >"$work"/Cargo.toml <<'END'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
rustls-pki-types = { version = "=1.15.1", features = ["std"] }
END
cat >"$work"/src/main.rs <<'END'
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

fn main() {
    for file in std::env::args().skip(1) {
        match PrivateKeyDer::from_pem_file(&file) {
            Ok(_) => println!("a key"),
            Err(error) => println!("{error}"),
        }
    }
}
END
cargo build --quiet --manifest-path "$work"/Cargo.toml 2>"$work"/log ||
  skip "crate rustls-pki-types 1.15.1: $(tail -n 1 "$work"/log)"
openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work"/plain 2>/dev/null ||
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work"/plain 2>/dev/null
openssl pkcs8 -topk8 -in "$work"/plain -passout pass:secret -out "$work"/pkcs8
openssl ec -in "$work"/plain -aes128 -passout pass:secret -out "$work"/rfc1421 2>/dev/null
grep -q '^Proc-Type: 4,ENCRYPTED' "$work"/rfc1421 || skip "an openssl that writes the form of RFC 1421"
{ read -r plain; read -r pkcs8; read -r rfc1421; } < <("$work"/target/debug/finding "$work"/plain "$work"/pkcs8 "$work"/rfc1421)

holds "plain PKCS #8" "a key" "$plain"
holds "pass phrase, PKCS #8" "no items found" "$pkcs8"
holds "pass phrase, RFC 1421" "base64 decode error: InvalidCharacter(45)" "$rfc1421"
exit $status
