//! What is said on the control socket: a request is one line of JSON, and so is its answer.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Most bytes of a request.
pub const REQUEST_MAX: usize = 4096;
/// Sessions that `who` shows if nothing is said.
pub const WHO_DEFAULT: usize = 1000;

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// What was counted.
    Stats {
        /// In which form.
        #[serde(default)]
        form: Form,
    },
    /// The servers.
    Backends {},
    /// Changes a server.
    Server {
        /// Its backend's name.
        backend: String,
        /// Its name.
        server: String,
        /// `ready`, `drain` or `maint`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<String>,
        /// 0 to 256.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<u32>,
    },
    /// Live sessions.
    Who {
        /// An address or a network.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
        /// A backend's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backend: Option<String>,
        /// A server's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<String>,
        /// Whether the client speaks TLS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tls: Option<bool>,
        /// The server name that the client has asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sni: Option<String>,
        /// Most that are shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// The session with this id, of ours or of Dovecot's.
    Session {
        /// The id.
        id: String,
    },
    /// Ends sessions: those of an address or a network, or the one with an id; or those that `who` shows with the same
    /// filters.
    Kick {
        /// Which; nothing: those that the filters name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        whom: Option<String>,
        /// An address or a network.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
        /// A backend's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backend: Option<String>,
        /// A server's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<String>,
        /// Whether the client speaks TLS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tls: Option<bool>,
        /// The server name that the client has asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sni: Option<String>,
    },
    /// What has happened of late, and what happens: the answer is followed by a line for each event.
    Events {
        /// So many of the past.
        #[serde(default)]
        last: usize,
        /// Only of these kinds; none: all but `log` and `relay`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        kinds: Vec<String>,
        /// Only those of the past.
        #[serde(default)]
        once: bool,
    },
    /// Who was refused of late.
    Refused {
        /// Most that are shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// Who may send headers: the networks of all listeners, and who has come from outside; or which listeners let an address
    /// do so, and by which network.
    Trust {
        /// The address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    /// Bans a client.
    Ban {
        /// An address or a network.
        network: String,
        /// For so long; nothing: for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u64>,
    },
    /// Lifts a ban.
    Unban {
        /// The network that was banned.
        network: String,
    },
    /// The bans in force.
    Bans {},
    /// Ends the daemon as SIGTERM does.
    Shutdown {},
    /// Reads the configuration again.
    Reload {},
    /// Stops accepting and finishes.
    Drain {
        /// Only at this listener, whose sessions go on: NAME or SERVICE/NAME.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        listener: Option<String>,
    },
    /// Accepts again after that.
    Resume {
        /// Only at this listener.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        listener: Option<String>,
    },
    /// Ends sessions of the server that has too many, so that their clients come to the others.
    Rebalance {
        /// Which backend.
        backend: String,
        /// How many a second.
        rate: u32,
    },
}

/// How counts are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// As a table, in `text`.
    Table,
    /// As an object, in `stats`.
    #[default]
    Json,
}

/// What went wrong, in one line.
pub fn failure(error: &str) -> Value {
    json!({ "ok": false, "errors": [error] })
}
