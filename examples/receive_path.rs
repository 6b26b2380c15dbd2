//! The receive path of a mail server in Rust, before and after: what servers write themselves when they "support the PROXY
//! protocol", and the same behind Vestibule. Both run on tokio here, and are asked the same questions.
//!
//! ```text
//! cargo run --example receive_path --features tokio
//! ```
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use vestibule::proxy::Encoder;
use vestibule::{Engine, Listener, Pool};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// As many servers have it, shortened. What is wrong with it:
/// - whoever connects is believed: no trusted networks;
/// - each read has the whole time again: a byte every two seconds holds the connection for minutes;
/// - LOCAL, the balancer's own check, is taken for a client, with whatever its address block says;
/// - the checksum is not looked at, and neither are the lengths of the TLVs;
/// - what came behind the header in the same read is lost.
async fn before(mut socket: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::new();
    while buffer.len() < 28 {
        let mut piece = [0; 128];
        let count = timeout(Duration::from_secs(3), socket.read(&mut piece)).await??;
        if count == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&piece[..count]);
    }
    let client = SocketAddr::from((
        [buffer[16], buffer[17], buffer[18], buffer[19]],
        u16::from_be_bytes([buffer[24], buffer[25]]),
    ));
    socket.write_all(format!("220 hello {client}\r\n").as_bytes()).await
}

/// The same behind Vestibule. None of the above is left to the server: it starts where the client is known.
fn after(runtime: &tokio::runtime::Handle) -> Pool {
    Pool::tokio("smtp", runtime.clone(), 10_000, |connection| async move {
        let greeting = match connection.is_check() {
            true => "220 hello balancer\r\n".to_owned(),
            false => format!("220 hello {}\r\n", connection.client()),
        };
        let _ = connection.into_stream().write_all(greeting.as_bytes()).await;
    })
}

/// What it is about, and the segments that are sent.
type Question = (&'static str, Vec<Vec<u8>>);

/// What is sent, piece by piece with a rest between them.
fn questions() -> Result<Vec<Question>, Failure> {
    let mut room = [0; 64];
    let sound = Encoder::proxy("198.51.100.7:5000".parse()?, "192.0.2.1:25".parse()?).checksum(true);
    let length = sound.encode(&mut room)?;
    let sound = room[..length].to_vec();
    let mut broken = sound.clone();
    broken[16] ^= 1; // another client than the checksum says
    let mut local = sound.clone();
    local[12] = 0x20; // LOCAL, with an address block that must be skipped
    let local = [&local[..15], &[12], &local[16..28]].concat();
    let trickled = sound.chunks(4).map(<[u8]>::to_vec).collect();
    Ok(vec![
        ("a header with a checksum", vec![sound]),
        ("another client, the same checksum", vec![broken]),
        ("LOCAL: the balancer looks whether we live", vec![local]),
        ("four bytes every second", trickled),
    ])
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let own = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let old = own.local_addr()?;
    runtime.spawn(async move {
        while let Ok((socket, _)) = own.accept().await {
            tokio::spawn(before(socket));
        }
    });
    let listener = Listener::proxy("127.0.0.1:0".parse()?).trust(["127.0.0.1".parse()?]).pool("smtp");
    let mut engine = Engine::builder().pool(after(runtime.handle())).listen(listener).start()?;
    let new = engine.addresses()[0];
    for (what, pieces) in questions()? {
        println!("{what}:");
        for (name, address) in [("before", old), ("after", new)] {
            println!("  {name}: {}", runtime.block_on(ask(address, &pieces))?);
        }
    }
    println!("all clients have left: {}", engine.drain(Duration::from_secs(5)));
    Ok(())
}

async fn ask(address: SocketAddr, pieces: &[Vec<u8>]) -> io::Result<String> {
    let begun = Instant::now();
    let mut socket = TcpStream::connect(address).await?;
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            sleep(Duration::from_secs(1)).await;
        }
        // Who is refused meanwhile finds out by the answer.
        let _ = socket.write_all(piece).await;
    }
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer).await;
    let answer = if answer.is_empty() { "closed without a word" } else { answer.trim_end() };
    Ok(format!("{answer} (after {} s)", begun.elapsed().as_secs()))
}
