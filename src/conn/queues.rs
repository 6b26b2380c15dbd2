//! Who waits, and how long: deadlines and silence in constant time, without a timer per connection.
//!
//! A listener's timeout is a constant, so within a class of equal timeouts the order of arrival is the order of deadlines:
//! each class is a FIFO, and only its head needs a look. A second FIFO holds those that have not sent a byte, oldest
//! first, for shedding. All are doubly linked lists threaded through one node a slot, so that leaving from the middle
//! costs the same as from the head.

use std::time::{Duration, Instant};

use super::Key;

const NONE: u32 = u32::MAX;

/// A wait that has reached its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Who.
    pub key: Key,
    /// In which class.
    pub class: usize,
}

/// The waiting connections of one ring.
#[derive(Debug)]
pub struct Queues {
    nodes: Box<[Node]>,
    classes: Vec<Class>,
    silent: List,
    waiting: usize,
}

#[derive(Clone, Debug)]
struct Node {
    since: Instant,
    generation: u32,
    /// `NONE` if the slot waits for nothing.
    class: u32,
    deadline: Link,
    silence: Option<Link>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

#[derive(Debug)]
struct Class {
    timeout: Duration,
    prolonged: bool,
    list: List,
}

const UNLINKED: Link = Link { previous: NONE, next: NONE };
const EMPTY: List = List { head: NONE, tail: NONE };

impl Queues {
    /// For `slots` slots; `now` is any instant.
    pub fn new(slots: u32, now: Instant) -> Queues {
        let node = Node { since: now, generation: 0, class: NONE, deadline: UNLINKED, silence: None };
        Queues { nodes: vec![node; slots as usize].into(), classes: Vec::new(), silent: EMPTY, waiting: 0 }
    }

    /// The class of a timeout; equal timeouts share one. `prolonged` classes are for those who come from another class
    /// by [`prolong`](Queues::prolong): they come late, and must not stand behind those who start in theirs.
    pub fn class(&mut self, timeout: Duration, prolonged: bool) -> usize {
        let known = self.classes.iter().position(|class| class.timeout == timeout && class.prolonged == prolonged);
        known.unwrap_or_else(|| {
            self.classes.push(Class { timeout, prolonged, list: EMPTY });
            self.classes.len() - 1
        })
    }

    /// Starts a silent wait at `since`, which must not be earlier than that of anyone before in this class.
    pub fn start(&mut self, key: Key, class: usize, since: Instant) {
        self.enter(key, class, since);
        self.nodes[key.slot as usize].silence = Some(UNLINKED);
        push_back(&mut self.nodes, &mut self.silent, key.slot, silence);
    }

    /// Goes on waiting after [`expire`](Queues::expire), in a prolonged class and from the same start, no longer silent.
    pub fn prolong(&mut self, key: Key, class: usize) {
        let since = self.nodes[key.slot as usize].since;
        self.enter(key, class, since);
    }

    /// The first byte has come.
    pub fn heard(&mut self, key: Key) {
        let node = &mut self.nodes[key.slot as usize];
        if node.class != NONE && node.generation == key.generation && node.silence.is_some() {
            remove(&mut self.nodes, &mut self.silent, key.slot, silence);
            self.nodes[key.slot as usize].silence = None;
        }
    }

    /// Ends the wait, whatever for.
    pub fn stop(&mut self, key: Key) {
        let node = &self.nodes[key.slot as usize];
        if node.class == NONE || node.generation != key.generation {
            return;
        }
        let class = node.class as usize;
        self.heard(key);
        remove(&mut self.nodes, &mut self.classes[class].list, key.slot, deadline);
        self.nodes[key.slot as usize].class = NONE;
        self.waiting -= 1;
    }

    /// The deadline of a wait in a class that began at `since`.
    pub fn deadline(&self, class: usize, since: Instant) -> Instant {
        since + self.classes[class].timeout
    }

    /// The next deadline of all.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.classes.iter().filter_map(|class| self.head_deadline(class)).min()
    }

    /// Takes out one wait whose deadline is not after `now`.
    pub fn expire(&mut self, now: Instant) -> Option<Expired> {
        let class = self.classes.iter().position(|class| self.head_deadline(class).is_some_and(|at| at <= now))?;
        let key = self.key(self.classes[class].list.head);
        self.stop(key);
        Some(Expired { key, class })
    }

    /// Takes out the one to shed: who has been silent longest, if that is since `long_ago`, or else who waits longest. Who
    /// has just come does not make room for the next, however much the others have said.
    pub fn shed(&mut self, long_ago: Instant) -> Option<Key> {
        let since = |slot: &u32| self.nodes[*slot as usize].since;
        let silent = Some(self.silent.head).filter(|slot| *slot != NONE && since(slot) <= long_ago);
        let heads = self.classes.iter().map(|class| class.list.head).filter(|slot| *slot != NONE);
        let key = self.key(silent.or_else(|| heads.min_by_key(since))?);
        self.stop(key);
        Some(key)
    }

    /// Who has been silent longest.
    pub fn longest_silent(&self) -> Option<Key> {
        (self.silent.head != NONE).then(|| self.key(self.silent.head))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    fn enter(&mut self, key: Key, class: usize, since: Instant) {
        let tail = self.nodes.get(self.classes[class].list.tail as usize);
        debug_assert!(tail.is_none_or(|tail| tail.since <= since), "arrivals come in order");
        let node = &mut self.nodes[key.slot as usize];
        debug_assert_eq!(node.class, NONE, "one wait a slot");
        *node = Node { since, generation: key.generation, class: class as u32, deadline: UNLINKED, silence: None };
        push_back(&mut self.nodes, &mut self.classes[class].list, key.slot, deadline);
        self.waiting += 1;
    }

    fn head_deadline(&self, class: &Class) -> Option<Instant> {
        self.nodes.get(class.list.head as usize).map(|node| node.since + class.timeout)
    }

    fn key(&self, slot: u32) -> Key {
        Key { slot, generation: self.nodes[slot as usize].generation }
    }
}

/// Which of a node's two links.
type Which = fn(&mut Node) -> &mut Link;

fn deadline(node: &mut Node) -> &mut Link {
    &mut node.deadline
}

fn silence(node: &mut Node) -> &mut Link {
    node.silence.as_mut().expect("only silent nodes are on the list of the silent")
}

fn push_back(nodes: &mut [Node], list: &mut List, slot: u32, link: Which) {
    *link(&mut nodes[slot as usize]) = Link { previous: list.tail, next: NONE };
    match list.tail {
        NONE => list.head = slot,
        tail => link(&mut nodes[tail as usize]).next = slot,
    }
    list.tail = slot;
}

fn remove(nodes: &mut [Node], list: &mut List, slot: u32, link: Which) {
    let Link { previous, next } = *link(&mut nodes[slot as usize]);
    match previous {
        NONE => list.head = next,
        previous => link(&mut nodes[previous as usize]).next = next,
    }
    match next {
        NONE => list.tail = previous,
        next => link(&mut nodes[next as usize]).previous = previous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS: Duration = Duration::from_millis(1);

    fn key(slot: u32) -> Key {
        Key { slot, generation: slot + 7 }
    }

    fn expired(queues: &mut Queues, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| queues.expire(now)).map(|expired| expired.key.slot).collect()
    }

    #[test]
    fn deadlines_come_in_order_of_arrival_within_a_class() {
        let start = Instant::now();
        let mut queues = Queues::new(4, start);
        let (short, long) = (queues.class(10 * MILLIS, false), queues.class(30 * MILLIS, false));
        assert_eq!(queues.class(10 * MILLIS, false), short);
        queues.start(key(0), long, start);
        queues.start(key(1), short, start + MILLIS);
        queues.start(key(2), short, start + 2 * MILLIS);
        queues.start(key(3), short, start + 3 * MILLIS);
        queues.stop(key(2));
        assert_eq!(queues.next_deadline(), Some(start + 11 * MILLIS));
        assert_eq!(expired(&mut queues, start + 10 * MILLIS), [0; 0]);
        assert_eq!(expired(&mut queues, start + 13 * MILLIS), [1, 3]);
        assert_eq!((queues.len(), queues.next_deadline()), (1, Some(start + 30 * MILLIS)));
    }

    #[test]
    fn prolonging_counts_from_the_start() {
        let start = Instant::now();
        let mut queues = Queues::new(2, start);
        let (first, second) = (queues.class(20 * MILLIS, false), queues.class(30 * MILLIS, true));
        queues.start(key(0), first, start);
        let at_twenty = queues.expire(start + 20 * MILLIS).expect("due");
        assert_eq!(at_twenty, Expired { key: key(0), class: first });
        queues.prolong(key(0), second);
        assert_eq!(expired(&mut queues, start + 29 * MILLIS), [0; 0]);
        assert_eq!(expired(&mut queues, start + 30 * MILLIS), [0]);
    }

    #[test]
    fn sheds_the_longest_silent_and_only_then_others() {
        let start = Instant::now();
        let mut queues = Queues::new(4, start);
        let class = queues.class(MILLIS, false);
        for slot in 0..4 {
            queues.start(key(slot), class, start);
        }
        queues.heard(key(0));
        queues.heard(key(2));
        let mut order = Vec::new();
        for silent in [Some(key(1)), Some(key(3)), None, None] {
            assert_eq!(queues.longest_silent(), silent);
            order.extend(queues.shed(start).map(|key| key.slot));
        }
        assert_eq!(order, [1, 3, 0, 2]);
        assert!(queues.is_empty());
    }

    #[test]
    fn whoever_has_just_come_is_not_shed_for_the_next_while_half_headers_fill_the_places() {
        let start = Instant::now();
        let mut queues = Queues::new(4, start);
        let (one, other) = (queues.class(MILLIS, false), queues.class(2 * MILLIS, false));
        for (slot, class) in [(0, other), (1, one), (2, other)] {
            queues.start(key(slot), class, start + slot * MILLIS);
            queues.heard(key(slot));
        }
        queues.start(key(3), one, start + 3 * MILLIS);
        let mut next = || queues.shed(start).map(|key| key.slot);
        assert_eq!([next(), next(), next(), next()], [Some(0), Some(1), Some(2), Some(3)], "by age");
    }

    #[test]
    fn a_former_user_stops_nothing() {
        let start = Instant::now();
        let mut queues = Queues::new(1, start);
        let class = queues.class(MILLIS, false);
        queues.start(key(0), class, start);
        queues.stop(Key { slot: 0, generation: 0 });
        queues.heard(Key { slot: 0, generation: 0 });
        assert_eq!((queues.len(), queues.shed(start)), (1, Some(key(0))));
    }

    #[test]
    fn agrees_with_a_plain_list_on_random_moves() {
        let start = Instant::now();
        let mut random = fastrand::Rng::with_seed(1);
        let mut below = |n: u64| random.u64(..n);
        let mut queues = Queues::new(16, start);
        let timeouts = [5 * MILLIS, 9 * MILLIS];
        let classes = timeouts.map(|timeout| queues.class(timeout, false));
        let mut model: Vec<(u32, usize, Instant)> = Vec::new();
        let mut now = start;
        for _ in 0..20_000 {
            now += MILLIS * below(2) as u32;
            let slot = below(16) as u32;
            match (below(3), model.iter().position(|entry| entry.0 == slot)) {
                (0, None) => {
                    let class = below(2) as usize;
                    queues.start(key(slot), classes[class], now);
                    model.push((slot, class, now));
                }
                (1, Some(at)) => {
                    queues.stop(key(slot));
                    model.remove(at);
                }
                (2, Some(_)) => queues.heard(key(slot)),
                _ => {}
            }
            let mut due = expired(&mut queues, now);
            let mut expected: Vec<u32> = model
                .iter()
                .filter(|(_, class, since)| *since + timeouts[*class] <= now)
                .map(|entry| entry.0)
                .collect();
            due.sort_unstable();
            expected.sort_unstable();
            assert_eq!(due, expected);
            model.retain(|(_, class, since)| *since + timeouts[*class] > now);
            assert_eq!(queues.len(), model.len());
        }
    }
}
