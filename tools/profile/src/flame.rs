//! `flame`: where a server's CPU time goes, kernel and user, as a flame graph.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use inferno::collapse::Collapse;
use inferno::collapse::perf::{Folder, Options};
use inferno::flamegraph;
use serde::Serialize;
use vestibule_peers::{find_program, temp_dir};

use crate::bench::{self, Bench, time};
use crate::load::{Load, Pace};
use crate::machine::Machine;
use crate::proc;
use crate::report::{FORMAT, Page, number};

use crate::systems::{Job, Program, System};

/// Samples a second. Odd, so that it does not fall into step with a timer.
const FREQUENCY: &str = "1997";
/// Bytes of user stack kept with each sample: release builds have no frame pointers, so perf unwinds by debug information.
const STACK: &str = "dwarf,8192";
/// Functions listed in the table.
const LISTED: usize = 25;

/// What `flame` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vestibule-profile flame
  vestibule-profile flame --job discard -d 10s
  vestibule-profile flame --system nginx           the same for a peer

Needs perf(1) (Debian: linux-perf) and the right to profile the kernel: root, or
`sysctl kernel.perf_event_paranoid=1`. Samples by the software clock cpu-clock, which virtual
machines without hardware counters have as well.")]
pub struct Args {
    /// How long
    #[arg(short, long, value_name = "TIME", value_parser = time, default_value = "4s")]
    duration: Duration,

    /// What the server has to do
    #[arg(long, value_enum, default_value_t = Job::Whoami)]
    job: Job,

    /// Which program
    #[arg(long, value_enum, default_value_t = Program::Vestibule)]
    system: Program,

    #[command(flatten)]
    bench: bench::Args,
}

#[derive(Debug, Serialize)]
struct Results {
    tool: &'static str,
    format: u32,
    machine: Machine,
    system: System,
    samples: u64,
    /// Part of the samples taken in the kernel.
    kernel: f64,
    /// Stacks, folded: frames from the outermost inwards, and samples.
    stacks: Vec<(String, u64)>,
}

/// Records and writes the report.
pub fn run(args: &Args) -> Result<(), String> {
    let bench = Bench::new(&args.bench)?;
    let system = System::all()
        .find(|system| system.program == args.system && system.job == args.job)
        .ok_or_else(|| format!("{} has no job {}", args.system, args.job))?;
    if let Some(what) = system.missing(&bench.tools) {
        return Err(what);
    }
    can_profile()?;
    let files = temp_dir();
    let data = record(&bench, system, args.duration, files.path())?;
    bench.say("recorded; unwinding stacks");
    let folded = fold(&script(&bench, &data, files.path())?)?;
    let stacks: Vec<(String, u64)> = stacks(&folded).map(|(stack, count)| (stack.to_owned(), count)).collect();
    let samples = stacks.iter().map(|(_, count)| count).sum::<u64>();
    if samples == 0 {
        return Err("perf has taken no samples of the server".to_owned());
    }
    let in_kernel = stacks.iter().filter(|(stack, _)| stack.ends_with("_[k]")).map(|(_, count)| count).sum::<u64>();
    let results = Results {
        tool: "vestibule-profile flame",
        format: FORMAT,
        machine: Machine::here(&bench.tools),
        system,
        samples,
        kernel: in_kernel as f64 / samples as f64,
        stacks,
    };
    let svg = draw(&folded, &system.to_string())?;
    let files = page(&results, &svg).write(&Bench::prefix(&args.bench, "flame"), &results)?;
    bench.say(format!("{samples} samples, {:.0} % in the kernel", results.kernel * 100.0));
    bench.say(format!("wrote {} and {}", files[0].display(), files[1].display()));
    Ok(())
}

fn can_profile() -> Result<(), String> {
    if find_program("perf").is_none() {
        return Err("perf is not installed (Debian: apt-get install linux-perf)".to_owned());
    }
    let mut probe = Command::new("perf");
    probe.args(["record", "-q", "-e", "cpu-clock:k", "-o", "/dev/null", "true"]);
    let output = probe.stdin(Stdio::null()).output().map_err(|error| format!("perf: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    Err(format!(
        "perf may not profile the kernel (kernel.perf_event_paranoid is {}): run as root, or set it to 1; perf said:\n{}",
        paranoid.trim(),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// perf records while the load generator, its own child, runs.
fn record(bench: &Bench, system: System, time: Duration, directory: &Path) -> Result<PathBuf, String> {
    let server = bench.warm(system)?;
    let data = directory.join("perf.data");
    let pids: Vec<String> = proc::tree(server.pid()).iter().map(|process| process.pid.to_string()).collect();
    let under = ["perf", "record", "-q", "-e", "cpu-clock", "-F", FREQUENCY, "--call-graph", STACK, "-p"];
    let under = under.into_iter().map(String::from).chain([pids.join(","), "-o".into(), data.display().to_string()]);
    let under: Vec<String> = under.chain(["--".into()]).collect();
    bench.say(format!("recording {system} for {} s", time.as_secs_f64()));
    let load = bench.load(&server, system.expected(), Pace::Closed { in_flight: 64, time });
    Load { under: &under, ..load }.run()?;
    Ok(data)
}

fn script(bench: &Bench, data: &Path, directory: &Path) -> Result<Vec<u8>, String> {
    const LIMIT: Duration = Duration::from_secs(120);
    let out = directory.join("script");
    let file = fs::File::create(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let mut command = Command::new("perf");
    command
        .args(["script", "--no-inline", "-F", "comm,pid,tid,time,event,ip,sym,dso", "-i"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("perf script: {error}"))?;
    let waited = bench.wait_for(&mut child, LIMIT);
    if waited.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    waited.map_err(|error| format!("perf script {error}"))?;
    fs::read(&out).map_err(|error| format!("{}: {error}", out.display()))
}

fn fold(script: &[u8]) -> Result<String, String> {
    let mut options = Options::default();
    options.annotate_kernel = true;
    let mut folded = Vec::new();
    Folder::from(options).collapse(script, &mut folded).map_err(|error| format!("folding stacks: {error}"))?;
    Ok(String::from_utf8_lossy(&folded).into_owned())
}

fn draw(folded: &str, title: &str) -> Result<String, String> {
    let mut options = flamegraph::Options::default();
    options.title = title.to_owned();
    options.count_name = "samples".to_owned();
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, folded.lines(), &mut svg).map_err(|error| format!("flame graph: {error}"))?;
    Ok(String::from_utf8_lossy(&svg).into_owned())
}

/// `a;b;c 12` as (`a;b;c`, 12).
fn stacks(folded: &str) -> impl Iterator<Item = (&str, u64)> {
    folded.lines().filter_map(|line| {
        let (stack, count) = line.rsplit_once(' ')?;
        Some((stack, count.parse().ok()?))
    })
}

/// Samples in which a function was on the CPU itself, and in which it or what it called was; by the latter.
fn functions(stacks: &[(String, u64)]) -> Vec<(&str, u64, u64)> {
    let mut found: std::collections::BTreeMap<&str, (u64, u64)> = std::collections::BTreeMap::new();
    for (stack, count) in stacks {
        let frames: Vec<&str> = stack.split(';').collect();
        if let Some(innermost) = frames.last() {
            found.entry(innermost).or_default().0 += count;
        }
        // A function that calls itself counts once.
        for frame in frames.into_iter().collect::<std::collections::BTreeSet<_>>() {
            found.entry(frame).or_default().1 += count;
        }
    }
    let mut functions: Vec<(&str, u64, u64)> = found.into_iter().map(|(name, (own, all))| (name, own, all)).collect();
    functions.sort_by_key(|(_, _, all)| std::cmp::Reverse(*all));
    functions
}

fn page(results: &Results, svg: &str) -> Page {
    let mut page = Page::new(&format!("Flame graph: {}", results.system), &results.machine);
    page.paragraph(&format!(
        "{} samples of CPU time at {FREQUENCY} a second, {:.1} % of them in the kernel (frames that end in _[k]). Width is \
         CPU time; a frame stands on what called it. Click to look closer, Ctrl-F to search.",
        results.samples,
        results.kernel * 100.0
    ));
    page.framed(svg, &results.system.to_string());
    page.heading("Functions");
    let percent = |count: u64| number(Some(count as f64 * 100.0 / results.samples as f64), 1);
    page.table(
        &["function", "with what it calls %", "itself %"],
        functions(&results.stacks)
            .into_iter()
            .take(LISTED)
            .map(|(name, own, all)| vec![name.into(), percent(all), percent(own)]),
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_stacks_are_counted_by_function() {
        let folded = "srv;main;accept_[k] 3\nsrv;main;main;close_[k] 5\nno count\n";
        let stacks: Vec<(String, u64)> = stacks(folded).map(|(stack, count)| (stack.to_owned(), count)).collect();
        assert_eq!(stacks.len(), 2);
        let functions = functions(&stacks);
        assert_eq!(functions[0].2, 8);
        assert!(functions.contains(&("main", 0, 8)) && functions.contains(&("close_[k]", 5, 5)));
    }

    #[test]
    fn what_perf_prints_becomes_a_picture() {
        let script = b"vestibule 77/77 1.000: cpu-clock: \n\tffffffff81 tcp_close+0x1 ([kernel.kallsyms])\n\
                       \t7f01 main+0x2 (/usr/bin/vestibule)\n\n";
        let folded = fold(script).expect("it is what perf prints");
        assert_eq!(folded.trim(), "vestibule;main;tcp_close_[k] 1");
        assert!(draw(&folded, "a title").expect("it draws").contains("tcp_close"));
    }
}
