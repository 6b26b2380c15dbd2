//! Clients by TLS: rustls's, in memory, and the sessions that they have with us.

use std::io::{Read, Write};
use std::sync::LazyLock;

use fastrand::Rng;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::peer::Speech;
use super::records::{Records, Tls};
use crate::dispatch::{TlsHandshake, TlsSession, TlsTerms};
use crate::engine::simulation::secured::{CONFIGURATIONS, IDENTITY, NAME};
use crate::tls::{Termination, rustls};

/// One schedule in so many has clients by TLS.
const SCHEDULES: u8 = 3;

/// As they are, and such whose keys the kernel may be given.
static TERMS: LazyLock<[Termination; 2]> =
    LazyLock::new(|| [false, true].map(|to_kernel| Termination::new(&IDENTITY, &[]).to_kernel(to_kernel)));

/// What decides of TLS in a schedule, if it has some: a generator of its own, so that seeds of the time before keep their
/// schedule.
pub fn of(seed: u64) -> Option<Rng> {
    let mut rng = Rng::with_seed(seed.rotate_left(48));
    (rng.u8(..SCHEDULES) == 0 && !super::REGRESSIONS.contains(&seed)).then_some(rng)
}

/// A session that stands, its client's end, and how much of the client's words is in it already. The client has said `early`
/// bytes; with its last word of the handshake some of the records have come, and maybe a part of one.
pub fn shake(rng: &mut Rng, to_kernel: bool, speech: Speech, early: usize) -> (Box<dyn TlsSession>, Records, usize) {
    let mut handshake = TERMS[usize::from(to_kernel)].begin();
    let name = ServerName::try_from(NAME).expect("a name");
    let version = usize::from(rng.u8(..4) > 0);
    let tls = ClientConnection::new(CONFIGURATIONS[version].clone(), name).expect("a configuration");
    let mut client = Rustls(tls);
    while client.0.is_handshaking() {
        handshake.feed(&client.records()).expect("they agree");
        client.hear(&unsent(&mut *handshake)).expect("they agree");
    }
    let mut last = client.records();
    let mut records = Records::new(Box::new(client), rng.fork());
    records.say(speech, 0, early);
    let mut words = 0;
    // In TLS 1.2 the client waits for the server's last word.
    if !handshake.is_complete() {
        let with = rng.usize(..=records.unread().len());
        last.extend_from_slice(&records.unread()[..with]);
        handshake.feed(&last).expect("they agree");
        words = records.pass(with);
        records.hear(&unsent(&mut *handshake)).expect("they agree");
    }
    (handshake.into_session(), records, words)
}

fn unsent(handshake: &mut dyn TlsHandshake) -> Vec<u8> {
    let mut bytes = Vec::new();
    while handshake.has_unsent() {
        handshake.send(&mut bytes).expect("a vector takes every write");
    }
    bytes
}

struct Rustls(ClientConnection);

impl Rustls {
    fn records(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut records).expect("a vector takes every write");
        }
        records
    }
}

impl Tls for Rustls {
    fn say(&mut self, words: &[u8]) -> Vec<u8> {
        self.0.writer().write_all(words).expect("it has room");
        self.records()
    }

    fn close(&mut self) -> Vec<u8> {
        self.0.send_close_notify();
        self.records()
    }

    fn renew(&mut self) -> Vec<u8> {
        // There is no such thing in TLS 1.2.
        let _ = self.0.refresh_traffic_keys();
        self.records()
    }

    fn hear(&mut self, mut records: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let (mut words, mut ended) = (Vec::new(), false);
        while !records.is_empty() {
            if self.0.read_tls(&mut records).map_err(|error| error.to_string())? == 0 {
                break; // behind a close_notify
            }
            let state = self.0.process_new_packets().map_err(|error| error.to_string())?;
            ended |= state.peer_has_closed();
            let at = words.len();
            words.resize(at + state.plaintext_bytes_to_read(), 0);
            self.0.reader().read_exact(&mut words[at..]).map_err(|error| error.to_string())?;
        }
        Ok((words, ended))
    }
}
