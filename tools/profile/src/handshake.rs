//! `handshake`: what a full TLS handshake costs a server, beside HAProxy.

use std::fmt;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use serde::Serialize;
use tempfile::TempDir;
use vestibule_peers::{find_program, temp_dir};

use crate::bench::{self, Bench};
use crate::machine::Machine;
use crate::measure::used_by;
use crate::report::{FORMAT, Page};
use crate::server::{Recipe, Server, free_address, is_interrupted, on_cpus};
use crate::storm;
use crate::systems::{Tools, version, write};
use crate::versus::{Round, Versus};

/// Most of HAProxy's CPU time that ours may be.
const AT_MOST: f64 = 0.9;
/// How long a client waits for its server.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes before it is measured.
pub const WARM_UP: u32 = 50;
const NAME: &str = "mail.example.com";

/// What `handshake` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vestibule-profile handshake
  vestibule-profile handshake -n 5000 --rounds 11 --clients 16
  vestibule-profile handshake --threads 2 -n 1000

TLS 1.3, ECDSA P-256, X25519, TLS_AES_128_GCM_SHA256, never resumed; the server closes when the
handshake is over. Clients run on the other core and check that it was a full one.")]
pub struct Args {
    /// Rounds: each measures both
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// Handshakes a round
    #[arg(short = 'n', long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    handshakes: u32,

    /// Clients at any time
    #[arg(short = 'c', long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    clients: u32,

    /// Not beside HAProxy, but with an RSA key of 4096 bits: by the rings alone and by so many threads
    /// (ssl_handshake_threads), and how long plain clients wait meanwhile
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Option<u32>,

    #[command(flatten)]
    bench: bench::Args,
}

/// Whose handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Program {
    Vestibule,
    Haproxy,
}

#[derive(Debug, Serialize)]
struct Results {
    tool: &'static str,
    format: u32,
    machine: Machine,
    haproxy: String,
    clients: u32,
    #[serde(flatten)]
    both: Versus<Program>,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Vestibule => "Vestibule",
            Program::Haproxy => "HAProxy",
        })
    }
}

/// A certificate, its key, and both in the one file that HAProxy takes.
pub struct Certificate {
    pub directory: TempDir,
    pub certificate: PathBuf,
    pub key: PathBuf,
    both: PathBuf,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// For the key in a PEM.
    pub fn of(key: &str) -> Result<Certificate, String> {
        let pair = KeyPair::from_pem(key).map_err(|error| error.to_string())?;
        let parameters = CertificateParams::new([NAME.to_owned()]).map_err(|error| error.to_string())?;
        let made = parameters.self_signed(&pair).map_err(|error| error.to_string())?;
        let (certificate, directory) = (made.pem(), temp_dir());
        Ok(Certificate {
            certificate: write(&directory, "cert.pem", &certificate)?,
            key: write(&directory, "key.pem", key)?,
            both: write(&directory, "both.pem", &format!("{certificate}{key}"))?,
            der: made.der().clone(),
            directory,
        })
    }

    /// A client that trusts it, offers one cipher suite and one group, and never resumes.
    pub fn client(&self) -> Result<Arc<ClientConfig>, String> {
        let mut provider = default_provider();
        provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        provider.kx_groups = vec![kx_group::X25519];
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).map_err(|error| error.to_string())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// Measures and writes the report.
pub fn run(args: &Args) -> Result<(), String> {
    if let Some(threads) = args.threads {
        let Args { rounds, handshakes, clients, .. } = *args;
        return storm::run(&args.bench, storm::Size { threads, rounds, handshakes, clients });
    }
    let haproxy = find_program("haproxy").ok_or("haproxy is not installed")?;
    let bench = Bench::new(&args.bench)?;
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let certificate = Certificate::of(&key.serialize_pem())?;
    let client = certificate.client()?;
    let both = Versus::measure(
        &bench,
        ("handshake", AT_MOST),
        args.rounds,
        [Program::Vestibule, Program::Haproxy],
        |program| measure(&bench, program, args, &certificate, &client),
    )?;
    let results = Results {
        tool: "vestibule-profile handshake",
        format: FORMAT,
        machine: Machine::here(&bench.tools),
        haproxy: version(&haproxy, "-v"),
        clients: args.clients,
        both,
    };
    print!("{}", results.both.text());
    let files = page(&results).write(&Bench::prefix(&args.bench, "handshake"), &results)?;
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

fn measure(
    bench: &Bench,
    program: Program,
    args: &Args,
    certificate: &Certificate,
    client: &Arc<ClientConfig>,
) -> Result<Round, String> {
    let server = Server::start(recipe(program, &bench.tools, certificate)?, bench.server_cpu)?;
    let address = server.address;
    let load = |count| on_cpus(&[bench.client_cpu], || handshakes(address, client, args.clients, count))?;
    load(WARM_UP)?;
    let (used, ()) = used_by(bench, server.pid(), || load(args.handshakes))?;
    let cpu_us = used.cpu().as_secs_f64() * 1e6 / f64::from(args.handshakes);
    let rate = f64::from(args.handshakes) / used.time.as_secs_f64();
    Ok(Round { cpu_us, detail: format!("{rate:.0} handshakes a second, {} KiB", used.memory.pss_kib) })
}

/// So many handshakes in all, by clients of which each makes one after another.
pub fn handshakes(address: SocketAddr, config: &Arc<ClientConfig>, clients: u32, count: u32) -> Result<(), String> {
    let left = AtomicU32::new(count);
    let one_more = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    std::thread::scope(|scope| {
        let client = || -> Result<(), String> {
            while one_more() {
                if is_interrupted() {
                    return Err("interrupted".to_owned());
                }
                handshake(address, config).map_err(|error| format!("a handshake with {address}: {error}"))?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a client does not panic"))
    })
}

fn handshake(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<(), String> {
    let name = ServerName::try_from(NAME).map_err(|error| error.to_string())?;
    let session = ClientConnection::new(config.clone(), name).map_err(|error| error.to_string())?;
    let socket = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let mut stream = StreamOwned::new(session, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
    }
    if stream.conn.handshake_kind() != Some(HandshakeKind::Full) {
        return Err("it was resumed".to_owned());
    }
    // The server leaves when the handshake is over; how it does is its own affair.
    let _ = stream.read(&mut [0; 64]);
    Ok(())
}

fn recipe(program: Program, tools: &Tools, certificate: &Certificate) -> Result<Recipe, String> {
    let address = free_address();
    if program == Program::Haproxy {
        let text = format!(
            "global\n  nbthread 1\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout client 10s\n  timeout connect 1s\n  \
             timeout server 10s\nfrontend tls\n  bind {address} ssl crt {} ssl-min-ver TLSv1.3\n  tcp-request content \
             reject\n",
            certificate.both.display()
        );
        return Recipe::of(program.to_string(), vestibule_peers::Recipe::haproxy(&text, vec![address]));
    }
    let text = format!(
        "ssl_cert = <{}\nssl_key = <{}\nservice bench {{\n  worker = discard\n  inet_listener tls {{\n    address = {}\n    \
         port = {}\n    ssl = yes\n  }}\n}}\n",
        certificate.certificate.display(),
        certificate.key.display(),
        address.ip(),
        address.port()
    );
    let file = write(&certificate.directory, "vestibule.conf", &text)?;
    let mut command = Command::new(&tools.vestibule);
    command.arg("serve").arg("-c").arg(file);
    Ok(Recipe { name: program.to_string(), command, address, directory: None })
}

fn page(results: &Results) -> Page {
    let mut page = Page::new("What a TLS handshake costs", &results.machine);
    page.paragraph(&format!(
        "CPU time of the server a full handshake, microseconds, connection and close included: TLS 1.3, ECDSA P-256, X25519, \
         TLS_AES_128_GCM_SHA256, {} clients at a time. Median, smallest and largest of the rounds, each of which starts both \
         afresh on one core, in an order that is shuffled (seed {}). {}.",
        results.clients, results.both.order_seed, results.haproxy
    ));
    results.both.table(&mut page);
    page
}
