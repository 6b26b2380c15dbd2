//! Pools for unit tests: real sockets on one side, the pool's workers on the other.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::dispatch::testing::{SOON, proxied};
use crate::dispatch::{Accepted, Behind, Entrance, Pool, PoolRecord, Queue, Rejected, RunningWorkers};

/// What a handler answers to [`ask`].
pub(crate) const ANSWER: &[u8] = b"198.51.100.7:5000 a NOOP b LOGOUT";

/// A pool that was started, and its queue.
pub(crate) struct Running {
    pub(crate) queue: Queue,
    workers: Box<dyn RunningWorkers>,
}

impl Running {
    pub(crate) fn start(pool: Pool) -> Running {
        let record = Arc::new(PoolRecord::new(&pool.name));
        let (Entrance::Queue(queue), Behind::Idle(workers, intake)) = pool.open(record, None) else {
            panic!("it has workers")
        };
        Running { queue, workers: workers.start(intake).expect("the workers start") }
    }

    pub(crate) fn offer(&self, mut connection: Accepted) {
        while let Err(rejected) = self.queue.offer(connection) {
            let Rejected::Full(back) = *rejected else { panic!("the workers have gone") };
            connection = back;
            std::thread::sleep(Duration::from_millis(1));
        }
        self.queue.wake_workers();
    }

    /// A client that has sent a header and `residual`, and now sends `later` and FIN.
    pub(crate) fn ask(&self, residual: &[u8], later: &[u8]) -> TcpStream {
        let (mut client, connection) = proxied(residual);
        client.write_all(later).expect("connected");
        client.shutdown(Shutdown::Write).expect("connected");
        self.offer(connection);
        client
    }

    /// 1000 clients, 50 at a time; each must get [`ANSWER`]. The handler answers its client's address, a space, and
    /// all that it could read.
    pub(crate) fn serves_a_thousand(&self) {
        for _ in 0..20 {
            let clients: Vec<_> = (0..50).map(|_| self.ask(b"a NOOP ", b"b LOGOUT")).collect();
            for client in clients {
                assert_eq!(all_of(client), ANSWER);
            }
        }
    }

    /// Ends the pool as a drain does; tells whether all workers have ended within `limit`.
    pub(crate) fn end(mut self, limit: Duration) -> bool {
        drop(self.queue);
        self.workers.join(limit)
    }

    /// Of `most` + 2 clients that send nothing yet only `most` are being served; when they have been, the others are.
    #[cfg(any(feature = "tokio", feature = "tokio-uring"))]
    pub(crate) fn serves_at_most(self, most: usize) {
        let mut clients: Vec<_> = (0..most + 2)
            .map(|_| {
                let (client, connection) = proxied(b"a NOOP ");
                self.offer(connection);
                client
            })
            .collect();
        let deadline = std::time::Instant::now() + SOON;
        while self.queue.len() > 2 && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Time for a third to be taken, if it were.
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(self.queue.len(), 2, "{most} are being served");
        for client in &mut clients {
            client.write_all(b"b LOGOUT").expect("connected");
            client.shutdown(Shutdown::Write).expect("connected");
        }
        for client in clients {
            assert_eq!(all_of(client), ANSWER);
        }
        assert!(self.end(SOON));
    }

    /// A handler that panics at `panic` costs that connection, is counted, and the pool serves on.
    pub(crate) fn survives_panics(self) {
        for _ in 0..10 {
            assert_eq!(all_of(self.ask(b"panic ", b"")), b"", "closed without an answer");
        }
        let good = self.ask(b"a NOOP ", b"b LOGOUT");
        assert_eq!(all_of(good), ANSWER);
        assert_eq!(self.queue.record().losses(), 10);
        assert!(self.end(SOON));
    }
}

/// Everything that the server sends until it closes.
pub(crate) fn all_of(mut client: TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("an orderly close");
    got
}
