//! How hard the store is asked: requests at a time, and bytes per second.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Bounds of a store. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    requests: Arc<Semaphore>,
    rate: Option<Arc<Rate>>,
}

/// Bytes per second, counted after they came: what was too much is waited for.
#[derive(Debug)]
struct Rate {
    bytes_per_s: u64,
    /// When everything that came would have come at this rate.
    settled: Mutex<Instant>,
}

/// The least that a store must take of a body. What takes longer is given up.
const LEAST_SENT_BYTES_PER_S: u64 = 256 << 10;
/// Longest body in bytes that may take no longer than any other request.
const SHORT_BODY_BYTES: u64 = 256 << 10;

/// What may come at once after a pause.
const BURST: Duration = Duration::from_millis(2);

impl Limits {
    pub(super) fn new(max_requests: u32, bytes_per_s: Option<u64>) -> Self {
        let rate = bytes_per_s.map(|bytes_per_s| {
            Arc::new(Rate {
                bytes_per_s: bytes_per_s.max(1),
                settled: Mutex::new(Instant::now()),
            })
        });
        Self {
            requests: Arc::new(Semaphore::new(max_requests as usize)),
            rate,
        }
    }

    /// Waits until one more request may be made; dropping what comes ends it.
    pub(super) async fn request(&self) -> OwnedSemaphorePermit {
        let requests = Arc::clone(&self.requests).acquire_owned().await;
        requests.expect("the semaphore is never closed")
    }

    /// Notes that bytes came, and waits where that were too many.
    pub(super) async fn came(&self, bytes: usize) {
        let Some(rate) = &self.rate else { return };
        let micros = (bytes as u64).saturating_mul(1_000_000) / rate.bytes_per_s;
        let until = {
            let mut settled = rate.settled.lock();
            let earliest = Instant::now().checked_sub(BURST).unwrap_or(*settled);
            *settled = (*settled).max(earliest) + Duration::from_micros(micros);
            *settled
        };
        tokio::time::sleep_until(until).await;
    }
}

/// Returns how long an answer may take where a body is sent first; `None` where the body is so short
/// that it makes no difference.
///
/// The client counts the time of the body as time without an answer. It keeps connections for each
/// time apart, so there are few of them: bodies count as the next power of two.
pub(super) fn answer_wait(read_timeout: Duration, body_bytes: u64) -> Option<Duration> {
    if body_bytes <= SHORT_BODY_BYTES {
        return None;
    }
    let bytes = body_bytes.checked_next_power_of_two().unwrap_or(u64::MAX);
    let sending = Duration::from_secs(bytes / LEAST_SENT_BYTES_PER_S);
    Some(read_timeout.saturating_add(sending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_come_at_the_rate() {
        let limits = Limits::new(1, Some(1_000_000));
        let start = Instant::now();
        for _ in 0..100 {
            limits.came(100_000).await;
        }
        let took = start.elapsed().as_secs_f64();
        assert!((9.98..=10.02).contains(&took), "{took}");
        // What was not used is not saved up.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let start = Instant::now();
        limits.came(1_000_000).await;
        assert!(start.elapsed() >= Duration::from_millis(990));
    }

    #[test]
    fn long_bodies_have_more_time() {
        let wait = |bytes| answer_wait(Duration::from_secs(30), bytes).map(|wait| wait.as_secs());
        assert_eq!(wait(0), None);
        assert_eq!(wait(256 << 10), None);
        assert_eq!(wait((256 << 10) + 1), Some(30 + 2));
        assert_eq!(wait((8 << 20) + 1), Some(30 + 64));
        assert_eq!(wait(16 << 20), Some(30 + 64));
        assert!(wait(u64::MAX).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_each_other() {
        let limits = Limits::new(2, None);
        let (one, _two) = (limits.request().await, limits.request().await);
        let third = tokio::time::timeout(Duration::from_secs(1), limits.request());
        assert!(third.await.is_err());
        drop(one);
        let _third = limits.request().await;
    }
}
