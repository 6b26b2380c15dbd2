//! The page in a real browser, on a relay under load: what it shows is what clients counted.
//!
//! `VESTIBULE_PICTURES=DIRECTORY cargo test --test integration page::` keeps pictures of it, narrow and wide, light and dark.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::support::backend::Backend;
use crate::support::browser::{CHROMIUM, Look, Visit, document, picture};
use crate::support::client::{Client, TRUSTED, loopback};
use crate::support::cluster::{Cluster, Door, backend};
use crate::support::daemon::Daemon;
use crate::support::dovecot::{Service, missing};
use crate::support::http::{stats, try_get};
use crate::support::load::{load, load_beside};
use crate::support::mail::{Imap, Wire};
use crate::support::{PATIENCE, free_port, wait_until};
use crate::{needs, needs_root, skip};

/// A relay to two servers, of which one does not exist.
struct Scene {
    daemon: Daemon,
    listener: SocketAddr,
    http: SocketAddr,
    _server: Backend,
}

impl Scene {
    fn new() -> Scene {
        let (port, http) = (free_port(), free_port());
        let server = Backend::greeting("* OK ready\r\n");
        let nobody = loopback(free_port());
        let text = format!(
            "haproxy_trusted_networks = 127.0.0.0/8\nrings = 2\nhttp_listen = 127.0.0.1:{http}\n\
             service imap-login {{\n  worker = relay\n  backend = imap\n  inet_listener imap_in {{\n    \
             address = 127.0.0.1\n    port = {port}\n    haproxy = yes\n  }}\n}}\n{}",
            backend("imap", "check = connect\n  check_interval = 1s\n  slow_start = 0", &[server.address, nobody])
        );
        let daemon = Daemon::start(&text, &[port]);
        daemon.wait_for_output("is ready");
        let scene = Scene { daemon, listener: loopback(port), http: loopback(http), _server: server };
        let down =
            || try_get(scene.http, "/stats.json", &[]).is_ok() && scene.status(1) == "DOWN" && scene.status(0) == "UP";
        assert!(wait_until(PATIENCE, down), "{}", scene.daemon.output());
        scene
    }

    fn status(&self, server: usize) -> String {
        stats(self.http)["backends"][0]["servers"][server]["status"].as_str().unwrap_or_default().to_owned()
    }

    fn url(&self) -> String {
        format!("http://{}/", self.http)
    }
}

/// An attribute of the element whose tag contains this.
fn attribute<'a>(document: &'a str, tag: &str, name: &str) -> &'a str {
    let at = document.find(tag).unwrap_or_else(|| panic!("no {tag} in:\n{document}"));
    let begin = document[..at].rfind('<').expect("it stands in a tag");
    let end = at + document[at..].find('>').expect("a tag ends");
    let value = document[begin..end].split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
    value.unwrap_or_else(|| panic!("no {name} at {}", &document[begin..end]))
}

#[test]
fn it_shows_what_clients_counted_and_what_is_wrong() {
    needs!(CHROMIUM);
    let scene = Scene::new();
    let report = load(scene.listener, &["-n", "300", "-c", "8", "--expect", "banner"]);
    report.assert_ok();
    let markup = b"<script>alert(1)</script>\r\n";
    for _ in 0..3 {
        assert_eq!(Client::send_to(scene.listener, markup).read_to_end().0, b"");
    }
    let served = report.number("/connections/ok");
    let settled = || {
        let all = stats(scene.http);
        let server = &all["backends"][0]["servers"][0];
        (&server["sessions"], &server["sessions-total"]) == (&0.into(), &served.into())
    };
    assert!(wait_until(PATIENCE, settled), "{:#}", stats(scene.http));
    let shown = document(&scene.url());
    let tile = |name: &str| attribute(&shown, &format!("id=\"tile-{name}\""), "data-value");
    assert_eq!(tile("accepted"), (served + 3).to_string());
    assert_eq!(tile("served"), served.to_string());
    assert_eq!((tile("refused"), tile("sessions"), tile("pending")), ("3", "0", "0"));
    assert_eq!(attribute(&shown, "data-reason=\"absent\"", "data-count"), "3");
    for words in [
        "Server imap/s1 has been down",
        "refused",
        "1 of 2 servers take new sessions",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
    ] {
        assert!(shown.contains(words), "{words} is not in:\n{shown}");
    }
    assert!(!shown.contains("<script>alert"), "what clients send never becomes markup");
}

#[test]
fn it_says_what_an_operator_has_done_and_what_has_failed() {
    needs!(CHROMIUM);
    let scene = Scene::new();
    std::fs::write(scene.daemon.file(), "nonsense\n").expect("it is ours");
    scene.daemon.signal(rustix::process::Signal::HUP);
    scene.daemon.wait_for_output("not reloaded: ");
    let shown = document(&scene.url());
    assert!(shown.contains("The last reload has failed") && shown.contains(" line 1: "), "{shown}");
}

#[test]
fn it_lives_under_load_and_can_be_looked_at() {
    needs!(CHROMIUM);
    let scene = Scene::new();
    let _load = load_beside(scene.listener, &["-d", "120s", "--rate", "200", "--expect", "banner"]);
    assert!(wait_until(PATIENCE, || stats(scene.http)["counters"]["proxied"].as_u64() > Some(0)));
    let shown = document(&scene.url());
    let later = stats(scene.http)["counters"]["accepted"].as_u64().expect("a count");
    let tile: u64 = attribute(&shown, "id=\"tile-accepted\"", "data-value").parse().expect("a number");
    assert!(0 < tile && tile <= later, "{tile} of {later}");
    assert!(shown.contains(">live</span>"), "it goes on by itself:\n{shown}");
    let kept = std::env::var_os("VESTIBULE_PICTURES").map(PathBuf::from);
    let scratch = crate::support::temp_dir();
    for (name, width, dark) in [
        ("narrow-light", 400, false),
        ("narrow-dark", 400, true),
        ("wide-light", 1600, false),
        ("wide-dark", 1600, true),
    ] {
        let file = kept.as_deref().unwrap_or(scratch.path()).join(format!("page-{name}.png"));
        picture(&scene.url(), Look { width, height: 1500, dark }, &file);
        let png = std::fs::read(&file).expect("a picture was taken");
        assert!(png.starts_with(b"\x89PNG") && png.len() > 10_000, "{name}: {} bytes", png.len());
    }
}

#[test]
fn it_is_used_by_keyboard_alone() {
    needs!(CHROMIUM);
    let scene = Scene::new();
    for from in ["127.0.0.2", "127.0.0.3"] {
        let client = Client::connect(from.parse().expect("an address"), scene.listener);
        client.send(b"GET / HTTP/1.1\r\n\r\n").expect("it listens");
        assert_eq!(client.read_to_end().0, b"");
    }
    let mut page = Visit::to(&scene.url(), Look { width: 1200, height: 800, dark: false });
    page.expect("document.querySelectorAll('#refused [data-key]').length === 2");
    // Sections have the focus that is wanted of them, so that a screen reader goes along.
    for (key, section) in ["backends", "listeners", "refusals", "latency", "rings"].into_iter().enumerate() {
        page.press(&(key + 1).to_string());
        page.expect(&format!("document.activeElement.id === '{section}'"));
    }
    // The filter: to it, what is typed there, and out again.
    page.press("/");
    page.expect("document.activeElement.id === 'filter'");
    for key in "127.0.0.3".chars() {
        page.press(&key.to_string());
    }
    page.expect("document.querySelector('#filter').value === '127.0.0.3'");
    page.expect("document.querySelectorAll('#refused [data-key]').length === 1");
    page.expect("!document.querySelector('#refused').innerText.includes('127.0.0.2')");
    page.press("Escape");
    page.expect("document.querySelector('#filter').value === '' && document.activeElement === document.body");
    page.expect("document.querySelectorAll('#refused [data-key]').length === 2");
    // It stops and goes on.
    page.press("p");
    page.expect("document.querySelector('#pause').getAttribute('aria-pressed') === 'true'");
    page.expect("document.querySelector('#live').textContent === 'paused'");
    page.press("p");
    page.expect("document.querySelector('#live').textContent === 'live'");
    // Light, dark, and as the system has it; kept for the next visit.
    let theme = |page: &mut Visit| {
        page.evaluate("document.documentElement.dataset.theme + ' ' + getComputedStyle(document.body).backgroundColor")
    };
    let automatic = theme(&mut page);
    page.press("t");
    let light = theme(&mut page);
    page.press("t");
    let dark = theme(&mut page);
    assert_eq!((&light, light != dark), (&automatic, true), "{light} {dark}");
    assert_eq!(page.evaluate("localStorage.theme"), "dark");
    page.press("t");
    assert_eq!(theme(&mut page), automatic);
    // Whoever goes from one to the next comes to everything that can be used, and sees where he is.
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)");
    let mut visited = Vec::new();
    for _ in 0..60 {
        page.press("Tab");
        let at = page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e); \
             return [e.id || e.getAttribute('href') || e.tagName, s.outlineStyle !== 'none' && s.outlineWidth !== '0px']; })()",
        );
        visited.push((at[0].as_str().unwrap_or_default().to_owned(), at[1] == true));
    }
    for wanted in ["#backends", "#rings", "pause", "theme", "reasons", "filter", "/metrics"] {
        let found = visited.iter().find(|(id, _)| id == wanted);
        assert!(found.is_some_and(|(_, outlined)| *outlined), "{wanted}: {found:?} among {visited:?}");
    }
}

#[test]
fn it_shows_a_whole_cluster_as_users_of_it_are_served() {
    needs!(CHROMIUM, "haproxy", "dovecot", "postfix", "smtp-sink");
    needs_root!();
    if let Some(service) = missing() {
        skip!(format!("Dovecot's {service}"));
    }
    const USERS: usize = 4;
    let cluster = Cluster::with_vestibule();
    let user = |number: usize| {
        let wire = Wire::connect(TRUSTED, cluster.address(Door::Clear(Service::Imap)));
        Imap::new(wire).login(&format!("u{number}"))
    };
    let users: Vec<Imap> = (1..=USERS).map(user).collect();
    let name = Door::Clear(Service::Imap).name();
    let all = stats(cluster.http);
    let imap = all["backends"].as_array().into_iter().flatten().find(|one| one["backend"] == name);
    let imap = imap.unwrap_or_else(|| panic!("no {name} in {all:#}"));
    let sessions = imap["servers"].as_array().into_iter().flatten().map(|one| one["sessions"].as_u64());
    assert_eq!(sessions.flatten().sum::<u64>(), USERS as u64, "{imap:#}");
    let mut page = Visit::to(&format!("http://{}/", cluster.http), Look { width: 1600, height: 1200, dark: false });
    page.expect(&format!("document.querySelector('#tile-sessions')?.dataset.value === '{USERS}'"));
    page.expect(&format!("document.querySelector('#backends').innerText.includes('{name}')"));
    page.expect("document.querySelector('#ready').textContent.toLowerCase().includes('ready')");
    assert!(page.evaluate("document.body.innerText.includes('has been down')") == false, "all servers are up");
    users.into_iter().for_each(Imap::logout);
    page.expect("document.querySelector('#tile-sessions').dataset.value === '0'");
    drop(page);
    cluster.finish();
}
