//! What the machine does not give: threads, descriptors, IPv6, a file that can be read. Said before the daemon is ready,
//! with what is missing and where to get it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::support::client::Client;
use crate::support::daemon::{Daemon, haproxy_configuration, vestibule, vestibule_run};
use crate::support::process::{Finished, run};
use crate::support::{PATIENCE, free_port, header, record_skip, temp_dir, wait_until};
use crate::{needs, needs_root};

/// A user id that nobody else has on the machine: limits of processes count all processes of a user.
const NOBODY_ELSE: &str = "61843";
/// The same for limits of threads, one test at a time: see [`turn_of_the_user`].
const NOBODY_AT_ALL: &str = "61844";

/// A configuration in a file that everybody may read, and the daemon's program where everybody may run it.
struct Scene {
    directory: tempfile::TempDir,
    port: u16,
}

impl Scene {
    fn new(globals: &str) -> Scene {
        let (directory, port) = (temp_dir(), free_port());
        std::fs::write(directory.path().join("c.conf"), haproxy_configuration(port, globals, "")).expect("it is ours");
        std::fs::copy(vestibule().get_program(), directory.path().join("vestibule")).expect("it can be copied");
        Scene { directory, port }
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("a plain path").to_owned()
    }

    /// The daemon under a limit of prlimit(1), as a user of its own.
    fn limited(&self, limit: &str) -> Vec<String> {
        let user = if limit.starts_with("--nproc") { NOBODY_AT_ALL } else { NOBODY_ELSE };
        ["setpriv", "--reuid", user, "--clear-groups", "prlimit", limit, &self.file("vestibule")]
            .map(str::to_owned)
            .into()
    }

    fn serve(&self, wrapper: &[String]) -> Finished {
        let mut command = Command::new(&wrapper[0]);
        command.args(&wrapper[1..]).args(["serve", "-c", &self.file("c.conf")]);
        run(command, b"")
    }
}

/// A limit of threads counts those of all processes of a user: one test at a time.
fn turn_of_the_user() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn assert_says(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(finished.stderr.lines().count(), 1, "one message, and no backtrace: {finished:?}");
    assert!(words.iter().all(|word| finished.stderr.contains(word)), "{words:?} in {finished:?}");
    assert!(!finished.stdout.contains("is ready"), "{finished:?}");
}

#[test]
fn too_few_threads_are_said_before_it_is_ready() {
    needs!("setpriv", "prlimit");
    needs_root!();
    let _turn = turn_of_the_user();
    let scene = Scene::new("rings = 1");
    // The limit counts the process itself.
    for allowed in [1, 2, 4, 6, 8, 10] {
        let finished = scene.serve(&scene.limited(&format!("--nproc={allowed}:{allowed}")));
        let possible = format!("no more than {} can be had", allowed - 1);
        assert_says(&finished, &["threads are needed (1 rings", &possible, &format!("RLIMIT_NPROC is {allowed}")]);
    }
}

#[test]
fn with_as_many_threads_as_it_says_it_serves_reloads_and_ends_in_order() {
    needs!("setpriv", "prlimit");
    needs_root!();
    let _turn = turn_of_the_user();
    let scene = Scene::new("rings = 1");
    let finished = scene.serve(&scene.limited("--nproc=2:2"));
    let needed = finished.stderr.split(" threads are needed").next().and_then(|text| text.rsplit(' ').next());
    let needed: u64 = needed.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{finished:?}"));
    let allowed = needed + 1;
    let mut command = Command::new("setpriv");
    command.args(&scene.limited(&format!("--nproc={allowed}:{allowed}"))[1..]);
    command.args(["serve", "-c", &scene.file("c.conf")]);
    let listener = crate::support::client::loopback(scene.port);
    let mut daemon = crate::support::process::Process::start_listening(command, &[listener]);
    daemon.wait_for_output("is ready");
    assert_eq!(Client::send_to(listener, &header::local()).whoami()["command"], "LOCAL");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.output());
    assert!(!daemon.output().contains("panicked"), "{}", daemon.output());
}

#[test]
fn too_few_descriptors_are_said_before_it_is_ready() {
    needs!("setpriv", "prlimit");
    needs_root!();
    let scene = Scene::new("rings = 1");
    for allowed in [8, 9, 16, 24] {
        let finished = scene.serve(&scene.limited(&format!("--nofile={allowed}:{allowed}")));
        assert_says(&finished, &["descriptors are needed", &format!("RLIMIT_NOFILE is {allowed}")]);
    }
}

/// Threads of a process whose names begin like this.
fn threads_of(pid: u32, prefix: &str) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.map(name).filter(|name| name.starts_with(prefix)).count()
}

#[test]
fn with_too_little_locked_memory_there_are_fewer_rings_and_it_says_so() {
    needs!("setpriv", "prlimit");
    needs_root!();
    let scene = Scene::new("rings = 4");
    let mut command = Command::new("setpriv");
    command.args(&scene.limited("--memlock=131072:131072")[1..]).args(["serve", "-c", &scene.file("c.conf")]);
    let listener = crate::support::client::loopback(scene.port);
    let daemon = crate::support::process::Process::start(command);
    daemon.wait_for_output("of 4 rings: no memory for another one");
    daemon.wait_for_output("is ready");
    assert!((1..4).contains(&threads_of(daemon.id(), "ring-")), "{}", daemon.output());
    // Also those that the kernel's choice would have given to rings that there are not.
    for _ in 0..32 {
        assert_eq!(Client::send_to(listener, &header::local()).whoami()["command"], "LOCAL");
    }
}

#[test]
fn without_memory_for_a_ring_nobody_is_let_in_to_be_reset() {
    needs!("setpriv", "prlimit");
    needs_root!();
    let scene = Scene::new("rings = 1");
    let mut command = Command::new("setpriv");
    command.args(&scene.limited("--memlock=8192:8192")[1..]).args(["serve", "-c", &scene.file("c.conf")]);
    let mut daemon = crate::support::process::Process::start(command);
    let listener = crate::support::client::loopback(scene.port);
    let let_in = || std::net::TcpStream::connect(listener).is_ok();
    assert!(wait_until(PATIENCE, || {
        assert!(!let_in(), "who connects is let in");
        daemon.exited().is_some()
    }));
    assert_eq!(daemon.wait(PATIENCE).code(), Some(1));
    assert!(daemon.output().contains("RLIMIT_MEMLOCK"), "{}", daemon.output());
}

/// A control group that may use one processor at a time, removed when dropped.
struct OneCpu(std::path::PathBuf);

impl OneCpu {
    /// `None` where none can be made: in version 2 the processes here would have to leave their group first.
    fn new() -> Option<OneCpu> {
        let group = std::path::PathBuf::from(format!("/sys/fs/cgroup/cpu/vestibule-{}", std::process::id()));
        std::fs::create_dir(&group).ok()?;
        let group = OneCpu(group);
        std::fs::write(group.0.join("cpu.cfs_quota_us"), "100000").ok()?;
        Some(group)
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        // Who was in it has ended, and is gone from it a moment later.
        wait_until(PATIENCE, || std::fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn rings_follow_a_quota_of_cpus() {
    needs_root!();
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return record_skip("two CPUs");
    }
    let Some(group) = OneCpu::new() else { return record_skip("a control group with a quota (cgroup v1, cpu)") };
    let port = free_port();
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", group.0.display());
    let daemon = Daemon::start_under(&["sh", "-c", &enter], &haproxy_configuration(port, "", ""), &[port]);
    daemon.wait_for_output("is ready");
    assert_eq!(threads_of(daemon.id(), "ring-"), 1);
    daemon.stop();
}

#[test]
fn more_backlogs_than_a_completion_queue_holds_are_said() {
    let listener = |index: usize| {
        format!(
            "  inet_listener l{index} {{\n    address = 127.0.0.1\n    port = {}\n    haproxy = yes\n  }}\n",
            free_port()
        )
    };
    let listeners: String = (0..14).map(listener).collect();
    let text = format!("haproxy_trusted_networks = 127.0.0.1\nrings = 1\nservice imap-login {{\n{listeners}}}\n");
    let daemon = Daemon::start(&text, &[]);
    daemon.wait_for_output("is ready");
    daemon.wait_for_output("full backlogs of all 14 listener addresses at once would overflow the completion queue");
    daemon.stop();
}

#[test]
fn a_fifo_as_configuration_or_value_is_refused_and_holds_nobody() {
    needs!("mkfifo");
    let directory = temp_dir();
    let name = |file: &str| directory.path().join(file).to_str().expect("a plain path").to_owned();
    let made = Command::new("mkfifo").arg(name("fifo")).status().expect("it runs");
    assert!(made.success());
    let port = free_port();
    let texts = [
        ("include", format!("!include {}\n", name("fifo"))),
        ("value", haproxy_configuration(port, &format!("ssl_cert = <{0}\nssl_key = <{0}", name("fifo")), "ssl = yes")),
    ];
    for (file, text) in &texts {
        std::fs::write(name(file), text).expect("it is ours");
    }
    let begun = Instant::now();
    for file in ["fifo", "include", "value"] {
        let finished = vestibule_run(&["check", "-c", &name(file)], b"");
        assert_eq!(finished.code, Some(78), "{file}: {finished:?}");
        assert!(finished.stderr.contains("fifo"), "{file}: {finished:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let nobody = vestibule_run(&["check", "-c", &name("fifo")], b"");
    assert!(nobody.stderr.contains("it is a pipe that nobody writes to"), "{nobody:?}");
    // One that somebody writes to is as good as a file, also if he is late.
    let (file, is_read) = (name("fifo"), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_read.load(std::sync::atomic::Ordering::Relaxed) {
                let mut fifo = std::fs::File::options().write(true).open(&file).expect("it can be opened");
                std::thread::sleep(Duration::from_millis(300));
                // Whoever has read in vain comes again.
                let _ = std::io::Write::write_all(&mut fifo, b"haproxy_trusted_networks = nonsense\n");
                // Who has read must see that this is the end of it.
                drop(fifo);
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        let read = wait_until(PATIENCE, || vestibule_run(&["check", "-c", &file], b"").stderr.contains("nonsense"));
        is_read.store(true, std::sync::atomic::Ordering::Relaxed);
        // It may wait for a reader.
        let _reader = std::fs::File::options().read(true).write(true).open(&file).expect("it is ours");
        assert!(read);
    });
}

#[test]
fn a_pipe_that_is_silent_or_trickles_does_not_hold_a_reload() {
    needs!("mkfifo");
    let (daemon, _) = Daemon::haproxy("", "");
    daemon.wait_for_output("is ready");
    std::fs::remove_file(daemon.file()).expect("it is ours");
    assert!(Command::new("mkfifo").arg(daemon.file()).status().expect("it runs").success());
    // Both ends: it has a writer, who says nothing.
    let _silent = std::fs::File::options().read(true).write(true).open(daemon.file()).expect("it is ours");
    daemon.signal(Signal::HUP);
    daemon.wait_for_output("nobody has written to this pipe for 2s");
    daemon.wait_for_output("not reloaded: the configuration before stays in force");
    daemon.stop();
}

#[test]
fn a_reload_that_names_another_takeover_socket_leaves_the_first_in_use() {
    let directory = temp_dir();
    let socket = |name: &str| directory.path().join(name);
    let port = free_port();
    let text = |name: &str| haproxy_configuration(port, &format!("takeover_socket = {}", socket(name).display()), "");
    let daemon = Daemon::start(&text("one"), &[port]);
    daemon.wait_for_output("is ready");
    std::fs::write(daemon.file(), text("two")).expect("it is ours");
    daemon.signal(Signal::HUP);
    daemon.wait_for_output("takeover_socket stays as it is");
    daemon.wait_for_output("reloaded: ");
    daemon.signal(Signal::USR2);
    daemon.wait_for_output("is started to take over");
    // The one that takes over has the new path for its own.
    assert!(wait_until(PATIENCE, || daemon.output().contains("has taken over from process")), "{}", daemon.output());
    let started = daemon.output();
    let started = started.split_once(" is started to take over").and_then(|(head, _)| head.rsplit_once("process "));
    let pid = started.and_then(|(_, pid)| pid.parse().ok()).expect("the log names it");
    crate::support::process::kill_by_id(pid, Signal::TERM);
}

#[test]
fn a_directory_where_others_may_write_is_no_place_for_the_takeover_socket() {
    use std::os::unix::fs::PermissionsExt;
    let directory = temp_dir();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    let socket = directory.path().join("takeover.sock");
    let (daemon, _) = Daemon::haproxy(&format!("takeover_socket = {}", socket.display()), "");
    daemon.wait_for_output("others may write to its directory");
    daemon.stop();
}

#[test]
fn without_ipv6_it_serves_ipv4_and_check_says_so_first() {
    let (directory, port) = (temp_dir(), free_port());
    let text = haproxy_configuration(port, "", "").replace("    address = 127.0.0.1\n", "");
    let file = directory.path().join("c.conf");
    std::fs::write(&file, &text).expect("it is ours");
    let words = "this host has no IPv6, only IPv4 is served";
    let with = vestibule_run(&["check", "-c", file.to_str().expect("a plain path")], b"");
    let checked = without_ipv6(|| vestibule_run(&["check", "-c", file.to_str().expect("a plain path")], b""));
    assert_eq!((with.code, checked.code), (Some(0), Some(0)), "{checked:?}");
    assert!(checked.stderr.contains(words) && !with.stderr.contains(words), "{checked:?}");
    // All of it there: the daemon is told to end when the thread that has started it does.
    without_ipv6(|| {
        let daemon = Daemon::start(&text, &[port]);
        daemon.wait_for_output(words);
        daemon.wait_for_output("is ready");
        let listener = crate::support::client::loopback(port);
        assert_eq!(Client::send_to(listener, &header::local()).whoami()["command"], "LOCAL");
        daemon.stop();
    });
}

/// Runs something whose processes get EAFNOSUPPORT for a socket of IPv6, as with `ipv6.disable=1`.
fn without_ipv6<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    const INET6: u64 = 10;
    const AFNOSUPPORT: u32 = 97;
    let socket = if cfg!(target_arch = "x86_64") { 41 } else { 198 };
    let is_inet6 = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, INET6).expect("an argument");
    let rule = SeccompRule::new(vec![is_inet6]).expect("a condition makes a rule");
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture that seccompiler knows");
    let rules = BTreeMap::from([(socket, vec![rule])]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(AFNOSUPPORT), architecture);
    let filter = filter.and_then(BpfProgram::try_from).expect("one call makes a filter");
    std::thread::scope(|scope| {
        // The filter holds for this thread and the processes that it starts, not for the other tests.
        let child = scope.spawn(|| {
            seccompiler::apply_filter(&filter).expect("the kernel takes a seccomp filter");
            body()
        });
        child.join().expect("it does not panic")
    })
}
