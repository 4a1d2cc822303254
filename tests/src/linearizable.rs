//! Whether what several clients saw of one register could have happened one after another.
//!
//! An operation takes effect at one moment between its call and its answer. One whose answer is not
//! known may take effect at any moment after its call, or never. The search is that of Wing and
//! Gong: it tries every order that the times allow, and remembers which sets of operations led to
//! which value, so that it looks at none of them twice.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What an operation did to a register, or saw of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action<V> {
    Write(V),
    Read(V),
}

/// An operation of one client. Times are of one clock, in any unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<V> {
    pub action: Action<V>,
    pub called: u64,
    /// `None` where it is not known whether it was done, and when.
    pub answered: Option<u64>,
}

/// A history that cannot have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impossible<V> {
    /// The longest order that was found.
    pub order: Vec<Operation<V>>,
    /// What that leaves open, of which none can come next.
    pub open: Vec<Operation<V>>,
}

/// Checks a history of a register that held `initial`.
///
/// # Errors
/// [`Impossible`] where no order explains it.
pub fn check<V: Clone + Debug + Eq + Hash>(
    initial: V,
    history: &[Operation<V>],
) -> Result<(), Box<Impossible<V>>> {
    let read: HashSet<_> = history
        .iter()
        .filter(|operation| operation.answered.is_some())
        .filter_map(|operation| match &operation.action {
            Action::Read(value) => Some(value),
            Action::Write(_) => None,
        })
        .collect();
    let mut operations = history.to_vec();
    // What is not known to have been read says nothing, and neither does what is not known to have
    // been written and was never read.
    operations.retain(|operation| match &operation.action {
        Action::Write(value) => operation.answered.is_some() || read.contains(value),
        Action::Read(_) => operation.answered.is_some(),
    });
    operations.sort_by_key(|operation| operation.called);
    Search::new(initial, operations).run()
}

/// The operations in an order so far, and what the register holds after them.
struct Search<V> {
    operations: Vec<Operation<V>>,
    /// Bits of those that are in the order.
    done: Vec<u64>,
    value: V,
    order: Vec<Step<V>>,
    seen: HashSet<(Vec<u64>, V)>,
    longest: Vec<usize>,
}

/// An operation in the order.
struct Step<V> {
    at: usize,
    /// What the register held before it.
    before: V,
    /// Whether no other operation need be tried in its place.
    is_forced: bool,
}

impl<V: Clone + Debug + Eq + Hash> Search<V> {
    fn new(initial: V, operations: Vec<Operation<V>>) -> Self {
        Self {
            done: vec![0; operations.len().div_ceil(64)],
            operations,
            value: initial,
            order: Vec::new(),
            seen: HashSet::new(),
            longest: Vec::new(),
        }
    }

    fn run(mut self) -> Result<(), Box<Impossible<V>>> {
        let mut from = 0;
        loop {
            let Some(deadline) = self.deadline() else {
                return Ok(());
            };
            // A read that can come now does no harm: whatever works without it works after it.
            if let Some(read) = self.read(deadline) {
                self.append(read, true);
                from = 0;
            } else if let Some(next) = self.next(from, deadline) {
                self.append(next, false);
                from = 0;
            } else if let Some(from_then) = self.back() {
                from = from_then;
            } else {
                return Err(Box::new(self.impossible()));
            }
        }
    }

    /// Takes back the last choice, and returns where to look for another one; `None` where there
    /// was none.
    fn back(&mut self) -> Option<usize> {
        while let Some(Step {
            at,
            before,
            is_forced,
        }) = self.order.pop()
        {
            self.done[at / 64] &= !(1 << (at % 64));
            self.value = before;
            if !is_forced {
                return Some(at + 1);
            }
        }
        None
    }

    /// Returns a read that sees what the register holds, and that can come next.
    fn read(&self, deadline: u64) -> Option<usize> {
        let called = |at: &usize| self.operations[*at].called <= deadline;
        let reads = |at: &usize| self.operations[*at].action == Action::Read(self.value.clone());
        let all = 0..self.operations.len();
        all.take_while(called)
            .find(|at| !self.is_done(*at) && reads(at))
    }

    /// Returns when the first of those was answered that must still come; `None` where none must.
    fn deadline(&self) -> Option<u64> {
        let open = (0..self.operations.len()).filter(|at| !self.is_done(*at));
        open.filter_map(|at| self.operations[at].answered).min()
    }

    /// Returns the first write from `from` on that can come next, and leads to something new.
    fn next(&mut self, from: usize, deadline: u64) -> Option<usize> {
        for at in from..self.operations.len() {
            let operation = &self.operations[at];
            if operation.called > deadline {
                return None;
            }
            let Action::Write(value) = &operation.action else {
                continue;
            };
            if self.is_done(at) || self.has_earlier_twin(at) {
                continue;
            }
            let value = value.clone();
            let mut done = self.done.clone();
            done[at / 64] |= 1 << (at % 64);
            if self.seen.insert((done, value)) {
                return Some(at);
            }
        }
        None
    }

    /// Returns whether another unknown write of the same value can come instead: of those the one
    /// that was called first comes first.
    fn has_earlier_twin(&self, at: usize) -> bool {
        let this = &self.operations[at];
        let is_twin =
            |other: &Operation<V>| other.answered.is_none() && other.action == this.action;
        this.answered.is_none()
            && (0..at).any(|other| !self.is_done(other) && is_twin(&self.operations[other]))
    }

    fn append(&mut self, next: usize, is_forced: bool) {
        self.done[next / 64] |= 1 << (next % 64);
        let before = self.value.clone();
        if let Action::Write(value) = &self.operations[next].action {
            self.value = value.clone();
        }
        self.order.push(Step {
            at: next,
            before,
            is_forced,
        });
        if self.order.len() > self.longest.len() {
            self.longest = self.order.iter().map(|step| step.at).collect();
        }
    }

    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] & (1 << (at % 64)) != 0
    }

    fn impossible(self) -> Impossible<V> {
        let of = |at: usize| self.operations[at].clone();
        let open = (0..self.operations.len()).filter(|at| !self.longest.contains(at));
        Impossible {
            open: open.map(of).collect(),
            order: self.longest.iter().map(|at| of(*at)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a history such as `w1 0-3, r1 1-2, w2 4-?`: what was done, when it was called and
    /// answered.
    fn history(text: &str) -> Vec<Operation<u32>> {
        let operation = |text: &str| {
            let (action, times) = text.trim().split_once(' ').unwrap();
            let (called, answered) = times.split_once('-').unwrap();
            let (kind, value) = action.split_at(1);
            let value = value.parse().unwrap();
            Operation {
                action: match kind {
                    "w" => Action::Write(value),
                    "r" => Action::Read(value),
                    other => panic!("{other}"),
                },
                called: called.parse().unwrap(),
                answered: answered.parse().ok(),
            }
        };
        text.split(',').map(operation).collect()
    }

    #[test]
    fn what_can_have_happened_is_accepted() {
        for text in [
            "w1 0-1, r1 2-3, w2 4-5, r2 6-7",
            "r0 0-1, w1 2-3, r1 4-5",
            // A write takes effect at any moment between its call and its answer.
            "w1 0-9, r0 1-2, r1 3-4, r1 5-6",
            "w1 0-9, r0 1-2, r0 5-6, r1 10-11",
            // Two writers at once: either order.
            "w1 0-9, w2 0-9, r1 10-11",
            "w1 0-9, w2 0-9, r2 10-11",
            "w1 0-9, w2 0-9, r1 1-2, r2 3-4, r2 10-11",
            // A reader that began before the write ended may see either.
            "w1 0-1, w2 2-6, r2 3-4, r2 7-8, r1 2-9",
            // Nobody knows what became of it: at once, late, or never.
            "w1 0-1, w2 2-?, r1 3-4, r1 9-10",
            "w1 0-1, w2 2-?, r2 3-4, r2 9-10",
            "w1 0-1, w2 2-?, r1 3-4, w3 5-6, r3 7-8, r2 9-10",
            "r7 0-?, w1 1-2, r1 3-4",
        ] {
            assert_eq!(check(0, &history(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_cannot_have_happened_is_rejected() {
        for text in [
            // Stale.
            "w1 0-1, r0 2-3",
            "w1 0-1, w2 2-3, r1 4-5",
            // From nowhere, and from the future.
            "r7 0-1",
            "r1 0-1, w1 2-3",
            // A lost write.
            "w1 0-1, w2 2-3, r1 4-5, r1 6-7",
            // Seen, and then not seen any more.
            "w1 0-9, r1 1-2, r0 3-4",
            "w1 0-1, w2 2-?, r2 3-4, r1 5-6",
            // Made twice.
            "w1 0-9, w2 3-4, r1 1-2, r2 5-6, r1 7-8",
            // Two readers saw two writers in different orders.
            "w1 0-9, w2 0-9, r1 1-2, r2 3-4, r1 5-6",
            // An unknown write does not take effect before it is called.
            "r2 0-1, w2 2-?",
        ] {
            assert!(check(0, &history(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let error = check(0, &history("w1 0-1, r1 2-3, r5 4-5")).unwrap_err();
        assert_eq!(error.order.len(), 2);
        assert_eq!(error.open, history("r5 4-5"));
    }

    /// Many writers at once, one of whose orders is the right one; and a stale read at the end.
    #[test]
    fn long_histories_take_no_time() {
        let mut good = Vec::new();
        for round in 0..40_u32 {
            for writer in 0..6 {
                good.push(format!(
                    "w{} {}-{}",
                    round * 6 + writer,
                    round * 10,
                    round * 10 + 8
                ));
            }
            good.push(format!(
                "r{} {}-{}",
                round * 6 + round % 6,
                round * 10 + 9,
                round * 10 + 9
            ));
        }
        // What nobody knows of, many times: the same, and others.
        for number in 0..12 {
            good.push(format!("w7 {number}-?"));
            good.push(format!("w{} {number}-?", 10_000 + number));
        }
        let mut operations = history(&good.join(","));
        assert_eq!(check(9999, &operations), Ok(()));
        operations.extend(history("r3 2000-2001"));
        assert!(check(9999, &operations).is_err());
    }
}
