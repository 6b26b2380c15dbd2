//! What happens to bytes on their way through a pair that does not just pass them on: the exchange that tells the server who
//! the client is, and the filter behind it.

use super::{End, Failure, Filter, Preface, Progress, Protocol, Refusal, Side};

/// The way of bytes through a pair, where it is not straight.
#[derive(Debug)]
pub struct Course {
    step: Step,
    /// A filter follows the exchange.
    protocol: Option<Protocol>,
    /// What the client has said before the server knew of it.
    early: Vec<u8>,
}

#[derive(Debug)]
enum Step {
    Preface(Box<Preface>),
    Filter(Box<Filter>),
}

/// What is to be sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) to_server: Vec<u8>,
    pub(super) to_client: Vec<u8>,
}

/// How it goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As it is.
    On,
    /// Straight.
    Straight,
    /// Nowhere.
    Closed(End),
}

impl Course {
    /// Begins with an exchange; `protocol` is spoken, and filtered afterwards if `filtered`.
    pub fn new(preface: Preface, protocol: Protocol, filtered: bool, early: &[u8]) -> Course {
        let protocol = filtered.then_some(protocol);
        Course { step: Step::Preface(Box::new(preface)), protocol, early: early.to_vec() }
    }

    /// Whether the server does not know yet who the client is.
    pub(super) fn is_exchange(&self) -> bool {
        matches!(self.step, Step::Preface(_))
    }

    /// Whether the client's bytes wait, and with them its end: for the exchange, or for an answer that decides how to read
    /// what the client has sent ahead of it.
    pub(super) fn holds_client(&self) -> bool {
        match &self.step {
            Step::Preface(_) => true,
            Step::Filter(filter) => !filter.wants_client(),
        }
    }

    pub(super) fn take(&mut self, from: Side, bytes: &[u8], out: &mut Outgoing) -> Way {
        match (&mut self.step, from) {
            (Step::Preface(preface), Side::Server) => {
                let mut greeting = Vec::new();
                match preface.handle_server(bytes, &mut out.to_server, &mut greeting) {
                    Progress::More => Way::On,
                    Progress::Done => self.open(&greeting, out),
                    // Its words are for this client: the server is as it should be.
                    Progress::Failed(Refusal::Client) => {
                        out.to_client = greeting;
                        Way::Closed(End::ServerClosed)
                    }
                    Progress::Failed(_) => Way::Closed(End::PrefaceRefused),
                }
            }
            (Step::Preface(_), Side::Client) => unreachable!("the client's bytes wait"),
            (Step::Filter(filter), Side::Server) => {
                let passed = filter.server(bytes, &mut out.to_client, &mut out.to_server);
                way(passed, filter)
            }
            (Step::Filter(filter), Side::Client) => {
                let passed = filter.client(bytes, &mut out.to_server);
                way(passed, filter)
            }
        }
    }

    /// The server knows the client: the greeting goes out, and the client's bytes go in.
    fn open(&mut self, greeting: &[u8], out: &mut Outgoing) -> Way {
        let early = std::mem::take(&mut self.early);
        let Some(protocol) = self.protocol else {
            out.to_client.extend_from_slice(greeting);
            out.to_server.extend_from_slice(&early);
            return Way::Straight;
        };
        let mut filter = Filter::new(protocol);
        let passed = filter
            .server(greeting, &mut out.to_client, &mut out.to_server)
            .and_then(|()| filter.client(&early, &mut out.to_server));
        let way = way(passed, &filter);
        self.step = Step::Filter(Box::new(filter));
        way
    }
}

fn way(passed: Result<(), Failure>, filter: &Filter) -> Way {
    match passed {
        Err(_) => Way::Closed(End::FilterRefused),
        Ok(()) if filter.is_over() => Way::Straight,
        Ok(()) => Way::On,
    }
}
