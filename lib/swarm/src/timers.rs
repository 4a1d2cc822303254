//! What is due when: one entry per purpose, so that nothing piles up.

use std::collections::{BTreeMap, BTreeSet};

use torrent::SwarmName;

use crate::event::ConnId;
use crate::time::Time;

/// What is due. Whoever is woken looks at its own state: a timer that rings early is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// HELLO, silence and idleness of a connection.
    Connection(ConnId),
    /// Requests of a peer that wait are told so.
    Queued(ConnId),
    /// An upload stalls, so that another may start.
    Uploads,
    /// Verified pieces are announced.
    Haves(SwarmName),
    /// A download looks after itself.
    Torrent(SwarmName),
    /// Grants that nobody uses end.
    Grants,
    /// Owners look after each other.
    Partners,
}

/// Timers in the order in which they are due.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Time, Timer)>,
    at: BTreeMap<Timer, Time>,
}

impl Timers {
    /// Makes the timer ring at this time, or earlier where it would anyway.
    pub(crate) fn arm(&mut self, timer: Timer, at: Time) {
        if let Some(armed) = self.at.get(&timer) {
            if *armed <= at {
                return;
            }
            self.due.remove(&(*armed, timer));
        }
        self.at.insert(timer, at);
        self.due.insert((at, timer));
    }

    pub(crate) fn disarm(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.due.remove(&(at, timer));
        }
    }

    pub(crate) fn is_armed(&self, timer: Timer) -> bool {
        self.at.contains_key(&timer)
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes a timer that is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<Timer> {
        let (at, timer) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        self.at.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_rings_once_at_its_earliest_time() {
        let mut timers = Timers::default();
        let [one, two] = [1, 2].map(|conn| Timer::Connection(ConnId(conn)));
        timers.arm(one, Time(30));
        timers.arm(two, Time(20));
        timers.arm(one, Time(10));
        timers.arm(one, Time(40));
        assert_eq!(timers.next(), Some(Time(10)));
        assert_eq!(timers.pop(Time(9)), None);
        assert_eq!(timers.pop(Time(50)), Some(one));
        assert!(!timers.is_armed(one));
        timers.disarm(two);
        assert_eq!(timers.pop(Time(50)), None);
    }
}
