//! Finds out whether the compiler has what is younger than the oldest one that will do.

use std::env;
use std::process::Command;

/// `core::hint::cold_path` came with Rust 1.95.
const COLD_PATH: u32 = 95;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(vestibule_cold_path)");
    if minor().is_some_and(|minor| minor >= COLD_PATH) {
        println!("cargo::rustc-cfg=vestibule_cold_path");
    }
}

/// Of `rustc 1.95.0 (...)` the second number.
fn minor() -> Option<u32> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).split('.').nth(1)?.parse().ok()
}
