//! The report of a comparison: pictures, tables, and how it was measured.

use std::fmt::Write as _;

use super::results::{Results, Summary};
use crate::bench::Bench;
use crate::load::CURVE;
use crate::measure::DISTURBED;
use crate::report::plot::{self, Bar, Group, Line};
use crate::report::{Cell, Page, number};
use crate::stats::Spread;
use crate::systems::{Job, Program};

const JOBS: [(Job, &str); 4] = [
    (Job::Discard, "Job discard: read the header, dispatch, close without an answer"),
    (Job::Whoami, "Job whoami: the same with one line of answer"),
    (Job::Refuse, "Job refuse: a peer outside the trusted networks, closed unread"),
    (Job::HandOff, "Job handoff: read the header, pass the descriptor to a second process, which closes it"),
];

/// The bars.
pub fn picture(results: &Results) -> Result<String, String> {
    let group = |job: Job, defer: bool| {
        let mut found: Vec<&Summary> = of_job(results, job).filter(|summary| summary.system.defer == defer).collect();
        found.sort_by(|a, b| a.cpu_us.median.total_cmp(&b.cpu_us.median));
        let title =
            format!("{job}, {} TCP_DEFER_ACCEPT: server CPU a connection", if defer { "with" } else { "without" });
        Group { title, bars: found.into_iter().map(bar).collect() }
    };
    let groups = JOBS.iter().flat_map(|(job, _)| [group(*job, true), group(*job, false)]);
    plot::bars(&groups.filter(|group| !group.bars.is_empty()).collect::<Vec<_>>())
}

fn bar(summary: &Summary) -> Bar {
    Bar {
        name: summary.name.clone(),
        first: summary.user_us.median.min(summary.cpu_us.median),
        whole: summary.cpu_us.median,
        spread: (summary.cpu_us.min, summary.cpu_us.max),
        figure: format!("{:.1} µs", summary.cpu_us.median),
        colour: colour(summary.system.program),
        // It does more for a connection than the others: it makes ready for a login.
        outlier: summary.system.program == Program::Dovecot,
    }
}

fn label(summary: &Summary) -> String {
    format!("{}{}", summary.name, if summary.system.defer { ", defer" } else { "" })
}

fn colour(program: Program) -> usize {
    match program {
        Program::Vestibule => 0,
        Program::VestibuleEpoll | Program::VestibuleBeside => 5,
        Program::Haproxy => 1,
        Program::Nginx => 2,
        Program::Dovecot => 3,
        Program::Tokio => 4,
        Program::Floor | Program::FloorInFull => 6,
    }
}

fn of_job(results: &Results, job: Job) -> impl Iterator<Item = &Summary> {
    results.summaries.iter().filter(move |summary| summary.system.job == job)
}

/// The whole report.
pub fn page(results: &Results, picture: &str, bench: &Bench) -> Result<Page, String> {
    let mut page = Page::new("Vestibule beside its peers", &results.machine);
    page.heading("Server CPU a connection");
    page.paragraph(
        "Microseconds of CPU time that all processes and threads of the server used, and the kernel's thread for soft \
         interrupts on its CPU, divided by the connections served; the kernel's work in their name is included. Median of the rounds; the line shows the smallest and the largest. \
         The darker part of a bar is user mode.",
    );
    page.figure(picture, "Compare bars with the same setting. A bar with a gap is longer than drawn.");
    for (job, title) in JOBS {
        if of_job(results, job).next().is_some() {
            page.heading(title);
            cost_table(&mut page, results, job);
        }
    }
    page.paragraph(
        "Switches: context switches a connection. Others: the part of the server's CPU that went to other programs \
         meanwhile; where it is more than a few percent the figures are too high. Ratio: Vestibule's CPU time divided by \
         that of the system, within each round: below 1 Vestibule is cheaper.",
    );
    goal_table(&mut page, results);
    latency_part(&mut page, results)?;
    method(&mut page, results, bench);
    Ok(page)
}

fn cost_table(page: &mut Page, results: &Results, job: Job) {
    let columns = [
        "system",
        "CPU µs",
        "min–max",
        "user",
        "kernel",
        "switches",
        "others %",
        "ratio, same defer",
        "ratio, as it comes",
    ];
    page.table(
        &columns,
        of_job(results, job).map(|summary| {
            let others = summary.others_core.median;
            vec![
                label(summary).into(),
                number(Some(summary.cpu_us.median), 1),
                Cell::Number(range(summary.cpu_us, 1)),
                number(Some(summary.user_us.median), 1),
                number(Some(summary.system_us.median), 1),
                number(Some(summary.switches.median), 2),
                Cell::Verdict(others <= DISTURBED, format!("{:.0}", others * 100.0)),
                ratio(summary.ratio_equal),
                ratio(summary.ratio_default),
            ]
        }),
    );
    page.table(
        &["system", "connections /s", "client's core %", "PSS MiB", "RSS MiB"],
        of_job(results, job).map(|summary| {
            vec![
                label(summary).into(),
                number(Some(summary.rate.median), 0),
                number(Some(summary.client_core.median * 100.0), 0),
                number(Some(summary.pss_kib.median / 1024.0), 1),
                number(Some(summary.rss_kib.median / 1024.0), 1),
            ]
        }),
    );
}

fn goal_table(page: &mut Page, results: &Results) {
    if results.goals.is_empty() {
        return;
    }
    page.heading("Goals");
    page.paragraph(
        "Server CPU of Vestibule divided by that of the other, round by round. Judged is Vestibule as it comes, with \
         TCP_DEFER_ACCEPT; beside it stands the ratio with the other's setting.",
    );
    page.table(
        &["job", "beside", "its defer", "at most", "as it comes", "same defer"],
        results.goals.iter().map(|goal| {
            vec![
                goal.job.to_string().into(),
                goal.program.to_string().into(),
                yes_no(goal.defer),
                number(Some(goal.at_most), 2),
                Cell::Verdict(goal.reached, spread(goal.ratio, 2)),
                ratio(goal.ratio_equal),
            ]
        }),
    );
}

fn latency_part(page: &mut Page, results: &Results) -> Result<(), String> {
    if results.latency_rate == 0.0 {
        return Ok(());
    }
    page.heading("Latency");
    page.paragraph(&format!(
        "Open loop, {:.0} connections a second for all (Dovecot at most half of what it can do), from the moment a \
         connection should have started, so that waiting clients count in full. With the job discard until the end of the \
         connection, with whoami until the first byte of the answer. Medians of the rounds. Client late: how late the \
         client itself was with its starts, which is part of the latencies; in time: of those connections that it started \
         within 100 µs of their time. CPU: of the server a connection at this rate; \
         with less to do at a time, every server wakes up more often for each.",
        results.latency_rate
    ));
    for (job, title) in JOBS {
        let lines: Vec<Line> = of_job(results, job).filter_map(line).collect();
        if lines.is_empty() {
            continue;
        }
        page.figure(&plot::percentiles(&lines, "microseconds")?, title);
        page.table(
            &[
                "system",
                "until",
                "rate /s",
                "p50 µs",
                "p99 µs",
                "p99 min–max",
                "p99.9 µs",
                "client late p99",
                "p99 in time µs",
                "CPU µs",
            ],
            of_job(results, job).filter_map(|summary| {
                let latency = summary.latency.as_ref()?;
                Some(vec![
                    label(summary).into(),
                    Cell::Number(latency.until.to_owned()),
                    number(Some(latency.rate), 0),
                    number(Some(latency.p50.median), 0),
                    number(Some(latency.p99.median), 0),
                    Cell::Number(range(latency.p99, 0)),
                    number(Some(latency.p999.median), 0),
                    number(Some(latency.start_lag_p99.median), 0),
                    Cell::Number(spread(latency.p99_in_time, 0)),
                    number(Some(latency.cpu_us.median), 1),
                ])
            }),
        );
    }
    Ok(())
}

/// Systems with TCP_DEFER_ACCEPT would hide those without.
fn line(summary: &Summary) -> Option<Line> {
    let curve = &summary.latency.as_ref()?.curve;
    let points = CURVE.iter().zip(curve).map(|(quantile, micros)| (1.0 / (1.0 - quantile), micros.max(1.0))).collect();
    let colour = colour(summary.system.program);
    let twin = summary.system.defer
        && matches!(
            summary.system.program,
            Program::Vestibule
                | Program::VestibuleBeside
                | Program::VestibuleEpoll
                | Program::Floor
                | Program::FloorInFull
        );
    (!twin).then(|| Line { name: label(summary), points, colour })
}

fn method(page: &mut Page, results: &Results, bench: &Bench) {
    page.heading("How it was measured");
    page.paragraph(
        "On loopback the client's core pays for most of the TCP handshake, so connections a second measure the load \
         generator: judge by the server's CPU time. Every round starts every server afresh, pinned to one core, serves it \
         2,000 connections whose answers are checked, and then measures it. Ratios are taken within a round, so that a \
         machine that becomes slower does not shift them.",
    );
    page.paragraph(&format!(
        "Within a round the servers come one after another, in an order that is shuffled for each round (seed {}): none \
         always follows the same one. A round in which more than one connection in a thousand was lost is none: its \
         server is left out from there on. Those lost in the others have no part in the latencies.",
        results.order_seed
    ));
    page.paragraph(&format!(
        "Servers on CPU {}, clients on CPU {}. The floor is a program on the same ring as Vestibule's: multishot accept, \
         getpeername, one read, close; it neither parses nor dispatches, and answers with MSG_MORE before the close. \
         For the job refuse it closes what it has accepted; for handoff it passes each descriptor through a socket of \
         AF_UNIX to a second process, whose CPU time counts with its own. The floor in full does what the job demands as well: it decides whether \
         the peer is trusted, gives the header a deadline, decodes it, counts, writes the answer, and keeps what it hands off \
         until the receiver has said that it is taken.",
        bench.server_cpu, bench.client_cpu
    ));
    page.table(
        &["program", "version"],
        results.versions.iter().map(|(program, version)| vec![program.to_string().into(), version.clone().into()]),
    );
    page.left_out(results.measured.iter().filter_map(|one| Some((one.to_string(), one.failure.as_deref()?))));
}

/// The summary for the terminal, in the form of a Markdown table.
pub fn text(results: &Results) -> String {
    let mut text = String::from(
        "\n| job | system | defer | CPU us/conn (min-max) | user | kernel | switches | others % | Vestibule / this, same defer | \
         as it comes | PSS MiB | conn/s | p50 us | p99 us | p99.9 us | p99 in time us | CPU us at that rate |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for summary in &results.summaries {
        let latency = summary.latency.as_ref().map_or("- | - | - | - | -".to_owned(), |latency| {
            let (p50, p99, p999) = (latency.p50.median, latency.p99.median, latency.p999.median);
            let (in_time, cpu) = (spread(latency.p99_in_time, 0), spread(latency.cpu_us, 1));
            format!("{p50:.0} | {p99:.0} | {p999:.0} | {in_time} | {cpu}")
        });
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.1} | {:.1} | {:.2} | {:.0} | {} | {} | {:.1} | {:.0} | {latency} |",
            summary.system.job,
            summary.name,
            if summary.system.defer { "yes" } else { "no" },
            spread(summary.cpu_us, 1),
            summary.user_us.median,
            summary.system_us.median,
            summary.switches.median,
            summary.others_core.median * 100.0,
            summary.ratio_equal.map_or("-".to_owned(), |ratio| spread(ratio, 2)),
            summary.ratio_default.map_or("-".to_owned(), |ratio| spread(ratio, 2)),
            summary.pss_kib.median / 1024.0,
            summary.rate.median,
        );
    }
    for goal in &results.goals {
        let _ = writeln!(
            text,
            "goal: {} beside {}{}: {} (at most {:.2}): {}",
            goal.job,
            goal.program,
            if goal.defer { " with defer" } else { "" },
            spread(goal.ratio, 2),
            goal.at_most,
            if goal.reached { "reached" } else { "missed" }
        );
    }
    text
}

fn yes_no(yes: bool) -> Cell {
    Cell::Number(if yes { "yes" } else { "no" }.to_owned())
}

fn ratio(spread: Option<Spread>) -> Cell {
    Cell::Number(spread.map_or_else(|| "–".to_owned(), |spread| self::spread(spread, 2)))
}

fn spread(spread: Spread, places: usize) -> String {
    format!("{:.places$} ({})", spread.median, range(spread, places))
}

fn range(spread: Spread, places: usize) -> String {
    format!("{:.places$}–{:.places$}", spread.min, spread.max)
}
