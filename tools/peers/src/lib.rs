//! Real peers for tests and measurements: HAProxy and nginx in front, Dovecot and Postfix as receivers, started in one way
//! by whoever needs them, each on free ports of loopback and with its files in a directory of its own.
//!
//! A [`Recipe`] is how a peer is started. Tests run it under a [`process::Process`], which collects what it says; the
//! profiler has a guard of its own, which pins it to a CPU and takes none itself. The receivers of `tools/conformance` are
//! Python's, beside the vectors that they are asked.

pub mod debian13;
pub mod dovecot;
pub mod peers;
pub mod postfix;
pub mod process;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How to start a peer.
#[derive(Debug)]
pub struct Recipe {
    /// Its command.
    pub command: Command,
    /// Where it is going to listen.
    pub addresses: Vec<SocketAddr>,
    /// Its files, removed on drop.
    pub directory: TempDir,
}

impl Recipe {
    /// Writes `text`, in which `@D@` stands for the directory, into a file of that name; gives both.
    fn configured(name: &str, text: &str) -> io::Result<(TempDir, PathBuf)> {
        let directory = new_directory(&std::env::temp_dir())?;
        let file = directory.path().join(name);
        std::fs::write(&file, text.replace("@D@", &directory.path().display().to_string()))?;
        Ok((directory, file))
    }

    /// HAProxy with a whole configuration, which binds `fronts`.
    ///
    /// # Errors
    /// HAProxy is not installed, or the temporary directory cannot be written to.
    pub fn haproxy(text: &str, fronts: Vec<SocketAddr>) -> io::Result<Recipe> {
        let (directory, file) = Recipe::configured("haproxy.cfg", text)?;
        let mut command = Command::new(installed("haproxy")?);
        command.arg("-db").arg("-f").arg(file);
        Ok(Recipe { command, addresses: fronts, directory })
    }

    /// nginx with its stream module, one worker, and `body` as the configuration behind that; it logs to standard error from
    /// `level` on.
    ///
    /// # Errors
    /// nginx or the module is not installed, or the temporary directory cannot be written to.
    pub fn nginx(level: &str, body: &str, fronts: Vec<SocketAddr>) -> io::Result<Recipe> {
        let load = nginx_stream_module().map_err(|error| io::Error::other(format!("nginx's stream module {error}")))?;
        let head = format!("{load}daemon off;\npid @D@/pid;\nerror_log stderr {level};\nworker_processes 1;\n");
        let (directory, file) = Recipe::configured("nginx.conf", &(head + body))?;
        let mut command = Command::new(installed("nginx")?);
        command.arg("-p").arg(directory.path()).args(["-e", "stderr"]).arg("-c").arg(file);
        Ok(Recipe { command, addresses: fronts, directory })
    }

    /// This machine's Dovecot with a whole configuration, which listens on `addresses`.
    ///
    /// # Errors
    /// Dovecot is not installed, or the temporary directory cannot be written to.
    pub fn dovecot(text: &str, addresses: Vec<SocketAddr>) -> io::Result<Recipe> {
        let (directory, file) = Recipe::configured("dovecot.conf", text)?;
        let mut command = Command::new(installed("dovecot")?);
        command.arg("-F").arg("-c").arg(file);
        Ok(Recipe { command, addresses, directory })
    }
}

fn installed(name: &str) -> io::Result<PathBuf> {
    find_program(name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{name} is not installed")))
}

/// The line that loads nginx's stream module, which Debian ships as a package of its own; empty where it is compiled in.
///
/// # Errors
/// There is neither.
pub fn nginx_stream_module() -> Result<String, String> {
    const MODULES: [&str; 2] =
        ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"];
    if let Some(module) = MODULES.into_iter().find(|path| Path::new(path).is_file()) {
        return Ok(format!("load_module {module};\n"));
    }
    let options = installed("nginx").and_then(|nginx| Command::new(nginx).arg("-V").output());
    let options = options.map_err(|error| error.to_string())?;
    match String::from_utf8_lossy(&options.stderr).contains("--with-stream ") {
        true => Ok(String::new()),
        false => Err("is not installed (Debian: libnginx-mod-stream)".into()),
    }
}

/// How long a test waits for something that should come soon. Generous: machines can be slow, and it costs nothing
/// where all is well.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where a program is installed: on the `PATH` or in the system directories that a user's `PATH` may lack.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
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
pub fn temp_dir() -> TempDir {
    temp_dir_in(&std::env::temp_dir())
}

/// The same inside `parent`.
///
/// # Panics
/// If it cannot be made.
pub fn temp_dir_in(parent: &Path) -> TempDir {
    new_directory(parent).expect("a temporary directory can be made")
}

fn new_directory(parent: &Path) -> io::Result<TempDir> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().prefix("vestibule-").permissions(std::fs::Permissions::from_mode(0o755)).tempdir_in(parent)
}

/// A loopback address with the port.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
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

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";
