//! What the tests share: guarded processes, real peers, a client of their own, and visible skips.

pub mod authority;
pub mod backend;
pub mod browser;
pub mod client;
pub mod cluster;
pub mod crowd;
pub mod daemon;
pub mod debian13;
pub mod header;
pub mod http;
pub mod load;
pub mod mail;
pub mod mend;
pub mod mutate;
pub mod observe;
pub mod oracle;
pub mod skip;
pub mod steady;
pub mod swarm;

pub use skip::record_skip;
// Started as the tools start them.
pub use vestibule_peers::{
    PATIENCE, certificate, dovecot, find_program, free_port, is_listening, peers, postfix, process, temp_dir,
    temp_dir_in, wait_until,
};

use std::path::{Path, PathBuf};

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

/// Where Debian and its kin keep a library, by its name below the directory of the architecture.
pub fn find_library(name: &str) -> Option<PathBuf> {
    let architecture = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [&architecture, "/usr/lib64", "/usr/lib"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|file| file.is_file())
}

/// A number from the environment, which the long form of a test sets.
pub fn number_from(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
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
