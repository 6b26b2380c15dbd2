//! Sessions whose client's TLS ends here, through real rings.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use socket2::SockRef;

use super::Relay;
use super::tests::{backend, held, server, wait_for};
use crate::dispatch::testing::{SOON, until};
use crate::engine::handshake::tests::{Client, connect, identity};
use crate::engine::{DriverChoice, Engine, Listener, SharedBackend};
use crate::proxy::{Head, kind};
use crate::relay::{Forward, ForwardTlvs, Target};
use crate::ring::kernel_tls;
use crate::tls::{Identity, Termination};

/// On what the engine runs, and whether the kernel is to go on with sessions.
type Way = (DriverChoice, bool);

const USUAL: Way = (DriverChoice::Auto, false);

/// All that there are on this kernel.
fn ways() -> Vec<Way> {
    let kernel = [false, true].into_iter().filter(|wanted| !wanted || kernel_tls().is_ok());
    kernel.flat_map(|kernel| [DriverChoice::IoUring, DriverChoice::Epoll].map(|driver| (driver, kernel))).collect()
}

fn engine((driver, to_kernel): Way, identity: &Identity, backend: &SharedBackend) -> Engine {
    let relay = Relay::new("imap-login", backend);
    Engine::builder()
        .driver(driver)
        .rings(NonZeroUsize::MIN)
        .pin(false)
        .relay(relay.forward(Forward::ProxyV2, Target::Vestibule, Some(ForwardTlvs::ALL)))
        .listen(
            Listener::plain(SocketAddr::from(([127, 0, 0, 1], 0)))
                .pool("imap-login")
                .tls(Termination::new(identity, &["imap"]).to_kernel(to_kernel)),
        )
        .start()
        .expect("loopback has free ports")
}

/// Reads a version 2 header.
fn header(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = vec![0; 16];
    stream.read_exact(&mut header)?;
    let length = u16::from_be_bytes([header[14], header[15]]);
    header.resize(16 + usize::from(length), 0);
    stream.read_exact(&mut header[16..])?;
    Ok(header)
}

/// Greets, echoes until the end, and says goodbye.
fn echo(mut stream: TcpStream) -> io::Result<()> {
    header(&mut stream)?;
    stream.write_all(b"* OK ready\r\n")?;
    let mut room = vec![0; 65536];
    loop {
        match stream.read(&mut room)? {
            0 => return stream.write_all(b"* BYE\r\n"),
            count => stream.write_all(&room[..count])?,
        }
    }
}

fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut random = Rng::with_seed(seed);
    let mut bytes = vec![0; count];
    random.fill(&mut bytes);
    bytes
}

#[test]
fn servers_are_told_of_the_tls_that_has_ended() {
    let (told, heard) = channel();
    let tell = move |mut stream: TcpStream| {
        told.send(header(&mut stream)?).expect("the test waits");
        stream.write_all(b"* OK ready\r\n")
    };
    let identity = identity();
    let backend = backend(&[server(tell)]);
    let engine = engine(USUAL, &identity, &backend);
    let mut said = String::new();
    connect(&identity, engine.addresses()[0]).read_to_string(&mut said).expect("TLS until close_notify");
    assert_eq!(said, "* OK ready\r\n");
    let header = heard.recv_timeout(SOON).expect("the server was connected to");
    let header = Head::of(&header).and_then(|head| head.over(&header)).expect("a header");
    let ssl = header.ssl().expect("TLS was spoken");
    assert!(ssl.tls() && !ssl.certificate_verified());
    assert_eq!((ssl.version(), ssl.tlv(kind::SSL_CIPHER)), (Some("TLSv1.3"), Some(&b"TLS_AES_256_GCM_SHA384"[..])));
    assert_eq!(header.authority(), Some("mail.example"));
    drop(engine);
}

#[test]
fn a_client_that_nobody_serves_is_told_so_inside_tls() {
    let identity = identity();
    let refusing = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports").local_addr().expect("bound");
    for way in ways() {
        let engine = engine(way, &identity, &backend(&[refusing]));
        let mut said = String::new();
        connect(&identity, engine.addresses()[0]).read_to_string(&mut said).expect("TLS until close_notify");
        assert!(said.starts_with("* BYE [UNAVAILABLE] "), "{said}");
        wait_for(&engine, "connect-failed");
    }
}

/// Says all of it in pieces of random size, then ends its stream as told, and reads everything.
fn talk(mut client: Client, said: &[u8], seed: u64, close: Close) -> Vec<u8> {
    let mut random = Rng::with_seed(seed);
    let mut heard = Vec::new();
    let mut rest = said;
    let mut room = vec![0; 100_000];
    while !rest.is_empty() {
        let most = if random.bool() { 300 } else { 60_000 };
        let (piece, more) = rest.split_at(rest.len().min(1 + random.usize(..most)));
        client.write_all(piece).expect("the relay takes it");
        rest = more;
        // What is echoed must be read now and then, or nobody can go on.
        while heard.len() + 500_000 < said.len() - rest.len() {
            let most = 1 + random.usize(..room.len());
            match client.read(&mut room[..most]).expect("the relay goes on") {
                0 => panic!("it has ended after {} bytes", heard.len()),
                count => heard.extend_from_slice(&room[..count]),
            }
        }
    }
    if close == Close::Notify {
        client.conn.send_close_notify();
    }
    client.flush().expect("the relay takes it");
    if close == Close::Fin {
        client.sock.shutdown(Shutdown::Write).expect("connected");
    }
    client.read_to_end(&mut heard).expect("TLS until close_notify");
    heard
}

/// How a client ends its stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Close {
    /// As TLS has it, and the connection stays open.
    Notify,
    /// Only the connection's.
    Fin,
}

#[test]
fn every_byte_passes_both_ways_whatever_the_sizes_and_whoever_ends() {
    let identity = identity();
    let backend = backend(&[server(echo)]);
    for way in ways() {
        let engine = engine(way, &identity, &backend);
        let address = engine.addresses()[0];
        let talking: Vec<_> = (0..24)
            .map(|number| {
                let mut client = connect(&identity, address);
                thread::spawn(move || {
                    let mut random = Rng::with_seed(number);
                    let said = bytes(if number % 6 == 0 { 3_000_000 } else { random.usize(..60_000) }, number);
                    let close = if number % 2 == 0 { Close::Notify } else { Close::Fin };
                    // The kernel takes nobody over who talks on behind the handshake.
                    let mut heard = vec![0; if way.1 { 12 } else { 0 }];
                    client.read_exact(&mut heard).expect("the server greets");
                    heard.append(&mut talk(client, &said, number, close));
                    let expected = [b"* OK ready\r\n", &said[..], b"* BYE\r\n"].concat();
                    assert!(heard == expected, "client {number}: {} bytes of {}", heard.len(), expected.len());
                })
            })
            .collect();
        talking.into_iter().for_each(|client| client.join().expect("as asserted"));
        until("all sessions have ended", || held(&backend) == 0);
        let snapshot = engine.snapshot();
        let kernel = if way.1 { 24 } else { 0 };
        assert_eq!(["client-closed", "tls-to-kernel"].map(|name| snapshot.count(name)), [24, kernel], "{way:?}");
    }
}

#[test]
fn a_slow_client_gets_all_that_the_server_has_said_before_it_ended() {
    const SIZE: usize = 6_000_000;
    let speak = |mut stream: TcpStream| {
        header(&mut stream)?;
        stream.write_all(&bytes(SIZE, 3))?;
        stream.shutdown(Shutdown::Write)?;
        // What the client says afterwards still arrives.
        let mut said = Vec::new();
        stream.read_to_end(&mut said)?;
        assert_eq!(said.len(), 100_000);
        Ok(())
    };
    let identity = identity();
    let backend = backend(&[server(speak)]);
    for way in ways() {
        let engine = engine(way, &identity, &backend);
        let mut client = connect(&identity, engine.addresses()[0]);
        client.flush().expect("it shakes hands");
        thread::sleep(Duration::from_millis(200)); // everything is full now
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("TLS until close_notify");
        assert!(heard == bytes(SIZE, 3), "{} bytes", heard.len());
        assert_eq!(held(&backend), 1, "it can still speak");
        client.write_all(&vec![1; 100_000]).expect("the server listens");
        client.conn.send_close_notify();
        client.flush().expect("the relay listens");
        until("the session has ended", || held(&backend) == 0);
        wait_for(&engine, "server-closed");
    }
}

#[test]
fn records_that_hold_next_to_nothing_are_read_to_the_last() {
    const RECORDS: usize = 60_000;
    let identity = identity();
    let backend = backend(&[server(echo)]);
    for way in ways() {
        let engine = engine(way, &identity, &backend);
        let mut client = connect(&identity, engine.addresses()[0]);
        client.read_exact(&mut [0; 12]).expect("the server greets");
        client.conn.set_buffer_limit(None);
        // A record for each byte, all of them before anything is sent.
        let said = bytes(RECORDS, 5);
        for byte in &said {
            assert_eq!(client.conn.writer().write(&[*byte]).expect("it has no limit"), 1);
        }
        client.conn.send_close_notify();
        client.flush().expect("the relay takes it");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("TLS until close_notify");
        assert!(heard == [&said[..], b"* BYE\r\n"].concat(), "{} bytes", heard.len());
        until("the session has ended", || held(&backend) == 0);
    }
}

#[test]
fn a_check_that_goes_as_far_as_the_session_reaches_no_server() {
    let identity = identity();
    let backend = backend(&[server(echo)]);
    let trusted = ["127.0.0.0/8".parse().expect("a network")];
    let listener = Listener::proxy(SocketAddr::from(([127, 0, 0, 1], 0))).trust(trusted).pool("imap-login");
    let engine = Engine::builder()
        .rings(NonZeroUsize::MIN)
        .pin(false)
        .relay(Relay::new("imap-login", &backend))
        .listen(listener.tls(Termination::new(&identity, &[])))
        .start()
        .expect("loopback has free ports");
    let Client { mut conn, mut sock } = connect(&identity, engine.addresses()[0]);
    let mut hello = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    conn.write_tls(&mut hello).expect("a vector takes every write");
    sock.write_all(&hello).expect("connected");
    while conn.is_handshaking() {
        conn.read_tls(&mut sock).expect("the ring answers");
        conn.process_new_packets().expect("they agree");
    }
    // The last word and the end in one segment: a session that is doubted has not much time.
    let mut last = Vec::new();
    conn.write_tls(&mut last).expect("a vector takes every write");
    SockRef::from(&sock).send_with_flags(&last, libc::MSG_MORE).expect("connected");
    sock.shutdown(Shutdown::Write).expect("connected");
    wait_for(&engine, "probe");
    let given = backend.lock().servers(std::time::Instant::now()).next().expect("it has one").totals.sessions;
    assert_eq!((given, engine.snapshot().count("tls-established")), (0, 1));
}

#[test]
fn sessions_with_tls_stay_in_a_takeover_and_are_counted() {
    let identity = identity();
    let backend = backend(&[server(echo)]);
    let mut old = engine(USUAL, &identity, &backend);
    let mut client = connect(&identity, old.addresses()[0]);
    client.read_exact(&mut [0; 12]).expect("the server greets");
    old.hand_over(&[], SOON);
    let (sessions, stay) = old.hand_over_sessions();
    assert_eq!((sessions.len(), stay), (0, 1));
    client.write_all(b"a").expect("it is served on");
    let mut heard = [0];
    client.read_exact(&mut heard).expect("it is served on");
    assert_eq!(&heard, b"a");
    drop(client);
    assert!(old.retire(SOON));
}

#[test]
fn garbage_amid_a_session_ends_it_and_only_it() {
    let (told, heard): (Sender<Vec<u8>>, _) = channel();
    let serve = move |mut stream: TcpStream| {
        header(&mut stream)?;
        stream.write_all(b"* OK ready\r\n")?;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        told.send(said).expect("the test waits");
        Ok(())
    };
    let identity = identity();
    let backend = backend(&[server(serve)]);
    let engine = engine(USUAL, &identity, &backend);
    let mut client = connect(&identity, engine.addresses()[0]);
    client.write_all(b"a NOOP").expect("it is served");
    client.read_exact(&mut [0; 12]).expect("the server greets");
    client.sock.write_all(&[0x55; 100]).expect("connected");
    assert!(client.read(&mut [0]).is_err(), "an alert, or a close");
    assert_eq!(heard.recv_timeout(SOON).expect("the server sees an end"), b"a NOOP");
    wait_for(&engine, "client-reset");
}
