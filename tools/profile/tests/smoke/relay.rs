//! `relay`.

use std::process::Command;

use serde_json::Value;

use crate::programs::programs;
use crate::skip::record_skip;

/// A quick run and what came of it.
struct Run {
    said: String,
    json: Value,
    html: String,
}

impl Run {
    fn of(systems: &str, jobs: &str) -> Run {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut command = Command::new(programs().join("vestibule-profile"));
        command.args(["relay", "--quick", "--systems", systems, "--jobs", jobs]).current_dir(directory.path());
        let output = command.output().expect("the program was built");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect("it was written");
        let json = serde_json::from_str(&read("vestibule-relay.json")).expect("it is JSON");
        Run { said, json, html: read("vestibule-relay.html") }
    }

    /// Each of these jobs has a figure of each of these systems: nothing went wrong in any of their sessions.
    fn assert_measured(&self, systems: &str, jobs: &str) {
        assert!(!self.said.contains("left out"), "{}", self.said);
        let summaries = self.json["summaries"].as_array().expect("a list");
        for (job, system) in jobs.split(',').flat_map(|job| systems.split(',').map(move |system| (job, system))) {
            let found = summaries.iter().find(|one| one["job"] == job && one["system"] == system);
            let cost = found.and_then(|one| one["cost"]["median"].as_f64());
            // Few idle sessions of the floor fit in memory that it has had before.
            assert!(cost.is_some_and(|cost| cost > 0.0 || job == "idle"), "{job} {system}: {cost:?}\n{}", self.said);
        }
    }
}

const JOBS: &str = "short,short8,connect,chatter,bulk,idle,mixed";

#[test]
fn the_floor_and_tokio_relay_every_byte() {
    let run = Run::of("floor,tokio", JOBS);
    run.assert_measured("floor,tokio", JOBS);
    assert!(run.html.contains("<svg") && !run.html.contains("src=") && !run.html.contains("href="));
    let machine = &run.json["machine"];
    assert!(machine["kernel"].as_str().is_some_and(|kernel| kernel.starts_with("Linux ")), "{machine}");
    assert!(machine["vestibule"].as_str().is_some_and(|version| version.starts_with("vestibule ")), "{machine}");
}

#[test]
fn vestibule_relays_every_byte_and_is_judged() {
    let run = Run::of("vestibule,floor", &format!("{JOBS},scale"));
    run.assert_measured("vestibule", JOBS);
    let goals = run.json["goals"].as_array().expect("a list");
    assert!(goals.iter().any(|goal| goal["job"] == "short" && goal["beside"] == "floor (bare io_uring)"), "{goals:?}");
    let points = run.json["scale"].as_array().expect("a list");
    assert!(points.len() == 6 && points.iter().all(|point| point["cost"]["median"].is_f64()), "{points:?}");
}

#[test]
fn haproxy_is_measured() {
    measures("haproxy", "haproxy,haproxy-256k");
}

#[test]
fn nginx_is_measured() {
    measures("nginx", "nginx,nginx-256k");
}

/// A peer, if it is installed.
fn measures(peer: &str, systems: &str) {
    let run = Run::of(&format!("floor,{systems}"), JOBS);
    if run.said.contains("skipped: ") {
        return record_skip(peer);
    }
    run.assert_measured(peer, JOBS);
    run.assert_measured(systems, "bulk");
}
