//! The upload limit: bytes are charged after they were written, and the debt is waited for before
//! the next write. So no write is split for the limit's sake, and the mean is exact.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How far a sender may run ahead of the rate.
const BURST: Duration = Duration::from_millis(2);
/// Bytes of payload in a frame where nothing limits the rate.
const FRAME_BYTES: u64 = 256 * 1024;
/// Fewest bytes of payload in a frame, but for the last of a piece.
const MIN_FRAME_BYTES: u64 = 64 * 1024;

/// A rate that all connections share.
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes_per_s: Option<u64>,
    /// When all that was written is paid for.
    paid_at: Mutex<Instant>,
}

impl Limiter {
    pub(crate) fn new(bytes_per_s: Option<u64>) -> Self {
        Self {
            // Zero would mean never.
            bytes_per_s: bytes_per_s.map(|rate| rate.max(1)),
            paid_at: Mutex::new(Instant::now()),
        }
    }

    /// Returns the payload to put in one frame: what goes out in 2 ms at the rate.
    pub(crate) fn frame_bytes(&self) -> usize {
        let bytes = self.bytes_per_s.map_or(FRAME_BYTES, |rate| {
            (rate / 500).clamp(MIN_FRAME_BYTES, FRAME_BYTES)
        });
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Returns until when the next write must wait; `None` where it may go now.
    pub(crate) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        self.bytes_per_s?;
        let paid_at = *self.paid_at.lock();
        (paid_at > now + BURST).then(|| paid_at - BURST)
    }

    /// Charges what was written.
    pub(crate) fn charge(&self, now: Instant, bytes: u64) {
        let Some(rate) = self.bytes_per_s else {
            return;
        };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let span = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut paid_at = self.paid_at.lock();
        *paid_at = (*paid_at).max(now) + span;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_is_waited_for_and_the_mean_is_the_rate() {
        let limiter = Limiter::new(Some(1_000_000));
        let start = Instant::now();
        let mut now = start;
        for _ in 0..100 {
            if let Some(until) = limiter.blocked_until(now) {
                now = until;
            }
            limiter.charge(now, 65_536);
        }
        let least = Duration::from_micros(99 * 65_536) - BURST;
        let took = now - start;
        assert!(took >= least && took <= least + BURST, "{took:?}");
        assert_eq!(limiter.frame_bytes(), 65_536);
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let limiter = Limiter::new(None);
        let now = Instant::now();
        limiter.charge(now, u64::MAX);
        assert_eq!(limiter.blocked_until(now), None);
        assert_eq!(limiter.frame_bytes(), 262_144);
    }

    #[test]
    fn an_idle_time_earns_nothing() {
        let limiter = Limiter::new(Some(1_000_000));
        let now = Instant::now() + Duration::from_secs(60);
        limiter.charge(now, 1_000_000);
        let until = limiter.blocked_until(now).unwrap();
        assert_eq!(until - now, Duration::from_secs(1) - BURST);
    }
}
