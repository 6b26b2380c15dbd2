//! The header in an accept loop of your own, without the engine: what a server on tokio has to do by itself then, and how little
//! it is. Trust first, by the peer's address; then the header, with one deadline for all of it; then whatever the protocol says.
//!
//! ```text
//! cargo run --example read_header --features tokio
//! curl -s --haproxy-protocol telnet://127.0.0.1:10143      # then type something
//! ```
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use vestibule::net::{Network, NetworkSet};
use vestibule::proxy::Rules;
use vestibule::proxy::tokio::read_header;

/// From the accept to the last byte of the header, however it comes.
const HEADER_TIMEOUT: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:10143".into());
    let balancers: NetworkSet = ["127.0.0.0/8".parse::<Network>()?].into_iter().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind(address))?;
    println!("listening on [{}]; press Enter to end", listener.local_addr()?);
    runtime.spawn(accept_loop(listener, balancers));
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}

async fn accept_loop(listener: TcpListener, balancers: NetworkSet) {
    loop {
        match listener.accept().await {
            // Who is no balancer may name anybody as its client: not a byte of it is read.
            Ok((_, peer)) if !balancers.contains(peer.ip()) => println!("{peer} is no balancer of ours"),
            Ok((socket, peer)) => {
                tokio::spawn(async move {
                    if let Err(error) = converse(socket, peer).await {
                        println!("{peer}: {error}");
                    }
                });
            }
            // Descriptors may have run out: they come back, and a loop that turns without a rest would keep it so.
            Err(error) => {
                println!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(socket: TcpStream, peer: SocketAddr) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut stream = read_header(socket, &Rules::default(), Instant::now() + HEADER_TIMEOUT).await?;
    let client = stream.header().source().unwrap_or(peer); // LOCAL and UNKNOWN name nobody
    stream.write_all(format!("hello {client}\n").as_bytes()).await?;
    let mut buffer = [0; 4096];
    // What came behind the header in the same segment is read first.
    while let count @ 1.. = stream.read(&mut buffer).await? {
        stream.write_all(&buffer[..count]).await?;
    }
    Ok(stream.shutdown().await?)
}
