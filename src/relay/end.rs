//! Why a session has ended: each for exactly one reason.

/// The reason. HAProxy's two letters stand beside each: who ended it and in which phase (its manual, "Session state at
/// disconnection").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// Both have ended their streams, the client first.
    ClientClosed,
    /// Both have ended their streams, the server first.
    ServerClosed,
    /// The server has ended its stream out of a silence, without a last word, and then the client: as a server does that is
    /// stopped or killed.
    ServerLeft,
    /// The client has reset the connection.
    ClientReset,
    /// The server has reset the connection.
    ServerReset,
    /// The client has left before a server had been found for it.
    ClientLeft,
    /// The balancer has looked whether somebody listens.
    Probe,
    /// Nobody has said anything for `idle_timeout`.
    IdleTimeout,
    /// One has ended its stream, and then nobody has said anything for `half_closed_timeout`.
    HalfClosedTimeout,
    /// No server of the backend can serve: all are down or in maintenance.
    NoServer,
    /// Every server that was tried has refused.
    ConnectFailed,
    /// No connection to a server was established within `connect_timeout`.
    ConnectTimeout,
    /// Every server was at its limit, and as many sessions waited as may.
    QueueFull,
    /// Every server was at its limit for `queue_timeout`.
    QueueTimeout,
    /// The server has not greeted within `login_proxy_timeout`.
    GreetingTimeout,
    /// The server has ended its connection before the client got a word of it.
    NoGreeting,
    /// The server did not take what tells it who the client is.
    PrefaceRefused,
    /// The client has sent something that cannot be passed on safely.
    FilterRefused,
    /// The server went down, or into maintenance, and its sessions were let go.
    ServerDown,
    /// An operator has ended it.
    Killed,
    /// The daemon ends.
    Drained,
    /// Files, source ports or places for sessions had run out.
    OutOfResources,
    /// The ring that served it has failed.
    RingFailed,
}

/// Its name for counters, what the log says, and HAProxy's letters.
const WORDS: [(End, &str, &str, &str); End::COUNT] = [
    (End::ClientClosed, "client-closed", "Connection closed", "--"),
    (End::ServerClosed, "server-closed", "Server closed the connection", "--"),
    (End::ServerLeft, "server-left", "Server closed the connection unasked", "SD"),
    (End::ClientReset, "client-reset", "Connection reset", "CD"),
    (End::ServerReset, "server-reset", "Server reset the connection", "SD"),
    (End::ClientLeft, "client-left", "Connection closed before a server answered", "CC"),
    (End::Probe, "probe", "Probe of the balancer", "--"),
    (End::IdleTimeout, "idle-timeout", "Disconnected for inactivity", "cD"),
    (End::HalfClosedTimeout, "half-closed-timeout", "Disconnected for inactivity after one side had closed", "cL"),
    (End::NoServer, "no-server", "No server is available", "SC"),
    (End::ConnectFailed, "connect-failed", "No server accepts the connection", "SC"),
    (End::ConnectTimeout, "connect-timeout", "No server answers", "sC"),
    (End::QueueFull, "queue-full", "All servers are at their limit, and the queue is full", "SQ"),
    (End::QueueTimeout, "queue-timeout", "All servers are at their limit", "sQ"),
    (End::GreetingTimeout, "greeting-timeout", "Server does not greet", "sD"),
    (End::NoGreeting, "no-greeting", "Server closed the connection without a greeting", "SD"),
    (End::PrefaceRefused, "preface-refused", "Server does not take the client's address", "SD"),
    (End::FilterRefused, "filter-refused", "Client sent what cannot be passed on", "PD"),
    (End::ServerDown, "server-down", "Server is down", "DD"),
    (End::Killed, "killed", "Disconnected by an administrator", "KD"),
    (End::Drained, "service-ended", "Disconnected because the service ends", "KD"),
    (End::OutOfResources, "no-resources", "Out of files, ports or sessions", "RC"),
    (End::RingFailed, "ring-failed", "Disconnected because a ring has failed", "ID"),
];

impl End {
    /// How many there are.
    pub const COUNT: usize = 23;

    /// Its place among all.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The names of all, in their order.
    pub fn codes() -> impl Iterator<Item = &'static str> {
        WORDS.iter().map(|words| words.1)
    }

    /// Its name, such as `client-closed`.
    pub fn code(self) -> &'static str {
        WORDS[self.index()].1
    }

    /// What the log says.
    pub fn words(self) -> &'static str {
        WORDS[self.index()].2
    }

    /// Whether somebody should look after it: servers that do not serve, or limits of our own.
    pub fn is_trouble(self) -> bool {
        use End::*;
        matches!(
            self,
            NoServer
                | ConnectFailed
                | ConnectTimeout
                | QueueFull
                | QueueTimeout
                | GreetingTimeout
                | NoGreeting
                | PrefaceRefused
                | OutOfResources
                | RingFailed
        )
    }

    /// HAProxy's two letters.
    pub fn letters(self) -> &'static str {
        WORDS[self.index()].3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_own_place() {
        assert!(WORDS.iter().enumerate().all(|(index, words)| words.0.index() == index));
        let codes: std::collections::HashSet<_> = End::codes().collect();
        assert_eq!(codes.len(), End::COUNT);
    }
}
