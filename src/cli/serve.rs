//! `vestibule serve`: the daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use vestibule::config::{InetListener, Service, Settings, WorkerKind};
use vestibule::dispatch::Pool;
use vestibule::engine::{Engine, EngineBuilder, Listener, Snapshot};
use vestibule::ring;
use vestibule::worker::tls::{Identity, Tls, alpn_of_service};
use vestibule::worker::{Discard, Handler, Whoami};

use super::configuration::{self, Ready};
use super::log::{self, Log};
use super::systemd::{Inherited, Watchdog};
use super::{Error, privileges, systemd};

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
  HUP         re-read the configuration: a new engine takes the listening sockets over and the old one finishes what
              it has; a configuration that does not check is refused and the old one stays
  USR1        stop accepting and finish as TERM does, but stay until TERM

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
    let log = log::start();
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
    let bound = builder(&loaded.settings, identity.as_ref(), |address| Ok(inherited.bound_to(address)))?.bind()?;
    inherited.all_taken()?;
    if let Some(target) = &target {
        privileges::drop_to(target)?;
    }
    let engine = bound.start()?;
    say_ready(&log, &loaded.settings, engine.addresses());
    systemd::ready(engine.addresses().len());
    let mut tier = Tier {
        watchdog: Watchdog::start(engine.pulse()),
        engine,
        drain_timeout: loaded.settings.drain_timeout,
        retired: Vec::new(),
        past: None,
    };
    for signal in signals.forever() {
        match signal {
            SIGHUP => tier.reload(args.config.as_deref()),
            SIGUSR1 => {
                tier.drain();
            }
            _ => {
                ending.store(true, Ordering::SeqCst);
                break;
            }
        }
    }
    systemd::stopping(tier.drain_timeout);
    let in_time = tier.drain();
    log.say(format_args!("{}", tier.end()));
    if log.lost() > 0 {
        log.say(format_args!("{} log lines were lost: standard error was blocked or full", log.lost()));
    }
    Ok(if in_time { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Engines that were reloaded away and have not ended yet; with so many of them a reload is refused.
const RETIRED_MAX: usize = 8;

/// The engine that accepts, and those before it that still finish what they have.
struct Tier {
    engine: Engine,
    drain_timeout: Duration,
    retired: Vec<JoinHandle<Snapshot>>,
    /// What those have counted that have ended.
    past: Option<Snapshot>,
    watchdog: Watchdog,
}

impl Tier {
    /// Puts an engine of the new configuration in the place of the present one, or leaves everything as it is.
    fn reload(&mut self, file: Option<&Path>) {
        systemd::reloading();
        if let Err(problems) = self.try_reload(file) {
            problems.iter().for_each(|problem| tracing::error!("{problem}"));
            tracing::error!("not reloaded: the configuration before stays in force");
        }
        systemd::ready(self.engine.addresses().len());
    }

    fn try_reload(&mut self, file: Option<&Path>) -> Result<(), Vec<String>> {
        let (ended, busy) = std::mem::take(&mut self.retired).into_iter().partition(JoinHandle::is_finished);
        self.retired = busy;
        self.remember(ended);
        if self.retired.len() >= RETIRED_MAX {
            return Err(vec![format!(
                "{RETIRED_MAX} earlier configurations still finish their connections: try later"
            )]);
        }
        let Ready { loaded, identity } = configuration::load(file)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let engine = self.next(&loaded.settings, identity.as_ref()).map_err(|error| vec![error.to_string()])?;
        self.watchdog.follow(engine.pulse());
        let mut old = std::mem::replace(&mut self.engine, engine);
        let limit = std::mem::replace(&mut self.drain_timeout, loaded.settings.drain_timeout);
        self.retired.push(std::thread::spawn(move || {
            if !old.retire(limit) {
                tracing::warn!("not everything of the configuration before ended within drain_timeout");
            }
            old.snapshot()
        }));
        tracing::info!("reloaded: accepting on {} addresses", self.engine.addresses().len());
        Ok(())
    }

    /// An engine that accepts on the sockets of the present one.
    fn next(&self, settings: &Settings, identity: Option<&Identity>) -> Result<Engine, Error> {
        Ok(builder(settings, identity, |address| self.engine.sockets_at(address))?.start()?)
    }

    fn drain(&mut self) -> bool {
        self.watchdog.let_go();
        tracing::info!("draining for at most {} s", self.drain_timeout.as_secs());
        let begun = Instant::now();
        let in_time = self.engine.drain(self.drain_timeout);
        match in_time {
            true => tracing::info!("drained in {} ms", begun.elapsed().as_millis()),
            false => tracing::warn!("not everything ended within drain_timeout"),
        }
        in_time
    }

    /// Waits for engines that were reloaded away, within limits that began when they were, and keeps what they counted.
    fn remember(&mut self, ended: Vec<JoinHandle<Snapshot>>) {
        for snapshot in ended.into_iter().flat_map(JoinHandle::join) {
            match &mut self.past {
                Some(past) => *past += &snapshot,
                None => self.past = Some(snapshot),
            }
        }
    }

    /// What all engines have counted.
    fn end(mut self) -> Snapshot {
        let retired = std::mem::take(&mut self.retired);
        self.remember(retired);
        let mut total = self.engine.snapshot();
        self.past.iter().for_each(|past| total += past);
        total
    }
}

/// Once the flag is set, TERM or INT end the process at once.
fn second_signal_ends() -> std::io::Result<Arc<AtomicBool>> {
    let ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, ending.clone())?;
    }
    Ok(ending)
}

/// The engine that the settings describe; `open` gives the sockets that listen on an address already.
fn builder(
    settings: &Settings,
    identity: Option<&Identity>,
    mut open: impl FnMut(SocketAddr) -> std::io::Result<Vec<TcpListener>>,
) -> Result<EngineBuilder, Error> {
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
                let sockets = open(address)?;
                let described = engine_listener(service, listener, address);
                builder = builder.listen(sockets.into_iter().fold(described, |all, socket| all.socket(socket)));
            }
        }
    }
    Ok(builder)
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
fn say_ready(log: &Log, settings: &Settings, addresses: &[SocketAddr]) {
    let mut bound = addresses.iter();
    let mut example = None;
    for service in &settings.services {
        for listener in &service.listeners {
            for address in bound.by_ref().take(listener.addresses.len()) {
                log.say(format_args!("listening on {address} ({})", describe(service, listener)));
                example = example.or_else(|| what_to_try(listener, *address));
            }
        }
    }
    log.say(format_args!("vestibule {} is ready", env!("CARGO_PKG_VERSION")));
    if let Some(command) = example {
        log.say(format_args!("try: {command}"));
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
