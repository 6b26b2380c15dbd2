//! The program: `cli` is its command line, `daemon` what `serve` runs; `main` is `match run()`.

use std::process::ExitCode;

mod cli;
mod daemon;
mod hex;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vestibule: {error}");
            ExitCode::FAILURE
        }
    }
}
