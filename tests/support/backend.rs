//! A backend of the tests' own, for what no real mail server does when asked to: it expects a version 2 header and serves
//! each session by a function.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::client::loopback;
use super::free_port;
use super::oracle::{self, Endpoint, Rules, Verdict};

/// Small stacks: there are hundreds of threads.
const STACK: usize = 256 << 10;

/// A listening backend; dropped, it stops listening and lets its sessions end by themselves.
pub struct Backend {
    pub address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    stopped: AtomicBool,
    /// Sessions that are open, health checks not counted.
    open: AtomicUsize,
}

impl Backend {
    /// Starts it on a free port. `serve` gets each session's socket behind its header, and the client that the header
    /// names: none for a health check.
    pub fn start(serve: impl Fn(TcpStream, Option<SocketAddr>) + Send + Sync + 'static) -> Backend {
        // Other test processes take ports, too.
        let bind = || TcpListener::bind(loopback(free_port()));
        let bound = std::iter::repeat_with(bind).take(10).find_map(Result::ok);
        Backend::on(bound.expect("a free port"), serve)
    }

    /// The same at a given address.
    pub fn start_at(
        address: SocketAddr,
        serve: impl Fn(TcpStream, Option<SocketAddr>) + Send + Sync + 'static,
    ) -> Backend {
        Backend::on(TcpListener::bind(address).expect("a free port"), serve)
    }

    fn on(listener: TcpListener, serve: impl Fn(TcpStream, Option<SocketAddr>) + Send + Sync + 'static) -> Backend {
        let address = listener.local_addr().expect("it is bound");
        let counts = Arc::new(Counts::default());
        let (shared, serve) = (counts.clone(), Arc::new(serve));
        spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.stopped.load(Ordering::Acquire) {
                    return;
                }
                let (counts, serve) = (shared.clone(), serve.clone());
                spawn(move || serve_one(stream, &counts, &*serve));
            }
        });
        Backend { address, counts }
    }

    /// One that greets with `greeting` and holds the session, echoing what it gets, until the client ends it.
    pub fn greeting(greeting: &'static str) -> Backend {
        Backend::start(move |stream, _| greet_and_echo(&stream, greeting))
    }

    /// Sessions that are open, health checks not counted.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::Acquire)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.counts.stopped.store(true, Ordering::Release);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)); // wakes it
    }
}

/// Says `greeting` and echoes until the other side ends.
pub fn greet_and_echo(mut stream: &TcpStream, greeting: &str) {
    let mut buffer = [0; 4096];
    if stream.write_all(greeting.as_bytes()).is_err() {
        return;
    }
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn serve_one(stream: TcpStream, counts: &Counts, serve: &(dyn Fn(TcpStream, Option<SocketAddr>) + Send + Sync)) {
    let _ = stream.set_nodelay(true);
    let Some(client) = read_header(&stream) else { return };
    if client.is_some() {
        counts.open.fetch_add(1, Ordering::AcqRel);
    }
    serve(stream, client);
    if client.is_some() {
        counts.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads exactly a version 2 header and gives its source; `None` if none came.
fn read_header(mut stream: &TcpStream) -> Option<Option<SocketAddr>> {
    let mut header = vec![0; 16];
    stream.read_exact(&mut header).ok()?;
    let length = u16::from_be_bytes([header[14], header[15]]);
    header.resize(16 + usize::from(length), 0);
    stream.read_exact(&mut header[16..]).ok()?;
    let Verdict::Complete { fields, .. } = oracle::decode(&header, Rules::default()) else {
        panic!("no valid header: {header:02x?}");
    };
    match fields.source {
        Endpoint::Ip(source) => Some(Some(source)),
        _ => Some(None),
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(STACK).spawn(run).expect("a thread");
}
