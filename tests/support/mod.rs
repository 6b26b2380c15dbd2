//! What the tests share: guarded processes, real peers, a client of their own, and visible skips.

pub mod backend;
pub mod browser;
pub mod client;
pub mod cluster;
pub mod crowd;
pub mod daemon;
pub mod debian13;
pub mod dovecot;
pub mod header;
pub mod http;
pub mod load;
pub mod mail;
pub mod mend;
pub mod mutate;
pub mod observe;
pub mod oracle;
pub mod peers;
pub mod postfix;
pub mod process;
pub mod skip;
pub mod steady;
pub mod swarm;

pub use skip::record_skip;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for something that should come soon. Generous: machines can be slow, and it costs nothing
/// where all is well.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Leaves the test as skipped: `skip!("an IPv6 loopback")` prints `skipped: needs an IPv6 loopback`.
#[macro_export]
macro_rules! skip {
    ($what:expr) => {{
        $crate::support::record_skip(&$what);
        return;
    }};
}

/// Skips the test unless every named program is installed: `needs!("haproxy", "curl")`.
#[macro_export]
macro_rules! needs {
    ($($program:expr),+) => {
        $(if $crate::support::find_program($program).is_none() { $crate::skip!($program) })+
    };
}

/// Skips the test unless it runs as root.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            $crate::skip!("root")
        }
    };
}

/// Where a program is installed: on the `PATH` or in the system directories that a user's `PATH` may lack.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Where Debian and its kin keep a library, by its name below the directory of the architecture.
pub fn find_library(name: &str) -> Option<PathBuf> {
    let architecture = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [&architecture, "/usr/lib64", "/usr/lib"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|file| file.is_file())
}

/// A port on which nothing listens, below the range from which the kernel takes ports for outgoing connections, so that
/// no connection of another test can take it first.
pub fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run side by side start at different places.
    let start = (std::process::id() as u16).wrapping_mul(211) % COUNT;
    (0..COUNT)
        .map(|_| FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .find(|&port| std::net::TcpListener::bind(("0.0.0.0", port)).is_ok())
        .expect("one of twenty thousand ports is free")
}

/// A fresh directory, world-readable (peers may change their user), removed on drop.
pub fn temp_dir() -> tempfile::TempDir {
    temp_dir_in(&std::env::temp_dir())
}

/// The same inside `parent`.
pub fn temp_dir_in(parent: &Path) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new()
        .prefix("vestibule-test-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .expect("a temporary directory can be made")
}

/// A number from the environment, which the long form of a test sets.
pub fn number_from(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Waits until `done` says true; tells whether it did within `limit`.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Whether some socket listens on the IPv4 address, by the kernel's own table: asking by a connection would be counted
/// by the server under test. A wildcard listener counts for every address.
pub fn is_listening(address: SocketAddr) -> bool {
    is_listening_beside("self", address)
}

/// The same in the network namespace of a process, which must run.
pub fn is_listening_beside(process: &str, address: SocketAddr) -> bool {
    let SocketAddr::V4(v4) = address else { panic!("only IPv4 is looked up") };
    let port = v4.port();
    let wanted = |ip: u32| format!("{ip:08X}:{port:04X}");
    let own = wanted(u32::from_le_bytes(v4.ip().octets()));
    let any = wanted(0);
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        let state = fields.nth(1).unwrap_or_default();
        state == LISTEN && (local == own || local == any)
    })
}

/// A self-signed certificate and its key in `directory`, as PEM files, for the server name `mail.test`.
pub fn certificate(directory: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (directory.join("crt.pem"), directory.join("key.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mail.test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

/// The ids of a system user and its group.
pub fn user_ids(name: &str) -> (u32, u32) {
    user_ids_below(Path::new("/"), name)
}

/// The same in a folder that holds a system.
pub fn user_ids_below(root: &Path, name: &str) -> (u32, u32) {
    let users = std::fs::read_to_string(root.join("etc/passwd")).expect("there is /etc/passwd");
    let of_user = |line: &&str| line.split(':').next() == Some(name);
    let line = users.lines().find(of_user).unwrap_or_else(|| panic!("the package makes the user {name}"));
    let mut ids = line.split(':').skip(2).map(|field| field.parse().expect("a numeric id"));
    (ids.next().expect("a user id"), ids.next().expect("a group id"))
}

/// Sockets of any process that are connected through the local `port` and still held open: what a server has not closed.
pub fn open_connections(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has /proc/net/tcp");
    let is_open = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields[1], fields[3], fields[9]);
        // What waits out its time in the kernel (TIME_WAIT and the like) belongs to nobody and has inode 0.
        local.ends_with(&format!(":{port:04X}")) && state != LISTEN && inode != "0"
    };
    table.lines().skip(1).filter(is_open).count()
}

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";
