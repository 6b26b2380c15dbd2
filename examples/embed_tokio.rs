//! The same on a tokio runtime of your own: one task a connection, here an echo that greets the real client.
//!
//! ```text
//! cargo run --example embed_tokio --features tokio
//! curl -s --haproxy-protocol telnet://127.0.0.1:10143      # then type something
//! ```
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vestibule::{Accepted, Engine, Listener, Pool};

/// Connections served at a time; further ones wait in the pool's queue, then in the kernel's.
const CONCURRENCY: usize = 10_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:10143".into());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_io().build()?;
    let mut engine = Engine::builder()
        .pool(Pool::tokio("echo", runtime.handle().clone(), CONCURRENCY, |connection| async move {
            let client = connection.client();
            if let Err(error) = echo(connection).await {
                println!("{client} lost: {error}");
            }
        }))
        .listen(Listener::proxy(address.parse()?).trust(["127.0.0.0/8".parse()?]).pool("echo"))
        .start()?;
    println!("listening on {:?}; press Enter to end", engine.addresses());
    io::stdin().read_line(&mut String::new())?;
    println!("all clients have left: {}", engine.drain(Duration::from_secs(5)));
    Ok(())
}

async fn echo(connection: Accepted<TcpStream>) -> io::Result<()> {
    let greeting = format!("hello {}\n", connection.client());
    // What came behind the header in the same segment is read first.
    let mut stream = connection.into_stream();
    stream.write_all(greeting.as_bytes()).await?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}
