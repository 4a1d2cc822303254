//! How fast payload comes in.

use crate::time::{Micros, Time};

/// Length of an interval that is measured.
const INTERVAL: Micros = Micros::from_millis(100);
/// An interval this long had a pause in it, which says nothing about the rate.
const PAUSE: Micros = Micros::from_millis(400);

/// Measures the rate at which payload can be received: that of the best of the last intervals,
/// since one in which little was asked for says little. It forgets an eighth per interval.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    since: Time,
    bytes: u64,
    bytes_per_s: Option<u64>,
    peak: u64,
}

impl Rate {
    pub(crate) fn add(&mut self, now: Time, bytes: u32) {
        let passed = now.since(self.since);
        if passed >= PAUSE {
            self.since = now;
            self.bytes = 0;
            return;
        }
        self.bytes += u64::from(bytes);
        if passed >= INTERVAL {
            let measured = self.bytes * 1_000_000 / passed.0;
            let kept = self.bytes_per_s.map_or(0, |before| before - before / 8);
            self.bytes_per_s = Some(measured.max(kept));
            self.peak = self.peak.max(measured);
            self.since = now;
            self.bytes = 0;
        }
    }

    /// Returns the best rate that was ever measured, in bytes per second.
    pub(crate) const fn peak(&self) -> u64 {
        self.peak
    }

    /// Returns the rate in bytes per second, once one was measured.
    pub(crate) const fn get(&self) -> Option<u64> {
        self.bytes_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_interval_counts_and_fades() {
        let mut rate = Rate::default();
        let mut now = Time(5_000_000);
        let mut run = |rate: &mut Rate, bytes: u32, intervals: u32| {
            for _ in 0..intervals * 10 {
                now += Micros::from_millis(10);
                rate.add(now, bytes);
            }
        };
        run(&mut rate, 1_000_000, 1);
        assert_eq!(rate.get(), None);
        run(&mut rate, 1_000_000, 2);
        assert_eq!(rate.get(), Some(100_000_000));
        run(&mut rate, 100_000, 2);
        let faded = rate.get().unwrap();
        assert!((70_000_000..100_000_000).contains(&faded), "{faded}");
        run(&mut rate, 100_000, 30);
        assert_eq!(rate.get(), Some(10_000_000));
        assert_eq!(rate.peak(), 100_000_000);
    }
}
