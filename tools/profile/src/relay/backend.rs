//! The mail server behind the relays: it wants a header, greets, answers, sends much when asked to, and says goodbye.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;
use vestibule::proxy::{Decoded, Rules, Version, decode};

use super::task::Seen;
use super::words::{BYE, FETCH, FETCH_DONE, LOGOUT, NOOP, NOOP_DONE, Pattern, greeting};
use super::{failed, local_runtime};

/// Room for what waits to be accepted: the kernel's usual limit.
const BACKLOG: u32 = 4096;
/// Most that a client may have sent ahead: the longest header, or a few lines.
const AHEAD_MAX: usize = 8192;
/// What a session reads at a time.
const READ_MAX: usize = 512;
/// Bytes of a large answer that are written at once.
const CHUNK: u64 = 256 * 1024;

/// What `relay-backend` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Who connects there gets a line of JSON: what the backend has seen
    #[arg(value_name = "ADDRESS:PORT")]
    control: SocketAddr,
    /// Says large answers with the lowest priority there is (chrt(1), SCHED_IDLE)
    #[arg(long)]
    idle_bulk: bool,
}

#[derive(Default)]
struct Counters {
    v1: AtomicU64,
    v2: AtomicU64,
    ended: AtomicU64,
    commands: AtomicU64,
    wrong: AtomicU64,
    bytes: AtomicU64,
}

/// A session: what stands ahead in `ahead` is received and not yet looked at.
struct Session {
    stream: TcpStream,
    ahead: Vec<u8>,
}

/// What is to be done for a session next.
enum Next {
    /// Nothing: it has ended as it should.
    Over,
    /// So many bytes, by the thread for that.
    Fetch(u64),
}

/// A session on its way to the thread for large answers.
type HandedOver = (StdStream, Vec<u8>, u64);

/// Serves until it is ended.
pub fn serve(args: &Args) -> Result<(), String> {
    crate::server::open_files();
    let counters = Arc::new(Counters::default());
    let (to_bulk, bulk) = unbounded_channel();
    start_bulk(args, counters.clone(), bulk)?;
    start_control(args.control, counters.clone())?;
    let runtime = local_runtime()?;
    LocalSet::new().block_on(&runtime, accept(args.listen, counters, to_bulk))
}

async fn accept(address: SocketAddr, counters: Arc<Counters>, bulk: UnboundedSender<HandedOver>) -> Result<(), String> {
    let socket = TcpSocket::new_v4().map_err(failed("a socket"))?;
    socket.set_reuseaddr(true).map_err(failed("SO_REUSEADDR"))?;
    socket.bind(address).map_err(failed("bind"))?;
    let listener = socket.listen(BACKLOG).map_err(failed("listen"))?;
    loop {
        let (stream, _) = listener.accept().await.map_err(failed("accept"))?;
        let (counters, bulk) = (counters.clone(), bulk.clone());
        tokio::task::spawn_local(async move {
            let mut session = Session { stream, ahead: Vec::new() };
            let next = match session.begin(&counters).await {
                Ok(()) => session.talk(&counters).await,
                Err(error) => Err(error),
            };
            match next {
                Ok(Next::Fetch(bytes)) => hand_over(session, bytes, &bulk, &counters),
                Ok(Next::Over) => counters.add(&counters.ended, 1),
                Err(_) => counters.add(&counters.wrong, 1),
            }
        });
    }
}

fn hand_over(session: Session, bytes: u64, bulk: &UnboundedSender<HandedOver>, counters: &Counters) {
    let sent = session.stream.into_std().is_ok_and(|stream| bulk.send((stream, session.ahead, bytes)).is_ok());
    if !sent {
        counters.add(&counters.wrong, 1);
    }
}

impl Counters {
    fn add(&self, counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    fn seen(&self) -> Seen {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Seen {
            v1: load(&self.v1),
            v2: load(&self.v2),
            ended: load(&self.ended),
            commands: load(&self.commands),
            wrong: load(&self.wrong),
            bytes: load(&self.bytes),
        }
    }
}

impl Session {
    /// Waits for the header and greets the client that it names.
    async fn begin(&mut self, counters: &Counters) -> io::Result<()> {
        SockRef::from(&self.stream).set_tcp_nodelay(true)?;
        let source = loop {
            if !self.read().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Decoded::Complete(header) = decode(&self.ahead, &Rules::default()) else { continue };
            let (source, version, len) = (header.source(), header.version(), header.len());
            self.ahead.drain(..len);
            counters.add(if version == Version::V1 { &counters.v1 } else { &counters.v2 }, 1);
            break source.ok_or(io::ErrorKind::InvalidData)?;
        };
        self.stream.write_all(&greeting(source)).await
    }

    /// Answers until the session ends or much is asked for. A client that just closes has ended it as it should.
    async fn talk(&mut self, counters: &Counters) -> io::Result<Next> {
        loop {
            while let Some(end) = self.ahead.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
                match line.as_slice() {
                    NOOP => {
                        counters.add(&counters.commands, 1);
                        self.stream.write_all(NOOP_DONE).await?;
                    }
                    LOGOUT => {
                        self.stream.write_all(BYE).await?;
                        return Ok(Next::Over);
                    }
                    line => return fetch(line).map(Next::Fetch).ok_or(io::ErrorKind::InvalidData.into()),
                }
            }
            if !self.read().await? {
                return if self.ahead.is_empty() { Ok(Next::Over) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Whether more has come, before the end of the stream.
    async fn read(&mut self) -> io::Result<bool> {
        if self.ahead.len() >= AHEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut room = [0; READ_MAX];
        let count = self.stream.read(&mut room).await?;
        self.ahead.extend_from_slice(&room[..count]);
        Ok(count > 0)
    }

    async fn send_much(&mut self, pattern: &Pattern, bytes: u64, counters: &Counters) -> io::Result<()> {
        let mut at = 0;
        while at < bytes {
            let chunk = pattern.from(at, CHUNK.min(bytes - at));
            self.stream.write_all(chunk).await?;
            at += chunk.len() as u64;
        }
        counters.add(&counters.bytes, bytes);
        self.stream.write_all(FETCH_DONE).await
    }

    async fn serve_much(&mut self, pattern: &Pattern, mut bytes: u64, counters: &Counters) -> io::Result<()> {
        loop {
            self.send_much(pattern, bytes, counters).await?;
            match self.talk(counters).await? {
                Next::Over => return Ok(()),
                Next::Fetch(more) => bytes = more,
            }
        }
    }
}

fn fetch(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line).ok()?.strip_prefix(FETCH)?.strip_suffix("\r\n")?.parse().ok()
}

/// A thread of its own for large answers, so that small ones do not wait behind them, and its priority can be lower.
fn start_bulk(args: &Args, counters: Arc<Counters>, mut from: UnboundedReceiver<HandedOver>) -> Result<(), String> {
    let (idle, (ready, is_ready)) = (args.idle_bulk, mpsc::channel());
    thread::spawn(move || {
        let runtime = match if idle { lowest_priority() } else { Ok(()) }.and_then(|()| local_runtime()) {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        drop(ready.send(Ok(()))); // whoever waits for it has gone if the process is ending
        let pattern = Rc::new(Pattern::new());
        LocalSet::new().block_on(&runtime, async move {
            while let Some((stream, ahead, bytes)) = from.recv().await {
                let (counters, pattern) = (counters.clone(), pattern.clone());
                tokio::task::spawn_local(async move {
                    let served = match TcpStream::from_std(stream) {
                        Ok(stream) => Session { stream, ahead }.serve_much(&pattern, bytes, &counters).await,
                        Err(error) => Err(error),
                    };
                    counters.add(if served.is_ok() { &counters.ended } else { &counters.wrong }, 1);
                });
            }
        });
    });
    is_ready.recv().map_err(|_| "the thread for large answers has ended".to_owned())?
}

/// Gives this thread what is left by all others.
fn lowest_priority() -> Result<(), String> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut command = std::process::Command::new("chrt");
    command.args(["--idle", "--pid", "0", &thread]);
    let output = command.output().map_err(failed("chrt (of util-linux)"))?;
    if output.status.success() { Ok(()) } else { Err(format!("chrt: {}", String::from_utf8_lossy(&output.stderr))) }
}

fn start_control(address: SocketAddr, counters: Arc<Counters>) -> Result<(), String> {
    let listener = StdListener::bind(address).map_err(failed("the control port"))?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut line = serde_json::to_string(&counters.seen()).unwrap_or_default();
            let _ = writeln!(line); // writing to a String cannot fail
            // Who has asked and gone gets no answer.
            let _ = stream.and_then(|mut stream| stream.write_all(line.as_bytes()));
        }
    });
    Ok(())
}
