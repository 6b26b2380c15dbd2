//! An echo behind a balancer that upgrades itself: started once more with the same path, the new process takes the
//! listener and everybody whose header is awaited over; the old one finishes what it has and leaves. Nobody is refused.
//!
//! ```text
//! cargo run --example upgrade /tmp/greeter.takeover        # and again, in another terminal
//! curl -s --haproxy-protocol telnet://127.0.0.1:10143      # then type something
//! ```
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use vestibule::engine::EngineBuilder;
use vestibule::takeover::{Ended, Upgradable};
use vestibule::{Accepted, Engine, Listener, Pool};

/// How long those may stay whom a process still serves that was taken over from, or is to end.
const FINISH_MAX: Duration = Duration::from_secs(60);
/// How long the balancer's header may take.
const HEADER_MAX: Duration = Duration::from_secs(30);
/// How long a client may be silent.
const IDLE_MAX: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which path do the processes meet at?")?;
    let address = arguments.next().unwrap_or("127.0.0.1:10143".into()).parse()?;
    let service = Upgradable::start(path, FINISH_MAX, move || describe(address))?;
    let addresses = service.with_engine(|engine| engine.addresses().to_vec()).unwrap_or_default();
    println!("listening on {addresses:?}; start it again to upgrade it, or press Enter to end");
    let told = service.clone();
    std::thread::spawn(move || {
        let _ = io::stdin().read_line(&mut String::new()); // the end of the input is a word, too
        told.end();
    });
    match service.wait() {
        Ended::TakenOver(process) => println!("process {process} has taken over, and all clients have left"),
        ended => println!("all clients have left: {ended:?}"),
    }
    Ok(())
}

/// What this version serves, and how.
fn describe(address: SocketAddr) -> EngineBuilder {
    let trusted = "127.0.0.0/8".parse().expect("a network");
    Engine::builder()
        .pool(Pool::threads("echo", 16, |connection: Accepted| {
            let client = connection.client();
            if let Err(error) = echo(connection) {
                println!("{client} lost: {error}");
            }
        }))
        .listen(Listener::proxy(address).trust([trusted]).timeout(HEADER_MAX).pool("echo"))
}

fn echo(connection: Accepted) -> io::Result<()> {
    connection.socket().set_read_timeout(Some(IDLE_MAX))?;
    let greeting = format!("hello {} from process {}\n", connection.client(), std::process::id());
    let mut stream = connection.into_stream();
    stream.write_all(greeting.as_bytes())?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.finish(Duration::from_secs(1)),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}
