#!/usr/bin/env bash
# io_uring: a blocking read with SO_RCVTIMEO fails with EINTR, though no signal was sent, if an operation that the same
# thread has submitted completes meanwhile. Without a timeout the kernel begins the read again by itself. A ring with
# IORING_SETUP_COOP_TASKRUN interrupts as well; one with IORING_SETUP_DEFER_TASKRUN leaves the read alone. But the end of
# any ring, which the kernel takes apart some milliseconds after it was closed, interrupts the thread once more.
#
# Kernel 6.18, crate io-uring 0.7.15. Seen, for a read of a socket that gets a byte after 400 ms, while the ring's operation,
# a receive on another socket, gets one after 200 ms:
#   usual ring, read with a timeout of 2 s: fails: Interrupted
#   usual ring, read without a timeout: 1 byte
#   COOP_TASKRUN, read with a timeout of 2 s: fails: Interrupted
#   DEFER_TASKRUN, read with a timeout of 2 s: 1 byte
#   ring that was used and closed before, read with a timeout of 2 s: fails: Interrupted
. "$(dirname "$0")/common"
needs cargo
case $(uname -r) in 6.1[2-9].* | [7-9].*) ;; *) skip "Linux 6.12 or later" ;; esac
mkdir "$work"/src
cat >"$work"/Cargo.toml <<'END'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
io-uring = "=0.7.15"
END
cat >"$work"/src/main.rs <<'END'
use std::io::{Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    Ok((one, listener.accept()?.0))
}

/// What the read comes to.
fn read(kind: &str) -> Result<String> {
    let (of_ring, mut first_peer) = pair()?;
    let (mut of_thread, mut second_peer) = pair()?;
    let timeout = (kind != "plain").then_some(Duration::from_secs(2));
    of_thread.set_read_timeout(timeout)?;
    let mut builder = IoUring::builder();
    match kind {
        "coop" => builder.setup_coop_taskrun(),
        "defer" => builder.setup_single_issuer().setup_defer_taskrun(),
        _ => &mut builder,
    };
    let mut ring: IoUring = builder.build(8)?;
    let mut byte = [0u8; 1];
    let receive = opcode::Recv::new(Fd(of_ring.as_raw_fd()), byte.as_mut_ptr(), 1).build();
    if kind == "closed" {
        first_peer.write_all(b"1")?;
    }
    // SAFETY: the byte and the socket live until the receive has completed.
    unsafe { ring.submission().push(&receive).expect("an empty queue") };
    ring.submit()?;
    let ring = match kind {
        "closed" => {
            ring.submit_and_wait(1)?;
            drop(ring);
            None
        }
        _ => Some(ring),
    };
    let peers = thread::spawn(move || -> Result<_> {
        thread::sleep(Duration::from_millis(200));
        first_peer.write_all(b"1")?;
        thread::sleep(Duration::from_millis(200));
        second_peer.write_all(b"2")?;
        Ok((first_peer, second_peer))
    });
    let said = match of_thread.read(&mut [0; 16]) {
        Ok(count) => format!("{count} byte"),
        Err(error) => format!("fails: {:?}", error.kind()),
    };
    let _open = peers.join().expect("the peers write")?;
    if let Some(mut ring) = ring {
        ring.submit_and_wait(1)?;
        assert!(ring.completion().next().is_some_and(|one| one.result() == 1), "the ring's receive is complete");
    }
    Ok(said)
}

fn main() -> Result<()> {
    // Each in a process of its own: one has heard of the end of no other ring.
    println!("{}", read(&std::env::args().nth(1).unwrap_or_default())?);
    Ok(())
}
END
cargo build --quiet --manifest-path "$work"/Cargo.toml 2>"$work"/log ||
  skip "crate io-uring 0.7.15: $(tail -n 1 "$work"/log)"
seen() { "$work"/target/debug/finding "$1" 2>&1; }

holds "usual ring, read with a timeout of 2 s" "fails: Interrupted" "$(seen usual)"
holds "usual ring, read without a timeout" "1 byte" "$(seen plain)"
holds "COOP_TASKRUN, read with a timeout of 2 s" "fails: Interrupted" "$(seen coop)"
holds "DEFER_TASKRUN, read with a timeout of 2 s" "1 byte" "$(seen defer)"
holds "ring that was used and closed before, read with a timeout of 2 s" "fails: Interrupted" "$(seen closed)"
exit $status
