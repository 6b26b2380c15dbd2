//! What the process and the kernel allow: open files and local ports.

use vestibule::ring::{Resource, limit, raise_open_files};

use crate::sources::Pool;

/// Files beside the connections: standard streams, rings, reports.
const FILES_BESIDE: usize = 64;
const PORT_RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Connections that the hard limit of open files has room for.
pub fn connections_allowed() -> usize {
    allowed(hard_limit())
}

/// Raises the soft limit of open files, so that `connections` fit if the hard one allows it.
pub fn raise_files(connections: usize) -> Result<(), String> {
    raise_open_files().map_err(|error| format!("the limit of open files cannot be raised: {error}"))?;
    check_files(connections, hard_limit())
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

fn allowed(hard: usize) -> usize {
    hard.saturating_sub(FILES_BESIDE).max(1)
}

fn hard_limit() -> usize {
    let hard = limit(Resource::OpenFiles).map_or(u64::MAX, |(_, hard)| hard);
    usize::try_from(hard).unwrap_or(usize::MAX)
}

fn check_files(connections: usize, hard: usize) -> Result<(), String> {
    if connections <= allowed(hard) {
        return Ok(());
    }
    let needed = connections + FILES_BESIDE;
    Err(format!(
        "{connections} open connections need {needed} open files, and the hard limit (RLIMIT_NOFILE) is {hard}. Raise it \
         (`ulimit -Hn {needed}` as root, LimitNOFILE={needed} in a systemd unit, /etc/security/limits.conf for a \
         login), start several vestibule-load side by side, or ask for at most {}",
        allowed(hard)
    ))
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
        let error = check_files(937, 1000).expect_err("64 of the thousand are needed for the rest");
        for word in ["is 1000", "LimitNOFILE=1001", "at most 936"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert_eq!(check_files(936, 1000), Ok(()));
        assert_eq!(raise_files(1), Ok(()));
    }

    #[test]
    fn one_address_has_too_few_ports_for_a_hundred_thousand() {
        let error = check_ports(100_000, None).expect_err("at most 65,536 ports");
        assert!(error.contains("--source"), "{error}");
        assert!(check_ports(100_000, Some(Pool::hosts("127.1.0.0/24".parse().expect("a network")))).is_ok());
    }
}
