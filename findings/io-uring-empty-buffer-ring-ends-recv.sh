#!/usr/bin/env bash
# io_uring: a multishot receive that is armed while its ring of provided buffers is empty ends at once with ENOBUFS,
# though nothing has come: no data, no end of the stream. With one buffer in the ring it stays armed. So it cannot be
# armed ahead of buffers, and giving one back later does not bring it to life.
#
# Kernel 6.18, crate io-uring 0.7.15. Seen:
#   ring without buffers: -105
#   ring with one buffer: still armed after 300 ms
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
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};

#[repr(align(4096))]
struct Page([u8; 4096]);

fn main() -> std::io::Result<()> {
    for buffers in [0, 1] {
        let mut ring = IoUring::new(8)?;
        let entries = Box::leak(Box::new(Page([0; 4096]))).0.as_mut_ptr().cast::<BufRingEntry>();
        let bytes = Box::leak(vec![0u8; 4096].into_boxed_slice());
        // SAFETY: the page holds the ring of 8 entries, and lives as long as the process.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, 8, 1, 0)? };
        // SAFETY: the first entry and the tail lie in the page; the kernel reads them after the submission.
        unsafe {
            (*entries).set_addr(bytes.as_mut_ptr() as u64);
            (*entries).set_len(4096);
            *BufRingEntry::tail(entries).cast_mut() = buffers;
        }
        let (silent, _peer) = UnixStream::pair()?;
        let receive = opcode::RecvMulti::new(Fd(silent.as_raw_fd()), 1).build();
        // SAFETY: the socket and the buffers outlive the ring.
        unsafe { ring.submission().push(&receive).expect("an empty queue") };
        let patience = Timespec::new().nsec(300_000_000);
        let _ = ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&patience));
        match ring.completion().next() {
            Some(completion) => println!("{}", completion.result()),
            None => println!("still armed after 300 ms"),
        }
    }
    Ok(())
}
END
cargo build --quiet --manifest-path "$work"/Cargo.toml 2>"$work"/log ||
  skip "crate io-uring 0.7.15: $(tail -n 1 "$work"/log)"
{ read -r none; read -r one; } < <("$work"/target/debug/finding 2>&1)

holds "ring without buffers" -105 "$none"
holds "ring with one buffer" "still armed after 300 ms" "$one"
exit $status
