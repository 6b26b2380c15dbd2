//! What is told of each session: once when it has a server, once when it is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::dispatch::{ListenerInfo, TlsInfo};
use crate::relay::{End, SessionId};

/// Hears of every session of the services that log them. Called on the rings' threads: it must not wait.
pub trait SessionLog: Send + Sync {
    /// Adds to `lines` what is to be said of a session: it has a server now, or it is over.
    fn tell(&self, lines: &mut String, session: &SessionRecord<'_>);

    /// Takes what a ring's turn has brought, and leaves nothing.
    fn flush(&self, lines: &mut String);
}

/// A session as it is told of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionRecord<'a> {
    /// Its id.
    pub id: SessionId,
    /// The listener it came through.
    pub listener: &'a ListenerInfo,
    /// Who is served.
    pub client: SocketAddr,
    /// What the client has connected to.
    pub destination: SocketAddr,
    /// The backend's name.
    pub backend: &'a str,
    /// The server's name, if one was found.
    pub server: Option<Arc<str>>,
    /// Why it is over; `None`: it has begun.
    pub end: Option<End>,
    /// From the accept to the complete header.
    pub header_wait: Duration,
    /// From there until a server was chosen: the time in the queue, and that of failed attempts.
    pub queue_wait: Duration,
    /// From the choice to the connection.
    pub connect: Duration,
    /// From the connection to the greeting.
    pub greeting: Duration,
    /// From the accept to the end.
    pub lasted: Duration,
    /// Since somebody has said something.
    pub idle: Duration,
    /// Bytes from the client to the server, its own only.
    pub from_client: u64,
    /// Bytes from the server to the client.
    pub from_server: u64,
    /// Servers that had been tried in vain.
    pub retries: u32,
    /// If the client's TLS ends here: what was agreed.
    pub tls: Option<&'a TlsInfo>,
}
