//! What was understood, in Dovecot's form: as `doveconf` prints it, and readable again.

use std::fmt::{Display, Write};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use super::settings::*;
use super::{Dovecot, Loaded, backends, names, validate, value};
use crate::admission::{EndpointId, EndpointRules, OnUnknown, OnUnspec, Policy};
use crate::backend::{AdminState, Balance, CheckKind, ServerSettings, StickSettings};
use crate::dispatch::{Overload, Pool};
use crate::net::Network;
use crate::relay::{Forward, Protocol, Target};

/// The settings that differ from their defaults, or all of them; then, as comments, the listeners that only Dovecot
/// would have, and what was ignored. Names and defaults are those of Dovecot 2.3.
pub fn dump(loaded: &Loaded, all: bool) -> String {
    let mut out = String::new();
    let settings = &loaded.settings;
    print(&mut out, 0, &global_lines(settings), all);
    for name in &settings.local_names {
        open(&mut out, 0, "local_name", &name.names.join(" "));
        let files = [("ssl_cert", "ssl_server_cert_file", &name.cert), ("ssl_key", "ssl_server_key_file", &name.key)];
        print(&mut out, 1, &files.map(|(name, name_24, path)| file(name, name_24, &Some(path.clone()))), all);
        out.push_str("}\n");
    }
    for index in 0..settings.backends.len() {
        backend(&mut out, settings, index, all);
    }
    for service in &settings.services {
        open(&mut out, 0, "service", &service.name);
        print(&mut out, 1, &service_lines(service, settings), all);
        for listener in &service.listeners {
            open(&mut out, 1, "inet_listener", &listener.name);
            print(&mut out, 2, &listener_lines(service, listener, settings), all);
            out.push_str("  }\n");
        }
        out.push_str("}\n");
    }
    comments(&mut out, loaded);
    out
}

/// The default of a setting as text; `None` for one that is not shown.
#[cfg(test)]
pub(super) fn default_of(scope: names::Scope, name: &str) -> Option<String> {
    let text = "backend b {\nstick = source\nserver s {\naddress = ::1\nport = 1\n}\n}\n\
                service x {\nworker = relay\nbackend = b\nprotocol = sieve\ninet_listener l {\nport = 2\n}\n}\n\
                service y {\nworker = handoff\nhandoff_socket = /s\ninet_listener l {\nport = 3\n}\n}\n";
    let mut relaying = super::parse(std::path::Path::new("t.conf"), text).expect("a relay").settings;
    let mut settings = super::builtin().settings;
    (settings.defaults, relaying.defaults) = (Defaults::default(), Defaults::default());
    let (service, listener) = (&settings.services[0], &settings.services[0].listeners[0]);
    let lines = match scope {
        names::Scope::Global => global_lines(&settings),
        names::Scope::Service => {
            let others = relaying.services.iter().map(|service| service_lines(service, &relaying));
            others.fold(service_lines(service, &settings), |all, lines| [all, lines].concat())
        }
        names::Scope::Listener => listener_lines(service, listener, &settings),
        names::Scope::Backend => backend_lines(&relaying, 0),
        names::Scope::Server => server_lines(&relaying.backends[0].servers.servers[0]),
    };
    lines.into_iter().find(|line| line.name == name).map(|line| line.default)
}

fn comments(out: &mut String, loaded: &Loaded) {
    for known in &loaded.implicit {
        let tls = if known.ssl { " ssl = yes" } else { "" };
        line(
            out,
            format_args!(
                "# default, not bound: service {} inet_listener {} port = {}{tls}",
                known.service, known.listener, known.port
            ),
        );
    }
    for ignored in &loaded.ignored {
        line(out, format_args!("# ignored: {}: {} ({})", ignored.at, printable(&ignored.what), ignored.reason));
    }
}

#[derive(Clone)]
struct Line {
    name: &'static str,
    value: String,
    default: String,
}

fn of(name: &'static str, value: impl Display, default: impl Display) -> Line {
    Line { name, value: value.to_string(), default: default.to_string() }
}

fn global_lines(settings: &Settings) -> Vec<Line> {
    let (defaults, otherwise) = (&settings.defaults, Defaults::default());
    let socket =
        |path: &Option<PathBuf>| path.as_ref().map_or(String::new(), |path| quoted(&path.display().to_string()));
    let time = value::show_time;
    let asked = settings.client_certificates.as_ref();
    let mut lines = vec![
        of("control_socket", socket(&settings.control_socket), ""),
        of("driver", word(&DriverKind::ALL, settings.driver), word(&DriverKind::ALL, DriverKind::default())),
        of("drain_timeout", value::show_time(settings.drain_timeout), value::show_time(DRAIN_DEFAULT)),
        of("drain_delay", value::show_time(settings.drain_delay), "0"),
        of("log_format", word(&LogFormat::ALL, settings.log_format), word(&LogFormat::ALL, LogFormat::default())),
        of("http_hosts", settings.http_hosts.join(" "), ""),
        of("http_listen", settings.http_listen.map_or(String::new(), |address| address.to_string()), ""),
        of("haproxy_timeout", value::show_time(defaults.timeout), value::show_time(otherwise.timeout)),
        of("haproxy_trusted_networks", networks(&defaults.networks), networks(&otherwise.networks)),
        of("shadow_trusted_networks", networks(&defaults.shadow_networks), ""),
        of("haproxy_untrusted", untrusted(defaults.plain_untrusted), untrusted(otherwise.plain_untrusted)),
        of("header_limit", settings.header_limit, HEADER_DEFAULT),
        of(
            "login_proxy_max_disconnect_delay",
            time(settings.login_proxy_max_disconnect_delay),
            time(DISCONNECT_DELAY_DEFAULT),
        ),
        of("login_proxy_timeout", time(settings.login_proxy_timeout), time(LOGIN_PROXY_TIMEOUT_DEFAULT)),
        of("login_source_ips", addresses(&settings.login_source_ips), ""),
        of("log_connections", yes_no(defaults.log_connections), yes_no(otherwise.log_connections)),
        of("client_allowed_endpoints", endpoints(&defaults.endpoints), ""),
        of("client_endpoint_missing", missing(&defaults.endpoints), missing(&otherwise.endpoints)),
        of("listen", addresses(&defaults.addresses), addresses(&otherwise.addresses)),
        of("locked_memory_limit", value::show_size_limit(settings.locked_memory_limit), value::show_size_limit(0)),
        of("pending_limit", settings.pending_limit, PENDING_DEFAULT),
        of("rings", settings.rings.map_or("auto".into(), |n| n.to_string()), "auto"),
        of(
            "serve_listeners",
            word(&validate::SERVE.map(|(word, serve)| (serve, word)), settings.serve_listeners),
            "all",
        ),
        of("ssl", yes_no(defaults.ssl), yes_no(otherwise.ssl)),
        of("auth_ssl_require_client_cert", yes_no(asked.is_some_and(|asked| asked.required)), "no"),
        file("ssl_ca", "ssl_server_ca_file", &asked.map(|asked| asked.authorities.clone())),
        of("ssl_handshake_timeout", time(settings.ssl_handshake_timeout), time(SSL_HANDSHAKE_DEFAULT)),
        of("ssl_ktls", yes_no(settings.ssl_ktls), "no"),
        of("ssl_handshake_threads", settings.ssl_handshake_threads, 0),
        of("ssl_require_crl", yes_no(asked.is_none_or(|asked| asked.require_crl)), "yes"),
        of("ssl_verify_client_cert", yes_no(asked.is_some()), "no"),
        file("ssl_cert", "ssl_server_cert_file", &settings.ssl_cert),
        file("ssl_key", "ssl_server_key_file", &settings.ssl_key),
        of("takeover_socket", socket(&settings.takeover_socket), ""),
        of(
            "ssl_min_protocol",
            word(&TlsVersion::ALL, settings.ssl_min_protocol),
            word(&TlsVersion::ALL, TlsVersion::default()),
        ),
        of("pending_listener_limit", defaults.pending_limit, otherwise.pending_limit),
        of("pending_peer_limit", settings.pending_peer_limit, 0),
    ];
    lines.extend(client_lines(&settings.clients));
    lines.extend(privilege_lines(&settings.privileges));
    lines.sort_by_key(|line| line.name);
    lines
}

fn client_lines(clients: &Clients) -> Vec<Line> {
    let (limits, otherwise) = (&clients.limits, Clients::default());
    let rate = limits.rate.map_or(0, |rate| rate.connections.get());
    let shadow = limits.shadow.as_deref();
    vec![
        of("client_banned_networks", networks(&clients.banned), ""),
        of("shadow_client_banned_networks", networks(&clients.shadow_banned), ""),
        of(
            "shadow_client_connection_limit",
            shadow.and_then(|limits| limits.connections).map_or(0, NonZeroU32::get),
            0,
        ),
        of(
            "shadow_client_rate_limit",
            shadow.and_then(|limits| limits.rate).map_or(0, |rate| rate.connections.get()),
            0,
        ),
        of("client_connection_limit", limits.connections.map_or(0, NonZeroU32::get), 0),
        of("client_exempt_networks", networks(&clients.exempt), ""),
        of("client_ipv4_prefix", limits.ipv4_prefix, otherwise.limits.ipv4_prefix),
        of("client_ipv6_prefix", limits.ipv6_prefix, otherwise.limits.ipv6_prefix),
        of("client_rate_limit", rate, 0),
        of("client_rate_period", value::show_time(clients.rate_period), value::show_time(otherwise.rate_period)),
        of("client_table_size", limits.table_size, otherwise.limits.table_size),
    ]
}

fn privilege_lines(privileges: &Privileges) -> Vec<Line> {
    let name = |name: &Option<SourcedName>| name.as_ref().map_or(String::new(), |given| quoted(&given.name));
    let chroot = privileges.chroot.as_ref().map_or(String::new(), |file| quoted(&file.path.display().to_string()));
    vec![of("chroot", chroot, ""), of("group", name(&privileges.group), ""), of("user", name(&privileges.user), "")]
}

fn service_lines(service: &Service, settings: &Settings) -> Vec<Line> {
    let overload = |overload| match overload {
        Overload::Pause => "pause",
        Overload::Reject => "reject",
    };
    let worker = word(&validate::WORKERS.map(|(word, worker)| (worker, word)), service.worker);
    let mut lines = vec![of("worker", worker, "whoami")];
    lines.extend(match service.backend.and_then(|index| settings.backends.get(index)) {
        Some(backend) => relay_lines(service, backend),
        None => vec![
            of("overload", overload(service.overload), overload(Overload::Pause)),
            of("queue", service.queue, Pool::QUEUE_DEFAULT),
            of("residual", if service.exact_residual { "exact" } else { "pass" }, "pass"),
            match &service.hand_off {
                Some(place) => of("handoff_mode", mode(place.mode), mode(HANDOFF_MODE_DEFAULT)),
                None => of("workers", service.workers.map_or("auto".into(), |n| n.to_string()), "auto"),
            },
        ],
    });
    let place = service.hand_off.iter();
    lines.extend(place.map(|place| of("handoff_socket", quoted(&place.socket.display().to_string()), "")));
    lines.sort_by_key(|line| line.name);
    lines
}

/// As chmod(1) takes it.
fn mode(mode: u32) -> String {
    format!("{mode:04o}")
}

/// What concerns a relay only.
fn relay_lines(service: &Service, backend: &Backend) -> Vec<Line> {
    vec![
        // Shown even where the protocol says it: a reader looks for it.
        of("backend", &backend.servers.name, ""),
        of("idle_timeout", value::show_time(service.idle_timeout), value::show_time(IDLE_DEFAULT)),
        of("log_sessions", yes_no(service.log_sessions), "yes"),
        of("protocol", service.protocol.name(), Protocol::of_service(&service.name).name()),
    ]
}

fn backend(out: &mut String, settings: &Settings, index: usize, all: bool) {
    let backend = &settings.backends[index];
    open(out, 0, "backend", &backend.servers.name);
    print(out, 1, &backend_lines(settings, index), all);
    for server in &backend.servers.servers {
        open(out, 1, "server", &server.name);
        print(out, 2, &server_lines(server), all);
        out.push_str("  }\n");
    }
    out.push_str("}\n");
}

fn backend_lines(settings: &Settings, index: usize) -> Vec<Line> {
    let backend = &settings.backends[index];
    let servers = &backend.servers;
    let default_target = backends::default_target(&settings.services, index);
    let default_forward = backends::default_forward(backend.target);
    let default_tlvs = backends::default_tlvs(backend.target, backend.forward);
    let default_check = backends::default_check(&settings.services, index);
    let (target, forward) = (|one| word(&Target::ALL, one), |one| word(&Forward::ALL, one));
    let mut lines = vec![
        of("balance", word(&Balance::ALL, servers.balance), word(&Balance::ALL, Balance::default())),
        of("check", word(&CheckKind::ALL, servers.check.kind), word(&CheckKind::ALL, default_check)),
        of("check_interval", value::show_time(servers.check.interval), value::show_time(CHECK_INTERVAL_DEFAULT)),
        of("connect_timeout", value::show_time(servers.connect_timeout), value::show_time(CONNECT_DEFAULT)),
        of("fall", servers.check.fall, FALL_DEFAULT),
        of("forward", forward(backend.forward), forward(default_forward)),
        of("forward_tlvs", backend.forward_tlvs.words(), default_tlvs.words()),
        of("half_closed_timeout", value::show_time(backend.half_closed_timeout), value::show_time(HALF_CLOSED_DEFAULT)),
        of("queue", servers.queue, BACKEND_QUEUE_DEFAULT),
        of("queue_timeout", value::show_time(servers.queue_timeout), value::show_time(QUEUE_TIMEOUT_DEFAULT)),
        of("retries", servers.retries, RETRIES_DEFAULT),
        of("rise", servers.check.rise, RISE_DEFAULT),
        of("servers", "", ""),
        of("slow_start", value::show_time(servers.slow_start), value::show_time(SLOW_START_DEFAULT)),
        of("stick", if servers.stick.is_some() { "source" } else { "none" }, "none"),
        of("target", target(backend.target), target(default_target)),
    ];
    lines.extend(stick_lines(servers.stick.as_ref()));
    lines.sort_by_key(|line| line.name);
    lines
}

fn stick_lines(stick: Option<&StickSettings>) -> Vec<Line> {
    let Some(stick) = stick else { return Vec::new() };
    vec![
        of("stick_table_expire", value::show_time(stick.expire), value::show_time(STICK_EXPIRE_DEFAULT)),
        of("stick_table_size", stick.size, STICK_TABLE_DEFAULT),
    ]
}

fn server_lines(server: &ServerSettings) -> Vec<Line> {
    vec![
        of("address", &server.host, ""),
        of("backup", yes_no(server.backup), "no"),
        of("check_port", server.check_port.unwrap_or(0), 0),
        of("connection_limit", server.connection_limit, 0),
        of("port", server.port, ""),
        of("state", word(&AdminState::ALL, server.state), word(&AdminState::ALL, AdminState::default())),
        of("weight", server.weight, 1),
    ]
}

/// The word by which a configuration knows a value.
fn word<T: Copy + PartialEq>(all: &[(T, &'static str)], one: T) -> &'static str {
    all.iter().find(|(value, _)| *value == one).map_or("", |(_, word)| word)
}

fn listener_lines(service: &Service, listener: &InetListener, settings: &Settings) -> Vec<Line> {
    let defaults = &settings.defaults;
    let known = names::implicit(Dovecot::V23, &service.name, Some(&listener.name));
    let defers = listener.haproxy && !listener.plain_untrusted;
    let mut lines = vec![
        of("address", addresses(&listener.addresses), addresses(&defaults.addresses)),
        of("defer_accept", yes_no(listener.defer_accept), yes_no(defers)),
        of("haproxy", yes_no(listener.haproxy), "no"),
        of("haproxy_timeout", value::show_time(listener.timeout), value::show_time(defaults.timeout)),
        of("haproxy_trusted_networks", networks(&listener.networks), networks(&defaults.networks)),
        of("shadow_trusted_networks", networks(&listener.shadow_networks), networks(&defaults.shadow_networks)),
        of("haproxy_untrusted", untrusted(listener.plain_untrusted), untrusted(defaults.plain_untrusted)),
        of("haproxy_v4_in_tcp6", if listener.rules.v4_in_tcp6 { "map" } else { "reject" }, "reject"),
        of("haproxy_v6_in_tcp4", if listener.rules.v6_in_tcp4 { "map" } else { "reject" }, "reject"),
        of("log_connections", yes_no(listener.log_connections), yes_no(defaults.log_connections)),
        of("client_allowed_endpoints", endpoints(&listener.policy.endpoints), endpoints(&defaults.endpoints)),
        of("client_endpoint_missing", missing(&listener.policy.endpoints), missing(&defaults.endpoints)),
        of("pending_listener_limit", listener.pending_limit, defaults.pending_limit),
        // The port is what a reader looks for: shown even where it is Dovecot's default.
        of("port", listener.port, ""),
        of("reuse_port", yes_no(listener.reuse_port), "no"),
        of("ssl", yes_no(listener.ssl), yes_no(known.is_some_and(|known| known.ssl))),
    ];
    lines.extend(policy_lines(&listener.policy));
    lines.sort_by_key(|line| line.name);
    lines
}

fn untrusted(plain: bool) -> &'static str {
    if plain { "plain" } else { "abort" }
}

fn policy_lines(policy: &Policy) -> Vec<Line> {
    let default = Policy::default();
    let each = |show: fn(&Policy) -> String| (show(policy), show(&default));
    let line = |name, (value, default): (String, String)| Line { name, value, default };
    vec![
        line("haproxy_alpn", each(alpn)),
        line("haproxy_authority", each(|p| if p.dns_authority { "dns" } else { "any" }.into())),
        line("haproxy_checksum", each(|p| if p.checksum_required { "require" } else { "verify" }.into())),
        line("haproxy_second_header", each(|p| if p.second_header_pass { "pass" } else { "reject" }.into())),
        line("haproxy_source", each(|p| if p.any_source { "any" } else { "unicast" }.into())),
        line("haproxy_unknown", each(|p| if p.unknown == OnUnknown::Peer { "peer" } else { "reject" }.into())),
        line("haproxy_unspec", each(|p| if p.unspec == OnUnspec::Peer { "peer" } else { "reject" }.into())),
        line("haproxy_versions", each(versions)),
    ]
}

fn versions(policy: &Policy) -> String {
    let both = [policy.v1.then_some("v1"), policy.v2.then_some("v2")];
    both.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn alpn(policy: &Policy) -> String {
    let names: Vec<_> = policy.alpn.iter().map(|name| String::from_utf8_lossy(name)).collect();
    quoted(&names.join(" "))
}

fn endpoints(rules: &EndpointRules) -> String {
    rules.allowed.iter().map(EndpointId::to_string).collect::<Vec<_>>().join(" ")
}

fn missing(rules: &EndpointRules) -> &'static str {
    word(&validate::MISSING.map(|(word, missing)| (missing, word)), rules.missing)
}

fn networks(networks: &[Network]) -> String {
    networks.iter().map(Network::to_string).collect::<Vec<_>>().join(" ")
}

fn addresses(addresses: &[IpAddr]) -> String {
    addresses.iter().copied().map(value::show_address).collect::<Vec<_>>().join(", ")
}

/// `name = <PATH`, or by Dovecot 2.4's name, which takes quotes, where the path could not be read back without them.
fn file(name: &'static str, name_24: &'static str, path: &Option<SourcedPath>) -> Line {
    let Some(file) = path else { return of(name, "", "") };
    let path = file.path.display().to_string();
    match quoted(&path) {
        quoted if quoted == path => of(name, format_args!("<{path}"), ""),
        quoted => of(name_24, quoted, ""),
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn print(out: &mut String, depth: usize, lines: &[Line], all: bool) {
    for Line { name, value, default } in lines {
        if all || value != default {
            line(out, format_args!("{:1$}{name} = {value}", "", 2 * depth));
        }
    }
}

fn open(out: &mut String, depth: usize, kind: &str, name: &str) {
    let special = |c: char| c.is_whitespace() || matches!(c, '"' | '\\' | '{' | '}' | '=' | ';' | '#' | '\'');
    let plain = !name.is_empty() && !name.contains(special);
    let name = if plain { name.into() } else { format!("\"{}\"", escaped(name)) };
    line(out, format_args!("{:1$}{kind} {name} {{", "", 2 * depth));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes everything");
}

/// In quotes where it would not be read back as it is.
fn quoted(text: &str) -> String {
    let special = text.starts_with(['<', '"', '\''])
        || text.ends_with('\\')
        || text.trim().len() < text.len()
        || text.contains(['#', '$']);
    if special { format!("\"{}\"", escaped(text)) } else { text.into() }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
