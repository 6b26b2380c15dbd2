//! An HTTP server on hyper behind a balancer: an accept loop of its own over the connections of a pool, as for axum, tower
//! or anything else that wants streams and not a handler.
//!
//! ```text
//! cargo run --example hyper --features tokio
//! curl -s --haproxy-protocol http://127.0.0.1:10080/
//! ```
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use vestibule::{Accepted, Engine, Listener, Pool};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:10080".into());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut engine = Engine::builder()
        .pool(Pool::incoming("web"))
        .listen(Listener::proxy(address.parse()?).trust(["127.0.0.0/8".parse()?]).pool("web"))
        .start()?;
    let mut incoming = engine.incoming("web").expect("nobody else has asked for it");
    runtime.spawn(async move {
        while let Some(connection) = incoming.next().await {
            tokio::spawn(serve(connection));
        }
    });
    println!("listening on {:?}; press Enter to end", engine.addresses());
    io::stdin().read_line(&mut String::new())?;
    println!("all connections are taken: {}", engine.drain(Duration::from_secs(5)));
    Ok(())
}

async fn serve(connection: Accepted) {
    let (client, peer) = (connection.client(), connection.peer());
    // What came behind the header in the same segment is read first: usually the whole request.
    let stream = match connection.into_tokio() {
        Ok(connection) => connection.into_stream(),
        Err(error) => return println!("{client} lost: {error}"),
    };
    let answer = service_fn(move |request| answer(client, peer, request));
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await {
        println!("{client} lost: {error}");
    }
}

async fn answer(
    client: SocketAddr,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<String>, Infallible> {
    let path = request.uri().path();
    Ok(Response::new(format!("{client} wants {path} and came through {peer}\n")))
}
