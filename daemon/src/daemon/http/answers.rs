//! What each path is answered with.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST,
    HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use rustix::rand::{GetRandomFlags, getrandom};
use vestibule::metrics::{Format, Scrape, families};

use super::facts::Facts;
use super::history::{History, STEP};
use super::view;
use crate::daemon::lock;
use crate::daemon::tier::Glance;
use crate::daemon::watcher::Watcher;

/// The paths that are known, and one for all others.
const PATHS: [&str; 7] = ["/", "/metrics", "/healthz", "/readyz", "/stats.json", "/history.json", "other"];
/// How long the rings may take to show that they turn.
const PULSE_PATIENCE: Duration = Duration::from_secs(2);
/// Below this many bytes compression is not worth its header.
const COMPRESSED_MIN: usize = 1024;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// The page, in three pieces that are put together when it is asked for: what the browser may run bears a nonce.
const PAGE: [&str; 3] = [include_str!("page/page.html"), include_str!("page/page.css"), include_str!("page/page.js")];

/// Whoever answers.
pub struct Answers {
    watcher: Arc<Watcher>,
    facts: Arc<Facts>,
    history: Mutex<History>,
    /// By path.
    requests: [AtomicU64; PATHS.len()],
    refused: AtomicU64,
}

/// An answer before it is one of HTTP.
struct Plain {
    status: StatusCode,
    kind: &'static str,
    policy: String,
    body: String,
}

impl Plain {
    fn new(status: StatusCode, kind: &'static str, body: String) -> Plain {
        Plain { status, kind, policy: "default-src 'none'; frame-ancestors 'none'".to_owned(), body }
    }

    fn ok(kind: &'static str, body: String) -> Plain {
        Plain::new(StatusCode::OK, kind, body)
    }
}

impl Answers {
    /// From a look at a tier.
    pub fn new(watcher: Arc<Watcher>, facts: Arc<Facts>) -> Answers {
        Answers { watcher, facts, history: Mutex::default(), requests: Default::default(), refused: AtomicU64::new(0) }
    }

    /// Keeps the history, for ever.
    pub async fn remember(&self) {
        loop {
            let snapshot = self.watcher.glance().snapshot();
            lock(&self.history).keep(&snapshot, now());
            tokio::time::sleep(STEP).await;
        }
    }

    /// A connection found no seat.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The answer to a request, whose body is not read.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let known = PATHS.iter().position(|known| *known == path).unwrap_or(PATHS.len() - 1);
        self.requests[known].fetch_add(1, Ordering::Relaxed);
        let headers = request.headers();
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let text = "only GET and HEAD are answered: what is to be done is said on control_socket\n".to_owned();
            let mut response = finish(Plain::new(StatusCode::METHOD_NOT_ALLOWED, TEXT, text), headers);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        // Those two say nothing that anybody could want to know.
        let is_health = ["/healthz", "/readyz"].contains(&path);
        if !is_health && !headers.get_all(HOST).iter().all(|host| may_ask_for(host, &self.watcher.glance().http_hosts))
        {
            let text = "no name of this daemon: ask by its address, or enter the name in http_hosts\n".to_owned();
            return finish(Plain::new(StatusCode::MISDIRECTED_REQUEST, TEXT, text), headers);
        }
        let plain = match PATHS[known] {
            "/" => page(),
            "/metrics" => self.metrics(headers),
            "/healthz" => self.health().await,
            "/readyz" => self.readiness(request.uri().query()),
            "/stats.json" => Plain::ok(JSON, view::view(&self.watcher.glance(), &self.facts).to_string()),
            "/history.json" => Plain::ok(JSON, lock(&self.history).value().to_string()),
            _ => {
                Plain::new(StatusCode::NOT_FOUND, TEXT, format!("there are: {}\n", PATHS[..PATHS.len() - 1].join(" ")))
            }
        };
        finish(plain, headers)
    }

    fn metrics(&self, headers: &HeaderMap) -> Plain {
        let format = Format::accepted(text_of(headers, &ACCEPT));
        Plain::ok(format.content_type(), format.write(&self.scrape()))
    }

    fn scrape(&self) -> Scrape {
        let glance = self.watcher.glance();
        let mut scrape = Scrape::default();
        glance.snapshot().enter(&mut scrape);
        self.facts.enter(&mut scrape);
        scrape.gauge(&families::READY, [], glance.ready.is_ok());
        scrape.gauge(&families::RELOAD_FAILED, [], glance.in_force.failed.is_some());
        scrape.gauge(&families::CONFIGURATION_SINCE, [], glance.in_force.since.elapsed().as_secs_f64());
        for (path, count) in PATHS.iter().zip(&self.requests) {
            scrape.count(&families::HTTP_REQUESTS, [path], count.load(Ordering::Relaxed));
        }
        scrape.count(&families::HTTP_REFUSED, [], self.refused.load(Ordering::Relaxed));
        scrape
    }

    /// Whether the rings turn. They may end once the process drains, and when another one has taken over.
    async fn health(&self) -> Plain {
        let Glance { pulse, .. } = self.watcher.glance();
        let Some(pulse) = pulse else { return Plain::ok(TEXT, "alive\n".to_owned()) };
        match tokio::task::spawn_blocking(move || pulse.beats(PULSE_PATIENCE)).await {
            Ok(false) => Plain::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, "a ring does not turn\n".to_owned()),
            Ok(true) | Err(_) => Plain::ok(TEXT, "alive\n".to_owned()),
        }
    }

    /// Of the daemon, or with `listener=NAME` of a listener of it.
    fn readiness(&self, query: Option<&str>) -> Plain {
        let glance = self.watcher.glance();
        let listener = query.and_then(|query| query.strip_prefix("listener="));
        let ready = glance.ready.clone().and_then(|()| listener.map_or(Ok(()), |named| glance.serves(named)));
        match ready {
            Ok(()) => Plain::ok(TEXT, "ready\n".to_owned()),
            Err(reason) => Plain::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {reason}\n")),
        }
    }
}

/// Whether a browser that asks for this host may be answered: by an address, which nobody else can give a name of their own,
/// by `localhost`, or by a name that was configured.
fn may_ask_for(host: &HeaderValue, names: &[String]) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = bare.trim_end_matches('.');
    let is_known = |known: &str| name.eq_ignore_ascii_case(known);
    bare.parse::<IpAddr>().is_ok() || is_known("localhost") || names.iter().any(|known| is_known(known))
}

/// The time, in seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// One document that needs nothing from elsewhere and may ask only this server. Only what bears the nonce is run.
fn page() -> Plain {
    let nonce = nonce();
    let [html, css, script] = PAGE;
    let style = format!("<style nonce=\"{nonce}\">\n{css}</style>");
    let script = format!("<script nonce=\"{nonce}\">\n{script}</script>");
    let body = html.replace("<!-- style -->", &style).replace("<!-- script -->", &script);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Plain { policy, ..Plain::ok(HTML, body) }
}

/// Hard to guess, and never the same twice.
fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    // The kernel has enough from the moment on that programs run; without it the page shows itself unstyled and dead.
    let filled = getrandom(&mut bytes, GetRandomFlags::empty()).unwrap_or_default();
    bytes[..filled].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

fn finish(plain: Plain, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let Plain { status, kind, policy, body } = plain;
    let packed = (body.len() >= COMPRESSED_MIN && takes_gzip(headers)).then(|| pack(&body)).flatten();
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    let of = response.headers_mut();
    of.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    of.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    of.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    of.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    of.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    of.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    of.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        of.insert(CONTENT_SECURITY_POLICY, policy);
    }
    if packed.is_some() {
        of.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    *response.body_mut() = Full::new(Bytes::from(packed.unwrap_or_else(|| body.into_bytes())));
    response
}

fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    text_of(headers, &ACCEPT_ENCODING).split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        named
            && parts
                .all(|part| part.strip_prefix("q=").is_none_or(|quality| quality.parse().is_ok_and(|q: f32| q > 0.0)))
    })
}

fn pack(body: &str) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body.as_bytes()).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use vestibule::conn::Ending;

    use super::*;

    fn with(encoding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(encoding))])
    }

    #[test]
    fn compression_is_for_those_who_ask_for_it() {
        assert!(takes_gzip(&with("deflate, gzip;q=0.8")) && takes_gzip(&with("GZIP")));
        assert!(!takes_gzip(&with("gzip;q=0")) && !takes_gzip(&with("br")) && !takes_gzip(&HeaderMap::new()));
        let long = "x".repeat(COMPRESSED_MIN);
        let response = finish(Plain::ok(TEXT, long), &with("gzip"));
        assert_eq!(response.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes), Some(&b"gzip"[..]));
        assert!(finish(Plain::ok(TEXT, "short".into()), &with("gzip")).headers().get(CONTENT_ENCODING).is_none());
    }

    #[test]
    fn only_names_that_are_ours_are_answered() {
        let names = ["mail1.example.com".to_owned()];
        for (host, answered) in [
            ("127.0.0.1:9900", true),
            ("192.0.2.7", true),
            ("[::1]:9900", true),
            ("[2001:db8::1]", true),
            ("localhost", true),
            ("LocalHost:9900", true),
            ("mail1.example.com:9900", true),
            ("MAIL1.example.com.", true),
            ("evil.example", false),
            ("evil.example:9900", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:80", false),
            ("[evil.example]:80", false),
            ("", false),
        ] {
            assert_eq!(may_ask_for(&HeaderValue::from_static(host), &names), answered, "{host}");
        }
    }

    #[test]
    fn the_page_has_words_for_every_reason() {
        let missing: Vec<&str> =
            Ending::codes().into_iter().filter(|code| !PAGE[2].contains(&format!("    '{code}': "))).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn the_page_runs_only_what_bears_its_nonce_and_asks_nobody_else() {
        let (one, other) = (page(), page());
        assert_ne!(one.policy, other.policy, "a nonce is used once");
        let nonce = one.policy.split('\'').find_map(|part| part.strip_prefix("nonce-")).expect("a nonce");
        assert_eq!((nonce.len(), one.body.matches(nonce).count()), (32, 2), "of the style and the script");
        assert_eq!(one.body.matches("<script").count(), 1);
        let body = one.body.to_lowercase();
        let foreign = ["src=", "@import", "url(http", "innerhtml", "eval(", "style=\"", " onclick=", " onload="];
        assert!(
            foreign.iter().all(|word| !body.contains(word)),
            "{:?}",
            foreign.iter().find(|word| body.contains(**word))
        );
        let links = body.match_indices("http://").chain(body.match_indices("https://"));
        assert!(links.into_iter().all(|(at, _)| body[at..].starts_with("http://www.w3.org/2000/svg")));
    }
}
