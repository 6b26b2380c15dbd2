//! What packages bring beside the program: rules and dashboard for Prometheus, filter and jail for fail2ban.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use vestibule::metrics::{Kind, families};

use crate::needs;
use crate::support::client::{Client, address};
use crate::support::daemon::Daemon;
use crate::support::process::run;
use crate::support::{header, temp_dir};

fn packaged(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("packaging").join(name)
}

/// Every name that a sample may have.
fn sample_names() -> BTreeSet<String> {
    let of = |family: &&&'static families::Family| {
        let name = family.sample_name();
        match family.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).to_vec(),
            _ => vec![name],
        }
    };
    families::ALL.iter().flat_map(|family| of(&family)).collect()
}

/// The words of a text that name a metric of ours.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("vestibule_") || word.starts_with("process_")).collect()
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_there_are() {
    let known = sample_names();
    for name in ["prometheus/vestibule.rules.yml", "prometheus/dashboard.json"] {
        let text = std::fs::read_to_string(packaged(name)).expect("it is there");
        let named = metrics_in(&text);
        let unknown: Vec<_> = named.iter().filter(|word| !known.contains(**word)).collect();
        assert!(named.len() >= 10 && unknown.is_empty(), "{name}: {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_json_whose_panels_all_ask_for_something() {
    let text = std::fs::read_to_string(packaged("prometheus/dashboard.json")).expect("it is there");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(!targets.is_empty() && targets.iter().all(|target| target["expr"].is_string()), "{panel}");
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_the_rules() {
    needs!("promtool");
    let mut check = Command::new("promtool");
    check.args(["check", "rules"]).arg(packaged("prometheus/vestibule.rules.yml"));
    let done = run(check, b"");
    assert_eq!(done.code, Some(0), "{done:?}");
}

/// The example of the documents is the file of the package, and it finds the client and never the balancer.
#[test]
fn fail2ban_finds_clients_beyond_a_limit_and_nobody_else() {
    needs!("fail2ban-regex");
    let (daemon, listener) = Daemon::haproxy("client_rate_limit = 2\nclient_rate_period = 1 hours", "");
    let of = |client: &str| header::v2(address(client), address("192.0.2.1:143"), &[]);
    for _ in 0..3 {
        Client::send_to(listener, &of("198.51.100.7:5000")).read_to_end();
    }
    // The balancer's own fault, which must not be held against it.
    Client::send_to(listener, b"GET / HTTP/1.1\r\n\r\n").read_to_end();
    daemon.wait_for_output("reason=client-rate-limit");
    daemon.wait_for_output("reason=absent");
    let directory = temp_dir();
    let log = directory.path().join("log");
    let lines: String =
        daemon.output().lines().filter(|line| line.contains("haproxy: ")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&log, lines).expect("it is ours");
    let mut check = Command::new("fail2ban-regex");
    check.args(["--print-all-matched"]).arg(&log).arg(packaged("fail2ban/vestibule-filter.conf"));
    let done = run(check, b"");
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("1 matched"), "{}", done.stdout);
    assert!(
        done.stdout.contains("rip=198.51.100.7") && !done.stdout.contains("Matched line(s) : 2"),
        "{}",
        done.stdout
    );
}
