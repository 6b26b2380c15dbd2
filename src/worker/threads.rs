//! A pool of threads, one connection each at a time.

use std::io;
use std::iter::repeat_n;
use std::sync::Arc;

use super::Handler;
use super::crew::Crew;
use crate::dispatch::{Intake, Pool, RunningWorkers, Workers};

/// Most threads of one pool.
pub const THREADS_MAX: usize = 4096;

impl Pool {
    /// A pool of `threads` threads (1..=[`THREADS_MAX`], clamped); each serves one connection at a time with `handler`.
    ///
    /// A handler may block. When it panics its connection is closed, the panic is logged and counted, and the thread
    /// goes on. Threads that still serve when the limit of a shutdown has passed are left to the end of the process.
    pub fn threads(name: impl Into<String>, threads: usize, handler: impl Handler) -> Pool {
        Pool::new(name, Threads { count: threads.clamp(1, THREADS_MAX), handler: Arc::new(handler) })
    }
}

struct Threads<H> {
    count: usize,
    handler: Arc<H>,
}

impl<H: Handler> Workers for Threads<H> {
    fn start(self: Box<Self>, intake: Intake) -> io::Result<Box<dyn RunningWorkers>> {
        let mut crew = Crew::new(intake.name());
        for intake in repeat_n(intake, self.count) {
            let handler = self.handler.clone();
            crew.spawn(move || serve(&intake, &*handler))?;
        }
        Ok(Box::new(crew))
    }
}

fn serve(intake: &Intake, handler: &impl Handler) {
    let losses = intake.losses();
    while let Some(connection) = intake.recv() {
        losses.contain(connection.client(), || handler.handle(connection));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;
    use crate::dispatch::Accepted;
    use crate::dispatch::testing::{SOON, mute};
    use crate::worker::Discard;
    use crate::worker::testing::{Running, all_of};

    fn answer(connection: Accepted) {
        let client = connection.client();
        let mut stream = connection.into_stream();
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the client sends");
        assert!(!text.starts_with("panic"), "as told");
        write!(stream, "{client} {text}").expect("the client listens");
    }

    #[test]
    fn serves_a_thousand_connections_and_ends() {
        let running = Running::start(Pool::threads("imap", 4, answer));
        running.serves_a_thousand();
        assert!(running.end(SOON));
    }

    #[test]
    fn a_panic_costs_one_connection() {
        Running::start(Pool::threads("imap", 1, answer)).survives_panics();
    }

    #[test]
    fn queued_connections_are_served_after_the_queue_is_closed() {
        let running = Running::start(Pool::threads("imap", 1, answer));
        let clients: Vec<_> = (0..20).map(|_| running.ask(b"a ", b"b")).collect();
        assert!(running.end(SOON));
        for client in clients {
            assert_eq!(all_of(client), b"198.51.100.7:5000 a b");
        }
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let (release, wait) = crossbeam_channel::bounded::<()>(0);
        let stuck = move |connection: Accepted| {
            let _ = (connection, wait.recv());
        };
        let running = Running::start(Pool::threads("imap", 0, stuck));
        running.offer(mute());
        assert!(!running.end(Duration::from_millis(30)));
        drop(release);
    }

    #[test]
    fn discard_closes_without_an_answer() {
        let running = Running::start(Pool::threads("imap", 2, Discard));
        assert_eq!(all_of(running.ask(b"a NOOP\r\n", b"")), b"");
        assert!(running.end(SOON));
    }
}
