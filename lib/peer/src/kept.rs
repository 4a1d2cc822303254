//! Verified pieces that stay in memory for a while, for readers and uploads that come next.

use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Notify;
use torrent::{PieceIndex, SwarmName};

/// Pieces by use, bounded by their bytes. On top of that come those that are held: they are in
/// memory anyway, for as long as who stores them has room for them.
#[derive(Debug)]
pub(crate) struct Kept {
    capacity_bytes: usize,
    pieces: Mutex<Pieces>,
    /// Told when a reader took a piece.
    taken: Notify,
}

#[derive(Debug)]
struct Pieces {
    by_use: LruCache<(SwarmName, PieceIndex), Piece>,
    /// Bytes of the pieces that are not held.
    total_bytes: usize,
    /// Of those, what a reader is about to want.
    awaited_bytes: usize,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    is_awaited: bool,
    is_held: bool,
}

impl Kept {
    pub(crate) fn new(capacity_bytes: usize) -> Self {
        let pieces = Pieces {
            by_use: LruCache::unbounded(),
            total_bytes: 0,
            awaited_bytes: 0,
        };
        Self {
            capacity_bytes,
            pieces: Mutex::new(pieces),
            taken: Notify::new(),
        }
    }

    pub(crate) const fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// Keeps a piece, in place of those that were used longest ago. One that a reader is about to
    /// want is held: [`Self::settle`] must be called for it.
    pub(crate) fn insert(
        &self,
        name: SwarmName,
        piece: PieceIndex,
        bytes: Bytes,
        is_awaited: bool,
    ) {
        let mut pieces = self.pieces.lock();
        pieces.remove(&name, piece);
        let is_held = is_awaited;
        if !is_held && bytes.len() > self.capacity_bytes {
            return;
        }
        if !is_held {
            pieces.total_bytes += bytes.len();
        }
        let kept = Piece {
            bytes,
            is_awaited,
            is_held,
        };
        pieces.by_use.put((name, piece), kept);
        pieces.shrink_to(self.capacity_bytes);
    }

    /// Waits until the reader has taken the piece, or there is room to keep it until then; not
    /// longer than `patience`. Then it is not held any more.
    pub(crate) async fn settle(&self, name: &SwarmName, piece: PieceIndex, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.room_for(name, piece)).await;
        let mut pieces = self.pieces.lock();
        pieces.let_go(name, piece);
        pieces.shrink_to(self.capacity_bytes);
    }

    async fn room_for(&self, name: &SwarmName, piece: PieceIndex) {
        loop {
            let taken = self.taken.notified();
            {
                let mut pieces = self.pieces.lock();
                let waiting = pieces.by_use.peek(&(*name, piece));
                let Some(waiting) = waiting.filter(|piece| piece.is_held && piece.is_awaited)
                else {
                    return;
                };
                if pieces.awaited_bytes + waiting.bytes.len() <= self.capacity_bytes {
                    // At once: the next who looks must know of it.
                    return pieces.let_go(name, piece);
                }
            }
            taken.await;
        }
    }

    pub(crate) fn get(&self, name: &SwarmName, piece: PieceIndex) -> Option<Bytes> {
        let mut pieces = self.pieces.lock();
        let found = pieces.by_use.get(&(*name, piece))?;
        Some(found.bytes.clone())
    }

    /// Returns a piece to a reader, which comes only once: others need the room more.
    pub(crate) fn take(&self, name: &SwarmName, piece: PieceIndex) -> Option<Bytes> {
        let mut pieces = self.pieces.lock();
        let key = (*name, piece);
        let bytes = pieces.by_use.peek(&key)?.bytes.clone();
        pieces.not_awaited(&key);
        pieces.by_use.demote(&key);
        drop(pieces);
        self.taken.notify_waiters();
        Some(bytes)
    }

    /// Returns whether the piece is there, without using it.
    pub(crate) fn has(&self, name: &SwarmName, piece: PieceIndex) -> bool {
        self.pieces.lock().by_use.contains(&(*name, piece))
    }

    /// Notes that nobody reads the blob any more.
    pub(crate) fn unread(&self, name: &SwarmName) {
        let mut pieces = self.pieces.lock();
        for key in pieces.of_blob(name) {
            pieces.not_awaited(&key);
        }
        drop(pieces);
        self.taken.notify_waiters();
    }

    pub(crate) fn remove(&self, name: &SwarmName, piece: PieceIndex) {
        self.pieces.lock().remove(name, piece);
        self.taken.notify_waiters();
    }

    /// Drops all pieces.
    pub(crate) fn clear(&self) {
        let mut pieces = self.pieces.lock();
        pieces.by_use.clear();
        (pieces.total_bytes, pieces.awaited_bytes) = (0, 0);
        drop(pieces);
        self.taken.notify_waiters();
    }

    /// Drops all pieces of a blob.
    pub(crate) fn forget(&self, name: &SwarmName) {
        let mut pieces = self.pieces.lock();
        for (name, piece) in pieces.of_blob(name) {
            pieces.remove(&name, piece);
        }
        drop(pieces);
        self.taken.notify_waiters();
    }
}

impl Pieces {
    fn of_blob(&self, name: &SwarmName) -> Vec<(SwarmName, PieceIndex)> {
        let keys = self.by_use.iter().map(|(key, _)| *key);
        keys.filter(|(of, _)| of == name).collect()
    }

    fn remove(&mut self, name: &SwarmName, piece: PieceIndex) {
        let key = (*name, piece);
        self.let_go(name, piece);
        self.not_awaited(&key);
        if let Some(old) = self.by_use.pop(&key) {
            self.total_bytes -= old.bytes.len();
        }
    }

    /// Counts a piece that was held.
    fn let_go(&mut self, name: &SwarmName, piece: PieceIndex) {
        if let Some(piece) = self.by_use.peek_mut(&(*name, piece))
            && std::mem::take(&mut piece.is_held)
        {
            self.total_bytes += piece.bytes.len();
            if piece.is_awaited {
                self.awaited_bytes += piece.bytes.len();
            }
        }
    }

    fn not_awaited(&mut self, key: &(SwarmName, PieceIndex)) {
        if let Some(piece) = self.by_use.peek_mut(key)
            && std::mem::take(&mut piece.is_awaited)
            && !piece.is_held
        {
            self.awaited_bytes -= piece.bytes.len();
        }
    }

    fn shrink_to(&mut self, capacity_bytes: usize) {
        while self.total_bytes > capacity_bytes {
            let mut by_age = self.by_use.iter().rev();
            let oldest = by_age.find(|(_, piece)| !piece.is_held);
            let Some((&(name, piece), _)) = oldest else {
                break;
            };
            self.remove(&name, piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use oci::Digest;
    use torrent::Geometry;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const PIECE: Bytes = Bytes::from_static(b"1234");

    fn name() -> SwarmName {
        SwarmName::Blob(Digest::sha256(b"a"))
    }

    fn index(raw: u32) -> PieceIndex {
        Geometry::new(8 << 20).unwrap().index(raw).unwrap()
    }

    #[test]
    fn the_least_recently_used_go_first_and_bytes_are_bounded() {
        let (kept, name) = (Kept::new(10), name());
        kept.insert(name, index(0), PIECE, false);
        kept.insert(name, index(1), PIECE, false);
        assert!(kept.get(&name, index(0)).is_some());
        kept.insert(name, index(2), PIECE, false);
        assert!(kept.get(&name, index(1)).is_none(), "it was used least");
        assert!(kept.get(&name, index(0)).is_some());
        // The same piece again takes no more room.
        kept.insert(name, index(2), PIECE, false);
        assert!(kept.get(&name, index(0)).is_some());
        let long = Bytes::from_static(b"longer than all");
        kept.insert(name, index(3), long, false);
        assert!(kept.get(&name, index(3)).is_none());
        kept.insert(name, index(0), PIECE, false);
        kept.remove(&name, index(0));
        assert!(kept.get(&name, index(0)).is_none());
        kept.forget(&name);
        assert_eq!(kept.pieces.lock().total_bytes, 0);
    }

    #[tokio::test]
    async fn what_readers_are_about_to_want_is_not_pushed_out() {
        let (kept, name) = (Kept::new(8), name());
        let settle = |raw| Box::pin(kept.settle(&name, index(raw), LONG));
        for raw in 0..3 {
            kept.insert(name, index(raw), PIECE, true);
        }
        // There is room for two; the third is there as long as it is held.
        assert!(settle(0).now_or_never().is_some());
        assert!(settle(1).now_or_never().is_some());
        let mut third = settle(2);
        assert!(third.as_mut().now_or_never().is_none());
        assert!((0..3).all(|raw| kept.has(&name, index(raw))));
        assert!(kept.take(&name, index(0)).is_some());
        assert!(third.now_or_never().is_some());
        // What was read goes first, though it was used last.
        assert!(!kept.has(&name, index(0)) && kept.has(&name, index(1)));
        // One that is taken while it is held needs no room.
        kept.insert(name, index(3), PIECE, true);
        let mut fourth = settle(3);
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(kept.take(&name, index(3)).is_some());
        assert!(fourth.now_or_never().is_some());
        assert!(kept.has(&name, index(1)) && kept.has(&name, index(2)));
        // Nobody reads any more.
        kept.insert(name, index(4), PIECE, true);
        let mut fifth = settle(4);
        assert!(fifth.as_mut().now_or_never().is_none());
        kept.unread(&name);
        assert!(fifth.now_or_never().is_some());
        kept.forget(&name);
        let pieces = kept.pieces.lock();
        assert_eq!((pieces.total_bytes, pieces.awaited_bytes), (0, 0));
    }

    #[tokio::test]
    async fn a_reader_that_does_not_come_is_not_waited_for() {
        const SHORT: Duration = Duration::from_millis(1);
        let (kept, name) = (Kept::new(4), name());
        for raw in 0..2 {
            kept.insert(name, index(raw), PIECE, true);
            kept.settle(&name, index(raw), SHORT).await;
        }
        assert!(!kept.has(&name, index(0)) && kept.has(&name, index(1)));
        // It was removed before it settled.
        kept.insert(name, index(2), PIECE, true);
        kept.forget(&name);
        kept.settle(&name, index(2), SHORT).await;
        let pieces = kept.pieces.lock();
        assert_eq!((pieces.total_bytes, pieces.awaited_bytes), (0, 0));
    }
}
