//! The declarations.

/// What the samples of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, as long as one process takes over from another. Its samples are called by its name and `_total`.
    Counter,
    /// Comes and goes.
    Gauge,
    /// Times in buckets.
    Histogram,
    /// Says something by its labels alone. Its sample is called by its name and `_info`, and is 1.
    Info,
}

/// What is known of a family beforehand.
#[derive(Debug)]
pub struct Family {
    /// Its name, without what its kind puts behind it.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// `seconds`, `bytes`, or nothing: then it counts.
    pub unit: &'static str,
    /// What it means, a sentence or two; see [`Family::help`].
    lines: &'static [&'static str],
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The upper bounds of its buckets, if it is a histogram; one without a bound comes behind them.
    pub bounds: &'static [f64],
    /// Its place in [`ALL`].
    pub(super) place: usize,
}

impl Family {
    /// What it means, for the one who reads it for the first time.
    pub fn help(&self) -> String {
        self.lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }

    /// The name of its samples; of a histogram, that of all of them together.
    pub fn sample_name(&self) -> String {
        format!("{}{}", self.name, self.kind.suffix())
    }
}

impl Kind {
    /// What stands behind the family's name in that of a sample.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }
}

/// A counter with so many labels.
#[derive(Debug)]
pub struct Counter<const LABELS: usize>(pub(super) Family);
/// A gauge with so many labels.
#[derive(Debug)]
pub struct Gauge<const LABELS: usize>(pub(super) Family);
/// A histogram with so many labels.
#[derive(Debug)]
pub struct Histogram<const LABELS: usize>(pub(super) Family);
/// Something that is told by so many labels.
#[derive(Debug)]
pub struct Info<const LABELS: usize>(pub(super) Family);

/// From a fifth of a millisecond to half a minute: what somebody waits for.
const WAITS: &[f64] =
    &[0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
/// From a tenth of a second to a week: what somebody stays for.
const STAYS: &[f64] = &[0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14_400.0, 86_400.0, 604_800.0];

/// Declares families: `/// help`, kind, constant, name, unit, labels, and of histograms the bounds.
macro_rules! families {
    ($($(#[doc = $help:literal])+ $kind:ident $constant:ident = $name:literal $unit:literal [$($label:literal),*] $(in $bounds:ident)?;)+) => {
        $($(#[doc = $help])+
        pub static $constant: $kind<{ const LABELS: &[&str] = &[$($label),*]; LABELS.len() }> = $kind(Family {
            name: $name,
            kind: Kind::$kind,
            unit: $unit,
            lines: &[$($help),+],
            labels: &[$($label),*],
            bounds: families!(@ $($bounds)?),
            place: Place::$constant as usize,
        });)+

        /// The families by number.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "named as the families are")]
        enum Place {
            $($constant),+
        }

        /// All, in the order in which they are shown.
        pub static ALL: &[&Family] = &[$(&$constant.0),+];
    };
    (@) => { &[] };
    (@ $bounds:ident) => { $bounds };
}

families! {
    /// Connections that the kernel has delivered.
    Counter ACCEPTED = "vestibule_accepted" "" ["service", "listener"];
    /// Connections that were handed on, to a backend or a pool, by the header that they brought. Version: v1, v2, none.
    /// Command: proxy (a client), local (the balancer's own, such as a check), local-user (a user whom the balancer could not
    /// name), none (no header).
    Counter HANDED_ON = "vestibule_headers" "" ["service", "listener", "version", "command"];
    /// Connections that ended before they were handed on, by reason: those of the log's reason=.
    Counter REFUSED = "vestibule_refused" "" ["service", "listener", "reason"];
    /// Connections that were let in, and that a stricter policy which is only tried would have refused. Reason:
    /// shadow-untrusted, shadow-client-banned, shadow-client-connection-limit, shadow-client-rate-limit.
    Counter SHADOW = "vestibule_shadow_refused" "" ["service", "listener", "reason"];
    /// Connections that looked like something an operator should know of, by diagnosis: those of the log's diagnosis=.
    Counter DIAGNOSED = "vestibule_diagnosed" "" ["service", "listener", "diagnosis"];
    /// Connections whose header is awaited.
    Gauge PENDING = "vestibule_pending" "" ["service", "listener"];
    /// Connections that were reset before their address could be asked for.
    Counter RESET_EARLY = "vestibule_reset_early" "" ["service", "listener"];
    /// Connections that went to another process, or came from one, while their header was awaited. Direction: in, out.
    Counter PENDING_MOVED = "vestibule_pending_moved" "" ["service", "listener", "direction"];
    /// From the accept of a connection to its complete header.
    Histogram HEADER_WAIT = "vestibule_header_wait_seconds" "seconds" [] in WAITS;
    /// Clients in 127.0.0.0/8 or ::1, by their headers.
    Counter LOOPBACK_SOURCES = "vestibule_loopback_sources" "" [];
    /// Headers with a port of 0.
    Counter PORT_ZERO = "vestibule_port_zero" "" [];
    /// Accepts that failed. Reason: out-of-resources (files or memory), other.
    Counter ACCEPT_FAILURES = "vestibule_accept_failures" "" ["reason"];
    /// TLS handshakes that failed.
    Counter TLS_FAILURES = "vestibule_tls_failures" "" [];
    /// TLS sessions that were established. Handshake: full, resumed.
    Counter TLS_SESSIONS = "vestibule_tls_sessions" "" ["handshake"];
    /// Health checks that ended in a TLS handshake.
    Counter TLS_CHECKS = "vestibule_tls_checks" "" [];
    /// Steps of TLS handshakes that a ring did itself, because the threads for them had no room.
    Counter TLS_THREADS_FULL = "vestibule_tls_threads_full" "" [];
    /// TLS sessions that the kernel went on with behind their handshake.
    Counter TLS_TO_KERNEL = "vestibule_tls_to_kernel" "" [];

    /// Times that accepting was paused because the queue of a pool was full.
    Counter PAUSED = "vestibule_paused" "" [];
    /// From the accept of a connection to the worker of a pool that takes it.
    Histogram DISPATCH = "vestibule_dispatch_seconds" "seconds" ["pool"] in WAITS;
    /// Connections that a pool has lost by a fault of its own.
    Counter POOL_LOST = "vestibule_pool_lost" "" ["pool"];

    /// Sessions at a server.
    Gauge SESSIONS = "vestibule_current_sessions" "" ["backend", "server"];
    /// Most sessions at a server at a time so far.
    Gauge SESSIONS_MAX = "vestibule_max_sessions" "" ["backend", "server"];
    /// Most sessions that a server may have; not there where any number may be.
    Gauge SESSIONS_LIMIT = "vestibule_limit_sessions" "" ["backend", "server"];
    /// Sessions that were given to a server.
    Counter SESSIONS_GIVEN = "vestibule_sessions" "" ["backend", "server"];
    /// Sessions that have ended at a server, by reason: those of the log's end=.
    Counter SESSION_ENDS = "vestibule_session_ends" "" ["backend", "server", "reason"];
    /// Sessions that have ended without a server, by reason.
    Counter UNSERVED = "vestibule_unserved" "" ["backend", "reason"];
    /// Bytes of sessions that have ended. Direction: in (from the client), out (to the client).
    Counter BYTES = "vestibule_bytes" "bytes" ["backend", "server", "direction"];
    /// From the accept to the end of sessions that have ended.
    Histogram SESSION_SECONDS = "vestibule_session_seconds" "seconds" ["backend"] in STAYS;
    /// From the choice of a server to the connection to it.
    Histogram CONNECT_SECONDS = "vestibule_connect_seconds" "seconds" ["backend"] in WAITS;
    /// From the connection to a server to its greeting.
    Histogram GREETING_SECONDS = "vestibule_greeting_seconds" "seconds" ["backend"] in WAITS;
    /// Sessions that went to another process, or came from one. Direction: in, out.
    Counter SESSIONS_MOVED = "vestibule_sessions_moved" "" ["direction"];
    /// Whether a server is up, by checks and sessions: 1 or 0.
    Gauge SERVER_UP = "vestibule_server_up" "" ["backend", "server"];
    /// What the operator wants of a server: 1 at one of the states ready, drain, maint, 0 at the others.
    Gauge SERVER_STATE = "vestibule_server_state" "" ["backend", "server", "state"];
    /// How long a server has been up or down.
    Gauge SERVER_SINCE = "vestibule_server_since_seconds" "seconds" ["backend", "server"];
    /// The weight of a server as it counts now: less than the set one on its way back.
    Gauge SERVER_WEIGHT = "vestibule_server_weight" "" ["backend", "server"];
    /// Health checks. Result: passed, failed.
    Counter CHECKS = "vestibule_checks" "" ["backend", "server", "result"];
    /// Times that a server went down.
    Counter SERVER_DOWNS = "vestibule_server_downs" "" ["backend", "server"];
    /// Connects to a server that failed, and sessions that it did not greet. Cause: server, own-fault (no source port,
    /// descriptor or memory was left), not-greeted.
    Counter CONNECT_ERRORS = "vestibule_connection_errors" "" ["backend", "server", "cause"];
    /// Sessions that a server got because another one had failed them.
    Counter REDISPATCHED = "vestibule_redispatched" "" ["backend", "server"];
    /// Times that a server has said that it is overloaded.
    Counter OVERLOADED = "vestibule_server_overloaded" "" ["backend", "server"];
    /// Sessions that wait for a place at a server of a backend.
    Gauge QUEUE = "vestibule_queue" "" ["backend"];
    /// Most sessions that waited at a time so far.
    Gauge QUEUE_MAX = "vestibule_queue_max" "" ["backend"];
    /// Most sessions that may wait.
    Gauge QUEUE_LIMIT = "vestibule_queue_limit" "" ["backend"];
    /// Sessions that had to wait for a place, by what came of it. Outcome: waited (began to), queue-full (found no room),
    /// abandoned (gave up).
    Counter QUEUED = "vestibule_queued" "" ["backend", "outcome"];
    /// Choices of a server that found none. Cause: full (all at their limits), nobody (all down or in maintenance).
    Counter NOT_CHOSEN = "vestibule_not_chosen" "" ["backend", "cause"];
    /// Clients that the stick table of a backend remembers.
    Gauge STICK_TABLE_USED = "vestibule_stick_table_used" "" ["backend"];
    /// Clients that it can remember; 0: there is none.
    Gauge STICK_TABLE_SIZE = "vestibule_stick_table_size" "" ["backend"];

    /// Connections that the kernel has delivered to a ring.
    Counter RING_ACCEPTED = "vestibule_ring_accepted" "" ["ring"];
    /// Connections of a ring whose header is awaited.
    Gauge RING_PENDING = "vestibule_ring_pending" "" ["ring"];
    /// Turns of a ring.
    Counter RING_TURNS = "vestibule_ring_turns" "" ["ring"];
    /// Turns of a ring that found the completion queue full.
    Counter RING_CQ_OVERFLOWS = "vestibule_ring_cq_overflows" "" ["ring"];
    /// Completions of a ring that belonged to nobody any more.
    Counter RING_STALE = "vestibule_ring_stale" "" ["ring"];
    /// Connections reported by the kernel to a ring that did not exist.
    Counter RING_PHANTOM = "vestibule_ring_phantom" "" ["ring"];
    /// Times that a ring had failed and was replaced.
    Counter RING_REPLACED = "vestibule_ring_replaced" "" ["ring"];

    /// Clients that the table of limits remembers something of.
    Gauge CLIENT_TABLE_USED = "vestibule_client_table_used" "" [];
    /// Clients that the table of limits has room for; 0: there is none.
    Gauge CLIENT_TABLE_SIZE = "vestibule_client_table_size" "" [];
    /// Clients that were forgotten early, in favour of newer ones.
    Counter CLIENT_TABLE_EVICTED = "vestibule_client_table_evicted" "" [];
    /// Connections whose client could not be counted, since the table was full of clients with live connections.
    Counter CLIENT_TABLE_UNCOUNTED = "vestibule_client_table_uncounted" "" [];

    /// Log lines that were lost because standard error was blocked or full.
    Counter LOG_LINES_LOST = "vestibule_log_lines_lost" "" [];
    /// Connections that the kernel dropped because a backlog was full, of every program in this network namespace
    /// (ListenOverflows of /proc/net/netstat).
    Counter LISTEN_OVERFLOWS = "vestibule_listen_overflows" "" [];
    /// Connections that the kernel dropped before they were accepted, for whatever reason, of every program in this network
    /// namespace (ListenDrops of /proc/net/netstat).
    Counter LISTEN_DROPS = "vestibule_listen_drops" "" [];
    /// Whether every listener accepts: 1, or 0 from the beginning of a drain on.
    Gauge READY = "vestibule_ready" "" [];
    /// Whether the last reload has failed, so that the configuration before is still in force: 1 or 0.
    Gauge RELOAD_FAILED = "vestibule_reload_failed" "" [];
    /// How long the configuration has been in force.
    Gauge CONFIGURATION_SINCE = "vestibule_configuration_seconds" "seconds" [];
    /// Rings.
    Gauge RINGS = "vestibule_rings" "" [];
    /// Memory that the rings keep locked: their queues, and the buffers that are registered. On epoll none.
    Gauge LOCKED_MEMORY = "vestibule_locked_memory_bytes" "bytes" [];
    /// What the rings stand on: io_uring, or epoll where that is forbidden or not wanted.
    Info DRIVER = "vestibule_driver" "" ["driver"];
    /// Requests that were answered here. Path: the known ones, and other.
    Counter HTTP_REQUESTS = "vestibule_http_requests" "" ["path"];
    /// Connections that were closed at once because as many as may be were being answered.
    Counter HTTP_REFUSED = "vestibule_http_refused" "" [];
    /// What runs here.
    Info BUILD = "vestibule_build" "" ["version", "kernel"];

    /// When this process began, in seconds since 1970.
    Gauge PROCESS_START = "process_start_time_seconds" "seconds" [];
    /// Processor time that this process has used.
    Counter PROCESS_CPU = "process_cpu_seconds" "seconds" [];
    /// Memory of this process that is resident.
    Gauge PROCESS_RESIDENT = "process_resident_memory_bytes" "bytes" [];
    /// Open files of this process.
    Gauge PROCESS_FDS = "process_open_fds" "" [];
    /// Most open files that this process may have.
    Gauge PROCESS_FDS_MAX = "process_max_fds" "" [];
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_different_and_follow_the_conventions() {
        let names: HashSet<&str> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            let Family { name, unit, .. } = *family;
            assert!(name.starts_with("vestibule_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(!["_total", "_info", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)), "{name}");
            assert!(unit.is_empty() || name.ends_with(&format!("_{unit}")), "{name} ends with its unit");
            assert_eq!(family.kind == Kind::Histogram, !family.bounds.is_empty(), "{name}");
            assert!(family.bounds.is_sorted(), "{name}");
        }
    }

    #[test]
    fn help_is_a_sentence_that_needs_no_escape() {
        for family in ALL {
            let help = family.help();
            assert!(help.ends_with('.') && !help.contains(['\\', '"', '\n']), "{}: {help}", family.name);
        }
    }

    #[test]
    fn no_label_is_an_address() {
        for label in ALL.iter().flat_map(|family| family.labels) {
            let known = [
                "service",
                "listener",
                "version",
                "command",
                "reason",
                "diagnosis",
                "direction",
                "pool",
                "backend",
                "server",
                "state",
                "result",
                "cause",
                "outcome",
                "ring",
                "driver",
                "path",
                "kernel",
                "handshake",
            ];
            assert!(known.contains(label), "{label}: is its number of values bounded?");
        }
    }
}
