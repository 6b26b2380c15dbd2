//! What a connection does with its bytes: a name becomes a [`Script`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::garbage;

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Header in one segment, then waits for the answer.
    Normal,
    /// Header cut at a byte, with a gap between the parts.
    Split(usize),
    /// Header byte by byte, with a gap between two bytes.
    Bytewise,
    /// Connects and says nothing.
    Silent,
    /// A byte now and then, too slow to finish in time.
    Trickle,
    /// Aborts (RST) after so many bytes, or right behind the header.
    Reset(Option<usize>),
    /// Closes in order (FIN) after so many bytes.
    Partial(usize),
    /// Connects and closes: a TCP health check.
    Empty,
    /// Header, then ends its side of the stream and waits for the answer.
    HalfClose,
    /// What must be refused; one kind, or all in turn.
    Garbage(Option<garbage::Kind>),
    /// A TLS ClientHello without a header.
    Tls,
    /// Waits for a greeting that must not come, then sends header and first data in one segment: AWS NLB with the
    /// header placed on the first payload.
    Lazy,
    /// A balancer's own check: LOCAL.
    Local,
}

/// The gaps that slow behaviours leave.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// Between the parts of `split` and the bytes of `bytewise`.
    pub gap: Duration,
    /// Between the bytes of `trickle`.
    pub trickle: Duration,
    /// Before the header of `lazy`.
    pub lazy: Duration,
}

/// The steps of one connection: after `delay`, `first` bytes, then `rest` at a time every `pause`, up to `limit`
/// bytes in all; then `ending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    /// Before the first byte.
    pub delay: Duration,
    /// Length of the first piece in bytes.
    pub first: usize,
    /// Length of every other piece in bytes.
    pub rest: usize,
    /// Between two pieces.
    pub pause: Duration,
    /// Bytes to send in all.
    pub limit: usize,
    /// What comes then.
    pub ending: Ending,
}

/// What a client does when it has said all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Waits for the answer.
    Await,
    /// shutdown(2) of its sending side, then waits.
    HalfClose,
    /// close(2).
    Close,
    /// close(2) with an RST.
    Reset,
}

/// What the receiver has to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deserves {
    /// The answer that `--expect` names.
    Answer,
    /// To be closed without a byte.
    Refusal,
    /// Nothing: the client leaves on its own.
    Nothing,
}

impl Behaviour {
    /// The steps for a connection that has `length` bytes to say.
    pub fn script(self, length: usize, pauses: &Pauses) -> Script {
        let whole = Script {
            delay: Duration::ZERO,
            first: length,
            rest: length,
            pause: Duration::ZERO,
            limit: length,
            ending: Ending::Await,
        };
        let until = |limit: usize, ending| Script { limit: limit.min(length), ending, ..whole };
        match self {
            Behaviour::Normal | Behaviour::Garbage(_) | Behaviour::Tls | Behaviour::Local => whole,
            Behaviour::Split(at) => Script { first: at.min(length), pause: pauses.gap, ..whole },
            Behaviour::Bytewise => Script { first: 1, rest: 1, pause: pauses.gap, ..whole },
            Behaviour::Trickle => Script { first: 1, rest: 1, pause: pauses.trickle, ..whole },
            Behaviour::Silent => until(0, Ending::Await),
            Behaviour::Empty => until(0, Ending::Close),
            Behaviour::Partial(limit) => until(limit, Ending::Close),
            Behaviour::Reset(limit) => until(limit.unwrap_or(length), Ending::Reset),
            Behaviour::HalfClose => Script { ending: Ending::HalfClose, ..whole },
            Behaviour::Lazy => Script { delay: pauses.lazy, ..whole },
        }
    }

    /// What the receiver has to do.
    pub fn deserves(self) -> Deserves {
        match self {
            Behaviour::Normal
            | Behaviour::Split(_)
            | Behaviour::Bytewise
            | Behaviour::HalfClose
            | Behaviour::Lazy
            | Behaviour::Local => Deserves::Answer,
            Behaviour::Silent | Behaviour::Trickle | Behaviour::Garbage(_) | Behaviour::Tls => Deserves::Refusal,
            Behaviour::Reset(_) | Behaviour::Partial(_) | Behaviour::Empty => Deserves::Nothing,
        }
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Behaviour::Normal => f.write_str("normal"),
            Behaviour::Split(at) => write!(f, "split:{at}"),
            Behaviour::Bytewise => f.write_str("bytewise"),
            Behaviour::Silent => f.write_str("silent"),
            Behaviour::Trickle => f.write_str("trickle"),
            Behaviour::Reset(None) => f.write_str("reset"),
            Behaviour::Reset(Some(at)) => write!(f, "reset:{at}"),
            Behaviour::Partial(at) => write!(f, "partial:{at}"),
            Behaviour::Empty => f.write_str("empty"),
            Behaviour::HalfClose => f.write_str("half-close"),
            Behaviour::Garbage(None) => f.write_str("garbage"),
            Behaviour::Garbage(Some(kind)) => write!(f, "garbage:{}", garbage::KINDS[kind.index()].name),
            Behaviour::Tls => f.write_str("tls"),
            Behaviour::Lazy => f.write_str("lazy"),
            Behaviour::Local => f.write_str("local"),
        }
    }
}

impl FromStr for Behaviour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        Ok(match (name, argument) {
            ("normal", None) => Behaviour::Normal,
            ("split", Some(at)) => Behaviour::Split(byte(at)?),
            ("bytewise", None) => Behaviour::Bytewise,
            ("silent", None) => Behaviour::Silent,
            ("trickle", None) => Behaviour::Trickle,
            ("reset", at) => Behaviour::Reset(at.map(byte).transpose()?),
            ("partial", Some(at)) => Behaviour::Partial(byte(at)?),
            ("empty", None) => Behaviour::Empty,
            ("half-close", None) => Behaviour::HalfClose,
            ("garbage", kind) => Behaviour::Garbage(kind.map(str::parse).transpose()?),
            ("tls", None) => Behaviour::Tls,
            ("lazy", None) => Behaviour::Lazy,
            ("local", None) => Behaviour::Local,
            _ => return Err(format!("no behaviour `{text}`; there are {NAMES}")),
        })
    }
}

const NAMES: &str = "normal, split:BYTE, bytewise, silent, trickle, reset[:BYTE], partial:BYTE, empty, half-close, \
                     garbage[:KIND], tls, lazy, local";

fn byte(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number of bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: Pauses =
        Pauses { gap: Duration::from_millis(10), trickle: Duration::from_millis(500), lazy: Duration::from_secs(1) };

    #[test]
    fn names_come_back() {
        for name in [
            "normal",
            "split:16",
            "bytewise",
            "silent",
            "trickle",
            "reset",
            "reset:4",
            "partial:12",
            "empty",
            "half-close",
            "garbage",
            "garbage:v2-checksum",
            "tls",
            "lazy",
            "local",
        ] {
            assert_eq!(name.parse::<Behaviour>().expect(name).to_string(), name);
        }
    }

    #[test]
    fn what_is_no_behaviour_is_named() {
        for name in ["", "split", "split:x", "silent:3", "garbage:tea", "rude"] {
            assert!(name.parse::<Behaviour>().is_err(), "{name}");
        }
    }

    #[test]
    fn scripts_never_ask_for_more_bytes_than_there_are() {
        for name in ["normal", "split:999", "reset:999", "partial:999", "bytewise", "lazy", "silent"] {
            let script = name.parse::<Behaviour>().expect(name).script(28, &PAUSES);
            assert!(script.first <= 28 && script.limit <= 28, "{name}: {script:?}");
        }
    }
}
