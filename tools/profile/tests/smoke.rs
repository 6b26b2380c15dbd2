//! The comparison on this host, with whatever peers are installed: short, and only whether it works.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Our own programs lie beside each other; the root package's and the load generator's may not have been built.
fn beside(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_vestibule-profile")).with_file_name(name);
    path.is_file().then_some(path)
}

#[test]
fn compare_writes_a_report_that_stands_alone() {
    for name in ["vestibule", "vestibule-load"] {
        if beside(name).is_none() {
            eprintln!("skipped: needs {name} beside this test: cargo build --workspace");
            return;
        }
    }
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let prefix = directory.path().join("report");
    let picture = directory.path().join("picture.svg");
    let output = Command::new(env!("CARGO_BIN_EXE_vestibule-profile"))
        .args(["compare", "--quick", "--systems", "vestibule,floor,haproxy,nginx,tokio"])
        .arg("--output")
        .arg(&prefix)
        .arg("--svg")
        .arg(&picture)
        .output()
        .expect("the program was built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // Not installed is a visible skip; anything else that is left out is a failure.
    assert!(!said.contains("left out"), "{said}");
    for line in said.lines().filter(|line| line.contains("skipped: ")) {
        eprintln!("{line}");
    }
    let json = std::fs::read_to_string(prefix.with_extension("json")).expect("it was written");
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    let summaries = json["summaries"].as_array().expect("a list");
    let ours = summaries.iter().filter(|one| one["system"]["program"] == "vestibule").count();
    assert_eq!(ours, 4, "two jobs, with and without TCP_DEFER_ACCEPT: {said}");
    for summary in summaries {
        assert!(summary["cpu_us"]["median"].as_f64().is_some_and(|cpu| cpu > 0.0), "{summary}");
        assert!(summary["ratio_equal"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{summary}");
    }
    assert!(json["machine"]["kernel"].as_str().is_some_and(|kernel| kernel.starts_with("Linux ")));
    let html = std::fs::read_to_string(prefix.with_extension("html")).expect("it was written");
    assert!(html.contains("<svg") && !html.contains("src=") && !html.contains("href="));
    assert!(std::fs::read_to_string(picture).expect("it was written").contains("prefers-color-scheme"));
}
