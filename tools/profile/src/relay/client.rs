//! The clients of the relays: a process that does one task after the other, as its standard input says.

use std::cell::RefCell;
use std::io::{self, BufRead};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use vestibule::proxy::Encoder;

use super::task::{Latency, Limit, Outcome, Task, quantile};
use super::words::{self, BYE, DESTINATION, FETCH, FETCH_DONE, LOGOUT, NOOP, NOOP_DONE, Pattern};
use super::{failed, local_runtime};

/// How long answers may take beyond the end of a task.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is read of a large answer at once.
const CHUNK: usize = 256 * 1024;
/// Sessions that are opened at a time where they are only to be held.
const OPENING: u64 = 64;

/// What `relay-client` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the relay listens
    #[arg(value_name = "ADDRESS:PORT")]
    target: SocketAddr,
    /// Tells clients that run at the same time apart: their sockets come from 127.1.ROLE.0/24
    #[arg(long, value_name = "N", default_value_t = 0)]
    role: u8,
}

/// Does what its standard input says until that ends.
pub fn serve(args: &Args) -> Result<(), String> {
    crate::server::open_files();
    let runtime = local_runtime()?;
    let crowd = Rc::new(Crowd::new(args));
    for line in io::stdin().lock().lines() {
        let line = line.map_err(failed("standard input"))?;
        let task: Task = serde_json::from_str(&line).map_err(|error| format!("{line}: {error}"))?;
        let outcome = LocalSet::new().block_on(&runtime, crowd.clone().perform(task));
        println!("{}", serde_json::to_string(&outcome).map_err(|error| error.to_string())?);
    }
    Ok(())
}

/// All clients of this process.
struct Crowd {
    target: SocketAddr,
    role: u8,
    /// Number of the next session.
    next: RefCell<u64>,
    /// `None` while a round trip is under way.
    held: RefCell<Vec<Option<Session>>>,
    tally: RefCell<Tally>,
    pattern: Pattern,
}

/// What has come of a task so far.
#[derive(Default)]
struct Tally {
    outcome: Outcome,
    latencies: Vec<f64>,
    late: Vec<f64>,
}

struct Session {
    stream: TcpStream,
}

/// Says when a task has begun enough.
struct Begun {
    until: Limit,
    start: Instant,
    count: RefCell<u64>,
}

impl Begun {
    fn new(until: Limit) -> Rc<Begun> {
        Rc::new(Begun { until, start: Instant::now(), count: RefCell::new(0) })
    }

    /// Whether one more may begin; it then counts.
    fn another(&self) -> bool {
        let mut count = self.count.borrow_mut();
        let more = match self.until {
            Limit::Count(most) => *count < most,
            Limit::Seconds(seconds) => self.start.elapsed().as_secs_f64() < seconds,
        };
        *count += u64::from(more);
        more
    }
}

impl Crowd {
    fn new(args: &Args) -> Crowd {
        Crowd {
            target: args.target,
            role: args.role,
            next: RefCell::new(0),
            held: RefCell::default(),
            tally: RefCell::default(),
            pattern: Pattern::new(),
        }
    }

    async fn perform(self: Rc<Self>, task: Task) -> Outcome {
        *self.tally.borrow_mut() = Tally::default();
        let start = Instant::now();
        match task {
            Task::Sessions { in_flight, commands, goodbye, clients, until } => {
                let begun = Begun::new(until);
                let workers = (0..in_flight).map(|_| {
                    let (crowd, begun) = (self.clone(), begun.clone());
                    spawn_local(async move {
                        while begun.another() {
                            let done = crowd.session(clients, commands, goodbye).await;
                            crowd.count(done, 0);
                        }
                    })
                });
                self.all(workers.collect(), until).await;
            }
            Task::Hold { count } => self.hold(count).await,
            Task::Chatter { rate, until } => self.chatter(rate, until).await,
            Task::Bulk { streams, bytes, until } => {
                let begun = Begun::new(until);
                let workers = (0..streams).map(|_| spawn_local(self.clone().fetches(bytes, begun.clone())));
                self.all(workers.collect(), until).await;
            }
            Task::Release => self.release().await,
        }
        let mut tally = self.tally.take();
        tally.outcome.seconds = start.elapsed().as_secs_f64();
        tally.outcome.latency = tally.latency();
        tally.outcome
    }

    /// Waits for all of them, but not forever: what hangs has failed.
    async fn all(&self, workers: Vec<JoinHandle<()>>, until: Limit) {
        let longest = match until {
            Limit::Count(count) => PATIENCE + Duration::from_millis(count),
            Limit::Seconds(seconds) => PATIENCE + Duration::from_secs_f64(seconds),
        };
        let end = tokio::time::Instant::now() + longest;
        for worker in workers {
            if !matches!(tokio::time::timeout_at(end, worker).await, Ok(Ok(()))) {
                self.count(Err(format!("hangs after {longest:?}")), 0);
            }
        }
    }

    fn count(&self, done: Result<(), String>, bytes: u64) {
        let mut tally = self.tally.borrow_mut();
        let outcome = &mut tally.outcome;
        match done {
            Ok(()) => {
                outcome.done += 1;
                outcome.bytes += bytes;
            }
            Err(error) => {
                outcome.failed += 1;
                outcome.failure.get_or_insert(error);
            }
        }
    }

    /// A whole session.
    async fn session(&self, clients: u32, commands: u32, goodbye: bool) -> Result<(), String> {
        let mut session = self.open(clients).await?;
        for _ in 0..commands {
            session.command().await?;
        }
        if goodbye { session.goodbye().await } else { Ok(()) }
    }

    /// Connects, says who the client is, and waits for the greeting, which must name that client.
    async fn open(&self, clients: u32) -> Result<Session, String> {
        let number = self.next.replace_with(|next| *next + 1);
        let source = words::client(number, clients);
        let stream = self.connect(number).await.map_err(failed("connect"))?;
        let encoder = Encoder::proxy(source, DESTINATION);
        let mut header = vec![0; encoder.encoded_len()];
        encoder.encode(&mut header).map_err(|error| format!("header: {error:?}"))?;
        let mut session = Session { stream };
        session.say(&header).await?;
        session.expect(&words::greeting(source)).await?;
        Ok(session)
    }

    /// From an address and port of its own, so that no port is looked for, and none is used up.
    async fn connect(&self, number: u64) -> io::Result<TcpStream> {
        const HOSTS: u64 = 250;
        const FIRST_PORT: u64 = 31_000; // above every listener of this program
        const PORTS: u64 = 34_000;
        let host = Ipv4Addr::new(127, 1, self.role, 1 + (number % HOSTS) as u8);
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((host, (FIRST_PORT + number / HOSTS % PORTS) as u16).into())?;
        let stream = socket.connect(self.target).await?;
        SockRef::from(&stream).set_tcp_nodelay(true)?;
        Ok(stream)
    }

    async fn hold(self: &Rc<Self>, count: u32) {
        let missing = u64::from(count).saturating_sub(self.held.borrow().len() as u64);
        let begun = Begun::new(Limit::Count(missing));
        let workers = (0..OPENING).map(|_| {
            let (crowd, begun) = (self.clone(), begun.clone());
            spawn_local(async move {
                while begun.another() {
                    let opened = crowd.open(count).await;
                    let done = match opened {
                        Ok(mut session) => {
                            let done = session.command().await;
                            crowd.held.borrow_mut().push(Some(session));
                            done
                        }
                        Err(error) => Err(error),
                    };
                    crowd.count(done, 0);
                }
            })
        });
        self.all(workers.collect(), Limit::Count(missing)).await;
    }

    /// Messages evenly spread, each on the session that has been silent longest, in an order that is not that of opening.
    async fn chatter(self: &Rc<Self>, rate: u32, until: Limit) {
        fastrand::Rng::with_seed(1).shuffle(&mut self.held.borrow_mut());
        let Ok(ticker) = Ticker::new(rate) else { return self.count(Err("no timer".to_owned()), 0) };
        let (begun, mut workers) = (Begun::new(until), Vec::new());
        let step = Duration::from_secs(1) / rate.max(1);
        let (mut due, mut next) = (Instant::now() + step, 0);
        while begun.another() {
            while Instant::now() < due {
                ticker.tick.notified().await;
            }
            workers.retain(|worker: &JoinHandle<()>| !worker.is_finished());
            let Some((index, session)) = self.idle_session(&mut next, &ticker).await else {
                return self.count(Err(format!("no session is idle for {PATIENCE:?}")), 0);
            };
            workers.push(spawn_local(self.clone().round_trip(index, session, due)));
            due += step;
        }
        self.all(workers, until).await;
    }

    /// Takes the next session that waits for nothing; whoever is late because there was none is late.
    async fn idle_session(&self, next: &mut usize, ticker: &Ticker) -> Option<(usize, Session)> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let count = self.held.borrow().len();
            for _ in 0..count {
                let index = *next;
                *next = (*next + 1) % count;
                let session = self.held.borrow_mut()[index].take();
                if let Some(session) = session {
                    return Some((index, session));
                }
            }
            ticker.tick.notified().await;
        }
        None
    }

    async fn round_trip(self: Rc<Self>, index: usize, mut session: Session, due: Instant) {
        let late = due.elapsed();
        let done = session.command().await;
        let took = due.elapsed();
        self.held.borrow_mut()[index] = Some(session);
        let mut tally = self.tally.borrow_mut();
        tally.latencies.push(took.as_secs_f64() * 1e6);
        tally.late.push(late.as_secs_f64() * 1e6);
        drop(tally);
        self.count(done, 0);
    }

    async fn fetches(self: Rc<Self>, bytes: u64, begun: Rc<Begun>) {
        let mut room = vec![0; CHUNK];
        let mut session = match self.open(1).await {
            Ok(session) => session,
            Err(error) => return self.count(Err(error), 0),
        };
        while begun.another() {
            let fetched = session.fetch(&self.pattern, bytes, &mut room).await;
            let is_over = fetched.is_err();
            self.count(fetched, bytes);
            if is_over {
                return;
            }
        }
        if let Err(error) = session.goodbye().await {
            self.count(Err(error), 0);
        }
    }

    async fn release(&self) {
        let held = self.held.take();
        for mut session in held.into_iter().flatten() {
            let done = session.goodbye().await;
            self.count(done, 0);
        }
    }
}

impl Session {
    async fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(failed("send"))
    }

    /// Waits for exactly these bytes.
    async fn expect(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut room = [0; 256];
        let mut got = 0;
        while got < bytes.len() {
            let left = bytes.len() - got;
            let count = self.stream.read(&mut room[..left.min(256)]).await.map_err(failed("receive"))?;
            if count == 0 || room[..count] != bytes[got..got + count] {
                let (wanted, came) = (String::from_utf8_lossy(bytes), String::from_utf8_lossy(&room[..count]));
                return Err(format!("expected {wanted:?}, from byte {got} on came {came:?}"));
            }
            got += count;
        }
        Ok(())
    }

    async fn command(&mut self) -> Result<(), String> {
        self.say(NOOP).await?;
        self.expect(NOOP_DONE).await
    }

    async fn goodbye(&mut self) -> Result<(), String> {
        self.say(LOGOUT).await?;
        self.expect(BYE).await?;
        match self.stream.read(&mut [0; 16]).await {
            Ok(0) => Ok(()),
            Ok(count) => Err(format!("{count} bytes behind the goodbye")),
            Err(error) => Err(format!("no end of the stream behind the goodbye: {error}")),
        }
    }

    async fn fetch(&mut self, pattern: &Pattern, bytes: u64, room: &mut [u8]) -> Result<(), String> {
        self.say(format!("{FETCH}{bytes}\r\n").as_bytes()).await?;
        let mut at = 0;
        while at < bytes {
            let most = (bytes - at).min(room.len() as u64) as usize;
            let count = self.stream.read(&mut room[..most]).await.map_err(failed("receive"))?;
            if count == 0 || !pattern.is_at(at, &room[..count]) {
                return Err(format!("wrong in the {count} bytes from byte {at} on of a large answer"));
            }
            at += count as u64;
        }
        self.expect(FETCH_DONE).await
    }
}

impl Tally {
    fn latency(&mut self) -> Option<Latency> {
        self.latencies.sort_by(f64::total_cmp);
        self.late.sort_by(f64::total_cmp);
        let at = |part| quantile(&self.latencies, part);
        let latency =
            Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), client_late_p99: quantile(&self.late, 0.99) };
        (!self.latencies.is_empty()).then_some(latency)
    }
}

/// Wakes its task so many times a second: finer than the runtime's own timer, which keeps to milliseconds. Its thread ends
/// after it is dropped.
struct Ticker {
    tick: Arc<Notify>,
}

impl Ticker {
    fn new(rate: u32) -> io::Result<Ticker> {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let step = Timespec { tv_sec: 0, tv_nsec: (1_000_000_000 / i64::from(rate.max(1))).min(999_999_999) };
        let setting = Itimerspec { it_interval: step, it_value: step };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
        let tick = Arc::new(Notify::new());
        let ticking = Arc::downgrade(&tick);
        std::thread::spawn(move || {
            while let (Ok(_), Some(tick)) = (rustix::io::read(&timer, &mut [0; 8]), ticking.upgrade()) {
                tick.notify_one();
            }
        });
        Ok(Ticker { tick })
    }
}
