//! Descriptors that a service manager passes, in every form that systemd.socket(5) has.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::client::loopback;
use crate::support::daemon::{Daemon, vestibule};
use crate::support::process::run;
use crate::support::{free_port, temp_dir};
use crate::{needs, skip};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/passed/pass.py");

/// One listener, or one for each family.
fn configuration(port: u16, listeners: &[&str]) -> String {
    let one = |(index, addresses): (usize, &&str)| {
        format!("inet_listener l{index} {{\n  address = {addresses}\n  port = {port}\n  haproxy = yes\n}}\n")
    };
    let listeners: String = listeners.iter().enumerate().map(one).collect();
    format!("rings = 2\nhaproxy_trusted_networks = 127.0.0.0/8 ::1\nservice imap-login {{\n{listeners}}}\n")
}

/// The daemon with one descriptor of this form.
fn started(form: &str, port: u16, directory: &Path, configuration: &str) -> Daemon {
    let (number, directory) = (port.to_string(), directory.to_str().expect("a path in UTF-8"));
    let daemon = Daemon::start_under(&["python3", SCRIPT, form, &number, directory], configuration, &[]);
    daemon.wait_for_output("is ready");
    daemon
}

/// What the daemon says that is passed a descriptor of this form and does not start.
fn refused(form: &str, listeners: &[&str]) -> String {
    let (directory, port) = (temp_dir(), free_port());
    let file = directory.path().join("vestibule.conf");
    std::fs::write(&file, configuration(port, listeners)).expect("a file in a temporary directory");
    let mut command = std::process::Command::new("python3");
    command.arg(SCRIPT).args([form, &port.to_string()]).arg(directory.path());
    command.arg(vestibule().get_program()).args(["serve", "-c"]).arg(&file);
    let done = run(command, b"");
    let said = format!("{}{}", done.stdout, done.stderr);
    assert_ne!(done.code, Some(0), "{form}: {said}");
    assert!(!said.contains("panicked"), "{form}: {said}");
    said
}

/// Whether whoever connects there with a header is told who he is.
fn serves(address: SocketAddr) -> bool {
    completes(begin(address))
}

const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";
/// Bytes of it that make nothing complete.
const BEGUN: usize = 20;

/// A client that has sent a part of his header.
fn begin(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(&HEADER[..BEGUN]).expect("connected");
    stream
}

/// Whether who sends the rest is told who he is.
fn completes(mut stream: TcpStream) -> bool {
    let mut said = String::new();
    let sent = stream.write_all(&HEADER[BEGUN..]);
    sent.is_ok() && stream.read_to_string(&mut said).is_ok() && said.contains("198.51.100.7:5000")
}

/// A client of each family that has sent a part of his header.
fn begin_by_both(port: u16) -> [TcpStream; 2] {
    [loopback(port), by_ipv6(port)].map(begin)
}

fn by_ipv6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn one_socket_of_both_families_serves_listeners_of_both_and_goes_on_through_a_reload() {
    needs!("python3");
    if !has_ipv6() {
        skip!("IPv6");
    }
    for addresses in ["* ::", "::", "*"] {
        let (directory, port) = (temp_dir(), free_port());
        let daemon = started("both", port, directory.path(), &configuration(port, &[addresses]));
        for _ in 0..8 {
            assert!(serves(loopback(port)) && serves(by_ipv6(port)), "{addresses}");
        }
        // The socket stays whichever families the listener has from now on.
        for later in ["::", "*", "* ::"] {
            std::fs::write(daemon.file(), configuration(port, &[later])).expect("the configuration can be written");
            let before = daemon.output().matches("reloaded: accepting").count();
            daemon.signal(Signal::HUP);
            let reloaded = || daemon.output().matches("reloaded: accepting").count() > before;
            assert!(crate::support::wait_until(PATIENCE, reloaded), "{addresses}, {later}: {}", daemon.output());
            for _ in 0..8 {
                assert!(serves(loopback(port)) && serves(by_ipv6(port)), "{addresses}, {later}");
            }
        }
        daemon.stop();
    }
}

#[test]
fn one_socket_of_both_families_is_not_for_two_listeners() {
    needs!("python3");
    if !has_ipv6() {
        skip!("IPv6");
    }
    let said = refused("both", &["*", "::"]);
    assert!(said.contains(FOR_TWO) && said.contains("BindIPv6Only=ipv6-only"), "{said}");
}

/// What is said of one socket for both families and two listeners.
const FOR_TWO: &str = "but * is of inet_listener imap-login/l0 and [::] of imap-login/l1";

#[test]
fn a_reload_that_gives_one_socket_of_both_families_to_two_listeners_changes_nothing() {
    needs!("python3");
    if !has_ipv6() {
        skip!("IPv6");
    }
    for before in ["* ::", "::"] {
        let (directory, port) = (temp_dir(), free_port());
        let daemon = started("both", port, directory.path(), &patient(&directory, port, &[before]));
        let waiting = begin_by_both(port);
        std::fs::write(daemon.file(), patient(&directory, port, &["*", "::"])).expect("it is ours");
        daemon.signal(Signal::HUP);
        daemon.wait_for_output("not reloaded: the configuration before stays in force");
        assert!(daemon.output().contains(FOR_TWO), "{}", daemon.output());
        assert!(waiting.into_iter().all(completes), "{before}");
        for _ in 0..8 {
            assert!(serves(loopback(port)) && serves(by_ipv6(port)), "{before}");
        }
        daemon.stop();
    }
}

/// Where daemons take over, with time to complete a header meanwhile.
fn patient(directory: &TempDir, port: u16, listeners: &[&str]) -> String {
    let socket = directory.path().join("takeover");
    format!("takeover_socket = {}\nhaproxy_timeout = 60 secs\n{}", socket.display(), configuration(port, listeners))
}

#[test]
fn a_takeover_goes_on_with_one_socket_of_both_families_whatever_addresses_the_listener_has_from_then_on() {
    needs!("python3");
    if !has_ipv6() {
        skip!("IPv6");
    }
    for addresses in ["* ::", "::", "*"] {
        let (directory, port) = (temp_dir(), free_port());
        let socket = directory.path().join("takeover");
        let mut daemon = started("both", port, directory.path(), &patient(&directory, port, &[addresses]));
        for later in ["::", "* ::", "*", "* ::"] {
            let waiting = begin_by_both(port);
            let next = Daemon::taking_over(&socket, &patient(&directory, port, &[later]));
            next.wait_for_output("is ready");
            for _ in 0..8 {
                assert!(serves(loopback(port)) && serves(by_ipv6(port)), "{addresses}, {later}");
            }
            assert!(waiting.into_iter().all(completes), "{addresses}, {later}: {}", next.output());
            assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.output());
            daemon = next;
        }
        daemon.stop();
    }
}

#[test]
fn a_takeover_that_gives_one_socket_of_both_families_to_two_listeners_leaves_everything_to_the_old_process() {
    needs!("python3");
    if !has_ipv6() {
        skip!("IPv6");
    }
    let (directory, port) = (temp_dir(), free_port());
    let socket = directory.path().join("takeover");
    let daemon = started("both", port, directory.path(), &patient(&directory, port, &["* ::"]));
    let waiting = begin_by_both(port);
    let mut next = Daemon::taking_over(&socket, &patient(&directory, port, &["*", "::"]));
    assert_eq!(next.wait(PATIENCE).code(), Some(1), "{}", next.output());
    assert!(next.output().contains(FOR_TWO), "{}", next.output());
    for _ in 0..8 {
        assert!(serves(loopback(port)) && serves(by_ipv6(port)));
    }
    assert!(waiting.into_iter().all(completes), "{}", daemon.output());
    daemon.stop();
}

#[test]
fn a_socket_of_ipv6_alone_leaves_ipv4_to_the_daemon() {
    needs!("python3");
    if !has_ipv6() {
        skip!("IPv6");
    }
    let (directory, port) = (temp_dir(), free_port());
    let daemon = started("ipv6-only", port, directory.path(), &configuration(port, &["* ::"]));
    assert!(serves(loopback(port)) && serves(by_ipv6(port)));
    daemon.stop();
}

#[test]
fn a_socket_of_ipv4_is_served_in_either_notation() {
    needs!("python3");
    for form in ["ipv4", "mapped"] {
        if form == "mapped" && !has_ipv6() {
            skip!("IPv6");
        }
        let (directory, port) = (temp_dir(), free_port());
        let mut daemon = started(form, port, directory.path(), &patient(&directory, port, &["127.0.0.1"]));
        assert!(serves(loopback(port)), "{form}");
        let next = Daemon::taking_over(&directory.path().join("takeover"), &patient(&directory, port, &["127.0.0.1"]));
        next.wait_for_output("is ready");
        assert!(serves(loopback(port)), "{form}: {}", next.output());
        assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.output());
        next.stop();
    }
}

#[test]
fn what_is_meant_for_another_process_is_left_alone() {
    needs!("python3");
    let (directory, port) = (temp_dir(), free_port());
    let daemon = started("other-process", port, directory.path(), &configuration(port, &["127.0.0.1"]));
    assert!(serves(loopback(port)));
    daemon.stop();
}

#[test]
fn what_no_listener_can_serve_is_named_with_the_remedy() {
    needs!("python3");
    for (form, what, remedy) in [
        ("unix", "a Unix stream socket (/", "remove its ListenStream="),
        ("abstract", "a Unix stream socket (of an abstract name)", "remove its ListenStream="),
        ("packets", "a socket of sequential packets", "ListenSequentialPacket="),
        ("unix-datagram", "a datagram socket", "ListenDatagram="),
        ("udp", "a datagram socket", "ListenDatagram="),
        ("netlink", "a socket that is not of TCP", "ListenStream="),
        ("fifo", "a FIFO", "ListenFIFO="),
        ("special", "no socket", "ListenSpecial="),
        ("accepted", "a connection that was accepted already", "Accept=no"),
        ("not-listening", "a TCP socket that does not listen", "listen(2)"),
        ("missing", "not open", "LISTEN_FDS"),
    ] {
        let said = refused(form, &["127.0.0.1"]);
        assert!(said.contains(&format!("descriptor 3 (the-unit), which is {what}")), "{form}: {said}");
        assert!(said.contains(remedy), "{form}: {said}");
    }
}
