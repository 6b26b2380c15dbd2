//! TLS in front of any handler: listeners with `ssl = yes` get a handshake before the handler sees the connection.
//!
//! The handshake blocks a thread of the pool, so it stands under one absolute deadline and a limit of bytes. The bytes
//! that came behind the PROXY header are the beginning of the ClientHello.

mod clients;
mod identity;
mod names;
mod session;
mod subject;

pub use clients::ClientAuthorities;
pub use identity::{Identity, PEM_FILE_MAX, TlsError};
#[doc(hidden)] // held against Dovecot by tests
pub use names::is_matched;
/// Version 0.23: part of the public interface on purpose, by the errors of [`TlsError`].
pub use rustls;
pub use session::HANDSHAKE_BYTES_MAX;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use self::session::{Failure, Session};
use super::Handler;
use crate::dispatch::Accepted;
use crate::stats::{PassedOver, Repeats};

/// From the moment a worker takes the connection until the session must stand.
pub const HANDSHAKE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The longest that can be set: a handshake holds a worker, and a clock cannot show every time to come.
pub const HANDSHAKE_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// A client that fails for the same reason at the same listener is logged once in this time; a later line counts the others.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// The protocols that clients of a service name in ALPN; none for a service unknown here.
pub fn alpn_of_service(service: &str) -> &'static [&'static str] {
    match service.trim_end_matches("-login") {
        "imap" => &["imap"],
        "pop3" => &["pop3"],
        "submission" => &["submission"],
        "managesieve" => &["managesieve"],
        _ => &[],
    }
}

/// A handler behind TLS: connections of listeners with `ssl` reach it through a session, all others as they are.
pub struct Tls<H> {
    config: Arc<ServerConfig>,
    /// Whether the names in clients' certificates can be believed.
    verifies_clients: bool,
    timeout: Duration,
    failures: Arc<AtomicU64>,
    checks: Arc<AtomicU64>,
    lines: Repeats<Kind>,
    handler: H,
}

impl<H: Handler> Tls<H> {
    /// Shows `identity` and speaks the protocols `alpn`; an empty list switches ALPN off, otherwise a client that
    /// offers only others is refused.
    pub fn new(identity: &Identity, alpn: &[&str], handler: H) -> Tls<H> {
        Tls {
            config: Arc::new(identity.server_config(alpn)),
            verifies_clients: identity.verifies_clients(),
            timeout: HANDSHAKE_TIMEOUT_DEFAULT,
            failures: Arc::new(AtomicU64::new(0)),
            checks: Arc::new(AtomicU64::new(0)),
            lines: Repeats::new(LOG_PERIOD),
            handler,
        }
    }

    /// Another limit than [`HANDSHAKE_TIMEOUT_DEFAULT`] for the whole handshake, at most [`HANDSHAKE_TIMEOUT_MAX`].
    pub fn timeout(mut self, timeout: Duration) -> Tls<H> {
        self.timeout = timeout.min(HANDSHAKE_TIMEOUT_MAX);
        self
    }

    /// Counts handshakes that fail in `failures`, which others may share.
    pub fn count_failures_in(mut self, failures: Arc<AtomicU64>) -> Tls<H> {
        self.failures = failures;
        self
    }

    /// The number of handshakes that failed, for whoever reports it later.
    pub fn failures(&self) -> Arc<AtomicU64> {
        self.failures.clone()
    }

    /// Counts the balancer's checks that go no further than the handshake in `checks`, which others may share.
    pub fn count_checks_in(mut self, checks: Arc<AtomicU64>) -> Tls<H> {
        self.checks = checks;
        self
    }

    /// The number of the balancer's checks that went no further than the handshake.
    pub fn checks(&self) -> Arc<AtomicU64> {
        self.checks.clone()
    }

    fn refuse(&self, connection: &Accepted, failure: &Failure) {
        if failure.is_how_checks_end() && connection.is_check() {
            self.checks.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        let Some(reason) = failure.code() else { return };
        let (listener, rip) = (connection.listener(), connection.client().ip());
        let key = Kind { service: listener.service.clone(), listener: listener.name.clone(), rip, reason };
        let noted = self.lines.note(key, Instant::now());
        tell(&noted.ended);
        if noted.is_first() {
            let (service, name, lip) = (&*listener.service, &*listener.name, connection.destination().ip());
            let words = "TLS handshaking failed";
            tracing::warn!(
                service,
                "{words} (rip={rip}, lip={lip}): {failure}: listener={name} peer={}",
                connection.peer()
            );
        }
    }
}

impl<H> Drop for Tls<H> {
    fn drop(&mut self) {
        tell(&self.lines.end_all());
    }
}

/// What failures have in common that get one line in [`LOG_PERIOD`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    service: String,
    listener: String,
    rip: IpAddr,
    reason: &'static str,
}

fn tell(ended: &[PassedOver<Kind>]) {
    for PassedOver { key, count } in ended {
        match key {
            Some(Kind { service, listener, rip, reason }) => tracing::warn!(
                service,
                "TLS handshaking failed: {count} more like this suppressed (rip={rip}): reason={reason} listener={listener}"
            ),
            None => tracing::warn!("TLS handshaking failed: {count} more from too many sources to tell apart"),
        }
    }
}

impl<H: Handler> Handler for Tls<H> {
    fn handle(&self, connection: Accepted) {
        if !connection.listener().ssl {
            return self.handler.handle(connection);
        }
        match Session::establish(self.config.clone(), &connection, Instant::now() + self.timeout) {
            Ok(session) => {
                let session = if self.verifies_clients { session.with_client_name() } else { session };
                self.handler.handle(connection.with_tls(Box::new(session)))
            }
            Err(failure) => self.refuse(&connection, &failure),
        }
    }
}

#[cfg(all(test, feature = "daemon"))] // for Whoami
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::thread;

    use rustls::pki_types::ServerName;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

    use super::*;
    use crate::dispatch::TlsInfo;
    use crate::dispatch::testing::{V1, connection};
    use crate::worker::Whoami;
    use crate::worker::testing::all_of;

    const SHORT: Duration = Duration::from_millis(100);

    fn identity() -> Identity {
        Identity::self_signed(&["mail.example"]).expect("a good name")
    }

    /// A client that trusts `identity` alone, with its ClientHello.
    fn client(
        identity: &Identity,
        version: &'static SupportedProtocolVersion,
        alpn: &[&str],
    ) -> (ClientConnection, Vec<u8>) {
        let mut roots = RootCertStore::empty();
        roots.add(identity.certificate()).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("a known version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("mail.example").expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let mut hello = Vec::new();
        client.write_tls(&mut hello).expect("a vector takes every write");
        (client, hello)
    }

    /// What the client reads in plaintext when `residual` bytes of its ClientHello came behind the header.
    fn conversation(server: Tls<Whoami>, mut client: ClientConnection, hello: &[u8], residual: usize) -> String {
        let (mut socket, accepted) = connection(&[V1, &hello[..residual]].concat(), true, true);
        let server = thread::spawn(move || server.handle(accepted));
        socket.write_all(&hello[residual..]).expect("connected");
        let mut line = String::new();
        rustls::Stream::new(&mut client, &mut socket).read_to_string(&mut line).expect("TLS until close_notify");
        drop(socket);
        server.join().expect("no panic");
        line
    }

    #[test]
    fn a_client_hello_may_be_split_anywhere_between_residual_and_socket() {
        let identity = identity();
        for version in [&TLS12, &TLS13] {
            let length = client(&identity, version, &["imap"]).1.len();
            for residual in [0, 1, 4, 5, 6, length / 2, length - 1, length] {
                let (client, hello) = client(&identity, version, &["imap"]);
                let line = conversation(Tls::new(&identity, &["imap"], Whoami), client, &hello, residual);
                assert!(line.contains("\"client\":\"198.51.100.7:5000\""), "{line}");
                assert!(line.contains("\"tls\":true,\"tlvs\":[],\"residual\":\"\""), "{line}");
                assert!(line.ends_with("\"sni\":\"mail.example\",\"alpn\":\"imap\"}\n"), "{line}");
            }
        }
    }

    #[test]
    fn the_session_tells_its_version() {
        for (version, shown) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
            let identity = identity();
            let (client, hello) = client(&identity, version, &[]);
            let tell = |accepted: Accepted| {
                let info = accepted.tls().expect("a session").clone();
                let mut stream = accepted.into_stream();
                write!(stream, "{info:?}").and_then(|()| stream.finish(Duration::from_secs(1))).expect("connected");
            };
            let server = Tls::new(&identity, &["imap"], tell);
            let (mut socket, accepted) = connection(V1, true, true);
            let thread = thread::spawn(move || server.handle(accepted));
            socket.write_all(&hello).expect("connected");
            let (mut client, mut told) = (client, String::new());
            rustls::Stream::new(&mut client, &mut socket).read_to_string(&mut told).expect("TLS until close_notify");
            drop(socket);
            thread.join().expect("no panic");
            let expected =
                TlsInfo { version: Some(shown), server_name: Some("mail.example".into()), ..TlsInfo::default() };
            assert_eq!(told, format!("{expected:?}"));
        }
    }

    #[test]
    fn listeners_without_ssl_are_passed_through() {
        let (client, accepted) = connection(V1, true, false);
        Tls::new(&identity(), &[], Whoami).handle(accepted);
        assert!(String::from_utf8(all_of(client)).expect("JSON").contains("\"tls\":false"));
    }

    /// Runs a handshake that must fail; returns what the client got and how many failures were counted.
    fn failing(server: Tls<Whoami>, client: impl FnOnce(TcpStream) -> Vec<u8> + Send + 'static) -> (Vec<u8>, u64) {
        let (socket, accepted) = connection(V1, true, true);
        let client = thread::spawn(move || client(socket));
        let failures = server.failures();
        server.handle(accepted);
        (client.join().expect("no panic"), failures.load(Ordering::Relaxed))
    }

    #[test]
    fn a_silent_client_is_dropped_at_the_deadline() {
        let started = Instant::now();
        let server = Tls::new(&identity(), &[], Whoami).timeout(SHORT);
        assert_eq!(failing(server, all_of), (vec![], 1));
        assert!(started.elapsed() >= SHORT);
    }

    #[test]
    fn no_timeout_is_too_long_to_be_set() {
        let close = |socket: TcpStream| {
            drop(socket);
            Vec::new()
        };
        let server = Tls::new(&identity(), &[], Whoami).timeout(Duration::MAX);
        assert_eq!(failing(server, close).1, 1);
    }

    #[test]
    fn a_trickling_client_does_not_move_the_deadline() {
        let identity = identity();
        let (_, hello) = client(&identity, &TLS13, &[]);
        let server = Tls::new(&identity, &[], Whoami).timeout(SHORT);
        let all = hello.len();
        let trickle = move |mut socket: TcpStream| {
            let one_by_one = hello.into_iter().take_while(|&byte| {
                thread::sleep(SHORT / 5);
                socket.write_all(&[byte]).is_ok()
            });
            one_by_one.collect()
        };
        let (taken, failures) = failing(server, trickle);
        assert!(taken.len() < all, "aborted before the ClientHello was whole");
        assert_eq!(failures, 1);
    }

    #[test]
    fn other_protocols_get_an_alert() {
        let speak = |mut socket: TcpStream| {
            socket.write_all(b"a LOGIN joe secret\r\n").expect("connected");
            all_of(socket)
        };
        let (got, failures) = failing(Tls::new(&identity(), &[], Whoami), speak);
        assert_eq!((got[0], failures), (21, 1), "content type 21 is an alert");
    }

    #[test]
    fn what_comes_instead_of_tls_is_named_with_its_remedy() {
        for (first, diagnosis) in [
            (&b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 993\r\n"[..], "diagnosis=header-on-tls (a PROXY header, and"),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "diagnosis=header-on-tls (a PROXY header, and"),
            (b"a LOGIN joe secret\r\n", "diagnosis=plaintext-on-tls (no TLS, and this listener has ssl = yes"),
        ] {
            let (mut socket, accepted) = connection(b"", false, true);
            socket.write_all(first).expect("connected");
            socket.shutdown(Shutdown::Write).expect("connected");
            let config = Arc::new(identity().server_config(&[]));
            let failure = Session::establish(config, &accepted, Instant::now() + crate::dispatch::testing::SOON).err();
            let text = failure.expect("that is no handshake").to_string();
            assert!(text.starts_with("no TLS: first=") && text.contains(diagnosis), "{text}");
            assert!(!text.contains("InvalidContentType") && text.len() < 600, "{text}");
        }
    }

    #[test]
    fn a_check_that_ends_in_the_handshake_is_no_failure() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        let identity = identity();
        let (_, hello) = client(&identity, &TLS13, &[]);
        for said in [&b""[..], &hello[..20], &hello] {
            let server = Tls::new(&identity, &[], Whoami);
            let (mut socket, accepted) = connection(&[&local[..], said].concat(), true, true);
            let (failures, checks) = (server.failures(), server.checks());
            socket.shutdown(Shutdown::Write).expect("connected");
            server.handle(accepted);
            let _ = socket.read(&mut [0; 1024]);
            assert_eq!((failures.load(Ordering::Relaxed), checks.load(Ordering::Relaxed)), (0, 1));
        }
        let server = Tls::new(&identity, &[], Whoami);
        let (failures, checks) = (server.failures(), server.checks());
        let (socket, accepted) = connection(&[&local[..], b"a NOOP\r\n"].concat(), true, true);
        server.handle(accepted);
        drop(socket);
        let counted = (failures.load(Ordering::Relaxed), checks.load(Ordering::Relaxed));
        assert_eq!(counted, (1, 0), "a check by another protocol is a fault to tell of");
    }

    #[test]
    fn a_handshake_that_is_refused_is_a_fault_also_of_the_balancers_own() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        let identity = identity();
        let other_protocol = client(&identity, &TLS13, &["h2"]).1;
        let too_old = client(&identity, &TLS12, &["imap"]).1;
        for (hello, only_1_3) in
            [(&other_protocol[..], false), (&too_old, true), (b"a", false), (b"\x16\x03\x01a", false)]
        {
            let shown = if only_1_3 { identity.clone().only_tls_1_3() } else { identity.clone() };
            let server = Tls::new(&shown, &["imap"], Whoami);
            let (failures, checks) = (server.failures(), server.checks());
            let (socket, accepted) = connection(&[&local[..], hello].concat(), true, true);
            socket.shutdown(Shutdown::Write).expect("connected");
            server.handle(accepted);
            let is_check = hello.starts_with(b"\x16\x03\x01a"); // the beginning of a record, and a close
            let counted = (failures.load(Ordering::Relaxed), checks.load(Ordering::Relaxed));
            assert_eq!(counted, if is_check { (0, 1) } else { (1, 0) }, "{hello:?}");
        }
    }

    #[test]
    fn a_client_without_a_common_protocol_is_refused() {
        let identity = identity();
        let (mut client, hello) = client(&identity, &TLS13, &["h2"]);
        let speak = move |mut socket: TcpStream| {
            socket.write_all(&hello).expect("connected");
            let error = client.complete_io(&mut socket).expect_err("refused");
            error.to_string().into_bytes()
        };
        let (error, failures) = failing(Tls::new(&identity, &["imap"], Whoami), speak);
        assert_eq!(failures, 1);
        let error = String::from_utf8(error).expect("text");
        assert!(error.contains("NoApplicationProtocol"), "{error}");
    }

    #[test]
    fn a_client_that_closes_is_counted() {
        let close = |socket: TcpStream| {
            socket.shutdown(Shutdown::Write).expect("connected");
            all_of(socket)
        };
        assert_eq!(failing(Tls::new(&identity(), &[], Whoami), close), (vec![], 1));
    }

    #[test]
    fn services_have_their_protocols() {
        for (service, protocols) in [("imap-login", &["imap"][..]), ("pop3", &["pop3"]), ("lmtp", &[])] {
            assert_eq!(alpn_of_service(service), protocols);
        }
    }
}
