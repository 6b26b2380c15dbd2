//! The names of the settings that Vestibule uses, and of those of Dovecot's that it knows and leaves alone.

use std::collections::HashSet;
use std::sync::OnceLock;

use super::Implicit;
use super::declared::SETTINGS;
use super::lint::Dovecot::{self, V23, V24};

/// Where a setting may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Outside all sections.
    Global,
    /// In `service NAME {`.
    Service,
    /// In `inet_listener NAME {`.
    Listener,
    /// In `backend NAME {`.
    Backend,
    /// In `server NAME {`, inside a backend.
    Server,
}

/// Whose setting it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Dovecot's, with Dovecot's meaning.
    Dovecot,
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
    /// What it means, as a cell of a table in docs/configuration.md has it.
    pub meaning: &'static str,
}

use Origin::Vestibule;
use Scope::{Backend, Global, Listener, Server, Service};

/// Other names: Dovecot 2.4's, `(scope, written, meant)`.
const ALIASES: &[(Scope, &str, &str)] = &[
    (Global, "ssl_server_cert_file", "ssl_cert"),
    (Global, "ssl_server_key_file", "ssl_key"),
    (Global, "ssl_server_ca_file", "ssl_ca"),
    (Global, "ssl_server_request_client_cert", "ssl_verify_client_cert"),
    (Global, "ssl_server_require_crl", "ssl_require_crl"),
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

/// Settings that Dovecot 2.3 knows in a `service`.
const DOVECOT_SERVICE: &[&str] = &[
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

/// Every global setting of a Dovecot with all plugins of its Debian packages, as `doveconf -a` lists them (2.3.19.1 and
/// 2.4.1), and the sections that it takes outside all others: `KIND {`, `KIND NAME {`.
fn words_of(dovecot: Dovecot) -> impl Iterator<Item = &'static str> {
    match dovecot {
        V23 => include_str!("dovecot-2.3.names").lines(),
        V24 => include_str!("dovecot-2.4.names").lines(),
    }
}

/// Whether a Dovecot has a global setting of this name.
pub(super) fn has_setting(dovecot: Dovecot, name: &str) -> bool {
    static WORDS: OnceLock<[HashSet<&str>; 2]> = OnceLock::new();
    let [v23, v24] = WORDS.get_or_init(|| [V23, V24].map(|dovecot| words_of(dovecot).collect()));
    if dovecot == V23 { v23.contains(name) } else { v24.contains(name) }
}

/// Whether a Dovecot has a section of this kind outside all others, and whether such a section has a name; of Dovecot 2.4
/// a list may be a section, too.
pub(super) fn has_section(dovecot: Dovecot, kind: &str) -> Option<Named> {
    if dovecot == V24 && has_setting(dovecot, kind) {
        return Some(Named::Never);
    }
    words_of(dovecot).find_map(|word| match word.strip_prefix(kind)? {
        " {" if dovecot == V23 => Some(Named::Maybe),
        " {" => Some(Named::Never),
        " NAME {" if dovecot == V23 => Some(Named::Maybe),
        " NAME {" => Some(Named::Always),
        _ => None,
    })
}

/// Whether a section has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Always,
    Never,
    /// Dovecot 2.3 leaves it to each kind.
    Maybe,
}

/// What `$name` stands for as long as no file has set the setting `name`: Dovecot's defaults of those in use.
const DOVECOT_DEFAULTS: &[(&str, &str)] = &[
    ("auth_ssl_require_client_cert", "no"),
    ("haproxy_timeout", "3 secs"),
    ("haproxy_trusted_networks", ""),
    ("listen", "*, ::"),
    ("login_proxy_max_disconnect_delay", "0"),
    ("login_proxy_timeout", "30 secs"),
    ("login_source_ips", ""),
    ("protocols", ""),
    ("ssl", "yes"),
    ("ssl_ca", ""),
    ("ssl_cert", ""),
    ("ssl_key", ""),
    ("ssl_min_protocol", "TLSv1.2"),
    ("ssl_require_crl", "yes"),
    ("ssl_server_ca_file", ""),
    ("ssl_server_cert_file", ""),
    ("ssl_server_key_file", ""),
    ("ssl_server_request_client_cert", "no"),
    ("ssl_server_require_crl", "yes"),
    ("ssl_verify_client_cert", "no"),
];

/// Dovecot's default of a global setting that is in use here.
pub(super) fn dovecot_default(name: &str) -> Option<&'static str> {
    DOVECOT_DEFAULTS.iter().find(|(known, _)| *known == name).map(|(_, default)| *default)
}

/// The listeners that Dovecot has without a line of configuration; see [`implicits`].
const IMPLICIT: &[Implicit] = &[
    default_listener("imap-login", "imap", 143, false, "imap"),
    default_listener("imap-login", "imaps", 993, true, "imap"),
    default_listener("pop3-login", "pop3", 110, false, "pop3"),
    default_listener("pop3-login", "pop3s", 995, true, "pop3"),
    default_listener("submission-login", "submission", 587, false, "submission"),
    default_listener("submission-login", "submissions", 465, true, "submission"),
    default_listener("managesieve-login", "sieve", 4190, false, "sieve"),
];

const fn default_listener(
    service: &'static str,
    listener: &'static str,
    port: u16,
    ssl: bool,
    protocol: &'static str,
) -> Implicit {
    Implicit { service, listener, port, ssl, protocol }
}

/// The listeners that this Dovecot has without a line of configuration: `submissions` came with 2.4.
pub(super) fn implicits(dovecot: Dovecot) -> impl Iterator<Item = &'static Implicit> {
    IMPLICIT.iter().filter(move |known| dovecot == V24 || known.listener != "submissions")
}

/// This Dovecot's own listener of this name, if it has one.
pub(super) fn implicit(dovecot: Dovecot, service: &str, listener: Option<&str>) -> Option<&'static Implicit> {
    implicits(dovecot).find(|known| known.service == service && Some(known.listener) == listener)
}

/// The item of `protocols` that turns one of Dovecot's own services on.
pub(super) fn protocol_of(service: &str) -> Option<&'static str> {
    IMPLICIT.iter().find(|known| known.service == service).map(|known| known.protocol)
}

/// The setting in use that `written` means in a scope: also by Dovecot 2.4's name, with or without the section's prefix.
pub(super) fn canonical(scope: Scope, written: &str) -> Option<&'static str> {
    find(scope, written).map(|known| known.name)
}

fn find(scope: Scope, written: &str) -> Option<&'static Known> {
    let bare = without_prefix(scope, written);
    let alias = ALIASES.iter().find(|(s, name, _)| *s == scope && *name == bare).map(|(_, _, meant)| *meant);
    let name = alias.unwrap_or(bare);
    SETTINGS.iter().find(|known| known.name == name && known.scopes.contains(&scope))
}

/// Whether a name means a setting in use in any scope.
pub(super) fn is_in_use(written: &str) -> bool {
    [Global, Service, Listener, Backend, Server].into_iter().any(|scope| canonical(scope, written).is_some())
}

/// The listener's setting that one outside of listeners means: Dovecot 2.4's `inet_listener_haproxy`. The addresses are
/// `listen` everywhere.
pub(super) fn inherited(written: &str) -> Option<&'static str> {
    let bare = written.strip_prefix("inet_listener_")?;
    canonical(Listener, bare).filter(|name| !["name", "address"].contains(name))
}

/// Dovecot 2.4 lets a section's settings be written with the section's name in front.
fn without_prefix(scope: Scope, written: &str) -> &str {
    let prefix = match scope {
        Global | Backend | Server => return written,
        Service => "service_",
        Listener => "inet_listener_",
    };
    // `service_count` is a name of its own.
    written.strip_prefix(prefix).filter(|bare| *bare != "count").unwrap_or(written)
}

/// The setting that a section `kind {` / `ITEM = yes` / `}` means in a scope: Dovecot 2.4's form of a list.
pub(super) fn list(scope: Scope, kind: &str) -> Option<&'static str> {
    canonical(scope, kind)
        .filter(|name| matches!((scope, *name), (Global, "listen" | "protocols") | (Listener, "address")))
}

/// Where a setting that has no place in `scope` has one: the next scope inside, else the next outside, else elsewhere.
pub(super) fn belongs(scope: Scope, written: &str) -> Option<Scope> {
    let nearest_first = match scope {
        Global => [Service, Listener, Backend, Server],
        Service => [Listener, Global, Backend, Server],
        Listener => [Service, Global, Backend, Server],
        Backend => [Server, Global, Service, Listener],
        Server => [Backend, Global, Service, Listener],
    };
    nearest_first.into_iter().find(|&other| canonical(other, written).is_some())
}

/// Why a setting that is not in use is left alone; `None` if it is unknown in this scope.
pub(super) fn unused_reason(scope: Scope, written: &str) -> Option<&'static str> {
    let bare = without_prefix(scope, written);
    match scope {
        Listener => LISTENER_UNUSED.contains(&bare).then_some("not used"),
        Backend | Server => None,
        _ if LIMITS.contains(&bare) => Some("Dovecot's process limit; Vestibule has `workers` and `queue`"),
        Service => DOVECOT_SERVICE.contains(&bare).then_some("concerns Dovecot's own process"),
        Global => None,
    }
}

/// Whether a Dovecot knows the setting in this scope, as far as Vestibule can tell: of global settings and of those of a
/// 2.4 service it only knows its own and those in use.
pub(super) fn known_to_dovecot(dovecot: Dovecot, scope: Scope, written: &str) -> bool {
    let own = find(scope, written).is_some_and(|known| known.origin == Vestibule);
    let misplaced = canonical(scope, written).is_none() && belongs(scope, written).is_some();
    match (scope, dovecot) {
        (Global, _) if misplaced => false,
        // What neither has may be of a plugin, or of another release: not judged.
        (Global, _) => {
            let other = if dovecot == V23 { V24 } else { V23 };
            has_setting(dovecot, written) || (!own && !has_setting(other, written))
        }
        (Service, V23) => DOVECOT_SERVICE.contains(&written),
        (Service, V24) => !own,
        (Listener, V23) => ["name", "address", "port", "ssl", "haproxy", "reuse_port"].contains(&written),
        (Listener, V24) => {
            let bare = without_prefix(scope, written);
            ["name", "type", "listen", "port", "ssl", "haproxy", "reuse_port"].contains(&bare)
        }
        (Backend | Server, _) => false,
    }
}

/// A name in use that `written` may be a slip of: at most two characters off, in whatever case.
pub(super) fn similar(scope: Scope, written: &str) -> Option<&'static str> {
    let written = written.to_ascii_lowercase();
    let close = |name: &str| name == written || (name.len() > 4 && distance(name, &written) <= 2);
    SETTINGS.iter().find(|known| known.scopes.contains(&scope) && close(known.name)).map(|known| known.name)
}

/// What an unknown word of a section in which every word must be known may have been meant to be: the nearest name, or
/// all of them where none is near.
pub(super) fn meant(scope: Scope, written: &str) -> String {
    let names = || SETTINGS.iter().filter(|known| known.scopes.contains(&scope)).map(|known| known.name);
    match nearest(names(), written) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("known are {}", names().collect::<Vec<_>>().join(", ")),
    }
}

/// The setting, Vestibule's or Dovecot's, that an unknown one outside of listeners and backends is nearest to.
pub(super) fn nearest_setting(dovecot: Dovecot, scope: Scope, written: &str) -> Option<&'static str> {
    let own = SETTINGS.iter().filter(|known| known.scopes.contains(&scope)).map(|known| known.name);
    match scope {
        Service => nearest(own.chain(DOVECOT_SERVICE.iter().copied()).chain(LIMITS.iter().copied()), written),
        _ => nearest(own.chain(words_of(dovecot).filter(|word| !word.ends_with('{'))), written),
    }
}

/// The kind of section that an unknown one outside all others, or in a service, is nearest to.
pub(super) fn nearest_section(dovecot: Dovecot, scope: Scope, written: &str) -> Option<&'static str> {
    let own = ["backend", "service", "group"].into_iter();
    match scope {
        Service => nearest(SERVICE_SECTIONS.into_iter(), written),
        _ => {
            nearest(own.chain(words_of(dovecot).filter_map(|word| word.strip_suffix(" {")?.split(' ').next())), written)
        }
    }
}

/// The sections of a service.
pub(super) const SERVICE_SECTIONS: [&str; 3] = ["inet_listener", "unix_listener", "fifo_listener"];

/// The nearest of some names, whatever the case: two characters off, of a long one three.
fn nearest(names: impl Iterator<Item = &'static str>, written: &str) -> Option<&'static str> {
    let written = written.to_ascii_lowercase();
    let limit = if written.len() < 12 { 2 } else { 3 };
    let far = names.map(|name| (distance(name, &written), name)).min();
    far.filter(|(far, name)| *far <= limit && *far < name.len()).map(|(_, name)| name)
}

/// Levenshtein's distance; lengths that differ by more than three are not worth the work.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 3 {
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
    fn a_setting_belongs_as_far_inside_as_it_can() {
        assert_eq!(belongs(Global, "haproxy"), Some(Listener));
        assert_eq!(belongs(Service, "ssl"), Some(Listener));
        assert_eq!(belongs(Service, "listen"), Some(Listener), "by Dovecot 2.4's name");
        assert_eq!(belongs(Global, "reuse_port"), Some(Service));
        assert_eq!(belongs(Listener, "queue"), Some(Service));
        assert_eq!(belongs(Listener, "rings"), Some(Global));
        assert_eq!(belongs(Global, "mail_location"), None);
        assert_eq!(belongs(Backend, "weight"), Some(Server));
        assert_eq!(belongs(Server, "forward"), Some(Backend));
        assert_eq!(belongs(Backend, "idle_timeout"), Some(Service));
        assert_eq!(belongs(Service, "balance"), Some(Backend));
    }

    #[test]
    fn dovecots_own_global_settings_have_a_default() {
        let own = |known: &&Known| known.origin == Origin::Dovecot && known.scopes.contains(&Global);
        for known in SETTINGS.iter().filter(own) {
            assert!(dovecot_default(known.name).is_some(), "{}", known.name);
        }
        assert!(ALIASES.iter().all(|(scope, name, _)| *scope != Global || dovecot_default(name).is_some()));
        assert_eq!(dovecot_default("rings"), None);
    }

    #[test]
    fn slips_are_noticed() {
        assert_eq!(similar(Listener, "haproxi"), Some("haproxy"));
        assert_eq!(similar(Global, "haproxy_trusted_network"), Some("haproxy_trusted_networks"));
        assert_eq!(similar(Global, "mail_location"), None);
    }
}
