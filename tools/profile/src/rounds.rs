//! Interleaved rounds: everything is measured once in each, one after another.

use std::fmt::Display;

use fastrand::Rng;

use crate::server::is_interrupted;

/// What the orders of the rounds come from: the same in every run.
pub const SEED: u64 = 1;

/// Something that is measured in rounds.
pub trait Subject: Display {
    /// Why it was left out from some round on.
    fn failure(&mut self) -> &mut Option<String>;
}

/// The orders of the rounds, each shuffled anew and another than the one before, so that nobody always follows the same
/// one, and in whatever state that leaves the machine.
struct Orders {
    random: Rng,
    order: Vec<usize>,
}

impl Orders {
    fn new(count: usize) -> Orders {
        Orders { random: Rng::with_seed(SEED), order: (0..count).collect() }
    }

    fn next(&mut self) -> &[usize] {
        let before = self.order.clone();
        while self.order == before && before.len() > 1 {
            self.random.shuffle(&mut self.order);
        }
        &self.order
    }
}

/// Measures every subject once a round by `once`, which tells what came of it in a few words. A subject that fails is left
/// out from then on; an interruption ends the rounds. Both leave what was measured.
pub fn rounds<T: Subject>(
    name: &str,
    count: usize,
    subjects: &mut [T],
    say: impl Fn(String),
    mut once: impl FnMut(&mut T) -> Result<String, String>,
) {
    let mut orders = Orders::new(subjects.len());
    for round in 1..=count {
        for &index in orders.next() {
            let subject = &mut subjects[index];
            if subject.failure().is_some() {
                continue;
            }
            match once(subject) {
                Ok(result) => say(format!("{name} {round}/{count}  {:<36} {result}", subject.to_string())),
                Err(_) if is_interrupted() => {
                    say("interrupted: the report has what was measured until now".to_owned());
                    return;
                }
                Err(error) => {
                    say(format!("left out: {subject}: {error}"));
                    *subject.failure() = Some(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::fmt;

    use super::*;

    /// The rounds of the published figures.
    const ROUNDS: usize = 5;

    #[test]
    fn rounds_differ_and_so_does_who_goes_before_whom() {
        for count in [2, 4, 8, 15] {
            let mut orders = Orders::new(count);
            let rounds: Vec<Vec<usize>> = (0..ROUNDS).map(|_| orders.next().to_vec()).collect();
            for order in &rounds {
                assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), (0..count).collect(), "each once");
            }
            assert!(rounds.windows(2).all(|two| two[0] != two[1]), "{rounds:?}");
            let sequence = rounds.concat();
            for one in 0..count {
                let before = sequence.windows(2).filter(|two| two[1] == one).map(|two| two[0]);
                let before: BTreeSet<usize> = before.collect();
                assert!(before.len() > 1, "{one} of {count} always follows {before:?}: {rounds:?}");
            }
        }
    }

    #[test]
    fn every_run_has_the_same_orders() {
        let (mut one, mut other) = (Orders::new(15), Orders::new(15));
        assert!((0..ROUNDS).all(|_| one.next() == other.next()));
    }

    #[test]
    fn one_subject_needs_no_order() {
        assert_eq!(Orders::new(1).next(), [0]);
        assert!(Orders::new(0).next().is_empty());
    }

    struct Fragile {
        name: &'static str,
        breaks_at: usize,
        rounds: usize,
        failure: Option<String>,
    }

    impl fmt::Display for Fragile {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.name)
        }
    }

    impl Subject for Fragile {
        fn failure(&mut self) -> &mut Option<String> {
            &mut self.failure
        }
    }

    #[test]
    fn who_fails_is_left_out_from_then_on_and_the_others_go_on() {
        let fragile = |name, breaks_at| Fragile { name, breaks_at, rounds: 0, failure: None };
        let mut subjects = [fragile("sound", usize::MAX), fragile("weak", 1)];
        let said = RefCell::new(Vec::new());
        let mut tried = 0;
        rounds(
            "round",
            3,
            &mut subjects,
            |line| said.borrow_mut().push(line),
            |one| {
                tried += 1;
                if one.rounds == one.breaks_at {
                    return Err("it broke".to_owned());
                }
                one.rounds += 1;
                Ok("fine".to_owned())
            },
        );
        assert_eq!((subjects[0].rounds, &subjects[0].failure), (3, &None));
        assert_eq!((subjects[1].rounds, subjects[1].failure.as_deref()), (1, Some("it broke")));
        assert_eq!(tried, 5, "not tried again: {:?}", said.borrow());
        assert!(said.borrow().contains(&"left out: weak: it broke".to_owned()), "{:?}", said.borrow());
    }
}
