//! From text to meaning for what a relay needs: who can serve, how they are told who the client is, and what of it cannot
//! work together with the services that use it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Place;
use super::gather::{RawBackend, RawServer, RawService, Values};
use super::names;
use super::servers::{self, Endpoint};
use super::settings::*;
use super::source::Setting;
use super::validate::Check;
use super::value;
use crate::backend::{
    self, AdminState, Balance, CheckKind, CheckSettings, QUEUE_MAX, RETRIES_MAX, SERVERS_MAX, STICK_TABLE_MAX,
    ServerSettings, StickSettings, WEIGHT_MAX,
};
use crate::relay::{self, Finding, Forward, ForwardTlvs, Protocol, Severity, Target};

/// A client in IMAP's IDLE may be silent for 29 minutes (RFC 2177), one of POP3 or submission for 30.
const IDLE_SENSIBLE: Duration = Duration::from_secs(30 * 60);
/// Postscreen holds its greeting back for so long (`postscreen_greet_wait`).
const GREET_WAIT: Duration = Duration::from_secs(6);
/// Ports on which a client starts with TLS.
const TLS_PORTS: [u16; 3] = [465, 993, 995];
/// Longest name of a backend or server, which stands in log lines and labels of metrics.
const NAME_MAX: usize = 128;

/// The port of a PROXY listener by what is spoken there: Dovecot's ports, 10000 up.
const PORTS: [(Protocol, u16); 6] = [
    (Protocol::Imap, 10143),
    (Protocol::Pop3, 10110),
    (Protocol::Submission, 10587),
    (Protocol::Sieve, 14190),
    (Protocol::Lmtp, 10024),
    (Protocol::Smtp, 10025),
];

/// What a service says of relaying.
pub(super) struct Relay {
    pub(super) protocol: Protocol,
    pub(super) backend: Option<usize>,
    pub(super) idle_timeout: Duration,
    pub(super) log_sessions: bool,
}

/// Dovecot's `login_*` settings.
pub(super) struct LoginProxy {
    pub(super) source_ips: Vec<IpAddr>,
    pub(super) timeout: Duration,
    pub(super) disconnect_delay: Duration,
    timeout_at: Option<Place>,
}

/// `target` where the files do not say it: by the names of the services that use the backend.
pub(super) fn default_target(services: &[Service], backend: usize) -> Target {
    let dovecots = |service: &Service| names::protocol_of(&service.name).is_some() || service.name == "lmtp";
    match users(services, backend).next().is_some() && users(services, backend).all(dovecots) {
        true => Target::Dovecot,
        false => Target::Generic,
    }
}

/// `forward` where the files do not say it: some receivers read version 1 only.
pub(super) fn default_forward(target: Target) -> Forward {
    if target.preset().v2 { Forward::ProxyV2 } else { Forward::ProxyV1 }
}

/// `forward_tlvs` where the files do not say it: what the receiver makes use of.
pub(super) fn default_tlvs(target: Target, forward: Forward) -> ForwardTlvs {
    if forward == Forward::ProxyV2 { target.preset().tlvs } else { ForwardTlvs::NONE }
}

/// `check` where the files do not say it: nobody greets whose protocol is unknown.
pub(super) fn default_check(services: &[Service], backend: usize) -> CheckKind {
    let mut protocols = users(services, backend).map(|service| service.protocol).peekable();
    match protocols.peek().is_some() && protocols.all(|protocol| protocol == Protocol::None) {
        true => CheckKind::Connect,
        false => CheckKind::Banner,
    }
}

/// Services that use a backend.
fn users(services: &[Service], backend: usize) -> impl Iterator<Item = &Service> {
    services.iter().filter(move |service| service.backend == Some(backend))
}

impl Check<'_> {
    /// What a service says of relaying. Of one that does not relay, only whether it says anything.
    pub(super) fn relay(&mut self, raw: &RawService, worker: WorkerKind, backends: &[RawBackend]) -> Relay {
        let values = &raw.values;
        if worker != WorkerKind::Relay {
            self.no_effect(values, &["backend", "idle_timeout", "log_sessions"], "without worker = relay");
            let protocol = Protocol::of_service(&raw.name);
            return Relay { protocol, backend: None, idle_timeout: IDLE_DEFAULT, log_sessions: false };
        }
        self.no_effect(values, &["workers", "queue", "overload", "residual"], "with worker = relay");
        let protocol = self.protocol(raw);
        let backend = self.backend_of(raw, protocol, backends);
        let log_sessions = self.boolean(values, "log_sessions").unwrap_or(true);
        Relay { protocol, backend, idle_timeout: self.idle_timeout(values), log_sessions }
    }

    pub(super) fn no_effect(&mut self, values: &Values, names: &[&str], why: &str) {
        for setting in names.iter().filter_map(|name| values.get(name)) {
            self.warn(&setting.at, format!("{} has no effect {why}", setting.key));
        }
    }

    /// `doveconf -a` prints an empty one for services that have none.
    fn protocol(&mut self, raw: &RawService) -> Protocol {
        let choices: Vec<(&str, Protocol)> = Protocol::ALL.iter().map(|&(protocol, name)| (name, protocol)).collect();
        let said = match raw.values.get("protocol").is_none_or(setting_is_empty) {
            true => None,
            false => self.choice(&raw.values, "protocol", &choices),
        };
        said.unwrap_or(Protocol::of_service(&raw.name))
    }

    fn backend_of(&mut self, raw: &RawService, protocol: Protocol, backends: &[RawBackend]) -> Option<usize> {
        let named = self.with(&raw.values, "backend", |text| Ok(text.to_string())).filter(|name| !name.is_empty());
        let at = raw.values.get("backend").map_or(&raw.at, |setting| &setting.at);
        if named.is_none() && protocol == Protocol::None {
            let words = "worker = relay needs to know its backend: write backend = NAME";
            self.problem(at, format!("service {}: {words}", raw.name));
            return None;
        }
        let name = named.as_deref().unwrap_or(protocol.name());
        let found = backends.iter().position(|backend| backend.name == name);
        if found.is_none() {
            let known: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
            let remedy = match known.as_slice() {
                [] => format!("write backend {name} {{ servers = ADDRESS:PORT }}"),
                known => format!("there are {}", known.join(", ")),
            };
            self.problem(at, format!("service {}: there is no backend {name} ({remedy})", raw.name));
        }
        found
    }

    fn idle_timeout(&mut self, values: &Values) -> Duration {
        let Some(timeout) = self.duration(values, "idle_timeout", 1, IDLE_MAX) else { return IDLE_DEFAULT };
        if timeout < IDLE_SENSIBLE {
            let shown = value::show_time(timeout);
            let words =
                "ends sessions of clients that wait in IDLE, which may be silent for 29 minutes (default 31 mins)";
            self.warn(&values["idle_timeout"].at, format!("idle_timeout: {shown} {words}"));
        }
        timeout
    }

    /// A time of at least `least` seconds.
    pub(super) fn duration(&mut self, values: &Values, name: &str, least: u64, most: Duration) -> Option<Duration> {
        self.with(values, name, |text| match value::time(text)? {
            time if time.as_secs() >= least && time <= most => Ok(time),
            _ => {
                let least = value::show_time(Duration::from_secs(least));
                Err(format!("{name}: {text} is not in the range {least} to {}", value::show_time(most)))
            }
        })
    }

    /// Dovecot's settings, judged only where something is relayed: there they mean what they mean to Dovecot's proxy.
    pub(super) fn login_proxy(&mut self, values: &Values, services: &[Service]) -> LoginProxy {
        let mut proxy = LoginProxy {
            source_ips: Vec::new(),
            timeout: LOGIN_PROXY_TIMEOUT_DEFAULT,
            disconnect_delay: DISCONNECT_DELAY_DEFAULT,
            timeout_at: values.get("login_proxy_timeout").map(|setting| setting.at.clone()),
        };
        if services.iter().any(|service| service.worker == WorkerKind::Relay) {
            proxy.source_ips = self.source_ips(values);
            let timeout = self.duration(values, "login_proxy_timeout", 1, LOGIN_PROXY_MAX);
            proxy.timeout = timeout.unwrap_or(proxy.timeout);
            let delay = self.duration(values, "login_proxy_max_disconnect_delay", 0, LOGIN_PROXY_MAX);
            proxy.disconnect_delay = delay.unwrap_or(proxy.disconnect_delay);
        }
        proxy
    }

    fn source_ips(&mut self, values: &Values) -> Vec<IpAddr> {
        let addresses = self.with(values, "login_source_ips", |text| {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for item in value::items(text) {
                if item.starts_with('?') {
                    return Err(format!("login_source_ips: {item}: ? is not supported, list addresses of this host"));
                }
                match value::address(item) {
                    Ok(address) if !address.is_unspecified() && !addresses.contains(&address) => {
                        addresses.push(address)
                    }
                    Ok(address) if address.is_unspecified() => {
                        return Err(format!("login_source_ips: {item} is no address of one host"));
                    }
                    Ok(_) => {}
                    Err(words) => return Err(format!("login_source_ips: {words}")),
                }
            }
            match addresses.len() > SOURCE_IPS_MAX {
                true => Err(format!("login_source_ips: more than {SOURCE_IPS_MAX} addresses")),
                false => Ok(addresses),
            }
        });
        addresses.unwrap_or_default()
    }

    /// All backends, each judged together with the services that use it.
    pub(super) fn backends(
        &mut self,
        raw: &[RawBackend],
        services: &[Service],
        proxy: &LoginProxy,
        header_limit: u32,
    ) -> Vec<Backend> {
        if let Some(first) = raw.get(BACKENDS_MAX) {
            self.problem(&first.at, format!("more than {BACKENDS_MAX} backends"));
            return Vec::new();
        }
        let mut all = Vec::new();
        for (index, raw) in raw.iter().enumerate() {
            let tlvs = self.tlvs(&raw.values);
            let backend = self.backend(index, raw, services, tlvs);
            let users: Vec<&Service> = users(services, index).collect();
            let terms = relay::Terms {
                forward: backend.forward,
                protocol: Protocol::None,
                target: backend.target,
                tlvs,
                tls_passthrough: false,
                header_limit,
            };
            self.judge_announcement(raw, terms, &users);
            self.judge(raw, &backend, users, services, proxy);
            all.push(backend);
        }
        all
    }

    fn backend(&mut self, index: usize, raw: &RawBackend, services: &[Service], tlvs: Option<ForwardTlvs>) -> Backend {
        let values = &raw.values;
        self.name_of(&raw.at, "backend", &raw.name);
        let target = self.of_all(values, "target", &Target::ALL).unwrap_or(default_target(services, index));
        let forward = self.of_all(values, "forward", &Forward::ALL).unwrap_or(default_forward(target));
        let check = self.check(values, default_check(services, index));
        Backend {
            servers: backend::Settings {
                name: raw.name.clone(),
                servers: self.servers(raw, default_port(services, index, &raw.name)),
                balance: self.of_all(values, "balance", &Balance::ALL).unwrap_or_default(),
                stick: self.stick(values),
                connect_timeout: self.duration(values, "connect_timeout", 1, CONNECT_MAX).unwrap_or(CONNECT_DEFAULT),
                retries: self.count(values, "retries", 0, RETRIES_MAX).unwrap_or(RETRIES_DEFAULT),
                queue: self.count(values, "queue", 0, QUEUE_MAX).unwrap_or(BACKEND_QUEUE_DEFAULT),
                queue_timeout: self
                    .duration(values, "queue_timeout", 1, QUEUE_TIMEOUT_MAX)
                    .unwrap_or(QUEUE_TIMEOUT_DEFAULT),
                slow_start: self.duration(values, "slow_start", 0, SLOW_START_MAX).unwrap_or(SLOW_START_DEFAULT),
                check,
            },
            target,
            forward,
            forward_tlvs: tlvs.filter(|_| forward == Forward::ProxyV2).unwrap_or(default_tlvs(target, forward)),
            half_closed_timeout: self
                .duration(values, "half_closed_timeout", 1, HALF_CLOSED_MAX)
                .unwrap_or(HALF_CLOSED_DEFAULT),
            at: raw.at.clone(),
        }
    }

    /// One of the values that a type has.
    fn of_all<T: Copy>(&mut self, values: &Values, name: &str, all: &[(T, &str)]) -> Option<T> {
        let choices: Vec<(&str, T)> = all.iter().map(|&(meaning, word)| (word, meaning)).collect();
        self.choice(values, name, &choices)
    }

    fn count(&mut self, values: &Values, name: &str, least: u32, most: u32) -> Option<u32> {
        self.number(values, name, least.into(), most.into()).map(|n| n as u32)
    }

    fn name_of(&mut self, at: &Place, kind: &str, name: &str) {
        let special = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '"' | '\\');
        if name.is_empty() || name.len() > NAME_MAX || name.contains(special) {
            let words = format!("1 to {NAME_MAX} characters without white space, /, \" and \\");
            self.problem(at, format!("Invalid name of a {kind}: '{name}' (use {words})"));
        }
    }

    fn stick(&mut self, values: &Values) -> Option<StickSettings> {
        let size = self.count(values, "stick_table_size", 1, STICK_TABLE_MAX).unwrap_or(STICK_TABLE_DEFAULT);
        let expire = self.duration(values, "stick_table_expire", 1, STICK_EXPIRE_MAX).unwrap_or(STICK_EXPIRE_DEFAULT);
        match self.choice(values, "stick", &[("none", false), ("source", true)]) {
            Some(true) => Some(StickSettings { size, expire }),
            _ => {
                self.no_effect(values, &["stick_table_size", "stick_table_expire"], "without stick = source");
                None
            }
        }
    }

    fn check(&mut self, values: &Values, default: CheckKind) -> CheckSettings {
        let kind = self.of_all(values, "check", &CheckKind::ALL).unwrap_or(default);
        let interval = self.duration(values, "check_interval", 1, CHECK_INTERVAL_MAX);
        if kind == CheckKind::None {
            self.no_effect(values, &["check_interval", "check_port", "rise"], "with check = none");
        }
        CheckSettings {
            kind,
            interval: interval.unwrap_or(CHECK_INTERVAL_DEFAULT),
            rise: self.count(values, "rise", 1, STREAK_MAX).unwrap_or(RISE_DEFAULT),
            fall: self.count(values, "fall", 1, STREAK_MAX).unwrap_or(FALL_DEFAULT),
        }
    }

    fn tlvs(&mut self, values: &Values) -> Option<ForwardTlvs> {
        self.with(values, "forward_tlvs", |text| match ForwardTlvs::parse(text) {
            Err("none") => Err("Invalid forward_tlvs: none stands beside others".into()),
            Err(item) => {
                let names: Vec<&str> = ForwardTlvs::WORDS.iter().map(|(_, name)| *name).collect();
                Err(format!("Invalid forward_tlvs: '{item}' (use any of {})", names.join(", ")))
            }
            Ok(tlvs) => Ok(tlvs),
        })
    }

    /// Those of `servers`, then the sections, in the order of the files.
    fn servers(&mut self, raw: &RawBackend, port: Option<u16>) -> Vec<ServerSettings> {
        let check_port = self.check_port(&raw.values);
        let mut servers = Vec::new();
        let (mut names, mut seen) = (HashSet::new(), HashSet::new());
        if let Some(setting) = raw.values.get("servers") {
            for Endpoint { host, port: own } in self.endpoints(setting) {
                let Some(port) = own.or(port) else {
                    self.no_port(&setting.at, &host);
                    continue;
                };
                if !seen.insert((host.clone(), port)) {
                    self.problem(&setting.at, format!("servers: {host} port {port} is named twice"));
                    continue;
                }
                let name = if names.contains(&host) { format!("{host}:{port}") } else { host.clone() };
                names.insert(name.clone());
                servers.push(server(name, host, port, check_port));
            }
        }
        for one in &raw.servers {
            if !names.insert(one.name.clone()) {
                let words = "there is one of that name in servers = already";
                self.problem(&one.at, format!("server {}: {words}", one.name));
            }
            servers.extend(self.server(one, port, check_port));
        }
        self.twice(raw, &servers);
        if servers.len() > SERVERS_MAX {
            self.problem(&raw.at, format!("backend {}: more than {SERVERS_MAX} servers", raw.name));
            servers.truncate(SERVERS_MAX);
        }
        if raw.servers.is_empty() && raw.values.get("servers").is_none_or(setting_is_empty) {
            let words = "has no servers: write servers = ADDRESS:PORT, or server NAME { ... } sections";
            self.problem(&raw.at, format!("backend {} {words}", raw.name));
        }
        servers
    }

    fn endpoints(&mut self, setting: &Setting) -> Vec<Endpoint> {
        let Some(text) = self.text(setting) else { return Vec::new() };
        let mut all = Vec::new();
        for item in value::items(&text) {
            match servers::endpoints(item) {
                Ok(some) => all.extend(some),
                Err(words) => self.problem(&setting.at, format!("servers: {words}")),
            }
            if all.len() > SERVERS_MAX {
                break; // The caller says so.
            }
        }
        all
    }

    fn server(&mut self, raw: &RawServer, port: Option<u16>, check_port: Option<u16>) -> Option<ServerSettings> {
        let values = &raw.values;
        self.name_of(&raw.at, "server", &raw.name);
        let own_port = self.with(values, "port", |text| match value::port(text)? {
            0 => Err("Invalid port number 0: a server has a port (to switch it off: state = maint)".into()),
            port => Ok(port),
        });
        let check_port = self.check_port(values).or(check_port);
        let weight = self.count(values, "weight", 0, WEIGHT_MAX).unwrap_or(1);
        let connection_limit = self.count(values, "connection_limit", 0, CONNECTION_LIMIT_MAX).unwrap_or(0);
        let state = self.of_all(values, "state", &AdminState::ALL).unwrap_or_default();
        let backup = self.boolean(values, "backup").unwrap_or(false);
        let host = self.host(raw)?;
        let Some(port) = own_port.or(port.filter(|_| !values.contains_key("port"))) else {
            if !values.contains_key("port") {
                self.no_port(&raw.at, &raw.name);
            }
            return None;
        };
        let described = server(raw.name.clone(), host, port, check_port.filter(|&port| port != 0));
        Some(ServerSettings { weight, connection_limit, state, backup, ..described })
    }

    fn host(&mut self, raw: &RawServer) -> Option<String> {
        if !raw.values.contains_key("address") {
            self.problem(&raw.at, format!("server {} has no address: write address = ADDRESS", raw.name));
            return None;
        }
        self.with(&raw.values, "address", |text| {
            let host = servers::host(text).map_err(|words| match servers::endpoints(text).as_deref() {
                Ok([Endpoint { host, port: Some(port) }]) => format!("{words} (write address = {host}, port = {port})"),
                _ => words,
            })?;
            match host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified() || address.is_multicast()) {
                true => Err(format!("Invalid server '{text}': no address of one host")),
                false => Ok(host),
            }
        })
    }

    /// 0 is the same as unset.
    fn check_port(&mut self, values: &Values) -> Option<u16> {
        self.with(values, "check_port", value::port)
    }

    fn no_port(&mut self, at: &Place, server: &str) {
        let words = "has no port, and no service of one known protocol uses the backend: write the port";
        self.problem(at, format!("server {server} {words}"));
    }

    fn twice(&mut self, raw: &RawBackend, servers: &[ServerSettings]) {
        let mut seen: HashMap<(&str, u16), &str> = HashMap::new();
        for server in servers {
            if let Some(other) = seen.insert((&server.host, server.port), &server.name) {
                let words = format!("{} port {} is server {other} as well", server.host, server.port);
                self.warn(&raw.at, format!("backend {}: server {}: {words}", raw.name, server.name));
            }
        }
    }

    /// What does not go together.
    fn judge(
        &mut self,
        raw: &RawBackend,
        backend: &Backend,
        users: Vec<&Service>,
        services: &[Service],
        proxy: &LoginProxy,
    ) {
        if users.is_empty() {
            let words = "is used by no service (worker = relay, backend = NAME)";
            self.warn(&raw.at, format!("backend {} {words}", raw.name));
        }
        self.judge_tls(raw, &users);
        self.judge_ended_tls(raw, backend, &users);
        self.judge_check(raw, backend, &users);
        self.judge_loops(raw, backend, services);
        if backend.target == Target::Postscreen && proxy.timeout <= GREET_WAIT && !users.is_empty() {
            let at = proxy.timeout_at.as_ref().unwrap_or(&raw.at);
            let shown = value::show_time(proxy.timeout);
            let words = "is too short for postscreen, which greets new clients after 6 secs";
            self.warn(at, format!("login_proxy_timeout: {shown} {words} (backend {})", raw.name));
        }
    }

    /// What cannot be told to the servers as it is to be, or hardly.
    fn judge_announcement(&mut self, raw: &RawBackend, terms: relay::Terms, users: &[&Service]) {
        if terms.forward == Forward::None {
            let words = "servers see this host's address instead of the client's: their logs, limits and bans concern all clients at once";
            self.warn(place(raw, &["forward"]), format!("forward = none: {words}"));
        }
        let mut told = Vec::new();
        for service in users {
            let through = service.listeners.iter().find(|listener| starts_with_tls(listener));
            let terms = relay::Terms { protocol: service.protocol, tls_passthrough: through.is_some(), ..terms };
            for finding in relay::findings(&terms) {
                if told.contains(&finding) {
                    continue;
                }
                let at = place(raw, named_by(&finding));
                let whom = match (&finding, through) {
                    (Finding::InBandUnderTls(_), Some(InetListener { name, port, .. })) => {
                        format!(", inet_listener {name} port {port}")
                    }
                    _ => String::new(),
                };
                let words = format!("backend {}: service {}{whom}: {finding}", raw.name, service.name);
                match finding.severity() {
                    Severity::Error => self.problem(at, words),
                    Severity::Warning => self.warn(at, words),
                }
                told.push(finding);
            }
        }
    }

    /// One port does not speak TLS and clear text.
    fn judge_tls(&mut self, raw: &RawBackend, users: &[&Service]) {
        let listeners = || users.iter().flat_map(|service| &service.listeners);
        for listener in listeners().filter(|listener| starts_with_tls(listener)) {
            if let Some(clear) = listeners().find(|listener| is_clear(listener)) {
                let name = &listener.name;
                let words = "start with TLS, those of";
                let remedy =
                    "one port of a server does not speak both: make a service and a backend of its own for TLS";
                self.warn(
                    &listener.at,
                    format!(
                        "backend {}: clients of inet_listener {name} {words} {} do not; {remedy}",
                        raw.name, clear.name
                    ),
                );
            }
        }
    }

    /// Servers get plaintext where TLS ends here.
    fn judge_ended_tls(&mut self, raw: &RawBackend, backend: &Backend, users: &[&Service]) {
        let Some(listener) = users.iter().flat_map(|user| &user.listeners).find(|listener| listener.ssl) else {
            return;
        };
        let tls = |server: &&ServerSettings| TLS_PORTS.contains(&server.port);
        if let Some(server) = backend.servers.servers.iter().find(tls) {
            let (name, port) = (&server.name, server.port);
            let ends = format!("inet_listener {}: TLS ends here (ssl = yes)", listener.name);
            let words = format!("server {name} of backend {} waits for it on port {port}", raw.name);
            self.warn(&listener.at, format!("{ends}, but {words}: name its port without TLS"));
        }
    }

    fn judge_check(&mut self, raw: &RawBackend, backend: &Backend, users: &[&Service]) {
        let kind = backend.servers.check.kind;
        let at = raw.values.get("check").map_or(&raw.at, |setting| &setting.at);
        let without_port = || backend.servers.servers.iter().find(|server| server.check_port.is_none());
        match kind {
            CheckKind::Dovecot => {
                if let Some(server) = without_port() {
                    let words =
                        "asks Dovecot's service health-check, which has a port of its own: write check_port = PORT";
                    self.problem(at, format!("check = dovecot {words} (for server {})", server.name));
                }
            }
            CheckKind::Banner if !users.is_empty() && users.iter().all(|user| user.protocol == Protocol::None) => {
                self.warn(at, "check = banner: nobody greets where protocol = none; use check = connect".into());
            }
            CheckKind::Banner => {
                let tls = |server: &&ServerSettings| TLS_PORTS.contains(&server.check_port.unwrap_or(server.port));
                if let Some(server) = backend.servers.servers.iter().find(tls) {
                    let port = server.check_port.unwrap_or(server.port);
                    let words = format!("server {} waits for TLS on port {port} and does not greet", server.name);
                    self.warn(at, format!("check = banner: {words}; use check = connect"));
                }
            }
            CheckKind::None | CheckKind::Connect => {}
        }
    }

    /// A server that is this daemon itself.
    fn judge_loops(&mut self, raw: &RawBackend, backend: &Backend, services: &[Service]) {
        for server in &backend.servers.servers {
            for service in services {
                let Some(listener) = service.listeners.iter().find(|listener| is_reached_by(listener, server)) else {
                    continue;
                };
                let at = raw.servers.iter().find(|raw| raw.name == server.name).map(|raw| &raw.at);
                let at = at.or(raw.values.get("servers").map(|setting| &setting.at)).unwrap_or(&raw.at);
                let who = format!("server {} of backend {}", server.name, raw.name);
                let what = format!("this daemon's own inet_listener {} ({})", listener.name, listener.at);
                match service.worker {
                    WorkerKind::Relay => {
                        self.problem(at, format!("{who} is {what}: sessions would go round in a circle"));
                    }
                    _ => self.warn(at, format!("{who} is {what}, which serves no mail")),
                }
            }
        }
    }
}

fn setting_is_empty(setting: &Setting) -> bool {
    use super::syntax::Value;
    matches!(&setting.value, Value::Plain(text) | Value::Quoted(text) if value::items(text).next().is_none())
}

fn server(name: String, host: String, port: u16, check_port: Option<u16>) -> ServerSettings {
    let address = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
    let check_port = check_port.filter(|&port| port != 0);
    let state = AdminState::default();
    ServerSettings { name, host, port, address, weight: 1, connection_limit: 0, state, backup: false, check_port }
}

/// The port of servers that have none, if all services that use the backend speak one known protocol. Where none uses it,
/// its name may tell the protocol.
fn default_port(services: &[Service], backend: usize, name: &str) -> Option<u16> {
    let named = || Protocol::ALL.iter().find(|(_, word)| *word == name).map(|(protocol, _)| *protocol);
    let protocol = users(services, backend).next().map(|service| service.protocol).or_else(named)?;
    let same = users(services, backend).all(|service| service.protocol == protocol);
    PORTS.iter().find(|(known, _)| same && *known == protocol).map(|(_, port)| *port)
}

/// Where the first of these settings stands, else the backend.
fn place<'a>(raw: &'a RawBackend, names: &[&'static str]) -> &'a Place {
    names.iter().find_map(|name| raw.values.get(name)).map_or(&raw.at, |setting| &setting.at)
}

/// The settings at which a finding is told.
fn named_by(finding: &Finding) -> &'static [&'static str] {
    match finding {
        Finding::ImapIdElsewhere(_)
        | Finding::NoXclient(_)
        | Finding::InBandUnderTls(_)
        | Finding::VersionUnread(..) => &["forward", "target"],
        Finding::TlvsWithoutV2(_) | Finding::AlpnToDovecot | Finding::OverCap { .. } | Finding::UselessChecksum(_) => {
            &["forward_tlvs", "target"]
        }
    }
}

fn starts_with_tls(listener: &InetListener) -> bool {
    !listener.ssl && TLS_PORTS.contains(&listener.port)
}

/// Ports on which a client surely does not start with TLS, and listeners where it ends.
fn is_clear(listener: &InetListener) -> bool {
    listener.ssl || [25, 110, 143, 587, 4190].contains(&listener.port)
}

/// Whether a connection to the server would end at the listener, as far as this can be known without looking at the host:
/// addresses are compared, and loopback ones reach a wildcard.
fn is_reached_by(listener: &InetListener, server: &ServerSettings) -> bool {
    let localhost = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    let single = server.address.map(|address| [crate::net::canonical(address.ip())]);
    let addresses: &[IpAddr] = match (&single, server.host.as_str()) {
        (Some(single), _) => single,
        (None, "localhost" | "localhost.") => &localhost,
        (None, _) => &[],
    };
    let reaches = |bound: &IpAddr| {
        let wildcard =
            |address: &IpAddr| bound.is_unspecified() && address.is_loopback() && bound.is_ipv4() == address.is_ipv4();
        addresses.iter().any(|address| address == bound || wildcard(address))
    };
    listener.port == server.port && listener.addresses.iter().any(reaches)
}
