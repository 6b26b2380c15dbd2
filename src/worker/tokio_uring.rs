//! A pool of threads with a tokio-uring runtime each: one task a connection.
//!
//! Beside each runtime stands a thread that waits for the queue, so that the runtime never blocks. The sockets stay as
//! they are, in blocking mode: io_uring answers a read of a non-blocking one with EAGAIN instead of waiting for bytes.

mod stream;

pub use stream::UringStream;

use std::convert::Infallible;
use std::io;
use std::iter::repeat_n;
use std::net::SocketAddr;
use std::sync::Arc;

use ::tokio::sync::mpsc;
use ::tokio_uring::Runtime;
use ::tokio_uring::net::TcpStream;

use super::THREADS_MAX;
use super::crew::Crew;
use super::quota::{Quota, SERVED_MAX, Share};
use crate::dispatch::{Accepted, Intake, Losses, Pool, RunningWorkers, Socket, Workers};

impl Pool {
    /// A pool of `threads` threads (1..=[`THREADS_MAX`], clamped), each with a tokio-uring runtime that serves at most
    /// `concurrency` (1..=2^20, clamped) connections at a time; further ones wait in the queue.
    ///
    /// The handler gets the connection on tokio-uring's socket; `into_uring_stream` makes it a reader and writer that yields
    /// the residual first and speaks through TLS where there is a session, and `into_parts` takes it apart. When it panics its connection is closed, the panic is logged and counted, and the pool goes on. A shutdown waits for the
    /// tasks until its limit has passed; then they are left to the end of the process.
    ///
    /// ```no_run
    /// use vestibule::dispatch::Pool;
    ///
    /// Pool::tokio_uring("imap", 2, 10_000, |connection| async move {
    ///     let greeting = format!("* OK hello {}\r\n", connection.client());
    ///     let (_result, _buffer) = connection.into_uring_stream().write_all(greeting.into_bytes()).await;
    /// });
    /// ```
    pub fn tokio_uring<F, Fut>(name: impl Into<String>, threads: usize, concurrency: usize, handler: F) -> Pool
    where
        F: Fn(Accepted<TcpStream>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let (threads, concurrency) = (threads.clamp(1, THREADS_MAX), concurrency.clamp(1, SERVED_MAX));
        Pool::new(name, TokioUring { threads, concurrency, handler: Arc::new(handler) })
    }
}

impl Accepted {
    /// The same connection on tokio-uring's socket, for an accept loop of the program's own: `into_uring_stream` makes it a
    /// reader and writer, `into_parts` takes it apart. To be called on a tokio-uring runtime.
    ///
    /// # Errors
    /// None at present; the runtime's, if it comes to refuse a socket, which closes the connection.
    pub fn into_tokio_uring(self) -> io::Result<Accepted<TcpStream>> {
        self.on_runtime(|socket| Ok(TcpStream::from_std(socket)))
    }
}

struct TokioUring<F> {
    threads: usize,
    concurrency: usize,
    handler: Arc<F>,
}

/// What a forwarding thread hands to its runtime; as many as there are shares, so sending never waits.
type Arrivals = mpsc::Receiver<(Accepted, Share)>;

impl<F, Fut> Workers for TokioUring<F>
where
    F: Fn(Accepted<TcpStream>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + 'static,
{
    fn start(self: Box<Self>, intake: Intake) -> io::Result<Box<dyn RunningWorkers>> {
        let mut crew = Crew::new(intake.name());
        for intake in repeat_n(intake, self.threads) {
            let (arrive, arrivals) = mpsc::channel(self.concurrency);
            let (handler, losses) = (self.handler.clone(), intake.losses());
            let (report, started) = crossbeam_channel::bounded(1);
            crew.spawn(move || run(arrivals, handler, losses, |result| drop(report.send(result))))?;
            started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended")))?;
            let quota = Quota::new(self.concurrency);
            crew.spawn(move || {
                quota.forward(&intake, |connection, share| arrive.try_send((connection, share)).is_ok())
            })?;
        }
        Ok(Box::new(crew))
    }
}

/// Runs a runtime until its forwarding thread has ended and all tasks are done.
fn run<F, Fut>(arrivals: Arrivals, handler: Arc<F>, losses: Arc<Losses>, report: impl FnOnce(io::Result<()>))
where
    F: Fn(Accepted<TcpStream>) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    match Runtime::new(&::tokio_uring::builder()) {
        Ok(runtime) => {
            report(Ok(()));
            runtime.block_on(serve_all(arrivals, handler, losses));
        }
        Err(error) => report(Err(error)),
    }
}

async fn serve_all<F, Fut>(mut arrivals: Arrivals, handler: Arc<F>, losses: Arc<Losses>)
where
    F: Fn(Accepted<TcpStream>) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    // Nobody sends on it: when every task has dropped its end, all are done.
    let (busy, mut done) = mpsc::channel::<Infallible>(1);
    while let Some((connection, share)) = arrivals.recv().await {
        let (handler, losses, busy) = (handler.clone(), losses.clone(), busy.clone());
        ::tokio_uring::spawn(async move {
            serve(connection, handler, losses).await;
            drop((share, busy));
        });
    }
    drop(busy);
    done.recv().await;
}

async fn serve<F, Fut>(connection: Accepted, handler: Arc<F>, losses: Arc<Losses>)
where
    F: Fn(Accepted<TcpStream>) -> Fut,
    Fut: Future<Output = ()>,
{
    let client = connection.client();
    match connection.into_tokio_uring() {
        Ok(connection) => drop(losses.contain_future(client, async { handler(connection).await }).await),
        Err(error) => losses.record(client, &error),
    }
}

impl Socket for TcpStream {
    /// tokio-uring does not tell; the address is asked for before the socket is converted.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::testing::{SOON, proxied};
    use crate::worker::testing::{Running, all_of};

    async fn answer(connection: Accepted<TcpStream>) {
        let client = connection.client();
        let (stream, mut text) = (connection.into_uring_stream(), Vec::new());
        loop {
            let (count, piece) = stream.read(Vec::with_capacity(4)).await;
            match count.expect("the client sends") {
                0 => break,
                count => text.extend_from_slice(&piece[..count]),
            }
        }
        assert!(!text.starts_with(b"panic"), "as told");
        let answer = [format!("{client} ").as_bytes(), &text].concat();
        stream.write_all(answer).await.0.expect("the client listens");
        stream.shutdown().await.expect("the client is there");
    }

    #[test]
    fn serves_a_thousand_connections_and_ends() {
        let running = Running::start(Pool::tokio_uring("imap", 2, 16, answer));
        running.serves_a_thousand();
        assert!(running.end(SOON));
    }

    #[test]
    fn a_panic_costs_one_connection() {
        Running::start(Pool::tokio_uring("imap", 1, 1, answer)).survives_panics();
    }

    #[test]
    fn at_most_so_many_are_served_at_a_time() {
        Running::start(Pool::tokio_uring("imap", 1, 3, answer)).serves_at_most(3);
    }

    #[test]
    fn metadata_survives_the_change_of_sockets() {
        let tell = |connection: Accepted<TcpStream>| async move {
            let told = format!("{:?}", (connection.local(), connection.destination(), connection.residual()));
            connection.into_parts().socket.write_all(told.into_bytes()).await.0.expect("the client listens");
        };
        let running = Running::start(Pool::tokio_uring("imap", 1, 1, tell));
        let (client, connection) = proxied(b"a");
        let told = format!("({}, 192.0.2.1:143, [97])", client.peer_addr().expect("connected"));
        running.offer(connection);
        assert_eq!(String::from_utf8(all_of(client)).expect("text"), told);
    }
}
