//! Tests that lack something say so, past the test runner's capture, and `./tests/run` counts them.

use std::io::Write;

/// Says that the running test is skipped, and notes it for the closing line of `tests/run`, which subtracts it from the
/// passed ones.
pub fn record_skip(what: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "skipped: needs {what} ({test})");
    if let Some(file) = std::env::var_os("VESTIBULE_SKIPS") {
        let line = format!("{test}: needs {what}\n");
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the file for skips, named by VESTIBULE_SKIPS, can be written");
    }
}
