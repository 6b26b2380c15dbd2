//! Who waits, and how long: deadlines and silence in constant time, without a timer per connection.
//!
//! A listener's timeout is a constant, so within a class of equal timeouts the order of arrival is the order of deadlines:
//! each class is a FIFO, and only its head needs a look. A second FIFO holds those that have not sent a byte, oldest
//! first, for shedding. All are doubly linked lists threaded through one node a slot, so that leaving from the middle
//! costs the same as from the head.

use std::time::{Duration, Instant};

use super::SlotId;

const NONE: u32 = u32::MAX;

/// A wait that has reached its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Who.
    pub slot: SlotId,
    /// In which class.
    pub class: usize,
}

/// The waiting connections of one ring.
#[derive(Debug)]
pub struct Deadlines {
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

impl Deadlines {
    /// For `slots` slots; `now` is any instant.
    pub fn new(slots: u32, now: Instant) -> Deadlines {
        let node = Node { since: now, generation: 0, class: NONE, deadline: UNLINKED, silence: None };
        Deadlines { nodes: vec![node; slots as usize].into(), classes: Vec::new(), silent: EMPTY, waiting: 0 }
    }

    /// The class of a timeout; equal timeouts share one. `prolonged` classes are for those who come from another class
    /// by [`prolong`](Deadlines::prolong): they come late, and must not stand behind those who start in theirs.
    pub fn class(&mut self, timeout: Duration, prolonged: bool) -> usize {
        let known = self.classes.iter().position(|class| class.timeout == timeout && class.prolonged == prolonged);
        known.unwrap_or_else(|| {
            self.classes.push(Class { timeout, prolonged, list: EMPTY });
            self.classes.len() - 1
        })
    }

    /// Starts a silent wait at `since`, which must not be earlier than that of anyone before in this class.
    pub fn start(&mut self, slot: SlotId, class: usize, since: Instant) {
        self.enter(slot, class, since);
        self.nodes[slot.index as usize].silence = Some(UNLINKED);
        push_back(&mut self.nodes, &mut self.silent, slot.index, silence);
    }

    /// Goes on waiting after [`expire`](Deadlines::expire), in a prolonged class and from the same start, no longer silent.
    pub fn prolong(&mut self, slot: SlotId, class: usize) {
        let since = self.nodes[slot.index as usize].since;
        self.enter(slot, class, since);
    }

    /// The first byte has come.
    pub fn heard(&mut self, slot: SlotId) {
        let node = &mut self.nodes[slot.index as usize];
        if node.class != NONE && node.generation == slot.generation && node.silence.is_some() {
            remove(&mut self.nodes, &mut self.silent, slot.index, silence);
            self.nodes[slot.index as usize].silence = None;
        }
    }

    /// Ends the wait, whatever for.
    pub fn stop(&mut self, slot: SlotId) {
        let node = &self.nodes[slot.index as usize];
        if node.class == NONE || node.generation != slot.generation {
            return;
        }
        let class = node.class as usize;
        self.heard(slot);
        remove(&mut self.nodes, &mut self.classes[class].list, slot.index, deadline);
        self.nodes[slot.index as usize].class = NONE;
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
        let slot = self.id_at(self.classes[class].list.head);
        self.stop(slot);
        Some(Expired { slot, class })
    }

    /// Those who make room, the first first: who has been silent longest, if that is since `long_ago`, or else who waits
    /// longest. Who has just come does not make room for the next, however much the others have said.
    pub fn to_shed(&self, long_ago: Instant) -> impl Iterator<Item = SlotId> {
        let since = |index: &u32| self.nodes[*index as usize].since;
        let silent = Some(self.silent.head).filter(|index| *index != NONE && since(index) <= long_ago);
        let heads = self.classes.iter().map(|class| class.list.head).filter(|index| *index != NONE);
        let next = move |index: &u32| {
            let node = &self.nodes[*index as usize];
            let link = if silent.is_some() { node.silence.unwrap_or(UNLINKED) } else { node.deadline };
            Some(link.next).filter(|next| *next != NONE && (silent.is_none() || since(next) <= long_ago))
        };
        std::iter::successors(silent.or_else(|| heads.min_by_key(since)), next).map(|index| self.id_at(index))
    }

    /// Takes out the first of those who make room.
    pub fn shed(&mut self, long_ago: Instant) -> Option<SlotId> {
        let slot = self.to_shed(long_ago).next()?;
        self.stop(slot);
        Some(slot)
    }

    /// Who has been silent longest.
    pub fn longest_silent(&self) -> Option<SlotId> {
        (self.silent.head != NONE).then(|| self.id_at(self.silent.head))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    fn enter(&mut self, slot: SlotId, class: usize, since: Instant) {
        let tail = self.nodes.get(self.classes[class].list.tail as usize);
        debug_assert!(tail.is_none_or(|tail| tail.since <= since), "arrivals come in order");
        let node = &mut self.nodes[slot.index as usize];
        debug_assert_eq!(node.class, NONE, "one wait a slot");
        *node = Node { since, generation: slot.generation, class: class as u32, deadline: UNLINKED, silence: None };
        push_back(&mut self.nodes, &mut self.classes[class].list, slot.index, deadline);
        self.waiting += 1;
    }

    fn head_deadline(&self, class: &Class) -> Option<Instant> {
        self.nodes.get(class.list.head as usize).map(|node| node.since + class.timeout)
    }

    fn id_at(&self, index: u32) -> SlotId {
        SlotId { index, generation: self.nodes[index as usize].generation }
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

fn push_back(nodes: &mut [Node], list: &mut List, index: u32, link: Which) {
    *link(&mut nodes[index as usize]) = Link { previous: list.tail, next: NONE };
    match list.tail {
        NONE => list.head = index,
        tail => link(&mut nodes[tail as usize]).next = index,
    }
    list.tail = index;
}

fn remove(nodes: &mut [Node], list: &mut List, index: u32, link: Which) {
    let Link { previous, next } = *link(&mut nodes[index as usize]);
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

    fn slot(index: u32) -> SlotId {
        SlotId { index, generation: index + 7 }
    }

    fn expired(deadlines: &mut Deadlines, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| deadlines.expire(now)).map(|expired| expired.slot.index).collect()
    }

    #[test]
    fn deadlines_come_in_order_of_arrival_within_a_class() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(4, start);
        let (short, long) = (deadlines.class(10 * MILLIS, false), deadlines.class(30 * MILLIS, false));
        assert_eq!(deadlines.class(10 * MILLIS, false), short);
        deadlines.start(slot(0), long, start);
        deadlines.start(slot(1), short, start + MILLIS);
        deadlines.start(slot(2), short, start + 2 * MILLIS);
        deadlines.start(slot(3), short, start + 3 * MILLIS);
        deadlines.stop(slot(2));
        assert_eq!(deadlines.next_deadline(), Some(start + 11 * MILLIS));
        assert_eq!(expired(&mut deadlines, start + 10 * MILLIS), [0; 0]);
        assert_eq!(expired(&mut deadlines, start + 13 * MILLIS), [1, 3]);
        assert_eq!((deadlines.len(), deadlines.next_deadline()), (1, Some(start + 30 * MILLIS)));
    }

    #[test]
    fn prolonging_counts_from_the_start() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(2, start);
        let (first, second) = (deadlines.class(20 * MILLIS, false), deadlines.class(30 * MILLIS, true));
        deadlines.start(slot(0), first, start);
        let at_twenty = deadlines.expire(start + 20 * MILLIS).expect("due");
        assert_eq!(at_twenty, Expired { slot: slot(0), class: first });
        deadlines.prolong(slot(0), second);
        assert_eq!(expired(&mut deadlines, start + 29 * MILLIS), [0; 0]);
        assert_eq!(expired(&mut deadlines, start + 30 * MILLIS), [0]);
    }

    #[test]
    fn sheds_the_longest_silent_and_only_then_others() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(4, start);
        let class = deadlines.class(MILLIS, false);
        for index in 0..4 {
            deadlines.start(slot(index), class, start);
        }
        deadlines.heard(slot(0));
        deadlines.heard(slot(2));
        let mut order = Vec::new();
        for silent in [Some(slot(1)), Some(slot(3)), None, None] {
            assert_eq!(deadlines.longest_silent(), silent);
            order.extend(deadlines.shed(start).map(|slot| slot.index));
        }
        assert_eq!(order, [1, 3, 0, 2]);
        assert!(deadlines.is_empty());
    }

    #[test]
    fn whoever_has_just_come_is_not_shed_for_the_next_while_half_headers_fill_the_places() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(4, start);
        let (one, other) = (deadlines.class(MILLIS, false), deadlines.class(2 * MILLIS, false));
        for (index, class) in [(0, other), (1, one), (2, other)] {
            deadlines.start(slot(index), class, start + index * MILLIS);
            deadlines.heard(slot(index));
        }
        deadlines.start(slot(3), one, start + 3 * MILLIS);
        let mut next = || deadlines.shed(start).map(|slot| slot.index);
        assert_eq!([next(), next(), next(), next()], [Some(0), Some(1), Some(2), Some(3)], "by age");
    }

    #[test]
    fn a_former_user_stops_nothing() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(1, start);
        let class = deadlines.class(MILLIS, false);
        deadlines.start(slot(0), class, start);
        deadlines.stop(SlotId { index: 0, generation: 0 });
        deadlines.heard(SlotId { index: 0, generation: 0 });
        assert_eq!((deadlines.len(), deadlines.shed(start)), (1, Some(slot(0))));
    }

    #[test]
    fn agrees_with_a_plain_list_on_random_moves() {
        let start = Instant::now();
        let mut random = fastrand::Rng::with_seed(1);
        let mut below = |n: u64| random.u64(..n);
        let mut deadlines = Deadlines::new(16, start);
        let timeouts = [5 * MILLIS, 9 * MILLIS];
        let classes = timeouts.map(|timeout| deadlines.class(timeout, false));
        let mut model: Vec<(u32, usize, Instant)> = Vec::new();
        let mut now = start;
        for _ in 0..20_000 {
            now += MILLIS * below(2) as u32;
            let index = below(16) as u32;
            match (below(3), model.iter().position(|entry| entry.0 == index)) {
                (0, None) => {
                    let class = below(2) as usize;
                    deadlines.start(slot(index), classes[class], now);
                    model.push((index, class, now));
                }
                (1, Some(at)) => {
                    deadlines.stop(slot(index));
                    model.remove(at);
                }
                (2, Some(_)) => deadlines.heard(slot(index)),
                _ => {}
            }
            let mut due = expired(&mut deadlines, now);
            let mut expected: Vec<u32> = model
                .iter()
                .filter(|(_, class, since)| *since + timeouts[*class] <= now)
                .map(|entry| entry.0)
                .collect();
            due.sort_unstable();
            expected.sort_unstable();
            assert_eq!(due, expected);
            model.retain(|(_, class, since)| *since + timeouts[*class] > now);
            assert_eq!(deadlines.len(), model.len());
        }
    }
}
