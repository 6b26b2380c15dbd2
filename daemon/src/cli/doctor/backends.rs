//! `vestibule doctor --backends`: what the port of each server speaks.

use std::collections::BTreeSet;

use vestibule::backend::Finding as Found;
use vestibule::config::{Settings, WorkerKind};
use vestibule::engine::{Asked, Relay, ServerFinding, check_once};
use vestibule::relay::Target;

use super::findings::{Finding, Verdict};
use crate::daemon::Error;
use crate::daemon::relays::{self, Backends};

/// Asks every server of every backend that a service uses, all at once.
pub(super) fn findings(settings: &Settings) -> Result<Vec<Finding>, Error> {
    let found = check_once(&relays(settings))?;
    let target = |name: &str| {
        let backend = settings.backends.iter().find(|backend| backend.servers.name == name);
        backend.map_or(Target::Generic, |backend| backend.target)
    };
    Ok(found.iter().map(|found| finding(found, target(&found.backend))).collect())
}

/// One relay for each way in which a backend is spoken to.
fn relays(settings: &Settings) -> Vec<Relay> {
    let backends = Backends::default();
    let mut known = BTreeSet::new();
    let services = settings.services.iter().filter(|service| service.worker == WorkerKind::Relay);
    services
        .filter(|service| known.insert((service.backend, service.protocol.name())))
        .filter_map(|service| relays::relay(service, settings, &backends))
        .collect()
}

fn finding(found: &ServerFinding, target: Target) -> Finding {
    let subject = format!("server {}/{}", found.backend, found.server);
    let Some(verdict) = &found.verdict else {
        let reason = "its name has no address";
        return Finding::new(Verdict::Fail, subject, "-", reason, Some("correct `address`, or the name service"));
    };
    let place = found.address.map_or_else(String::new, |address| address.to_string());
    let asked = if found.asked == Asked::Pong { "asked for PONG: " } else { "" };
    let kind = Target::ALL.iter().find(|(kind, _)| verdict.kind == Some(*kind));
    let behaves = kind.map_or_else(String::new, |(_, name)| format!("; it behaves like {name}"));
    // What such a server does not take may be sent to it, if the configuration takes it for another kind. Behind a proxy
    // the words are those of the server behind, which never sees the header.
    let takes_any = matches!(target, Target::Generic | Target::Vestibule | Target::Haproxy);
    let mistaken = kind.is_some_and(|(kind, _)| !takes_any && kind.preset() != target.preset());
    let (verdict, message) = (verdict.finding, format!("{asked}{}{behaves}", verdict.message));
    let worth = match verdict {
        Found::Overloaded | Found::OwnFault => Verdict::Warn,
        good if good.is_good() && mistaken => Verdict::Warn,
        good if good.is_good() => Verdict::Ok,
        _ => Verdict::Fail,
    };
    let remedy = match (found.asked, verdict) {
        (Asked::Address, Found::HeaderRefused) => {
            Some("name this host there (Dovecot: login_trusted_networks; Postfix: smtpd_authorized_xclient_hosts)")
        }
        (_, good) if good.is_good() && mistaken => Some("set the backend's `target` to that kind"),
        _ => remedy(verdict),
    };
    Finding::new(worth, subject, place, message, remedy)
}

/// What to do; none where all is well.
fn remedy(found: Found) -> Option<&'static str> {
    Some(match found {
        Found::Connected | Found::Greeted | Found::Pong => return None,
        Found::Overloaded => "raise its limits (Dovecot: process_limit, client_limit), or add servers",
        Found::OwnFault => "see `vestibule doctor`, login_source_ips and net.ipv4.ip_local_port_range",
        Found::Unreachable => "start it, correct `address` and `port`, or open the firewall between",
        Found::Silent => "see its log; `forward` and `target` must be what this port expects",
        Found::Closed => "see its log; it must serve this host",
        Found::NotServing => "see its log",
        Found::NoHeaderExpected => "name its port that expects a header (Dovecot: haproxy = yes), or forward = none",
        Found::HeaderExpected => "forward = proxy-v2, or name its port that expects no header",
        Found::HeaderRefused => "let it trust this host (haproxy_trusted_networks), or set `target` to what it is",
        Found::SpeaksTls => "protocol = none in the service if clients speak TLS, else name its port without TLS",
        Found::OtherProtocol => "correct `port`, or the service's `protocol`",
    })
}
