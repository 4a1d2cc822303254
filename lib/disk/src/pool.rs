//! Memory that lies as disks like it, and is used again.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::ALIGNMENT;
use crate::pace::Pace;

/// Buffers that begin at a multiple of [`ALIGNMENT`] and come back when nobody reads them any more:
/// memory that is given back to the system and asked for anew costs as much as filling it. Clones
/// are the same pool.
#[derive(Clone)]
pub struct Pool {
    free: Arc<Mutex<Free>>,
    /// How what is read into its buffers is read best: they mostly belong to one disk.
    reads: Arc<Mutex<Pace>>,
}

/// Buffers that nobody uses now.
struct Free {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    max_bytes: usize,
    /// Whether one was asked for since [`Pool::rest`] looked.
    is_used: bool,
}

/// Memory of a pool, filled from its beginning.
pub struct Buffer {
    /// All of it may be written to.
    bytes: Vec<u8>,
    /// Offset of the first byte that counts.
    start: usize,
    length: usize,
    pool: Pool,
}

impl Pool {
    /// Makes a pool that keeps up to `kept_bytes` of unused buffers.
    #[must_use]
    pub fn new(kept_bytes: usize) -> Self {
        let free = Free {
            buffers: Vec::new(),
            bytes: 0,
            max_bytes: kept_bytes,
            is_used: false,
        };
        Self {
            free: Arc::new(Mutex::new(free)),
            reads: Arc::default(),
        }
    }

    /// Returns an empty buffer with room for at least `size` bytes.
    #[must_use]
    pub fn take(&self, size: usize) -> Buffer {
        // So many that a multiple of the alignment is among them.
        let size = size + ALIGNMENT - 1;
        let fits = |buffer: &Vec<u8>| (size..=size * 2).contains(&buffer.len());
        let mut free = self.free.lock();
        free.is_used = true;
        let found = free.buffers.iter().position(fits);
        let found = found.map(|at| free.buffers.swap_remove(at));
        free.bytes -= found.as_ref().map_or(0, Vec::len);
        drop(free);
        let bytes = found.unwrap_or_else(|| vec![0; size]);
        Buffer {
            start: bytes.as_ptr().align_offset(ALIGNMENT),
            length: 0,
            bytes,
            pool: self.clone(),
        }
    }

    /// Drops the unused buffers where none was asked for since the last call; returns whether that
    /// is so.
    pub fn rest(&self) -> bool {
        let mut free = self.free.lock();
        let rests = !std::mem::take(&mut free.is_used);
        if rests {
            free.buffers = Vec::new();
            free.bytes = 0;
        }
        rests
    }

    pub(crate) fn reads(&self) -> &Mutex<Pace> {
        &self.reads
    }

    /// Returns the bytes of unused buffers.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.free.lock().bytes
    }
}

impl Buffer {
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns how many bytes may be added.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.bytes.len() - self.start - self.length
    }

    /// Returns where the next bytes go, `count` of them or as many as there is room for. They count
    /// once [`Self::filled`] says so.
    #[must_use]
    pub fn unfilled(&mut self, count: usize) -> &mut [u8] {
        let count = count.min(self.room());
        let from = self.start + self.length;
        &mut self.bytes[from..from + count]
    }

    /// Counts the next `count` bytes in.
    ///
    /// # Panics
    /// Where there is no room for so many.
    pub const fn filled(&mut self, count: usize) {
        assert!(count <= self.room(), "more than there is room for");
        self.length += count;
    }

    /// Counts only the first `length` bytes; more is what it had before.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Adds bytes.
    ///
    /// # Panics
    /// Where there is no room for them.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.unfilled(bytes.len()).copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Shares the bytes without copying them; the last who drops them gives the buffer back.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.free.lock();
        if free.bytes + bytes.len() <= free.max_bytes {
            free.bytes += bytes.len();
            free.buffers.push(bytes);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept_bytes = self.kept_bytes();
        f.debug_struct("Pool")
            .field("kept_bytes", &kept_bytes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (length, room) = (self.length, self.room());
        f.debug_struct("Buffer")
            .field("length", &length)
            .field("room", &room)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_buffer_comes_back_and_is_empty() {
        let pool = Pool::new(8 * MIB);
        let mut buffer = pool.take(MIB);
        assert!(buffer.as_ref().as_ptr().addr().is_multiple_of(ALIGNMENT));
        assert!(buffer.is_empty() && buffer.room() >= MIB);
        buffer.extend_from_slice(&[1; 100]);
        buffer.unfilled(2).copy_from_slice(&[2, 3]);
        buffer.filled(1);
        assert_eq!(buffer.as_ref(), [&[1; 100][..], &[2]].concat());
        let at = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let clone = bytes.clone();
        drop(bytes);
        assert_eq!(pool.kept_bytes(), 0, "still in use");
        drop(clone);
        // A much shorter one does not take it.
        assert!(pool.take(MIB / 4).as_ref().as_ptr() != at);
        let again = pool.take(MIB);
        assert_eq!((again.as_ref().as_ptr(), again.len()), (at, 0));
    }

    #[test]
    fn a_pool_that_rests_keeps_nothing() {
        let pool = Pool::new(8 * MIB);
        drop(pool.take(MIB));
        assert!(!pool.rest() && pool.kept_bytes() >= MIB);
        assert!(pool.rest() && pool.kept_bytes() == 0);
        let buffer = pool.take(MIB);
        assert!(!pool.rest());
        drop(buffer);
        assert!(pool.kept_bytes() >= MIB, "what comes later is kept again");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = Pool::new(2 * MIB);
        drop([pool.take(MIB), pool.take(MIB), pool.take(16 * MIB)]);
        assert!((MIB..=2 * MIB).contains(&pool.kept_bytes()), "{pool:?}");
    }
}
