//! A run from plan to report: threads, signals, progress.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::thread::set_current_timer_slack;
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGINT, SIGTERM};
use vestibule::ring::pin_to;

use crate::cli::Args;
use crate::output::{IntervalLog, Progress, write_outputs};
use crate::plan::{Plan, Share};
use crate::report::{Measured, report};
use crate::swarm::{Sample, Swarm};
use crate::tally::Tally;

/// Makes the run; whether everything went as it should.
pub fn run(args: Args) -> Result<bool, String> {
    let plan = Plan::new(&args)?;
    let stop = stop_on_signals().map_err(|error| format!("signal handlers: {error}"))?;
    let mut log = IntervalLog::new(args.histogram_log.is_some());
    let begin = Begin::now();
    let tally = swarm(&plan, &stop, &args, &mut log)?;
    let report = report(&plan, &tally, begin.measured(stop.load(Ordering::Relaxed)));
    write_outputs(&args, &report, &tally, &plan, &log)?;
    Ok(report.is_good())
}

/// The clocks at the start.
struct Begin {
    at: Instant,
    cpu: Duration,
}

impl Begin {
    fn now() -> Begin {
        Begin { at: Instant::now(), cpu: process_cpu() }
    }

    fn measured(&self, interrupted: bool) -> Measured {
        Measured { elapsed: self.at.elapsed(), cpu: process_cpu().saturating_sub(self.cpu), interrupted }
    }
}

/// Runs one thread a share and shows what they report.
fn swarm(plan: &Plan, stop: &AtomicBool, args: &Args, log: &mut IntervalLog) -> Result<Tally, String> {
    let (sender, samples) = mpsc::channel();
    let begin = Instant::now();
    let started = SystemTime::now();
    thread::scope(|scope| {
        let threads: Vec<_> = plan
            .shares()
            .into_iter()
            .map(|share| {
                let sender = sender.clone();
                scope.spawn(move || {
                    let result = one_thread(plan, share, begin, stop, &sender);
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        drop(sender);
        follow(plan, args, samples, log, started);
        let mut total = Tally::new(plan.behaviours.items().len(), plan.headers.items().len());
        for thread in threads {
            total.add(&thread.join().map_err(|_| "a thread panicked")??);
        }
        Ok(total)
    })
}

fn one_thread(
    plan: &Plan,
    share: Share,
    begin: Instant,
    stop: &AtomicBool,
    samples: &mpsc::Sender<Sample>,
) -> Result<Tally, String> {
    if let Some(cpu) = plan.cpus.get(share.thread % plan.cpus.len().max(1)) {
        pin_to(*cpu).map_err(|error| format!("--cpu {cpu}: {error}; `taskset -p $$` shows what is allowed"))?;
    }
    // The default slack of 50 us would make every paced start late; without the right to change it, it stays.
    let _ = set_current_timer_slack(std::num::NonZeroU64::new(1));
    let swarm = Swarm::new(plan, share, begin).map_err(|error| error.to_string())?;
    swarm.run(stop, samples).map_err(|error| format!("io_uring_enter: {error}"))
}

/// Shows samples until the last thread has ended.
fn follow(plan: &Plan, args: &Args, samples: Receiver<Sample>, log: &mut IntervalLog, started: SystemTime) {
    let mut progress = Progress::new(plan, args.quiet);
    log.begin(started);
    for sample in samples {
        log.add(&sample);
        progress.show(sample);
    }
    progress.end();
}

fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second signal ends the process at once.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
