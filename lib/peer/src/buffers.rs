//! Memory for pieces on their way from a socket to storage: bounded, and used again. It lies as
//! storage likes it best, so that a disk can take it from where it is.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unit of the bound.
const UNIT_BYTES: u64 = 1024;
/// Longest piece, in units: what the bound must allow at least.
const MIN_UNITS: u64 = 16 * 1024;

/// Where the bytes of a buffer begin: what disks ask for.
const ALIGNMENT: usize = 4096;

/// Buffers of a process.
#[derive(Debug)]
pub(crate) struct Buffers {
    room: Arc<Semaphore>,
    units: u32,
    free: Arc<Mutex<Free>>,
}

/// Buffers that nobody uses now.
#[derive(Debug)]
struct Free {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    max_bytes: usize,
}

/// Room for one piece. It is given back when this is dropped, whoever still reads the bytes.
#[derive(Debug)]
pub(crate) struct Room(#[expect(dead_code, reason = "held, never looked at")] OwnedSemaphorePermit);

/// A buffer that goes back to be used again.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Offset of the first byte that counts.
    start: usize,
    free: Arc<Mutex<Free>>,
}

impl Buffers {
    /// Makes buffers of at most `max_bytes` in use, of which so many are kept for the next pieces.
    pub(crate) fn new(max_bytes: u64, kept_bytes: usize) -> Self {
        let units = (max_bytes / UNIT_BYTES).max(MIN_UNITS);
        let units = u32::try_from(units).unwrap_or(u32::MAX >> 3);
        let free = Free {
            buffers: Vec::new(),
            bytes: 0,
            max_bytes: kept_bytes,
        };
        Self {
            room: Arc::new(Semaphore::new(units as usize)),
            units,
            free: Arc::new(Mutex::new(free)),
        }
    }

    /// Waits for room for a piece and returns an empty buffer of at least its size.
    pub(crate) async fn take(&self, size: u32) -> (Room, Buffer) {
        let units = u64::from(size).div_ceil(UNIT_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(self.units);
        let room = Arc::clone(&self.room).acquire_many_owned(units).await;
        let room = Room(room.expect("the semaphore is never closed"));
        (room, self.buffer(size as usize))
    }

    fn buffer(&self, size: usize) -> Buffer {
        // So many that a multiple of the alignment is among them.
        let size = size + ALIGNMENT - 1;
        let fits = |buffer: &Vec<u8>| (size..=size * 2).contains(&buffer.capacity());
        let mut free = self.free.lock();
        let found = free.buffers.iter().position(fits);
        let mut bytes = match found {
            Some(at) => {
                let buffer = free.buffers.swap_remove(at);
                free.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(size),
        };
        drop(free);
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        bytes.resize(start, 0);
        Buffer {
            bytes,
            start,
            free: Arc::clone(&self.free),
        }
    }
}

impl Buffer {
    pub(crate) const fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(crate) const fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Shares the bytes without copying them; the last who drops them gives the buffer back.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut free = self.free.lock();
        if free.bytes + bytes.capacity() <= free.max_bytes {
            free.bytes += bytes.capacity();
            free.buffers.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const MIB: u32 = 1 << 20;

    #[tokio::test]
    async fn a_buffer_comes_back_and_is_empty() {
        let buffers = Buffers::new(0, 8 << 20);
        let (_, mut buffer) = buffers.take(MIB).await;
        buffer.vec().extend_from_slice(&[1; 100]);
        let at = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let clone = bytes.clone();
        drop(bytes);
        assert!(buffers.free.lock().buffers.is_empty(), "still in use");
        drop(clone);
        let (_, again) = buffers.take(MIB).await;
        assert_eq!((again.as_ref().as_ptr(), again.len()), (at, 0));
    }

    #[tokio::test]
    async fn room_is_bounded_and_kept_buffers_are() {
        let buffers = Buffers::new(0, 2 << 20);
        let (room, buffer) = buffers.take(16 * MIB).await;
        {
            let mut next = std::pin::pin!(buffers.take(MIB));
            assert!(next.as_mut().now_or_never().is_none(), "all room is taken");
            drop(room);
            assert!(next.as_mut().now_or_never().is_some());
        }
        drop(buffer);
        let free = buffers.free.lock();
        assert!(free.bytes <= 2 << 20, "{} bytes kept", free.bytes);
    }
}
