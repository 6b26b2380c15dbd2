//! What the process and the kernel allow: open files and local ports.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::sources::Pool;

/// Files beside the connections: standard streams, rings, reports.
const FILES_BESIDE: usize = 64;
const PORT_RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Connections that the hard limit of open files has room for.
pub fn connections_allowed() -> usize {
    hard_limit().saturating_sub(FILES_BESIDE).max(1)
}

/// Raises the soft limit of open files so that `connections` fit.
pub fn raise_files(connections: usize) -> Result<(), String> {
    let needed = connections + FILES_BESIDE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed as u64) {
        return Ok(());
    }
    if needed > hard_limit() {
        return Err(too_few_files(connections, needed));
    }
    let raised = Rlimit { current: Some(needed as u64), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| format!("setrlimit(RLIMIT_NOFILE, {needed}): {error}"))
}

/// Whether `connections` can be open at once to one destination.
pub fn check_ports(connections: usize, sources: Option<Pool>) -> Result<(), String> {
    let Some((low, high)) = local_ports() else { return Ok(()) };
    let ports = u64::from(high.saturating_sub(low)) + 1;
    let addresses = sources.map_or(1, |pool| pool.count());
    if connections as u64 <= ports * addresses {
        return Ok(());
    }
    Err(format!(
        "{connections} open connections need more than the {ports} local ports {low}-{high} of {addresses} source \
         address(es): give more of them (--source 127.1.0.0/24), or widen net.ipv4.ip_local_port_range"
    ))
}

fn hard_limit() -> usize {
    getrlimit(Resource::Nofile).maximum.map_or(usize::MAX, |hard| usize::try_from(hard).unwrap_or(usize::MAX))
}

fn too_few_files(connections: usize, needed: usize) -> String {
    let hard = hard_limit();
    format!(
        "{connections} open connections need {needed} open files, and the hard limit (RLIMIT_NOFILE) is {hard}. Raise \
         it (`ulimit -Hn {needed}` as root, LimitNOFILE={needed} in a systemd unit, /etc/security/limits.conf for a \
         login), start several vestibule-load side by side, or ask for at most {}",
        connections_allowed()
    )
}

fn local_ports() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string(PORT_RANGE_FILE).ok()?;
    let (low, high) = text.trim().split_once(char::is_whitespace)?;
    Some((low.parse().ok()?, high.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_files_name_limit_and_remedy() {
        let hard = hard_limit();
        if hard == usize::MAX {
            println!("skipped: needs a hard limit of open files");
            return;
        }
        let error = raise_files(hard).expect_err("more than the hard limit");
        assert!(error.contains(&hard.to_string()) && error.contains("LimitNOFILE="), "{error}");
        assert!(raise_files(connections_allowed()).is_ok());
    }

    #[test]
    fn one_address_has_too_few_ports_for_a_hundred_thousand() {
        let error = check_ports(100_000, None).expect_err("at most 65,536 ports");
        assert!(error.contains("--source"), "{error}");
        assert!(check_ports(100_000, Some(Pool::hosts("127.1.0.0/24".parse().expect("a network")))).is_ok());
    }
}
