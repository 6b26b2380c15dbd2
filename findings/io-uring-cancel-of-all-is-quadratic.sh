#!/usr/bin/env bash
# io_uring: the cancellation of everything (IORING_ASYNC_CANCEL_ANY) takes time by the square of the operations whose end
# was asked for one by one just before, and has not been reaped: each search begins anew at the first, and passes over those
# that are ending already. On a ring with DEFER_TASKRUN they leave only when completions are asked for. Asked for in between,
# the same cancellation is over in a moment.
#
# Kernel 6.18, crate io-uring 0.7.15, 8,000 polls of eventfds. Seen:
#   at once: more than twenty times as long as with the ends reaped before (460 ms and 1.3 ms on a virtual machine of two cores)
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
libc = "=0.2.178"
END
cat >"$work"/src/main.rs <<'END'
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd};
use io_uring::{IoUring, opcode, squeue};

const POLLS: u64 = 8_000;

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: no memory is named, and the descriptor lives as long as the process.
    while unsafe { ring.submission().push(entry) }.is_err() {
        ring.submit().expect("a whole ring");
    }
}

/// How long it takes to end all polls, one by one, and then everything.
fn time(reap: bool, event: Fd) -> std::io::Result<Duration> {
    let mut ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_cqsize(32_768).build(1_024)?;
    for number in 0..POLLS {
        push(&mut ring, &opcode::PollAdd::new(event, libc::POLLIN as u32).multi(true).build().user_data(number));
    }
    ring.submit()?;
    for number in 0..POLLS {
        push(&mut ring, &opcode::AsyncCancel::new(number).build().user_data(POLLS));
    }
    let begun = Instant::now();
    ring.submit()?;
    if reap {
        let mut left = 2 * POLLS;
        while left > 0 {
            ring.submit_and_wait(1)?;
            left = left.saturating_sub(ring.completion().count() as u64);
        }
    }
    push(&mut ring, &opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(POLLS));
    ring.submit()?;
    Ok(begun.elapsed())
}

fn main() -> std::io::Result<()> {
    // SAFETY: no memory is named.
    let event = Fd(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) });
    let least = |reap| (0..3).map(|_| time(reap, event)).collect::<Result<Vec<_>, _>>().map(|times| times.into_iter().min());
    let (at_once, reaped) = (least(false)?.expect("three"), least(true)?.expect("three"));
    eprintln!("at once {at_once:?}, reaped before {reaped:?}");
    println!("{}", at_once > 20 * reaped);
    Ok(())
}
END
cargo build --quiet --release --manifest-path "$work"/Cargo.toml 2>"$work"/log ||
  skip "crate io-uring 0.7.15: $(tail -n 1 "$work"/log)"
read -r longer < <("$work"/target/release/finding)

holds "more than twenty times as long" true "$longer"
exit $status
