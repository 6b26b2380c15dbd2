//! What the configuration means: every value parsed, every default filled in, every listener complete by itself.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::Place;
use crate::admission::{ClientLimits, EndpointRules, Policy};
use crate::backend;
use crate::dispatch::Overload;
use crate::net::{Network, NetworkSet};
use crate::proxy::Rules;
use crate::relay::{Forward, ForwardTlvs, Protocol, Target};

/// The daemon's settings.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// `driver`: what they run on.
    pub driver: DriverKind,
    /// Accept threads, 1..=[`RINGS_MAX`]; `None`: one per allowed CPU.
    pub rings: Option<NonZeroUsize>,
    /// Connections that may wait for their header, per ring, [`PENDING_MIN`]..=[`PENDING_MAX`].
    pub pending_limit: u32,
    /// Most of them from one peer, up to [`PENDING_MAX`]; 0: no limit.
    pub pending_peer_limit: u32,
    /// Most bytes of memory that the rings together may keep locked, [`LOCKED_MEMORY_MIN`]..=[`LOCKED_MEMORY_MAX`]; 0: no
    /// limit.
    pub locked_memory_limit: u64,
    /// Bans and limits on clients.
    pub clients: Clients,
    /// Whom the daemon becomes once its sockets are bound.
    pub privileges: Privileges,
    /// Largest version 2 header in bytes, [`HEADER_MIN`]..=[`HEADER_MAX`].
    pub header_limit: u32,
    /// How long the workers' connections may finish after SIGTERM, at most [`DRAIN_MAX`].
    pub drain_timeout: Duration,
    /// How long before a drain begins `/readyz` says that it will, at most [`DRAIN_DELAY_MAX`].
    pub drain_delay: Duration,
    /// Unix socket on which another daemon can take over.
    pub takeover_socket: Option<PathBuf>,
    /// Unix socket on which `vestibule ctl` asks and says what is to be done.
    pub control_socket: Option<PathBuf>,
    /// Where metrics, health and the page are served by HTTP; never a port of a listener.
    pub http_listen: Option<SocketAddr>,
    /// Names by which they may be asked for there, beside addresses and `localhost`: at most [`HTTP_HOSTS_MAX`].
    pub http_hosts: Vec<String>,
    /// What a line of the log is like.
    pub log_format: LogFormat,
    /// What a listener has that does not say otherwise; the listeners in `services` have it filled in.
    pub defaults: Defaults,
    /// PEM file with the certificate chain for listeners with `ssl = yes`.
    pub ssl_cert: Option<SourcedPath>,
    /// PEM file with its key. Set exactly when `ssl_cert` is.
    pub ssl_key: Option<SourcedPath>,
    /// `ssl_min_protocol`.
    pub ssl_min_protocol: TlsVersion,
    /// `ssl_handshake_timeout`: from the header, or the accept where there is none, until a TLS session must stand, 1 s..=
    /// [`SSL_HANDSHAKE_MAX`].
    pub ssl_handshake_timeout: Duration,
    /// `ssl_ktls`: whether the kernel goes on with sessions behind their handshake, where it can.
    pub ssl_ktls: bool,
    /// `ssl_handshake_threads`: threads that compute handshakes, 0 (the rings do it)..=[`SSL_HANDSHAKE_THREADS_MAX`].
    pub ssl_handshake_threads: u32,
    /// Whether clients are asked for a certificate, and by whom it must be signed.
    pub client_certificates: Option<ClientCertificates>,
    /// `local_name NAME { ... }`: certificates for clients that ask for a name; the first that matches counts. At most
    /// [`LOCAL_NAMES_MAX`].
    pub local_names: Vec<LocalName>,
    /// Which of the listeners that the files name are in `services`.
    pub serve_listeners: ServeListeners,
    /// `login_source_ips`: addresses from which servers are connected to; empty: the system's choice.
    pub login_source_ips: Vec<IpAddr>,
    /// `login_proxy_timeout`: from the established connection to the server's first byte, 1 s..=[`LOGIN_PROXY_MAX`].
    pub login_proxy_timeout: Duration,
    /// `login_proxy_max_disconnect_delay`: over how long the clients of a lost server are let go, at most
    /// [`LOGIN_PROXY_MAX`]; zero: all at once.
    pub login_proxy_max_disconnect_delay: Duration,
    /// Those who can serve, in the order of the files; at most [`BACKENDS_MAX`], with different names.
    pub backends: Vec<Backend>,
    /// Services that listen, in the order of the files.
    pub services: Vec<Service>,
}

/// Most accept threads.
pub const RINGS_MAX: usize = 1024;
/// Default of `pending_limit`.
pub const PENDING_DEFAULT: u32 = 16384;
/// Least `pending_limit`.
pub const PENDING_MIN: u32 = 16;
/// Largest `pending_limit`.
pub const PENDING_MAX: u32 = 1 << 20;
/// Least `locked_memory_limit`: on most machines one ring fits.
pub const LOCKED_MEMORY_MIN: u64 = 64 << 10;
/// Largest `locked_memory_limit`.
pub const LOCKED_MEMORY_MAX: u64 = 1 << 40;
/// Default of `header_limit` in bytes.
pub const HEADER_DEFAULT: u32 = 4096;
/// Least `header_limit` in bytes: a header with Unix addresses.
pub const HEADER_MIN: u32 = 232;
/// Largest `header_limit` in bytes: what version 2 can express.
pub const HEADER_MAX: u32 = crate::proxy::V2_LENGTH_MAX as u32;
/// Default of `drain_timeout`.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(60);
/// Longest `drain_timeout`.
pub const DRAIN_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Longest `drain_delay`.
pub const DRAIN_DELAY_MAX: Duration = Duration::from_secs(60 * 60);
/// Most `http_hosts`.
pub const HTTP_HOSTS_MAX: usize = 64;
/// Default of `haproxy_timeout`.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
/// Longest `haproxy_timeout`: a pending connection holds a slot for so long.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);
/// Default of `ssl_handshake_timeout`.
pub const SSL_HANDSHAKE_DEFAULT: Duration = Duration::from_secs(5);
/// Longest `ssl_handshake_timeout`: a handshake that is awaited holds a place.
pub const SSL_HANDSHAKE_MAX: Duration = Duration::from_secs(60 * 60);
/// Most `ssl_handshake_threads`.
pub const SSL_HANDSHAKE_THREADS_MAX: u32 = 64;
/// Default of `client_rate_period`.
pub const RATE_PERIOD_DEFAULT: Duration = Duration::from_secs(60);
/// Longest `client_rate_period`.
pub const RATE_PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Largest `client_connection_limit` and `client_rate_limit`.
pub const CLIENT_LIMIT_MAX: u32 = 1_000_000;
/// Most items of a `client_allowed_endpoints`.
pub const ENDPOINTS_MAX: usize = 16_384;
/// Most worker threads of a pool.
pub const WORKERS_MAX: usize = 4096;
/// Most listeners.
pub const LISTENERS_MAX: usize = 1024;

/// Most `local_name` sections with a certificate.
pub const LOCAL_NAMES_MAX: usize = 1024;
/// Most backends.
pub const BACKENDS_MAX: usize = 256;
/// Default of `login_proxy_timeout`.
pub const LOGIN_PROXY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Default of `login_proxy_max_disconnect_delay`.
pub const DISCONNECT_DELAY_DEFAULT: Duration = Duration::from_secs(30);
/// Longest `login_proxy_timeout` and `login_proxy_max_disconnect_delay`.
pub const LOGIN_PROXY_MAX: Duration = Duration::from_secs(60 * 60);
/// Most `login_source_ips`.
pub const SOURCE_IPS_MAX: usize = 256;
/// Default of `idle_timeout`: clients in IMAP's IDLE speak every 29 minutes (RFC 2177).
pub const IDLE_DEFAULT: Duration = Duration::from_secs(31 * 60);
/// Longest `idle_timeout`.
pub const IDLE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Default of `connect_timeout`.
pub const CONNECT_DEFAULT: Duration = Duration::from_secs(5);
/// Longest `connect_timeout`.
pub const CONNECT_MAX: Duration = Duration::from_secs(10 * 60);
/// Default of `half_closed_timeout`.
pub const HALF_CLOSED_DEFAULT: Duration = Duration::from_secs(30);
/// Longest `half_closed_timeout`.
pub const HALF_CLOSED_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Default of `retries`.
pub const RETRIES_DEFAULT: u32 = 3;
/// Default of a backend's `queue`.
pub const BACKEND_QUEUE_DEFAULT: u32 = 1024;
/// Default of `queue_timeout`.
pub const QUEUE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Longest `queue_timeout`.
pub const QUEUE_TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);
/// Default of `stick_table_size`.
pub const STICK_TABLE_DEFAULT: u32 = 204_800;
/// Default of `stick_table_expire`.
pub const STICK_EXPIRE_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// Longest `stick_table_expire`.
pub const STICK_EXPIRE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Default of `slow_start`.
pub const SLOW_START_DEFAULT: Duration = Duration::from_secs(30);
/// Longest `slow_start`.
pub const SLOW_START_MAX: Duration = Duration::from_secs(60 * 60);
/// Default of `check_interval`.
pub const CHECK_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
/// Longest `check_interval`.
pub const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);
/// Default of `rise`.
pub const RISE_DEFAULT: u32 = 2;
/// Default of `fall`.
pub const FALL_DEFAULT: u32 = 3;
/// Largest `rise` and `fall`.
pub const STREAK_MAX: u32 = 100;
/// Largest `connection_limit` of a server.
pub const CONNECTION_LIMIT_MAX: u32 = 1_000_000;

/// `client_*`: who of those that the headers name may connect, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// What it comes to.
    pub limits: ClientLimits,
    /// `client_rate_period`, also where there is no rate.
    pub rate_period: Duration,
    /// `limits.exempt` as it was written.
    pub exempt: Vec<Network>,
    /// `limits.banned` as it was written.
    pub banned: Vec<Network>,
    /// `shadow_client_banned_networks` as it was written.
    pub shadow_banned: Vec<Network>,
}

impl Default for Clients {
    fn default() -> Clients {
        let (exempt, banned, shadow_banned) = (Vec::new(), Vec::new(), Vec::new());
        Clients { limits: ClientLimits::default(), rate_period: RATE_PERIOD_DEFAULT, exempt, banned, shadow_banned }
    }
}

/// `user`, `group` and `chroot`. The names are not looked up here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// The user to become.
    pub user: Option<SourcedName>,
    /// Another group than the user's own; only with a user.
    pub group: Option<SourcedName>,
    /// The directory to be locked into, an absolute path; only with a user.
    pub chroot: Option<SourcedPath>,
}

/// A version of TLS that is spoken here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2.
    #[default]
    V12,
    /// 1.3.
    V13,
}

impl TlsVersion {
    /// All, by their names in a configuration.
    pub const ALL: [(TlsVersion, &str); 2] = [(TlsVersion::V12, "TLSv1.2"), (TlsVersion::V13, "TLSv1.3")];
}

/// `driver`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverKind {
    /// io_uring, or epoll where io_uring is forbidden.
    #[default]
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
}

impl DriverKind {
    /// All, by their names in a configuration.
    pub const ALL: [(DriverKind, &str); 3] =
        [(DriverKind::Auto, "auto"), (DriverKind::IoUring, "io_uring"), (DriverKind::Epoll, "epoll")];
}

/// `log_format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text in Dovecot's form.
    #[default]
    Text,
    /// An object of JSON.
    Json,
}

impl LogFormat {
    /// All, by their names in a configuration.
    pub const ALL: [(LogFormat, &str); 2] = [(LogFormat::Text, "text"), (LogFormat::Json, "json")];
}

/// `serve_listeners`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServeListeners {
    /// All.
    #[default]
    All,
    /// Those with `haproxy = yes`.
    Haproxy,
    /// Those that the main file itself names, not only one that it includes.
    Named,
}

/// Global settings that listeners inherit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// `listen`.
    pub addresses: Vec<IpAddr>,
    /// `ssl`: if not, no listener with TLS is bound.
    pub ssl: bool,
    /// `haproxy_trusted_networks`.
    pub networks: Vec<Network>,
    /// `shadow_trusted_networks`; empty: nothing is tried.
    pub shadow_networks: Vec<Network>,
    /// `haproxy_untrusted = plain`.
    pub plain_untrusted: bool,
    /// `haproxy_timeout`.
    pub timeout: Duration,
    /// `pending_listener_limit`.
    pub pending_limit: u32,
    /// `log_connections`.
    pub log_connections: bool,
    /// `client_allowed_endpoints`, `client_endpoint_missing`.
    pub endpoints: EndpointRules,
}

impl Default for Defaults {
    fn default() -> Self {
        let everywhere = vec![IpAddr::V4([0; 4].into()), IpAddr::V6([0; 16].into())];
        Defaults {
            addresses: everywhere,
            ssl: true,
            networks: Vec::new(),
            shadow_networks: Vec::new(),
            plain_untrusted: false,
            timeout: TIMEOUT_DEFAULT,
            pending_limit: 0,
            log_connections: false,
            endpoints: EndpointRules::default(),
        }
    }
}

/// A user's or group's name and the setting that gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcedName {
    /// Never empty.
    pub name: String,
    /// Where it is given.
    pub at: Place,
}

/// A file and the setting that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcedPath {
    /// The file; relative paths were resolved against the directory of the configuration file.
    pub path: PathBuf,
    /// Where it is named.
    pub at: Place,
}

/// What is asked of clients that shake hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// `ssl_ca`: PEM file with the authorities, and their lists of revoked certificates.
    pub authorities: SourcedPath,
    /// `auth_ssl_require_client_cert`: whether a client without one is refused.
    pub required: bool,
    /// `ssl_require_crl`: whether a certificate counts only by a list of revoked ones that it is not on.
    pub require_crl: bool,
}

/// A certificate for some names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalName {
    /// As they are written: host names, in which `*` stands for one label.
    pub names: Vec<String>,
    /// PEM file with the certificate chain.
    pub cert: SourcedPath,
    /// PEM file with its key.
    pub key: SourcedPath,
}

/// `service NAME { ... }`: listeners and the pool that serves them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Service {
    /// Its name, also the pool's.
    pub name: String,
    /// What the pool does.
    pub worker: WorkerKind,
    /// Worker threads, 1..=[`WORKERS_MAX`]; `None`: as many as the program thinks fit, or none.
    pub workers: Option<NonZeroUsize>,
    /// Length of the pool's queue, 1..=[`Pool::QUEUE_MAX`](crate::dispatch::Pool::QUEUE_MAX).
    pub queue: usize,
    /// What happens when the queue is full.
    pub overload: Overload,
    /// Leave bytes behind the header in the socket.
    pub exact_residual: bool,
    /// Where receivers connect; set exactly when `worker` is [`WorkerKind::HandOff`].
    pub hand_off: Option<HandOffPlace>,
    /// What is spoken behind its listeners.
    pub protocol: Protocol,
    /// The backend, by its index in [`Settings::backends`]; set exactly when `worker` is [`WorkerKind::Relay`].
    pub backend: Option<usize>,
    /// After how long without a byte a relayed session ends, 1 s..=[`IDLE_MAX`].
    pub idle_timeout: Duration,
    /// Whether a session's start and end are logged; no without a relay.
    pub log_sessions: bool,
    /// The sockets; never empty.
    pub listeners: Vec<InetListener>,
    /// Where the service first stands.
    pub at: Place,
}

/// Where other processes connect to get connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOffPlace {
    /// The Unix socket; relative paths were resolved against the directory of the configuration file.
    pub socket: PathBuf,
    /// Its permissions, 0..=0o777.
    pub mode: u32,
}

/// Default of `handoff_mode`.
pub const HANDOFF_MODE_DEFAULT: u32 = 0o600;

/// `worker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerKind {
    /// Answers with one JSON line about the connection.
    Whoami,
    /// Closes without an answer.
    Discard,
    /// Passes the connection on to a server of the service's backend.
    Relay,
    /// Hands the connection off to another process.
    HandOff,
}

/// `backend NAME { ... }`.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name, its servers, and how one of them is chosen.
    pub servers: backend::Settings,
    /// Which kind of server they are.
    pub target: Target,
    /// How they learn who the client is.
    pub forward: Forward,
    /// What else a version 2 header tells them; empty unless `forward` is [`Forward::ProxyV2`].
    pub forward_tlvs: ForwardTlvs,
    /// How long a session may go on once one side has ended, 1 s..=[`HALF_CLOSED_MAX`].
    pub half_closed_timeout: Duration,
    /// Where the backend first stands.
    pub at: Place,
}

/// `inet_listener NAME { ... }`, complete: what it inherits is filled in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InetListener {
    /// Its name; `port-N` if the file gives none.
    pub name: String,
    /// Addresses to bind, without repetition; never empty.
    pub addresses: Vec<IpAddr>,
    /// 1..=65535.
    pub port: u16,
    /// A TLS handshake comes first (behind the PROXY header).
    pub ssl: bool,
    /// A PROXY header is mandatory.
    pub haproxy: bool,
    /// Other processes may bind the same port.
    pub reuse_port: bool,
    /// Who may send a header.
    pub trusted: NetworkSet,
    /// `trusted` as it was written.
    pub networks: Vec<Network>,
    /// Where it was written, if it was.
    pub networks_at: Option<Place>,
    /// Who may send one by a stricter policy that is only tried (`shadow_trusted_networks`); empty: none is.
    pub shadow_networks: Vec<Network>,
    /// Peers outside of them are clients of their own, without a header; if not, they are turned away.
    pub plain_untrusted: bool,
    /// From accept to a complete header, 1 s..=[`TIMEOUT_MAX`].
    pub timeout: Duration,
    /// Most headers that it awaits in one ring, up to [`PENDING_MAX`]; 0: as many as the ring may.
    pub pending_limit: u32,
    /// The header's grammar.
    pub rules: Rules,
    /// The listener's demands on a header.
    pub policy: Policy,
    /// TCP_DEFER_ACCEPT.
    pub defer_accept: bool,
    /// Every connection that is handed to the workers gets a line in the log.
    pub log_connections: bool,
    /// Where the listener first stands.
    pub at: Place,
}
