//! Memory for pieces on their way from a socket to storage: bounded, and used again.

use std::sync::Arc;

use disk::{Buffer, Pool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unit of the bound.
const UNIT_BYTES: u64 = 1024;
/// Longest piece, in units: what the bound must allow at least.
const MIN_UNITS: u64 = 16 * 1024;

/// Buffers of a process.
#[derive(Debug)]
pub(crate) struct Buffers {
    room: Arc<Semaphore>,
    units: u32,
    pool: Pool,
}

/// Room for one piece. It is given back when this is dropped, whoever still reads the bytes.
#[derive(Debug)]
pub(crate) struct Room(#[expect(dead_code, reason = "held, never looked at")] OwnedSemaphorePermit);

impl Buffers {
    /// Makes buffers of at most `max_bytes` in use, out of a pool.
    pub(crate) fn new(max_bytes: u64, pool: Pool) -> Self {
        let units = (max_bytes / UNIT_BYTES).max(MIN_UNITS);
        let units = u32::try_from(units).unwrap_or(u32::MAX >> 3);
        Self {
            room: Arc::new(Semaphore::new(units as usize)),
            units,
            pool,
        }
    }

    /// Waits for room for a piece and returns an empty buffer of at least its size.
    pub(crate) async fn take(&self, size: u32) -> (Room, Buffer) {
        let units = u64::from(size).div_ceil(UNIT_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(self.units);
        let room = Arc::clone(&self.room).acquire_many_owned(units).await;
        let room = Room(room.expect("the semaphore is never closed"));
        (room, self.pool.take(size as usize))
    }

    /// Gives memory back where nothing came since the last call; returns whether that is so.
    pub(crate) fn rest(&self) -> bool {
        self.pool.rest()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const MIB: u32 = 1 << 20;

    #[tokio::test]
    async fn room_is_bounded() {
        let buffers = Buffers::new(0, Pool::new(0));
        let (room, _buffer) = buffers.take(16 * MIB).await;
        let mut next = std::pin::pin!(buffers.take(MIB));
        assert!(next.as_mut().now_or_never().is_none(), "all room is taken");
        drop(room);
        assert!(next.as_mut().now_or_never().is_some());
    }
}
