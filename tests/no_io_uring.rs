//! A kernel that refuses io_uring, emulated by a seccomp filter, as containers' default profiles have one: the daemon runs on
//! epoll and says why, or, where the configuration insists on io_uring, ends with cause and remedy.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::Value;

use crate::support::backend::Backend;
use crate::support::client::{Client, loopback};
use crate::support::daemon::{Daemon, haproxy_configuration, vestibule, vestibule_run};
use crate::support::process::{Finished, run};
use crate::support::{PATIENCE, free_port, temp_dir};
use crate::{needs, needs_root, skip};

/// `io_uring_setup`, `io_uring_enter`, `io_uring_register`: the same numbers on every architecture.
const IO_URING_CALLS: std::ops::RangeInclusive<i64> = 425..=427;

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSYS: u32 = 38;

/// What the default filters of container runtimes answer with EPERM and a daemon could come to want. That of Docker and
/// containerd lists what is allowed; of what it leaves out these are the calls that exist on both processors.
const DENIED_IN_CONTAINERS: [libc::c_long; 16] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_pivot_root,
    libc::SYS_kexec_load,
    libc::SYS_swapon,
];

const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";

/// A client's session: greeted, and answered.
fn begin_session(port: u16) -> Client {
    let client = Client::send_to(loopback(port), HEADER);
    assert_eq!(read(&client, 12), b"* OK ready\r\n");
    say(&client);
    client
}

fn say(client: &Client) {
    client.send(b"a NOOP\r\n").expect("connected");
    assert_eq!(read(client, 8), b"a NOOP\r\n");
}

fn read(client: &Client, count: usize) -> Vec<u8> {
    let mut room = vec![0; count];
    (&client.stream).read_exact(&mut room).expect("it is answered");
    room
}

#[test]
fn in_a_container_it_serves_relays_and_upgrades_on_epoll() {
    let backend = Backend::greeting("* OK ready\r\n");
    let (port, relayed, directory) = (free_port(), free_port(), temp_dir());
    let place = |name: &str| directory.path().join(name).display().to_string();
    let text = format!(
        "driver = auto\nrings = 2\ntakeover_socket = {}\ncontrol_socket = {}\n\
         service imap {{\n  worker = relay\n  backend = b\n  inet_listener r {{\n    address = 127.0.0.1\n    port = {relayed}\n    \
         haproxy = yes\n  }}\n}}\nbackend b {{\n  server s {{\n    address = 127.0.0.1\n    port = {}\n  }}\n}}\n",
        place("takeover"),
        place("control"),
        backend.address.port()
    );
    let text = haproxy_configuration(port, &text, "");
    in_a_container(|| {
        let mut first = Daemon::start(&text, &[port, relayed]);
        first.wait_for_output("is ready");
        let why: Vec<String> =
            first.output().lines().filter(|line| line.contains("epoll")).map(str::to_owned).collect();
        assert_eq!(why.len(), 1, "one line: {}", first.output());
        assert!(why[0].contains("runs on epoll") && why[0].contains("a filter of system calls forbids it"), "{why:?}");
        assert!(why[0].contains("io_uring_setup, io_uring_enter and io_uring_register"), "the remedy: {why:?}");
        let whoami = || Client::send_to(loopback(port), HEADER).whoami()["client"].clone();
        assert_eq!(whoami(), "198.51.100.7:5000");
        let sessions: Vec<Client> = (0..20).map(|_| begin_session(relayed)).collect();
        let second = Daemon::taking_over(Path::new(&place("takeover")), &text);
        second.wait_for_output("is ready");
        assert_eq!(first.wait(PATIENCE).code(), Some(0), "its sessions have moved: {}", first.output());
        assert_eq!(whoami(), "198.51.100.7:5000");
        sessions.iter().for_each(say);
        sessions.into_iter().chain([begin_session(relayed)]).for_each(|client| {
            say(&client);
            client.stream.shutdown(std::net::Shutdown::Write).expect("connected");
            assert_eq!(client.read_to_end().0, b"", "ended in order");
        });
        let stats = vestibule_run(&["ctl", "stats", "--json", "--socket", &place("control")], b"");
        let stats: Value = serde_json::from_str(&stats.stdout).unwrap_or_else(|error| panic!("{error}: {stats:?}"));
        assert_eq!(stats["driver"], "epoll");
        assert!(stats["driver-reason"].as_str().is_some_and(|why| why.contains("a filter of system calls")), "{stats}");
        let table = second.stop();
        assert!(table.contains("driver                          epoll (io_uring is not available"), "{table}");
    });
}

/// An engine on one driver, and the next one on the other: what moves does not depend on it.
#[test]
fn sessions_and_half_read_headers_move_between_io_uring_and_epoll() {
    let backend = Backend::greeting("* OK ready\r\n");
    let (port, relayed, directory) = (free_port(), free_port(), temp_dir());
    let path = directory.path().join("takeover");
    let on = |driver: &str| {
        let globals = format!(
            "driver = {driver}\nrings = 2\ntakeover_socket = {}\nhaproxy_timeout = 60 secs\nservice imap {{\n  worker = relay\n  \
             backend = b\n  inet_listener r {{\n    address = 127.0.0.1\n    port = {relayed}\n    haproxy = yes\n  }}\n}}\n\
             backend b {{\n  server s {{\n    address = 127.0.0.1\n    port = {}\n  }}\n}}\n",
            path.display(),
            backend.address.port()
        );
        haproxy_configuration(port, &globals, "")
    };
    let mut daemon = Daemon::start(&on("io_uring"), &[port, relayed]);
    daemon.wait_for_output("is ready");
    let sessions: Vec<Client> = (0..20).map(|_| begin_session(relayed)).collect();
    for driver in ["epoll", "io_uring", "epoll"] {
        let halves: Vec<Client> = (1..20).map(|cut| Client::send_to(loopback(port), &HEADER[..cut])).collect();
        let next = Daemon::taking_over(&path, &on(driver));
        next.wait_for_output("is ready");
        assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.output());
        daemon = next;
        for (cut, client) in (1..).zip(halves) {
            client.send(&HEADER[cut..]).expect("connected");
            assert_eq!(client.whoami()["client"], "198.51.100.7:5000", "{driver}");
        }
        sessions.iter().for_each(say);
        say(&begin_session(relayed));
    }
    // A drain would let them go over its whole time.
    drop(sessions);
    let log = daemon.stop();
    assert!(log.contains("driver                          epoll\n"), "{log}");
}

#[test]
fn serve_says_what_refuses_io_uring_and_what_to_do() {
    let directory = temp_dir();
    let file = directory.path().join("vestibule.conf");
    let text = haproxy_configuration(free_port(), "driver = io_uring", "");
    std::fs::write(&file, text).expect("it can be written");
    let name = file.to_str().expect("a plain path");
    for (errno, cause) in
        [(EPERM, "Seccomp in /proc/self/status"), (ENOSYS, "CONFIG_IO_URING"), (EINVAL, "run Linux 6.1 or later")]
    {
        let finished = without_io_uring(errno, &["serve", "-c", name]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let message: Vec<&str> = finished.stderr.lines().filter(|line| line.contains("io_uring")).collect();
        assert_eq!(message.len(), 1, "one message: {finished:?}");
        assert!(message[0].contains(cause), "{message:?}");
    }
    let refused = without_io_uring(EPERM, &["serve", "-c", name]);
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(refused.stderr.contains(call), "the remedy names the calls to allow: {refused:?}");
    }
}

#[test]
fn doctor_says_what_it_runs_on_and_why() {
    let directory = temp_dir();
    let file = directory.path().join("vestibule.conf");
    for (driver, verdicts) in [("auto", ["warn", "warn"]), ("epoll", ["ok", "ok"]), ("io_uring", ["fail", "fail"])] {
        let text = haproxy_configuration(free_port(), &format!("driver = {driver}"), "");
        std::fs::write(&file, text).expect("it can be written");
        let finished = without_io_uring(EPERM, &["doctor", "-c", file.to_str().expect("a plain path")]);
        let of = |subject: &str| {
            let line = finished.stdout.lines().find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(subject)));
            line.unwrap_or_else(|| panic!("no line about {subject}: {finished:?}"))
        };
        let said = [of("driver "), of("io_uring ")].map(|line| line.split(' ').next().unwrap_or_default());
        assert_eq!(said, verdicts, "{driver}: {finished:?}");
        assert!(of("driver ").contains(if driver == "io_uring" { "none" } else { "epoll" }), "{driver}: {finished:?}");
        assert!(finished.stdout.contains("seccomp"), "{finished:?}");
        assert!(driver != "io_uring" || finished.code == Some(1), "{finished:?}");
    }
}

/// The sysctl belongs to the whole machine. So the daemon gets a mount namespace in which the file says 2, and the kernel's
/// refusal is emulated; on a machine with no other user of io_uring, `VESTIBULE_SYSCTL=1` switches it off for real.
#[test]
fn the_sysctl_is_named_where_it_forbids_io_uring() {
    needs_root!();
    needs!("unshare", "mount");
    if !Path::new(SYSCTL).exists() {
        skip!("kernel.io_uring_disabled, which Linux has since 6.6");
    }
    let port = free_port();
    let file = temp_dir();
    let name = file.path().join("vestibule.conf");
    std::fs::write(&name, haproxy_configuration(port, "driver = io_uring", "")).expect("it can be written");
    let name = name.to_str().expect("a plain path");
    let refused = if std::env::var_os("VESTIBULE_SYSCTL").is_some() {
        let _off = SysctlOff::switch();
        vestibule_run(&["serve", "-c", name], b"")
    } else {
        let says_two = file.path().join("two");
        std::fs::write(&says_two, "2\n").expect("it can be written");
        let inside = format!("mount --bind {} {SYSCTL} && exec \"$@\"", says_two.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &inside, "sh"]).arg(vestibule().get_program()).args(["serve", "-c", name]);
        under_filter(EPERM, || run(command, b""))
    };
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let remedy = "kernel.io_uring_disabled = 2 switches it off; run `sysctl kernel.io_uring_disabled=0`";
    assert!(refused.stderr.contains(remedy), "{refused:?}");
}

const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// io_uring is off on this machine; dropped, it is as it was.
struct SysctlOff(String);

impl SysctlOff {
    fn switch() -> SysctlOff {
        let before = std::fs::read_to_string(SYSCTL).expect("Linux 6.6 and later have it");
        std::fs::write(SYSCTL, "2").expect("root may write it");
        SysctlOff(before)
    }
}

impl Drop for SysctlOff {
    fn drop(&mut self) {
        std::fs::write(SYSCTL, self.0.trim()).expect("root may write it");
    }
}

#[test]
fn what_needs_no_ring_works_without() {
    let finished = without_io_uring(EPERM, &["config"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

/// Runs `vestibule` where every io_uring call fails with `errno`.
fn without_io_uring(errno: u32, arguments: &[&str]) -> Finished {
    under_filter(errno, || vestibule_run(arguments, b""))
}

fn under_filter(errno: u32, body: impl FnOnce() -> Finished + Send) -> Finished {
    under_filters(&[refusal(errno, IO_URING_CALLS)], body)
}

/// Runs it, and the programs that it starts, under what a container runtime's default filter denies. Threads begin by clone(2):
/// the filter cannot look at what clone3(2) is given, and says that there is none.
fn in_a_container(body: impl FnOnce() + Send) {
    under_filters(&[refusal(EPERM, DENIED_IN_CONTAINERS), refusal(ENOSYS, [libc::SYS_clone3])], body);
}

fn under_filters<T: Send>(filters: &[BpfProgram], body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        // The filters hold for this thread and the processes that it starts, not for the other tests.
        let child = scope.spawn(|| {
            for filter in filters {
                seccompiler::apply_filter(filter).expect("the kernel takes a seccomp filter");
            }
            body()
        });
        child.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn refusal(errno: u32, calls: impl IntoIterator<Item = i64>) -> BpfProgram {
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect::<BTreeMap<_, _>>();
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture that seccompiler knows");
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), architecture)
        .and_then(BpfProgram::try_from)
        .expect("some calls make a filter")
}
