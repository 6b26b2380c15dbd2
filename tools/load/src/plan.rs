//! What a run is to do: the command line, understood and checked.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::behaviour::{Behaviour, Deserves, Pauses};
use crate::cli::{Args, Sources};
use crate::header::{Cast, Shape};
use crate::limits;
use crate::mix::Mix;
use crate::schedule::{Bounds, Pace};
use crate::sources::Pool;
use crate::table::PLACES_MAX;
use crate::verify::Expect;

/// Where sockets are bound when the target is on the IPv4 loopback and nothing else was asked for.
const LOOPBACK_SOURCES: &str = "127.1.0.0/24";
const CLOSED_OPEN_DEFAULT: usize = 64;
/// Most open connections in the open loop, unless the file limit is lower.
const OPEN_OPEN_DEFAULT: usize = 16_384;
const HOLD_RATE_DEFAULT: f64 = 10_000.0;
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// With a number of connections and no duration.
const DURATION_WITH_COUNT: Duration = Duration::from_secs(600);
/// More than any clock resolution can pace.
const RATE_MAX: f64 = 10_000_000.0;

/// How connections follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// A constant number in flight.
    Closed,
    /// So many a second.
    Open {
        /// Starts a second, all threads together.
        rate: f64,
    },
    /// So many a second until all are open; then kept open.
    Hold {
        /// Starts a second, all threads together.
        rate: f64,
    },
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: SocketAddr,
    /// How connections follow each other.
    pub mode: Mode,
    /// Most connections open at once.
    pub open_max: usize,
    /// Most connections in all.
    pub connections_max: u64,
    /// No start after this.
    pub duration: Duration,
    /// Longest life of one connection, from its start.
    pub deadline: Duration,
    /// Longest wait, after the last start, for what is still open.
    pub drain: Duration,
    /// Threads, each with its share.
    pub threads: usize,
    /// The CPUs they are pinned to, in turn; empty: not pinned.
    pub cpus: Vec<usize>,
    /// Names the run's random choices.
    pub seed: u64,
    /// Where sockets are bound; `None`: the kernel chooses.
    pub sources: Option<Pool>,
    /// Who the headers speak for.
    pub cast: Cast,
    /// Headers of honest connections.
    pub headers: Mix<Shape>,
    /// What connections do.
    pub behaviours: Mix<Behaviour>,
    /// Bytes behind every header.
    pub payload: Vec<u8>,
    /// The gaps of slow behaviours.
    pub pauses: Pauses,
    /// The right answer.
    pub expect: Expect,
}

/// One thread's share of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Which thread, from 0.
    pub thread: usize,
    /// Its pace.
    pub pace: Pace,
    /// Its bounds.
    pub bounds: Bounds,
}

impl Plan {
    /// Understands the command line; the error names the option and the remedy. Raises the soft limit of open files.
    pub fn new(args: &Args) -> Result<Plan, String> {
        let mode = mode(args)?;
        let plan = Plan {
            target: args.target,
            mode,
            open_max: open_max(args, mode)?,
            connections_max: args.hold.map(|count| count as u64).or(args.connections).unwrap_or(u64::MAX),
            duration: args.duration.unwrap_or(default_duration(args)),
            deadline: args.deadline,
            drain: args.drain,
            threads: args.threads,
            cpus: args.cpu.clone(),
            seed: args.seed,
            sources: sources(args)?,
            cast: cast(args),
            headers: args.header.0.clone(),
            behaviours: args.behaviour.clone(),
            payload: args.payload.0.clone(),
            pauses: Pauses { gap: args.gap, trickle: args.trickle_gap, lazy: args.lazy_wait },
            expect: args.expect.clone().unwrap_or(if args.hold.is_some() { Expect::Any } else { Expect::Whoami }),
        };
        plan.check()?;
        Ok(plan)
    }

    /// The share of each thread.
    pub fn shares(&self) -> Vec<Share> {
        (0..self.threads).map(|thread| self.share(thread)).collect()
    }

    /// What the receiver has to do with a connection that behaves like that.
    pub fn deserves(&self, behaviour: Behaviour) -> Deserves {
        match behaviour.deserves() {
            Deserves::Answer if self.expect == Expect::Refused => Deserves::Refusal,
            other => other,
        }
    }

    /// Whether connections stay open after their answer.
    pub fn holds(&self) -> bool {
        matches!(self.mode, Mode::Hold { .. })
    }

    fn share(&self, thread: usize) -> Share {
        let threads = self.threads as u64;
        let own = |total: u64| total / threads + u64::from((thread as u64) < total % threads);
        let issued_max = if self.connections_max == u64::MAX { u64::MAX } else { own(self.connections_max) };
        let pace = match self.mode {
            Mode::Closed => Pace::Closed,
            Mode::Open { rate } | Mode::Hold { rate } => Pace::Open {
                interval_nanos: 1e9 / rate * self.threads as f64,
                offset_nanos: 1e9 / rate * thread as f64,
            },
        };
        let bounds = Bounds { duration: self.duration, open_max: own(self.open_max as u64) as usize, issued_max };
        Share { thread, pace, bounds }
    }

    fn check(&self) -> Result<(), String> {
        if self.open_max < self.threads {
            return Err(format!("{} threads cannot share {} open connections", self.threads, self.open_max));
        }
        if self.deadline <= self.pauses.lazy && self.behaviours.items().contains(&Behaviour::Lazy) {
            return Err("--deadline must be longer than --lazy-wait".into());
        }
        let honest = self.behaviours.items().iter().any(|behaviour| behaviour.deserves() == Deserves::Answer);
        let keeps = matches!(self.expect, Expect::Any | Expect::Banner(_));
        if self.holds() && honest && !keeps {
            return Err("--hold keeps connections open after their answer: use --expect banner or --expect any".into());
        }
        limits::raise_files(self.open_max)?;
        limits::check_ports(self.open_max, self.sources)
    }
}

fn mode(args: &Args) -> Result<Mode, String> {
    if let Some(rate) = args.rate
        && !(rate > 0.0 && rate <= RATE_MAX)
    {
        return Err(format!("--rate must be above 0 and at most {RATE_MAX}, not {rate}"));
    }
    Ok(match (args.hold, args.rate) {
        (Some(_), rate) => Mode::Hold { rate: rate.unwrap_or(HOLD_RATE_DEFAULT) },
        (None, Some(rate)) => Mode::Open { rate },
        (None, None) => Mode::Closed,
    })
}

fn open_max(args: &Args, mode: Mode) -> Result<usize, String> {
    let asked = args.hold.or(args.in_flight);
    let count = match (asked, mode) {
        (Some(count), _) => count,
        (None, Mode::Closed) => CLOSED_OPEN_DEFAULT,
        (None, _) => OPEN_OPEN_DEFAULT.min(limits::connections_allowed()),
    };
    if count == 0 || count > PLACES_MAX {
        return Err(format!("open connections must be 1 to {PLACES_MAX}, not {count}"));
    }
    Ok(count)
}

fn default_duration(args: &Args) -> Duration {
    if args.connections.is_some() { DURATION_WITH_COUNT } else { DURATION_DEFAULT }
}

fn sources(args: &Args) -> Result<Option<Pool>, String> {
    match args.source {
        Sources::None => Ok(None),
        Sources::Auto => Ok(match args.target.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => {
                Some(Pool::hosts(LOOPBACK_SOURCES.parse::<Ipv4Net>().expect("the constant is a network")))
            }
            _ => None,
        }),
        Sources::Network(_) if args.target.is_ipv6() => {
            Err("--source names IPv4 addresses, the target is IPv6: use --source none".into())
        }
        Sources::Network(net) => Ok(Some(Pool::hosts(net))),
    }
}

fn cast(args: &Args) -> Cast {
    Cast {
        clients: Pool::hosts(args.clients),
        destination: SocketAddr::V4(args.destination),
        destination_inet6: SocketAddr::new(
            "2001:db8:ffff::1".parse().expect("the constant is an address"),
            args.destination.port(),
        ),
    }
}
