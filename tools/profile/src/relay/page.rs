//! The report: goals, a picture and a table for each job, and how it was measured.

use std::fmt::Write as _;

use super::goals::FLAT;
use super::jobs::Job;
use super::results::{Latencies, Results, Summary};
use super::systems::System;
use crate::bench::Bench;
use crate::measure::DISTURBED;
use crate::report::plot::{self, Bar, Group};
use crate::report::{Cell, Page, number};
use crate::stats::Spread;

/// Columns of a job that is about memory.
const MEMORY_COLUMNS: usize = 4;

/// The whole report.
pub fn page(results: &Results, bench: &Bench) -> Result<Page, String> {
    let mut page = Page::new("Vestibule's relay beside its peers", &results.machine);
    goal_table(&mut page, results);
    for job in super::all_jobs() {
        let summaries: Vec<&Summary> = of(results, job).collect();
        if !summaries.is_empty() {
            job_part(&mut page, job, &summaries)?;
        }
    }
    scale_part(&mut page, results);
    method(&mut page, results, bench);
    Ok(page)
}

fn of(results: &Results, job: Job) -> impl Iterator<Item = &Summary> {
    results.summaries.iter().filter(move |summary| summary.job == job)
}

fn goal_table(page: &mut Page, results: &Results) {
    if results.goals.is_empty() {
        return;
    }
    page.heading("Goals");
    page.paragraph(
        "Vestibule's cost divided by that of the other, round by round: median, smallest and largest. In parentheses \
         stands what is measured where Vestibule is beside nobody.",
    );
    page.table(
        &["job", "beside", "at most", "measured", "min–max"],
        results.goals.iter().map(|goal| {
            let places = if goal.at_most >= 10.0 { 0 } else { 2 };
            vec![
                goal.job.to_string().into(),
                goal.beside.clone().into(),
                number(Some(goal.at_most), places),
                Cell::Verdict(goal.reached, format!("{:.places$}", goal.measured.median)),
                Cell::Number(range(goal.measured, places)),
            ]
        }),
    );
}

fn job_part(page: &mut Page, job: Job, summaries: &[&Summary]) -> Result<(), String> {
    page.heading(&format!("Job {job}: {}", job.words()));
    let mut sorted = summaries.to_vec();
    sorted.sort_by(|a, b| a.cost.median.total_cmp(&b.cost.median));
    let group = Group { title: job.unit().to_owned(), bars: sorted.into_iter().map(bar).collect() };
    page.figure(&plot::bars(&[group])?, caption(job));
    let disturbed = |part: f64| Cell::Verdict(part <= DISTURBED, format!("{:.0}", part * 100.0));
    let columns = ["system", job.unit(), "min–max", "Vestibule / this", "user", "own core %", "others %"];
    let shown = if job == Job::Idle { &columns[..MEMORY_COLUMNS] } else { &columns };
    page.table(
        shown,
        summaries.iter().map(|summary| {
            let mut row = vec![
                summary.system.to_string().into(),
                number(Some(summary.cost.median), job.places()),
                Cell::Number(range(summary.cost, job.places())),
                Cell::Number(summary.ratio.map_or_else(|| "–".to_owned(), |ratio| spread(ratio, 2))),
                number(Some(summary.user.median).filter(|user| *user > 0.0), job.places()),
                number(Some(summary.core.median * 100.0), 0),
                disturbed(summary.others_core.median),
            ];
            row.truncate(shown.len());
            row
        }),
    );
    latency_table(page, summaries);
    Ok(())
}

fn caption(job: Job) -> &'static str {
    match job {
        Job::Idle => "Median of the rounds; the line shows the smallest and the largest.",
        Job::Mixed => {
            "Median of the rounds; the line shows the smallest and the largest. The clients and the mail server of the \
             large answers have the lowest priority on their CPU."
        }
        _ => {
            "Median of the rounds; the line shows the smallest and the largest. The darker part of a bar is user mode."
        }
    }
}

fn bar(summary: &Summary) -> Bar {
    let places = summary.job.places();
    Bar {
        name: summary.system.to_string(),
        first: summary.user.median.min(summary.cost.median),
        whole: summary.cost.median,
        spread: (summary.cost.min, summary.cost.max),
        figure: format!("{:.places$}", summary.cost.median),
        colour: colour(summary.system),
        outlier: false,
    }
}

fn colour(system: System) -> usize {
    match system {
        System::Vestibule => 0,
        System::VestibuleEpoll => 5,
        System::Haproxy | System::HaproxyNolog | System::Haproxy256k => 1,
        System::Nginx | System::Nginx256k => 2,
        System::Tokio => 4,
        System::Floor => 6,
    }
}

fn latency_table(page: &mut Page, summaries: &[&Summary]) {
    let rows = |summary: &Summary, latencies: Option<Latencies>, name: &str| {
        let latencies = latencies?;
        Some(vec![
            Cell::from(format!("{}{name}", summary.system)),
            number(Some(latencies.p50.median), 0),
            number(Some(latencies.p99.median), 0),
            Cell::Number(range(latencies.p99, 0)),
            number(Some(latencies.p999.median), 0),
            number(Some(latencies.client_late_p99.median), 0),
        ])
    };
    let all: Vec<Vec<Cell>> = summaries
        .iter()
        .flat_map(|one| [rows(one, one.latency, ""), rows(one, one.beside_bulk, ", beside bulk")])
        .flatten()
        .collect();
    if !all.is_empty() {
        page.table(&["round trips", "p50 µs", "p99 µs", "p99 min–max", "p99.9 µs", "client late p99"], all);
    }
}

fn scale_part(page: &mut Page, results: &Results) {
    if results.scale.iter().all(|point| point.rounds.is_empty()) {
        return;
    }
    page.heading("Job scale: a short session as the rest grows");
    page.paragraph(
        "64 sessions at a time. One thing grows at a time; the ratio, round by round, is to the first of its kind.",
    );
    page.table(
        &["what", "how many", "CPU µs", "min–max", "ratio", "min–max"],
        results.scale.iter().filter_map(|point| {
            let (cost, ratio) = (point.cost?, point.ratio?);
            Some(vec![
                point.what.into(),
                Cell::Number(point.count.to_string()),
                number(Some(cost.median), 1),
                Cell::Number(range(cost, 1)),
                Cell::Verdict(ratio.median <= FLAT, format!("{:.2}", ratio.median)),
                Cell::Number(range(ratio, 2)),
            ])
        }),
    );
}

fn method(page: &mut Page, results: &Results, bench: &Bench) {
    page.heading("How it was measured");
    page.paragraph(&format!(
        "Relays on CPU {}, clients and mail server on CPU {}. A client sends a PROXY header of version 2 that names another \
         client each time; the relay sends a header of its own to one of {} servers (version 2, but nginx, which knows \
         version 1 only); the mail server greets the client that this header names, answers, and says goodbye. The client \
         compares every byte. A round counts only if nothing at all went wrong, client and mail server have counted the \
         same sessions and commands, and the session log has its lines.",
        bench.server_cpu,
        bench.client_cpu,
        super::systems::SERVERS
    ));
    page.paragraph(
        "CPU is that of all processes and threads of the relay and of the kernel's thread for soft interrupts on its CPU, \
         kernel included. It holds the work of the receivers' side of TCP for what the relay sends, as loopback has it. Own \
         core: the part of its CPU that the relay used. Others: what other programs used of it meanwhile; where it is more \
         than a few percent the figures are too high.",
    );
    page.paragraph(&format!(
        "Idle: {} sessions; resident memory and page tables of the relay's processes, less those with 16 sessions. Of \
         Vestibule it is everything that it has beyond a daemon of the same settings that relays nothing, if that is more. \
         The kernel's socket buffers are not in it; they are the same for all. Chatter: {} sessions, {} round trips a \
         second, from the moment when a message was due. Bulk: answers of {} MiB.",
        results.extent.idle,
        results.extent.chatters,
        results.extent.chatter_rate,
        results.extent.answer >> 20
    ));
    page.paragraph(&format!(
        "Vestibule: one ring, session log, counters, timers and leastconn. HAProxy: mode tcp, one thread, leastconn, its \
         session log (option tcplog) to a file; without it for information. nginx: one worker, least_conn, access log to a \
         file. Where 256 KiB stands: `tune.bufsize 262144` and `proxy_buffer_size 256k`. tokio: one thread, \
         copy_bidirectional. The floor: multishot poll, then recv(2) and send(2) with one buffer of 256 KiB for all; it \
         parses, chooses, times and logs nothing. Within a round the systems of a job come in an order that is shuffled \
         (seed {}).",
        results.order_seed
    ));
    page.table(
        &["program", "version"],
        results.versions.iter().map(|(system, version)| vec![system.to_string().into(), version.clone().into()]),
    );
    page.left_out(results.failures());
}

/// The summary for the terminal, in the form of Markdown tables.
pub fn text(results: &Results) -> String {
    let mut text = String::from(
        "\n| job | system | cost (min-max) | unit | user | own core % | others % | Vestibule / this | p50 us | p99 us | beside bulk p99 us |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for summary in &results.summaries {
        let places = summary.job.places();
        let micros =
            |value: Option<Spread>| value.map_or_else(|| "-".to_owned(), |value| format!("{:.0}", value.median));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.places$} | {:.0} | {:.0} | {} | {} | {} | {} |",
            summary.job,
            summary.system,
            spread(summary.cost, places),
            summary.job.unit().replace('µ', "u"),
            summary.user.median,
            summary.core.median * 100.0,
            summary.others_core.median * 100.0,
            summary.ratio.map_or_else(|| "-".to_owned(), |ratio| spread(ratio, 2)),
            micros(summary.latency.map(|latency| latency.p50)),
            micros(summary.latency.map(|latency| latency.p99)),
            micros(summary.beside_bulk.map(|latency| latency.p99)),
        );
    }
    if !results.scale.is_empty() {
        text.push_str("\n| scale | how many | CPU us/session (min-max) | ratio to the first |\n|---|---|---|---|\n");
    }
    for point in &results.scale {
        let (Some(cost), Some(ratio)) = (point.cost, point.ratio) else { continue };
        let _ = writeln!(text, "| {} | {} | {} | {} |", point.what, point.count, spread(cost, 1), spread(ratio, 2));
    }
    text.push('\n');
    for goal in &results.goals {
        let places = if goal.at_most >= 10.0 { 0 } else { 2 };
        let _ = writeln!(
            text,
            "goal: {} beside {}: {} (at most {:.places$}): {}",
            goal.job,
            goal.beside.replace('µ', "u"),
            spread(goal.measured, places),
            goal.at_most,
            if goal.reached { "reached" } else { "missed" }
        );
    }
    text
}

fn spread(spread: Spread, places: usize) -> String {
    format!("{:.places$} ({})", spread.median, range(spread, places))
}

fn range(spread: Spread, places: usize) -> String {
    format!("{:.places$}–{:.places$}", spread.min, spread.max)
}
