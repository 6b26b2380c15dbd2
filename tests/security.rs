//! Privileges, filters of system calls, and the service manager: the daemon really started under each.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;
use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde_json::{Value, json};

use crate::support::client::{Client, loopback};
use crate::support::daemon::{haproxy_configuration, on_driver, vestibule};
use crate::support::process::{Process, run};
use crate::support::{PATIENCE, free_port, temp_dir};
use crate::{needs, needs_root};

const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";

/// A directory with a configuration in it.
fn configured(port: u16, globals: &str) -> tempfile::TempDir {
    let directory = temp_dir();
    let text = haproxy_configuration(port, globals, "");
    std::fs::write(directory.path().join("vestibule.conf"), on_driver(&text)).expect("a temporary file");
    directory
}

fn serve(directory: &tempfile::TempDir) -> Command {
    on("serve", directory)
}

/// A subcommand on the configuration in the directory.
fn on(subcommand: &str, directory: &tempfile::TempDir) -> Command {
    let mut command = vestibule();
    command.arg(subcommand).arg("-c").arg(directory.path().join("vestibule.conf"));
    command
}

fn assert_serves(port: u16) {
    let answer = Client::send_to(loopback(port), HEADER).whoami();
    assert_eq!(answer["client"], "198.51.100.7:5000");
}

/// A line of every thread's status.
fn of_all_threads(process: &Process, key: &str) -> BTreeSet<String> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.id())).expect("it runs");
    let line = |path: std::path::PathBuf| {
        // A thread may end between the two looks.
        let status = std::fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("every thread has it");
        Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    threads.filter_map(|thread| line(thread.expect("it runs").path())).collect()
}

/// A port that only root may bind.
fn privileged_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (600..1000).find(free).expect("root finds a free one")
}

#[test]
fn every_thread_drops_its_privileges_after_the_ports_are_bound() {
    needs_root!();
    let port = privileged_port();
    let directory = configured(port, "user = nobody\nrings = 2");
    let daemon = Process::start_listening(serve(&directory), &[loopback(port)]);
    daemon.wait_for_output("is ready");
    assert_serves(port);
    let nobody = "65534 65534 65534 65534";
    assert_eq!(of_all_threads(&daemon, "Uid:"), [nobody.to_owned()].into());
    assert_eq!(of_all_threads(&daemon, "Gid:"), [nobody.to_owned()].into());
    assert_eq!(of_all_threads(&daemon, "Groups:"), ["65534".to_owned()].into());
    assert_eq!(of_all_threads(&daemon, "CapEff:"), ["0000000000000000".to_owned()].into());
    assert_eq!(of_all_threads(&daemon, "CapPrm:"), ["0000000000000000".to_owned()].into());
    assert_eq!(of_all_threads(&daemon, "NoNewPrivs:"), ["1".to_owned()].into());
    // Root raises the limit of locked memory for the user; root without CAP_SYS_RESOURCE, as in containers, cannot.
    let said = daemon.output();
    assert!(said.contains("the limit of locked memory stays") || !said.contains("RECV"), "{said}");
}

#[test]
fn no_new_privileges_even_if_nothing_is_dropped() {
    let port = free_port();
    let directory = configured(port, "");
    let daemon = Process::start_listening(serve(&directory), &[loopback(port)]);
    daemon.wait_for_output("is ready");
    assert_eq!(of_all_threads(&daemon, "NoNewPrivs:"), ["1".to_owned()].into());
}

#[test]
fn locked_into_a_directory() {
    needs_root!();
    let (port, root) = (free_port(), temp_dir());
    let directory = configured(port, &format!("user = nobody\nchroot = {}", root.path().display()));
    let daemon = Process::start_listening(serve(&directory), &[loopback(port)]);
    daemon.wait_for_output("is ready");
    assert_serves(port);
    let seen = std::fs::read_link(format!("/proc/{}/root", daemon.id())).expect("it runs");
    assert_eq!(seen, root.path());
}

#[test]
fn wrong_names_stop_the_start_and_say_why() {
    for (globals, words) in [
        ("user = no-such-user-here", "line 2: user = no-such-user-here: no such user"),
        ("user = nobody\ngroup = no-such-group-here", "line 3: group = no-such-group-here: no such group"),
        ("user = no-such-user-here\ngroup = no-such-group-here", "line 3: group = no-such-group-here: no such group"),
        ("group = nogroup", "line 2: group needs user"),
        ("user = nobody\nchroot = run", "line 3: chroot: run is not an absolute path"),
    ] {
        let directory = configured(free_port(), globals);
        for subcommand in ["check", "serve"] {
            let ended = run(on(subcommand, &directory), b"");
            assert_eq!(ended.code, Some(78), "{subcommand}, {globals}: {}", ended.stderr);
            assert!(ended.stderr.contains(words), "{subcommand}, {globals}: {}", ended.stderr);
        }
    }
}

#[test]
fn who_is_not_root_must_be_of_the_user_and_group_already() {
    needs_root!();
    needs!("setpriv");
    let (nobody, none) = (["--reuid", "65534", "--regid", "65534"], "--clear-groups");
    for (globals, ids, code, words) in [
        ("user = nobody", nobody, None, "is ready"),
        (
            "user = nobody\ngroup = daemon",
            nobody,
            Some(1),
            "group: only root may change it, this is group id 65534, and user nobody is to run with 1",
        ),
        ("user = nobody\ngroup = daemon", nobody, Some(1), "set Group= in the unit"),
        ("user = nobody", ["--reuid", "65534", "--regid", "1"], Some(1), "set Group= in the unit"),
        ("user = nobody", ["--reuid", "1", "--regid", "1"], Some(1), "set User= in the unit"),
        ("user = nobody\nchroot = /", nobody, Some(1), "set RootDirectory= in the unit"),
    ] {
        let directory = configured(free_port(), globals);
        let mut command = Command::new("setpriv");
        command.args(ids).arg(none).arg(vestibule().get_program()).args(["serve", "-c"]);
        let mut process = Process::start({
            command.arg(directory.path().join("vestibule.conf"));
            command
        });
        match code {
            None => process.wait_for_output(words),
            code => {
                assert_eq!(process.wait(PATIENCE).code(), code, "{globals}: {}", process.output());
                assert!(process.output().contains(words), "{globals}: {}", process.output());
            }
        }
    }
}

#[test]
fn the_service_manager_is_told() {
    let (port, manager) = (free_port(), temp_dir());
    let directory = configured(port, "");
    let address = manager.path().join("notify");
    let socket = UnixDatagram::bind(&address).expect("a socket in a temporary directory");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut command = serve(&directory);
    command.env("NOTIFY_SOCKET", &address).env("WATCHDOG_USEC", "400000");
    let mut daemon = Process::start_listening(command, &[loopback(port)]);
    let told = || {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).expect("the manager is told something");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(told(), "READY=1\nSTATUS=accepting on 1 addresses\n");
    assert_eq!(told(), format!("FDSTORE=1\nFDNAME=kept.{port}.127.0.0.1\n"));
    assert_serves(port);
    for _ in 0..3 {
        assert_eq!(told(), "WATCHDOG=1\n");
    }
    daemon.signal(Signal::TERM);
    let mut stopping = std::iter::repeat_with(told).take(100).filter(|message| message != "WATCHDOG=1\n");
    assert_eq!(stopping.next().as_deref(), Some("STOPPING=1\nSTATUS=draining for at most 60 s\n"));
    // Nobody shall wait in the backlog of a service that ends.
    assert_eq!(stopping.next(), Some(format!("FDSTOREREMOVE=1\nFDNAME=kept.{port}.127.0.0.1\n")));
    assert_eq!(daemon.wait(PATIENCE).code(), Some(0));
}

#[test]
fn a_socket_of_systemd_is_served_in_place_of_binding() {
    needs!("systemd-socket-activate");
    let port = free_port();
    let directory = configured(port, "rings = 2");
    let mut command = Command::new("systemd-socket-activate");
    command.arg(format!("--listen=127.0.0.1:{port}")).arg("--fdname=imap_haproxy");
    command.arg(vestibule().get_program()).args(serve(&directory).get_args());
    let daemon = Process::start_listening(command, &[loopback(port)]);
    // The first connection starts the daemon; it waits in the backlog meanwhile.
    for _ in 0..20 {
        assert_serves(port);
    }
    daemon.wait_for_output("is ready");
}

#[test]
fn a_socket_that_no_listener_knows_is_an_error() {
    needs!("systemd-socket-activate");
    let (port, other) = (free_port(), free_port());
    let directory = configured(port, "");
    let mut command = Command::new("systemd-socket-activate");
    command.arg(format!("--listen=127.0.0.1:{other}"));
    command.arg(vestibule().get_program()).args(serve(&directory).get_args());
    let daemon = Process::start_listening(command, &[loopback(other)]);
    let _knock = std::net::TcpStream::connect(loopback(other));
    daemon.wait_for_output("but no inet_listener has that address");
}

/// Starts the daemon on io_uring where only these system calls are allowed, as from a container runtime, has it serve, and has
/// another one take over from it.
fn serves_with_only(names: &BTreeSet<String>) {
    serves_on("io_uring", names);
}

fn serves_on(driver: &str, names: &BTreeSet<String>) {
    let port = free_port();
    let globals = format!("driver = {driver}\nrings = 2\npending_limit = 512\ntakeover_socket = socket");
    let directory = configured(port, &globals);
    let program = filter(names);
    let (started, process) = mpsc::channel();
    let (start, commands) = mpsc::channel();
    // A filter is inherited by the programs that its thread starts, and the thread must outlive them.
    let starter = std::thread::spawn(move || {
        apply_filter(&program).expect("any process may restrict itself");
        for command in commands {
            started.send(Process::start(command)).expect("the test waits");
        }
    });
    let run = |command: Command| {
        start.send(command).expect("the thread waits");
        let daemon = process.recv_timeout(PATIENCE).expect("it starts under the filter");
        daemon.wait_for_output("is ready");
        daemon
    };
    let mut first = run(serve(&directory));
    assert_serves(port);
    let mut command = serve(&directory);
    command.arg("--takeover").arg(directory.path().join("socket"));
    let mut daemon = run(command);
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.output());
    assert_eq!(of_all_threads(&daemon, "Seccomp:"), ["2".to_owned()].into(), "the filter is there");
    assert_serves(port);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.output());
    drop((daemon, first, start));
    starter.join().expect("no panic");
}

/// Everything else answers EPERM.
fn filter(names: &BTreeSet<String>) -> BpfProgram {
    let rule = |name: &String| json!({ "syscall": name });
    let arch: TargetArch = std::env::consts::ARCH.try_into().expect("a known processor");
    let compile = |names: Vec<&String>| {
        let rules: Vec<Value> = names.into_iter().map(rule).collect();
        let filter = json!({ "all": { "mismatch_action": { "errno": 1 }, "match_action": "allow", "filter": rules } });
        compile_from_json(filter.to_string().as_bytes(), arch).map(|mut all| all.remove("all").expect("just named"))
    };
    // The compiler refuses names that this processor does not have, as a container runtime skips them.
    let known = names.iter().filter(|name| compile(vec![name]).is_ok()).collect();
    compile(known).expect("each compiles by itself")
}

fn seccomp_profile() -> BTreeSet<String> {
    let profile: Value = serde_json::from_str(include_str!("../packaging/seccomp.json")).expect("it is JSON");
    assert_eq!((&profile["defaultAction"], &profile["defaultErrnoRet"]), (&json!("SCMP_ACT_ERRNO"), &json!(1)));
    let rules = profile["syscalls"].as_array().expect("a list of rules");
    let allowed = rules.iter().inspect(|rule| assert_eq!(rule["action"], "SCMP_ACT_ALLOW"));
    let names = allowed.flat_map(|rule| rule["names"].as_array().expect("a list of names").clone());
    names.map(|name| name.as_str().expect("a name").to_owned()).collect()
}

#[test]
fn the_container_profile_suffices() {
    let names = seccomp_profile();
    for never in
        ["ptrace", "mount", "bpf", "keyctl", "init_module", "kexec_load", "process_vm_readv", "perf_event_open"]
    {
        assert!(!names.contains(never), "{never}");
    }
    serves_with_only(&names);
}

#[test]
fn the_container_profile_without_io_uring_suffices_for_epoll() {
    let mut names = seccomp_profile();
    names.retain(|name| !name.starts_with("io_uring"));
    for driver in ["epoll", "auto"] {
        serves_on(driver, &names);
    }
}

#[test]
fn the_filter_can_fail() {
    let mut names = seccomp_profile();
    names.remove("io_uring_setup");
    let (directory, program) = (configured(free_port(), "driver = io_uring"), filter(&names));
    let command = serve(&directory);
    let ended = std::thread::spawn(move || {
        apply_filter(&program).expect("any process may restrict itself");
        run(command, b"")
    });
    let ended = ended.join().expect("no panic");
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("a filter of system calls forbids it"), "{}", ended.stderr);
}

/// The system calls that the unit allows, by systemd's own lists.
fn unit_filter() -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for line in UNIT.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        match line.strip_prefix('~') {
            Some(removed) => removed.split(' ').flat_map(expand).for_each(|name| {
                allowed.remove(&name);
            }),
            None => allowed.extend(line.split(' ').flat_map(expand)),
        }
    }
    allowed
}

fn expand(name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return [name.to_owned()].into();
    }
    let listed = run(
        {
            let mut command = Command::new("systemd-analyze");
            command.args(["syscall-filter", name]);
            command
        },
        b"",
    );
    let lines = listed.stdout.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#') && *line != name).flat_map(expand).collect()
}

const UNIT: &str = include_str!("../packaging/vestibule.service");

#[test]
fn the_unit_lets_io_uring_work() {
    needs!("systemd-analyze");
    let mut names = unit_filter();
    assert!(names.len() > 200 && !names.contains("mount"), "{} names", names.len());
    // systemd installs the filter after it has become the user; what starts the daemon here still calls these.
    names.extend(["execve", "prctl", "capget", "capset"].map(String::from));
    serves_with_only(&names);
}

#[test]
fn the_unit_is_well_formed() {
    needs!("systemd-analyze");
    let directory = temp_dir();
    let program = vestibule().get_program().to_string_lossy().into_owned();
    for (name, text) in
        [("vestibule.service", UNIT), ("vestibule.socket", include_str!("../packaging/vestibule.socket"))]
    {
        std::fs::write(directory.path().join(name), text.replace("/usr/bin/vestibule", &program)).expect("a file");
    }
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=one"]).arg(directory.path().join("vestibule.service"));
    command.arg(directory.path().join("vestibule.socket"));
    let verified = run(command, b"");
    assert_eq!((verified.code, verified.stderr.as_str()), (Some(0), ""), "{}", verified.stdout);
    assert!(UNIT.contains("Type=notify") && UNIT.contains("WatchdogSec="));
    let seconds = |key: &str| {
        let value = UNIT.lines().find_map(|line| line.strip_prefix(key)).expect("it is set");
        Duration::from_secs(value.parse().expect("seconds"))
    };
    assert!(seconds("TimeoutStopSec=") > vestibule::config::DRAIN_DEFAULT, "a drain must not be cut short");
}
