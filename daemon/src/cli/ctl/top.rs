//! `ctl top`: a live view in the terminal, of one daemon and of those that take over from it.

mod frame;
mod terminal;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGTERM};

use crate::daemon::Error;
use crate::daemon::control::{self, Form, NotAsked, Request};
use frame::{Paint, RATES_MAX, View, counter, frame};
use terminal::Terminal;

/// How often the daemon is asked.
const STEP: Duration = Duration::from_secs(1);
/// How often it is looked whether a key was pressed, the window has another size, or somebody wants an end.
const LOOK: Duration = Duration::from_millis(100);
/// Refusals that are asked for.
const REFUSALS: usize = 64;
/// What Ctrl-C says while keys come one by one.
const INTERRUPT: u8 = 3;

/// Shows the daemon at `socket` until somebody presses `q`, or the terminal is gone.
///
/// # Errors
/// If it does not answer at the beginning, or there is no terminal.
pub fn run(socket: &Path) -> Result<ExitCode, Error> {
    let mut view = View::default();
    ask(socket, &mut view).map_err(|problem| format!("{}: {problem}", socket.display()))?;
    let ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, ending.clone())?;
    }
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminal::give_back();
        told(panic);
    }));
    let no_terminal = |error: io::Error| format!("it draws on a terminal, and standard output is none: {error}");
    let terminal = Terminal::take(io::stdout()).map_err(no_terminal)?;
    let paint = Paint { colours: std::env::var_os("NO_COLOR").is_none(), unicode: speaks_utf8() };
    let mut asked_at = Instant::now();
    while !ending.load(Ordering::Relaxed) {
        if terminal.draw(&frame(&view, terminal.size(), paint)) {
            break;
        }
        match terminal.key(LOOK) {
            Some(b'q' | b'Q' | INTERRUPT) => break,
            Some(b'p' | b'P') => view.paused = !view.paused,
            _ => {}
        }
        if !view.paused && asked_at.elapsed() >= STEP {
            let passed = asked_at.elapsed();
            asked_at = Instant::now();
            let before = view.stats.clone();
            view.problem = ask(socket, &mut view).err();
            // After a time without an answer there is no rate.
            view.before = view.problem.is_none().then_some((before, passed));
            let rate = view.rate(|stats| counter(stats, "accepted")).unwrap_or(0.0);
            view.rates.push_back(rate);
            view.rates.drain(..view.rates.len().saturating_sub(RATES_MAX));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for everything that is shown.
fn ask(socket: &Path, view: &mut View) -> Result<(), String> {
    let mut stats = said(socket, &Request::Stats { form: Form::Json })?;
    let refused = said(socket, &Request::Refused { limit: Some(REFUSALS) })?;
    (view.stats, view.refused) = (stats["stats"].take(), refused);
    Ok(())
}

fn said(socket: &Path, request: &Request) -> Result<Value, String> {
    control::ask(socket, request).map_err(|error| match error {
        NotAsked::NobodyThere(error) => format!("{error}; nobody listens there"),
        NotAsked::Failed(problem) => problem,
        NotAsked::Refused(errors) => errors.join("; "),
    })
}

fn speaks_utf8() -> bool {
    let named =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|at| !at.is_empty()));
    named.is_some_and(|named| named.to_lowercase().replace('-', "").contains("utf8"))
}
