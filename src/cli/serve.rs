//! `vestibule serve`: the daemon.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use vestibule::config::{InetListener, Service, Settings, WorkerKind};
use vestibule::dispatch::Pool;
use vestibule::engine::{Engine, EngineBuilder, Listener};
use vestibule::ring;
use vestibule::worker::tls::{Identity, Tls, alpn_of_service};
use vestibule::worker::{Discard, Handler, Whoami};

use super::configuration::{self, Ready};
use super::systemd::Inherited;
use super::{Error, log, privileges, systemd};

/// Accept, verify and dispatch connections until told to stop (this is what `vestibule` alone does).
#[derive(clap::Args, Default)]
#[command(after_help = "\
Examples:
  vestibule                              the built-in configuration: 127.0.0.1:10143, haproxy = yes, worker whoami
  vestibule serve -c /etc/vestibule.conf the listeners of a file in Dovecot's syntax
  curl -s --haproxy-protocol telnet://127.0.0.1:10143 </dev/null
                                         ask the built-in one who you are

Signals:
  TERM, INT   stop accepting, let connections reach their workers, end with a table of what happened; again: at once
  USR1        the same, but stay (for a balancer's checks) until TERM

Exit codes: 0 after a complete drain, 1 if it could not start or drain, 78 if the configuration is wrong.")]
pub struct Args {
    /// Configuration in Dovecot's syntax; the built-in one if not given
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the daemon.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let Ready { loaded, identity } = match configuration::load(args.config.as_deref()) {
        Ok(ready) => ready,
        Err(problems) => return Ok(configuration::refuse(&problems)),
    };
    privileges::forbid_new();
    let _log = log::start();
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = ring::raise_open_files() {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    // Before the engine's threads, so that none of them gets a signal meant for the daemon.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    let ending = second_signal_ends()?;
    let target = privileges::look_up(&loaded.settings.privileges)?;
    let mut inherited = Inherited::take()?;
    let bound = builder(&loaded.settings, identity.as_ref(), &mut inherited).bind()?;
    inherited.all_taken()?;
    if let Some(target) = &target {
        privileges::drop_to(target)?;
    }
    let mut engine = bound.start()?;
    say_ready(&loaded.settings, engine.addresses());
    systemd::ready(engine.addresses().len());
    let draining = systemd::watch(engine.pulse());
    for signal in signals.forever() {
        match signal {
            SIGHUP => tracing::warn!("a running daemon does not re-read its configuration yet: restart it"),
            SIGUSR1 => {
                draining.store(true, Ordering::Relaxed);
                drain(&mut engine, &loaded.settings);
            }
            _ => {
                ending.store(true, Ordering::SeqCst);
                break;
            }
        }
    }
    draining.store(true, Ordering::Relaxed);
    systemd::stopping(loaded.settings.drain_timeout);
    let in_time = drain(&mut engine, &loaded.settings);
    say(format_args!("{}", engine.snapshot()));
    Ok(if in_time { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Once the flag is set, TERM or INT end the process at once.
fn second_signal_ends() -> std::io::Result<Arc<AtomicBool>> {
    let ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, ending.clone())?;
    }
    Ok(ending)
}

fn drain(engine: &mut Engine, settings: &Settings) -> bool {
    tracing::info!("draining for at most {} s", settings.drain_timeout.as_secs());
    let begun = Instant::now();
    let in_time = engine.drain(settings.drain_timeout);
    match in_time {
        true => tracing::info!("drained in {} ms", begun.elapsed().as_millis()),
        false => tracing::warn!("not everything ended within drain_timeout"),
    }
    in_time
}

fn builder(settings: &Settings, identity: Option<&Identity>, inherited: &mut Inherited) -> EngineBuilder {
    let mut builder = Engine::builder()
        .pending_limit(settings.pending_limit)
        .pending_peer_limit(settings.pending_peer_limit)
        .client_limits(settings.clients.limits.clone());
    if let Some(rings) = settings.rings {
        builder = builder.rings(rings);
    }
    for service in &settings.services {
        builder = builder.pool(match service.worker {
            WorkerKind::Whoami => pool(service, identity, Whoami),
            WorkerKind::Discard => pool(service, identity, Discard),
        });
        for listener in &service.listeners {
            for &address in &listener.addresses {
                let address = SocketAddr::new(address, listener.port);
                let sockets = inherited.bound_to(address);
                let described = engine_listener(service, listener, address);
                builder = builder.listen(sockets.into_iter().fold(described, |all, socket| all.socket(socket)));
            }
        }
    }
    builder
}

fn pool(service: &Service, identity: Option<&Identity>, handler: impl Handler) -> Pool {
    let threads = workers(service);
    let pool = match identity {
        Some(identity) => {
            let handler = Tls::new(identity, alpn_of_service(&service.name), handler);
            Pool::threads(&service.name, threads, handler)
        }
        None => Pool::threads(&service.name, threads, handler),
    };
    let pool = pool.queue(service.queue).overload(service.overload);
    if service.exact_residual { pool.exact_residual() } else { pool }
}

fn workers(service: &Service) -> usize {
    let cpus = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    service.workers.map_or_else(cpus, NonZeroUsize::get)
}

fn engine_listener(service: &Service, listener: &InetListener, address: SocketAddr) -> Listener {
    let described = match listener.haproxy {
        true => Listener::proxy(address).timeout(listener.timeout).defer_accept(listener.defer_accept).terms(|terms| {
            terms.trusted = listener.trusted.clone();
            terms.rules = listener.rules;
            terms.policy = listener.policy.clone();
            terms.pending_limit = listener.pending_limit;
        }),
        false => Listener::plain(address).trust(listener.networks.iter().copied()),
    };
    let described = described.ssl(listener.ssl).reuse_port(listener.reuse_port);
    described.pool(&service.name).service(&service.name).name(&listener.name)
}

/// One line a listener, then what to try.
fn say_ready(settings: &Settings, addresses: &[SocketAddr]) {
    let mut bound = addresses.iter();
    let mut example = None;
    for service in &settings.services {
        for listener in &service.listeners {
            for address in bound.by_ref().take(listener.addresses.len()) {
                say(format_args!("listening on {address} ({})", describe(service, listener)));
                example = example.or_else(|| what_to_try(listener, *address));
            }
        }
    }
    say(format_args!("vestibule {} is ready", env!("CARGO_PKG_VERSION")));
    if let Some(command) = example {
        say(format_args!("try: {command}"));
    }
}

/// A command that is answered from this machine, if the listener trusts it.
fn what_to_try(listener: &InetListener, address: SocketAddr) -> Option<String> {
    let own = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let address = SocketAddr::new(own, address.port());
    match (listener.haproxy, listener.ssl) {
        (true, _) if !listener.trusted.contains(own) => None,
        (true, false) => Some(format!("curl -s --haproxy-protocol telnet://{address} </dev/null")),
        (false, true) => Some(format!("openssl s_client -quiet -connect {address} </dev/null")),
        (false, false) => Some(format!("curl -s telnet://{address} </dev/null")),
        (true, true) => None, // needs a client that sends a header and then speaks TLS
    }
}

fn describe(service: &Service, listener: &InetListener) -> String {
    let mut words = vec![format!("{} {}", service.name, listener.name)];
    if listener.haproxy {
        let networks: Vec<String> = listener.networks.iter().map(ToString::to_string).collect();
        let trusted = if networks.is_empty() { "nobody".to_owned() } else { networks.join(" ") };
        words.push(format!("haproxy, trusts {trusted}"));
    }
    if listener.ssl {
        words.push("ssl".to_owned());
    }
    words.push(match service.worker {
        WorkerKind::Whoami => "worker whoami".to_owned(),
        WorkerKind::Discard => "worker discard".to_owned(),
    });
    words.join(", ")
}

/// Writes a line to standard output; nobody may be listening.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
