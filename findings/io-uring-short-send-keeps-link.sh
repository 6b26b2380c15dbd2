#!/usr/bin/env bash
# io_uring: a send that transfers less than it was given does not break the chain of IOSQE_IO_LINK behind it. A linked
# shutdown runs with megabytes unsent, and the peer sees a clean end of the stream. With MSG_WAITALL on the send the
# shutdown waits for all of it.
#
# Kernel 6.18, crate io-uring 0.7.15. Seen, for 32 MiB to a peer that reads only after 300 ms:
#   send and linked shutdown: all sent: no, shutdown: 0, the peer got what was sent and the end: yes
#   the same with MSG_WAITALL: all sent: yes, shutdown: 0, the peer got what was sent and the end: yes
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
use std::io::{Read, Result};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};

const SHUT_WR: i32 = 1;
const MSG_WAITALL: i32 = 0x100;
const LENGTH: usize = 32 << 20;

fn main() -> Result<()> {
    for flags in [0, MSG_WAITALL] {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let sender = TcpStream::connect(listener.local_addr()?)?;
        let mut reader = listener.accept()?.0;
        let peer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            let mut got = Vec::new();
            reader.read_to_end(&mut got).map(|_| got.len())
        });
        let bytes = vec![7u8; LENGTH];
        let fd = Fd(sender.as_raw_fd());
        let send = opcode::Send::new(fd, bytes.as_ptr(), LENGTH as u32).flags(flags).build();
        let shutdown = opcode::Shutdown::new(fd, SHUT_WR).build();
        let mut ring = IoUring::new(8)?;
        // SAFETY: the bytes and the socket live until both have completed.
        unsafe {
            ring.submission().push(&send.flags(squeue::Flags::IO_LINK).user_data(1)).expect("an empty queue");
            ring.submission().push(&shutdown.user_data(2)).expect("room for two");
        }
        ring.submit_and_wait(2)?;
        let (mut sent, mut shut) = (0, 0);
        for completion in ring.completion() {
            *if completion.user_data() == 1 { &mut sent } else { &mut shut } = completion.result();
        }
        let got = peer.join().expect("the reader ends")?;
        let word = |yes| if yes { "yes" } else { "no" };
        println!(
            "all sent: {}, shutdown: {shut}, the peer got what was sent and the end: {}",
            word(sent == LENGTH as i32),
            word(got as i32 == sent)
        );
    }
    Ok(())
}
END
cargo build --quiet --manifest-path "$work"/Cargo.toml 2>"$work"/log ||
  skip "crate io-uring 0.7.15: $(tail -n 1 "$work"/log)"
{ read -r plain; read -r all; } < <("$work"/target/debug/finding 2>&1)

end="shutdown: 0, the peer got what was sent and the end: yes"
holds "send and linked shutdown" "all sent: no, $end" "$plain"
holds "the same with MSG_WAITALL" "all sent: yes, $end" "$all"
exit $status
