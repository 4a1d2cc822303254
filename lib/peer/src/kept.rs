//! Verified pieces that stay in memory for a while, for readers and uploads that come next.

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use torrent::{PieceIndex, SwarmName};

/// Pieces by use, bounded by their bytes.
#[derive(Debug)]
pub(crate) struct Kept {
    capacity_bytes: usize,
    pieces: Mutex<Pieces>,
}

#[derive(Debug)]
struct Pieces {
    by_use: LruCache<(SwarmName, PieceIndex), Bytes>,
    total_bytes: usize,
}

impl Kept {
    pub(crate) fn new(capacity_bytes: usize) -> Self {
        let pieces = Pieces {
            by_use: LruCache::unbounded(),
            total_bytes: 0,
        };
        Self {
            capacity_bytes,
            pieces: Mutex::new(pieces),
        }
    }

    pub(crate) fn insert(&self, name: SwarmName, piece: PieceIndex, bytes: Bytes) {
        if bytes.len() > self.capacity_bytes {
            return;
        }
        let mut pieces = self.pieces.lock();
        pieces.total_bytes += bytes.len();
        if let Some(old) = pieces.by_use.put((name, piece), bytes) {
            pieces.total_bytes -= old.len();
        }
        while pieces.total_bytes > self.capacity_bytes {
            let Some((_, oldest)) = pieces.by_use.pop_lru() else {
                break;
            };
            pieces.total_bytes -= oldest.len();
        }
    }

    pub(crate) fn get(&self, name: &SwarmName, piece: PieceIndex) -> Option<Bytes> {
        self.pieces.lock().by_use.get(&(*name, piece)).cloned()
    }

    pub(crate) fn remove(&self, name: &SwarmName, piece: PieceIndex) {
        let mut pieces = self.pieces.lock();
        if let Some(bytes) = pieces.by_use.pop(&(*name, piece)) {
            pieces.total_bytes -= bytes.len();
        }
    }

    /// Drops all pieces of a blob.
    pub(crate) fn forget(&self, name: &SwarmName) {
        let mut pieces = self.pieces.lock();
        let of_blob: Vec<_> = pieces
            .by_use
            .iter()
            .filter(|((of, _), _)| of == name)
            .map(|(key, _)| *key)
            .collect();
        for key in of_blob {
            if let Some(bytes) = pieces.by_use.pop(&key) {
                pieces.total_bytes -= bytes.len();
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
        kept.insert(name, index(0), piece.clone());
        kept.insert(name, index(1), piece.clone());
        assert!(kept.get(&name, index(0)).is_some());
        kept.insert(name, index(2), piece.clone());
        assert!(kept.get(&name, index(1)).is_none(), "it was used least");
        assert!(kept.get(&name, index(0)).is_some());
        // The same piece again takes no more room.
        kept.insert(name, index(2), piece);
        assert!(kept.get(&name, index(0)).is_some());
        kept.insert(name, index(3), Bytes::from_static(b"longer than all"));
        assert!(kept.get(&name, index(3)).is_none());
        kept.remove(&name, index(0));
        assert!(kept.get(&name, index(0)).is_none());
        kept.forget(&name);
        assert_eq!(kept.pieces.lock().total_bytes, 0);
    }
}
