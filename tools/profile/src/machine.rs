//! Where and how a measurement was made: what stands on every report.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde::Serialize;

/// The machine and the run.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The model, and whether it is virtual.
    pub cpu: String,
    /// CPUs of the machine.
    pub cpus: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Name and release.
    pub kernel: String,
    /// Of the source tree that this program was built in, with `-dirty` if it differs; `unknown` outside of one.
    pub commit: String,
    /// `release` or `debug`.
    pub build: &'static str,
    /// The command line, as typed.
    pub command: String,
    /// When, in UTC.
    pub date: String,
}

impl Machine {
    /// This one, now.
    pub fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let uname = rustix::system::uname();
        Machine {
            cpu: cpu(&cpuinfo),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_mib: memory_mib(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            commit: commit(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            command: command(std::env::args()),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }

    /// Name and value of everything, for people.
    pub fn rows(&self) -> [(&'static str, String); 6] {
        [
            ("machine", format!("{}, {} CPUs, {} MiB", self.cpu, self.cpus, self.memory_mib)),
            ("kernel", self.kernel.clone()),
            ("commit", self.commit.clone()),
            ("build", self.build.to_owned()),
            ("command", self.command.clone()),
            ("date", self.date.clone()),
        ]
    }
}

fn cpu(cpuinfo: &str) -> String {
    let value = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim())
    };
    let model = value("model name").or_else(|| value("Model")).unwrap_or("unknown CPU");
    let is_virtual = value("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    if is_virtual { format!("{model} (virtual machine)") } else { model.to_owned() }
}

fn memory_mib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn commit() -> String {
    let executable = std::env::current_exe().unwrap_or_default();
    let directory = executable.parent().unwrap_or(Path::new("."));
    let ask = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = ask(&["rev-parse", "--short=10", "HEAD"]) else { return "unknown".to_owned() };
    let top = ask(&["rev-parse", "--show-toplevel"]).unwrap_or_default();
    let changed = ask(&["-C", &top, "status", "--porcelain", "--untracked-files=no"]);
    if changed.is_some_and(|files| files.is_empty()) { commit } else { commit + "-dirty" }
}

/// The program by its name only: where it is kept is nobody's business.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = arguments.collect();
    if let Some(program) = words.first_mut() {
        *program =
            Path::new(program.as_str()).file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_has_a_name_and_may_be_virtual() {
        let text = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu hypervisor sse\n";
        assert_eq!(cpu(text), "Some CPU (virtual machine)");
        assert_eq!(cpu(&text.replace("hypervisor", "apic")), "Some CPU");
        assert_eq!(cpu(""), "unknown CPU");
        assert_eq!(memory_mib("MemTotal:       2048000 kB\n"), 2000);
    }

    #[test]
    fn the_command_line_has_no_directories() {
        let words = ["/opt/bin/vestibule-profile", "compare", "--quick"].map(String::from);
        assert_eq!(command(words.into_iter()), "vestibule-profile compare --quick");
    }
}
