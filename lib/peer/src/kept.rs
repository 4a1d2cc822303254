//! Verified pieces that stay in memory for a while, for readers and uploads that come next.

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Notify;
use torrent::{PieceIndex, SwarmName};

/// Pieces by use, bounded by their bytes.
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
    total_bytes: usize,
    /// Of those, what a reader is about to want.
    awaited_bytes: usize,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    is_awaited: bool,
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

    /// Keeps a piece, in place of those that were used longest ago. `is_awaited` says that a
    /// reader is about to want it.
    pub(crate) fn insert(
        &self,
        name: SwarmName,
        piece: PieceIndex,
        bytes: Bytes,
        is_awaited: bool,
    ) {
        if bytes.len() > self.capacity_bytes {
            return;
        }
        let mut pieces = self.pieces.lock();
        pieces.remove(&name, piece);
        pieces.total_bytes += bytes.len();
        if is_awaited {
            pieces.awaited_bytes += bytes.len();
        }
        pieces
            .by_use
            .put((name, piece), Piece { bytes, is_awaited });
        while pieces.total_bytes > self.capacity_bytes {
            let Some(((name, piece), _)) = pieces.by_use.peek_lru() else {
                break;
            };
            let (name, piece) = (*name, *piece);
            pieces.remove(&name, piece);
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
        let found = pieces.by_use.peek_mut(&key)?;
        let bytes = found.bytes.clone();
        if std::mem::take(&mut found.is_awaited) {
            pieces.awaited_bytes -= bytes.len();
        }
        pieces.by_use.demote(&key);
        drop(pieces);
        self.taken.notify_waiters();
        Some(bytes)
    }

    /// Returns whether the piece is there, without using it.
    pub(crate) fn has(&self, name: &SwarmName, piece: PieceIndex) -> bool {
        self.pieces.lock().by_use.contains(&(*name, piece))
    }

    /// Waits until readers have taken so much that what comes next does not push out what they
    /// are about to want.
    pub(crate) async fn calm(&self) {
        loop {
            let taken = self.taken.notified();
            if self.pieces.lock().awaited_bytes <= self.capacity_bytes / 2 {
                return;
            }
            taken.await;
        }
    }

    /// Notes that nobody reads the blob any more.
    pub(crate) fn unread(&self, name: &SwarmName) {
        let mut pieces = self.pieces.lock();
        let mut gone = 0;
        for ((of, _), piece) in pieces.by_use.iter_mut() {
            if of == name && std::mem::take(&mut piece.is_awaited) {
                gone += piece.bytes.len();
            }
        }
        pieces.awaited_bytes -= gone;
        drop(pieces);
        self.taken.notify_waiters();
    }

    pub(crate) fn remove(&self, name: &SwarmName, piece: PieceIndex) {
        self.pieces.lock().remove(name, piece);
        self.taken.notify_waiters();
    }

    /// Drops all pieces of a blob.
    pub(crate) fn forget(&self, name: &SwarmName) {
        let mut pieces = self.pieces.lock();
        let of_blob: Vec<_> = pieces
            .by_use
            .iter()
            .filter(|((of, _), _)| of == name)
            .map(|((_, piece), _)| *piece)
            .collect();
        for piece in of_blob {
            pieces.remove(name, piece);
        }
        drop(pieces);
        self.taken.notify_waiters();
    }
}

impl Pieces {
    fn remove(&mut self, name: &SwarmName, piece: PieceIndex) {
        if let Some(old) = self.by_use.pop(&(*name, piece)) {
            self.total_bytes -= old.bytes.len();
            if old.is_awaited {
                self.awaited_bytes -= old.bytes.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::Digest;
    use torrent::Geometry;

    use super::*;

    #[test]
    fn the_least_recently_used_go_first_and_bytes_are_bounded() {
        let kept = Kept::new(10);
        let name = SwarmName::Blob(Digest::sha256(b"a"));
        let geometry = Geometry::new(8 << 20).unwrap();
        let index = |raw| geometry.index(raw).unwrap();
        let piece = Bytes::from_static(b"1234");
        kept.insert(name, index(0), piece.clone(), false);
        kept.insert(name, index(1), piece.clone(), false);
        assert!(kept.get(&name, index(0)).is_some());
        kept.insert(name, index(2), piece.clone(), false);
        assert!(kept.get(&name, index(1)).is_none(), "it was used least");
        assert!(kept.get(&name, index(0)).is_some());
        // The same piece again takes no more room.
        kept.insert(name, index(2), piece, false);
        assert!(kept.get(&name, index(0)).is_some());
        kept.insert(name, index(3), Bytes::from_static(b"longer than all"), true);
        assert!(kept.get(&name, index(3)).is_none());
        kept.remove(&name, index(0));
        assert!(kept.get(&name, index(0)).is_none());
        kept.forget(&name);
        assert_eq!(kept.pieces.lock().total_bytes, 0);
    }

    #[tokio::test]
    async fn what_readers_are_about_to_want_is_not_pushed_out() {
        use futures_util::FutureExt as _;
        let kept = Kept::new(8);
        let name = SwarmName::Blob(Digest::sha256(b"a"));
        let geometry = Geometry::new(8 << 20).unwrap();
        let index = |raw| geometry.index(raw).unwrap();
        let piece = Bytes::from_static(b"1234");
        kept.insert(name, index(0), piece.clone(), true);
        assert!(kept.calm().now_or_never().is_some());
        kept.insert(name, index(1), piece.clone(), true);
        let mut calm = Box::pin(kept.calm());
        assert!(calm.as_mut().now_or_never().is_none());
        assert!(kept.take(&name, index(0)).is_some());
        assert!(calm.now_or_never().is_some());
        // What was read goes first, though it was used last.
        kept.insert(name, index(2), piece.clone(), true);
        assert!(!kept.has(&name, index(0)) && kept.has(&name, index(1)));
        assert!(kept.calm().now_or_never().is_none());
        kept.unread(&name);
        assert!(kept.calm().now_or_never().is_some());
        kept.forget(&name);
        let pieces = kept.pieces.lock();
        assert_eq!((pieces.total_bytes, pieces.awaited_bytes), (0, 0));
    }
}
