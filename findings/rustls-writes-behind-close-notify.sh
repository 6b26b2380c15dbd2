#!/usr/bin/env bash
# A rustls connection that has sent its close_notify goes on taking what is written: the call says that all was taken, and
# a record with it goes out. The other side, rustls as well, does not hand it on, as RFC 8446 (6.1) demands of data behind
# a closure alert. What is written after send_close_notify() is lost without an error.
#
# Crate: rustls 0.23.46. Seen:
#   write of 4 bytes after send_close_notify: Ok(4), 26 bytes go out
#   the other side reads: Ok(0)
. "$(dirname "$0")/common"
needs cargo
mkdir "$work"/src
cat >"$work"/Cargo.toml <<'END'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
rcgen = { version = "=0.14.5", default-features = false, features = ["ring"] }
rustls = { version = "=0.23.46", default-features = false, features = ["ring", "std"] }
END
cat >"$work"/src/main.rs <<'END'
use std::error::Error;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

fn main() -> Result<(), Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed(["mail.test".to_string()])?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut server = ServerConnection::new(Arc::new(config))?;
    let mut client = ClientConnection::new(Arc::new(trusting), "mail.test".try_into()?)?;
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut there)?;
        }
        let mut rest = &there[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut back)?;
        }
        let mut rest = &back[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest)?;
            client.process_new_packets()?;
        }
    }
    let (mut alert, mut more) = (Vec::new(), Vec::new());
    server.send_close_notify();
    server.write_tls(&mut alert)?;
    let taken = server.writer().write(b"more");
    while server.wants_write() {
        server.write_tls(&mut more)?;
    }
    println!("{taken:?}, {} bytes go out", more.len());
    let both = [alert, more].concat();
    let mut rest = &both[..];
    while client.wants_read() && !rest.is_empty() {
        client.read_tls(&mut rest)?;
        client.process_new_packets()?;
    }
    println!("{:?}", client.reader().read(&mut [0; 16]));
    Ok(())
}
END
cargo build --quiet --manifest-path "$work"/Cargo.toml 2>"$work"/log || skip "crate rustls 0.23.46: $(tail -n 1 "$work"/log)"
{ read -r taken; read -r got; } < <("$work"/target/debug/finding 2>&1)

holds "write of 4 bytes after send_close_notify" "Ok(4), 26 bytes go out" "$taken"
holds "the other side reads" "Ok(0)" "$got"
exit $status
