//! What is said in the log of servers and of their changes, whoever has found out: checks, sessions, or an operator.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::service::SharedBackend;
use crate::backend::{AdminState, Change, ConnectFailure, ServerIndex};
use crate::ring::Errno;
use crate::stats::PassedOver;

/// What sessions run into by the hundred is told so often at most.
pub const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What is told at most once in [`TOLD_EVERY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// Connections to servers could not be made for want of something of ours.
    Shortage(i32),
    /// A server has too many connections.
    Overload(ServerIndex),
}

/// What sessions and checks find out.
impl SharedBackend {
    /// Says that a server has become another.
    pub fn tell(&self, server: ServerIndex, change: &Change, now: Instant) {
        let (backend, name) = (self.name(), self.server_name(server).unwrap_or_default());
        match change {
            Change::Up => tracing::info!(event = "server", "backend {backend}: server {name} is up again"),
            Change::Down { why } => tracing::warn!(event = "server", "backend {backend}: server {name} is down: {why}"),
        }
        if matches!(change, Change::Down { .. }) && !self.lock().servers(now).any(|server| server.takes_new) {
            tracing::error!(
                event = "server",
                "backend {backend}: no server is left, so clients are told that nobody can serve them"
            );
        }
    }

    /// A session found no connection to a server.
    pub fn connect_failed(&self, server: ServerIndex, errno: Errno, now: Instant) {
        let failure = ConnectFailure::of(&io::Error::from_raw_os_error(errno.0));
        let change = self.lock().connect_failed(server, failure, now);
        self.session_failed(server, change, now);
    }

    /// A session got no greeting of a server.
    pub fn not_greeted(&self, server: ServerIndex, now: Instant) {
        let change = self.lock().not_greeted(server, now);
        self.session_failed(server, change, now);
    }

    /// A server has said to a session that it has too many connections.
    pub fn overloaded(&self, server: ServerIndex, now: Instant) {
        self.lock().overloaded(server, now);
        if let Some(more) = self.told(Notice::Overload(server), now) {
            let (backend, name) = (self.name(), self.server_name(server).unwrap_or_default());
            tracing::warn!(
                event = "server",
                "backend {backend}: server {name} says that it has too many connections, and gets fewer for a while{more}"
            );
        }
    }

    /// Something of ours was missing for a connection to `target`.
    pub fn short_of(&self, errno: Errno, target: SocketAddr, sources: &[IpAddr], now: Instant) {
        let Some(more) = self.told(Notice::Shortage(errno.0), now) else { return };
        let (backend, missing) = (self.name(), shortage(errno, target, sources));
        tracing::error!(event = "server", "backend {backend}: {missing}{more}");
    }

    /// Sets what is wanted of a server; in [`AdminState::Maint`] its sessions are let go.
    pub fn set_state(&self, server: ServerIndex, state: AdminState) {
        let now = Instant::now();
        self.lock().set_state(server, state, now);
        self.grant_places(now);
        self.stir();
    }

    /// Sets a server's weight, 0..=[`WEIGHT_MAX`](crate::backend::WEIGHT_MAX).
    pub fn set_weight(&self, server: ServerIndex, weight: u32) {
        let now = Instant::now();
        self.lock().set_weight(server, weight, now);
        self.grant_places(now);
        self.stir();
    }

    /// Whether a notice is to be told now, and if so, what is to be said of those that were not.
    fn told(&self, notice: Notice, now: Instant) -> Option<String> {
        let noted = self.notices().note(notice, now);
        let passed_over = |more: &&PassedOver<Notice>| more.key.is_none_or(|key| key == notice);
        let more: u64 = noted.ended.iter().filter(passed_over).map(|more| more.count).sum();
        noted
            .is_first()
            .then(|| if more > 0 { format!(" ({more} times more since it was last told)") } else { String::new() })
    }

    fn session_failed(&self, server: ServerIndex, change: Option<Change>, now: Instant) {
        if let Some(change) = change {
            self.tell(server, &change, now);
        }
        // Its next check was brought forward.
        self.stir();
    }
}

/// What is missing, and the remedy.
fn shortage(errno: Errno, target: SocketAddr, sources: &[IpAddr]) -> String {
    match errno.0 {
        libc::EADDRNOTAVAIL | libc::EADDRINUSE => match sources.iter().find(|source| !is_ours(**source)) {
            Some(source) => {
                format!("cannot connect from {source}: no interface of this host has this address of login_source_ips")
            }
            None => format!(
                "no source port is left towards {target}: add addresses to login_source_ips, or widen \
                 net.ipv4.ip_local_port_range"
            ),
        },
        libc::EMFILE | libc::ENFILE => format!(
            "no file is left for a connection to {target}: raise the limit of open files (LimitNOFILE= in the unit)"
        ),
        _ => format!("no memory is left for a connection to {target}: {errno}"),
    }
}

/// Whether this host has the address.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_we_do_not_have_is_told_from_ports_that_are_used_up() {
        let target = SocketAddr::from(([127, 0, 0, 1], 143));
        let said = |source: &str| shortage(Errno(libc::EADDRNOTAVAIL), target, &[source.parse().expect("an address")]);
        assert!(
            said("127.0.0.2").starts_with("no source port is left towards 127.0.0.1:143: "),
            "{}",
            said("127.0.0.2")
        );
        assert!(said("192.0.2.77").starts_with("cannot connect from 192.0.2.77: "), "{}", said("192.0.2.77"));
    }
}
