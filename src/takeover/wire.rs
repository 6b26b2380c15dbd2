//! What two processes say to each other, as bytes: no sockets, no clock. One message a packet; numbers are big endian.
//!
//! The first byte names the kind. `Hello`, `Welcome` and `Refused` look the same in every version, so that two versions
//! that do not understand each other can say so; so do `Ask` and `Answer`, which have nothing to do with a takeover.
//! Descriptors travel beside the bytes, in the order of the entries. The same for people: `docs/takeover.md`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use crate::engine::{ClientDebt, SessionState};
use crate::relay::{HalfState, PairState, SessionId, Side};

/// Version of the protocol that this program speaks.
pub const VERSION: u16 = 3;
/// Oldest version that is understood: without live sessions.
pub const VERSION_MIN: u16 = 1;
/// First version in which live sessions move.
pub const WITH_SESSIONS: u16 = 2;
/// First version in which counts and what clients have spent of their rates go along.
pub const WITH_ACCOUNTS: u16 = 3;
/// Most bytes of a message: one connection with the longest header that a configuration can allow fits.
pub const MESSAGE_MAX: usize = 96 << 10;
/// Most entries with a descriptor in one message; the kernel takes 253 (SCM_MAX_FD, unix(7)).
pub const ENTRIES_MAX: usize = 64;
/// Most listening sockets that are offered.
pub const SOCKETS_MAX: usize = 1 << 16;
/// Most addresses whose pending connections are wanted.
pub const ADDRESSES_MAX: usize = 2048;
/// Most bytes of a text: a listener's name, a reason.
pub const TEXT_MAX: usize = 512;
/// Most bytes of an answer.
pub const ANSWER_MAX: usize = 64 << 10;
/// Most bytes of an account in one message.
pub const ACCOUNT_PART_MAX: usize = 64 << 10;
/// Most bytes of an account: of some thousand servers.
pub const ACCOUNT_MAX: usize = 32 << 20;
/// Most clients in one message.
pub const CLIENTS_PART_MAX: usize = 2048;

const MAGIC: [u8; 8] = *b"VESTIBUL";

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The new process: I want to take over.
    Hello { version: u16 },
    /// The old one: so many listening sockets follow.
    Welcome { version: u16, sockets: u32 },
    /// Listening sockets, each with its descriptor.
    Sockets(Vec<Socket>),
    /// The new process accepts. It wants the pending connections of these addresses.
    Serving(Vec<SocketAddr>),
    /// Pending connections, each with its descriptor.
    Pending(Vec<Connection>),
    /// Live sessions, each with two descriptors: the client's and the server's. Since version 2.
    Sessions(Vec<SessionState>),
    /// Clients that have spent of their connection rate. Since version 3.
    Clients(Vec<ClientDebt>),
    /// What the old process, and those before it, have counted so far: each account takes the place of the one before.
    /// It is said before the end, and again until the old process has left. Since version 3.
    Account {
        /// The first part of an account.
        first: bool,
        /// The last one.
        last: bool,
        /// The text, in parts.
        part: Vec<u8>,
    },
    /// So many pending connections and live sessions were sent.
    End { pending: u32 },
    /// The new process has so many and goes on with them.
    Taken { pending: u32 },
    /// The new process was told to end: the old one shall not accept again.
    Leaving,
    /// Somebody wants to know what was counted, and nothing else.
    Ask(Form),
    /// The old process's answer to that.
    Answer(String),
    /// The other side shall go no further, for this reason.
    Refused(String),
}

/// How counters are to be written, by the process that has them: whoever [asks](super::ask) may be of another version.
/// There may be more of them one day: who does not know one writes a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// A table for people.
    Table,
    /// JSON, in one line.
    Json,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub address: SocketAddr,
    /// The listener's name, for the log.
    pub name: String,
}

/// A connection whose header is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub listener: SocketAddr,
    pub peer: SocketAddr,
    /// Since it was accepted; microseconds on the wire.
    pub age: Duration,
    /// Until its header must be complete; microseconds on the wire.
    pub left: Duration,
    /// What was taken out of the socket.
    pub bytes: Vec<u8>,
}

impl Connection {
    /// No less than the bytes that an entry takes.
    pub fn size_bound(&self) -> usize {
        ENTRY_OVERHEAD + self.bytes.len()
    }
}

/// No less than the bytes that a session's entry takes.
pub fn size_bound(state: &SessionState) -> usize {
    let texts = [&state.service, &state.listener, &state.server].into_iter().map(|text| 2 + text.len().min(TEXT_MAX));
    let held = state.pair.client.held.len() + state.pair.server.held.len();
    texts.sum::<usize>() + held + SESSION_OVERHEAD
}

/// The id, two addresses, six times, flags, counts, and two halves.
const SESSION_OVERHEAD: usize = 34 + 2 * 27 + 6 * 8 + 1 + 4 + 4 + 1 + 2 * 13;

/// Two addresses, two times and a length.
const ENTRY_OVERHEAD: usize = 2 * 27 + 2 * 8 + 4;

/// A packet that is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a message of the takeover protocol: {}", self.0)
    }
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const SOCKETS: u8 = 3;
const SERVING: u8 = 4;
const PENDING: u8 = 5;
const END: u8 = 6;
const TAKEN: u8 = 7;
const LEAVING: u8 = 8;
const ASK: u8 = 9;
const ANSWER: u8 = 10;
const SESSIONS: u8 = 11;
const CLIENTS: u8 = 12;
const ACCOUNT: u8 = 13;
const REFUSED: u8 = 255;

/// Bits of a part of an account.
const FIRST: u8 = 1;
const LAST: u8 = 2;

/// Bits of a session.
const AWAITS_GREETING: u8 = 1;
const IS_TLS: u8 = 2;
const GREETED: u8 = 4;
const HOLDS_END: u8 = 8;
const CLIENT_WAS_TOLD: u8 = 16;
const UNASKED: u8 = 32;
/// These two are passed over by whoever does not know them.
const TLS_AT_PEER: u8 = 64;
const TLS_CERTIFICATE: u8 = 128;
/// Bits of a half.
const ENDED: u8 = 1;
const DEAF: u8 = 2;
const SHUT: u8 = 4;
/// Who has ended first.
const NOBODY: u8 = 0;
const CLIENT: u8 = 1;
const SERVER: u8 = 2;

const TABLE: u8 = 1;
const JSON: u8 = 2;

/// The bytes of a message. Texts are cut to [`TEXT_MAX`]; lists must keep their limits.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Writer(Vec::new());
    match message {
        Message::Hello { version } => out.kind(HELLO).bytes(&MAGIC).number(version.to_be_bytes()),
        Message::Welcome { version, sockets } => {
            out.kind(WELCOME).bytes(&MAGIC).number(version.to_be_bytes()).number(sockets.to_be_bytes())
        }
        Message::Sockets(sockets) => {
            let out = out.kind(SOCKETS).count(sockets.len());
            sockets.iter().fold(out, |out, socket| out.address(socket.address).text(&socket.name))
        }
        Message::Serving(addresses) => {
            let out = out.kind(SERVING).count(addresses.len());
            addresses.iter().fold(out, |out, address| out.address(*address))
        }
        Message::Pending(connections) => {
            let out = out.kind(PENDING).count(connections.len());
            connections.iter().fold(out, |out, one| {
                let out = out.address(one.listener).address(one.peer).time(one.age).time(one.left);
                out.number((one.bytes.len() as u32).to_be_bytes()).bytes(&one.bytes)
            })
        }
        Message::Sessions(sessions) => {
            let out = out.kind(SESSIONS).count(sessions.len());
            sessions.iter().fold(out, Writer::session)
        }
        Message::Clients(clients) => {
            let out = out.kind(CLIENTS).count(clients.len());
            clients.iter().fold(out, |out, one| out.number(one.client).time(one.left))
        }
        Message::Account { first, last, part } => {
            let out = out.kind(ACCOUNT).flags(&[(FIRST, *first), (LAST, *last)]);
            out.number((part.len() as u32).to_be_bytes()).bytes(part)
        }
        Message::End { pending } => out.kind(END).number(pending.to_be_bytes()),
        Message::Taken { pending } => out.kind(TAKEN).number(pending.to_be_bytes()),
        Message::Leaving => out.kind(LEAVING),
        Message::Ask(Form::Table) => out.kind(ASK).bytes(&MAGIC).kind(TABLE),
        Message::Ask(Form::Json) => out.kind(ASK).bytes(&MAGIC).kind(JSON),
        Message::Answer(text) => {
            let text = beginning(text, ANSWER_MAX);
            out.kind(ANSWER).number((text.len() as u32).to_be_bytes()).bytes(text.as_bytes())
        }
        Message::Refused(reason) => out.kind(REFUSED).text(reason),
    };
    out.0
}

/// Reads one packet.
pub fn decode(packet: &[u8]) -> Result<Message, Malformed> {
    let mut rest = Reader(packet);
    let message = match rest.number()? {
        [HELLO] => return rest.magic().and_then(|rest| Ok(Message::Hello { version: rest.short()? })),
        [WELCOME] => {
            let version = rest.magic()?.short()?;
            // A version that is not known may say something else here.
            let sockets = match (VERSION_MIN..=VERSION).contains(&version) {
                true => rest.long()?,
                false => return Ok(Message::Welcome { version, sockets: 0 }),
            };
            Message::Welcome { version, sockets }
        }
        [SOCKETS] => Message::Sockets(rest.list(ENTRIES_MAX, Reader::socket)?),
        [SERVING] => Message::Serving(rest.list(ADDRESSES_MAX, Reader::address)?),
        [PENDING] => Message::Pending(rest.list(ENTRIES_MAX, Reader::connection)?),
        [SESSIONS] => Message::Sessions(rest.list(ENTRIES_MAX / 2, Reader::session)?),
        [CLIENTS] => Message::Clients(rest.list(CLIENTS_PART_MAX, Reader::client)?),
        [ACCOUNT] => rest.account()?,
        [END] => Message::End { pending: rest.long()? },
        [TAKEN] => Message::Taken { pending: rest.long()? },
        [LEAVING] => Message::Leaving,
        [ASK] => Message::Ask(rest.magic()?.form()?),
        [ANSWER] => Message::Answer(rest.answer()?),
        [REFUSED] => Message::Refused(rest.text()?),
        _ => return Err(Malformed("an unknown kind")),
    };
    if rest.0.is_empty() { Ok(message) } else { Err(Malformed("bytes behind its end")) }
}

struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    fn number<const N: usize>(&mut self, bytes: [u8; N]) -> &mut Writer {
        self.bytes(&bytes)
    }

    fn kind(&mut self, kind: u8) -> &mut Writer {
        self.number([kind])
    }

    fn count(&mut self, count: usize) -> &mut Writer {
        self.number((count as u16).to_be_bytes())
    }

    fn time(&mut self, time: Duration) -> &mut Writer {
        self.number((time.as_micros() as u64).to_be_bytes())
    }

    fn text(&mut self, text: &str) -> &mut Writer {
        let text = beginning(text, TEXT_MAX);
        self.count(text.len()).bytes(text.as_bytes())
    }

    fn session(&mut self, state: &SessionState) -> &mut Writer {
        let pair = &state.pair;
        let flags = [
            (AWAITS_GREETING, state.awaits_greeting),
            (IS_TLS, state.is_tls),
            (GREETED, pair.greeted),
            (HOLDS_END, pair.holds_end),
            (CLIENT_WAS_TOLD, pair.client_was_told),
            (UNASKED, state.unasked),
            (TLS_AT_PEER, state.tls_at_peer),
            (TLS_CERTIFICATE, state.tls_certificate),
        ];
        let first = match pair.first_to_end {
            None => NOBODY,
            Some(Side::Client) => CLIENT,
            Some(Side::Server) => SERVER,
        };
        self.text(state.id.as_str()).text(&state.service).text(&state.listener).text(&state.server);
        self.address(state.client).address(state.destination);
        state.ages.iter().fold(&mut *self, |out, age| out.time(*age));
        self.flags(&flags).kind(first).number(state.attempts.to_be_bytes()).number(state.early.to_be_bytes());
        self.half(&pair.client).half(&pair.server)
    }

    fn half(&mut self, half: &HalfState) -> &mut Writer {
        self.flags(&[(ENDED, half.ended), (DEAF, half.deaf), (SHUT, half.shut)]);
        self.number(half.received.to_be_bytes()).number((half.held.len() as u32).to_be_bytes()).bytes(&half.held)
    }

    fn flags(&mut self, flags: &[(u8, bool)]) -> &mut Writer {
        self.kind(flags.iter().filter(|(_, set)| *set).fold(0, |all, (flag, _)| all | flag))
    }

    fn address(&mut self, address: SocketAddr) -> &mut Writer {
        match address {
            SocketAddr::V4(v4) => self.kind(4).bytes(&v4.ip().octets()),
            SocketAddr::V6(v6) => self
                .kind(6)
                .bytes(&v6.ip().octets())
                .number(v6.flowinfo().to_be_bytes())
                .number(v6.scope_id().to_be_bytes()),
        };
        self.number(address.port().to_be_bytes())
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (these, rest) = self.0.split_at_checked(count).ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(these)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.bytes(N)?.try_into().expect("so many were taken"))
    }

    fn short(&mut self) -> Result<u16, Malformed> {
        self.number().map(u16::from_be_bytes)
    }

    fn long(&mut self) -> Result<u32, Malformed> {
        self.number().map(u32::from_be_bytes)
    }

    fn time(&mut self) -> Result<Duration, Malformed> {
        self.number().map(u64::from_be_bytes).map(Duration::from_micros)
    }

    fn magic(&mut self) -> Result<&mut Reader<'a>, Malformed> {
        if self.number()? == MAGIC { Ok(self) } else { Err(Malformed("it does not begin as one")) }
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let len = usize::from(self.short()?);
        self.utf8(len, TEXT_MAX)
    }

    fn answer(&mut self) -> Result<String, Malformed> {
        let len = self.long()? as usize;
        self.utf8(len, ANSWER_MAX)
    }

    fn utf8(&mut self, len: usize, most: usize) -> Result<String, Malformed> {
        if len > most {
            return Err(Malformed("a text that is too long"));
        }
        let text = std::str::from_utf8(self.bytes(len)?).map_err(|_| Malformed("a text that is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn client(&mut self) -> Result<ClientDebt, Malformed> {
        Ok(ClientDebt { client: self.number()?, left: self.time()? })
    }

    fn account(&mut self) -> Result<Message, Malformed> {
        let [flags] = self.number()?;
        let len = self.long()? as usize;
        if len > ACCOUNT_PART_MAX {
            return Err(Malformed("a part of an account that is too long"));
        }
        let part = self.bytes(len)?.to_vec();
        Ok(Message::Account { first: flags & FIRST != 0, last: flags & LAST != 0, part })
    }

    fn form(&mut self) -> Result<Form, Malformed> {
        match self.number()? {
            [TABLE] => Ok(Form::Table),
            [JSON] => Ok(Form::Json),
            _ => Err(Malformed("a form of an answer that is not known here")),
        }
    }

    fn address(&mut self) -> Result<SocketAddr, Malformed> {
        match self.number()? {
            [4] => {
                let ip = Ipv4Addr::from(self.number::<4>()?);
                Ok((IpAddr::V4(ip), self.short()?).into())
            }
            [6] => {
                let (ip, flow, scope) = (Ipv6Addr::from(self.number::<16>()?), self.long()?, self.long()?);
                Ok(SocketAddrV6::new(ip, self.short()?, flow, scope).into())
            }
            _ => Err(Malformed("an address of no known family")),
        }
    }

    fn list<T>(
        &mut self,
        most: usize,
        entry: impl Fn(&mut Reader<'a>) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::from(self.short()?);
        if count > most {
            return Err(Malformed("more entries than a message may have"));
        }
        (0..count).map(|_| entry(self)).collect()
    }

    fn socket(&mut self) -> Result<Socket, Malformed> {
        Ok(Socket { address: self.address()?, name: self.text()? })
    }

    fn session(&mut self) -> Result<SessionState, Malformed> {
        let id = self.text()?;
        let (micros, who) = SessionId::decode(&id).ok_or(Malformed("a session's id that is none"))?;
        let (service, listener, server) = (self.text()?, self.text()?, self.text()?);
        let (client, destination) = (self.address()?, self.address()?);
        let mut ages = [Duration::ZERO; 6];
        for age in &mut ages {
            *age = self.time()?;
        }
        let [flags] = self.number()?;
        let first_to_end = match self.number()? {
            [NOBODY] => None,
            [CLIENT] => Some(Side::Client),
            [SERVER] => Some(Side::Server),
            _ => return Err(Malformed("a side that is none")),
        };
        let (attempts, early) = (self.long()?, self.long()?);
        let pair = PairState {
            greeted: flags & GREETED != 0,
            holds_end: flags & HOLDS_END != 0,
            client_was_told: flags & CLIENT_WAS_TOLD != 0,
            first_to_end,
            client: self.half()?,
            server: self.half()?,
        };
        Ok(SessionState {
            id: SessionId::new(micros, who),
            service,
            listener,
            server,
            client,
            destination,
            ages,
            awaits_greeting: flags & AWAITS_GREETING != 0,
            is_tls: flags & IS_TLS != 0,
            tls_at_peer: flags & TLS_AT_PEER != 0,
            tls_certificate: flags & TLS_CERTIFICATE != 0,
            unasked: flags & UNASKED != 0,
            attempts,
            early,
            pair,
        })
    }

    fn half(&mut self) -> Result<HalfState, Malformed> {
        let [flags] = self.number()?;
        let received = self.number().map(u64::from_be_bytes)?;
        let len = self.long()? as usize;
        Ok(HalfState {
            ended: flags & ENDED != 0,
            deaf: flags & DEAF != 0,
            shut: flags & SHUT != 0,
            received,
            held: self.bytes(len)?.to_vec(),
        })
    }

    fn connection(&mut self) -> Result<Connection, Malformed> {
        let (listener, peer, age, left) = (self.address()?, self.address()?, self.time()?, self.time()?);
        let len = self.long()? as usize;
        Ok(Connection { listener, peer, age, left, bytes: self.bytes(len)?.to_vec() })
    }
}

/// As much of a text as fits into so many bytes.
fn beginning(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn session(for_client: &[u8], for_server: &[u8]) -> SessionState {
        let client = address("[2001:db8::7]:40239");
        let half = |held: &[u8]| HalfState {
            ended: held.is_empty(),
            shut: true,
            received: 7,
            held: held.to_vec(),
            ..HalfState::default()
        };
        SessionState {
            id: SessionId::new(5, client),
            service: "imap-login".into(),
            listener: "imap_haproxy".into(),
            server: "mail1".into(),
            client,
            destination: address("192.0.2.1:143"),
            ages: [6, 5, 4, 3, 2, 1].map(Duration::from_micros),
            awaits_greeting: false,
            is_tls: for_client.is_empty(),
            tls_at_peer: true,
            tls_certificate: for_client.is_empty(),
            unasked: !for_client.is_empty(),
            attempts: 2,
            early: 9,
            pair: PairState {
                greeted: true,
                first_to_end: Some(Side::Server),
                client: half(for_client),
                server: half(for_server),
                ..PairState::default()
            },
        }
    }

    fn all() -> Vec<Message> {
        let connection = |bytes: &[u8]| Connection {
            listener: address("192.0.2.1:143"),
            peer: SocketAddrV6::new("fe80::7".parse().expect("an address"), 5000, 3, 2).into(),
            age: Duration::from_micros(1_500_000),
            left: Duration::from_micros(7),
            bytes: bytes.to_vec(),
        };
        vec![
            Message::Hello { version: VERSION },
            Message::Welcome { version: VERSION, sockets: 2 },
            Message::Sockets(vec![
                Socket { address: address("0.0.0.0:143"), name: "imap".into() },
                Socket { address: address("[2001:db8::1]:993"), name: String::new() },
            ]),
            Message::Serving(vec![address("192.0.2.1:143"), address("[::]:143")]),
            Message::Pending(vec![connection(b""), connection(b"PROXY TCP4 ")]),
            Message::Sessions(vec![session(b"", b""), session(b"a NOOP\r\n", b"* OK still here\r\n")]),
            Message::Clients(vec![ClientDebt { client: [7; 16], left: Duration::from_micros(60_000_001) }]),
            Message::Account { first: true, last: false, part: b"vestibule counts".to_vec() },
            Message::Account { first: false, last: true, part: Vec::new() },
            Message::End { pending: 2 },
            Message::Taken { pending: 2 },
            Message::Leaving,
            Message::Ask(Form::Table),
            Message::Ask(Form::Json),
            Message::Answer("accepted  1\n".into()),
            Message::Refused("the reason".into()),
        ]
    }

    #[test]
    fn every_message_comes_back_as_it_was() {
        for message in all() {
            assert_eq!(decode(&encode(&message)), Ok(message));
        }
    }

    #[test]
    fn every_part_of_a_message_is_refused() {
        for message in all() {
            let whole = encode(&message);
            for len in 0..whole.len() {
                assert!(decode(&whole[..len]).is_err(), "{message:?} cut to {len}");
            }
            let longer = [&whole[..], b"x"].concat();
            assert!(decode(&longer).is_err() || matches!(message, Message::Hello { .. }), "{message:?} and more");
        }
    }

    #[test]
    fn garbage_is_refused_or_is_a_message_within_its_limits() {
        let mut random = fastrand::Rng::with_seed(7);
        let seeds: Vec<Vec<u8>> = all().iter().map(encode).collect();
        for _ in 0..200_000 {
            let mut packet = random.choice(&seeds).expect("not empty").clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..packet.len());
                packet[at] = random.u8(..);
            }
            if let Ok(message) = decode(&packet).map(without_other_versions) {
                assert!(encode(&message).len() <= packet.len(), "{message:?}");
            }
        }
        for len in 0..512 {
            let noise: Vec<u8> = (0..len).map(|_| random.u8(14..255)).collect();
            assert!(decode(&noise).is_err());
        }
    }

    /// Another version's answer is cut to what all versions have.
    fn without_other_versions(message: Message) -> Message {
        match message {
            Message::Welcome { version, .. } if version != VERSION => Message::Hello { version },
            message => message,
        }
    }

    #[test]
    fn lists_and_texts_are_bounded() {
        let socket = Socket { address: address("192.0.2.1:1"), name: "é".repeat(TEXT_MAX) };
        let Ok(Message::Sockets(cut)) = decode(&encode(&Message::Sockets(vec![socket.clone()]))) else {
            panic!("it fits")
        };
        assert_eq!(cut[0].name.len(), TEXT_MAX);
        let long = [&[ANSWER][..], &(ANSWER_MAX as u32 + 1).to_be_bytes(), &vec![b'x'; ANSWER_MAX + 1]].concat();
        assert!(decode(&long).is_err());
        assert!(decode(&encode(&Message::Sockets(vec![socket; ENTRIES_MAX + 1]))).is_err());
        assert!(decode(&encode(&Message::Serving(vec![address("192.0.2.1:1"); ADDRESSES_MAX + 1]))).is_err());
        let debt = ClientDebt { client: [0; 16], left: Duration::ZERO };
        assert!(decode(&encode(&Message::Clients(vec![debt; CLIENTS_PART_MAX + 1]))).is_err());
        let part = vec![b'x'; ACCOUNT_PART_MAX + 1];
        assert!(decode(&encode(&Message::Account { first: true, last: true, part })).is_err());
    }

    #[test]
    fn other_versions_are_understood_as_far_as_to_say_so() {
        let next = VERSION + 1;
        let hello = [&encode(&Message::Hello { version: next })[..], b"what comes then"].concat();
        assert_eq!(decode(&hello), Ok(Message::Hello { version: next }));
        let welcome = [&encode(&Message::Welcome { version: next, sockets: 9 })[..], b"what comes then"].concat();
        assert_eq!(decode(&welcome), Ok(Message::Welcome { version: next, sockets: 0 }));
    }

    #[test]
    fn the_longest_connection_fits_in_a_message() {
        let address = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 1, 1).into();
        let (age, left) = (Duration::from_secs(1), Duration::from_secs(1));
        let bytes = vec![0; 65_551];
        let longest = Connection { listener: address, peer: address, age, left, bytes };
        let bound = longest.size_bound();
        let len = encode(&Message::Pending(vec![longest])).len();
        assert!(len <= 3 + bound && len <= MESSAGE_MAX);
        let sockets = vec![Socket { address, name: "n".repeat(TEXT_MAX) }; ENTRIES_MAX];
        assert!(encode(&Message::Sockets(sockets)).len() <= MESSAGE_MAX);
        assert!(encode(&Message::Serving(vec![address; ADDRESSES_MAX])).len() <= MESSAGE_MAX);
        assert!(encode(&Message::Answer("é".repeat(ANSWER_MAX))).len() <= MESSAGE_MAX);
        let debt = ClientDebt { client: [0; 16], left: Duration::ZERO };
        assert!(encode(&Message::Clients(vec![debt; CLIENTS_PART_MAX])).len() <= MESSAGE_MAX);
        let part = vec![b'x'; ACCOUNT_PART_MAX];
        assert!(encode(&Message::Account { first: true, last: true, part }).len() <= MESSAGE_MAX);
    }
}
