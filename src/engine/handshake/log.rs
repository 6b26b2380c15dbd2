//! Handshakes that have failed, told once in a while for each client, listener and reason.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dispatch::{ListenerInfo, TlsFailure};
use crate::stats::{PassedOver, Repeats};

/// A client that fails for the same reason at the same listener is logged once in this time; a later line counts the others.
const PERIOD: Duration = Duration::from_secs(60);

const WORDS: &str = "TLS handshaking failed";

/// The failures of all rings.
#[derive(Debug)]
pub struct Failures(Repeats<Kind>);

/// What failures have in common that get one line in [`PERIOD`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    service: String,
    listener: String,
    rip: IpAddr,
    reason: &'static str,
}

impl Default for Failures {
    fn default() -> Failures {
        Failures(Repeats::new(PERIOD))
    }
}

impl Failures {
    /// A handshake of `client`, which had connected to `destination`, has failed.
    pub fn note(
        &self,
        listener: &Arc<ListenerInfo>,
        failure: &TlsFailure,
        [client, destination, peer]: [SocketAddr; 3],
        now: Instant,
    ) {
        let Some(reason) = failure.code else { return };
        let (service, name) = (listener.service.as_str(), listener.name.as_str());
        let rip = client.ip();
        let noted = self.0.note(Kind { service: service.into(), listener: name.into(), rip, reason }, now);
        tell(&noted.ended);
        if noted.is_first() {
            let lip = destination.ip();
            tracing::warn!(service, "{WORDS} (rip={rip}, lip={lip}): {failure}: listener={name} peer={peer}");
        }
    }

    /// Tells what was suppressed up to now.
    pub fn flush(&self) {
        tell(&self.0.end_all());
    }
}

/// What is said of a failure to whoever asks.
pub fn failure_words(rip: IpAddr, failure: &TlsFailure) -> String {
    format!("{WORDS} (rip={rip}): {failure}")
}

fn tell(ended: &[PassedOver<Kind>]) {
    for PassedOver { key, count } in ended {
        match key {
            Some(Kind { service, listener, rip, reason }) => tracing::warn!(
                service,
                "{WORDS}: {count} more like this suppressed (rip={rip}): reason={reason} listener={listener}"
            ),
            None => tracing::warn!("{WORDS}: {count} more from too many sources to tell apart"),
        }
    }
}
