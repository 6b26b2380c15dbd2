//! A Postfix that takes mail on a plain port, behind a PROXY header, and through postscreen, and delivers it nowhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::process::Process;
use super::{find_program, free_port, loopback, temp_dir, user_ids};

/// A running Postfix. Needs root, and `needs!("postfix")`. Its log comes through [`Process::output`].
pub struct Postfix {
    /// Its master, and what all of it says.
    pub process: Process,
    /// smtpd; it believes the XCLIENT of 127.0.0.1.
    pub plain: SocketAddr,
    /// smtpd with `smtpd_upstream_proxy_protocol = haproxy`.
    pub proxied: SocketAddr,
    /// postscreen with `postscreen_upstream_proxy_protocol = haproxy`.
    pub screened: SocketAddr,
    /// Its files.
    pub directory: TempDir,
}

impl Postfix {
    /// Starts it on free ports.
    pub fn start() -> Postfix {
        use std::os::unix::fs::chown;
        let directory = temp_dir();
        let path = directory.path();
        for name in ["queue", "data"] {
            std::fs::create_dir(path.join(name)).expect("a directory for Postfix");
        }
        let (user, _) = user_ids("postfix");
        chown(path.join("data"), Some(user), None).expect("root may give it to postfix");
        let [plain, proxied, screened] = [(); 3].map(|()| loopback(free_port()));
        let main = MAIN.replace("@D@", &path.display().to_string());
        let master = MASTER
            .replace("@PLAIN@", &plain.to_string())
            .replace("@PROXIED@", &proxied.to_string())
            .replace("@SCREENED@", &screened.to_string());
        std::fs::write(path.join("main.cf"), main).expect("the configuration can be written");
        std::fs::write(path.join("master.cf"), master).expect("the configuration can be written");
        // `postfix start-fg` would leave its master behind when it is ended, so the master itself is our child.
        let checked = Command::new("postfix").arg("-c").arg(path).arg("check").output().expect("the test asked for it");
        assert!(checked.status.success(), "postfix check: {}", String::from_utf8_lossy(&checked.stderr));
        let asked = Command::new("postconf").args(["-h", "daemon_directory"]).output().expect("it comes with postfix");
        let daemons = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
        let mut command = Command::new(daemons.join("master"));
        command.arg("-s").arg("-c").arg(path).env("MAIL_CONFIG", path);
        let process = Process::start_listening(command, &[plain, proxied, screened]);
        Postfix { process, plain, proxied, screened, directory }
    }
}

/// Postfix's `smtp-sink`: takes every message and keeps its bytes.
pub struct Sink {
    _process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    directory: TempDir,
}

impl Sink {
    /// Starts it on a free port. Needs root and `needs!("smtp-sink")`.
    pub fn start() -> Sink {
        use std::os::unix::fs::chown;
        let directory = temp_dir();
        let (user, _) = user_ids("postfix");
        chown(directory.path(), Some(user), None).expect("root may give it to postfix");
        let address = loopback(free_port());
        let mut command = Command::new(find_program("smtp-sink").expect("the test has asked for smtp-sink"));
        command.args(["-u", "postfix", "-D"]).arg(directory.path().join("mail"));
        command.arg(format!("inet:{address}")).arg("128");
        let process = Process::start_listening(command, &[address]);
        Sink { _process: process, address, directory }
    }

    /// What has come so far, all messages behind each other.
    pub fn mail(&self) -> String {
        let mail = std::fs::read(self.directory.path().join("mail")).unwrap_or_default();
        String::from_utf8_lossy(&mail).into_owned()
    }
}

const MAIN: &str = "\
compatibility_level = 3.6
queue_directory = @D@/queue
data_directory = @D@/data
inet_protocols = all
myhostname = mail.test
mydestination = mail.test
maillog_file = /dev/stdout
smtpd_peername_lookup = no
smtpd_authorized_xclient_hosts = 127.0.0.1
postscreen_greet_wait = 2s
local_recipient_maps =
local_transport = discard
default_transport = discard
relay_transport = discard
alias_maps =
alias_database =
";

const MASTER: &str = "\
@PLAIN@ inet n - n - - smtpd
@PROXIED@ inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy
@SCREENED@ inet n - n - 1 postscreen -o postscreen_upstream_proxy_protocol=haproxy
smtpd pass - - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
discard unix - - n - - discard
";
