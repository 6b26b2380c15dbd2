//! The wall clock steps; deadlines do not notice. The daemon's own view of CLOCK_REALTIME is changed by libfaketime while it
//! runs, CLOCK_MONOTONIC stays true.

use std::path::Path;
use std::time::Duration;

use crate::skip;
use crate::support::client::{Client, TRUSTED, loopback};
use crate::support::daemon::{Daemon, counted, haproxy_configuration};
use crate::support::{find_library, free_port, header, temp_dir};

/// `haproxy_timeout` of the test. A deadline that follows the steps of the clock comes before it, or not for years.
const DEADLINE: Duration = Duration::from_secs(1);

#[test]
fn a_step_of_the_wall_clock_moves_no_deadline() {
    let Some(library) = find_library("faketime/libfaketime.so.1") else { skip!("faketime") };
    let directory = temp_dir();
    let clock = directory.path().join("clock");
    set(&clock, "+0d");
    let port = free_port();
    let environment = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let wrapper: Vec<&str> = environment.iter().map(String::as_str).collect();
    let daemon = Daemon::start_under(
        &wrapper,
        &haproxy_configuration(port, "haproxy_timeout = 1 secs", "defer_accept = no"),
        &[port],
    );
    for step in ["+4000d", "-4000d", "+0d"] {
        let silent = Client::connect(TRUSTED, loopback(port));
        let half = Client::send_to(loopback(port), b"PROXY TCP4 ");
        std::thread::sleep(Duration::from_millis(300));
        set(&clock, step);
        assert_eq!(Client::send_to(loopback(port), &header::local()).whoami()["command"], "LOCAL", "{step}");
        for (what, client) in [("silent", silent), ("half a header", half)] {
            let (_, _, took) = client.read_to_end();
            assert!(took >= DEADLINE, "{what}: ended after {took:?}, the clock stepped by {step}");
        }
        // The step was real: the log's own dates show it.
        assert_eq!(Client::send_to(loopback(port), step.as_bytes()).read_to_end().0, b"");
    }
    let log = daemon.stop();
    let years: Vec<i32> = log.lines().filter_map(|line| line.get(..5)?.strip_suffix('-')?.parse().ok()).collect();
    let (first, last) = (years.iter().min().expect("dates"), years.iter().max().expect("dates"));
    assert!(last - first >= 10, "the log knows of years {years:?}:\n{log}");
    for (name, count) in [("silent", 3), ("timeout", 3), ("absent", 3), ("local", 3)] {
        assert_eq!(counted(&log, name), Some(count), "{name} in\n{log}");
    }
}

fn set(clock: &Path, offset: &str) {
    // By a rename: the library must not find it empty.
    let next = clock.with_extension("next");
    std::fs::write(&next, offset).and_then(|()| std::fs::rename(&next, clock)).expect("the clock can be set");
}
