//! The program: `cli` is its command line, `daemon` what `serve` runs; `main` is `match run()`.

use std::process::ExitCode;

use daemon::print;

mod cli;
mod daemon;
mod hex;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            if !print::is_unread(&error) {
                print::complain(format_args!("vestibule: {error}"));
            }
            ExitCode::FAILURE
        }
    }
}
