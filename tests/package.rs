//! The Debian package in a clean Debian: installed, configured, upgraded under sessions, purged.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::backend::Backend;
use crate::support::client::loopback;
use crate::support::mail::Wire;
use crate::support::{find_program, free_port, record_skip, temp_dir_in, wait_until};

const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";
const SESSIONS: usize = 20;
/// A step may have to wait for dpkg on a slow disk.
const STEP: Duration = Duration::from_secs(120);

#[test]
fn the_package_installs_upgrades_without_ending_a_session_and_leaves_nothing() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some(clean) = clean_debian(target) else { return };
    let scratch = temp_dir_in(target);
    let root = scratch.path().join("root");
    run(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(&clean).arg(&root));
    let packages = root.join("packages");
    std::fs::create_dir(&packages).expect("a directory");
    for (version, name) in [("0.1.0~test1", "old.deb"), ("0.1.0~test2", "new.deb")] {
        std::fs::rename(built(scratch.path(), version), packages.join(name)).expect("the package is there");
    }
    let here = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/package");
    std::fs::copy(here.join("inside"), root.join("inside")).expect("the script can be copied");
    std::fs::copy(here.join("systemctl"), root.join("usr/local/bin/systemctl")).expect("it can be copied");

    let backend = Backend::greeting("* OK served\r\n");
    let port = free_port();
    let mut inside = Inside::start(&root, port, &backend);

    inside.reach("installed");
    let mut sessions: Vec<Wire> = (0..SESSIONS).map(|_| session(port)).collect();
    inside.go("installed");
    // New ones come while the program is replaced.
    let mut newcomers = 0;
    while !inside.is_at("upgraded") {
        let mut newcomer = session(port);
        newcomer.say("new");
        newcomer.expect("new");
        newcomers += 1;
    }
    assert!(newcomers > 0, "nobody came meanwhile");
    speak(&mut sessions, "after the upgrade");
    inside.go("upgraded");
    inside.reach("refused");
    speak(&mut sessions, "after one that was refused");
    inside.go("refused");
    inside.ends_well();
}

fn session(port: u16) -> Wire {
    let mut wire = Wire::connect(loopback(0).ip(), loopback(port));
    wire.send(HEADER);
    wire.expect("* OK served");
    wire
}

fn speak(sessions: &mut [Wire], words: &str) {
    for wire in sessions {
        wire.say(words);
        wire.expect(words);
    }
}

/// The script in its root, with process ids and mounts of its own; what it has started ends with it.
struct Inside {
    child: Child,
    root: PathBuf,
}

impl Inside {
    fn start(root: &Path, port: u16, backend: &Backend) -> Inside {
        let enter = "mount -t proc proc \"$1/proc\" && exec chroot \"$@\"";
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enter, "sh"])
            .arg(root)
            .args(["/inside", &port.to_string(), &backend.address.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare starts");
        Inside { child, root: root.to_path_buf() }
    }

    fn is_at(&mut self, step: &str) -> bool {
        let ended = self.child.try_wait().expect("it can be asked");
        assert!(ended.is_none(), "the script ended before it was {step}: {ended:?}");
        std::fs::read_to_string(self.root.join("run/at")).is_ok_and(|at| at.trim_end() == step)
    }

    fn reach(&mut self, step: &str) {
        assert!(wait_until(STEP, || self.is_at(step)), "never {step}");
    }

    fn go(&self, step: &str) {
        std::fs::write(self.root.join("run/go"), step).expect("a file in the root");
    }

    fn ends_well(mut self) {
        let ended = wait_until(STEP, || self.child.try_wait().expect("it can be asked").is_some());
        assert!(ended, "the script does not end");
        let status = self.child.wait().expect("it has ended");
        assert!(status.success(), "the script ends with {status}");
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// A Debian root without anything of ours, made once; `None` where that is not possible here.
fn clean_debian(target: &Path) -> Option<PathBuf> {
    let root = target.join("clean-debian-12");
    if root.join("done").exists() {
        return Some(root);
    }
    let lacks = match () {
        () if user() != 0 => "root, for a Debian root directory",
        () if find_program("debootstrap").is_none() => "debootstrap",
        () if find_program("dpkg-deb").is_none() => "dpkg-deb",
        () => "",
    };
    if !lacks.is_empty() {
        record_skip(lacks);
        return None;
    }
    let _ = std::fs::remove_dir_all(&root); // of one that was interrupted
    let mut make = Command::new("debootstrap");
    make.args(["--variant=minbase", "--include=procps", "bookworm"]).arg(&root);
    let output = make.output().expect("it starts");
    if !output.status.success() {
        record_skip("a mirror of Debian for debootstrap");
        return None;
    }
    std::fs::write(root.join("done"), "").expect("a file in the root");
    Some(root)
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The program under test as a package of this version.
fn built(directory: &Path, version: &str) -> PathBuf {
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("packaging/deb/build");
    let mut build = Command::new(script);
    build.args(["--binary", env!("CARGO_BIN_EXE_vestibule"), "--version", version, "--output"]).arg(directory);
    PathBuf::from(run(&mut build).trim_end())
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
