//! Every valid vector through a real socket, split at every byte boundary; and headers that end with half of them there.

use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use vestibule::net::canonical_socket;

use crate::header::{Vector, vectors};
use crate::support::client::{Client, address};
use crate::support::daemon::{Daemon, counted};
use crate::support::header;

/// Connections that wait at the same time for their second half.
const BATCH: usize = 512;

/// Long enough for a ring to read what has come, short enough for thirteen thousand splits.
const BETWEEN_HALVES: Duration = Duration::from_millis(10);

/// Everything that the grammar takes, this listener takes too; only datagrams are no stream's.
const SETTINGS: &str = "\
    haproxy_unspec = peer
    haproxy_source = any
    haproxy_second_header = pass
    haproxy_v4_in_tcp6 = map
    haproxy_v6_in_tcp4 = map";

struct Case<'a> {
    vector: &'a Vector,
    split: usize,
}

impl Case<'_> {
    /// Length of the header; what follows in the vector is the application's.
    fn length(&self) -> usize {
        length(self.vector)
    }

    fn halves(&self) -> (&[u8], &[u8]) {
        self.vector.bytes.split_at(self.split)
    }
}

// spec 2 MAY "tolerant to partial headers"
// spec 2 SHOULD "recommendation is to be tolerant"
#[test]
fn every_valid_vector_split_at_every_byte_is_answered() {
    let mut vectors = vectors();
    vectors.retain(is_for_streams);
    assert!(vectors.len() >= 100, "only {} vectors", vectors.len());
    let cases: Vec<Case> =
        vectors.iter().flat_map(|vector| (1..=length(vector)).map(move |split| Case { vector, split })).collect();
    let (_daemon, listener) = Daemon::haproxy("", SETTINGS);
    for batch in cases.chunks(BATCH) {
        ask_batch(listener, batch);
    }
}

fn ask_batch(listener: SocketAddr, batch: &[Case]) {
    let clients: Vec<Client> = batch.iter().map(|case| Client::send_to(listener, case.halves().0)).collect();
    thread::sleep(BETWEEN_HALVES);
    for (case, client) in batch.iter().zip(&clients) {
        // Where the first part was a whole header, the daemon may have answered and closed already.
        assert!(client.send(case.halves().1).is_ok() || case.split >= case.length());
    }
    for (case, client) in batch.iter().zip(clients) {
        assert_answer(case, &client.read_to_end().0, client.local(), listener);
    }
}

fn assert_answer(case: &Case, said: &[u8], client: SocketAddr, listener: SocketAddr) {
    let expected = &case.vector.expected;
    let said = String::from_utf8_lossy(said);
    let what = format!("{} split behind byte {}: {said}", case.vector.name, case.split);
    let answer: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error} in {what}"));
    for field in ["version", "command", "tlvs"] {
        assert_eq!(answer[field], expected[field], "{field} of {what}");
    }
    for (shown, conveyed, own) in [("client", "source", client), ("destination", "destination", listener)] {
        assert_eq!(answer[shown], effective(&expected[conveyed], own), "{shown} of {what}");
    }
    let behind: String = case.vector.bytes[case.length()..].iter().map(|byte| format!("{byte:02x}")).collect();
    let residual = answer["residual"].as_str().expect("a text");
    let alone_in_its_read = case.split == case.length();
    assert!(residual == behind || (alone_in_its_read && residual.is_empty()), "residual of {what}");
}

/// What counts as the client or the destination: the IP address that the header conveys, IPv4 where it is mapped, or the
/// socket's own.
fn effective(conveyed: &Value, own: SocketAddr) -> Value {
    let ip = conveyed.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
    json!(ip.map_or(own, canonical_socket).to_string())
}

/// Whether a stream listener with the default limit accepts the vector.
fn is_for_streams(vector: &Vector) -> bool {
    const HEADER_LIMIT: usize = 4096;
    let expected = &vector.expected;
    expected["verdict"] == "complete" && expected["transport"] != "DGRAM" && length(vector) <= HEADER_LIMIT
}

fn length(vector: &Vector) -> usize {
    vector.expected["length"].as_u64().expect("a number") as usize
}

#[test]
fn a_half_close_inside_a_header_ends_it_and_one_behind_it_is_answered() {
    let (source, destination) = (address("198.51.100.7:5000"), address("192.0.2.1:143"));
    let (daemon, listener) = Daemon::haproxy("haproxy_timeout = 10 mins", "");
    let (mut partial, mut whole) = (0, 0);
    for header in [header::v1(source, destination), header::v2(source, destination, &[(4, b"padding")])] {
        for cut in [1, 5, 12, 13, 16, 27, header.len() - 1, header.len()] {
            let client = Client::send_to(listener, &header[..cut]);
            client.stream.shutdown(Shutdown::Write).expect("connected");
            let (said, _, _) = client.read_to_end();
            assert_eq!(!said.is_empty(), cut == header.len(), "cut after {cut} of {}", header.len());
            *(if said.is_empty() { &mut partial } else { &mut whole }) += 1;
        }
    }
    let log = daemon.stop();
    let counts = ["closed-partial", "proxied", "timeout"].map(|name| counted(&log, name));
    assert_eq!(counts, [Some(partial), Some(whole), None], "{log}");
}
