//! A whole Dovecot: all its protocols, each on a plain port, behind a PROXY header, and behind a header and TLS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::debian13::{command_in, seen_from};
use super::process::{Process, kill_by_id};
use super::{certificate, find_program, free_port, temp_dir, temp_dir_in, user_ids_below};

/// What Dovecot serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `imap-login`.
    Imap,
    /// `pop3-login`.
    Pop3,
    /// `submission-login`.
    Submission,
    /// `managesieve-login`.
    Sieve,
    /// `lmtp`.
    Lmtp,
}

impl Service {
    /// All of them.
    pub const ALL: [Service; 5] = [Service::Imap, Service::Pop3, Service::Submission, Service::Sieve, Service::Lmtp];

    /// Dovecot's name of the service, and of its listeners in the order of [`Way`].
    pub fn names(self) -> (&'static str, [&'static str; 3]) {
        match self {
            Service::Imap => ("imap-login", ["imap", "imap_haproxy", "imaps"]),
            Service::Pop3 => ("pop3-login", ["pop3", "pop3_haproxy", "pop3s"]),
            Service::Submission => ("submission-login", ["submission", "submission_haproxy", "submissions"]),
            Service::Sieve => ("managesieve-login", ["sieve", "sieve_haproxy", "sieves"]),
            Service::Lmtp => ("lmtp", ["lmtp", "lmtp_haproxy", "lmtps"]),
        }
    }
}

/// How a port is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As clients do.
    Plain,
    /// `haproxy = yes`.
    Proxied,
    /// `haproxy = yes` and `ssl = yes`: TLS begins behind the header.
    TlsProxied,
}

/// What differs from one Dovecot under test to the next.
pub struct Terms<'a> {
    /// `haproxy_trusted_networks`.
    pub proxies: &'a str,
    /// `login_trusted_networks`: whose ID and XCLIENT are believed.
    pub logins: &'a str,
    /// Where its mail lies, if another Dovecot's is to be shared.
    pub mail: Option<&'a Path>,
    /// Where `submission` sends what it takes.
    pub relay: Option<SocketAddr>,
    /// The folder of a system whose Dovecot runs instead of this machine's; see [`super::debian13`].
    pub root: Option<&'a Path>,
    /// More settings, at the end.
    pub more: &'a str,
}

impl Default for Terms<'_> {
    fn default() -> Self {
        Terms { proxies: "127.0.0.0/8 ::1", logins: "", mail: None, relay: None, root: None, more: "" }
    }
}

/// A running Dovecot. Any user may log in with the password `pw`. Needs root, and `needs!("dovecot")`.
pub struct Dovecot {
    process: Process,
    directory: TempDir,
    ports: [[u16; 3]; 5],
    root: Option<PathBuf>,
    /// What it logged before it was started again.
    before: String,
}

impl Dovecot {
    /// Starts it on free ports of 127.0.0.1 and ::1.
    pub fn start(terms: &Terms<'_>) -> Dovecot {
        use std::os::unix::fs::chown;
        let directory = match terms.root {
            Some(root) => temp_dir_in(&root.join("tmp")),
            None => temp_dir(),
        };
        let path = directory.path();
        certificate(path);
        let mail = path.join("mail");
        std::fs::create_dir(&mail).expect("a directory for mail");
        let (user, group) = user_ids_below(terms.root.unwrap_or(Path::new("/")), "dovecot");
        chown(&mail, Some(user), Some(group)).expect("root may give it to dovecot");
        let ports = [(); 5].map(|()| [(); 3].map(|()| free_port()));
        let text = configuration(terms, &ports)
            .replace("@MAIL@", &seen_from(terms.root, terms.mail.unwrap_or(&mail)).display().to_string())
            .replace("@D@", &seen_from(terms.root, path).display().to_string());
        std::fs::write(path.join("dovecot.conf"), text).expect("the configuration can be written");
        let process = run(terms.root, path, &ports);
        Dovecot { process, directory, ports, root: terms.root.map(Path::to_owned), before: String::new() }
    }

    /// Where a service listens on IPv4.
    pub fn address(&self, service: Service, way: Way) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[service as usize][way as usize]).into()
    }

    /// Where its mail lies.
    pub fn mail(&self) -> PathBuf {
        self.directory.path().join("mail")
    }

    /// The one message that a user has got.
    pub fn delivered(&self, user: &str) -> String {
        let new = self.mail().join(user).join("new");
        let file = std::fs::read_dir(&new).unwrap_or_else(|error| panic!("{}: {error}", new.display())).next();
        let file = file.unwrap_or_else(|| panic!("nothing in {}", new.display())).expect("a readable directory");
        String::from_utf8_lossy(&std::fs::read(file.path()).expect("root may read it")).into_owned()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        // In a folder there is no /dev/stderr.
        let file = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
        self.before.clone() + &self.process.output() + &String::from_utf8_lossy(&file)
    }

    /// Waits until a line of its log contains all of `words`; panics with the log if none comes.
    pub fn wait_for_line(&self, words: &[&str]) {
        let has_line = || self.log().lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(super::wait_until(super::PATIENCE, has_line), "no line with {words:?} in\n{}", self.log());
    }

    /// Kills it and everything that it has started, as a host that loses its power would.
    pub fn kill(&mut self) {
        let ids = descendants(self.process.id());
        ids.iter().for_each(|&id| kill_by_id(id, Signal::STOP)); // so that none is started anew meanwhile
        ids.iter().for_each(|&id| kill_by_id(id, Signal::KILL));
        self.process.wait(super::PATIENCE);
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        self.before = self.log();
        let _ = std::fs::remove_file(self.directory.path().join("run/master.pid"));
        self.process = run(self.root.as_deref(), self.directory.path(), &self.ports);
    }

    /// Its process and its directory, each of which must be kept.
    pub fn into_parts(self) -> (Process, TempDir) {
        (self.process, self.directory)
    }
}

/// What is not installed of a Dovecot with all of its services, for each of which Debian has a package, and of what they
/// need here.
pub fn missing() -> Option<&'static str> {
    let services = ["pop3", "lmtp", "managesieve", "submission"];
    let service = |program: &&str| !Path::new("/usr/lib/dovecot").join(program).exists();
    let program = |name: &&str| find_program(name).is_none();
    ["dovecot", "smtp-sink"].into_iter().find(program).or_else(|| services.into_iter().find(service))
}

/// `2.3.19.1 (9b53102964)` or the like.
pub fn version() -> String {
    let program = find_program("dovecot").expect("the test has asked for dovecot");
    let output = Command::new(program).arg("--version").output().expect("dovecot runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(root: Option<&Path>, directory: &Path, ports: &[[u16; 3]; 5]) -> Process {
    let mut command = match root {
        Some(root) => command_in(root, "dovecot"),
        None => Command::new(find_program("dovecot").expect("the test has asked for dovecot")),
    };
    command.arg("-F").arg("-c").arg(seen_from(root, &directory.join("dovecot.conf")));
    let served = if is_whole(root) { &ports[..] } else { &ports[..1] };
    let addresses: Vec<SocketAddr> =
        served.iter().flatten().map(|&port| (IpAddr::from(Ipv4Addr::LOCALHOST), port).into()).collect();
    Process::start_listening(command, &addresses)
}

/// The folder has all of Dovecot's services; the machine may not.
fn is_whole(root: Option<&Path>) -> bool {
    root.is_some() || missing().is_none()
}

fn configuration(terms: &Terms<'_>, ports: &[[u16; 3]; 5]) -> String {
    let is_2_3 = terms.root.is_none() && version().starts_with("2.3");
    let (head, log) = (if is_2_3 { DOVECOT_2_3 } else { DOVECOT_2_4 }, ["/dev/stderr", "@D@/log"]);
    let (whole, log) = (is_whole(terms.root), log[usize::from(terms.root.is_some())]);
    let protocols = if whole { "imap pop3 lmtp sieve submission" } else { "imap" };
    let relay = terms.relay.unwrap_or((Ipv4Addr::LOCALHOST, 25).into());
    let mut text = format!(
        "{head}{COMMON}log_path = {log}\nprotocols = {protocols}\nhaproxy_trusted_networks = {}\n\
         login_trusted_networks = {}\nsubmission_relay_host = {}\nsubmission_relay_port = {}\n",
        terms.proxies,
        terms.logins,
        relay.ip(),
        relay.port()
    );
    let served = if whole { &Service::ALL[..] } else { &Service::ALL[..1] };
    for (service, ports) in served.iter().zip(ports) {
        text += &section(*service, ports);
    }
    text + terms.more
}

fn section(service: Service, ports: &[u16; 3]) -> String {
    let (name, listeners) = service.names();
    let settings = ["", "    haproxy = yes\n", "    haproxy = yes\n    ssl = yes\n"];
    let listeners: String = listeners
        .iter()
        .zip(ports)
        .zip(settings)
        .map(|((listener, port), settings)| {
            format!("  inet_listener {listener} {{\n    port = {port}\n{settings}  }}\n")
        })
        .collect();
    format!("service {name} {{\n{listeners}}}\n")
}

/// A process and all that it has started, itself first.
fn descendants(id: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(descendants);
    [id].into_iter().chain(below).collect()
}

const DOVECOT_2_3: &str = "\
ssl_cert = <@D@/crt.pem
ssl_key = <@D@/key.pem
disable_plaintext_auth = no
mail_location = maildir:@MAIL@/%u
login_log_format_elements = user=<%u> method=%m rip=%r lip=%l rport=%b lport=%a %c session=<%{session}>
passdb {
  driver = static
  args = password=pw
}
userdb {
  driver = static
  args = uid=dovecot gid=dovecot home=@MAIL@/%u
}
";

const DOVECOT_2_4: &str = "\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
ssl_server_cert_file = @D@/crt.pem
ssl_server_key_file = @D@/key.pem
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = @MAIL@/%{user}
login_log_format_elements = user=<%{user}> method=%{mechanism} rip=%{remote_ip} lip=%{local_ip} rport=%{remote_port} \
lport=%{local_port} %{secured} session=<%{session}>
passdb static {
  password = pw
}
userdb static {
  fields {
    uid = dovecot
    gid = dovecot
    home = @MAIL@/%{user}
  }
}
";

const COMMON: &str = "\
base_dir = @D@/run
state_dir = @D@/state
listen = 127.0.0.1, ::1
first_valid_uid = 1
hostname = mail.test
mail_max_userip_connections = 1000
default_process_limit = 1000
";
