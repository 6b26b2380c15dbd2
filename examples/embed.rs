//! A mini IMAP server behind a balancer: logs the real client's address, answers CAPABILITY, NOOP and LOGOUT.
//!
//! ```text
//! cargo run --example embed
//! curl -s --haproxy-protocol telnet://127.0.0.1:10143      # then type: a CAPABILITY, b LOGOUT
//! ```
use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

use vestibule::{Accepted, Engine, Listener, Pool};

/// Longest command line that is read, in bytes.
const LINE_MAX: u64 = 8192;
/// How long a client may be silent (RFC 9051, section 5.4).
const IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// How long the end waits for clients.
const DRAIN_MAX: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:10143".into());
    let mut engine = Engine::builder()
        .pool(Pool::threads("imap", 16, |connection: Accepted| {
            let client = connection.client();
            println!("{client} wants {} and came through {}", connection.destination(), connection.peer());
            match converse(connection) {
                Ok(()) => println!("{client} left"),
                Err(error) => println!("{client} lost: {error}"),
            }
        }))
        .listen(Listener::proxy(address.parse()?).trust(["127.0.0.0/8".parse()?]).pool("imap"))
        .start()?;
    println!("listening on {:?}; press Enter to end", engine.addresses());
    io::stdin().read_line(&mut String::new())?;
    println!("all clients have left: {}", engine.drain(DRAIN_MAX));
    Ok(())
}

fn converse(connection: Accepted) -> io::Result<()> {
    connection.socket().set_read_timeout(Some(IDLE_MAX))?;
    let mut stream = BufReader::new(connection.into_stream());
    stream.get_mut().write_all(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")?;
    let mut line = String::new();
    while Read::take(&mut stream, LINE_MAX).read_line(&mut line)? > 0 {
        let (tag, command) = line.trim_end().split_once(' ').unwrap_or(("*", ""));
        let answer = match command.to_ascii_uppercase().as_str() {
            "CAPABILITY" => format!("* CAPABILITY IMAP4rev1\r\n{tag} OK done\r\n"),
            "NOOP" => format!("{tag} OK done\r\n"),
            "LOGOUT" => {
                stream.get_mut().write_all(format!("* BYE\r\n{tag} OK done\r\n").as_bytes())?;
                return stream.into_inner().finish(Duration::from_secs(1));
            }
            _ => format!("{tag} BAD unknown command\r\n"),
        };
        stream.get_mut().write_all(answer.as_bytes())?;
        line.clear();
    }
    Ok(())
}
