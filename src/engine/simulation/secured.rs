//! Clients by TLS: rustls's in memory, or who only pretends; and the threads that compute handshakes, as the test does it.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crossbeam_channel::Receiver;
use fastrand::Rng;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::world::{Client, End, Peer};
use super::{V1, address};
use crate::dispatch::Wake;
use crate::engine::handshake::{Entrance, Given, Task};
use crate::engine::listener::Listener;
use crate::engine::tally::Tally;
use crate::tls::{Identity, Termination, rustls};

/// From door 2 until a session must stand.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// Whose certificate is shown.
pub const NAME: &str = "mail.example";
/// One schedule in so many has clients by TLS.
const SCHEDULES: u8 = 3;

/// Made once: its signatures are all of one length, so that a seed gives the same run.
pub static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("the system has randomness");
    let parameters = rcgen::CertificateParams::new([NAME.to_owned()]).expect("a good name");
    let certificate = parameters.self_signed(&key).expect("a certificate for its key");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("both.pem");
    fs::write(&file, certificate.pem() + &key.serialize_pem()).expect("a file");
    Identity::load(&file, &file).expect("a pair")
});

/// What clients are made of: by TLS 1.2, and by TLS 1.3.
pub static CONFIGURATIONS: LazyLock<[Arc<ClientConfig>; 2]> = LazyLock::new(|| {
    [&TLS12, &TLS13].map(|version| {
        let mut roots = RootCertStore::empty();
        roots.add(IDENTITY.certificate()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let builder = builder.expect("the provider has suites").with_root_certificates(roots);
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    })
});

/// What a schedule has of TLS.
pub struct Tls {
    pub listener: Listener,
    pub clients: Vec<Client>,
    threads: Option<Threads>,
}

/// The test in the place of threads.
#[derive(Clone)]
struct Threads {
    entrance: Entrance,
    steps: Receiver<Task>,
    ring: Arc<Rung>,
    /// Until then they do nothing.
    stuck_until: Duration,
}

#[derive(Default)]
struct Rung(AtomicBool);

impl Wake for Rung {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the seed decides of TLS, by a generator of its own: seeds of the time before keep their schedule.
pub fn of(seed: u64) -> Option<Tls> {
    let mut rng = Rng::with_seed(seed.rotate_left(48));
    if rng.u8(..SCHEDULES) > 0 || super::REGRESSIONS.contains(&seed) {
        return None;
    }
    let proxied = rng.bool();
    let listener = match proxied {
        true => super::proxy_at(4, false, false),
        false => Listener::plain(address(4)),
    };
    let clients = (0..rng.usize(1..8)).map(|_| client(&mut rng, proxied)).collect();
    let threads = rng.bool().then(|| {
        let count = rng.usize(1..3);
        let (entrance, steps) = Entrance::new(count, rng.usize(1..4));
        let stuck_until = if rng.u8(..4) == 0 { Duration::from_millis(rng.u64(..6000)) } else { Duration::ZERO };
        Threads { entrance, steps, ring: Arc::default(), stuck_until }
    });
    Some(Tls { listener: listener.tls(Termination::new(&IDENTITY, &[]).timeout(TIMEOUT)), clients, threads })
}

impl Tls {
    /// The way of one ring to the threads, if there are some.
    pub fn given(&self, tally: &Arc<Tally>) -> Option<Given> {
        let threads = self.threads.as_ref()?;
        Some(Given::new(threads.entrance.clone(), threads.ring.clone(), tally.clone()))
    }

    /// The threads do some of what they were given; tells whether a ring was woken, and how much is left that they will do.
    pub fn work(&self, rng: &mut Rng, now: Duration) -> (bool, usize) {
        let Some(threads) = self.threads.as_ref().filter(|threads| threads.stuck_until <= now) else {
            return (false, 0);
        };
        threads.steps.try_iter().take(rng.usize(..4)).for_each(Task::run);
        (threads.ring.0.swap(false, Ordering::Relaxed), threads.steps.len())
    }
}

fn client(rng: &mut Rng, proxied: bool) -> Client {
    let connects = Duration::from_micros(rng.u64(..4_000_000));
    let said = [b"a001 LOGIN ", &vec![b'x'; rng.usize(..3000)][..], b"\r\n"].concat();
    let version = usize::from(rng.u8(..3) > 0);
    let manner = match rng.u8(..10) {
        0 => Manner::Silent,
        1 => Manner::Garbage,
        2 => Manner::BrokenRecord,
        3 => Manner::GarbageLater,
        _ => Manner::Honest,
    };
    let (peer, hello) = Rustls::new(&CONFIGURATIONS[version], said, manner);
    let stream = [if proxied { V1 } else { b"" }, &hello[..]].concat();
    let (mut arrivals, mut at, mut bytes) = (Vec::new(), connects, 0);
    let pace = if rng.u8(..6) == 0 { 400_000 } else { 2_000 };
    while bytes < stream.len() && rng.u8(..20) > 0 {
        at += Duration::from_micros(rng.u64(..pace));
        // At every split, and often at once.
        let most = if rng.bool() { stream.len() } else { 8 };
        bytes = (bytes + rng.usize(1..=most)).min(stream.len());
        arrivals.push((at, bytes));
    }
    let later = at + Duration::from_micros(rng.u64(..2_000_000));
    let end = match rng.u8(..8) {
        0 => End::Closes(later),
        1 => End::Resets(later),
        _ => End::Stays,
    };
    let from = std::net::SocketAddr::from(([127, 0, 0, 2], rng.u16(1024..)));
    Client { listener: 3, peer: from, connects, stream, arrivals, end, tls: Some(Box::new(peer)) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Says nothing.
    Silent,
    /// What it says is no TLS.
    Garbage,
    /// A record is longer than any may be.
    BrokenRecord,
    /// What it says in answer to the server is no TLS.
    GarbageLater,
}

/// A client of rustls's, or who begins as one.
struct Rustls {
    tls: ClientConnection,
    manner: Manner,
    /// What it says in its session, at once and before its end.
    said: Vec<u8>,
    has_said: bool,
    has_failed: bool,
}

impl Rustls {
    /// And what it says first.
    fn new(config: &Arc<ClientConfig>, said: Vec<u8>, manner: Manner) -> (Rustls, Vec<u8>) {
        let name = ServerName::try_from(NAME).expect("a name");
        let tls = ClientConnection::new(config.clone(), name).expect("a configuration");
        let mut client = Rustls { tls, manner, said, has_said: false, has_failed: false };
        let mut hello = client.records();
        match manner {
            Manner::Silent => hello.clear(),
            Manner::Garbage => hello = b"EHLO mail.example\r\nQUIT\r\n".to_vec(),
            Manner::BrokenRecord => hello[3] = 0xff,
            Manner::Honest | Manner::GarbageLater => {}
        }
        (client, hello)
    }

    fn records(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).expect("a vector takes every write");
        }
        records
    }
}

impl Peer for Rustls {
    fn hear(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        while !bytes.is_empty() && !self.has_failed {
            let read = self.tls.read_tls(&mut bytes).expect("it is memory");
            self.has_failed = read == 0 || self.tls.process_new_packets().is_err();
        }
        if !self.tls.is_handshaking() && !self.has_failed && !self.has_said {
            self.has_said = true;
            let writer = &mut self.tls.writer();
            std::io::Write::write_all(writer, &self.said).expect("it has room");
            self.tls.send_close_notify();
        }
        let records = self.records();
        if self.manner == Manner::GarbageLater && !records.is_empty() { b"no TLS at all".to_vec() } else { records }
    }

    fn said(&self) -> Option<&[u8]> {
        self.has_said.then_some(&self.said)
    }

    fn is_honest(&self) -> bool {
        self.manner == Manner::Honest
    }

    fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    fn has_failed(&self) -> bool {
        self.has_failed
    }
}
