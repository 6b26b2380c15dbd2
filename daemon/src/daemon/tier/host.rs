//! The tier as a takeover sees it: what it gives to another process, and takes back should that one fail.

use std::net::SocketAddr;

use vestibule::engine::{ClientCounts, ClientDebt, Engine, LiveSession, Pending};
use vestibule::takeover::{self, Form, Given, Host, Offered};

use super::{Event, Tier, start};
use crate::daemon::http::Bound;
use crate::daemon::{figures, systemd};

impl Host for Tier {
    fn offer(&mut self) -> Result<Vec<Offered>, takeover::Error> {
        let sockets = self.accepting().map_err(takeover::Error::other)?.sockets().map_err(takeover::Error::System)?;
        let offered = |(address, socket)| Offered { address, name: self.name_of(address), socket };
        Ok(sockets.into_iter().map(offered).collect())
    }

    fn hand_over(&mut self, listeners: &[SocketAddr]) -> Result<Vec<Pending>, takeover::Error> {
        let why_not = self.why_not();
        let engine = self.engine.as_mut().ok_or_else(|| takeover::Error::other(why_not))?;
        (self.kept, self.counts) = (engine.sockets().map_err(takeover::Error::System)?, engine.client_counts());
        Ok(engine.hand_over(listeners, self.settings.drain_timeout))
    }

    fn let_go(&mut self, successor: u32) {
        // Operators ask the other process from now on.
        self.control.iter().for_each(|control| control.close());
        self.http.close();
        // The service manager listens to the other process from now on.
        self.watchdog.stop();
        self.successor = Some(successor);
        // Should that process fail, this one accepts again, and no third one.
        self.leave_predecessor();
        if let Some(engine) = self.engine.take() {
            self.retire(engine);
        }
    }

    fn hand_over_sessions(&mut self) -> (Vec<LiveSession>, usize) {
        self.engine.as_mut().map(Engine::hand_over_sessions).unwrap_or_default()
    }

    fn stay(&mut self, Given { pending, sessions, .. }: Given) {
        self.control.iter().for_each(|control| control.take_back());
        self.settings.http_listen.into_iter().for_each(|address| self.http.listen(Bound::Later(address)));
        let (kept, counts) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.counts));
        if self.leaving {
            return tracing::info!(event = "takeover", "nobody accepts any more: this process was told to end");
        }
        match start(&self.served(&self.settings), &self.means, &kept, counts) {
            Ok(next) => {
                let addresses = next.addresses().len();
                next.take_in(pending);
                next.take_in_sessions(sessions);
                self.follow(next);
                self.successor = None;
                self.keep_sockets();
                systemd::ready_instead(addresses);
                tracing::info!(event = "takeover", "accepting again on {addresses} addresses");
            }
            Err(error) => {
                tracing::error!(event = "takeover", "cannot accept again: {error}");
                self.events.send(Event::Failed);
            }
        }
    }

    fn forget(&mut self) {
        self.kept.clear();
        self.counts = ClientCounts::default();
    }

    fn look(&mut self) {
        self.engine.iter().for_each(Engine::look);
    }

    fn has_left(&self) -> bool {
        self.leaving && self.is_idle()
    }

    fn account(&self) -> String {
        self.snapshot().to_text()
    }

    fn progress(&self) -> Option<String> {
        let (engines, sessions) = (self.finishing.len(), self.glance().sessions());
        match (engines, self.predecessor_lives) {
            (0, false) => None,
            (0, true) => {
                Some("nothing is left to finish here but to pass on what the process before still counts".into())
            }
            (engines, _) => Some(format!("{engines} engines still finish here, {sessions} sessions are left")),
        }
    }

    fn client_debts(&self) -> Vec<ClientDebt> {
        self.engine.as_ref().map_or_else(Vec::new, Engine::client_debts)
    }

    fn counters(&self, form: Form) -> String {
        let snapshot = self.snapshot();
        match form {
            Form::Json => figures::json(&snapshot),
            _ => format!("{snapshot}\n"),
        }
    }
}
