//! From the configuration to a process that serves, and what it does with signals until it ends.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use vestibule::config::Settings;
use vestibule::engine::{Engine, SessionLog};
use vestibule::ring;
use vestibule::takeover::{self, Claim, Host, Legacy, Offer, Place, Predecessor};

use super::configuration;
use super::control::{self, Control, NotAsked, Request};
use super::http::{self, Bound, Facts};
use super::inherited::{self, Inherited};
use super::init::Successors;
use super::log;
use super::mailbox::{Receiver, Sender, mailbox};
use super::plan::{self, Means};
use super::privileges::Target;
use super::sessions::Sessions;
use super::takeover::{not_asked, not_placed};
use super::tier::{Event, Parts, Tier};
use super::watcher::Watcher;
use super::{Error, capacity, init, lock, privileges, ready, systemd};

/// Signals that may wait for the one before.
const EVENTS_MAX: usize = 16;
/// Rest while so many wait.
const EVENTS_REST: Duration = Duration::from_millis(10);

/// Runs the daemon with the configuration of `file`, or the built-in one, until it is told to end; takes over from the
/// running one that has the socket `takeover`.
pub fn run(file: Option<PathBuf>, takeover: Option<PathBuf>) -> Result<ExitCode, Error> {
    let ready = match configuration::load(file.as_deref()) {
        Ok(ready) => ready,
        Err(problems) => return Ok(configuration::refuse(&problems)),
    };
    let target = match privileges::look_up(&ready.loaded.settings.privileges)? {
        Ok(target) => target,
        Err(problems) => return Ok(configuration::refuse(&problems)),
    };
    privileges::forbid_new();
    // Before the first thread: what cannot be had later is said now.
    capacity::check(&ready.loaded.settings)?;
    let log = log::start(ready.loaded.settings.log_format);
    for warning in &ready.loaded.warnings {
        tracing::warn!("{warning}");
    }
    if ready.loaded.settings.ssl_ktls
        && let Err(error) = ring::kernel_tls()
    {
        tracing::warn!(
            "ssl_ktls = yes, and this kernel takes no TLS sessions ({error}): `modprobe tls`, or a takeover leaves those \
             that end here in the process before"
        );
    }
    if let Err(error) = ring::raise_open_files() {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    // Before the engine's threads, so that none of them gets a signal meant for the daemon.
    // In this order: the flag that a signal sets counts for the next one, not for itself.
    let ending = end_at_once()?;
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD])?;
    // EVENTS_MAX, and one for each engine that ends and each takeover that fails.
    let (tell, events) = mailbox();
    let settings = ready.loaded.settings;
    let session_log: Arc<dyn SessionLog> = Arc::new(Sessions::new(&log));
    let means = Means { identity: ready.identity, session_log: Some(session_log), ..Means::default() };
    let Started { engine, offer, control, http, predecessor } =
        start(&settings, &means, target.as_ref(), takeover, &ending)?;
    ready::say(&log, &settings, engine.addresses());
    if let Some(before) = predecessor.clone() {
        let (tell, legacy) = (tell.clone(), means.legacy.clone());
        thread::Builder::new().name("predecessor".into()).spawn(move || await_its_end(&before, &legacy, &tell))?;
    }
    let (control, offer) = (control.map(Arc::new), offer.map(Arc::new));
    let parts = Parts {
        file,
        settings,
        means,
        engine,
        predecessor,
        control: control.clone(),
        offer: offer.clone(),
        facts: Facts::new(log.lost_lines()),
        events: tell.clone(),
    };
    let tier = Tier::new(parts)?;
    let tier = Arc::new(Mutex::new(tier));
    let watcher = Watcher::new(tier.clone());
    lock(&tier).serve_http(watcher.clone(), http);
    if let Some(offer) = offer.clone() {
        let tier = tier.clone();
        let body = move || offer.serve(&tier);
        thread::Builder::new().name("takeover".into()).spawn(body)?;
    }
    if let Some(place) = &control {
        let control = Control::new(place.clone(), watcher);
        thread::Builder::new().name("control".into()).spawn(move || control.serve())?;
    }
    let flag = ending.clone();
    thread::Builder::new().name("signals".into()).spawn(move || forward(signals, &tell, &flag))?;
    let watched = watch(&tier, &events, &ending);
    if let Some(offer) = &offer {
        offer.conclude(|| lock(&tier).account());
        offer.leave();
    }
    control.iter().for_each(|place| place.leave());
    log.say(format_args!("{}", lock(&tier).snapshot()));
    if log.lost() > 0 {
        log.say(format_args!("{}", log::losses(log.lost())));
    }
    let successor = lock(&tier).successor().filter(|_| init::is_init());
    Ok(match successor {
        Some(successor) => Successors::new(successor, watched.told_to_end).outlive(&events),
        None if watched.well => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

/// An engine that accepts, the place where another process can take over, and the process that this one has taken the
/// place of.
struct Started {
    engine: Engine,
    offer: Option<Offer>,
    /// Where operators ask.
    control: Option<Place>,
    /// Where HTTP is served.
    http: Option<Bound>,
    predecessor: Option<Arc<Predecessor>>,
}

/// Binds, gives up privileges, starts, and takes over from a running process if there is one. `ending` is cleared as soon
/// as somebody would miss this process.
fn start(
    settings: &Settings,
    means: &Means,
    target: Option<&Target>,
    from: Option<PathBuf>,
    ending: &AtomicBool,
) -> Result<Started, Error> {
    let mut claim = from.as_deref().map(claim_at).transpose()?;
    if claim.is_none() {
        nobody_else_is_at("takeover_socket", &settings.takeover_socket, |path| Offer::is_made(path))?;
        nobody_else_is_at("control_socket", &settings.control_socket, |path| UnixStream::connect(path).is_ok())?;
    }
    let mut inherited = Inherited::take()?;
    inherited.suits(settings)?;
    claim.iter().try_for_each(|claim| inherited::one_listener_each(settings, claim.sockets()))?;
    let open = |address| match claim.as_mut().map(|claim| claim.sockets_at(address)) {
        Some(sockets) if !sockets.is_empty() => Ok(sockets),
        _ => inherited.bound_to(address),
    };
    let bound = plan::builder(settings, means, open)?.bind()?;
    inherited.all_taken()?;
    let http = settings.http_listen.map(|address| http::bind(address, claim.is_some())).transpose()?;
    claim.iter_mut().flat_map(Claim::let_go_of_the_rest).for_each(systemd::keep_no_longer);
    if let Some(target) = target {
        privileges::drop_to(target)?;
    }
    ending.store(false, Ordering::SeqCst);
    let offer = placed("takeover_socket", &settings.takeover_socket, |path| Offer::prepare(path))?;
    let control = placed("control_socket", &settings.control_socket, |path| Place::stream(path))?;
    let mut engine = bound.start()?;
    let publish = || {
        offer.iter().try_for_each(Offer::publish)?;
        control.iter().try_for_each(Place::publish)
    };
    if let Some(path) = settings.control_socket.as_deref().filter(|_| claim.is_some()) {
        keep_bans(means, path);
    }
    let done = match claim {
        Some(claim) => claim.take_over(&engine, &means.legacy, publish).map(Some),
        None => publish().map(|()| None),
    };
    let predecessor = match done {
        Ok(predecessor) => predecessor.map(Arc::new),
        Err(error) => {
            // Whom it has accepted meanwhile is served to the end, unless a signal comes.
            ending.store(true, Ordering::SeqCst);
            engine.drain(settings.drain_timeout);
            return Err(error.into());
        }
    };
    let tell = if predecessor.is_some() { systemd::ready_instead } else { systemd::ready };
    tell(engine.addresses().len());
    Ok(Started { engine, offer, control, http, predecessor })
}

/// Goes on banning whom the process before bans. One of an earlier version knows of no bans, and of one that cannot be
/// asked they are lost.
fn keep_bans(means: &Means, socket: &Path) {
    match control::ask(socket, &Request::Bans {}) {
        Ok(answer) => {
            let count = control::take_over_bans(&means.bans, &answer);
            if count > 0 {
                tracing::info!(event = "ban", "{count} bans of the process before stay in force");
            }
        }
        Err(NotAsked::NobodyThere(_)) => {}
        Err(error) => tracing::warn!("the process before was not asked for its bans: {error:?}"),
    }
}

/// An error if another process listens at this path.
fn nobody_else_is_at(setting: &str, path: &Option<PathBuf>, is_served: fn(&PathBuf) -> bool) -> Result<(), Error> {
    let Some(path) = path.as_ref().filter(|path| is_served(path)) else { return Ok(()) };
    let words = "another process listens there; take over from it (--takeover), stop it, or name another path";
    Err(format!("{setting} = {}: {words}", path.display()).into())
}

/// The process that listens at `path`, to be taken over from.
fn claim_at(path: &Path) -> Result<Claim, String> {
    let otherwise = "name the takeover_socket of the running daemon, or start without --takeover";
    let said = |error| {
        let words = match error {
            // Whoever waits for his turn hears nothing else when the one before him has had his.
            takeover::Error::Closed => ": it has ended, or yet another process has taken over from it; try again",
            _ => "",
        };
        format!("--takeover {}{words}", not_asked(path, &error, otherwise))
    };
    Claim::connect(path).map_err(said)
}

/// What is to be at the path that a setting names, if it does.
fn placed<T>(
    setting: &str,
    path: &Option<PathBuf>,
    prepare: fn(&PathBuf) -> Result<T, takeover::Error>,
) -> Result<Option<T>, String> {
    path.as_ref().map(prepare).transpose().map_err(|error| not_placed(setting, &error))
}

/// Waits until the process before has left, or has taken everything back.
fn await_its_end(before: &Predecessor, legacy: &Legacy, events: &Sender<Event>) {
    match before.await_its_end(legacy) {
        Ok(()) => {
            tracing::info!(event = "takeover", "process {} has left", before.process());
            events.send(Event::PredecessorLeft);
        }
        Err(error) => {
            tracing::error!(event = "takeover", "{error}");
            events.send(Event::Failed);
        }
    }
}

/// Sends signals on; those that come while many wait count as one of their kind. After the first that ends the process the
/// next one does so at once, whatever is being done.
fn forward(mut signals: Signals, events: &Sender<Event>, ending: &AtomicBool) {
    for signal in signals.forever() {
        if [SIGTERM, SIGINT].contains(&signal) {
            ending.store(true, Ordering::SeqCst);
        }
        while events.len() >= EVENTS_MAX {
            thread::sleep(EVENTS_REST);
        }
        events.send(Event::Signal(signal));
    }
}

/// How a daemon has ended.
struct Watched {
    /// By a signal, or by another process.
    told_to_end: bool,
    /// Everything that it was to finish it has finished.
    well: bool,
}

/// Does what signals and takeovers demand, never waiting for a connection, until the daemon is to end and nothing is left
/// to finish.
fn watch(tier: &Mutex<Tier>, events: &Receiver<Event>, ending: &AtomicBool) -> Watched {
    let (mut told_to_end, mut well) = (false, true);
    loop {
        let event = events.recv();
        let mut tier = lock(tier);
        let outlived = tier.successor().filter(|_| init::is_init());
        if let (Event::Signal(signal @ (SIGTERM | SIGINT | SIGHUP | SIGUSR1 | SIGUSR2)), Some(first)) =
            (event, outlived)
        {
            init::pass_on(signal, first);
            // What is left here ends with those only that end.
            if ![SIGTERM, SIGINT].contains(&signal) {
                continue;
            }
        }
        match event {
            // What is wrong with it is in the log.
            Event::Signal(SIGHUP) => drop(tier.reload()),
            Event::Signal(SIGUSR2) => tier.start_successor(),
            Event::Signal(SIGUSR1) => tier.drain_in_a_while(),
            Event::Drain => tier.drain_if_due(),
            Event::Signal(SIGCHLD) => tier.children_ended(),
            Event::Signal(_) => {
                told_to_end = true;
                if tier.is_in_charge() {
                    systemd::stopping(tier.drain_timeout());
                }
                tier.end();
            }
            // Not a word to the service manager: it would stop the other process too.
            Event::Failed => {
                (told_to_end, well) = (true, false);
                ending.store(true, Ordering::SeqCst);
                tier.end();
            }
            Event::Ended => tier.collect(),
            Event::PredecessorLeft => tier.predecessor_left(),
            Event::Impatient => tier.wait_no_longer(),
        }
        if tier.is_idle() && (told_to_end || !tier.is_in_charge() && !tier.awaits_predecessor()) {
            // Should the other process end in this moment, it is too late to accept again.
            tier.drain();
            return Watched { told_to_end, well: well && tier.is_complete() };
        }
    }
}

/// TERM and INT end the process at once while the flag is set. It is, to begin with: nobody needs a process that does not
/// serve yet.
fn end_at_once() -> std::io::Result<Arc<AtomicBool>> {
    let ending = Arc::new(AtomicBool::new(true));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, ending.clone())?;
    }
    Ok(ending)
}
