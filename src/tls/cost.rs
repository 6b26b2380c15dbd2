//! What a handshake costs beyond rustls alone: TLS 1.3, ECDSA P-256, nothing resumed, in memory. The ordinary run makes a few
//! and checks that each comes to its end. Figures:
//!
//! ```text
//! VESTIBULE_HANDSHAKES=4000 cargo test --release --lib --features tls tls::cost -- --nocapture
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::Termination;
use super::tests::{client_of, configuration, identity, said};
use crate::dispatch::TlsTerms;

/// Handshakes of each kind in an ordinary run.
const HANDSHAKES: usize = 20;

#[test]
fn a_handshake_is_that_of_rustls_and_little_more() {
    let count = std::env::var("VESTIBULE_HANDSHAKES").map_or(HANDSHAKES, |text| text.parse().expect("a number"));
    let identity = identity();
    let (terms, config) = (Termination::new(&identity, &["imap"]), Arc::new(identity.server_config(&["imap"])));
    let mut clients = ClientConfig::clone(&configuration(&identity, &TLS13, &["imap"]));
    clients.resumption = Resumption::disabled();
    let clients = Arc::new(clients);
    // In turn, so that both have the same weather.
    let (mut ours, mut alone): (Vec<Duration>, Vec<Duration>) =
        (0..count).map(|_| (here(&terms, client_of(&clients)), rustls_alone(&config, client_of(&clients)))).unzip();
    let (ours, alone) = (median(&mut ours), median(&mut alone));
    println!("a handshake: {ours:?}, in rustls alone {alone:?}: {:.3}", ours.as_secs_f64() / alone.as_secs_f64());
}

/// The time of a handshake that ends on a ring.
fn here(terms: &Termination, mut client: ClientConnection) -> Duration {
    let begun = Instant::now();
    let mut handshake = terms.begin();
    let mut spent = begun.elapsed();
    while !handshake.is_complete() {
        let bytes = said(&mut client);
        let mut records = Vec::new();
        let begun = Instant::now();
        handshake.feed(&bytes).expect("they agree");
        while handshake.has_unsent() {
            handshake.send(&mut records).expect("a vector takes every write");
        }
        spent += begun.elapsed();
        hear(&mut client, &records);
    }
    assert!(!client.is_handshaking());
    let begun = Instant::now();
    let session = handshake.into_session();
    spent += begun.elapsed();
    assert_eq!(session.info().version, Some("TLSv1.3"));
    spent
}

/// The same by rustls itself.
fn rustls_alone(config: &Arc<ServerConfig>, mut client: ClientConnection) -> Duration {
    let begun = Instant::now();
    let mut server = ServerConnection::new(config.clone()).expect("a configuration");
    let mut spent = begun.elapsed();
    while server.is_handshaking() {
        let bytes = said(&mut client);
        let (mut rest, mut records) = (&bytes[..], Vec::new());
        let begun = Instant::now();
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("a slice has no errors");
            server.process_new_packets().expect("they agree");
        }
        while server.wants_write() {
            server.write_tls(&mut records).expect("a vector takes every write");
        }
        spent += begun.elapsed();
        hear(&mut client, &records);
    }
    assert!(!client.is_handshaking());
    spent
}

fn hear(client: &mut ClientConnection, mut records: &[u8]) {
    while !records.is_empty() {
        client.read_tls(&mut records).expect("a slice has no errors");
        client.process_new_packets().expect("the client trusts us");
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
