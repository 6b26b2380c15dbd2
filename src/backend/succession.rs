//! What a backend takes over from the one that it replaces, after a reload.
//!
//! Sessions live on and know their server by its number. So numbers outlive configurations: a server keeps its number as
//! long as its name is in the files, one that is gone keeps it as long as it has sessions, and new ones come behind.

use std::fmt;
use std::time::Instant;

use super::choice::ServerIndex;
use super::health::Health;
use super::server::{Server, base, limit};
use super::settings::{ServerSettings, Settings};
use super::stick::StickTable;
use super::{Backend, LinkedMap, seconds};

/// Most numbers of servers that one backend uses at a time, those of former configurations with sessions included.
const NUMBERS_MAX: usize = 16_384;

/// So many servers of former configurations still have sessions that a new one finds no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyServers;

impl fmt::Display for TooManyServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sessions of earlier configurations keep servers in use: more than {NUMBERS_MAX} of one backend")
    }
}

impl std::error::Error for TooManyServers {}

impl Backend {
    /// Becomes what `settings` say, and keeps what is known: sessions, health, clients' servers, who waits, totals, and
    /// the numbers of servers. What an operator has changed at run time (state, weight) stays, unless the files say
    /// something else than they did before. A server that is new is brought to its share slowly. Afterwards
    /// [`next_grant`](Backend::next_grant) may have places.
    ///
    /// # Errors
    /// [`TooManyServers`]; then nothing has changed.
    pub fn succeed(&mut self, mut settings: Settings, now: Instant) -> Result<(), TooManyServers> {
        let servers = std::mem::take(&mut settings.servers);
        let fresh = servers.iter().filter(|server| self.find(&server.name).is_none()).count();
        let empty = (0..self.servers.len()).filter(|&at| self.is_free(at)).count();
        if self.servers.len() + fresh.saturating_sub(empty) > NUMBERS_MAX {
            return Err(TooManyServers);
        }
        let nanos = self.nanos(now);
        self.take_tables(&settings);
        let hurried = settings.check != self.settings.check;
        self.settings = settings;
        self.part_with_all_but(&servers, nanos);
        for server in servers {
            match self.find(&server.name) {
                Some(index) => self.change(index, server, hurried, nanos),
                None => self.add(server, nanos),
            }
        }
        Ok(())
    }

    fn is_free(&self, at: usize) -> bool {
        let server = &self.servers[at];
        server.gone && self.field.loads[at].sessions == 0 && !server.health.being_checked
    }

    fn take_tables(&mut self, settings: &Settings) {
        // Who waits goes on waiting, also in a shorter line.
        let room = (settings.queue as usize).max(self.line.len());
        if room != self.line.room() {
            let before = std::mem::replace(&mut self.line, LinkedMap::new(room, self.secret));
            before.iter().for_each(|(waiter, waiting)| _ = self.line.push(waiter, *waiting));
        }
        self.stick = match (self.stick.take(), settings.stick) {
            (_, None) => None,
            (Some(mut table), Some(stick)) => {
                table.set_expire(seconds(stick.expire));
                let same = table.size() == stick.size as usize;
                Some(if same { table } else { table.resized(stick.size, self.secret) })
            }
            (None, Some(stick)) => Some(StickTable::new(stick.size, seconds(stick.expire), self.secret)),
        };
    }

    fn part_with_all_but(&mut self, servers: &[ServerSettings], now: u64) {
        let stays = |name: &str| servers.iter().any(|server| server.name == name);
        let parting: Vec<usize> = (0..self.servers.len())
            .filter(|&at| !self.servers[at].gone && !stays(&self.servers[at].settings.name))
            .collect();
        for &at in &parting {
            self.servers[at].gone = true;
            self.servers[at].health.back_at = None;
            self.open_or_close(ServerIndex(at as u16), now);
        }
        self.find_back_at();
        if let Some(stick) = &mut self.stick
            && !parting.is_empty()
        {
            stick.forget(|server| self.servers[server.at()].gone);
        }
    }

    fn change(&mut self, index: ServerIndex, new: ServerSettings, hurried: bool, now: u64) {
        let server = &mut self.servers[index.at()];
        let written = (new.weight, new.state);
        let mut merged = new;
        if written.0 == server.as_written.0 {
            merged.weight = server.settings.weight;
        }
        if written.1 == server.as_written.1 {
            merged.state = server.settings.state;
        }
        let same_place = (&merged.host, merged.port) == (&server.settings.host, server.settings.port);
        // A name that could not be resolved this time has kept its address.
        if same_place && merged.address.is_none() {
            merged.address = server.settings.address;
        }
        let (address, state, before) = (merged.address, merged.state, server.settings.address);
        server.as_written = written;
        // The rest goes the way of a change at run time.
        (merged.address, merged.state) = (before, server.settings.state);
        let (weight, backup, most) = (merged.weight, merged.backup, limit(merged.connection_limit));
        if backup != server.settings.backup {
            self.field.open(index, false, false);
            self.field.loads[index.at()].backup = backup;
        }
        self.servers[index.at()].settings = merged;
        self.field.loads[index.at()].limit = most;
        self.field.set_base(index, base(weight), now);
        self.open_or_close(index, now);
        let at = self.instant(now);
        self.set_address(index, address, at);
        self.set_state(index, state, at);
        if hurried {
            self.servers[index.at()].health.next_check = now;
        }
    }

    fn add(&mut self, new: ServerSettings, now: u64) {
        let free = (0..self.servers.len()).find(|&at| self.is_free(at));
        let index = match free {
            Some(at) => {
                let server = Server::new(new, Health::assumed(now, now));
                self.field.loads[at] = server.load();
                self.field.names[at] = self.secret.hash_text(&server.settings.name);
                self.servers[at] = server;
                at
            }
            None => {
                self.push_server(new, now);
                self.servers.len() - 1
            }
        };
        self.open_or_close(ServerIndex(index as u16), now);
    }
}
