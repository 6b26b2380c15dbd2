//! Two processes, the code of both as it is, and the death of one, of the other, or of both, at any moment that the
//! other can notice, or a delay beyond what is waited for. In every run, whatever happens:
//! - never do two living processes read one session;
//! - a session that nobody reads any more has ended with a process that has died or left, and is counted there;
//! - never do two living processes believe that they serve.
//!
//! A long run: `VESTIBULE_SCHEDULES=100000 cargo test --release --lib takeover::simulation`.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::engine::{LiveSession, Pending};
use fastrand::Rng;
use rustix::net::SocketFlags;

use super::channel::Channel;
use super::fate::{self, Fate};
use super::tests::session_of;
use super::*;

/// Runs of an ordinary test.
const SCHEDULES: u64 = 3_000;
/// Sessions that move: more than fit in a message.
const SESSIONS: u16 = 40;
/// Moments of a whole hand-over, and some.
const MOMENTS: u32 = 26;
/// How long each waits for the other, so that a delay can be longer.
const LIMITS: Limits = Limits {
    hello: Duration::from_millis(400),
    start: Duration::from_millis(300),
    pending: Duration::from_millis(200),
    taking: Duration::from_millis(120),
};
/// Longer than some of them; twice as much is longer than most.
const DELAY: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    Old,
    New,
}

/// What both processes do, and what must never be.
struct World {
    dead: [Arc<AtomicBool>; 2],
    /// The new process has ended on purpose.
    left: AtomicBool,
    state: Mutex<State>,
}

/// How many sessions live, and what is wrong.
type Verdict = (u64, Vec<String>);

#[derive(Default)]
struct State {
    /// What was seen while both processes lived.
    verdict: Option<Verdict>,
    readers: HashMap<u16, Vec<Who>>,
    serving: Vec<Who>,
    wrong: Vec<String>,
}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World { dead: Default::default(), left: AtomicBool::new(false), state: Mutex::default() })
    }

    fn lives(&self, who: Who) -> bool {
        let left = who == Who::New && self.left.load(Ordering::SeqCst);
        !left && !self.dead[who as usize].load(Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn read(&self, who: Who, session: u16) {
        let mut state = self.state();
        let readers = state.readers.entry(session).or_default();
        let other = readers.iter().any(|reader| *reader != who && self.lives(*reader));
        readers.push(who);
        if other {
            state.wrong.push(format!("session {session} has two readers"));
        }
    }

    fn stop_reading(&self, who: Who, session: u16) {
        self.state().readers.entry(session).or_default().retain(|reader| *reader != who);
    }

    fn serve(&self, who: Who) {
        let mut state = self.state();
        if state.serving.iter().any(|one| *one != who && self.lives(*one)) {
            state.wrong.push("two processes serve".to_owned());
        }
        state.serving.push(who);
    }

    fn stop_serving(&self, who: Who) {
        self.state().serving.retain(|one| *one != who);
    }

    /// How many sessions live on, and what is wrong with the others.
    fn judge(&self) -> Verdict {
        let somebody_ended = !self.lives(Who::Old) || !self.lives(Who::New);
        let mut state = self.state();
        let (mut live, mut wrong) = (0, std::mem::take(&mut state.wrong));
        // One that could not serve, and says so, has taken nothing along.
        let in_vain = self.left.load(Ordering::SeqCst) && !state.serving.contains(&Who::New);
        let may_be_lost = somebody_ended && !(in_vain && self.lives(Who::Old));
        for session in 0..SESSIONS {
            let readers = state.readers.get(&session).into_iter().flatten().filter(|who| self.lives(**who)).count();
            match readers {
                1 => live += 1,
                0 if may_be_lost => {}
                count => wrong.push(format!("session {session} has {count} readers")),
            }
        }
        (live, wrong)
    }
}

/// The old process's engine.
struct Old {
    world: Arc<World>,
    listener: TcpListener,
    sessions: Vec<u16>,
    delay: Option<Duration>,
}

impl Host for Old {
    fn offer(&mut self) -> Result<Vec<Offered>, Error> {
        let address = self.listener.local_addr().map_err(Error::System)?;
        let socket = self.listener.try_clone().map_err(Error::System)?;
        Ok(vec![Offered { address, name: "imap".into(), socket }])
    }

    fn hand_over(&mut self, _: &[SocketAddr]) -> Result<Vec<Pending>, Error> {
        self.world.stop_serving(Who::Old);
        fate::moment();
        self.delay.take().into_iter().for_each(thread::sleep);
        Ok(Vec::new())
    }

    fn hand_over_sessions(&mut self) -> (Vec<LiveSession>, usize) {
        let leaving = std::mem::take(&mut self.sessions);
        leaving.iter().for_each(|session| self.world.stop_reading(Who::Old, *session));
        fate::moment();
        (leaving.into_iter().map(session_of).collect(), 0)
    }

    fn let_go(&mut self, _: u32) {
        fate::moment();
    }

    fn stay(&mut self, given: Given) {
        fate::moment();
        self.world.serve(Who::Old);
        for session in given.sessions {
            let number = session.state.client.port();
            self.world.read(Who::Old, number);
            self.sessions.push(number);
        }
    }

    fn forget(&mut self) {}

    fn look(&mut self) {}

    fn counters(&self, _: Form) -> String {
        String::new()
    }
}

/// The scene of one thread's runs.
struct Stage {
    offer: Offer,
    listener: TcpListener,
    path: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("socket");
        let offer = Offer::prepare_within(&path, LIMITS).expect("the directory is ours");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Stage { offer, listener, path, _directory: directory }
    }

    /// One hand-over; tells how many sessions live on, and what was wrong.
    fn run(&self, seed: u64) -> Verdict {
        let mut random = Rng::with_seed(seed);
        let world = World::new();
        let dies = |random: &mut Rng, often: u8| (random.u8(..100) < often).then(|| random.u32(..MOMENTS));
        let (old_dies, new_dies) = (dies(&mut random, 45), dies(&mut random, 45));
        // Rarely, because it takes its time.
        let delays = [0, 1].map(|_| (random.u16(..1000) < 2).then(|| DELAY * random.u32(1..3)));
        let leaves = random.bool();
        self.offer.place.take_back();
        let accepting = self.offer.place.listener().expect("it was just taken back");
        let [old_dead, new_dead] = world.dead.clone();
        let fate_of = |moments, dead: &Arc<AtomicBool>, other: &Arc<AtomicBool>| Fate {
            moments: Cell::new(moments),
            dead: dead.clone(),
            other_is_dead: other.clone(),
        };
        world.serve(Who::Old);
        (0..SESSIONS).for_each(|session| world.read(Who::Old, session));
        thread::scope(|scope| {
            scope.spawn(|| {
                let sessions = (0..SESSIONS).collect();
                let listener = self.listener.try_clone().expect("descriptors are left");
                let host = Mutex::new(Old { world: world.clone(), listener, sessions, delay: delays[0] });
                let accepted = rustix::net::accept_with(&accepting, SocketFlags::CLOEXEC);
                drop(accepting);
                let channel = Channel::new(accepted.expect("somebody comes"), LIMITS.hello);
                fate::live(fate_of(old_dies, &old_dead, &new_dead), || self.offer.converse(channel, &host));
            });
            scope.spawn(|| {
                let body = || {
                    let Ok(claim) = Claim::connect_within(&self.path, LIMITS) else {
                        return world.left.store(true, Ordering::SeqCst);
                    };
                    fate::moment();
                    delays[1].into_iter().for_each(thread::sleep);
                    let taken = claim.serve(&[], || Ok(()));
                    // Whoever cannot serve ends.
                    let Ok(taken) = taken else { return world.left.store(true, Ordering::SeqCst) };
                    world.serve(Who::New);
                    taken.given.sessions.iter().for_each(|one| world.read(Who::New, one.state.client.port()));
                    fate::moment();
                    if leaves {
                        world.left.store(true, Ordering::SeqCst);
                        taken.predecessor.leave();
                    }
                    let verdict = world.judge();
                    world.state().verdict = Some(verdict);
                    // It has lived for long enough; all that it has is closed after this.
                    new_dead.store(true, Ordering::SeqCst);
                };
                fate::live(fate_of(new_dies, &new_dead, &old_dead), body);
            });
        });
        // Who had asked twice must not wait for the next run.
        self.offer.place.close();
        let (live, wrong) = world.judge();
        match world.state().verdict.take() {
            Some((before, earlier)) => (before, [earlier, wrong].concat()),
            None => (live, wrong),
        }
    }
}

#[test]
fn whoever_dies_at_any_moment_each_session_has_one_reader_or_has_ended() {
    let schedules = std::env::var("VESTIBULE_SCHEDULES").map_or(SCHEDULES, |text| text.parse().expect("a number"));
    let next = AtomicU64::new(0);
    let (lived, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let stage = Stage::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= schedules {
                        return;
                    }
                    let (live, wrong) = stage.run(seed);
                    assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
                    lived.fetch_add(live, Ordering::Relaxed);
                    ended.fetch_add(u64::from(SESSIONS) - live, Ordering::Relaxed);
                }
            });
        }
    });
    println!("{schedules} hand-overs: {lived:?} sessions lived on, {ended:?} ended with their process");
    assert!(lived.into_inner() > 0 && ended.into_inner() > 0, "some deaths hit somebody, and some nobody");
}
