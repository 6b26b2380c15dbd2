//! What a backend is configured to be: `backend NAME { server NAME { .. } }`, validated.

use std::net::SocketAddr;
use std::time::Duration;

/// Most servers of a backend.
pub const SERVERS_MAX: usize = 1024;
/// Largest `weight`, as HAProxy's.
pub const WEIGHT_MAX: u32 = 256;
/// Most sessions that may wait for a server of a backend.
pub const QUEUE_MAX: u32 = 1 << 20;
/// Most entries of a stick table.
pub const STICK_TABLE_MAX: u32 = 1 << 24;
/// Most further servers that are tried when connects fail.
pub const RETRIES_MAX: u32 = 16;

/// A backend.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// Its servers, in the order of the files; 1..=[`SERVERS_MAX`], with different names.
    pub servers: Vec<ServerSettings>,
    /// `balance`.
    pub balance: Balance,
    /// `stick`; `None`: clients keep no server.
    pub stick: Option<StickSettings>,
    /// `connect_timeout`: from the choice of a server to the established connection, over all servers tried.
    pub connect_timeout: Duration,
    /// `retries`: how many further servers are tried when a connect fails, 0..=[`RETRIES_MAX`].
    pub retries: u32,
    /// `queue`: sessions that may wait for a server when all are at their limit, 0..=[`QUEUE_MAX`].
    pub queue: u32,
    /// `queue_timeout`: how long they may wait.
    pub queue_timeout: Duration,
    /// `slow_start`: over how long a server that returns is brought back to its whole share; zero: at once.
    pub slow_start: Duration,
    /// How it is found out whether a server serves.
    pub check: CheckSettings,
}

/// `server NAME { ... }`.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Its name, unique in its backend.
    pub name: String,
    /// `address` and `port` as they were written: an address or a name to be resolved.
    pub host: String,
    /// The port to connect to.
    pub port: u16,
    /// `host` resolved; `None` while no address is known.
    pub address: Option<SocketAddr>,
    /// `weight`, 0..=[`WEIGHT_MAX`]; 0: no new sessions, but for those that stick to it.
    pub weight: u32,
    /// `connection_limit`; 0: none.
    pub connection_limit: u32,
    /// `state`: what the file says; it may be changed while the daemon runs.
    pub state: AdminState,
    /// `backup`: serves only while no other server does.
    pub backup: bool,
    /// `check_port`; `None`: `port`.
    pub check_port: Option<u16>,
}

/// `balance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// The server with the fewest sessions for its weight.
    #[default]
    LeastConn,
    /// One after the other, by weight.
    RoundRobin,
    /// By the client's address, IPv6 by its /64 (rendezvous hashing).
    Source,
}

impl Balance {
    /// All, by their names in a configuration.
    pub const ALL: [(Balance, &str); 3] =
        [(Balance::LeastConn, "leastconn"), (Balance::RoundRobin, "roundrobin"), (Balance::Source, "source")];
}

/// `stick = source`, `stick_table_size`, `stick_table_expire`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickSettings {
    /// Most clients that are remembered, 1..=[`STICK_TABLE_MAX`]; the one unseen longest makes room.
    pub size: u32,
    /// How long a client is remembered after it was last seen.
    pub expire: Duration,
}

/// What the operator wants of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminState {
    /// Sessions may come.
    #[default]
    Ready,
    /// Sessions stay, no new ones come but those that stick to it.
    Drain,
    /// No new sessions, and those that are there are let go.
    Maint,
}

impl AdminState {
    /// All, by their names in a configuration and at the control socket.
    pub const ALL: [(AdminState, &str); 3] =
        [(AdminState::Ready, "ready"), (AdminState::Drain, "drain"), (AdminState::Maint, "maint")];
}

/// `check`, `check_interval`, `rise`, `fall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckSettings {
    /// What is asked.
    pub kind: CheckKind,
    /// From one check of a server to the next.
    pub interval: Duration,
    /// So many good checks in a row bring a server up.
    pub rise: u32,
    /// So many bad ones, or failed sessions, in a row bring it down.
    pub fall: u32,
}

/// `check`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckKind {
    /// Nothing: only real sessions tell.
    None,
    /// Whether it accepts a connection.
    Connect,
    /// Whether it greets, and a polite goodbye.
    #[default]
    Banner,
    /// Dovecot's health-check service: PING is answered with PONG.
    Dovecot,
}

impl CheckKind {
    /// All, by their names in a configuration.
    pub const ALL: [(CheckKind, &str); 4] = [
        (CheckKind::None, "none"),
        (CheckKind::Connect, "connect"),
        (CheckKind::Banner, "banner"),
        (CheckKind::Dovecot, "dovecot"),
    ];
}
