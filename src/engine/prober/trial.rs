//! What is said on the connection of a check: a [`Dialogue`], or, where servers learn of clients in band, a trial of that.

use std::net::SocketAddr;
use std::time::Instant;

use super::checks::Task;
use crate::backend::{CheckTimes, Dialogue, Ending, Finding, Step, Verdict};
use crate::relay::{Facts, Forward, Preface, Progress, Protocol, Refusal, SessionId};

/// What is to be sent, and what was found once it is over.
pub type Said = (Vec<u8>, Option<Verdict>);

/// One or the other.
pub enum Talk {
    Check(Dialogue),
    Trial(Box<Trial>),
}

impl Talk {
    pub fn begun(&self) -> Instant {
        match self {
            Talk::Check(dialogue) => dialogue.begun(),
            Talk::Trial(trial) => trial.begun,
        }
    }

    /// When [`expired`](Talk::expired) is to be called.
    pub fn deadline(&self) -> Instant {
        match self {
            Talk::Check(dialogue) => dialogue.deadline(),
            Talk::Trial(trial) => trial.deadline,
        }
    }

    pub fn connected(&mut self, now: Instant) -> Said {
        match self {
            Talk::Check(dialogue) => said(dialogue.connected(now)),
            Talk::Trial(trial) => trial.connected(now),
        }
    }

    pub fn received(&mut self, bytes: &[u8], now: Instant) -> Said {
        match self {
            Talk::Check(dialogue) => said(dialogue.received(bytes, now)),
            Talk::Trial(trial) => trial.received(bytes, now),
        }
    }

    pub fn ended(&mut self, how: Ending, now: Instant) -> Said {
        match self {
            Talk::Check(dialogue) => said(dialogue.ended(how, now)),
            Talk::Trial(trial) => trial.over(Finding::Closed, "it ends the connection before it has answered", now),
        }
    }

    pub fn expired(&mut self, now: Instant) -> Said {
        match self {
            Talk::Check(dialogue) => said(dialogue.expired(now)),
            Talk::Trial(trial) if trial.is_connected => trial.over(Finding::Silent, "it does not answer", now),
            Talk::Trial(trial) => trial.over(Finding::Unreachable, "connect timed out", now),
        }
    }
}

fn said(step: Step<'_>) -> Said {
    (step.send.to_vec(), step.verdict)
}

/// Tells a server in band who the client is, which is this host itself, and leaves.
pub struct Trial {
    preface: Preface,
    forward: Forward,
    protocol: Protocol,
    times: CheckTimes,
    begun: Instant,
    deadline: Instant,
    is_connected: bool,
}

impl Trial {
    /// `None` where nothing is said in band.
    pub fn new(task: &Task, local: SocketAddr, now: Instant) -> Option<Trial> {
        let (terms, session) = (&task.terms, SessionId::new(0, local));
        let facts = Facts { header: None, client: local, destination: task.address, session, tls: None };
        Some(Trial {
            preface: Preface::new(terms.forward, terms.protocol, &facts, &terms.host)?,
            forward: terms.forward,
            protocol: terms.protocol,
            times: task.times,
            begun: now,
            deadline: now + task.times.connect,
            is_connected: false,
        })
    }

    fn connected(&mut self, now: Instant) -> Said {
        (self.is_connected, self.deadline) = (true, now + self.times.greeting);
        Said::default()
    }

    fn received(&mut self, bytes: &[u8], now: Instant) -> Said {
        let mut answer = Vec::new();
        let (finding, words) = match self.preface.handle_server(bytes, &mut answer, &mut Vec::new()) {
            Progress::More => return (answer, None),
            Progress::Done => (Finding::Greeted, "it offers that, and takes it".to_owned()),
            Progress::Failed(refusal @ (Refusal::Greeting | Refusal::Client)) => {
                (Finding::NotServing, refusal.to_string())
            }
            Progress::Failed(refusal @ Refusal::TooLong) => (Finding::OtherProtocol, refusal.to_string()),
            Progress::Failed(refusal) => (Finding::HeaderRefused, refusal.to_string()),
        };
        let goodbye: &[u8] = match self.protocol {
            Protocol::Imap => b"x LOGOUT\r\n",
            Protocol::Sieve => b"LOGOUT\r\n",
            _ => b"QUIT\r\n",
        };
        (goodbye.to_vec(), self.over(finding, &words, now).1)
    }

    fn over(&self, finding: Finding, words: &str, now: Instant) -> Said {
        let how = if self.forward == Forward::Xclient { "XCLIENT" } else { "ID" };
        let message = format!("the client's address by {how}: {words}");
        let took = now.saturating_duration_since(self.begun);
        (Vec::new(), Some(Verdict { finding, message, took, kind: None }))
    }
}
