//! A pool on the caller's tokio runtime: one task a connection.

mod secured;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::net::TcpStream;
use ::tokio::runtime::Handle;

use super::crew::Crew;
use super::quota::{Quota, SERVED_MAX, Share};
use crate::dispatch::{Accepted, Intake, Losses, Pool, RunningWorkers, Socket, Stream, Workers};

impl Pool {
    /// A pool on `runtime`, whose I/O must be enabled: each connection gets a task, at most `concurrency`
    /// (1..=2^20, clamped) at a time; further ones wait in the queue.
    ///
    /// The handler gets the connection on tokio's socket; `into_stream` makes it an `AsyncRead` and `AsyncWrite` that
    /// yields the residual first. When it panics its connection is closed, the panic is logged and counted, and the pool
    /// goes on. A shutdown waits for the tasks until its limit has passed; then they are left to the runtime.
    ///
    /// ```no_run
    /// use tokio::io::AsyncWriteExt;
    /// use vestibule::dispatch::Pool;
    ///
    /// # fn pool(runtime: &tokio::runtime::Runtime) -> Pool {
    /// Pool::tokio("imap", runtime.handle().clone(), 10_000, |connection| async move {
    ///     let greeting = format!("* OK hello {}\r\n", connection.client());
    ///     let _ = connection.into_stream().write_all(greeting.as_bytes()).await;
    /// })
    /// # }
    /// ```
    pub fn tokio<F, Fut>(name: impl Into<String>, runtime: Handle, concurrency: usize, handler: F) -> Pool
    where
        F: Fn(Accepted<TcpStream>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let concurrency = concurrency.clamp(1, SERVED_MAX);
        Pool::new(name, Tokio { runtime, concurrency, handler: Arc::new(handler) })
    }
}

impl Accepted {
    /// The same connection on tokio's socket, for an accept loop of the program's own: `into_stream` makes it an
    /// `AsyncRead` and `AsyncWrite` that yields the residual first, and `into_parts` takes it apart. To be called on a
    /// runtime whose I/O is enabled.
    ///
    /// ```no_run
    /// use tokio::io::AsyncWriteExt;
    ///
    /// # async fn accept_loop(engine: &vestibule::Engine) {
    /// let mut incoming = engine.incoming("smtp").expect("a pool made by Pool::incoming");
    /// while let Some(connection) = incoming.next().await {
    ///     tokio::spawn(async move {
    ///         let mut stream = connection.into_tokio()?.into_stream();
    ///         stream.write_all(b"220 mail.example.com ESMTP\r\n").await
    ///     });
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// The runtime's. The connection is closed then.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as tokio's own sockets do.
    pub fn into_tokio(self) -> io::Result<Accepted<TcpStream>> {
        self.on_runtime(register)
    }
}

struct Tokio<F> {
    runtime: Handle,
    concurrency: usize,
    handler: Arc<F>,
}

impl<F, Fut> Workers for Tokio<F>
where
    F: Fn(Accepted<TcpStream>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    fn start(self: Box<Self>, intake: Intake) -> io::Result<Box<dyn RunningWorkers>> {
        let mut crew = Crew::new(intake.name());
        crew.spawn(move || self.forward(&intake))?;
        Ok(Box::new(crew))
    }
}

impl<F, Fut> Tokio<F>
where
    F: Fn(Accepted<TcpStream>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    fn forward(&self, intake: &Intake) {
        let (quota, losses) = (Quota::new(self.concurrency), intake.losses());
        quota.forward(intake, |connection, share| {
            // A runtime that was shut down drops the task, and the connection with it.
            self.runtime.spawn(serve(connection, share, self.handler.clone(), losses.clone()));
            true
        });
        quota.wait_until_free(self.concurrency);
    }
}

async fn serve<F, Fut>(connection: Accepted, share: Share, handler: Arc<F>, losses: Arc<Losses>)
where
    F: Fn(Accepted<TcpStream>) -> Fut,
    Fut: Future<Output = ()>,
{
    let client = connection.client();
    let work = async {
        match connection.into_tokio() {
            Ok(connection) => handler(connection).await,
            Err(error) => losses.record(client, &format_args!("the runtime refused its socket: {error}")),
        }
    };
    losses.contain_future(client, work).await;
    drop(share);
}

fn register(socket: std::net::TcpStream) -> io::Result<TcpStream> {
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket)
}

impl Socket for TcpStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpStream::local_addr(self)
    }
}

impl AsyncRead for Stream<TcpStream> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        if let Some((socket, tls, writer)) = self.secured() {
            return secured::poll_read(socket, tls, writer, context, buffer);
        }
        let first = self.take_residual(buffer.remaining());
        if first.is_empty() {
            return Pin::new(self.socket_mut()).poll_read(context, buffer);
        }
        buffer.put_slice(first);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream<TcpStream> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some((socket, tls, writer)) = self.secured() {
            let written = secured::poll_write(socket, tls, context, bytes);
            return secured::noted(written, writer, context);
        }
        Pin::new(self.socket_mut()).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        slices: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        if let Some((socket, tls, writer)) = self.secured() {
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| &**slice);
            let written = secured::poll_write(socket, tls, context, first);
            return secured::noted(written, writer, context);
        }
        Pin::new(self.socket_mut()).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        if let Some((socket, tls, writer)) = self.secured() {
            let sent = secured::poll_send(socket, tls, context);
            ready!(secured::noted(sent, writer, context))?;
        }
        Pin::new(self.socket_mut()).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        if let Some((socket, tls, writer)) = self.secured() {
            tls.close();
            let sent = secured::poll_send(socket, tls, context);
            ready!(secured::noted(sent, writer, context))?;
        }
        Pin::new(self.socket_mut()).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
    use ::tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::dispatch::testing::{SOON, proxied};
    use crate::worker::testing::{Running, all_of};

    fn runtime() -> Runtime {
        Builder::new_multi_thread().worker_threads(2).enable_io().build().expect("a runtime")
    }

    async fn answer(connection: Accepted<TcpStream>) {
        let client = connection.client();
        let mut stream = connection.into_stream();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("the client sends");
        assert!(!text.starts_with("panic"), "as told");
        stream.write_all(format!("{client} {text}").as_bytes()).await.expect("the client listens");
        stream.shutdown().await.expect("the client is there");
    }

    #[test]
    fn serves_a_thousand_connections_and_ends() {
        let runtime = runtime();
        let running = Running::start(Pool::tokio("imap", runtime.handle().clone(), 16, answer));
        running.serves_a_thousand();
        assert!(running.end(SOON));
    }

    #[test]
    fn a_panic_costs_one_connection() {
        let runtime = runtime();
        Running::start(Pool::tokio("imap", runtime.handle().clone(), 1, answer)).survives_panics();
    }

    #[test]
    fn at_most_so_many_are_served_at_a_time() {
        let runtime = runtime();
        Running::start(Pool::tokio("imap", runtime.handle().clone(), 3, answer)).serves_at_most(3);
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let runtime = runtime();
        let stuck = |connection: Accepted<TcpStream>| async move {
            std::future::pending::<()>().await;
            drop(connection);
        };
        let running = Running::start(Pool::tokio("imap", runtime.handle().clone(), 0, stuck));
        let client = running.ask(b"", b"");
        assert!(!running.end(Duration::from_millis(30)));
        drop(runtime);
        assert_eq!(all_of(client), b"", "the runtime's end drops its tasks");
    }

    #[test]
    fn a_runtime_that_has_gone_closes_the_connections() {
        let runtime = runtime();
        let running = Running::start(Pool::tokio("imap", runtime.handle().clone(), 1, answer));
        drop(runtime);
        for _ in 0..3 {
            assert_eq!(all_of(running.ask(b"a", b"")), b"");
        }
        assert!(running.end(SOON));
    }

    #[test]
    fn metadata_survives_the_change_of_sockets() {
        let runtime = runtime();
        let tell = |connection: Accepted<TcpStream>| async move {
            let told = (connection.local(), connection.peer(), connection.residual().to_vec());
            let mut stream = connection.into_stream();
            assert_eq!(stream.accepted().local(), told.0);
            stream.write_all(format!("{told:?}").as_bytes()).await.expect("the client listens");
        };
        let running = Running::start(Pool::tokio("imap", runtime.handle().clone(), 1, tell));
        let (client, connection) = proxied(b"a");
        let own = (client.peer_addr().expect("connected"), client.local_addr().expect("connected"));
        running.offer(connection);
        assert_eq!(String::from_utf8(all_of(client)).expect("text"), format!("{:?}", (own.0, own.1, b"a".to_vec())));
    }
}
