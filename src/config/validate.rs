//! From text to meaning: every value parsed, defaults and inheritance filled in, listeners checked against each other.
//! All errors are collected.

mod listener;
mod reading;

pub(super) use reading::beside;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::listener::Inherited;
use super::gather::{Gathered, RawBackend, RawListener, RawService, Values};
use super::groups;
use super::names;
use super::settings::*;
use super::syntax::Value;
use super::value;
use super::{Dovecot, Implicit, Place, Problem};
use crate::admission::{CLIENTS_MAX, CLIENTS_MIN, ClientLimits, ClientRate, OnMissingEndpoint};
use crate::dispatch::{Overload, Pool};
use crate::net::{Network, NetworkSet};

/// Below this a lost segment cannot be sent again in time (the initial retransmission timeout is 1 s, doubled after).
const TIMEOUT_SENSIBLE: Duration = Duration::from_secs(3);
/// Bytes of a Unix socket's path (unix(7), less the NUL behind it); of one that is put in its place by rename(2), which is bound
/// with a dot and the process id behind its name, pid_max being at most 4194304.
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_PLACED_MAX: usize = SOCKET_PATH_MAX - ".4194304".len();
/// What is wrong with a listener that was meant and has no port.
const NO_PORT: &str = "not listened on, because it has no port; add port = N";
/// Who may send a header.
const TRUSTED: &str = "haproxy_trusted_networks";
const SHADOW: &str = "shadow_trusted_networks";

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

/// Whether a service's handler never waits, so that the daemon lets the rings run it, without a queue.
fn is_served_by_rings(worker: WorkerKind, workers: Option<NonZeroUsize>, listeners: &[InetListener]) -> bool {
    let may = matches!(worker, WorkerKind::Whoami | WorkerKind::Discard) && workers.is_none();
    may && !listeners.iter().any(|listener| listener.ssl)
}
