//! A Postfix that takes mail on a plain port, behind a PROXY header, and through postscreen, and delivers it nowhere.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::debian13::{command_in, seen_from};
use super::process::Process;
use super::{find_program, free_port, loopback, temp_dir, temp_dir_in, user_ids, user_ids_below};

/// A running Postfix. Needs root, and `needs!("postfix")`. Its log comes through [`Postfix::log`]; that of this machine's
/// own also through [`Process::output`].
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
        Postfix::start_of(None)
    }

    /// The same of a system that lies in a folder; see [`super::debian13`].
    pub fn start_in(root: &Path) -> Postfix {
        Postfix::start_of(Some(root))
    }

    fn start_of(root: Option<&Path>) -> Postfix {
        use std::os::unix::fs::chown;
        let directory = root.map_or_else(temp_dir, |root| temp_dir_in(&root.join("tmp")));
        let path = directory.path();
        for name in ["queue", "data"] {
            std::fs::create_dir(path.join(name)).expect("a directory for Postfix");
        }
        let (user, _) = user_ids_below(root.unwrap_or(Path::new("/")), "postfix");
        chown(path.join("data"), Some(user), None).expect("root may give it to postfix");
        let [plain, proxied, screened] = [(); 3].map(|()| loopback(free_port()));
        let log = if root.is_some() { "@D@/log\nmaillog_file_prefixes = /tmp" } else { "/dev/stdout" };
        let main = MAIN.replace("@LOG@", log).replace("@D@", &seen_from(root, path).display().to_string());
        let master = MASTER
            .replace("@PLAIN@", &plain.to_string())
            .replace("@PROXIED@", &proxied.to_string())
            .replace("@SCREENED@", &screened.to_string());
        std::fs::write(path.join("main.cf"), main).expect("the configuration can be written");
        std::fs::write(path.join("master.cf"), master).expect("the configuration can be written");
        // `postfix start-fg` would leave its master behind when it is ended, so the master itself is our child.
        let mut command = match root {
            Some(root) => {
                make_queue(&path.join("queue"), user_ids_below(root, "postfix").0, group_id_below(root, "postdrop"));
                command_in(root, "/usr/lib/postfix/sbin/master")
            }
            None => {
                let checked = Command::new("postfix").arg("-c").arg(path).arg("check").output();
                let checked = checked.expect("the test asked for it");
                assert!(checked.status.success(), "postfix check: {}", String::from_utf8_lossy(&checked.stderr));
                let asked = Command::new("postconf").args(["-h", "daemon_directory"]).output();
                let asked = asked.expect("it comes with postfix");
                Command::new(PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim()).join("master"))
            }
        };
        let seen = seen_from(root, path);
        command.arg("-s").arg("-c").arg(&seen).env("MAIL_CONFIG", &seen);
        let process = Process::start_listening(command, &[plain, proxied, screened]);
        Postfix { process, plain, proxied, screened, directory }
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        let file = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
        self.process.output() + &String::from_utf8_lossy(&file)
    }

    /// Waits until its log contains `text`; panics with the log if it does not come.
    pub fn wait_for(&self, text: &str) {
        let came = super::wait_until(super::PATIENCE, || self.log().contains(text));
        assert!(came, "Postfix never said {text:?}; it said:\n{}", self.log());
    }
}

/// What `postfix check` would make, which needs a shell.
fn make_queue(queue: &Path, user: u32, group: u32) {
    use std::os::unix::fs::{PermissionsExt, chown};
    const OWN: [&str; 11] =
        ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved", "trace", "private"];
    let own = OWN.into_iter().map(|name| (name, 0o700, Some(user), None));
    let shared = [("maildrop", 0o730), ("public", 0o710)].map(|(name, mode)| (name, mode, Some(user), Some(group)));
    for (name, mode, user, group) in own.chain(shared).chain([("pid", 0o755, None, None)]) {
        let path = queue.join(name);
        std::fs::create_dir(&path).expect("the queue is ours");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("root may say so");
        chown(&path, user, group).expect("root may give it to postfix");
    }
}

/// The id of a group in a folder that holds a system.
fn group_id_below(root: &Path, name: &str) -> u32 {
    let groups = std::fs::read_to_string(root.join("etc/group")).expect("there is /etc/group");
    let of_group = |line: &&str| line.split(':').next() == Some(name);
    let line = groups.lines().find(of_group).unwrap_or_else(|| panic!("the package makes the group {name}"));
    line.split(':').nth(2).and_then(|id| id.parse().ok()).expect("a numeric id")
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
maillog_file = @LOG@
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
