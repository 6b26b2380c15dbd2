//! The settings that Vestibule uses, and those of Dovecot's that it knows and leaves alone.

/// Where a setting may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Outside all sections.
    Global,
    /// In `service NAME {`.
    Service,
    /// In `inet_listener NAME {`.
    Listener,
}

/// Whose setting it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Dovecot's, with Dovecot's meaning.
    Dovecot,
    /// Dovecot's, but Dovecot has it in the first scope only.
    DovecotGlobal,
    /// Vestibule's own: Dovecot refuses a file that holds it.
    Vestibule,
}

/// A setting in use.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// As it is written.
    pub name: &'static str,
    /// The outermost place first; an inner one overrides an outer one.
    pub scopes: &'static [Scope],
    /// Whose it is.
    pub origin: Origin,
}

use Origin::{Dovecot, DovecotGlobal, Vestibule};
use Scope::{Global, Listener, Service};

const fn known(name: &'static str, scopes: &'static [Scope], origin: Origin) -> Known {
    Known { name, scopes, origin }
}

/// Every setting in use. A setting that has another name in Dovecot 2.4 stands here by its 2.3 name; see [`canonical`].
pub const SETTINGS: &[Known] = &[
    known("rings", &[Global], Vestibule),
    known("pending_limit", &[Global], Vestibule),
    known("header_limit", &[Global], Vestibule),
    known("drain_timeout", &[Global], Vestibule),
    known("takeover_socket", &[Global], Vestibule),
    known("listen", &[Global], Dovecot),
    known("protocols", &[Global], Dovecot),
    known("ssl_cert", &[Global], Dovecot),
    known("ssl_key", &[Global], Dovecot),
    known("haproxy_trusted_networks", &[Global, Service, Listener], DovecotGlobal),
    known("haproxy_timeout", &[Global, Service, Listener], DovecotGlobal),
    known("ssl", &[Global, Listener], Dovecot),
    known("worker", &[Service], Vestibule),
    known("workers", &[Service], Vestibule),
    known("queue", &[Service], Vestibule),
    known("overload", &[Service], Vestibule),
    known("residual", &[Service], Vestibule),
    known("name", &[Listener], Dovecot),
    known("address", &[Listener], Dovecot),
    known("port", &[Listener], Dovecot),
    known("haproxy", &[Listener], Dovecot),
    known("reuse_port", &[Service, Listener], Dovecot),
    known("haproxy_versions", &[Listener], Vestibule),
    known("haproxy_unknown", &[Listener], Vestibule),
    known("haproxy_unspec", &[Listener], Vestibule),
    known("haproxy_checksum", &[Listener], Vestibule),
    known("haproxy_source", &[Listener], Vestibule),
    known("haproxy_second_header", &[Listener], Vestibule),
    known("haproxy_v4_in_tcp6", &[Listener], Vestibule),
    known("haproxy_authority", &[Listener], Vestibule),
    known("haproxy_alpn", &[Listener], Vestibule),
    known("defer_accept", &[Listener], Vestibule),
];

/// Other names: Dovecot 2.4's, `(scope, written, meant)`.
const ALIASES: &[(Scope, &str, &str)] = &[
    (Global, "ssl_server_cert_file", "ssl_cert"),
    (Global, "ssl_server_key_file", "ssl_key"),
    (Listener, "listen", "address"),
];

/// Dovecot's settings that say how Dovecot spreads its load over processes: never reinterpreted.
const LIMITS: &[&str] = &[
    "client_limit",
    "process_limit",
    "process_min_avail",
    "service_count",
    "restart_request_count",
    "idle_kill",
    "idle_kill_interval",
    "vsz_limit",
    "default_client_limit",
    "default_process_limit",
    "default_vsz_limit",
    "default_idle_kill",
    "default_restart_request_count",
    "default_idle_kill_interval",
];

/// Settings that Dovecot knows in an `inet_listener` and that mean nothing here.
const LISTENER_UNUSED: &[&str] = &["type"];

/// Settings that Dovecot knows in a `service`.
pub(super) const DOVECOT_SERVICE: &[&str] = &[
    "chroot",
    "client_limit",
    "drop_priv_before_exec",
    "executable",
    "extra_groups",
    "group",
    "idle_kill",
    "name",
    "privileged_group",
    "process_limit",
    "process_min_avail",
    "protocol",
    "service_count",
    "type",
    "user",
    "vsz_limit",
];

/// The listeners that Dovecot has without a line of configuration: service, name, port, ssl, protocol.
pub(super) const IMPLICIT: &[(&str, &str, u16, bool, &str)] = &[
    ("imap-login", "imap", 143, false, "imap"),
    ("imap-login", "imaps", 993, true, "imap"),
    ("pop3-login", "pop3", 110, false, "pop3"),
    ("pop3-login", "pop3s", 995, true, "pop3"),
    ("submission-login", "submission", 587, false, "submission"),
    ("submission-login", "submissions", 465, true, "submission"),
    ("managesieve-login", "sieve", 4190, false, "sieve"),
];

/// The setting in use that `written` means in a scope: also by Dovecot 2.4's name, with or without the section's prefix.
pub(super) fn canonical(scope: Scope, written: &str) -> Option<&'static str> {
    let bare = without_prefix(scope, written);
    let alias = ALIASES.iter().find(|(s, name, _)| *s == scope && *name == bare).map(|(_, _, meant)| *meant);
    let name = alias.unwrap_or(bare);
    SETTINGS.iter().find(|known| known.name == name && known.scopes.contains(&scope)).map(|known| known.name)
}

/// Dovecot 2.4 lets a section's settings be written with the section's name in front.
fn without_prefix(scope: Scope, written: &str) -> &str {
    let prefix = match scope {
        Global => return written,
        Service => "service_",
        Listener => "inet_listener_",
    };
    // `service_count` is a name of its own.
    written.strip_prefix(prefix).filter(|bare| *bare != "count").unwrap_or(written)
}

/// Why a setting that is not in use is left alone; `None` if it is unknown in this scope.
pub(super) fn unused_reason(scope: Scope, written: &str) -> Option<&'static str> {
    let bare = without_prefix(scope, written);
    match scope {
        Listener => LISTENER_UNUSED.contains(&bare).then_some("not used"),
        _ if LIMITS.contains(&bare) => Some("Dovecot's process limit; Vestibule has `workers` and `queue`"),
        Service => DOVECOT_SERVICE.contains(&bare).then_some("concerns Dovecot's own process"),
        Global => None,
    }
}

/// A name in use that `written` may be a slip of: at most two characters off.
pub(super) fn similar(scope: Scope, written: &str) -> Option<&'static str> {
    let close = |name: &str| name.len() > 4 && distance(name, written) <= 2;
    SETTINGS.iter().find(|known| known.scopes.contains(&scope) && close(known.name)).map(|known| known.name)
}

/// Levenshtein's distance; lengths that differ by more than two are not worth the work.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_dovecots() {
        assert_eq!(canonical(Listener, "listen"), Some("address"));
        assert_eq!(canonical(Listener, "inet_listener_port"), Some("port"));
        assert_eq!(canonical(Global, "ssl_server_key_file"), Some("ssl_key"));
        assert_eq!(canonical(Service, "service_reuse_port"), Some("reuse_port"));
        assert_eq!(canonical(Listener, "haproxi"), None);
        assert_eq!(canonical(Global, "port"), None);
        assert!(unused_reason(Service, "service_count").is_some());
        assert!(unused_reason(Service, "service_client_limit").is_some());
        assert!(unused_reason(Listener, "client_limit").is_none());
    }

    #[test]
    fn slips_are_noticed() {
        assert_eq!(similar(Listener, "haproxi"), Some("haproxy"));
        assert_eq!(similar(Global, "haproxy_trusted_network"), Some("haproxy_trusted_networks"));
        assert_eq!(similar(Global, "mail_location"), None);
        assert_eq!(similar(Global, "ssl_ca"), None, "a name of Dovecot's that is near by chance");
    }
}
