//! `compare`.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::programs::programs;
use crate::skip::record_skip;

/// A short comparison and what came of it.
struct Comparison {
    directory: TempDir,
    said: String,
    json: Value,
}

impl Comparison {
    fn of(systems: &str, arguments: &[&str]) -> Comparison {
        Comparison::interrupted(None, &[&["--quick", "--systems", systems], arguments].concat())
    }

    /// Ended by SIGINT, where one is given, as soon as the program says that.
    fn interrupted(at: Option<&str>, arguments: &[&str]) -> Comparison {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut command = Command::new(programs().join("vestibule-profile"));
        command.arg("compare").args(arguments).current_dir(directory.path());
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the program was built");
        let pid = Pid::from_child(&child);
        let mut said = String::new();
        for line in BufReader::new(child.stderr.take().expect("a pipe")).lines() {
            said += &(line.expect("UTF-8") + "\n");
            if at.is_some_and(|words| said.lines().last().is_some_and(|line| line.contains(words))) {
                kill_process(pid, Signal::INT).expect("it is our child");
            }
        }
        assert!(child.wait().expect("it is our child").success(), "{said}");
        let json = std::fs::read(directory.path().join("vestibule-compare.json")).expect("it was written");
        Comparison { directory, said, json: serde_json::from_slice(&json).expect("it is JSON") }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).expect("it was written")
    }

    fn summaries(&self, program: &str) -> Vec<&Value> {
        let all = self.json["summaries"].as_array().expect("a list");
        all.iter().filter(|one| one["system"]["program"] == program).collect()
    }

    /// So many settings of a program, all of them with figures.
    fn assert_measured(&self, program: &str, settings: usize) {
        assert!(!self.said.contains("left out"), "{}", self.said);
        let summaries = self.summaries(program);
        assert_eq!(summaries.len(), settings, "{}", self.said);
        for summary in summaries {
            assert!(summary["cpu_us"]["median"].as_f64().is_some_and(|cpu| cpu > 0.0), "{summary}");
            assert!(summary["ratio_equal"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{summary}");
        }
    }
}

#[test]
fn compare_writes_a_report_that_stands_alone() {
    let comparison = Comparison::of("vestibule,floor,tokio", &["--svg", "picture.svg"]);
    // Three jobs with and without TCP_DEFER_ACCEPT, which tokio has not, nor a refusal; and handoff.
    for (program, settings) in [("vestibule", 7), ("floor", 7), ("tokio", 2)] {
        comparison.assert_measured(program, settings);
        for summary in comparison.summaries(program) {
            assert!(summary["latency"]["p99"]["median"].as_f64().is_some_and(|micros| micros > 0.0), "{summary}");
        }
    }
    let machine = &comparison.json["machine"];
    assert!(machine["kernel"].as_str().is_some_and(|kernel| kernel.starts_with("Linux ")), "{machine}");
    let daemon = Command::new(programs().join("vestibule")).arg("--version").output().expect("it was built");
    let daemon = String::from_utf8_lossy(&daemon.stdout);
    assert_eq!(machine["vestibule"], daemon.trim(), "what was measured says what it is");
    let html = comparison.read("vestibule-compare.html");
    assert!(html.contains("<svg") && !html.contains("src=") && !html.contains("href="));
    assert!(html.contains(daemon.trim()));
    assert!(comparison.read("picture.svg").contains("prefers-color-scheme"));
}

#[test]
fn compare_measures_haproxy() {
    measures("haproxy", 2);
}

#[test]
fn compare_measures_nginx() {
    measures("nginx", 1);
}

/// A peer with so many settings for the job discard, if it is installed.
fn measures(peer: &str, settings: usize) {
    let comparison = Comparison::of(&format!("vestibule,{peer}"), &["--jobs", "discard", "--rate", "0"]);
    if comparison.said.contains("skipped: ") {
        return record_skip(peer);
    }
    comparison.assert_measured(peer, settings);
}

#[test]
fn what_fails_while_latencies_are_taken_is_left_out_and_the_rest_is_reported() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let refusing = directory.path().join("refusing");
    let load = programs().join("vestibule-load");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--rate*) echo no such luck >&2; exit 2;; esac\nexec '{}' \"$@\"\n",
        load.display()
    );
    std::fs::write(&refusing, script).expect("it can be written");
    std::fs::set_permissions(&refusing, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let refusing = refusing.to_str().expect("UTF-8");
    let comparison = Comparison::of("floor", &["--jobs", "discard", "--load", refusing]);
    assert_eq!(comparison.summaries("floor").len(), 2, "what was measured before stays: {}", comparison.said);
    let measured = comparison.json["measured"].as_array().expect("a list");
    assert_eq!(measured.len(), 2);
    for one in measured {
        assert!(one["failure"].as_str().is_some_and(|failure| failure.contains("no such luck")), "{one}");
    }
    let html = comparison.read("vestibule-compare.html");
    assert!(html.contains("Left out") && html.contains("no such luck"), "{}", comparison.said);
}

#[test]
fn an_interrupted_comparison_reports_what_it_has() {
    let arguments = ["--rounds", "2", "-d", "200ms", "--jobs", "discard", "--systems", "floor"];
    let comparison = Comparison::interrupted(Some("latency 1/2"), &arguments);
    let measured = comparison.json["measured"].as_array().expect("a list");
    let rounds = |key: &str| measured.iter().map(|one| one[key].as_array().expect("a list").len()).sum::<usize>();
    assert_eq!((rounds("rounds"), rounds("latencies")), (2 * 2, 1), "{}", comparison.said);
    assert!(comparison.read("vestibule-compare.html").contains("was interrupted"), "{}", comparison.said);
}
