//! Two servers to compare with: the floor that an accept tier on io_uring stands on, and what one would write with tokio.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use proxy_header::ParseConfig;
use proxy_header::io::ProxiedStream;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use vestibule::net::NetworkSet;
use vestibule::ring::{Completion, Driver, Options, ReadMode, Ring, Sizes, Streams, Waker, bind_group};

use crate::duties::{Conversation, Duties};
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
    /// Do what the job demands: look whether the peer is trusted, decode, count, keep what is handed off until it is taken
    #[arg(long)]
    in_full: bool,
    /// Set TCP_DEFER_ACCEPT to 1 second
    #[arg(long)]
    defer_accept: bool,
}

/// Accepts, reads once, closes; with `answer` a line goes out in the segment of the FIN, with `hand_off` a second process
/// gets the descriptor, with `refuse` nothing is read. Looks at nothing that it reads, unless it is to do the job `in_full`.
pub fn floor(args: &Args) -> Result<(), String> {
    let failed = |error: io::Error| format!("floor on {}: {error}", args.listen);
    let options = Options { defer_accept: args.defer_accept, share_port: false };
    let listeners = bind_group(args.listen, 1, options).map_err(failed)?;
    let ring = Ring::new(FLOOR_SIZES, listeners, Waker::new().map_err(failed)?).map_err(|error| error.to_string())?;
    Floor::new(args, ring)?.run().map_err(failed)
}

/// The floor's loop.
struct Floor<'a> {
    args: &'a Args,
    ring: Ring,
    sockets: Vec<Option<OwnedFd>>,
    free: Vec<u32>,
    duties: Option<Duties>,
    behind: Behind,
}

/// What becomes of a connection whose header was read.
enum Behind {
    Close,
    Pass(OwnedFd),
    Offer(Conversation),
}

impl Floor<'_> {
    fn new(args: &Args, ring: Ring) -> Result<Floor<'_>, String> {
        let taker = args.hand_off.then(|| receiver::second_process(args.in_full)).transpose()?;
        let trusted = if args.refuse { "192.0.2.0/24" } else { "127.0.0.0/8" };
        let trusted = || trusted.parse().into_iter().collect::<NetworkSet>();
        Ok(Floor {
            args,
            ring,
            sockets: (0..FLOOR_SLOTS).map(|_| None).collect(),
            free: (0..FLOOR_SLOTS).collect(),
            duties: args.in_full.then(|| Duties::new(trusted())),
            behind: match taker {
                None => Behind::Close,
                Some(taker) if args.in_full => Behind::Offer(Conversation::new(taker)),
                Some(taker) => Behind::Pass(taker),
            },
        })
    }

    fn run(mut self) -> io::Result<()> {
        self.ring.accept(0);
        self.watch();
        loop {
            self.ring.wait(None)?;
            if let Some(duties) = &mut self.duties {
                duties.begin();
            }
            while let Some(completion) = self.ring.next() {
                match completion {
                    Completion::Accepted { socket, peer, armed, .. } => {
                        self.accepted(socket, peer.ok());
                        rearm(&mut self.ring, armed);
                    }
                    Completion::Read { slot, result, .. } => self.read(slot, result.unwrap_or_default())?,
                    Completion::AcceptFailed { armed, .. } | Completion::Phantom { armed, .. } => {
                        rearm(&mut self.ring, armed)
                    }
                    Completion::Ready { armed, .. } => self.hear(armed)?,
                    Completion::Woken | Completion::Overflowed => {}
                }
            }
        }
    }

    fn accepted(&mut self, socket: OwnedFd, peer: Option<SocketAddr>) {
        if let (Some(duties), Some(peer)) = (&mut self.duties, peer)
            && !duties.admits(peer)
        {
            return;
        }
        // Without a free slot the connection is closed unread.
        if !self.args.refuse
            && let Some(slot) = self.free.pop()
        {
            if let Some(duties) = &mut self.duties {
                duties.awaits(slot);
            }
            self.ring.read(slot, 0, &socket, 0, ReadMode::Take);
            self.sockets[slot as usize] = Some(socket);
        }
    }

    fn read(&mut self, slot: u32, len: u32) -> io::Result<()> {
        self.free.push(slot);
        let Some(socket) = self.sockets[slot as usize].take() else { return Ok(()) };
        if let Some(duties) = &mut self.duties {
            // Who brings no header is closed.
            let Some(client) = duties.judge(slot, self.ring.bytes(slot, len)) else { return Ok(()) };
            if self.args.answer {
                duties.answer(&socket, client);
            }
        } else if self.args.answer {
            // Who has gone gets no answer.
            let _ = SockRef::from(&socket).send_with_flags(FIXED_LINE.as_bytes(), MSG_MORE | MSG_NOSIGNAL);
        }
        match &mut self.behind {
            Behind::Close => Ok(()),
            Behind::Pass(taker) => receiver::pass(taker, &socket, &[0]),
            Behind::Offer(conversation) => conversation.offer(socket),
        }
    }

    fn watch(&mut self) {
        if let Behind::Offer(conversation) = &self.behind {
            self.ring.watch(0, 0, conversation.link());
        }
    }

    fn hear(&mut self, armed: bool) -> io::Result<()> {
        if let Behind::Offer(conversation) = &mut self.behind {
            conversation.hear()?;
        }
        if !armed {
            self.watch();
        }
        Ok(())
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
