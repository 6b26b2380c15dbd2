//! The program itself, against small servers of this file's own on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// How long a server of this file waits for a client; only matters when something is broken.
const SERVER_PATIENCE: Duration = Duration::from_secs(20);

/// Serves every connection on a thread of its own until the test process ends.
fn serve(each: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                stream.set_read_timeout(Some(SERVER_PATIENCE)).expect("a timeout above zero");
                each(stream);
            });
        }
    });
    address
}

/// Reads a version 1 line; `None` if the peer says something else or nothing.
fn v1_fields(stream: &TcpStream) -> Option<Vec<String>> {
    let mut first = [0];
    if stream.peek(&mut first).ok()? == 0 || first != *b"P" {
        return None;
    }
    let mut line = String::new();
    BufReader::new(stream).take(107).read_line(&mut line).ok()?;
    let fields: Vec<String> = line.strip_suffix("\r\n")?.split(' ').map(str::to_owned).collect();
    (fields.len() == 6 && fields[0] == "PROXY" && fields[1].starts_with("TCP")).then_some(fields)
}

fn bracketed(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// What the `whoami` worker says to a version 1 header; refuses everything else.
fn whoami(mut stream: TcpStream) {
    let Some(fields) = v1_fields(&stream) else { return };
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let line = serde_json::json!({
        "service": "test", "listener": "test", "version": "v1", "command": "PROXY",
        "client": bracketed(&fields[2], &fields[4]), "destination": bracketed(&fields[3], &fields[5]),
        "peer": peer.to_string(), "local": local.to_string(), "tls": false, "tlvs": [], "residual": ""
    });
    let _ = stream.write_all(format!("{line}\n").as_bytes()); // the client may have left
}

/// Says of one client in eight that it is another.
fn liar(mut stream: TcpStream) {
    let Some(mut fields) = v1_fields(&stream) else { return };
    if fields[2].ends_with('8') {
        fields[2].pop();
        fields[2].push('9');
    }
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let line = serde_json::json!({
        "version": "v1", "command": "PROXY", "client": bracketed(&fields[2], &fields[4]),
        "destination": bracketed(&fields[3], &fields[5]), "peer": peer.to_string(), "local": local.to_string(),
        "tlvs": [], "residual": ""
    });
    let _ = stream.write_all(format!("{line}\n").as_bytes());
}

/// Greets before it has read anything, and answers everybody.
fn chatterbox(mut stream: TcpStream) {
    let _ = stream.write_all(b"* OK ready\r\n");
    let _ = stream.read_to_end(&mut Vec::new());
}

fn hang_up(_: TcpStream) {}

fn never_answer(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

fn load(target: SocketAddr, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vestibule-load"))
        .arg(target.to_string())
        .args(["--quiet", "--json", "-"])
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn behaviour<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["behaviours"].as_array().expect("a list");
    all.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no {name} in {all:?}"))
}

#[test]
fn every_answer_is_checked_and_counted() {
    let output = load(serve(whoami), &["-n", "300", "-c", "20", "--header", "v1=3,v1-inet6"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!((&report["connections"]["ok"], &report["connections"]["started"]), (&300.into(), &300.into()));
    for metric in ["connect", "first_byte", "end"] {
        assert_eq!(report["latency"][metric]["count"], 300);
    }
    let headers: u64 = report["headers"].as_array().expect("a list").iter().filter_map(|h| h["count"].as_u64()).sum();
    assert_eq!(headers, 300);
    assert!(report["connections"]["open_max"].as_u64().is_some_and(|open| (1..=20).contains(&open)), "{report:#}");
}

#[test]
fn a_wrong_client_is_found_and_makes_the_exit_code_1() {
    let arguments = ["-n", "254", "-c", "10", "--header", "v1", "--clients", "10.0.0.0/24"];
    let output = load(serve(liar), &arguments);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1));
    // Clients 10.0.0.1 to .254 that end in 8: 8, 18, ... 248.
    assert_eq!(report["wrong_answers"], serde_json::json!([{"kind": "client", "count": 25}]), "{report:#}");
    assert_eq!(report["connections"]["ok"], 254 - 25);
    // Whichever were answered first, all of them by the next client's name.
    let examples = report["wrong_examples"].as_array().expect("a list");
    let is_told = |example: &Value| {
        let text = example.as_str().expect("text");
        text.contains("8:1024 -> ") && text.contains("9:1024")
    };
    assert!(!examples.is_empty() && examples.iter().all(is_told), "{report:#}");
}

#[test]
fn refused_behaviours_and_honest_ones_are_told_apart() {
    let mix = "normal=4,split:9,bytewise,half-close,garbage:v2-checksum,tls,reset,reset:3,partial:5,empty";
    let output = load(serve(whoami), &["-n", "400", "-c", "50", "--header", "v1", "--gap", "1ms", "--behaviour", mix]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    for name in mix.split(',').map(|part| part.split('=').next().expect("a name")) {
        let part = behaviour(&report, name);
        assert!(part["started"].as_u64().is_some_and(|count| count > 0) && part["ok"] == part["started"], "{part:#}");
    }
    assert_eq!(behaviour(&report, "tls")["deserves"], "refusal");
    let garbage = report["garbage"].as_array().expect("a list");
    let checksum = garbage.iter().find(|kind| kind["kind"] == "v2-checksum").expect("was sent");
    assert_eq!(checksum["reason"], "bad-checksum");
    assert_eq!(checksum["count"], behaviour(&report, "garbage:v2-checksum")["started"]);
}

#[test]
fn an_answer_to_what_must_be_refused_is_wrong() {
    // The server keeps the connection open: the first byte decides, not the deadline.
    let output = load(serve(chatterbox), &["-n", "20", "--behaviour", "garbage,silent"]);
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output);
    assert_eq!(report["wrong_answers"], serde_json::json!([{"kind": "answered-refusal", "count": 20}]), "{report:#}");
    assert_eq!(report["failures"], serde_json::json!([]), "{report:#}");
}

#[test]
fn a_greeting_before_the_header_is_wrong_for_the_lazy() {
    let output = load(serve(chatterbox), &["-n", "5", "--behaviour", "lazy", "--expect", "banner"]);
    assert_eq!(json(&output)["wrong_answers"], serde_json::json!([{"kind": "early-greeting", "count": 5}]));
}

#[test]
fn close_and_banner_and_any_have_their_own_measure() {
    for (server, expect, code) in [
        (serve(hang_up), "close", 0),
        (serve(hang_up), "answer", 1),
        (serve(hang_up), "any", 0),
        (serve(chatterbox), "banner:* OK", 0),
        (serve(chatterbox), "banner:220", 1),
        (serve(chatterbox), "any", 0),
    ] {
        // The one that hangs up without reading resets those whose header is there already.
        let output = load(server, &["-n", "30", "--header", "none", "--expect", expect]);
        assert_eq!(output.status.code(), Some(code), "{expect}: {:#}", json(&output));
    }
}

#[test]
fn nobody_there_is_a_failed_connect_not_a_hang() {
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound");
    let output = load(free, &["-n", "10"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = serde_json::json!([{"phase": "connect", "cause": "ECONNREFUSED", "count": 10}]);
    assert_eq!(json(&output)["failures"], expected);
}

#[test]
fn a_server_that_never_answers_cannot_hold_the_run() {
    let output = load(serve(never_answer), &["-n", "10", "--deadline", "300ms"]);
    let report = json(&output);
    let expected = serde_json::json!([{"phase": "first-byte", "cause": "deadline", "count": 10}]);
    assert_eq!(report["failures"], expected, "{report:#}");
}

#[test]
fn connections_that_hang_beyond_the_drain_make_the_exit_code_1() {
    // Two of the twenty are kept waiting, those from 127.1.0.8 and 127.1.0.18.
    fn forgetful(stream: TcpStream) {
        if stream.peer_addr().is_ok_and(|peer| peer.ip().to_string().ends_with('8')) {
            never_answer(stream);
        } else {
            whoami(stream);
        }
    }
    let output = load(serve(forgetful), &["-n", "20", "--header", "v1", "--drain", "300ms"]);
    let report = json(&output);
    let counted = ["ok", "wrong", "failed", "unfinished"].map(|outcome| report["connections"][outcome].as_u64());
    assert_eq!(counted, [Some(18), Some(0), Some(0), Some(2)], "{report:#}");
    assert_eq!(output.status.code(), Some(1), "{report:#}");
}

#[test]
fn the_open_loop_starts_what_is_due() {
    let output = load(serve(whoami), &["--rate", "200", "-n", "100", "--header", "v1"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!((&report["mode"], &report["connections"]["started"]), (&"open".into(), &100.into()));
    // The hundredth start is due after 495 ms: never earlier, however late.
    assert!(report["starting_seconds"].as_f64().is_some_and(|seconds| seconds >= 0.495), "{report:#}");
}

#[test]
fn the_rate_of_the_open_loop_is_over_its_duration() {
    // The last start is due 50 ms before the end, and nothing happens then that could wake the client.
    let output = load(serve(whoami), &["--rate", "20", "-d", "500ms", "--header", "v1"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let figures = [&report["connections"]["started"], &report["starting_seconds"], &report["rate"]];
    assert_eq!(figures, [&serde_json::json!(10), &serde_json::json!(0.5), &serde_json::json!(20.0)], "{report:#}");
}

#[test]
fn starts_without_a_place_are_reported_and_make_the_exit_code_1() {
    // All are answered, a little after the end of the run.
    fn slow(stream: TcpStream) {
        thread::sleep(Duration::from_millis(700));
        whoami(stream);
    }
    let output = load(serve(slow), &["--rate", "100", "-c", "5", "-d", "500ms", "--header", "v1"]);
    let report = json(&output);
    assert_eq!(report["connections"]["ok"], 5, "{report:#}");
    assert_eq!(report["connections"]["not_started"], 45, "{report:#}");
    assert_eq!(output.status.code(), Some(1), "{report:#}");
}

#[test]
fn held_connections_are_open_together() {
    let arguments = ["--hold", "300", "--rate", "3000", "-d", "1s", "--expect", "banner:* OK"];
    let output = load(serve(chatterbox), &arguments);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["connections"]["open_max"], 300);
    assert_eq!(report["connections"]["ok"], 300);
    let output = load(serve(hang_up), &["--hold", "10", "-d", "1s", "--header", "none", "--expect", "any"]);
    let expected = serde_json::json!([{"phase": "hold", "cause": "closed", "count": 10}]);
    assert_eq!(json(&output)["failures"], expected, "a held connection was closed");
}

#[test]
fn several_threads_share_the_work() {
    let output = load(serve(whoami), &["-n", "101", "-c", "8", "--threads", "3", "--header", "v1"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["connections"]["ok"], 101);
}

#[test]
fn histogram_files_are_what_they_are_called() {
    let directory = scratch("histograms");
    let (prefix, log) = (directory.join("run"), directory.join("run.hlog"));
    let arguments = [
        "-n",
        "50",
        "--header",
        "v1",
        "--hgrm",
        prefix.to_str().expect("UTF-8"),
        "--histogram-log",
        log.to_str().expect("UTF-8"),
    ];
    assert_eq!(load(serve(whoami), &arguments).status.code(), Some(0));
    for metric in ["connect", "first-byte", "end"] {
        let text = std::fs::read_to_string(directory.join(format!("run.{metric}.hgrm"))).expect("written");
        assert!(text.contains("1/(1-Percentile)") && text.contains("Total count    =           50"), "{text}");
    }
    let bytes = std::fs::read(&log).expect("written");
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    let tags: Vec<String> = IntervalLogIterator::new(&bytes)
        .filter_map(|entry| match entry.expect("an entry") {
            LogEntry::Interval(interval) => interval.tag().map(|tag| tag.as_str().to_owned()),
            _ => None,
        })
        .collect();
    assert!(tags.len() >= 3 && tags[..3] == ["connect", "first-byte", "end"], "{tags:?}");
    std::fs::remove_dir_all(&directory).expect("its own directory");
}

#[test]
fn a_wrong_command_line_says_what_is_wrong() {
    let target = SocketAddr::from(([127, 0, 0, 1], 1));
    for (arguments, word) in [
        (&["--behaviour", "rude"][..], "half-close"),
        (&["--rate", "0"], "--rate must be above 0"),
        (&["--hold", "10", "--expect", "whoami"], "--expect banner"),
        (&["-c", "1", "--threads", "2"], "cannot share"),
        (&["--source", "fe80::/10"], "IPv4 network"),
        (&["--hold", "1000000"], "RLIMIT_NOFILE"),
    ] {
        let output = load(target, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(word), "{arguments:?}: {error}");
    }
}

#[test]
fn ctrl_c_ends_the_run_with_its_results() {
    let child = Command::new(env!("CARGO_BIN_EXE_vestibule-load"))
        .arg(serve(whoami).to_string())
        .args(["--quiet", "--json", "-", "--header", "v1", "-d", "60s", "--rate", "50"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is our child");
    let output = child.wait_with_output().expect("it ends");
    let report = json(&output);
    assert!(report["connections"]["ok"].as_u64().is_some_and(|ok| ok > 0), "{report:#}");
    assert!(report["starting_seconds"].as_f64().is_some_and(|seconds| seconds < 30.0), "{report:#}");
    assert_eq!((&report["interrupted"], output.status.code()), (&true.into(), Some(0)), "{report:#}");
}

fn scratch(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("the target directory is ours");
    directory
}
