//! Checks of servers as an operator meets them: the daemon's log, its threads, `vestibule doctor --backends`, and what real
//! servers write about being checked.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::client::loopback;
use crate::support::daemon::{Daemon, vestibule_run};
use crate::support::dovecot::{Dovecot, Service, Terms, Way, missing};
use crate::support::process::Finished;
use crate::support::{free_port, peers, temp_dir, wait_until};
use crate::{needs, needs_root};

/// Generous; it only matters when something is broken.
const SOON: Duration = Duration::from_secs(20);

/// An IMAP server that greets and says goodbye.
fn imap_server() -> SocketAddr {
    let listener = TcpListener::bind(loopback(0)).expect("loopback has free ports");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                stream.write_all(b"* OK ready\r\n").ok();
                let mut room = [0; 1024];
                while let Ok(1..) = stream.read(&mut room) {
                    if room.windows(6).any(|words| words == b"LOGOUT") {
                        return stream.write_all(b"* BYE\r\nx OK\r\n");
                    }
                }
                Ok(())
            });
        }
    });
    address
}

/// An SMTP server that greets as Exim, and takes any command for NOOP and QUIT.
fn exim_server() -> SocketAddr {
    let listener = TcpListener::bind(loopback(0)).expect("loopback has free ports");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                // The header comes first, and in one piece.
                let mut room = [0; 1024];
                let _ = stream.read(&mut room)?;
                stream.write_all(b"220 mx.example ESMTP Exim 4.98\r\n")?;
                while let Ok(1..) = stream.read(&mut room) {
                    stream.write_all(b"250 OK\r\n")?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    address
}

/// A relay on `port` to servers of these names, addresses and further settings.
fn configuration(port: u16, service: &str, backend: &str, servers: &[(&str, SocketAddr)]) -> String {
    let server = |(name, address): &(&str, SocketAddr)| {
        format!("  server {name} {{\n    address = {}\n    port = {}\n  }}\n", address.ip(), address.port())
    };
    let servers: String = servers.iter().map(server).collect();
    format!(
        "login_source_ips = 127.0.0.2\nservice {service} {{\n  worker = relay\n  backend = mail\n  inet_listener relayed {{\n    \
         address = 127.0.0.1\n    port = {port}\n  }}\n}}\nbackend mail {{\n  check_interval = 1 secs\n{backend}\n{servers}}}\n"
    )
}

/// The names of a process's threads.
fn threads(id: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).expect("it runs");
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    tasks.flatten().filter_map(name).map(|name| name.trim().to_owned()).collect()
}

fn doctor(configuration: &str) -> Finished {
    let directory = temp_dir();
    let file = directory.path().join("vestibule.conf");
    fs::write(&file, configuration).expect("the configuration can be written");
    vestibule_run(&["doctor", "--backends", "-c", file.to_str().expect("a path of ASCII")], b"")
}

#[test]
fn the_log_says_once_what_becomes_of_a_server_and_the_prober_leaves_with_the_engine() {
    let dead = loopback(free_port());
    let port = free_port();
    let text = configuration(port, "imap-login", "", &[("mail1", imap_server()), ("mail2", dead)]);
    let mut daemon = Daemon::start(&text, &[port]);
    daemon.wait_for_output("backend mail: server mail2 is down: connection refused");
    let names = threads(daemon.id());
    assert!(["prober", "names"].iter().all(|name| names.iter().any(|thread| thread == name)), "{names:?}");
    let reply = TcpListener::bind(dead).expect("the port is still free");
    thread::spawn(move || {
        for mut stream in reply.incoming().flatten() {
            stream.write_all(b"* OK ready\r\n").ok();
            thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    daemon.wait_for_output("backend mail: server mail2 is up again");
    daemon.signal(Signal::USR1);
    assert!(wait_until(SOON, || !threads(daemon.id()).iter().any(|name| name == "prober" || name == "names")));
    daemon.signal(Signal::TERM);
    daemon.wait(SOON);
    let said = daemon.output();
    assert_eq!(said.matches("server mail2 is down").count(), 1, "{said}");
    assert!(!said.contains("no server is left"), "{said}");
}

#[test]
fn when_all_servers_are_down_the_log_says_so() {
    let port = free_port();
    let text = configuration(port, "imap-login", "", &[("mail1", loopback(free_port()))]);
    let daemon = Daemon::start(&text, &[port]);
    daemon.wait_for_output("backend mail: no server is left");
    daemon.stop();
}

#[test]
fn doctor_says_what_each_port_speaks() {
    let smtp = TcpListener::bind(loopback(0)).expect("loopback has free ports");
    let address = smtp.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in smtp.incoming().flatten() {
            stream.write_all(b"220 mx.example ESMTP\r\n").ok();
        }
    });
    let servers = [("a-good", imap_server()), ("b-dead", loopback(free_port())), ("c-smtp", address)];
    let report = doctor(&configuration(free_port(), "imap-login", "", &servers));
    let lines: Vec<&str> = report.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}{}", report.stdout, report.stderr);
    assert!(lines[0].starts_with("ok    server mail/a-good") && lines[0].contains("it greets: \"* OK ready\""));
    assert!(lines[1].starts_with("fail  server mail/b-dead") && lines[1].contains("connection refused; remedy: "));
    assert!(lines[2].starts_with("fail  server mail/c-smtp") && lines[2].contains("looks like SMTP"), "{}", lines[2]);
    assert_eq!(report.code, Some(1));
    let mistaken = [("smtp", exim_server())];
    let text = |target: &str| configuration(free_port(), "smtpd", &format!("  target = {target}"), &mistaken);
    let report = doctor(&text("dovecot"));
    assert!(report.stdout.starts_with("warn  server mail/smtp"), "{}", report.stdout);
    assert!(report.stdout.contains("; it behaves like exim; remedy: set the backend's `target` to that kind"));
    for target in ["exim", "generic", "haproxy"] {
        assert!(doctor(&text(target)).stdout.starts_with("ok    server mail/smtp"), "{target}");
    }
    let good = doctor(&configuration(free_port(), "imap-login", "", &servers[..1]));
    assert_eq!(good.code, Some(0), "{}", good.stdout);
}

#[test]
fn dovecot_is_checked_without_a_word_of_trouble_in_its_log_and_wrong_ports_are_recognised() {
    needs!("dovecot", "openssl");
    needs_root!();
    let dovecot = peers::dovecot();
    let [plain, haproxy, imaps] = dovecot.addresses[..] else { panic!("three listeners") };
    let servers = [("plain", plain), ("proxied", haproxy), ("tls", imaps)];
    let report = doctor(&configuration(free_port(), "imap-login", "", &servers));
    let line = |name: &str| {
        let found = report.stdout.lines().find(|line| line[6..].starts_with(&format!("server mail/{name} ")));
        found.unwrap_or_else(|| panic!("no line about {name}:\n{}{}", report.stdout, report.stderr))
    };
    assert!(line("proxied").contains("it greets: \"* OK [CAPABILITY"), "{}", line("proxied"));
    assert!(line("plain").contains("it takes our PROXY header for commands"), "{}", line("plain"));
    assert!(line("tls").contains("expects TLS"), "{}", line("tls"));
    let bare = doctor(&configuration(free_port(), "imap-login", "  forward = none", &servers[1..2]));
    assert!(bare.stdout.contains("it waits for a PROXY header"), "{}", bare.stdout);

    let before = dovecot.process.output().len();
    let port = free_port();
    let daemon = Daemon::start(&configuration(port, "imap-login", "", &servers[1..2]), &[port]);
    assert!(wait_until(SOON, || dovecot.process.output()[before..].matches("logging out").count() >= 2
        || dovecot.process.output()[before..].matches("Logged out").count() >= 2));
    let said = daemon.stop();
    assert!(!said.contains("is down"), "{said}");
    let log = dovecot.process.output()[before..].to_owned();
    let trouble = ["Error", "Warning", "Fatal", "Panic"];
    assert!(!trouble.iter().any(|word| log.contains(word)), "Dovecot writes of checks:\n{log}");
}

#[test]
fn dovecots_own_health_check_is_believed_and_leaves_nothing_in_its_log() {
    needs_root!();
    if let Some(what) = missing() {
        crate::skip!(what);
    }
    let checked = free_port();
    let more = format!(
        "service health-check {{\n  executable = script -p health-check.sh\n  inet_listener health-check {{\n    \
         address = 127.0.0.1\n    port = {checked}\n  }}\n}}\n"
    );
    let mut dovecot = Dovecot::start(&Terms { more: &more, ..Terms::default() });
    let servers = [("mail1", dovecot.address(Service::Imap, Way::Proxied))];
    let settings = format!("  check = dovecot\n  check_port = {checked}\n  rise = 1\n  fall = 1\n");
    let report = doctor(&configuration(free_port(), "imap-login", &settings, &servers));
    let verdicts: Vec<&str> = report.stdout.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(verdicts, ["ok", "ok"], "its greeting and its PONG: {}{}", report.stdout, report.stderr);
    // A port that does not answer PING with PONG is not taken for it.
    let wrong = settings.replace(&checked.to_string(), &servers[0].1.port().to_string());
    let report = doctor(&configuration(free_port(), "imap-login", &wrong, &servers));
    assert!(report.stdout.contains("\nfail  server mail/mail1"), "{}{}", report.stdout, report.stderr);

    let before = dovecot.log().len();
    let port = free_port();
    let daemon = Daemon::start(&configuration(port, "imap-login", &settings, &servers), &[port]);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(&dovecot.log()[before..], "", "some checks of one second's interval");
    dovecot.kill();
    daemon.wait_for_output("backend mail: server mail1 is down: ");
    dovecot.start_again();
    daemon.wait_for_output("backend mail: server mail1 is up again");
    daemon.stop();
}

#[test]
fn postfix_is_checked_as_a_client_that_quits() {
    needs!("postfix");
    needs_root!();
    let postfix = peers::postfix();
    let servers = [("mx", postfix.address())];
    let report = doctor(&configuration(free_port(), "smtpd", "  target = postfix", &servers));
    assert!(report.stdout.starts_with("ok    server mail/mx"), "{}{}", report.stdout, report.stderr);
    let bare = doctor(&configuration(free_port(), "smtpd", "  forward = none", &servers));
    assert!(bare.stdout.contains("it waits for a PROXY header"), "{}", bare.stdout);
}
