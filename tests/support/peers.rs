//! Real peers: HAProxy and nginx in front, Dovecot and Postfix as receivers. Each listens on loopback and ends with its guard.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::client::loopback;
use super::process::Process;
use super::{certificate, find_program, free_port, temp_dir};

/// A peer that listens, with the directory that holds its files.
pub struct Peer {
    pub process: Process,
    /// Where it listens, in the order of its configuration.
    pub addresses: Vec<SocketAddr>,
    _directory: TempDir,
}

impl Peer {
    /// Where it listens first.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }
}

/// HAProxy on a free port, forwarding to `server` by the whole `frontend` text, in which `@FRONT@` stands for the
/// address to bind.
pub fn haproxy(configuration: &str) -> Peer {
    let directory = temp_dir();
    let front = loopback(free_port());
    let file = directory.path().join("haproxy.cfg");
    let text = configuration.replace("@FRONT@", &front.to_string());
    std::fs::write(&file, text).expect("the configuration can be written");
    let mut command = Command::new(find_program("haproxy").expect("the test has asked for haproxy"));
    command.arg("-db").arg("-f").arg(&file);
    let process = Process::start_listening(command, &[front]);
    Peer { process, addresses: vec![front], _directory: directory }
}

/// nginx's stream module on a free port with `proxy_protocol on` towards `server`.
pub fn nginx_stream(server: SocketAddr) -> Peer {
    let directory = temp_dir();
    let front = loopback(free_port());
    let path = directory.path().display();
    let module = nginx_stream_module().expect("the test has asked for nginx's stream module");
    let text = format!(
        "load_module {module};\ndaemon off;\npid {path}/pid;\nerror_log stderr info;\nworker_processes 1;\n\
         events {{}}\n\
         stream {{\n  server {{\n    listen {front};\n    proxy_pass {server};\n    proxy_protocol on;\n  }}\n}}\n",
        module = module.display()
    );
    let file = directory.path().join("nginx.conf");
    std::fs::write(&file, text).expect("the configuration can be written");
    let mut command = Command::new(find_program("nginx").expect("the test has asked for nginx"));
    command.arg("-p").arg(directory.path()).arg("-c").arg(&file).args(["-e", "stderr"]);
    let process = Process::start_listening(command, &[front]);
    Peer { process, addresses: vec![front], _directory: directory }
}

/// Debian ships the stream module as a package of its own.
pub fn nginx_stream_module() -> Option<PathBuf> {
    let module = PathBuf::from("/usr/lib/nginx/modules/ngx_stream_module.so");
    module.is_file().then_some(module)
}

/// A socat that accepts connections on a free port and shows what they send.
pub fn socat_receiver() -> Peer {
    let address = loopback(free_port());
    let mut command = Command::new(find_program("socat").expect("the test has asked for socat"));
    command.arg("-u").arg(format!("TCP-LISTEN:{},bind={},fork", address.port(), address.ip())).arg("STDOUT");
    let process = Process::start_listening(command, &[address]);
    Peer { process, addresses: vec![address], _directory: temp_dir() }
}

/// Dovecot with an imap-login service: `addresses` are a plain listener, one with `haproxy = yes`, and one with
/// `haproxy = yes` and `ssl = yes`. It trusts 127.0.0.2, 127.0.0.3 and 127.0.1.0/24. Any user may log in with the password `pw`.
/// Needs root. Its log comes through [`Process::output`].
pub fn dovecot() -> Peer {
    use std::os::unix::fs::chown;
    let directory = temp_dir();
    let path = directory.path();
    let addresses: Vec<SocketAddr> = (0..3).map(|_| loopback(free_port())).collect();
    certificate(path);
    let mail = path.join("mail");
    std::fs::create_dir(&mail).expect("a directory for mail");
    let (user, group) = user_ids("dovecot");
    chown(&mail, Some(user), Some(group)).expect("root may give it to dovecot");
    let version = dovecot_version();
    let template = if version.starts_with("2.3") { DOVECOT_2_3 } else { DOVECOT_2_4 };
    let ports = addresses.iter().map(|address| address.port().to_string()).collect::<Vec<_>>();
    let text = (template.to_owned() + DOVECOT_SERVICE)
        .replace("@D@", &path.display().to_string())
        .replace("@IMAP@", &ports[0])
        .replace("@IMAP_HAPROXY@", &ports[1])
        .replace("@IMAPS_HAPROXY@", &ports[2]);
    let file = path.join("dovecot.conf");
    std::fs::write(&file, text).expect("the configuration can be written");
    let mut command = Command::new(find_program("dovecot").expect("the test has asked for dovecot"));
    command.arg("-F").arg("-c").arg(&file);
    let process = Process::start_listening(command, &addresses);
    Peer { process, addresses, _directory: directory }
}

/// Postfix's smtpd with `smtpd_upstream_proxy_protocol = haproxy`. Needs root. Its log comes through
/// [`Process::output`].
pub fn postfix() -> Peer {
    use std::os::unix::fs::chown;
    let directory = temp_dir();
    let path = directory.path();
    for name in ["queue", "data"] {
        std::fs::create_dir(path.join(name)).expect("a directory for Postfix");
    }
    let (user, _) = user_ids("postfix");
    chown(path.join("data"), Some(user), None).expect("root may give it to postfix");
    let address = loopback(free_port());
    let main = POSTFIX_MAIN.replace("@D@", &path.display().to_string());
    let master = POSTFIX_MASTER.replace("@ADDRESS@", &address.to_string());
    std::fs::write(path.join("main.cf"), main).expect("the configuration can be written");
    std::fs::write(path.join("master.cf"), master).expect("the configuration can be written");
    // `postfix start-fg` would leave its master behind when it is ended, so the master itself is our child.
    let checked = Command::new("postfix").arg("-c").arg(path).arg("check").output().expect("the test has asked for it");
    assert!(checked.status.success(), "postfix check: {}", String::from_utf8_lossy(&checked.stderr));
    let asked = Command::new("postconf").args(["-h", "daemon_directory"]).output().expect("it comes with postfix");
    let daemons = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    let mut command = Command::new(daemons.join("master"));
    command.arg("-s").arg("-c").arg(path).env("MAIL_CONFIG", path);
    let process = Process::start_listening(command, &[address]);
    Peer { process, addresses: vec![address], _directory: directory }
}

/// `2.3.19.1 (9b53102964)` or the like.
pub fn dovecot_version() -> String {
    let program = find_program("dovecot").expect("the test has asked for dovecot");
    let output = Command::new(program).arg("--version").output().expect("dovecot runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn user_ids(name: &str) -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("there is /etc/passwd");
    let of_user = |line: &&str| line.split(':').next() == Some(name);
    let line = users.lines().find(of_user).unwrap_or_else(|| panic!("the package makes the user {name}"));
    let mut ids = line.split(':').skip(2).map(|field| field.parse().expect("a numeric id"));
    (ids.next().expect("a user id"), ids.next().expect("a group id"))
}

const DOVECOT_2_3: &str = "\
ssl_cert = <@D@/crt.pem
ssl_key = <@D@/key.pem
disable_plaintext_auth = no
mail_location = maildir:@D@/mail/%u
passdb {
  driver = static
  args = password=pw
}
userdb {
  driver = static
  args = uid=dovecot gid=dovecot home=@D@/mail/%u
}
";

const DOVECOT_2_4: &str = "\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
ssl_server_cert_file = @D@/crt.pem
ssl_server_key_file = @D@/key.pem
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = @D@/mail/%{user}
passdb static {
  password = pw
}
userdb static {
  fields {
    uid = dovecot
    gid = dovecot
    home = @D@/mail/%{user}
  }
}
";

const DOVECOT_SERVICE: &str = "\
base_dir = @D@/run
state_dir = @D@/state
log_path = /dev/stderr
protocols = imap
listen = 127.0.0.1
haproxy_trusted_networks = 127.0.0.2/32, 127.0.0.3 127.0.1.0/24
first_valid_uid = 1
service imap-login {
  inet_listener imap {
    port = @IMAP@
  }
  inet_listener imap_haproxy {
    port = @IMAP_HAPROXY@
    haproxy = yes
  }
  inet_listener imaps {
    port = @IMAPS_HAPROXY@
    ssl = yes
    haproxy = yes
  }
}
";

const POSTFIX_MAIN: &str = "\
compatibility_level = 3.6
queue_directory = @D@/queue
data_directory = @D@/data
inet_protocols = all
myhostname = mail.test
maillog_file = /dev/stdout
smtpd_peername_lookup = no
alias_maps =
alias_database =
";

const POSTFIX_MASTER: &str = "\
@ADDRESS@ inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy
postlog unix-dgram n - n - 1 postlogd
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
";
