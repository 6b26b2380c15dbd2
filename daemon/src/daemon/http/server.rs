//! Connections of HTTP, within limits: their number, the size of a request, the time for its header and the life of a
//! connection. A client that says nothing, says nonsense or does not read costs a seat for a while and nothing else.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::answers::Answers;
use super::{Bound, had};

/// Connections at a time; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 64;
/// How long the header of a request may take, the wait for its beginning included.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may last, however many requests it brings; the last one is answered.
const LIFE: Duration = Duration::from_secs(60);
/// How long that answer may take to be read.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes of a request's header, about.
const HEADER_MAX: usize = 16 << 10;
/// Lines of a request's header.
const HEADERS_MAX: usize = 64;
/// Rest after a failed accept.
const REST: Duration = Duration::from_millis(100);

/// Accepts until it is aborted, which closes the socket.
pub async fn accept(bound: Bound, answers: Arc<Answers>) {
    let listener = match listener(bound).await {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("http_listen: {error}"),
    };
    if let Ok(address) = listener.local_addr() {
        tracing::info!("http_listen: metrics, health and the page are served at http://{address}/");
    }
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match seats.clone().try_acquire_owned() {
                Ok(seat) => {
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        converse(stream, answers).await;
                        drop(seat);
                    });
                }
                Err(_) => answers.count_refused(),
            },
            Err(_) => sleep(REST).await,
        }
    }
}

async fn listener(bound: Bound) -> io::Result<TcpListener> {
    let socket = match bound {
        Bound::Now(socket) => socket,
        Bound::Later(address) => had(address).await?,
    };
    TcpListener::from_std(socket)
}

/// One connection, from beginning to end.
async fn converse(stream: TcpStream, answers: Arc<Answers>) {
    let service = service_fn(move |request| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(HEADER_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    if timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        // Whoever has not read his answer by then does not get it.
        let _ = timeout(GRACE, connection).await;
    }
}
