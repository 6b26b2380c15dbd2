//! Where and how a measurement was made: what stands on every report.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use crate::systems::Tools;

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
    /// The Vestibule under measurement with the commit that it was built from: what the daemon's own file says, or, where
    /// the engine runs within this program, this program's.
    pub vestibule: String,
    /// `release` or `debug`: this program, and what is usually built with it.
    pub build: &'static str,
    /// The command line, as typed.
    pub command: String,
    /// When, in UTC.
    pub date: String,
}

impl Machine {
    /// This one, now, and the daemon of `tools`.
    pub fn here(tools: &Tools) -> Machine {
        Machine::with(tools.daemon_version())
    }

    /// This one, now, and the engine within this program.
    pub fn with_own_engine() -> Machine {
        Machine::with(format!("engine {}", vestibule::VERSION))
    }

    fn with(vestibule: String) -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let uname = rustix::system::uname();
        Machine {
            cpu: cpu(&cpuinfo),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_mib: memory_mib(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            vestibule,
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            command: command(std::env::args()),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }

    /// One for tests.
    #[cfg(test)]
    pub fn test() -> Machine {
        Machine::with("vestibule 0.0.0".into())
    }

    /// Name and value of everything, for people.
    pub fn rows(&self) -> [(&'static str, String); 6] {
        [
            ("machine", format!("{}, {} CPUs, {} MiB", self.cpu, self.cpus, self.memory_mib)),
            ("kernel", self.kernel.clone()),
            ("Vestibule", self.vestibule.clone()),
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
