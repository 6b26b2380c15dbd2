//! A listener as the engine's user describes it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use super::door::{Door, ProxyDoor};
use super::report::Named;
use crate::admission::{EndpointId, OnMissingEndpoint};
use crate::conn::{Deadlines, Terms};
use crate::dispatch::{ListenerInfo, TlsTerms};
use crate::net::{Network, NetworkSet};
use crate::ring::{DEFER_ACCEPT_SECONDS, Options};
#[cfg(feature = "tls")]
use crate::tls::Termination;

/// `haproxy_timeout` where nothing is set: from accept to the complete header.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);

/// Longest time for a header; what is longer is taken for it.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Where to listen, who may connect, and which pool serves the connections.
#[derive(Clone, Debug)]
pub struct Listener {
    pub(super) address: SocketAddr,
    pub(super) pool: String,
    pub(super) service: Option<String>,
    pub(super) name: Option<String>,
    ssl: bool,
    tls: Option<Arc<dyn TlsTerms>>,
    share_port: bool,
    defer_accept: bool,
    log_connections: bool,
    terms: Option<Terms>,
    exempt: NetworkSet,
    pub(super) sockets: Vec<Arc<TcpListener>>,
    /// They are those of a running engine, as many as it has rings at most, and as this listener would make them.
    pub(super) prepared: bool,
}

impl Listener {
    /// A listener on which every connection must begin with a PROXY header (`haproxy = yes`), 3 s from accept.
    /// Nobody is trusted until [`trust`](Listener::trust) names networks.
    pub fn proxy(address: SocketAddr) -> Listener {
        let terms = Terms { timeout: TIMEOUT_DEFAULT, ..Terms::default() };
        Listener { terms: Some(terms), defer_accept: true, ..Listener::plain(address) }
    }

    /// A listener without a header: every connection is handed over at once.
    pub fn plain(address: SocketAddr) -> Listener {
        Listener {
            address,
            pool: String::new(),
            service: None,
            name: None,
            ssl: false,
            tls: None,
            share_port: false,
            defer_accept: false,
            log_connections: false,
            terms: None,
            exempt: NetworkSet::default(),
            sockets: Vec::new(),
            prepared: false,
        }
    }

    /// Adds networks whose hosts may send a header (`haproxy_trusted_networks`). On a plain listener: whose connections
    /// are health checks, which limits on clients do not concern.
    pub fn trust(mut self, networks: impl IntoIterator<Item = Network>) -> Listener {
        match &mut self.terms {
            Some(terms) => terms.trusted.extend(networks),
            None => self.exempt.extend(networks),
        }
        self
    }

    /// Adds private endpoints of cloud providers through which clients may come (`client_allowed_endpoints`); with one or
    /// more, all others are refused. Without effect on a plain listener, and on peers that
    /// [`Terms::plain_untrusted`] lets in.
    pub fn allow_endpoints(self, endpoints: impl IntoIterator<Item = EndpointId>) -> Listener {
        self.terms(|terms| terms.policy.endpoints.allowed.extend(endpoints))
    }

    /// What becomes of headers that name no endpoint, where some are allowed (`client_endpoint_missing`): refused if not
    /// set.
    pub fn endpoint_missing(self, missing: OnMissingEndpoint) -> Listener {
        self.terms(|terms| terms.policy.endpoints.missing = missing)
    }

    /// Most headers that it awaits in one ring (`pending_listener_limit`); 0: as many as the ring may. Without effect on
    /// a plain listener.
    pub fn pending_limit(self, limit: u32) -> Listener {
        self.terms(|terms| terms.pending_limit = limit)
    }

    /// Takes a socket that listens already, such as one from systemd, in place of binding the address. Of several for
    /// the same address each ring gets one; a single one serves all its connections through one ring at a time.
    pub fn socket(mut self, socket: TcpListener) -> Listener {
        self.sockets.push(Arc::new(socket));
        self
    }

    /// Trusts these networks and no others.
    pub(super) fn trust_only(&mut self, networks: &NetworkSet) {
        match &mut self.terms {
            Some(terms) => terms.trusted = networks.clone(),
            None => self.exempt = networks.clone(),
        }
    }

    /// Lets its door in a ring trust whom it trusts.
    pub(super) fn entrust(&self, door: &mut Door) {
        match (&self.terms, &mut door.proxy) {
            (Some(terms), Some(proxy)) if proxy.terms.trusted != terms.trusted => {
                let trusted = terms.trusted.clone();
                proxy.terms = Arc::new(Terms { trusted, ..Terms::clone(&proxy.terms) });
                door.count_uses();
            }
            (None, None) if door.info.checks_from != self.exempt => {
                let (service, name) = (door.info.service.clone(), door.info.name.clone());
                let checks_from = self.exempt.clone();
                door.info = Arc::new(ListenerInfo { service, name, ssl: self.ssl, checks_from });
            }
            _ => {}
        }
    }

    /// The pool that serves its connections.
    pub fn pool(mut self, name: impl Into<String>) -> Listener {
        self.pool = name.into();
        self
    }

    /// The service's name in logs, such as `imap-login`; the pool's name if not set.
    pub fn service(mut self, name: impl Into<String>) -> Listener {
        self.service = Some(name.into());
        self
    }

    /// The listener's own name; the address if not set.
    pub fn name(mut self, name: impl Into<String>) -> Listener {
        self.name = Some(name.into());
        self
    }

    /// From accept to the complete header (`haproxy_timeout`), at most [`TIMEOUT_MAX`]; below 3 s a lost packet leaves no
    /// room for a second try. Without effect on a plain listener.
    pub fn timeout(self, timeout: Duration) -> Listener {
        self.terms(|terms| terms.timeout = timeout)
    }

    /// Changes what is demanded of a header: grammar and policy. Without effect on a plain listener.
    pub fn terms(mut self, change: impl FnOnce(&mut Terms)) -> Listener {
        if let Some(terms) = &mut self.terms {
            change(terms);
        }
        self
    }

    /// Ends TLS here: a handshake follows the header, on the ring that has accepted the connection, so that a client that
    /// says nothing costs a place in a table and no thread. Whoever serves gets the connection when the session stands:
    /// [`Accepted::into_stream`](crate::Accepted::into_stream) is plaintext then, [`Accepted::tls`](crate::Accepted::tls)
    /// tells what was agreed, and a relay passes plaintext on to its servers.
    ///
    /// Before a pool that cannot go on with the session, one that hands off, the ring does so itself, and the receivers get one
    /// end of a pair of Unix sockets that speaks plaintext. To let them shake hands themselves, see
    /// [`passes_tls`](Listener::passes_tls).
    ///
    /// ```
    /// use vestibule::tls::{Identity, Termination};
    /// use vestibule::{Accepted, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let identity = Identity::self_signed(&["mail.example.com"])?;
    /// let listener = Listener::proxy("192.0.2.1:993".parse()?).tls(Termination::new(&identity, &["imap"]));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, termination: Termination) -> Listener {
        self.ssl = true;
        self.tls = Some(Arc::new(termination));
        self
    }

    /// A TLS handshake follows the header, and is left to whoever serves: receivers of a pool that hands off, a handler with a
    /// TLS of its own, servers of a relay. Here it only tells logs what to expect.
    pub fn passes_tls(mut self, passes: bool) -> Listener {
        self.ssl = passes;
        self.tls = None;
        self
    }

    /// Whether TLS ends here.
    pub(super) fn ends_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the kernel may keep a connection to itself until data arrives, for about 1 s (TCP_DEFER_ACCEPT, tcp(7)).
    /// On for listeners with a header: the sender speaks first, and it makes a connection
    /// cheaper (docs/measurements.md). The time counts into the timeout; with a timeout below 2 s it is off, and also where
    /// peers without a header are clients ([`Terms::plain_untrusted`]): some of those wait for a greeting.
    pub fn defer_accept(mut self, defer: bool) -> Listener {
        self.defer_accept = defer;
        self
    }

    /// Whether every connection that is handed to the pool gets a line in the log (`log_connections`).
    pub fn log_connections(mut self, log: bool) -> Listener {
        self.log_connections = log;
        self
    }

    /// Whether other processes of the same user may listen on the same port (`reuse_port`).
    pub fn reuse_port(mut self, share: bool) -> Listener {
        self.share_port = share;
        self
    }

    /// Demands no longer headers than this.
    pub(super) fn limit_headers(&mut self, most: u32) {
        if let Some(terms) = &mut self.terms {
            terms.rules.header_limit = terms.rules.header_limit.min(most);
        }
    }

    pub(super) fn options(&self) -> Options {
        Options { defer_accept: self.defers(), share_port: self.share_port }
    }

    /// Whether its connections begin with a header, those of trusted peers at least.
    pub(super) fn is_proxied(&self) -> bool {
        self.terms.is_some()
    }

    pub(super) fn header_limit(&self) -> u32 {
        self.terms.as_ref().map_or(0, |terms| terms.rules.header_limit)
    }

    /// By what logs and counters know it; `bound` is the address that it got.
    pub(super) fn named(&self, bound: SocketAddr) -> Named {
        Named {
            service: self.service.clone().unwrap_or_else(|| self.pool.clone()),
            name: self.name.clone().unwrap_or_else(|| bound.to_string()),
        }
    }

    /// The listener's door in one ring; `bound` is the address that it got.
    pub(super) fn door(&self, bound: SocketAddr, pool: usize, exact: bool, deadlines: &mut Deadlines) -> Door {
        let Named { service, name } = self.named(bound);
        let info = ListenerInfo { service, name, ssl: self.ssl, checks_from: self.exempt.clone() };
        let proxy = self.terms.as_ref().map(|terms| self.proxy_door(terms, exact, deadlines));
        let mut door = Door::new(Arc::new(info), bound, pool, proxy);
        door.log_connections = self.log_connections;
        door.tls = self.tls.clone();
        door
    }

    fn proxy_door(&self, terms: &Terms, exact: bool, deadlines: &mut Deadlines) -> ProxyDoor {
        let deferred = if self.defers() { Duration::from_secs(DEFER_ACCEPT_SECONDS.into()) } else { Duration::ZERO };
        let timeout = terms.timeout.min(TIMEOUT_MAX);
        ProxyDoor {
            class: deadlines.class(timeout - deferred, false),
            prompt_class: self.defers().then(|| deadlines.class(timeout, true)),
            terms: Arc::new(Terms { exact, ..terms.clone() }),
        }
    }

    /// A timeout too short for it switches it off.
    fn defers(&self) -> bool {
        let twice = Duration::from_secs(2 * u64::from(DEFER_ACCEPT_SECONDS));
        let fits = |terms: &Terms| terms.timeout >= twice && !terms.plain_untrusted;
        self.defer_accept && self.terms.as_ref().is_some_and(fits)
    }
}
