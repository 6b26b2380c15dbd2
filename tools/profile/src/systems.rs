//! The systems that are compared: Vestibule, its peers, and the floor; how each is configured and started.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use vestibule_peers::{find_program, temp_dir};

use crate::server::{Recipe, free_address};

/// What a server has to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Job {
    /// Read the header, close without an answer.
    Discard,
    /// Read the header, answer one line, close.
    Whoami,
    /// Refuse a peer outside the trusted networks, unread.
    Refuse,
    /// Read the header, pass the descriptor to another process, which closes it.
    #[value(name = "handoff")]
    #[serde(rename = "handoff")]
    HandOff,
}

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// The daemon, one ring and one worker thread on the core.
    Vestibule,
    /// The same with `driver = epoll`.
    #[value(name = "vestibule-epoll")]
    #[serde(rename = "vestibule-epoll")]
    VestibuleEpoll,
    /// Another build of the daemon: that of `--beside`.
    #[value(name = "vestibule-beside")]
    #[serde(rename = "vestibule-beside")]
    VestibuleBeside,
    /// HAProxy: `accept-proxy`, `tcp-request content reject`; `tcp-request connection reject` for who is refused.
    Haproxy,
    /// nginx's stream module: `listen ... proxy_protocol`, `return`.
    Nginx,
    /// Dovecot's imap-login: `haproxy = yes`; it answers its banner and the client leaves.
    Dovecot,
    /// tokio and crate proxy-header, as one would write it.
    Tokio,
    /// Multishot accept, read, close on one ring: neither parses nor dispatches.
    Floor,
    /// The same, which does what the job demands as well: trust, deadline, decoding, counts, words of a hand-off.
    #[value(name = "floor-in-full")]
    #[serde(rename = "floor-in-full")]
    FloorInFull,
}

/// A program set up for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct System {
    /// What it is to do.
    pub job: Job,
    /// Which.
    pub program: Program,
    /// Whether its listener has TCP_DEFER_ACCEPT.
    pub defer: bool,
}

/// Where our own programs are.
#[derive(Clone, Debug)]
pub struct Tools {
    /// `vestibule`.
    pub vestibule: PathBuf,
    /// Another build of it.
    pub beside: Option<PathBuf>,
    /// `vestibule-load`.
    pub load: PathBuf,
    /// This program.
    pub profile: PathBuf,
}

impl Tools {
    /// What the daemon's file says of itself: version and commit.
    pub fn daemon_version(&self) -> String {
        version(&self.vestibule, "--version")
    }

    /// The same of the other build, if there is one.
    pub fn beside_version(&self) -> Option<String> {
        self.beside.as_deref().map(|path| version(path, "--version"))
    }
}

use Job::{Discard, HandOff, Refuse, Whoami};
use Program::{Dovecot, Floor, FloorInFull, Haproxy, Nginx, Tokio, Vestibule, VestibuleBeside, VestibuleEpoll};

/// Everything that can be compared: (job, program, TCP_DEFER_ACCEPT). nginx's stream module has that option from 1.25.5,
/// Dovecot has none, and the tokio server does without, as those do that one finds.
const ALL: [(Job, Program, bool); 39] = [
    (Discard, Floor, true),
    (Discard, FloorInFull, true),
    (Discard, Vestibule, true),
    (Discard, VestibuleBeside, true),
    (Discard, VestibuleEpoll, true),
    (Discard, Haproxy, true),
    (Discard, Floor, false),
    (Discard, FloorInFull, false),
    (Discard, Vestibule, false),
    (Discard, VestibuleBeside, false),
    (Discard, VestibuleEpoll, false),
    (Discard, Haproxy, false),
    (Discard, Nginx, false),
    (Discard, Tokio, false),
    (Whoami, Floor, true),
    (Whoami, FloorInFull, true),
    (Whoami, Vestibule, true),
    (Whoami, VestibuleBeside, true),
    (Whoami, VestibuleEpoll, true),
    (Whoami, Floor, false),
    (Whoami, FloorInFull, false),
    (Whoami, Vestibule, false),
    (Whoami, VestibuleBeside, false),
    (Whoami, Nginx, false),
    (Whoami, Tokio, false),
    (Whoami, Dovecot, false),
    (Refuse, Floor, true),
    (Refuse, FloorInFull, true),
    (Refuse, Vestibule, true),
    (Refuse, VestibuleBeside, true),
    (Refuse, Haproxy, true),
    (Refuse, Floor, false),
    (Refuse, FloorInFull, false),
    (Refuse, Vestibule, false),
    (Refuse, VestibuleBeside, false),
    (Refuse, Haproxy, false),
    (HandOff, Floor, true),
    (HandOff, FloorInFull, true),
    (HandOff, Vestibule, true),
];

/// What the floor answers: as long as a line of `whoami`.
pub const FIXED_LINE: &str = "{\"service\":\"bench\",\"listener\":\"proxy\",\"version\":\"v2\",\"command\":\"PROXY\",\
\"client\":\"198.18.10.20:40000\",\"destination\":\"192.0.2.1:143\",\"peer\":\"127.1.0.20:40000\",\
\"local\":\"127.0.0.1:11000\",\"tls\":false,\"tlvs\":[],\"residual\":\"\"}\n";

impl System {
    /// Everything that can be compared.
    pub fn all() -> impl Iterator<Item = System> {
        ALL.into_iter().map(|(job, program, defer)| System { job, program, defer })
    }

    /// The answer that `vestibule-load` is to expect of it.
    pub fn expected(self) -> &'static str {
        match (self.job, self.program) {
            (Discard | HandOff, _) => "close",
            (Refuse, _) => "refused",
            (Whoami, Vestibule | VestibuleBeside | VestibuleEpoll) => "whoami",
            (Whoami, Dovecot) => "banner:* OK",
            (Whoami, _) => "answer",
        }
    }

    /// What it needs that is not here.
    pub fn missing(self, tools: &Tools) -> Option<String> {
        let program = |name: &str| find_program(name).is_none().then(|| format!("{name} is not installed"));
        match self.program {
            Haproxy => program("haproxy"),
            Nginx => program("nginx").or_else(|| {
                vestibule_peers::nginx_stream_module().err().map(|error| format!("nginx's stream module: {error}"))
            }),
            Dovecot => program("dovecot").or_else(|| {
                (!rustix::process::geteuid().is_root()).then(|| "Dovecot has to be started by root".into())
            }),
            VestibuleBeside => tools.beside.is_none().then(|| "no other build is named: --beside FILE".into()),
            Vestibule | VestibuleEpoll | Tokio | Floor | FloorInFull => None,
        }
    }

    /// How to start it.
    pub fn recipe(self, tools: &Tools) -> Result<Recipe, String> {
        let address = free_address();
        let own = match self.program {
            Vestibule | VestibuleBeside | VestibuleEpoll => return vestibule(tools, self, address),
            Haproxy => return Recipe::of(self.to_string(), haproxy(self, address)),
            Nginx => return Recipe::of(self.to_string(), nginx(self, address)),
            Dovecot => return Recipe::of(self.to_string(), dovecot(address)),
            Tokio => own(tools, "serve-tokio", self, address),
            Floor | FloorInFull => own(tools, "serve-floor", self, address),
        };
        Ok(Recipe { name: self.to_string(), command: own, address, directory: None })
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.job, self.program, if self.defer { " +defer" } else { "" })
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Discard => "discard",
            Whoami => "whoami",
            Refuse => "refuse",
            HandOff => "handoff",
        })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Vestibule => "Vestibule",
            VestibuleEpoll => "Vestibule on epoll",
            VestibuleBeside => "Vestibule beside",
            Haproxy => "HAProxy",
            Nginx => "nginx stream",
            Dovecot => "Dovecot imap-login",
            Tokio => "tokio + proxy-header",
            Floor => "floor (bare io_uring)",
            FloorInFull => "floor in full",
        })
    }
}

/// The versions of the programs, as they tell them.
pub fn versions(tools: &Tools) -> Vec<(Program, String)> {
    let system = |name: &str, option: &str| version(&find_program(name).unwrap_or_else(|| name.into()), option);
    let beside = tools.beside_version().map(|version| (VestibuleBeside, version));
    let mut all = vec![
        (Vestibule, tools.daemon_version()),
        (Haproxy, system("haproxy", "-v")),
        (Nginx, system("nginx", "-v")),
        (Dovecot, system("dovecot", "--version")),
        (Tokio, "tokio 1 (multi-thread runtime), proxy-header 0.1".into()),
        (Floor, format!("vestibule::ring {}", vestibule::VERSION)),
    ];
    all.extend(beside);
    all
}

/// The first line of what a program says to that option.
pub fn version(program: &Path, option: &str) -> String {
    let mut command = Command::new(program);
    command.arg(option);
    first_line(command).unwrap_or_else(|| "not installed".into())
}

fn first_line(mut command: Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).lines().next()?.to_owned())
}

/// Writes a file of that name into a directory.
pub fn write(directory: &TempDir, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = directory.path().join(name);
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// The built-in configuration but for the driver, the worker, the trusted networks, the port and, where asked,
/// TCP_DEFER_ACCEPT. `hand_off` is where the other process connects, if that is the job.
pub fn vestibule_configuration(driver: &str, system: System, address: SocketAddr, hand_off: &Path) -> String {
    let worker = match system.job {
        Discard | Refuse => "discard".to_owned(),
        Whoami => "whoami".to_owned(),
        HandOff => format!("handoff\n  handoff_socket = {}", hand_off.display()),
    };
    let trusted = if system.job == Refuse { "192.0.2.0/24" } else { "127.0.0.0/8" };
    format!(
        "driver = {driver}\nhaproxy_trusted_networks = {trusted}\n\
         service bench {{\n  worker = {worker}\n  inet_listener proxy {{\n    address = {ip}\n    port = {port}\n    \
         haproxy = yes\n    defer_accept = {defer}\n  }}\n}}\n",
        ip = address.ip(),
        port = address.port(),
        defer = if system.defer { "yes" } else { "no" },
    )
}

fn vestibule(tools: &Tools, system: System, address: SocketAddr) -> Result<Recipe, String> {
    let directory = temp_dir();
    let driver = if system.program == VestibuleEpoll { "epoll" } else { "io_uring" };
    let hand_off = directory.path().join("handoff.sock");
    let configuration =
        write(&directory, "vestibule.conf", &vestibule_configuration(driver, system, address, &hand_off))?;
    let daemon = match &tools.beside {
        Some(other) if system.program == VestibuleBeside => other,
        _ => &tools.vestibule,
    };
    let mut command = if system.job == HandOff {
        let mut receiver = Command::new(&tools.profile);
        receiver.arg("serve-receiver").arg(&hand_off).arg(daemon);
        receiver
    } else {
        Command::new(daemon)
    };
    command.arg("serve").arg("-c").arg(configuration);
    Ok(Recipe { name: system.to_string(), command, address, directory: Some(directory) })
}

fn haproxy(system: System, address: SocketAddr) -> io::Result<vestibule_peers::Recipe> {
    let defer = if system.defer { " defer-accept" } else { "" };
    let rule = if system.job == Refuse { "connection" } else { "content" };
    let text = format!(
        "global\n  nbthread 1\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout client 10s\n  timeout connect 1s\n  \
         timeout server 10s\nfrontend bench\n  bind {address} accept-proxy{defer}\n  tcp-request {rule} reject\n"
    );
    vestibule_peers::Recipe::haproxy(&text, vec![address])
}

fn nginx(system: System, address: SocketAddr) -> io::Result<vestibule_peers::Recipe> {
    let answer = match system.job {
        Discard | Refuse | HandOff => "",
        Whoami => {
            r#"{"version":"v2","client":"$proxy_protocol_addr:$proxy_protocol_port","destination":"$proxy_protocol_server_addr:$proxy_protocol_server_port","peer":"$remote_addr:$remote_port","local":"$server_addr:$server_port","tls":false,"tlvs":[],"residual":""}\n"#
        }
    };
    let text = format!(
        "worker_rlimit_nofile 20000;\nevents {{ worker_connections 8192; }}\n\
         stream {{\n  server {{\n    listen {address} proxy_protocol backlog=4096;\n    return '{answer}';\n  }}\n}}\n"
    );
    vestibule_peers::Recipe::nginx("error", &text, vec![address])
}

/// Its login process greets nobody before authentication is ready, and that needs somebody who could log in.
const DOVECOT_2_3: &str = "passdb {\n  driver = static\n  args = password=pw\n}\n";
const DOVECOT_2_4: &str = "\
dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\npassdb static {\n  password = pw\n}\n";

/// One long-lived login process (`service_count = 0`, Dovecot's high-performance mode); no TLS, so that it needs no
/// certificate.
fn dovecot(address: SocketAddr) -> io::Result<vestibule_peers::Recipe> {
    let (head, restart) = match vestibule_peers::dovecot::version().starts_with("2.3") {
        true => (DOVECOT_2_3, "service_count = 0"),
        false => (DOVECOT_2_4, "restart_request_count = unlimited"),
    };
    let text = format!(
        "{head}base_dir = @D@/run\nstate_dir = @D@/state\nlog_path = /dev/stderr\nprotocols = imap\n\
         listen = {ip}\nssl = no\nhaproxy_trusted_networks = 127.0.0.0/8\n\
         service imap-login {{\n  {restart}\n  process_min_avail = 1\n  process_limit = 1\n  client_limit = 4096\n  \
         inet_listener imap {{\n    port = 0\n  }}\n  inet_listener imaps {{\n    port = 0\n  }}\n  \
         inet_listener imap_haproxy {{\n    port = {port}\n    haproxy = yes\n  }}\n}}\n\
         service anvil {{\n  client_limit = 8192\n}}\n",
        ip = address.ip(),
        port = address.port(),
    );
    vestibule_peers::Recipe::dovecot(&text, vec![address])
}

fn own(tools: &Tools, subcommand: &str, system: System, address: SocketAddr) -> Command {
    let mut command = Command::new(&tools.profile);
    command.args([subcommand, &address.to_string()]);
    match system.job {
        Discard => &mut command,
        Whoami => command.arg("--answer"),
        Refuse => command.arg("--refuse"),
        HandOff => command.arg("--hand-off"),
    };
    if system.program == FloorInFull {
        command.arg("--in-full");
    }
    if system.defer {
        command.arg("--defer-accept");
    }
    command
}
