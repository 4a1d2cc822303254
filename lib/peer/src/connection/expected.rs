//! Requests of a connection that have not ended: whose payload is welcome.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use disk::Buffer;
use parking_lot::Mutex;
use swarm::RequestId;
use swarm::message::{BlockRange, Target};
use torrent::piece::BLOCK_BYTES;
use torrent::{Geometry, PieceIndex};

use crate::buffers::{Buffers, Room};
use crate::progress::Torrent;

/// Open requests by id. An entry is made before the request is written, and goes with the last
/// byte of its data or with its rejection (`docs/wire.md` §6.2).
#[derive(Debug, Default)]
pub(crate) struct Expected(Mutex<HashMap<RequestId, Entry>>);

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) torrent: Arc<Torrent>,
    pub(crate) geometry: Geometry,
    pub(crate) target: Target,
}

#[derive(Debug)]
struct Entry {
    asked: Asked,
    cancelled: bool,
    /// What came so far; not here while the reader adds to it.
    partial: Option<Partial>,
}

/// The part of a piece that came so far.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) piece: PieceIndex,
    /// Bytes of the piece that were asked for: from, and how many.
    from: u32,
    size: u32,
    pub(super) room: Room,
    pub(super) buffer: Buffer,
}

/// What the data of a request is.
#[derive(Debug)]
pub(super) enum Lookup {
    /// Of no request.
    Unknown,
    /// Of one that was cancelled: to be thrown away.
    Unwanted,
    Wanted(Asked, Option<Partial>),
}

impl Expected {
    /// Makes the data of a request welcome.
    pub(crate) fn insert(&self, id: RequestId, asked: Asked) {
        let entry = Entry {
            asked,
            cancelled: false,
            partial: None,
        };
        self.0.lock().insert(id, entry);
    }

    /// The data is not wanted any more, but may still come.
    pub(crate) fn cancel(&self, id: RequestId) {
        if let Some(entry) = self.0.lock().get_mut(&id) {
            entry.cancelled = true;
            entry.partial = None;
        }
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Returns what is known of the request; its part is out until [`Self::put_back`].
    pub(super) fn look_up(&self, id: RequestId) -> Lookup {
        match self.0.lock().get_mut(&id) {
            None => Lookup::Unknown,
            Some(entry) if entry.cancelled => Lookup::Unwanted,
            Some(entry) => Lookup::Wanted(entry.asked.clone(), entry.partial.take()),
        }
    }

    pub(super) fn put_back(&self, id: RequestId, partial: Partial) {
        if let Some(entry) = self.0.lock().get_mut(&id)
            && !entry.cancelled
        {
            entry.partial = Some(partial);
        }
    }

    /// Ends a request; returns whether its data was still wanted.
    pub(super) fn end(&self, id: RequestId) -> bool {
        let entry = self.0.lock().remove(&id);
        entry.is_some_and(|entry| !entry.cancelled)
    }
}

impl Asked {
    /// Returns the piece that data says it is of, where that is what was asked for.
    fn piece(&self, raw: u32) -> Option<PieceIndex> {
        let piece = self.geometry.index(raw)?;
        match self.target {
            Target::Any => Some(piece),
            Target::Piece(asked) | Target::Blocks(asked, _) => (asked == raw).then_some(piece),
        }
    }

    /// Makes room for the piece that the data begins.
    pub(super) async fn begin(&self, buffers: &Buffers, raw: u32) -> Option<Partial> {
        let piece = self.piece(raw)?;
        let (from, size) = match self.target {
            Target::Any | Target::Piece(_) => (0, self.geometry.size(piece)),
            Target::Blocks(_, blocks) => within_piece(&self.geometry, piece, blocks)?,
        };
        let (room, buffer) = buffers.take(size).await;
        Some(Partial {
            piece,
            from,
            size,
            room,
            buffer,
        })
    }

    /// Returns whether the data that came is a whole piece.
    pub(super) const fn is_whole_piece(&self) -> bool {
        match self.target {
            Target::Any | Target::Piece(_) => true,
            Target::Blocks(..) => false,
        }
    }
}

impl Partial {
    /// Returns whether a frame continues what came so far, without more than was asked for.
    pub(super) fn continues(&self, raw: u32, offset: u32, length: u32) -> bool {
        let have = u64::from(self.from) + self.buffer.len() as u64;
        let end = u64::from(self.from) + u64::from(self.size);
        self.piece.get() == raw
            && u64::from(offset) == have
            && u64::from(offset) + u64::from(length) <= end
    }

    pub(super) const fn is_whole(&self) -> bool {
        self.buffer.len() == self.size as usize
    }

    pub(super) fn into_bytes(self) -> (PieceIndex, Bytes, Room) {
        (self.piece, self.buffer.freeze(), self.room)
    }
}

/// Returns where the blocks begin in the piece, and how many bytes they have; `None` where the
/// piece does not have them.
pub(crate) fn within_piece(
    geometry: &Geometry,
    piece: PieceIndex,
    blocks: BlockRange,
) -> Option<(u32, u32)> {
    let size = geometry.size(piece);
    let from = u32::from(blocks.first).checked_mul(BLOCK_BYTES)?;
    let length = u32::from(blocks.count).checked_mul(BLOCK_BYTES)?;
    let end = from.checked_add(length)?;
    let short_by = end.saturating_sub(size);
    (blocks.count > 0 && from < size && short_by < BLOCK_BYTES)
        .then(|| (from, end.min(size) - from))
}

#[cfg(test)]
mod tests {
    use disk::Pool;
    use oci::Digest;
    use torrent::SwarmName;

    use super::*;

    fn asked(target: Target) -> Asked {
        Asked {
            torrent: Torrent::new(SwarmName::Blob(Digest::sha256(b"a"))),
            geometry: Geometry::new((2 << 20) + 100_000).unwrap(),
            target,
        }
    }

    #[tokio::test]
    async fn data_must_be_what_was_asked_for() {
        let buffers = Buffers::new(0, Pool::new(0));
        let piece = asked(Target::Piece(1));
        assert!(piece.begin(&buffers, 0).await.is_none(), "another piece");
        let mut partial = piece.begin(&buffers, 1).await.unwrap();
        assert!(partial.continues(1, 0, 1 << 20));
        assert!(!partial.continues(1, 0, (1 << 20) + 1), "too much");
        assert!(!partial.continues(1, 5, 10), "a hole");
        partial.buffer.extend_from_slice(&[0; 10]);
        assert!(partial.continues(1, 10, 10) && !partial.continues(1, 0, 10));
        assert!(!partial.is_whole());

        let any = asked(Target::Any);
        assert!(any.begin(&buffers, 3).await.is_none(), "no such piece");
        let partial = any.begin(&buffers, 2).await.unwrap();
        assert!(partial.continues(2, 0, 100_000) && !partial.continues(1, 0, 10));

        let blocks = BlockRange { first: 1, count: 1 };
        let short = asked(Target::Blocks(2, blocks));
        let partial = short.begin(&buffers, 2).await.unwrap();
        assert!(partial.continues(2, 65_536, 34_464));
        assert!(!partial.continues(2, 0, 10) && !partial.continues(2, 65_536, 34_465));
        let blocks = BlockRange { first: 1, count: 2 };
        let beyond = asked(Target::Blocks(2, blocks));
        assert!(beyond.begin(&buffers, 2).await.is_none());
    }

    #[tokio::test]
    async fn a_cancelled_request_still_ends() {
        let (buffers, expected) = (Buffers::new(0, Pool::new(0)), Expected::default());
        let id = RequestId(7);
        assert!(matches!(expected.look_up(id), Lookup::Unknown));
        expected.insert(id, asked(Target::Any));
        let Lookup::Wanted(asked, None) = expected.look_up(id) else {
            panic!("it was asked for")
        };
        let partial = asked.begin(&buffers, 0).await.unwrap();
        expected.put_back(id, partial);
        assert!(matches!(expected.look_up(id), Lookup::Wanted(_, Some(_))));
        expected.cancel(id);
        assert!(matches!(expected.look_up(id), Lookup::Unwanted));
        assert!(!expected.end(id), "it is not wanted");
        assert!(matches!(expected.look_up(id), Lookup::Unknown));
    }
}
