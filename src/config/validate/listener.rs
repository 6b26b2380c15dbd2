//! A listener's settings: those of its own, and what it has from its service.

use std::time::Duration;

use super::{Check, Globals, MISSING, NO_PORT, SHADOW, TRUSTED};
use crate::admission::{EndpointId, EndpointRules, OnMissingEndpoint, OnUnknown, OnUnspec, Policy};
use crate::config::gather::{RawListener, RawService, Values};
use crate::config::settings::*;
use crate::config::source::Setting;
use crate::config::{Place, names, value};
use crate::net::Network;
use crate::proxy::Rules;

/// Longest ALPN name in bytes (RFC 7301).
const ALPN_NAME_MAX: usize = 255;
/// Through which private endpoints clients may come, and what becomes of those who come through none.
const ENDPOINTS: &str = "client_allowed_endpoints";
const ENDPOINT_MISSING: &str = "client_endpoint_missing";

/// What the listeners of one service have that do not say otherwise.
pub(super) struct Inherited<'a> {
    pub(super) globals: &'a Globals<'a>,
    pub(super) networks: Vec<Network>,
    pub(super) shadow_networks: Vec<Network>,
    /// Where these stand, if anywhere.
    pub(super) networks_at: Option<&'a Place>,
    pub(super) plain_untrusted: bool,
    pub(super) timeout: Duration,
    pub(super) pending_limit: u32,
    pub(super) log_connections: bool,
    pub(super) reuse_port: bool,
    pub(super) endpoints: EndpointRules,
}

impl Check<'_> {
    /// A listener that is to be bound; `None` if it is off.
    pub(super) fn listener(
        &mut self,
        service: &RawService,
        raw: &RawListener,
        inherited: &Inherited<'_>,
    ) -> Option<InetListener> {
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

    pub(super) fn plain_untrusted(&mut self, values: &Values) -> Option<bool> {
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

    pub(super) fn endpoint_rules(&mut self, values: &Values, outside: &EndpointRules) -> EndpointRules {
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

    fn without_effect(&mut self, values: &Values) {
        let mut idle: Vec<&Setting> =
            values.iter().filter(|(name, _)| concerns_header(name)).map(|(_, setting)| setting).collect();
        idle.sort_by_key(|setting| setting.at.line);
        for setting in idle {
            self.warn(&setting.at, format!("{} has no effect without haproxy = yes", setting.key));
        }
    }
}

/// Whether a setting of a listener is about the header.
fn concerns_header(name: &str) -> bool {
    name.starts_with("haproxy_") || [ENDPOINTS, ENDPOINT_MISSING, SHADOW].contains(&name)
}
