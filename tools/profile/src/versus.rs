//! Vestibule beside one other program in interleaved rounds, by the server's CPU time for each piece of work.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::bench::Bench;
use crate::report::{Cell, Page, number};
use crate::rounds::{SEED, Subject, rounds};
use crate::stats::{Spread, ratios};

/// One program in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// CPU time of the server for a piece of work, microseconds.
    pub cpu_us: f64,
    /// What the work was like, in words.
    pub detail: String,
}

/// One program.
#[derive(Debug, Serialize)]
pub struct Contender<P> {
    /// Which.
    pub program: P,
    /// What was measured.
    pub rounds: Vec<Round>,
    /// CPU time for a piece of work, microseconds.
    pub cpu_us: Option<Spread>,
    /// Vestibule's CPU / this one's, round by round.
    pub ratio: Option<Spread>,
    /// Why it was left out from some round on.
    pub failure: Option<String>,
}

/// Both, Vestibule first.
#[derive(Debug, Serialize)]
pub struct Versus<P> {
    /// What the orders of the rounds came from.
    pub order_seed: u64,
    /// A piece of work, in a word.
    pub work: &'static str,
    /// Most of the other's CPU that Vestibule's may be.
    pub at_most: f64,
    /// The two.
    pub measured: [Contender<P>; 2],
}

impl<P: fmt::Display> fmt::Display for Contender<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.program.fmt(f)
    }
}

impl<P: fmt::Display> Subject for Contender<P> {
    fn failure(&mut self) -> &mut Option<String> {
        &mut self.failure
    }
}

impl<P: fmt::Display + Copy> Versus<P> {
    /// Measures both by `once`, so many rounds.
    pub fn measure(
        bench: &Bench,
        (work, at_most): (&'static str, f64),
        count: u16,
        programs: [P; 2],
        mut once: impl FnMut(P) -> Result<Round, String>,
    ) -> Result<Versus<P>, String> {
        let contender = |program| Contender { program, rounds: Vec::new(), cpu_us: None, ratio: None, failure: None };
        let mut measured = programs.map(contender);
        let say = |line| bench.say(line);
        rounds("round", usize::from(count), &mut measured, say, |one| {
            let round = once(one.program)?;
            let words = format!("{:8.1} us CPU a {work}, {}", round.cpu_us, round.detail);
            one.rounds.push(round);
            Ok(words)
        });
        if measured.iter().any(|one| one.rounds.is_empty()) {
            return Err("one of the two could not be measured: see above".to_owned());
        }
        let ours = measured[0].rounds.clone();
        for one in &mut measured {
            one.cpu_us = Spread::over(&one.rounds, |round| round.cpu_us);
            one.ratio = Spread::of(ratios(&ours, &one.rounds, |round| round.cpu_us));
        }
        Ok(Versus { order_seed: SEED, work, at_most, measured })
    }

    /// The table for a terminal.
    pub fn text(&self) -> String {
        let mut text = format!(
            "\n| program | CPU us/{} (min-max) | Vestibule / this | the last round |\n|---|---|---|---|\n",
            self.work
        );
        for (one, cpu, ratio, last) in self.lines() {
            let _ = writeln!(
                text,
                "| {one} | {:.0} ({:.0}–{:.0}) | {:.2} ({:.2}–{:.2}) | {} |",
                cpu.median, cpu.min, cpu.max, ratio.median, ratio.min, ratio.max, last.detail
            );
        }
        text
    }

    /// The table of the report.
    pub fn table(&self, page: &mut Page) {
        page.table(
            &["program", "CPU µs", "min–max", "Vestibule / this", "min–max", "the last round"],
            self.lines().map(|(one, cpu, ratio, last)| {
                vec![
                    one.to_string().into(),
                    number(Some(cpu.median), 0),
                    Cell::Number(format!("{:.0}–{:.0}", cpu.min, cpu.max)),
                    Cell::Verdict(ratio.median <= self.at_most, format!("{:.2}", ratio.median)),
                    Cell::Number(format!("{:.2}–{:.2}", ratio.min, ratio.max)),
                    last.detail.clone().into(),
                ]
            }),
        );
        page.left_out(self.measured.iter().filter_map(|one| Some((one.to_string(), one.failure.as_deref()?))));
    }

    fn lines(&self) -> impl Iterator<Item = (&Contender<P>, Spread, Spread, &Round)> {
        self.measured.iter().filter_map(|one| Some((one, one.cpu_us?, one.ratio?, one.rounds.last()?)))
    }
}
