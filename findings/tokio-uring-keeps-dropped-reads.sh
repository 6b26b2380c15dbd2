#!/usr/bin/env bash
# tokio-uring: a read whose future was dropped goes on in the kernel and keeps its socket. The stream can be dropped as well,
# and its peer still sees no end: only once the peer says something, which nobody gets, or closes, the descriptor is let go.
# So a timeout around a read neither frees the descriptor of a silent client nor tells that client anything; shutdown(2)
# does both.
#
# Crate tokio-uring 0.5.0. Seen from a client that sends nothing, 500 ms after the server has given up and dropped both
# the read and the stream:
#   stream dropped while nothing is read: the client sees the end: yes, descriptors left: 0
#   read dropped by a timeout, then the stream: the client sees the end: no, descriptors left: 1
#   the same once the client has sent a byte: the client sees the end: yes, descriptors left: 0
#   read dropped, then shutdown, then the stream: the client sees the end: yes, descriptors left: 0
. "$(dirname "$0")/common"
needs cargo
mkdir "$work"/src
cat >"$work"/Cargo.toml <<'END'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
tokio = { version = "1", features = ["time"] }
tokio-uring = "=0.5.0"
END
cat >"$work"/src/main.rs <<'END'
use std::fs;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream as Client};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_uring::net::{TcpListener, TcpStream};

const A_MOMENT: Duration = Duration::from_millis(100);

/// Sockets of this process.
fn sockets() -> usize {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))).count()
}

/// Whether the client sees the end of the stream within half a second, and how many more sockets there are than without it.
async fn look(client: &mut Client, before: usize) -> Result<String> {
    sleep(5 * A_MOMENT).await;
    client.set_nonblocking(true)?;
    let ended = match client.read(&mut [0; 16]) {
        Ok(0) => "yes",
        Err(error) if error.kind() == ErrorKind::WouldBlock => "no",
        other => return Ok(format!("{other:?}")),
    };
    client.set_nonblocking(false)?;
    // One is the client's own.
    Ok(format!("the client sees the end: {ended}, descriptors left: {}", sockets() - before - 1))
}

async fn give_up(stream: &TcpStream) {
    let read = timeout(A_MOMENT, stream.read(vec![0; 16])).await;
    assert!(read.is_err(), "the client is silent");
}

fn main() -> Result<()> {
    tokio_uring::start(async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().expect("an address"))?;
        let address = listener.local_addr()?;
        let before = sockets();

        let mut client = Client::connect(address)?;
        drop(listener.accept().await?);
        println!("{}", look(&mut client, before).await?);
        drop(client);

        let mut client = Client::connect(address)?;
        let (stream, _) = listener.accept().await?;
        give_up(&stream).await;
        drop(stream);
        println!("{}", look(&mut client, before).await?);
        client.write_all(b"x")?;
        println!("{}", look(&mut client, before).await?);
        drop(client);

        let mut client = Client::connect(address)?;
        let (stream, _) = listener.accept().await?;
        give_up(&stream).await;
        stream.shutdown(Shutdown::Both)?;
        drop(stream);
        println!("{}", look(&mut client, before).await?);
        Ok(())
    })
}
END
cargo build --quiet --manifest-path "$work"/Cargo.toml 2>"$work"/log ||
  skip "crate tokio-uring 0.5.0: $(tail -n 1 "$work"/log)"
{ read -r unread; read -r dropped; read -r spoken; read -r shut; } < <("$work"/target/debug/finding 2>&1)

ended="the client sees the end: yes, descriptors left: 0"
holds "stream dropped while nothing is read" "$ended" "$unread"
holds "read dropped by a timeout, then the stream" "the client sees the end: no, descriptors left: 1" "$dropped"
holds "the same once the client has sent a byte" "$ended" "$spoken"
holds "read dropped, then shutdown, then the stream" "$ended" "$shut"
exit $status
