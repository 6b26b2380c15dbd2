//! HTTP: metrics, health and what the page reads; and that no client of it holds another up.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vestibule::metrics::families;

use crate::needs;
use crate::support::client::{Client, address, loopback};
use crate::support::daemon::{Daemon, haproxy_configuration, vestibule_run};
use crate::support::http::{ask, get, sample, stats, try_get};
use crate::support::{PATIENCE, free_port, header, temp_dir, wait_until};

/// Connections of HTTP at a time.
const SEATS: usize = 64;
/// An address of nobody's (RFC 5737).
const NOT_HERE: &str = "192.0.2.1";

/// A daemon with one haproxy listener that answers who the client is, and HTTP.
struct Scene {
    daemon: Daemon,
    listener: SocketAddr,
    http: SocketAddr,
}

impl Scene {
    fn new(globals: &str) -> Scene {
        let (port, http) = (free_port(), free_port());
        let globals = format!("{globals}\nhttp_listen = 127.0.0.1:{http}");
        let daemon = Daemon::start(&haproxy_configuration(port, &globals, ""), &[port]);
        daemon.wait_for_output("is ready");
        let scene = Scene { daemon, listener: loopback(port), http: loopback(http) };
        scene.await_http(scene.http);
        scene
    }

    fn await_http(&self, address: SocketAddr) {
        assert!(wait_until(PATIENCE, || try_get(address, "/healthz", &[]).is_ok()), "{}", self.daemon.output());
    }

    /// So many clients that are served.
    fn serve(&self, count: usize, header: &[u8]) {
        for _ in 0..count {
            let (said, ..) = Client::send_to(self.listener, header).read_to_end();
            assert!(!said.is_empty(), "it is answered");
        }
    }

    fn metrics(&self) -> String {
        get(self.http, "/metrics", &[]).text()
    }

    /// Waits until the samples that begin like this sum up to a value.
    fn await_sample(&self, beginning: &str, value: f64) {
        let counted = || sample(&self.metrics(), beginning);
        assert!(wait_until(PATIENCE, || counted() == value), "{beginning}: {} is not {value}", counted());
    }
}

fn v2() -> Vec<u8> {
    header::v2(address("198.51.100.7:5000"), address("192.0.2.1:143"), &[])
}

fn strangers(scene: &Scene, count: usize) {
    let stranger: IpAddr = address("127.0.0.9:0").ip();
    for _ in 0..count {
        let client = Client::connect(stranger, scene.listener);
        let _ = client.send(&header::local());
        let (said, ..) = client.read_to_end();
        assert_eq!(said, b"");
    }
}

#[test]
fn what_is_counted_is_what_clients_did_also_over_a_reload() {
    let scene = Scene::new("");
    let of = "{service=\"imap-login\",listener=\"imap_haproxy\"";
    scene.serve(5, &v2());
    scene.serve(3, b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n");
    scene.serve(2, &header::local());
    strangers(&scene, 4);
    for (family, labels, count) in [
        ("headers_total", ",version=\"v2\",command=\"proxy\"}", 5.0),
        ("headers_total", ",version=\"v1\",command=\"proxy\"}", 3.0),
        ("headers_total", ",version=\"v2\",command=\"local\"}", 2.0),
        ("refused_total", ",reason=\"untrusted\"}", 4.0),
        ("diagnosed_total", ",diagnosis=\"header-from-untrusted\"}", 4.0),
        ("accepted_total", "}", 14.0),
        ("pending", "}", 0.0),
    ] {
        scene.await_sample(&format!("vestibule_{family}{of}{labels} "), count);
    }
    scene.daemon.signal(Signal::HUP);
    scene.daemon.wait_for_output("reloaded: accepting on");
    scene.serve(1, &v2());
    scene.await_sample(&format!("vestibule_headers_total{of},version=\"v2\",command=\"proxy\"}} "), 6.0);
    scene.await_sample("vestibule_ring_accepted_total{", 15.0);
    scene.await_sample("vestibule_header_wait_seconds_count ", 11.0);
}

#[test]
fn who_was_refused_is_told_with_what_he_sent() {
    let scene = Scene::new("");
    let markup = b"<script>alert(1)</script>\r\n";
    let (said, ..) = Client::send_to(scene.listener, markup).read_to_end();
    assert_eq!(said, b"");
    assert!(wait_until(PATIENCE, || stats(scene.http)["refusals"].as_array().is_some_and(|all| !all.is_empty())));
    let all = stats(scene.http);
    let refusal = &all["refusals"][0];
    assert_eq!((&refusal["source"], &refusal["reason"]), (&"127.0.0.1".into(), &"absent".into()), "{refusal}");
    assert_eq!(refusal["sent"], "<script>alert(1)</script>\\x0d\\x0a");
    assert!(refusal["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{refusal}");
    assert_eq!(all["listeners"][0]["reasons"]["absent"], 1);
}

#[test]
fn promtool_finds_nothing_wrong_with_a_scrape() {
    needs!("promtool");
    let scene = Scene::new("");
    scene.serve(3, &v2());
    strangers(&scene, 1);
    let mut check = Command::new("promtool");
    let mut check =
        check.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    check.stdin.take().expect("a pipe").write_all(scene.metrics().as_bytes()).expect("it reads");
    let done = check.wait_with_output().expect("it ends");
    assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_format_is_the_one_that_is_asked_for_and_packed_if_that_is_asked_for_too() {
    let scene = Scene::new("");
    let plain = get(scene.http, "/metrics", &[]);
    assert!(plain.header.contains("content-type: text/plain; version=0.0.4"), "{}", plain.header);
    let open = get(scene.http, "/metrics", &["Accept: application/openmetrics-text;version=1.0.0"]);
    assert!(open.header.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", open.header);
    assert!(open.text().ends_with("\n# EOF\n"));
    let packed = get(scene.http, "/metrics", &["Accept-Encoding: gzip"]);
    assert!(packed.header.contains("content-encoding: gzip"), "{}", packed.header);
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut unpacked).expect("it is gzip");
    assert!(packed.body.len() * 3 < unpacked.len() && unpacked.contains("# TYPE vestibule_accepted_total counter\n"));
}

#[test]
fn every_family_is_in_a_scrape_and_in_the_document_and_nothing_else() {
    let scene = Scene::new("");
    let text = scene.metrics();
    let announced: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let declared: Vec<String> = families::ALL.iter().map(|family| family.sample_name()).collect();
    assert_eq!(announced, declared);
    let document = document();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    if std::env::var_os("VESTIBULE_WRITE_DOCS").is_some() {
        std::fs::write(file, &document).expect("it can be written");
    }
    let present = std::fs::read_to_string(file).expect("it is there");
    assert_eq!(present, document, "run this test with VESTIBULE_WRITE_DOCS=1 to write docs/metrics.md anew");
}

/// docs/metrics.md, as the declarations have it.
fn document() -> String {
    let mut rows = String::new();
    for family in families::ALL {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = format!("{:?}", family.kind).to_lowercase();
        rows += &format!("| `{}` | {kind} | {} | {} |\n", family.sample_name(), labels.join(" "), family.help());
    }
    format!(
        "# Metrics\n\nWhat `http://ADDRESS/metrics` holds where [`http_listen`](configuration.md) is set: all of it, declared in \
         `src/metrics/families.rs`. A\ntest holds this page against the declarations and against a scrape. No label is an \
         address: who is refused stands on the\npage and in `vestibule ctl refused`. Series of reasons, diagnoses and ends are \
         there from the first event on. Counters go\non over reloads and takeovers; those of the process itself begin again. How to scrape it: \
         [operations](operations.md#metrics-health-and-the-page).\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n{rows}"
    )
}

#[test]
fn other_paths_and_methods_are_told_what_there_is() {
    let scene = Scene::new("");
    let unknown = get(scene.http, "/nowhere", &[]);
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("/metrics /healthz /readyz"), "{}", unknown.text());
    let post = ask(
        scene.http,
        b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
    );
    assert_eq!(post.map(|answer| answer.status).ok(), Some(405));
    let head = ask(scene.http, b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("an answer");
    assert_eq!((head.status, head.body.len()), (200, 0));
    let page = get(scene.http, "/", &[]);
    assert!(page.header.contains("content-security-policy: default-src 'none'; script-src 'nonce-"), "{}", page.header);
    assert!(page.text().starts_with("<!doctype html>"));
}

#[test]
fn who_is_mute_slow_or_talks_nonsense_holds_nobody_up() {
    let scene = Scene::new("");
    let connect = || {
        let stream = TcpStream::connect(scene.http).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        stream
    };
    let garbage = ask(scene.http, b"\x16\x03\x01 GET\r\n\r\n").expect("an answer");
    assert_eq!(garbage.status, 400);
    let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 64 << 10]].concat();
    assert!(ask(scene.http, &long).map_or(true, |answer| answer.status == 431 || answer.status == 400));
    // One asks for ever and reads nothing, one begins and does not go on, others say nothing.
    let mut greedy = connect();
    greedy.set_nonblocking(true).expect("it is a socket");
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(64);
    while greedy.write(&request).is_ok() {}
    let mut begun = connect();
    begun.write_all(b"GET / HT").expect("the kernel takes the bytes");
    let mut mute: Vec<TcpStream> = (0..SEATS - 3).map(|_| connect()).collect();
    assert_eq!(get(scene.http, "/readyz", &[]).status, 200, "one seat is free");
    // Every seat is taken: whoever comes now is closed at once, and the daemon's own work goes on.
    mute.extend([connect(), connect()]);
    assert!(wait_until(PATIENCE, || try_get(scene.http, "/readyz", &[]).is_err()), "there are only so many seats");
    scene.serve(3, &v2());
    // Their time passes, and with it they go.
    let mut room = [0; 64];
    assert!(matches!(begun.read(&mut room), Ok(0) | Err(_)) || room.starts_with(b"HTTP/1.1 408"), "{room:?}");
    assert!(wait_until(PATIENCE, || try_get(scene.http, "/readyz", &[]).is_ok_and(|answer| answer.status == 200)));
    assert!(sample(&scene.metrics(), "vestibule_http_refused_total") >= 1.0);
}

#[test]
fn a_drain_is_announced_before_listeners_close() {
    let scene = Scene::new("drain_delay = 30 mins");
    let ready = get(scene.http, "/readyz", &[]);
    assert_eq!((ready.status, ready.text().as_str()), (200, "ready\n"));
    scene.daemon.signal(Signal::TERM);
    scene.daemon.wait_for_output("not ready any more; draining in 1800 s");
    let unready = get(scene.http, "/readyz", &[]);
    assert_eq!((unready.status, unready.text().as_str()), (503, "not ready: it is about to drain\n"));
    assert_eq!(get(scene.http, "/healthz", &[]).status, 200, "it is alive all the same");
    assert_eq!(sample(&scene.metrics(), "vestibule_ready "), 0.0);
    scene.serve(2, &v2());
}

#[test]
fn a_drain_that_is_taken_back_and_asked_for_anew_has_its_whole_delay_again() {
    let directory = temp_dir();
    let socket = directory.path().join("control.sock");
    let scene = Scene::new(&format!("drain_delay = 4 secs\ncontrol_socket = {}", socket.display()));
    let ctl = |verb: &str| {
        let done = vestibule_run(&["ctl", verb, "--socket", &socket.to_string_lossy()], b"");
        assert_eq!(done.code, Some(0), "{done:?}");
    };
    ctl("drain");
    std::thread::sleep(Duration::from_secs(2));
    ctl("resume");
    let again = Instant::now();
    ctl("drain");
    scene.daemon.wait_for_output("draining for at most");
    // The first delay would have been over two seconds before.
    assert!(again.elapsed() >= Duration::from_secs(4), "it drained after {:?}", again.elapsed());
}

#[test]
fn a_name_that_somebody_else_lets_point_here_is_refused() {
    let scene = Scene::new("http_hosts = mail1.example.com");
    let asked = |path: &str, host: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        ask(scene.http, request.as_bytes()).expect("an answer")
    };
    for path in ["/", "/metrics", "/stats.json", "/history.json"] {
        let refused = asked(path, "Host: rebound.example:9900\r\n");
        assert_eq!(refused.status, 421, "{path}");
        assert!(refused.text().contains("http_hosts"), "{}", refused.text());
        for host in ["Host: localhost\r\n", "Host: 127.0.0.1:9900\r\n", "Host: MAIL1.example.com:9900\r\n"] {
            assert_eq!(asked(path, host).status, 200, "{path} {host}");
        }
    }
    assert_eq!(asked("/readyz", "Host: whatever\r\n").status, 200, "checks ask as they like");
    let old = ask(scene.http, b"GET /metrics HTTP/1.0\r\n\r\n").expect("an answer");
    assert_eq!(old.status, 200, "one of no browser");
}

/// Shuts down the socket on which a process listens at this port, as nobody but a test would.
fn break_listener(pid: u32, port: u16) -> usize {
    let process = rustix::process::Pid::from_raw(pid as i32).expect("a process");
    let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).expect("it runs");
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten();
    let numbers: Vec<i32> = files.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect();
    let mut broken = 0;
    for number in numbers {
        let flags = rustix::process::PidfdGetfdFlags::empty();
        let Ok(copy) = rustix::process::pidfd_getfd(&process, number, flags) else { continue };
        let socket = socket2::Socket::from(copy);
        let listens = rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false);
        let here = socket.local_addr().ok().and_then(|address| address.as_socket());
        if listens && here.is_some_and(|address| address.port() == port) {
            socket.shutdown(std::net::Shutdown::Both).expect("it listens");
            broken += 1;
        }
    }
    broken
}

#[test]
fn a_listener_that_had_to_be_given_up_is_not_ready() {
    crate::needs_root!();
    let scene = Scene::new("rings = 2");
    assert_eq!(get(scene.http, "/readyz", &[]).status, 200);
    assert_eq!(break_listener(scene.daemon.id(), scene.listener.port()), 2, "one for each ring");
    scene.daemon.wait_for_output("is given up");
    let unready = get(scene.http, "/readyz", &[]);
    assert_eq!(unready.status, 503);
    assert!(unready.text().contains("listener imap-login/imap_haproxy has failed"), "{}", unready.text());
    assert_eq!(sample(&scene.metrics(), "vestibule_ready "), 0.0);
}

#[test]
fn after_its_delay_the_drain_comes() {
    let scene = Scene::new("drain_delay = 1 secs");
    let output = scene.daemon.stop();
    let [announced, draining] = ["not ready any more", "draining for at most"].map(|words| output.find(words));
    assert!(announced.is_some() && announced < draining, "{output}");
}

#[test]
fn a_reload_moves_it_and_a_bad_address_changes_nothing() {
    let scene = Scene::new("");
    let configured = std::fs::read_to_string(scene.daemon.file()).expect("it is ours");
    let old = scene.http.to_string();
    let reload = |address: &str, words: &str| {
        std::fs::write(scene.daemon.file(), configured.replace(&old, address)).expect("it is ours");
        scene.daemon.signal(Signal::HUP);
        scene.daemon.wait_for_output(words);
    };
    let next = loopback(free_port());
    reload(&next.to_string(), "reloaded: accepting on");
    scene.await_http(next);
    assert!(wait_until(PATIENCE, || TcpStream::connect(scene.http).is_err()), "the old address is left");
    reload(&format!("{NOT_HERE}:9900"), &format!("http_listen = {NOT_HERE}:9900: "));
    scene.daemon.wait_for_output("not reloaded: the configuration before stays in force");
    assert_eq!(get(next, "/readyz", &[]).status, 200);
    // Off, and on again.
    std::fs::write(scene.daemon.file(), configured.replace(&format!("http_listen = {old}"), "")).expect("it is ours");
    scene.daemon.signal(Signal::HUP);
    assert!(wait_until(PATIENCE, || TcpStream::connect(next).is_err()), "{}", scene.daemon.output());
    std::fs::write(scene.daemon.file(), &configured).expect("it is ours");
    scene.daemon.signal(Signal::HUP);
    scene.await_http(scene.http);
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_before_anything_is_served() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let taken = holder.local_addr().expect("it is bound").to_string();
    for (address, words) in
        [(taken.as_str(), "Address already in use"), ("192.0.2.1:9900", "Cannot assign requested address")]
    {
        let directory = temp_dir();
        let file = directory.path().join("vestibule.conf");
        let text = haproxy_configuration(free_port(), &format!("http_listen = {address}"), "");
        std::fs::write(&file, text).expect("it is ours");
        let ended = vestibule_run(&["serve", "-c", &file.to_string_lossy()], b"");
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(&format!("http_listen = {address}: {words}")), "{ended:?}");
        assert!(!ended.stdout.contains("is ready"), "{ended:?}");
    }
}

#[test]
fn after_a_takeover_the_next_process_answers() {
    let directory = temp_dir();
    let socket = directory.path().join("takeover.sock");
    let scene = Scene::new(&format!("takeover_socket = {}", socket.display()));
    let configured = std::fs::read_to_string(scene.daemon.file()).expect("it is ours");
    let pid = || {
        try_get(scene.http, "/stats.json", &[]).ok().and_then(|answer| {
            let all: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
            all["pid"].as_u64()
        })
    };
    let before = pid().expect("the first process answers");
    let next = Daemon::taking_over(&socket, &configured);
    next.wait_for_output("is ready");
    assert!(wait_until(PATIENCE, || pid().is_some_and(|now| now != before)), "{}", next.output());
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(get(scene.http, "/readyz", &[]).text(), "ready\n");
}
