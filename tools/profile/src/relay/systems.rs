//! The relays that are compared, each as a good administrator sets it up.

use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use clap::ValueEnum;
use serde::Serialize;

use vestibule_peers::{find_program, temp_dir};

use super::Job;
use crate::server::{Recipe, free_address};
use crate::systems::{Tools, version, write};

/// Buffers of the peers where bulk is measured with as much memory as Vestibule lends, in KiB.
const LARGE_KIB: u32 = 256;
/// Servers that a backend has: all of them are one process.
pub const SERVERS: u32 = 4;

/// A relay, set up in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// The daemon: one ring, session log, counters, timers, leastconn.
    Vestibule,
    /// The same with `driver = epoll`.
    VestibuleEpoll,
    /// HAProxy: one thread, session log (`option tcplog`), leastconn.
    Haproxy,
    /// The same without a log.
    HaproxyNolog,
    /// The same with larger buffers.
    #[value(name = "haproxy-256k")]
    #[serde(rename = "haproxy-256k")]
    Haproxy256k,
    /// nginx's stream module: one worker, access log, least_conn.
    Nginx,
    /// The same with larger buffers.
    #[value(name = "nginx-256k")]
    #[serde(rename = "nginx-256k")]
    Nginx256k,
    /// tokio, one thread, crate proxy-header.
    Tokio,
    /// Computes nothing, on io_uring.
    Floor,
}

use System::{Floor, Haproxy, Haproxy256k, HaproxyNolog, Nginx, Nginx256k, Tokio, Vestibule, VestibuleEpoll};

/// What a relay is to be ready for.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Sessions at a time, at most.
    pub sessions: u32,
    /// Servers of its backend.
    pub servers: u32,
    /// Whether clients keep their server.
    pub stick: bool,
    /// Whether it relays at all; otherwise it closes what it has accepted.
    pub relay: bool,
}

impl Default for Needs {
    fn default() -> Needs {
        Needs { sessions: 9500, servers: SERVERS, stick: false, relay: true }
    }
}

impl System {
    /// Those that do a job.
    pub fn of(job: Job) -> impl Iterator<Item = System> {
        System::value_variants().iter().copied().filter(move |system| match system {
            Haproxy256k | Nginx256k => job == Job::Bulk,
            HaproxyNolog => matches!(job, Job::Short | Job::Short8 | Job::Connect | Job::Chatter),
            Vestibule | VestibuleEpoll | Haproxy | Nginx | Tokio | Floor => true,
        })
    }

    /// What it needs that is not installed here.
    pub fn missing(self) -> Option<String> {
        let program = |name: &str| find_program(name).is_none().then(|| format!("{name} is not installed"));
        match self {
            Haproxy | HaproxyNolog | Haproxy256k => program("haproxy"),
            Nginx | Nginx256k => program("nginx").or_else(|| {
                vestibule_peers::nginx_stream_module().err().map(|error| format!("nginx's stream module: {error}"))
            }),
            Vestibule | VestibuleEpoll | Tokio | Floor => None,
        }
    }

    /// Lines that it logs of a session, at least.
    pub fn lines_a_session(self) -> u64 {
        match self {
            Vestibule | VestibuleEpoll => 2,
            Haproxy | Haproxy256k | Nginx | Nginx256k => 1,
            HaproxyNolog | Tokio | Floor => 0,
        }
    }

    /// Whether its header is of version 1.
    pub fn sends_v1(self) -> bool {
        matches!(self, Nginx | Nginx256k)
    }

    /// How to start it before a backend that listens at all loopback addresses on `port`. All log to the file that their
    /// standard output is.
    pub fn recipe(self, tools: &Tools, port: u16, needs: Needs) -> Result<Recipe, String> {
        let address = free_address();
        let own = match self {
            Vestibule => return vestibule("io_uring", tools, address, port, needs),
            VestibuleEpoll => return vestibule("epoll", tools, address, port, needs),
            Haproxy | HaproxyNolog | Haproxy256k => {
                return Recipe::of(self.to_string(), self.haproxy(address, port, needs));
            }
            Nginx | Nginx256k => return Recipe::of(self.to_string(), self.nginx(address, port, needs)),
            Tokio => own(tools, "serve-relay-tokio", address, port),
            Floor => own(tools, "serve-relay-floor", address, port),
        };
        Ok(Recipe { name: self.to_string(), command: own, address, directory: None })
    }

    /// With `mode tcp`, HAProxy's own limits, and the log that Debian's package turns on; by standard output, because that is
    /// cheaper for it than a socket.
    fn haproxy(self, address: SocketAddr, port: u16, needs: Needs) -> io::Result<vestibule_peers::Recipe> {
        let log = if self == HaproxyNolog { "" } else { "  log stdout format raw local0 info\n" };
        let options = if self == HaproxyNolog { "" } else { "  log global\n  option tcplog\n" };
        let buffers =
            if self == Haproxy256k { format!("  tune.bufsize {}\n", LARGE_KIB * 1024) } else { String::new() };
        let mut text = format!(
            "global\n  nbthread 1\n  maxconn {sessions}\n{log}{buffers}defaults\n  mode tcp\n{options}  \
             timeout connect 5s\n  timeout client 31m\n  timeout server 31m\nfrontend imap\n  \
             bind {address} accept-proxy backlog 4096\n  default_backend imap\nbackend imap\n  balance leastconn\n",
            sessions = needs.sessions,
        );
        for server in servers(port, needs.servers) {
            let _ = writeln!(text, "  server {} {server} send-proxy-v2", name(server)); // to a String
        }
        vestibule_peers::Recipe::haproxy(&text, vec![address])
    }

    /// Without `set_real_ip_from` it would name the balancer in its header, not the client.
    fn nginx(self, address: SocketAddr, port: u16, needs: Needs) -> io::Result<vestibule_peers::Recipe> {
        let servers: String = servers(port, needs.servers).map(|server| format!("    server {server};\n")).collect();
        let buffers = if self == Nginx256k { format!("    proxy_buffer_size {LARGE_KIB}k;\n") } else { String::new() };
        let text = format!(
            "worker_rlimit_nofile 20000;\nevents {{ worker_connections {connections}; }}\nstream {{\n  \
             log_format session '$proxy_protocol_addr:$proxy_protocol_port [$time_local] $protocol $status $bytes_sent \
             $bytes_received $session_time \"$upstream_addr\" $upstream_connect_time';\n  \
             access_log /dev/stdout session;\n  upstream imap {{\n    least_conn;\n{servers}  }}\n  server {{\n    \
             listen {address} proxy_protocol backlog=4096;\n    proxy_pass imap;\n    proxy_protocol on;\n    set_real_ip_from 127.0.0.0/8;\n    \
             proxy_connect_timeout 5s;\n    proxy_timeout 31m;\n{buffers}  }}\n}}\n",
            connections = needs.sessions * 2 + 64,
        );
        vestibule_peers::Recipe::nginx("error", &text, vec![address])
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Vestibule => "Vestibule",
            VestibuleEpoll => "Vestibule on epoll",
            Haproxy => "HAProxy",
            HaproxyNolog => "HAProxy without log",
            Haproxy256k => "HAProxy, 256 KiB",
            Nginx => "nginx stream",
            Nginx256k => "nginx stream, 256 KiB",
            Tokio => "tokio + proxy-header",
            Floor => "floor (bare io_uring)",
        })
    }
}

fn servers(port: u16, count: u32) -> impl Iterator<Item = SocketAddr> {
    const FIRST: u32 = u32::from_be_bytes([127, 2, 0, 1]);
    (0..count).map(move |index| SocketAddr::new(IpAddr::V4(Ipv4Addr::from(FIRST + index)), port))
}

/// In a configuration.
fn name(server: SocketAddr) -> String {
    format!("s{}", server.ip().to_string().replace('.', "-"))
}

/// Every default but for the driver, and for what keeps the backend from being asked how it is, which would count as
/// sessions.
fn vestibule(driver: &str, tools: &Tools, address: SocketAddr, port: u16, needs: Needs) -> Result<Recipe, String> {
    let directory = temp_dir();
    let worker = if needs.relay { "worker = relay\n  backend = imap" } else { "worker = discard" };
    let mut text = format!(
        "driver = {driver}\nhaproxy_trusted_networks = 127.0.0.0/8\nrings = 1\nservice imap-login {{\n  {worker}\n  \
         inet_listener imap_haproxy {{\n    address = {ip}\n    port = {listen}\n    haproxy = yes\n  }}\n}}\n",
        ip = address.ip(),
        listen = address.port(),
    );
    if needs.relay {
        text.push_str("backend imap {\n  forward = proxy-v2\n  balance = leastconn\n  check = none\n");
        text.push_str(if needs.stick { "  stick = source\n" } else { "" });
        for server in servers(port, needs.servers) {
            let (name, ip) = (name(server), server.ip());
            let _ = writeln!(text, "  server {name} {{\n    address = {ip}\n    port = {port}\n  }}"); // to a String
        }
        text.push_str("}\n");
    }
    let mut command = Command::new(&tools.vestibule);
    command.arg("serve").arg("-c").arg(write(&directory, "vestibule.conf", &text)?);
    Ok(Recipe { name: Vestibule.to_string(), command, address, directory: Some(directory) })
}

fn own(tools: &Tools, subcommand: &str, address: SocketAddr, port: u16) -> Command {
    let mut command = Command::new(&tools.profile);
    command.args([subcommand, &address.to_string()]);
    command.args(servers(port, SERVERS).map(|server| server.to_string()));
    command
}

/// The versions of the programs, as they tell them.
pub fn versions(tools: &Tools) -> Vec<(System, String)> {
    let system = |name: &str| version(&find_program(name).unwrap_or_else(|| name.into()), "-v");
    vec![
        (Vestibule, tools.daemon_version()),
        (Haproxy, system("haproxy")),
        (Nginx, system("nginx")),
        (Tokio, "tokio 1 (current-thread runtime), proxy-header 0.1".into()),
        (Floor, format!("vestibule::ring {}", vestibule::VERSION)),
    ]
}
