//! How long to wait after a failure.

use std::time::Duration;

/// Pauses that double up to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// After the first failure.
    pub first: Duration,
    /// Bound of all pauses.
    pub longest: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(10),
        }
    }
}

impl Schedule {
    /// Returns the pause after so many failures in a row: from half of what the bound and the
    /// doubling allow to all of it, as `random` says, so that tasks which failed together do not
    /// come back together.
    #[must_use]
    pub fn pause(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let whole = self.first.saturating_mul(1 << doublings).min(self.longest);
        let half = whole / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(random % nanos.saturating_add(1).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound() {
        let schedule = Schedule::default();
        for (failures, whole_ms) in [
            (0, 100),
            (1, 100),
            (2, 200),
            (5, 1600),
            (8, 10_000),
            (u32::MAX, 10_000),
        ] {
            for random in [0, 1, 12_345_678_901, u64::MAX] {
                let pause = schedule.pause(failures, random);
                let whole = Duration::from_millis(whole_ms);
                assert!(
                    whole / 2 <= pause && pause <= whole,
                    "{failures}: {pause:?}"
                );
            }
        }
        let never = Schedule {
            first: Duration::ZERO,
            longest: Duration::ZERO,
        };
        assert_eq!(never.pause(3, 7), Duration::ZERO);
        let far = Schedule {
            first: Duration::MAX,
            longest: Duration::MAX,
        };
        assert!(far.pause(9, u64::MAX) >= Duration::MAX / 2);
    }
}
