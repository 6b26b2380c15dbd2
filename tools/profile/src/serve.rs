//! Two servers to compare with: the floor that an accept tier on io_uring stands on, and what one would write with tokio.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use proxy_header::ParseConfig;
use proxy_header::io::ProxiedStream;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use vestibule::ring::{Completion, Driver, Options, ReadMode, Ring, Sizes, Waker, bind_group};

use crate::receiver;
use crate::systems::FIXED_LINE;

/// Connections that the floor reads from at once.
const FLOOR_SLOTS: u32 = 16_384;
/// The engine's own sizes, so that both pay for the same memory.
const FLOOR_SIZES: Sizes = Sizes { slots: FLOOR_SLOTS, longest: 4096, completions: 32_768, registered: true };
/// MSG_MORE: hold the bytes back until more come, or the FIN (send(2)).
const MSG_MORE: i32 = 0x8000;
const MSG_NOSIGNAL: i32 = 0x4000;

/// What `serve-floor` and `serve-tokio` take.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Answer one line before the close
    #[arg(long)]
    answer: bool,
    /// Close what was accepted unread
    #[arg(long)]
    refuse: bool,
    /// Pass each descriptor to a second process, which closes it
    #[arg(long, conflicts_with_all = ["answer", "refuse"])]
    hand_off: bool,
    /// Set TCP_DEFER_ACCEPT to 1 second
    #[arg(long)]
    defer_accept: bool,
}

/// Accepts, reads once, closes; with `answer` a line goes out in the segment of the FIN, with `hand_off` a second process
/// gets the descriptor, with `refuse` nothing is read. Looks at nothing that it reads.
pub fn floor(args: &Args) -> Result<(), String> {
    let failed = |error: io::Error| format!("floor on {}: {error}", args.listen);
    let options = Options { defer_accept: args.defer_accept, share_port: false };
    let listeners = bind_group(args.listen, 1, options).map_err(failed)?;
    let mut ring =
        Ring::new(FLOOR_SIZES, listeners, Waker::new().map_err(failed)?).map_err(|error| error.to_string())?;
    let taker = args.hand_off.then(receiver::second_process).transpose()?;
    let mut sockets: Vec<Option<OwnedFd>> = (0..FLOOR_SLOTS).map(|_| None).collect();
    let mut free: Vec<u32> = (0..FLOOR_SLOTS).collect();
    ring.accept(0);
    loop {
        ring.wait(None).map_err(failed)?;
        while let Some(completion) = ring.next() {
            match completion {
                Completion::Accepted { socket, armed, .. } => {
                    // Without a free slot the connection is closed unread.
                    if !args.refuse
                        && let Some(slot) = free.pop()
                    {
                        ring.read(slot, 0, &socket, 0, ReadMode::Take);
                        sockets[slot as usize] = Some(socket);
                    }
                    rearm(&mut ring, armed);
                }
                Completion::Read { slot, .. } => {
                    let socket = sockets[slot as usize].take();
                    if let (Some(socket), true) = (&socket, args.answer) {
                        // Who has gone gets no answer.
                        let _ = SockRef::from(socket).send_with_flags(FIXED_LINE.as_bytes(), MSG_MORE | MSG_NOSIGNAL);
                    }
                    if let (Some(socket), Some(taker)) = (&socket, &taker) {
                        receiver::pass(taker, socket).map_err(failed)?;
                    }
                    free.push(slot);
                }
                Completion::AcceptFailed { armed, .. } | Completion::Phantom { armed, .. } => rearm(&mut ring, armed),
                Completion::Woken | Completion::Overflowed | Completion::Ready { .. } => {}
            }
        }
    }
}

fn rearm(ring: &mut Ring, armed: bool) {
    if !armed {
        ring.accept(0);
    }
}

/// The server of proxy-header's own documentation, answering a line or nothing.
pub fn tokio(args: &Args) -> Result<(), String> {
    let failed = |error: io::Error| format!("tokio on {}: {error}", args.listen);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_io().build().map_err(failed)?;
    let answer = args.answer;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await.map_err(failed)?;
        if args.defer_accept {
            return Err("serve-tokio has no TCP_DEFER_ACCEPT".to_owned());
        }
        loop {
            let (stream, peer) = listener.accept().await.map_err(failed)?;
            tokio::spawn(async move {
                // A connection that fails is the client's loss; there is nobody to tell.
                let _ = serve_one(stream, peer, answer).await;
            });
        }
    })
}

async fn serve_one(stream: TcpStream, peer: SocketAddr, answer: bool) -> io::Result<()> {
    let mut stream = ProxiedStream::create_from_tokio(stream, ParseConfig::default()).await?;
    if answer {
        let line = match stream.proxy_header().proxied_address() {
            Some(address) => format!(
                "{{\"client\":\"{}\",\"destination\":\"{}\",\"peer\":\"{peer}\"}}\n",
                address.source, address.destination
            ),
            None => format!("{{\"client\":\"{peer}\"}}\n"),
        };
        stream.write_all(line.as_bytes()).await?;
        stream.shutdown().await?;
    }
    Ok(())
}
