//! Which way the next write of a file goes, or the next read.

use std::time::Duration;

/// A disk that takes 1 MiB in this time is fast enough to be waited for: 170 MB/s.
const FAST: Duration = Duration::from_millis(6);

/// Writes, or reads, in a row that took longer, after which the disk counts as slow. One alone may
/// have waited for a CPU.
const SLOW_AFTER: u32 = 4;

/// After so many through the page cache the other way is tried again.
const TRY_EVERY: u32 = 16;

/// What is shorter than this says nothing about a disk.
const MIN_TIMED: usize = 256 * 1024;

/// How long writes, or reads, of 1 MiB took lately.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Around the page cache: the last one, and how many in a row were slow.
    around: Duration,
    slow: u32,
    through: Duration,
    /// Those through the page cache since the last one around it.
    passed: u32,
}

impl Pace {
    /// Returns whether the next one goes around the page cache: the disk is fast, or at least
    /// faster than the other way, or was not tried for a while.
    pub(crate) fn goes_around(&self) -> bool {
        self.slow < SLOW_AFTER || self.around <= self.through || self.passed >= TRY_EVERY
    }

    pub(crate) fn went_around(&mut self, bytes: usize, took: Duration) {
        if let Some(took) = per_mib(bytes, took) {
            self.slow = if took <= FAST { 0 } else { self.slow + 1 };
            self.around = took;
            self.passed = 0;
        }
    }

    pub(crate) fn went_through(&mut self, bytes: usize, took: Duration) {
        self.passed += 1;
        if let Some(took) = per_mib(bytes, took) {
            self.through = (self.through * 3 + took) / 4;
        }
    }
}

fn per_mib(bytes: usize, took: Duration) -> Option<Duration> {
    let share = f64::from(1 << 20) / bytes as f64;
    (bytes >= MIN_TIMED).then(|| took.mul_f64(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const SLOW: Duration = FAST.saturating_mul(2);
    const SOON: Duration = Duration::from_millis(1);

    /// Returns how many of so many writes go around, where one of 1 MiB takes `around` then.
    fn count(pace: &mut Pace, around: Duration, writes: usize) -> usize {
        let mut count = 0;
        for _ in 0..writes {
            if pace.goes_around() {
                pace.went_around(MIB, around);
                count += 1;
            } else {
                pace.went_through(MIB, SOON);
            }
        }
        count
    }

    #[test]
    fn a_slow_disk_is_tried_now_and_then() {
        let mut pace = Pace::default();
        assert_eq!(count(&mut pace, SOON, 100), 100);
        // A few are no pattern.
        assert_eq!(count(&mut pace, SLOW, 3), 3);
        assert_eq!(count(&mut pace, SOON, 10), 10);
        // Many are; then it is tried once for 16 others.
        assert_eq!(count(&mut pace, SLOW, 4), 4);
        assert_eq!(count(&mut pace, SLOW, 17 * 5), 5);
        // It got faster.
        assert!(count(&mut pace, SOON, 100) > 80);
    }

    #[test]
    fn the_faster_way_is_taken() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            pace.went_around(MIB, SLOW);
        }
        pace.went_through(MIB, SOON);
        assert!(!pace.goes_around());
        for _ in 0..10 {
            pace.went_through(MIB, SLOW * 2);
        }
        // The one is slow, the other slower.
        assert!(pace.goes_around());
    }

    #[test]
    fn short_writes_say_nothing() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            pace.went_around(MIN_TIMED - 1, SLOW * 100);
        }
        assert!(pace.goes_around());
    }
}
