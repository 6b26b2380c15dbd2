//! `ctl top` in a terminal of 80x24, on a relay under load: it shows what is wrong, and gives the terminal back as it was.
//!
//! `VESTIBULE_PICTURES=DIRECTORY cargo test --test integration top::` keeps a picture of it.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::needs;
use crate::support::backend::Backend;
use crate::support::browser::{CHROMIUM, Look, picture};
use crate::support::client::{Client, loopback};
use crate::support::cluster::backend;
use crate::support::daemon::{Daemon, vestibule, vestibule_run};
use crate::support::load::load_beside;
use crate::support::process::{Process, kill_by_id};
use crate::support::{PATIENCE, free_port, temp_dir, wait_until};

/// How each of its pictures begins.
const BEGIN: &str = "\x1b[H";

/// A relay to four servers, of which one does not exist and one is in maintenance, and clients of all kinds.
struct Scene {
    daemon: Daemon,
    _servers: [Backend; 3],
    directory: TempDir,
    listener: SocketAddr,
}

impl Scene {
    fn new() -> Scene {
        let (directory, port) = (temp_dir(), free_port());
        let servers = ["* OK s0\r\n", "* OK s1\r\n", "* OK s2\r\n"].map(Backend::greeting);
        let [s0, s1, s3] = servers.each_ref().map(|server| server.address);
        let text = format!(
            "haproxy_trusted_networks = 127.1.0.0/16\nrings = 2\ncontrol_socket = {}\n\
             service imap-login {{\n  worker = relay\n  backend = imap\n  inet_listener imap_haproxy {{\n    \
             address = 127.0.0.1\n    port = {port}\n    haproxy = yes\n  }}\n}}\n{}",
            directory.path().join("control.sock").display(),
            backend(
                "imap",
                "check = connect\n  check_interval = 1s\n  slow_start = 0",
                &[s0, s1, loopback(free_port()), s3]
            )
        );
        let daemon = Daemon::start(&text, &[port]);
        daemon.wait_for_output("is ready");
        let scene = Scene { daemon, _servers: servers, directory, listener: loopback(port) };
        scene.daemon.wait_for_output("server s2 is down");
        let maint = scene.ctl(&["server", "imap/s3", "maint"]);
        assert_eq!(maint.code, Some(0), "{maint:?}");
        scene
    }

    fn ctl(&self, arguments: &[&str]) -> crate::support::process::Finished {
        let socket = self.path("control.sock");
        vestibule_run(&[&["ctl"], arguments, &["--socket", &*socket.to_string_lossy()]].concat(), b"")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A scanner, and a balancer that nobody has entered.
    fn refuse_some(&self) {
        for (host, bytes) in [
            ([127, 1, 0, 66], &b"GET / HTTP/1.1\r\n\r\n"[..]),
            ([127, 1, 0, 66], b"GET /favicon.ico HTTP/1.1\r\n\r\n"),
            ([127, 0, 0, 9], b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n"),
        ] {
            let client = Client::connect(host.into(), self.listener);
            let _ = client.send(bytes); // it may be gone already
            assert_eq!(client.read_to_end().0, b"");
        }
    }

    /// What `ctl top` draws until it has drawn all of `words`, and so many pictures, ten a second, and is told to end.
    fn watch(&self, words: &[&str], pictures: usize) -> String {
        let [before, after, pid] = ["before", "after", "pid"].map(|name| self.path(name));
        // In the background of a shell without job control it has the terminal's input all the same.
        let line = format!(
            "stty rows 24 cols 80; stty -g > {}; {} ctl top --socket {} <&0 & echo $! > {}; wait $!; stty -g > {}",
            before.display(),
            vestibule().get_program().to_string_lossy(),
            self.path("control.sock").display(),
            pid.display(),
            after.display()
        );
        let mut command = std::process::Command::new("script");
        command.args(["-q", "-e", "-c", &line, "/dev/null"]);
        command.env("TERM", "xterm").env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
        let mut terminal = Process::start(command);
        words.iter().for_each(|words| terminal.wait_for_output(words));
        let drawn = || terminal.output().matches(BEGIN).count() >= pictures;
        assert!(wait_until(3 * PATIENCE, drawn), "{}", terminal.output());
        let read = |path| std::fs::read_to_string(path).expect("the shell has written it");
        kill_by_id(read(pid).trim().parse().expect("a number"), Signal::TERM);
        terminal.wait(PATIENCE);
        assert_eq!(read(before), read(after), "the terminal is as it was");
        terminal.output()
    }
}

#[test]
fn it_is_looked_at_live_in_a_terminal_that_is_given_back() {
    needs!("script", "stty");
    let scene = Scene::new();
    scene.refuse_some();
    let shown = scene.watch(&["imap/s2 has been down", "header-from-untrusted"], 1);
    for words in ["\x1b[?1049h", "Vestibule", "READY", "imap/s0", "MAINT", "127.1.0.66", "http", "\x1b[?25h\x1b[?1049l"]
    {
        assert!(shown.contains(words), "{words:?} is not in {shown:?}");
    }
    let none = scene.ctl(&["top"]);
    assert!(none.code == Some(1) && none.stderr.contains("standard output is none"), "{none:?}");
}

#[test]
fn it_can_be_looked_at_in_a_picture() {
    needs!("script", "stty", CHROMIUM);
    let scene = Scene::new();
    scene.refuse_some();
    // Some come and go, and others stay.
    let _load = [&["--rate", "60"][..], &["--rate", "15", "--hold", "140"]]
        .map(|kind| load_beside(scene.listener, &[&["-d", "180s", "--expect", "banner"], kind].concat()));
    let served = || scene.ctl(&["stats"]).stdout.contains("\nclient-closed ");
    assert!(wait_until(PATIENCE, served), "{}", scene.daemon.output());
    // Where somebody will look, until its curve has some length.
    let kept = std::env::var_os("VESTIBULE_PICTURES").map(PathBuf::from);
    let shown = scene.watch(&["header-from-untrusted"], if kept.is_some() { 130 } else { 15 });
    let frame = last_frame(&shown);
    assert_eq!(frame.len(), 24, "{frame:?}");
    let html = scene.path("top.html");
    std::fs::write(&html, document(&frame)).expect("it is ours");
    let file = kept.as_deref().unwrap_or(scene.directory.path()).join("top.png");
    picture(&format!("file://{}", html.display()), Look { width: 820, height: 508, dark: true }, &file);
    let png = std::fs::read(&file).expect("a picture was taken");
    assert!(png.starts_with(b"\x89PNG") && png.len() > 10_000, "{} bytes", png.len());
}

/// The lines that were drawn last, with what colours them.
fn last_frame(shown: &str) -> Vec<&str> {
    let frames = shown.split(BEGIN).filter_map(|frame| frame.split_once("\x1b[J"));
    let (last, _) = frames.last().expect("something was drawn");
    last.split("\r\n").collect()
}

/// A document that looks like the terminal.
fn document(frame: &[&str]) -> String {
    let lines: Vec<String> = frame.iter().map(|line| marked_up(line)).collect();
    format!(
        "<!doctype html><meta charset=utf-8><style>body {{ margin: 0; background: #16181d; }} \
         pre {{ margin: 14px 24px; font: 16px/20px 'DejaVu Sans Mono', monospace; color: #d6d9df; }} \
         .c7 {{ background: #d6d9df; color: #16181d; }} .c32 {{ color: #58c98b; }} .c33 {{ color: #e5c452; }} \
         .c31 {{ color: #ff7b72; }} .c2 {{ color: #8a90a0; }}</style><pre>{}</pre>",
        lines.join("\n")
    )
}

/// A line whose colours are classes.
fn marked_up(line: &str) -> String {
    let mut pieces = line.split("\x1b[");
    let mut out = escaped(pieces.next().unwrap_or_default());
    let mut is_open = false;
    for piece in pieces {
        let (code, text) = piece.split_at(piece.find(|c: char| c.is_ascii_alphabetic()).map_or(0, |at| at + 1));
        match code.strip_suffix('m') {
            Some("0") if std::mem::take(&mut is_open) => out.push_str("</span>"),
            Some(colour) if colour != "0" => {
                is_open = true;
                out.push_str(&format!("<span class=c{colour}>"));
            }
            _ => {}
        }
        out.push_str(&escaped(text));
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
