//! Chromium without a screen.

use std::path::Path;
use std::process::Command;

use super::process::run;
use super::temp_dir;

/// The program.
pub const CHROMIUM: &str = "chromium";

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

/// The document after its scripts have run for a while of the browser's own time.
pub fn document(url: &str) -> String {
    let profile = temp_dir();
    let mut command = chromium(Look { width: 1600, height: 1200, dark: false }, profile.path());
    command.args(["--dump-dom", url]);
    let done = run(command, b"");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done.stdout
}

/// A picture of the page.
pub fn picture(url: &str, look: Look, file: &Path) {
    let profile = temp_dir();
    let mut command = chromium(look, profile.path());
    command.arg(format!("--screenshot={}", file.display())).arg(url);
    let done = run(command, b"");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

fn chromium(look: Look, profile: &Path) -> Command {
    // It ends by itself; the limit is for a machine on which it hangs.
    let mut command = Command::new("timeout");
    command.args([
        "--kill-after=5",
        "120",
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
    ]);
    command.args(["--no-first-run", "--disable-extensions", "--disable-background-networking", "--no-proxy-server"]);
    command.arg("--virtual-time-budget=12000").arg(format!("--user-data-dir={}", profile.display()));
    command.arg(format!("--window-size={},{}", look.width, look.height));
    command.arg(format!("--blink-settings=preferredColorScheme={}", if look.dark { 0 } else { 1 }));
    command
}
