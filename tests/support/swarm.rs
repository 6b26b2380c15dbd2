//! Many connections at a time, each with a header of its own.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::client::{Client, address};
use super::header;
use super::mail::trusting_config;

/// How many connections a swarm makes, and how many are open at the same time.
pub const CONNECTIONS: u32 = 10_000;
pub const IN_FLIGHT: usize = 256;

/// Makes [`CONNECTIONS`] connections to `to`, [`IN_FLIGHT`] at a time, each conveying another client; gives the number
/// of those whose whole answer is right.
pub fn swarm(to: SocketAddr, is_right: impl Fn(&[u8], SocketAddr) -> bool + Sync) -> usize {
    let ask = || |header: &[u8]| Client::send_to(to, header).read_to_end().0;
    one_after_another(ask, is_right)
}

/// The same with TLS behind the header, and the sessions of clients that return resumed: there are [`IN_FLIGHT`] clients. An
/// answer that does not end with `close_notify` is an error.
pub fn secured_swarm(to: SocketAddr, is_right: impl Fn(&[u8], SocketAddr) -> bool + Sync) -> usize {
    one_after_another(|| secured_client(to), is_right)
}

/// A client that shakes hands behind a header that it is given, and hears all that the other side says until `close_notify`.
pub fn secured_client(to: SocketAddr) -> impl Fn(&[u8]) -> Vec<u8> {
    let config = client_config();
    move |header| {
        let client = Client::send_to(to, header);
        let name = ServerName::try_from("mail.test").expect("a name");
        let tls = ClientConnection::new(config.clone(), name).expect("a configuration");
        let mut said = Vec::new();
        let whole = StreamOwned::new(tls, client.stream).read_to_end(&mut said);
        whole.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&said)));
        said
    }
}

/// A client's end of TLS that has said nothing yet.
pub fn hello() -> ClientConnection {
    let name = ServerName::try_from("mail.test").expect("a name");
    ClientConnection::new(client_config(), name).expect("a configuration")
}

/// `client` makes what asks with a header, one for each thread.
fn one_after_another<A: Fn(&[u8]) -> Vec<u8>>(
    client: impl Fn() -> A + Sync,
    is_right: impl Fn(&[u8], SocketAddr) -> bool + Sync,
) -> usize {
    let next = AtomicU32::new(0);
    let right = AtomicUsize::new(0);
    let ask_on = || {
        let ask = client();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= CONNECTIONS {
                return;
            }
            let source = client_address(number);
            let said = ask(&header::v2(source, address("192.0.2.1:143"), &[]));
            right.fetch_add(is_right(&said, source).into(), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 0..IN_FLIGHT {
            // Small stacks: there are hundreds of them.
            thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, ask_on).expect("a thread");
        }
    });
    right.into_inner()
}

/// A client that believes every certificate and keeps its own tickets.
fn client_config() -> Arc<ClientConfig> {
    let mut config = trusting_config();
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

/// 198.18.0.0/15 is set aside for benchmarks.
fn client_address(number: u32) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number);
    (ip, 1024 + number as u16).into()
}
