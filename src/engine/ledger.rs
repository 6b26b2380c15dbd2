//! A snapshot as text, for whoever goes on counting where an engine has stopped: another process, or the same one later.
//!
//! One fact a line, its parts separated by tabs. A line of a kind that is not known is passed over, so that two versions
//! understand of each other what both have. Only what grows for ever is in it, and what has been most; not what is at the
//! moment, but for the headers that are awaited.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::accounts::{self, BackendAccount, ServerAccount};
use super::snapshot::{PoolAccount, RingAccount, Snapshot, Uses};
use super::tally::Passage;
use crate::backend::{ServerTotals, Totals, Traffic};
use crate::relay::End;
use crate::stats::Histogram;

/// How the text begins.
const FIRST_LINE: &str = "vestibule counts 1";
/// How it ends; no other line begins so.
const LAST_LINE: &str = "complete";
/// Names that are kept for texts of other versions, such as counters that this one does not have; further ones are passed
/// over.
const NAMES_MAX: usize = 4096;
/// Most bytes of such a name.
const NAME_MAX: usize = 64;
/// Most rings that a text may tell of.
const RINGS_MAX: usize = 4096;

/// A text that is not that of a snapshot, or is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoSnapshot {
    /// Its line, from 1.
    pub line: usize,
}

impl fmt::Display for NoSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} is none of a snapshot's", self.line)
    }
}

impl std::error::Error for NoSnapshot {}

impl Snapshot {
    /// All that was counted and measured, as text; see [`from_text`](Snapshot::from_text).
    pub fn to_text(&self) -> String {
        let mut out = Writer(format!("{FIRST_LINE}\n"));
        self.counters.iter().for_each(|(name, count)| out.line("counter", &[name], [*count]));
        for ((service, listener, reason), count) in &self.endings {
            out.line("ended", &[service, listener, reason], [*count]);
        }
        for ((service, listener), passages) in &self.listeners {
            for (passage, count) in Passage::NAMES.iter().zip(passages).filter(|(_, count)| **count > 0) {
                out.line("passed", &[service, listener, passage], [*count]);
            }
        }
        for ((service, listener, diagnosis), count) in &self.diagnosed {
            out.line("diagnosed", &[service, listener, diagnosis], [*count]);
        }
        for ((service, listener, network), Uses { connections, last }) in &self.trusted {
            out.line("trusted", &[service, listener, network], [*connections, *last]);
        }
        for (number, ring) in self.rings.iter().enumerate() {
            let RingAccount { accepted, pending, turns, cq_overflows, stale, phantom, replaced, locked: _ } = *ring;
            let all = [accepted, pending, turns, cq_overflows, stale, phantom, replaced];
            out.line("ring", &[&number.to_string()], all);
        }
        for PoolAccount { name, lost, waits } in &self.pools {
            out.line("pool", &[name], [*lost]);
            out.times("pool-waits", &[name], waits);
        }
        self.backends.iter().for_each(|backend| write_backend(&mut out, backend));
        out.times("header-wait", &[], &self.header_wait);
        out.times("accept-to-worker", &[], &self.accept_to_worker);
        out.0.push_str(LAST_LINE);
        out.0.push('\n');
        out.0
    }

    /// What [`to_text`](Snapshot::to_text) has written, in this process or another one, of this version or another; to be
    /// added to what is counted since by [`inherit`](Snapshot::inherit).
    ///
    /// ```
    /// # fn f(before: &vestibule::Engine, engine: &vestibule::Engine) -> Result<(), Box<dyn std::error::Error>> {
    /// use vestibule::engine::Snapshot;
    ///
    /// let kept = before.snapshot().to_text();
    /// let mut all = engine.snapshot();
    /// all.inherit(&Snapshot::from_text(&kept)?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NoSnapshot`].
    pub fn from_text(text: &str) -> Result<Snapshot, NoSnapshot> {
        let mut lines = text.lines().enumerate();
        if lines.next().is_none_or(|(_, first)| first != FIRST_LINE) {
            return Err(NoSnapshot { line: 1 });
        }
        let mut all = Snapshot::nothing();
        for (number, line) in lines {
            if line == LAST_LINE {
                return Ok(all);
            }
            let mut parts = line.split('\t');
            let kind = parts.next().unwrap_or_default();
            let mut parts = Parts { names: parts.map(plain).collect(), next: 0 };
            all.read(kind, &mut parts).ok_or(NoSnapshot { line: number + 1 })?;
        }
        // A text that was cut.
        Err(NoSnapshot { line: text.lines().count() })
    }

    /// Adds what an engine before has counted, such as that of the process that this one has taken over from. Of backends
    /// it is added to those of the same name that there are now, and to servers of the same name; what is at the moment
    /// (sessions, states) stays as it is.
    pub fn inherit(&mut self, before: &Snapshot) {
        let mut rest = before.clone();
        for backend in rest.backends.drain(..) {
            self.backends.iter_mut().filter(|one| one.name == backend.name).for_each(|one| one.inherit(&backend));
        }
        *self += &rest;
    }

    /// Nothing is awaited any more of what is counted here: whoever counted it has ended.
    pub fn settle(&mut self) {
        self.rings.iter_mut().for_each(|ring| ring.pending = 0);
        for passages in self.listeners.values_mut() {
            passages[Passage::Settled as usize] = passages[Passage::Awaited as usize];
        }
    }

    /// Takes in a line; `None`: it is not what it says that it is.
    fn read(&mut self, kind: &str, parts: &mut Parts) -> Option<()> {
        match kind {
            "counter" => {
                let name = parts.known();
                let count = parts.number()?;
                name?.into_iter().for_each(|name| self.add(name, count));
            }
            "ended" | "diagnosed" => {
                let (service, listener, what) = (parts.text()?, parts.text()?, parts.known()?);
                let count = parts.number()?;
                let table = if kind == "ended" { &mut self.endings } else { &mut self.diagnosed };
                what.into_iter()
                    .for_each(|what| *table.entry((service.clone(), listener.clone(), what)).or_default() += count);
            }
            "passed" => {
                let (service, listener, what) = (parts.text()?, parts.text()?, parts.text()?);
                let count = parts.number()?;
                if let Some(at) = Passage::NAMES.iter().position(|name| *name == what) {
                    self.listeners.entry((service, listener)).or_insert([0; Passage::COUNT])[at] += count;
                }
            }
            "trusted" => {
                let key = (parts.text()?, parts.text()?, parts.text()?);
                let [connections, last] = parts.numbers()?;
                self.trusted.entry(key).or_default().add(&Uses { connections, last });
            }
            "ring" => {
                let number = usize::try_from(parts.number()?).ok().filter(|number| *number < RINGS_MAX)?;
                let [accepted, pending, turns, cq_overflows, stale, phantom, replaced] = parts.numbers()?;
                self.rings.resize(self.rings.len().max(number + 1), RingAccount::default());
                self.rings[number] =
                    RingAccount { accepted, pending, turns, cq_overflows, stale, phantom, replaced, locked: 0 };
            }
            "pool" => {
                let (name, lost) = (parts.text()?, parts.number()?);
                self.pool(name).lost = lost;
            }
            "pool-waits" => {
                let name = parts.text()?;
                parts.times(&mut self.pool(name).waits)?;
            }
            "header-wait" => parts.times(&mut self.header_wait)?,
            "accept-to-worker" => parts.times(&mut self.accept_to_worker)?,
            "backend" | "unserved" => {
                let backend = self.backend(parts.text()?);
                read_backend(backend, kind, parts)?;
            }
            "server" | "server-end" | "connect" | "greeting" | "lasted" => {
                let backend = self.backend(parts.text()?);
                read_server(server(backend, parts.text()?), kind, parts)?;
            }
            _ => {}
        }
        Some(())
    }

    fn pool(&mut self, name: String) -> &mut PoolAccount {
        let at = self.pools.iter().position(|pool| pool.name == name).unwrap_or_else(|| {
            self.pools.push(PoolAccount { name, lost: 0, waits: crate::stats::empty_histogram() });
            self.pools.len() - 1
        });
        &mut self.pools[at]
    }

    fn backend(&mut self, name: String) -> &mut BackendAccount {
        let at = self.backends.iter().position(|backend| backend.name == name).unwrap_or_else(|| {
            self.backends.push(BackendAccount::empty(name, Instant::now()));
            self.backends.len() - 1
        });
        &mut self.backends[at]
    }
}

fn server(backend: &mut BackendAccount, name: String) -> &mut ServerAccount {
    let at = backend.servers.iter().position(|server| server.name == name).unwrap_or_else(|| {
        backend.servers.push(accounts::empty_server(name));
        backend.servers.len() - 1
    });
    &mut backend.servers[at]
}

fn write_backend(out: &mut Writer, backend: &BackendAccount) {
    let name = backend.name.as_str();
    let Totals { full, nobody, waited, line_full, abandoned } = backend.totals;
    out.line("backend", &[name], [full, nobody, waited, line_full, abandoned, backend.waiting_max as u64]);
    for (end, count) in backend.unserved_ends() {
        out.line("unserved", &[name, end], [count]);
    }
    for server in &backend.servers {
        let of = [name, server.name.as_str()];
        let ServerTotals {
            sessions,
            redispatched,
            granted,
            connect_errors,
            own_faults,
            not_greeted,
            overloaded,
            checks_passed,
            checks_failed,
            downs,
        } = server.totals;
        let Traffic { from_clients, to_clients, ends: _, connect, greeting, lasted } = &server.traffic;
        let most = server.sessions_max.into();
        let totals = [sessions, redispatched, granted, connect_errors, own_faults, not_greeted, overloaded];
        let more = [checks_passed, checks_failed, downs, most, *from_clients, *to_clients];
        out.line("server", &of, totals.into_iter().chain(more));
        for (end, count) in server.ends() {
            out.line("server-end", &[of[0], of[1], end], [count]);
        }
        for (kind, times) in [("connect", connect), ("greeting", greeting), ("lasted", lasted)] {
            out.times(kind, &of, times);
        }
    }
}

fn read_backend(backend: &mut BackendAccount, kind: &str, parts: &mut Parts) -> Option<()> {
    if kind == "unserved" {
        return count_end(&mut backend.unserved, parts);
    }
    let [full, nobody, waited, line_full, abandoned, waiting_max] = parts.numbers()?;
    backend.totals = Totals { full, nobody, waited, line_full, abandoned };
    backend.waiting_max = usize::try_from(waiting_max).ok()?;
    Some(())
}

fn read_server(server: &mut ServerAccount, kind: &str, parts: &mut Parts) -> Option<()> {
    match kind {
        "server-end" => return count_end(&mut server.traffic.ends, parts),
        "connect" => return parts.times(&mut server.traffic.connect),
        "greeting" => return parts.times(&mut server.traffic.greeting),
        "lasted" => return parts.times(&mut server.traffic.lasted),
        _ => {}
    }
    let [sessions, redispatched, granted, connect_errors, own_faults, not_greeted, overloaded] = parts.numbers()?;
    let [checks_passed, checks_failed, downs, most, from_clients, to_clients] = parts.numbers()?;
    server.totals = ServerTotals {
        sessions,
        redispatched,
        granted,
        connect_errors,
        own_faults,
        not_greeted,
        overloaded,
        checks_passed,
        checks_failed,
        downs,
    };
    server.sessions_max = u32::try_from(most).ok()?;
    (server.traffic.from_clients, server.traffic.to_clients) = (from_clients, to_clients);
    Some(())
}

/// An end that this version does not know is passed over.
fn count_end(ends: &mut [u64; End::COUNT], parts: &mut Parts) -> Option<()> {
    let (code, count) = (parts.text()?, parts.number()?);
    let known = End::codes().zip(ends).find(|(known, _)| *known == code);
    known.into_iter().for_each(|(_, total)| *total += count);
    Some(())
}

struct Writer(String);

impl Writer {
    fn line(&mut self, kind: &str, names: &[&str], numbers: impl IntoIterator<Item = u64>) {
        self.begin(kind, names);
        for number in numbers {
            let _ = write!(self.0, "\t{number}"); // a String takes everything
        }
        self.0.push('\n');
    }

    /// Each step of the histogram in which something was recorded, with how much.
    fn times(&mut self, kind: &str, names: &[&str], recorded: &Histogram<u64>) {
        if recorded.is_empty() {
            return;
        }
        self.begin(kind, names);
        for step in recorded.iter_recorded() {
            let _ = write!(self.0, "\t{}\t{}", step.value_iterated_to(), step.count_at_value());
        }
        self.0.push('\n');
    }

    fn begin(&mut self, kind: &str, names: &[&str]) {
        self.0.push_str(kind);
        for name in names {
            self.0.push('\t');
            name.chars().for_each(|c| match c {
                '\\' => self.0.push_str("\\\\"),
                '\t' => self.0.push_str("\\t"),
                '\n' => self.0.push_str("\\n"),
                '\r' => self.0.push_str("\\r"),
                c => self.0.push(c),
            });
        }
    }
}

/// A name as it was before it was written.
fn plain(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut all = name.chars();
    while let Some(c) = all.next() {
        let escaped = if c == '\\' { all.next() } else { None };
        out.push(match escaped {
            None => c,
            Some('t') => '\t',
            Some('n') => '\n',
            Some('r') => '\r',
            Some(other) => other,
        });
    }
    out
}

/// The parts of a line behind its kind.
struct Parts {
    names: Vec<String>,
    next: usize,
}

impl Parts {
    fn text(&mut self) -> Option<String> {
        let text = self.names.get_mut(self.next).map(std::mem::take)?;
        self.next += 1;
        Some(text)
    }

    fn number(&mut self) -> Option<u64> {
        self.text()?.parse().ok()
    }

    fn numbers<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut all = [0; N];
        for number in &mut all {
            *number = self.number()?;
        }
        Some(all)
    }

    /// A name that lives for ever. `Some(None)`: there are too many already.
    fn known(&mut self) -> Option<Option<&'static str>> {
        Some(interned(&self.text()?))
    }

    fn times(&mut self, into: &mut Histogram<u64>) -> Option<()> {
        while self.next < self.names.len() {
            let [value, count] = self.numbers()?;
            into.saturating_record_n(value, count);
        }
        Some(())
    }
}

/// The same text for ever: counters and reasons are known by such.
fn interned(name: &str) -> Option<&'static str> {
    static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    if let Some(known) = names.get(name) {
        return Some(known);
    }
    if names.len() >= NAMES_MAX || name.len() > NAME_MAX {
        return None;
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(kept);
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::AdminState;

    /// Something of everything.
    fn all() -> Snapshot {
        let mut all = Snapshot::nothing();
        all.counters = vec![("accepted", 7), ("proxied", 5), ("of-another-version", 3)];
        all.endings.insert(("imap\tlogin".into(), "a\\b\n".into(), "absent"), 2);
        let mut passages = [0; Passage::COUNT];
        passages[Passage::Accepted as usize] = 7;
        passages[Passage::Awaited as usize] = 6;
        passages[Passage::Settled as usize] = 4;
        all.listeners.insert(("imap\tlogin".into(), "a\\b\n".into()), passages);
        all.diagnosed.insert(("imap-login".into(), "imap".into(), "http"), 1);
        all.trusted.insert(
            ("imap-login".into(), "imap".into(), "10.0.0.0/8".into()),
            Uses { connections: 7, last: 1_800_000_000 },
        );
        all.rings = vec![RingAccount { accepted: 7, pending: 2, turns: 99, ..RingAccount::default() }; 2];
        let mut waits = crate::stats::empty_histogram();
        [1, 17, 17, 123_456].into_iter().for_each(|micros| waits.saturating_record(micros));
        all.header_wait = waits.clone();
        all.pools = vec![PoolAccount { name: "imap".into(), lost: 1, waits }];
        let mut backend = BackendAccount::empty("imap".into(), Instant::now());
        backend.totals.waited = 4;
        (backend.waiting_max, backend.unserved[1]) = (3, 8);
        let mail = server(&mut backend, "mail1".into());
        (mail.totals.sessions, mail.sessions_max, mail.traffic.from_clients) = (11, 6, 1 << 40);
        mail.traffic.ends[0] = 10;
        mail.traffic.lasted.saturating_record(86_400_000);
        all.backends = vec![backend];
        all
    }

    /// All that is in a snapshot, by its own text.
    fn same(one: &Snapshot, other: &Snapshot) {
        assert_eq!(one.to_text(), other.to_text());
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let all = all();
        let read = Snapshot::from_text(&all.to_text()).expect("it was just written");
        same(&read, &all);
        assert_eq!((read.count("accepted"), read.count("of-another-version")), (7, 3));
        assert_eq!(read.header_wait().len(), 4);
        assert_eq!(read.header_wait().max(), all.header_wait().max());
        same(&Snapshot::from_text(&Snapshot::nothing().to_text()).expect("nothing"), &Snapshot::nothing());
    }

    #[test]
    fn a_text_that_is_cut_or_of_something_else_is_none() {
        let text = all().to_text();
        for length in 0..text.len() - 1 {
            if text.is_char_boundary(length) {
                assert!(Snapshot::from_text(&text[..length]).is_err(), "cut to {length}");
            }
        }
        assert_eq!(Snapshot::from_text("hello\n").err(), Some(NoSnapshot { line: 1 }));
        let wrong = format!("{FIRST_LINE}\ncounter\taccepted\tmany\ncomplete\n");
        assert_eq!(Snapshot::from_text(&wrong).err(), Some(NoSnapshot { line: 2 }));
        let far = format!("{FIRST_LINE}\nring\t4096\t1\t1\t1\t1\t1\t1\t1\ncomplete\n");
        assert_eq!(Snapshot::from_text(&far).err(), Some(NoSnapshot { line: 2 }));
    }

    #[test]
    fn what_another_version_says_beyond_is_passed_over() {
        let text = all().to_text();
        let known = text.strip_suffix("complete\n").expect("so it ends");
        let beyond = "novelty\tx\t1\npassed\timap\tlogin\tflown\t3\nunserved\timap\tof-the-future\t2\n";
        let read = Snapshot::from_text(&format!("{known}{beyond}complete\n")).expect("it is passed over");
        same(&read, &all());
    }

    #[test]
    fn what_is_inherited_is_added_to_what_there_is_now_and_only_that() {
        let before = all();
        let mut now = Snapshot::nothing();
        now.counters = vec![("accepted", 1)];
        let mut backend = BackendAccount::empty("imap".into(), Instant::now());
        let mail = server(&mut backend, "mail1".into());
        (mail.sessions, mail.sessions_max, mail.totals.sessions, mail.state) = (2, 2, 5, AdminState::Drain);
        server(&mut backend, "mail2".into());
        now.backends = vec![backend];
        let network = ("imap-login".into(), "imap".into(), "10.0.0.0/8".into());
        now.trusted.insert(network, Uses { connections: 2, last: 1_800_000_009 });
        now.inherit(&before);
        let used =
            now.network_use("imap-login", "imap", "10.0.0.0/8".parse().expect("a network")).expect("it was used");
        let since = used.last.duration_since(std::time::UNIX_EPOCH).expect("later");
        assert_eq!((used.connections, since.as_secs()), (9, 1_800_000_009));
        assert_eq!((now.count("accepted"), now.count("proxied")), (8, 5));
        let [backend] = now.backends() else { panic!("one backend: {now:?}") };
        let [mail1, mail2] = &backend.servers[..] else { panic!("two servers: {backend:?}") };
        assert_eq!((mail1.sessions, mail1.sessions_max, mail1.totals.sessions), (2, 6, 16));
        assert_eq!((mail1.state, mail1.traffic.lasted.len(), mail2.totals.sessions), (AdminState::Drain, 1, 0));
        assert_eq!((backend.totals.waited, backend.waiting_max, backend.unserved[1]), (4, 3, 8));
        // A backend that is no more shows nothing, as after a reload.
        let mut without = Snapshot::nothing();
        without.inherit(&before);
        assert!(without.backends().is_empty());
    }

    #[test]
    fn of_one_that_has_ended_nothing_is_awaited() {
        let mut before = all();
        assert_eq!(before.listeners()[0].pending, 2);
        before.settle();
        assert_eq!((before.listeners()[0].pending, before.rings()[0].pending), (0, 0));
        assert_eq!(before.listeners()[0].accepted, 7);
    }
}
