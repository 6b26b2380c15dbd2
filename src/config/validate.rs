//! From text to meaning: every value parsed, defaults and inheritance filled in, listeners checked against each other.
//! All errors are collected.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::gather::{Gathered, RawBackend, RawListener, RawService, Values};
use super::groups;
use super::names;
use super::settings::*;
use super::slips;
use super::source::{self, Setting};
use super::syntax::Value;
use super::value;
use super::{Dovecot, Implicit, Place, Problem};
use crate::admission::{
    CLIENTS_MAX, CLIENTS_MIN, ClientLimits, ClientRate, EndpointId, EndpointRules, OnMissingEndpoint, OnUnknown,
    OnUnspec, Policy,
};
use crate::dispatch::{Overload, Pool};
use crate::net::{Network, NetworkSet};
use crate::proxy::Rules;

/// Below this a lost segment cannot be sent again in time (the initial retransmission timeout is 1 s, doubled after).
const TIMEOUT_SENSIBLE: Duration = Duration::from_secs(3);
/// Who may send a header.
/// Bytes of a Unix socket's path (unix(7), less the NUL behind it); of one that is put in its place by rename(2), which is bound
/// with a dot and the process id behind its name, pid_max being at most 4194304.
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_PLACED_MAX: usize = SOCKET_PATH_MAX - ".4194304".len();
/// What is wrong with a listener that was meant and has no port.
const NO_PORT: &str = "not listened on, because it has no port; add port = N";
const TRUSTED: &str = "haproxy_trusted_networks";
const SHADOW: &str = "shadow_trusted_networks";
/// Longest ALPN name in bytes (RFC 7301).
const ALPN_NAME_MAX: usize = 255;

/// Through which private endpoints clients may come, and what becomes of those who come through none.
const ENDPOINTS: &str = "client_allowed_endpoints";
const ENDPOINT_MISSING: &str = "client_endpoint_missing";

/// The choices of `client_endpoint_missing`.
pub(super) const MISSING: [(&str, OnMissingEndpoint); 2] =
    [("reject", OnMissingEndpoint::Reject), ("allow", OnMissingEndpoint::Allow)];

/// What a service's pool can do.
pub(super) const WORKERS: [(&str, WorkerKind); 4] = [
    ("whoami", WorkerKind::Whoami),
    ("discard", WorkerKind::Discard),
    ("relay", WorkerKind::Relay),
    ("handoff", WorkerKind::HandOff),
];

/// The choices of `serve_listeners`.
pub(super) const SERVE: [(&str, ServeListeners); 3] =
    [("all", ServeListeners::All), ("haproxy", ServeListeners::Haproxy), ("named", ServeListeners::Named)];

/// Makes the settings; they are only to be used if no problem was added.
pub(super) fn settings(root: &Path, gathered: &mut Gathered) -> Settings {
    let raw_services = std::mem::take(&mut gathered.services);
    let raw_backends = std::mem::take(&mut gathered.backends);
    let values = std::mem::take(&mut gathered.values);
    let local_names = std::mem::take(&mut gathered.local_names);
    let mut check = Check { problems: &mut gathered.problems, warnings: &mut gathered.warnings };
    let defaults = check.defaults(&values);
    let header_limit = check.number(&values, "header_limit", u64::from(HEADER_MIN), u64::from(HEADER_MAX));
    let header_limit = header_limit.map_or(HEADER_DEFAULT, |n| n as u32);
    let pending_limit = check.number(&values, "pending_limit", u64::from(PENDING_MIN), u64::from(PENDING_MAX));
    let networks_at = values.get(TRUSTED).map(|setting| &setting.at);
    let serve = check.choice(&values, "serve_listeners", &SERVE).unwrap_or_default();
    let globals = Globals {
        defaults: &defaults,
        networks_at,
        header_limit,
        dovecot: gathered.dovecot,
        backends: &raw_backends,
        serve,
        root,
    };
    let services: Vec<Service> = raw_services.iter().filter_map(|raw| check.service(raw, &globals)).collect();
    let proxy = check.login_proxy(&values, &services);
    let backends = check.backends(&raw_backends, &services, &proxy, header_limit);
    check.protocols(&values, &services);
    check.together(root, &services);
    let tls = check.tls(&values, &local_names, &services, gathered.dovecot);
    Settings {
        driver: check
            .choice(&values, "driver", &DriverKind::ALL.map(|(driver, word)| (word, driver)))
            .unwrap_or_default(),
        rings: check.auto_or_number(&values, "rings", RINGS_MAX),
        pending_limit: pending_limit.map_or(PENDING_DEFAULT, |n| n as u32),
        pending_peer_limit: check.pending(&values, "pending_peer_limit").unwrap_or(0),
        locked_memory_limit: check.locked_memory(&values),
        clients: check.clients(&values),
        privileges: check.privileges(&values),
        header_limit,
        drain_timeout: check.drain_timeout(&values),
        drain_delay: check.drain_delay(&values),
        takeover_socket: check.socket(&values, "takeover_socket", SOCKET_PLACED_MAX),
        control_socket: check.control_socket(&values),
        http_listen: check.http_listen(&values, &services),
        http_hosts: check.http_hosts(&values),
        log_format: check
            .choice(&values, "log_format", &LogFormat::ALL.map(|(form, word)| (word, form)))
            .unwrap_or_default(),
        defaults,
        ssl_cert: tls.cert,
        ssl_key: tls.key,
        ssl_min_protocol: tls.min_protocol,
        ssl_handshake_timeout: tls.handshake_timeout,
        ssl_ktls: tls.to_kernel,
        ssl_handshake_threads: check
            .number(&values, "ssl_handshake_threads", 0, SSL_HANDSHAKE_THREADS_MAX.into())
            .map_or(0, |threads| threads as u32),
        client_certificates: tls.client_certificates,
        local_names: tls.local_names,
        serve_listeners: serve,
        login_source_ips: proxy.source_ips,
        login_proxy_timeout: proxy.timeout,
        login_proxy_max_disconnect_delay: proxy.disconnect_delay,
        backends,
        services,
    }
}

/// Dovecot's own listeners that the files do not name, although their protocol is on. Where the files do not say which
/// protocols are on, those of the services that they name.
pub(super) fn implicit(gathered: &Gathered) -> Vec<Implicit> {
    let protocols = match gathered.values.get("protocols").map(|setting| &setting.value) {
        Some(Value::Plain(text) | Value::Quoted(text)) => Some(text.clone()),
        Some(Value::Update(changes)) => Some(groups::updated("", changes)),
        _ => None,
    };
    let service = |known: &Implicit| gathered.services.iter().find(|raw| raw.name == known.service);
    let named = |known: &Implicit| {
        service(known).is_some_and(|raw| raw.listeners.iter().any(|raw| raw.name.as_deref() == Some(known.listener)))
    };
    let on = |known: &Implicit| match &protocols {
        Some(protocols) => value::items(protocols).any(|protocol| protocol == known.protocol),
        None => service(known).is_some(),
    };
    names::implicits(gathered.dovecot).filter(|known| on(known) && !named(known)).copied().collect()
}

pub(super) struct Check<'a> {
    pub(super) problems: &'a mut Vec<Problem>,
    warnings: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn defaults(&mut self, values: &Values) -> Defaults {
        let otherwise = Defaults::default();
        Defaults {
            addresses: self.addresses(values, "listen", &otherwise.addresses).unwrap_or(otherwise.addresses),
            ssl: self.global_ssl(values),
            networks: self.networks(values).unwrap_or(otherwise.networks),
            shadow_networks: self.shadow_networks(values, &otherwise.shadow_networks),
            plain_untrusted: self.plain_untrusted(values).unwrap_or(otherwise.plain_untrusted),
            timeout: self.timeout(values).unwrap_or(otherwise.timeout),
            pending_limit: self.pending(values, "pending_listener_limit").unwrap_or(otherwise.pending_limit),
            log_connections: self.boolean(values, "log_connections").unwrap_or(otherwise.log_connections),
            endpoints: self.endpoint_rules(values, &otherwise.endpoints),
        }
    }

    fn pending(&mut self, values: &Values, name: &str) -> Option<u32> {
        self.number(values, name, 0, PENDING_MAX.into()).map(|n| n as u32)
    }

    fn clients(&mut self, values: &Values) -> Clients {
        let otherwise = Clients::default();
        let most = u64::from(CLIENT_LIMIT_MAX);
        let mut limit = |name| self.number(values, name, 0, most).and_then(|n| NonZeroU32::new(n as u32));
        let (connections, rate) = (limit("client_connection_limit"), limit("client_rate_limit"));
        let rate_period = self.rate_period(values).unwrap_or(otherwise.rate_period);
        let mut prefix = |name, bits| self.number(values, name, 1, bits).map(|n| n as u8);
        let (v4, v6) = (prefix("client_ipv4_prefix", 32), prefix("client_ipv6_prefix", 128));
        let size = self.number(values, "client_table_size", CLIENTS_MIN.into(), CLIENTS_MAX.into());
        let exempt = self.network_list(values, "client_exempt_networks");
        let banned = self.network_list(values, "client_banned_networks");
        let limits = ClientLimits {
            connections,
            rate: rate.map(|connections| ClientRate { connections, period: rate_period }),
            ipv4_prefix: v4.unwrap_or(otherwise.limits.ipv4_prefix),
            ipv6_prefix: v6.unwrap_or(otherwise.limits.ipv6_prefix),
            table_size: size.map_or(otherwise.limits.table_size, |n| n as u32),
            exempt: exempt.iter().copied().collect(),
            banned: banned.iter().copied().collect(),
            ..ClientLimits::default()
        };
        let (shadow, shadow_banned) = self.shadow_limits(values, &limits, rate_period);
        Clients { limits: ClientLimits { shadow, ..limits }, rate_period, exempt, banned, shadow_banned }
    }

    /// Limits that are only tried, if there are some; what a client is, is the same for them.
    fn shadow_limits(
        &mut self,
        values: &Values,
        real: &ClientLimits,
        period: Duration,
    ) -> (Option<Box<ClientLimits>>, Vec<Network>) {
        let most = u64::from(CLIENT_LIMIT_MAX);
        let mut limit = |name| self.number(values, name, 0, most).and_then(|n| NonZeroU32::new(n as u32));
        let (connections, rate) = (limit("shadow_client_connection_limit"), limit("shadow_client_rate_limit"));
        let rate = rate.map(|connections| ClientRate { connections, period });
        let networks = self.network_list(values, "shadow_client_banned_networks");
        let banned: NetworkSet = networks.iter().copied().collect();
        if connections.is_none() && rate.is_none() && banned.is_empty() {
            return (None, networks);
        }
        (Some(Box::new(ClientLimits { connections, rate, banned, ..real.clone() })), networks)
    }

    fn rate_period(&mut self, values: &Values) -> Option<Duration> {
        self.with(values, "client_rate_period", |text| match value::time(text)? {
            time if !time.is_zero() && time <= RATE_PERIOD_MAX => Ok(time),
            _ => {
                let most = value::show_time(RATE_PERIOD_MAX);
                Err(format!("client_rate_period: {text} is not in the range 1 secs to {most}"))
            }
        })
    }

    fn network_list(&mut self, values: &Values, name: &str) -> Vec<Network> {
        let Some(setting) = values.get(name) else { return Vec::new() };
        let Some(text) = self.text(setting) else { return Vec::new() };
        let mut networks = Vec::new();
        for item in value::items(&text) {
            match value::network(item) {
                Ok((network, _)) => networks.push(network),
                Err(words) => self.problem(&setting.at, format!("{name}: {words}")),
            }
        }
        networks
    }

    fn shadow_networks(&mut self, values: &Values, otherwise: &[Network]) -> Vec<Network> {
        match values.get(SHADOW) {
            Some(_) => self.network_list(values, SHADOW),
            None => otherwise.to_owned(),
        }
    }

    fn privileges(&mut self, values: &Values) -> Privileges {
        let user = self.name(values, "user");
        let group = self.name(values, "group");
        let chroot = self.with(values, "chroot", |text| match Path::new(text) {
            path if text.is_empty() || path.is_absolute() => Ok(path.to_path_buf()),
            _ => Err(format!("chroot: {text} is not an absolute path")),
        });
        let chroot = chroot.filter(|path| !path.as_os_str().is_empty());
        let chroot = chroot.map(|path| SourcedPath { path, at: values["chroot"].at.clone() });
        if user.is_none() && (group.is_some() || chroot.is_some()) {
            let name = if group.is_some() { "group" } else { "chroot" };
            let words = format!("{name} needs user: write user = NAME, the user to become once the ports are bound");
            self.problem(&values[name].at, words);
        }
        Privileges { user, group, chroot }
    }

    /// A name; empty is as good as unset.
    fn name(&mut self, values: &Values, setting: &str) -> Option<SourcedName> {
        let name = self.with(values, setting, |text| Ok(text.to_string())).filter(|name| !name.is_empty())?;
        Some(SourcedName { name, at: values[setting].at.clone() })
    }

    /// A service and its listeners; `None` if it has none.
    fn service(&mut self, raw: &RawService, globals: &Globals<'_>) -> Option<Service> {
        let (values, defaults) = (&raw.values, globals.defaults);
        let worker = self.choice(values, "worker", &WORKERS).unwrap_or(WorkerKind::Whoami);
        let overload = self.choice(values, "overload", &[("pause", Overload::Pause), ("reject", Overload::Reject)]);
        let queue = self.number(values, "queue", 1, Pool::QUEUE_MAX as u64);
        let inherited = Inherited {
            globals,
            networks_at: values.get(TRUSTED).map(|setting| &setting.at).or(globals.networks_at),
            networks: self.networks(values).unwrap_or_else(|| defaults.networks.clone()),
            shadow_networks: self.shadow_networks(values, &defaults.shadow_networks),
            plain_untrusted: self.plain_untrusted(values).unwrap_or(defaults.plain_untrusted),
            timeout: self.timeout(values).unwrap_or(defaults.timeout),
            pending_limit: self.pending(values, "pending_listener_limit").unwrap_or(defaults.pending_limit),
            log_connections: self.boolean(values, "log_connections").unwrap_or(defaults.log_connections),
            reuse_port: self.boolean(values, "reuse_port").unwrap_or(false),
            endpoints: self.endpoint_rules(values, &defaults.endpoints),
        };
        let residual = self.choice(values, "residual", &[("pass", false), ("exact", true)]);
        let workers = self.auto_or_number(values, "workers", WORKERS_MAX);
        let listeners: Vec<_> = raw.listeners.iter().filter_map(|one| self.listener(raw, one, &inherited)).collect();
        if listeners.is_empty() {
            return None;
        }
        let pool = (worker != WorkerKind::Relay).then_some(()); // A relay has none.
        let relay = self.relay(raw, worker, globals.backends);
        let hand_off = self.hand_off(raw, worker);
        if is_served_by_rings(worker, workers, &listeners) {
            let why = "where the rings serve: write workers = NUMBER for threads with a queue";
            self.no_effect(values, &["queue", "overload"], why);
        }
        Some(Service {
            name: raw.name.clone(),
            worker,
            workers: pool.and(workers),
            queue: pool.and(queue).map_or(Pool::QUEUE_DEFAULT, |n| n as usize),
            overload: pool.and(overload).unwrap_or(Overload::Pause),
            exact_residual: pool.and(residual).unwrap_or(false),
            hand_off,
            protocol: relay.protocol,
            backend: relay.backend,
            idle_timeout: relay.idle_timeout,
            log_sessions: relay.log_sessions,
            listeners,
            at: raw.at.clone(),
        })
    }

    /// What a service says of handing off. Of one that does not, only whether it says anything.
    fn hand_off(&mut self, raw: &RawService, worker: WorkerKind) -> Option<HandOffPlace> {
        let values = &raw.values;
        if worker != WorkerKind::HandOff {
            self.no_effect(values, &["handoff_socket", "handoff_mode"], "without worker = handoff");
            return None;
        }
        self.no_effect(values, &["workers"], "with worker = handoff");
        let mode = self.with(values, "handoff_mode", value::mode).unwrap_or(HANDOFF_MODE_DEFAULT);
        let socket = self.socket(values, "handoff_socket", SOCKET_PATH_MAX);
        if socket.is_none() {
            let words = "worker = handoff needs to know where receivers connect: write handoff_socket = /run/vestibule/NAME.sock";
            self.problem(&raw.at, format!("service {}: {words}", raw.name));
        }
        Some(HandOffPlace { socket: socket?, mode })
    }

    /// A listener that is to be bound; `None` if it is off.
    fn listener(&mut self, service: &RawService, raw: &RawListener, inherited: &Inherited<'_>) -> Option<InetListener> {
        let (values, globals) = (&raw.values, inherited.globals);
        let default = names::implicit(globals.dovecot, &service.name, raw.name.as_deref());
        let ssl = self.boolean(values, "ssl").unwrap_or(default.is_some_and(|known| known.ssl));
        let haproxy = self.boolean(values, "haproxy").unwrap_or(false);
        let networks = self.networks(values).unwrap_or_else(|| inherited.networks.clone());
        let plain_untrusted = self.plain_untrusted(values).unwrap_or(inherited.plain_untrusted);
        let timeout = self.timeout(values).unwrap_or(inherited.timeout);
        let pending_limit = self.pending(values, "pending_listener_limit").unwrap_or(inherited.pending_limit);
        let addresses = self.addresses(values, "address", &globals.defaults.addresses);
        let reuse_port = self.boolean(values, "reuse_port").unwrap_or(inherited.reuse_port);
        let log_connections = self.boolean(values, "log_connections").unwrap_or(inherited.log_connections);
        let defer_asked = self.boolean(values, "defer_accept");
        let defer_accept = defer_asked.unwrap_or(haproxy) && !(haproxy && plain_untrusted);
        let policy = self.policy(values, &inherited.endpoints);
        let mixed = [("reject", false), ("map", true)];
        let v4_in_tcp6 = self.choice(values, "haproxy_v4_in_tcp6", &mixed).unwrap_or(false);
        let v6_in_tcp4 = self.choice(values, "haproxy_v6_in_tcp4", &mixed).unwrap_or(false);
        let port = self.port(raw, default.map(|known| known.port))?;
        if ssl && !globals.defaults.ssl {
            let name = raw.name.as_deref().unwrap_or("without a name");
            let words = "left out, because it has ssl = yes and the global ssl = no turns all of those off";
            self.warn(&raw.at, format!("inet_listener {name}: {words}"));
            return None;
        }
        if !globals.serves(raw, haproxy) {
            return None;
        }
        let name = raw.name.clone().unwrap_or_else(|| format!("port-{port}"));
        if !haproxy {
            self.without_effect(values);
        } else if plain_untrusted {
            self.judge_mixed(raw, &name, defer_asked, networks.is_empty());
        } else if networks.is_empty() {
            let at = values.get(TRUSTED).map(|setting| &setting.at).or(inherited.networks_at).unwrap_or(&raw.at);
            let words = "haproxy = yes, but haproxy_trusted_networks is empty: every connection will be refused; list the load balancers there";
            self.warn(at, format!("inet_listener {name}: {words}"));
        }
        let shadow_networks = self.shadow_networks(values, &inherited.shadow_networks);
        let networks_at = values.get(TRUSTED).map(|setting| &setting.at).or(inherited.networks_at).cloned();
        let listener = InetListener {
            name,
            networks_at,
            shadow_networks,
            addresses: addresses.unwrap_or_else(|| globals.defaults.addresses.clone()),
            port,
            ssl,
            haproxy,
            reuse_port,
            trusted: networks.iter().copied().collect(),
            networks,
            plain_untrusted,
            timeout,
            pending_limit,
            rules: Rules { header_limit: globals.header_limit, v4_in_tcp6, v6_in_tcp4 },
            policy,
            defer_accept,
            log_connections,
            at: raw.at.clone(),
        };
        if haproxy {
            self.judge_endpoints(raw, &listener);
        }
        Some(listener)
    }

    /// A listener where peers with a header and clients without one meet.
    fn judge_mixed(&mut self, raw: &RawListener, name: &str, defer_asked: Option<bool>, trusts_nobody: bool) {
        if trusts_nobody {
            let words = "haproxy_untrusted = plain, but haproxy_trusted_networks is empty: every peer is a client, and the header of a balancer would be payload; list the load balancers there";
            self.warn(&raw.at, format!("inet_listener {name}: {words}"));
        }
        if defer_asked == Some(true) {
            let words = "defer_accept has no effect with haproxy_untrusted = plain: a client may wait for its greeting";
            self.warn(&raw.values["defer_accept"].at, words.into());
        }
    }

    fn plain_untrusted(&mut self, values: &Values) -> Option<bool> {
        self.choice(values, "haproxy_untrusted", &[("abort", false), ("plain", true)])
    }

    fn policy(&mut self, values: &Values, outside: &EndpointRules) -> Policy {
        let default = Policy::default();
        let (v1, v2) = self.versions(values).unwrap_or((default.v1, default.v2));
        let unknown = [("peer", OnUnknown::Peer), ("reject", OnUnknown::Reject)];
        let unspec = [("peer", OnUnspec::Peer), ("reject", OnUnspec::Reject)];
        let checksum = [("verify", false), ("require", true)];
        let source = [("unicast", false), ("any", true)];
        let second = [("reject", false), ("pass", true)];
        let authority = [("any", false), ("dns", true)];
        Policy {
            v1,
            v2,
            unknown: self.choice(values, "haproxy_unknown", &unknown).unwrap_or(default.unknown),
            unspec: self.choice(values, "haproxy_unspec", &unspec).unwrap_or(default.unspec),
            checksum_required: self.choice(values, "haproxy_checksum", &checksum).unwrap_or(default.checksum_required),
            any_source: self.choice(values, "haproxy_source", &source).unwrap_or(default.any_source),
            second_header_pass: self
                .choice(values, "haproxy_second_header", &second)
                .unwrap_or(default.second_header_pass),
            dns_authority: self.choice(values, "haproxy_authority", &authority).unwrap_or(default.dns_authority),
            alpn: self.alpn(values).unwrap_or(default.alpn),
            endpoints: self.endpoint_rules(values, outside),
        }
    }

    fn endpoint_rules(&mut self, values: &Values, outside: &EndpointRules) -> EndpointRules {
        let allowed = self.with(values, ENDPOINTS, |text| {
            let ids = value::items(text)
                .map(|item| item.parse().map_err(|reason| format!("Invalid {ENDPOINTS}: {item}: {reason}")));
            let ids: Vec<EndpointId> = ids.collect::<Result<_, String>>()?;
            match ids.len() {
                0..=ENDPOINTS_MAX => Ok(ids.into_iter().collect()),
                count => Err(format!("{ENDPOINTS}: {count} endpoints are more than {ENDPOINTS_MAX}")),
            }
        });
        EndpointRules {
            allowed: allowed.unwrap_or_else(|| outside.allowed.clone()),
            missing: self.choice(values, ENDPOINT_MISSING, &MISSING).unwrap_or(outside.missing),
        }
    }

    /// Demands on endpoints that a listener does not, or cannot, keep.
    fn judge_endpoints(&mut self, raw: &RawListener, listener: &InetListener) {
        let EndpointRules { allowed, missing } = &listener.policy.endpoints;
        let at = |name| raw.values.get(name).map_or(&raw.at, |setting| &setting.at);
        if allowed.is_empty() {
            if raw.values.contains_key(ENDPOINT_MISSING) {
                let words = format!("{ENDPOINT_MISSING} has no effect without {ENDPOINTS}");
                self.warn(at(ENDPOINT_MISSING), words);
            }
        } else if listener.plain_untrusted {
            let words = format!(
                "inet_listener {}: {ENDPOINTS} does not concern peers outside of haproxy_trusted_networks: haproxy_untrusted = plain serves them without a header",
                listener.name
            );
            self.warn(at(ENDPOINTS), words);
        } else if !listener.policy.v2 && *missing == OnMissingEndpoint::Reject {
            let words = format!(
                "inet_listener {}: every client will be refused: {ENDPOINTS} demands an endpoint, which a version 1 header cannot name",
                listener.name
            );
            self.warn(at(ENDPOINTS), words);
        }
    }

    fn versions(&mut self, values: &Values) -> Option<(bool, bool)> {
        self.with(values, "haproxy_versions", |text| {
            let (mut v1, mut v2) = (false, false);
            for item in value::items(text) {
                match item {
                    "v1" => v1 = true,
                    "v2" => v2 = true,
                    other => return Err(format!("Invalid haproxy_versions: {other} (use v1, v2, or both)")),
                }
            }
            if v1 || v2 { Ok((v1, v2)) } else { Err("Invalid haproxy_versions: empty (use v1, v2, or both)".into()) }
        })
    }

    fn alpn(&mut self, values: &Values) -> Option<Vec<Vec<u8>>> {
        self.with(values, "haproxy_alpn", |text| match value::items(text).find(|name| name.len() > ALPN_NAME_MAX) {
            Some(_) => Err(format!("Invalid haproxy_alpn: a name is longer than {ALPN_NAME_MAX} bytes")),
            None => Ok(value::items(text).map(|name| name.as_bytes().to_vec()).collect()),
        })
    }

    fn port(&mut self, raw: &RawListener, default: Option<u16>) -> Option<u16> {
        let port = self.with(&raw.values, "port", value::port).or(default);
        // Packaged files have empty listeners as an example; one with settings was meant.
        if port.is_none() && !raw.values.is_empty() && !raw.values.contains_key("port") {
            let name = raw.name.as_deref().unwrap_or("without a name");
            self.warn(&raw.at, format!("inet_listener {name}: {NO_PORT}"));
        }
        port.filter(|&port| port != 0)
    }

    fn global_ssl(&mut self, values: &Values) -> bool {
        self.with(values, "ssl", |text| match text.to_ascii_lowercase().as_str() {
            "required" => Ok(true),
            _ => value::boolean(text).map_err(|_| format!("Invalid ssl value: {text} (use yes, no or required)")),
        })
        .unwrap_or(true)
    }

    /// `outside`: what a list of changes changes.
    fn addresses(&mut self, values: &Values, name: &str, outside: &[IpAddr]) -> Option<Vec<IpAddr>> {
        let outside = || outside.iter().map(|&ip| value::show_address(ip)).collect::<Vec<_>>().join(" ");
        let changed = match values.get(name).map(|setting| &setting.value) {
            Some(Value::Update(changes)) => Some(groups::updated(&outside(), changes)),
            _ => None,
        };
        let addresses = self.with(values, name, |text| {
            let text = changed.as_deref().unwrap_or(text);
            let mut addresses = Vec::new();
            for item in value::items(text) {
                let address = value::address(item)?;
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Ok(addresses)
        })?;
        // Dovecot shows `address =` for "as in listen".
        if addresses.is_empty() && name == "listen" {
            self.problem(
                &values[name].at,
                "listen is empty: no listener would have an address (default: *, ::)".into(),
            );
        }
        Some(addresses).filter(|addresses| !addresses.is_empty())
    }

    fn networks(&mut self, values: &Values) -> Option<Vec<Network>> {
        let setting = values.get(TRUSTED)?;
        let text = self.text(setting)?;
        let mut networks = Vec::new();
        for item in value::items(&text) {
            match value::network(item) {
                Ok((network, scoped)) => {
                    if network.prefix() == 0 {
                        let words = format!(
                            "haproxy_trusted_networks: {item} trusts everybody to name any client address; list the load balancers only"
                        );
                        self.warn(&setting.at, words);
                    }
                    if scoped {
                        let words = format!(
                            "haproxy_trusted_networks: the scope of {item} is not looked at: trusted on every interface"
                        );
                        self.warn(&setting.at, words);
                    }
                    networks.push(network);
                }
                Err(words) => self.problem(&setting.at, format!("haproxy_trusted_networks: {words}")),
            }
        }
        Some(networks)
    }

    fn timeout(&mut self, values: &Values) -> Option<Duration> {
        let timeout = self.with(values, "haproxy_timeout", |text| match text {
            "infinite" => {
                Err("haproxy_timeout: infinite would let silent connections stay for ever (default 3 secs)".into())
            }
            _ => value::time(text),
        })?;
        let at = &values["haproxy_timeout"].at;
        let shown = value::show_time(timeout);
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            let most = value::show_time(TIMEOUT_MAX);
            self.problem(at, format!("haproxy_timeout: {shown} is not in the range 1 secs to {most} (default 3 secs)"));
        } else if timeout < TIMEOUT_SENSIBLE {
            self.warn(
                at,
                format!("haproxy_timeout: {shown} leaves no room to send a lost segment again (default 3 secs)"),
            );
        }
        Some(timeout)
    }

    fn drain_timeout(&mut self, values: &Values) -> Duration {
        let timeout = self.with(values, "drain_timeout", |text| match value::time(text)? {
            time if time <= DRAIN_MAX => Ok(time),
            _ => Err(format!("drain_timeout: {text} is more than {}", value::show_time(DRAIN_MAX))),
        });
        timeout.unwrap_or(DRAIN_DEFAULT)
    }

    fn drain_delay(&mut self, values: &Values) -> Duration {
        let delay = self.with(values, "drain_delay", |text| match value::time(text)? {
            time if time <= DRAIN_DELAY_MAX => Ok(time),
            _ => Err(format!("drain_delay: {text} is more than {}", value::show_time(DRAIN_DELAY_MAX))),
        });
        delay.unwrap_or_default()
    }

    fn http_hosts(&mut self, values: &Values) -> Vec<String> {
        let names = self.with(values, "http_hosts", |text| {
            let names: Vec<String> = value::items(text).map(|name| name.trim_end_matches('.').to_lowercase()).collect();
            let is_name = |name: &String| {
                let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                !name.is_empty() && name.len() <= 253 && name.bytes().all(valid)
            };
            match names.iter().find(|name| !is_name(name)) {
                Some(name) => Err(format!("http_hosts: {name} is no host name: write names without a port")),
                None if names.len() > HTTP_HOSTS_MAX => {
                    Err(format!("http_hosts: {} names, and {HTTP_HOSTS_MAX} may be given", names.len()))
                }
                None => Ok(names),
            }
        });
        names.unwrap_or_default()
    }

    /// Empty: nowhere.
    fn http_listen(&mut self, values: &Values, services: &[Service]) -> Option<SocketAddr> {
        let address = self.with(values, "http_listen", |text| match text {
            "" => Ok(None),
            text => value::socket_address(text).map(Some),
        })??;
        let at = &values.get("http_listen")?.at;
        let listeners = services.iter().flat_map(|service| &service.listeners);
        let same = |listener: &&InetListener| {
            let meets = |one: &IpAddr| *one == address.ip() || one.is_unspecified() || address.ip().is_unspecified();
            listener.port == address.port() && listener.addresses.iter().any(meets)
        };
        if let Some(listener) = listeners.into_iter().find(same) {
            self.problem(at, format!("http_listen: {address} is taken by inet_listener {}", listener.name));
        }
        if !address.ip().is_loopback() {
            let words = "whoever reaches it sees who connects and how your servers do";
            self.warn(at, format!("http_listen: {address} is no address of this host alone: {words}"));
        }
        Some(address)
    }

    /// Warns of listeners whose protocol Dovecot would not serve.
    fn protocols(&mut self, values: &Values, services: &[Service]) {
        let Some(setting) = values.get("protocols") else { return };
        let Some(text) = self.text(setting) else { return };
        for service in services {
            let protocol = names::protocol_of(&service.name);
            if let Some(protocol) = protocol.filter(|protocol| !value::items(&text).any(|p| p == *protocol)) {
                let words = format!(
                    "protocols does not list {protocol}: Dovecot would not start service {}, Vestibule does",
                    service.name
                );
                self.warn(&setting.at, words);
            }
        }
    }

    /// What concerns all listeners together.
    fn together(&mut self, root: &Path, services: &[Service]) {
        let listeners: Vec<&InetListener> = services.iter().flat_map(|service| &service.listeners).collect();
        if listeners.is_empty() && self.problems.is_empty() {
            let words = "nothing to listen on: no service has an inet_listener with a port. Dovecot's implicit ones are not bound; write, for example, service imap-login { inet_listener imap { port = 143 } }";
            // Nearer to the cause than the words above, if there are such.
            let without_port = self.warnings.iter().filter(|warning| warning.message.ends_with(NO_PORT)).cloned();
            self.problems.extend(without_port.collect::<Vec<_>>());
            self.problem(&Place { file: root.into(), line: 0 }, words.into());
        }
        if let Some(first) = listeners.get(LISTENERS_MAX) {
            self.problem(&first.at, format!("more than {LISTENERS_MAX} listeners"));
        }
        let mut taken: HashMap<(IpAddr, u16), &InetListener> = HashMap::new();
        for listener in &listeners {
            for &address in &listener.addresses {
                if let Some(other) = taken.insert((address, listener.port), listener) {
                    let (shown, port, name) = (value::show_address(address), listener.port, &other.name);
                    let words = format!(
                        "inet_listener {}: {shown} port {port} is taken by inet_listener {name} ({})",
                        listener.name, other.at
                    );
                    self.problem(&listener.at, words);
                }
            }
        }
        for (&(address, port), listener) in &taken {
            let any = if address.is_ipv4() { IpAddr::V4([0; 4].into()) } else { IpAddr::V6([0; 16].into()) };
            if let Some(other) = taken.get(&(any, port)).filter(|_| address != any) {
                let (shown, name) = (value::show_address(address), &other.name);
                let words = format!(
                    "inet_listener {}: connections to {shown} port {port} come here, all others to inet_listener {name} ({})",
                    listener.name, other.at
                );
                self.warn(&listener.at, words);
            }
        }
    }

    /// Not the takeover's: each has a file of its own.
    fn control_socket(&mut self, values: &Values) -> Option<PathBuf> {
        let path = self.socket(values, "control_socket", SOCKET_PLACED_MAX)?;
        if self.path(values, "takeover_socket").as_ref() == Some(&path) {
            let at = &values.get("control_socket")?.at;
            self.problem(at, "control_socket is the same as takeover_socket: name another file".to_owned());
        }
        Some(path)
    }

    /// The path of a Unix socket.
    fn socket(&mut self, values: &Values, name: &str, max: usize) -> Option<PathBuf> {
        let path = self.path(values, name)?;
        let length = path.as_os_str().len();
        if length > max {
            let words = format!("{name}: {} has {length} bytes, and at most {max} are possible", path.display());
            self.problem(&values.get(name)?.at, words);
        }
        Some(path)
    }

    fn path(&mut self, values: &Values, name: &str) -> Option<PathBuf> {
        let setting = values.get(name)?;
        let path = self.text(setting)?;
        (!path.is_empty()).then(|| beside(&setting.at, &path))
    }

    fn without_effect(&mut self, values: &Values) {
        let mut idle: Vec<&Setting> =
            values.iter().filter(|(name, _)| concerns_header(name)).map(|(_, setting)| setting).collect();
        idle.sort_by_key(|setting| setting.at.line);
        for setting in idle {
            self.warn(&setting.at, format!("{} has no effect without haproxy = yes", setting.key));
        }
    }

    pub(super) fn boolean(&mut self, values: &Values, name: &str) -> Option<bool> {
        self.with(values, name, value::boolean)
    }

    pub(super) fn number(&mut self, values: &Values, name: &str, min: u64, max: u64) -> Option<u64> {
        self.with(values, name, |text| value::number(text, min, max))
    }

    fn locked_memory(&mut self, values: &Values) -> u64 {
        let parse = |text: &str| value::size_limit(text, LOCKED_MEMORY_MIN, LOCKED_MEMORY_MAX);
        self.with(values, "locked_memory_limit", parse).unwrap_or(0)
    }

    /// `auto`, or 1..=max.
    fn auto_or_number(&mut self, values: &Values, name: &str, max: usize) -> Option<NonZeroUsize> {
        self.with(values, name, |text| match text {
            "auto" => Ok(None),
            _ => value::number(text, 1, max as u64)
                .map(|n| NonZeroUsize::new(n as usize))
                .map_err(|words| format!("{words} (or auto)")),
        })
        .flatten()
    }

    pub(super) fn choice<T: Copy>(&mut self, values: &Values, name: &str, choices: &[(&str, T)]) -> Option<T> {
        self.with(values, name, |text| {
            choices.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning).ok_or_else(|| {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                format!("Invalid {name}: {text} (use {})", words.join(" or "))
            })
        })
    }

    /// The parsed value, if it is set and right.
    pub(super) fn with<T>(
        &mut self,
        values: &Values,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let setting = values.get(name)?;
        let text = self.text(setting)?;
        parse(&text).map_err(|words| self.problem(&setting.at, slips::noted(&text, words))).ok()
    }

    /// The value of a setting in use: variables must have been resolved, and `<path` is read now.
    pub(super) fn text(&mut self, setting: &Setting) -> Option<String> {
        if let Some(words) = &setting.unresolved {
            self.problem(&setting.at, format!("{}: {words}", setting.key));
            return None;
        }
        match &setting.value {
            Value::Plain(text) | Value::Quoted(text) => Some(text.clone()),
            // Where nothing is outside that could be updated.
            Value::Update(changes) => Some(groups::updated("", changes)),
            Value::File(path) => {
                let path = beside(&setting.at, path);
                match source::value_file(&path) {
                    Ok(text) => Some(text.trim_end().to_string()),
                    Err(error) => {
                        self.problem(
                            &setting.at,
                            format!("{}: {} cannot be read: {error}", setting.key, path.display()),
                        );
                        None
                    }
                }
            }
        }
    }

    /// Beyond [`PROBLEMS_MAX`](source::PROBLEMS_MAX) nobody would read on: a file of networks may hold any number.
    pub(super) fn problem(&mut self, at: &Place, message: String) {
        if self.problems.len() < source::PROBLEMS_MAX {
            self.problems.push(at.problem(message));
        }
    }

    pub(super) fn warn(&mut self, at: &Place, message: String) {
        self.warnings.push(at.problem(message));
    }
}

/// What holds for all services.
struct Globals<'a> {
    defaults: &'a Defaults,
    /// Where `haproxy_trusted_networks` stands outside all sections.
    networks_at: Option<&'a Place>,
    header_limit: u32,
    dovecot: Dovecot,
    backends: &'a [RawBackend],
    serve: ServeListeners,
    root: &'a Path,
}

impl Globals<'_> {
    fn serves(&self, raw: &RawListener, haproxy: bool) -> bool {
        match self.serve {
            ServeListeners::All => true,
            ServeListeners::Haproxy => haproxy,
            ServeListeners::Named => raw.files.iter().any(|file| &**file == self.root),
        }
    }
}

/// What the listeners of one service have that do not say otherwise.
struct Inherited<'a> {
    globals: &'a Globals<'a>,
    networks: Vec<Network>,
    shadow_networks: Vec<Network>,
    /// Where these stand, if anywhere.
    networks_at: Option<&'a Place>,
    plain_untrusted: bool,
    timeout: Duration,
    pending_limit: u32,
    log_connections: bool,
    reuse_port: bool,
    endpoints: EndpointRules,
}

/// Whether a service's handler never waits, so that the daemon lets the rings run it, without a queue.
fn is_served_by_rings(worker: WorkerKind, workers: Option<NonZeroUsize>, listeners: &[InetListener]) -> bool {
    let may = matches!(worker, WorkerKind::Whoami | WorkerKind::Discard) && workers.is_none();
    may && !listeners.iter().any(|listener| listener.ssl)
}

/// Whether a setting of a listener is about the header.
fn concerns_header(name: &str) -> bool {
    name.starts_with("haproxy_") || [ENDPOINTS, ENDPOINT_MISSING, SHADOW].contains(&name)
}

/// A path as it is meant in a configuration file: relative to that file.
pub(super) fn beside(at: &Place, path: &str) -> PathBuf {
    at.file.parent().unwrap_or(Path::new("")).join(path)
}
