//! `handshake --threads`: what a storm of handshakes with expensive signatures costs, and how long those wait beside it who
//! need none; by the rings alone and by threads.

use std::fmt;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::{self, Bench};
use crate::handshake::{Certificate, PATIENCE, WARM_UP, handshakes};
use crate::machine::Machine;
use crate::measure::used_by;
use crate::report::{FORMAT, Page, number};
use crate::rounds::{SEED, Subject, rounds};
use crate::server::{Recipe, Server, free_address, on_cpus};
use crate::stats::Spread;
use crate::systems::write;

/// A plain client comes so long after the one before.
const EVERY: Duration = Duration::from_millis(3);

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Of the other of the two.
    pub threads: u32,
    /// Of each.
    pub rounds: u16,
    /// In a round.
    pub handshakes: u32,
    /// Clients that shake hands at any time.
    pub clients: u32,
}

/// A daemon with so many threads.
#[derive(Debug, Serialize)]
struct Crew {
    threads: u32,
    rounds: Vec<Round>,
    failure: Option<String>,
}

/// What a storm cost.
#[derive(Clone, Debug, Serialize)]
struct Round {
    /// CPU time of the server a handshake, microseconds.
    cpu_us: f64,
    /// Handshakes a second.
    rate: f64,
    /// Plain clients meanwhile.
    plain: usize,
    /// From the connect of a plain client to the end of its connection, milliseconds.
    median_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
}

#[derive(Debug, Serialize)]
struct Results {
    tool: &'static str,
    format: u32,
    machine: Machine,
    order_seed: u64,
    clients: u32,
    measured: [Crew; 2],
}

impl fmt::Display for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.threads {
            0 => f.write_str("the ring alone"),
            threads => write!(f, "{threads} threads"),
        }
    }
}

impl Subject for Crew {
    fn failure(&mut self) -> &mut Option<String> {
        &mut self.failure
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Round { cpu_us, rate, plain, median_ms, p99_ms, longest_ms } = self;
        write!(
            f,
            "{cpu_us:6.0} us CPU, {rate:.0} a second; {plain} plain clients waited {median_ms:.1} ms, 99 % {p99_ms:.1}, the \
             longest {longest_ms:.1}"
        )
    }
}

/// Measures and writes the report.
pub fn run(args: &bench::Args, size: Size) -> Result<(), String> {
    let bench = Bench::new(args)?;
    let certificate = Certificate::of(&rsa_key()?)?;
    let crew = |threads| Crew { threads, rounds: Vec::new(), failure: None };
    let mut measured = [crew(0), crew(size.threads)];
    rounds(
        "round",
        usize::from(size.rounds),
        &mut measured,
        |line| bench.say(line),
        |crew| {
            let round = measure(&bench, &certificate, crew.threads, size)?;
            let words = round.to_string();
            crew.rounds.push(round);
            Ok(words)
        },
    );
    let machine = Machine::here(&bench.tools);
    let tool = "vestibule-profile handshake --threads";
    let results = Results { tool, format: FORMAT, machine, order_seed: SEED, clients: size.clients, measured };
    results.measured.iter().for_each(|crew| println!("{crew}: {}", summary(crew)));
    let files = page(&results).write(&Bench::prefix(args, "handshake-threads"), &results)?;
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

/// A private key of RSA with 4096 bits.
fn rsa_key() -> Result<String, String> {
    let mut openssl = Command::new("openssl");
    openssl.args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"]);
    let made = openssl.output().map_err(|error| format!("openssl: {error}"))?;
    match made.status.success() {
        true => String::from_utf8(made.stdout).map_err(|error| error.to_string()),
        false => Err(format!("openssl: {}", String::from_utf8_lossy(&made.stderr))),
    }
}

fn measure(bench: &Bench, certificate: &Certificate, threads: u32, size: Size) -> Result<Round, String> {
    let (recipe, plain) = recipe(bench, certificate, threads)?;
    let server = Server::start(recipe, bench.server_cpu)?;
    let (address, client) = (server.address, certificate.client()?);
    let load = |count| on_cpus(&[bench.client_cpu], || handshakes(address, &client, size.clients, count))?;
    load(WARM_UP)?;
    let over = AtomicBool::new(false);
    let (used, mut waits) = used_by(bench, server.pid(), || {
        thread::scope(|scope| {
            let asking = on_cpus(&[bench.client_cpu], || scope.spawn(|| waits_until(&over, plain)))?;
            let stormed = load(size.handshakes);
            over.store(true, Ordering::Relaxed);
            let waits = asking.join().expect("a client does not panic")?;
            stormed.map(|()| waits)
        })
    })?;
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    Ok(Round {
        cpu_us: used.cpu().as_secs_f64() * 1e6 / f64::from(size.handshakes),
        rate: f64::from(size.handshakes) / used.time.as_secs_f64(),
        plain: waits.len(),
        median_ms: at(0.5),
        p99_ms: at(0.99),
        longest_ms: at(1.0),
    })
}

/// How long each of the plain clients waits that come one after another until it is `over`; at least one.
fn waits_until(over: &AtomicBool, address: SocketAddr) -> Result<Vec<Duration>, String> {
    let mut waits = Vec::new();
    loop {
        let begun = Instant::now();
        let failed = |error: std::io::Error| format!("a plain client of {address}: {error}");
        let mut socket = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        socket.read_to_end(&mut Vec::new()).map_err(failed)?;
        waits.push(begun.elapsed());
        if over.load(Ordering::Relaxed) {
            return Ok(waits);
        }
        thread::sleep(EVERY);
    }
}

/// The daemon, and where its plain clients connect.
fn recipe(bench: &Bench, certificate: &Certificate, threads: u32) -> Result<(Recipe, SocketAddr), String> {
    let [secured, plain] = [free_address(), free_address()];
    let listener = |name, address: SocketAddr, ssl| {
        let (ip, port) = (address.ip(), address.port());
        format!("  inet_listener {name} {{\n    address = {ip}\n    port = {port}\n    ssl = {ssl}\n  }}\n")
    };
    let text = format!(
        "ssl_cert = <{}\nssl_key = <{}\nssl_handshake_threads = {threads}\nservice bench {{\n  worker = discard\n{}{}}}\n",
        certificate.certificate.display(),
        certificate.key.display(),
        listener("tls", secured, "yes"),
        listener("plain", plain, "no"),
    );
    let file = write(&certificate.directory, "storm.conf", &text)?;
    let mut command = Command::new(&bench.tools.vestibule);
    command.arg("serve").arg("-c").arg(file);
    let name = format!("Vestibule with {threads} threads");
    Ok((Recipe { name, command, address: secured, directory: None }, plain))
}

fn summary(crew: &Crew) -> String {
    let of = |value: fn(&Round) -> f64| {
        Spread::over(&crew.rounds, value).map_or_else(
            || "-".to_owned(),
            |spread| format!("{:.1} ({:.1}-{:.1})", spread.median, spread.min, spread.max),
        )
    };
    format!(
        "{} us CPU a handshake, {} a second; the longest wait of a plain client {} ms, median {}, 99 % {}",
        of(|round| round.cpu_us),
        of(|round| round.rate),
        of(|round| round.longest_ms),
        of(|round| round.median_ms),
        of(|round| round.p99_ms)
    )
}

fn page(results: &Results) -> Page {
    let mut page = Page::new("Handshakes by threads", &results.machine);
    page.paragraph(&format!(
        "Full TLS 1.3 handshakes with an RSA key of 4096 bits, {} clients at a time, and beside them one plain client after \
         another, each of which waits for the end of its connection. Medians of the rounds, each of which starts both afresh on \
         one core, in an order that is shuffled (seed {}).",
        results.clients, results.order_seed
    ));
    let median = |crew: &Crew, value: fn(&Round) -> f64| Spread::over(&crew.rounds, value).map(|spread| spread.median);
    page.table(
        &["who computes", "CPU µs", "a second", "median wait ms", "99 % ms", "longest ms"],
        results.measured.iter().map(|crew| {
            vec![
                crew.to_string().into(),
                number(median(crew, |round| round.cpu_us), 0),
                number(median(crew, |round| round.rate), 0),
                number(median(crew, |round| round.median_ms), 1),
                number(median(crew, |round| round.p99_ms), 1),
                number(median(crew, |round| round.longest_ms), 1),
            ]
        }),
    );
    page.left_out(results.measured.iter().filter_map(|crew| Some((crew.to_string(), crew.failure.as_deref()?))));
    page
}
