//! Pieces of a blob: the only arithmetic between piece indexes and byte offsets.
//!
//! Wraps the `Lengths` of `librqbit-core`, which has no blob of zero bytes and truncates silently
//! above `u32::MAX` pieces.

use std::fmt;
use std::ops::Range;

use librqbit_core::lengths::{Lengths, ValidPieceIndex};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Bytes in a block, the smallest unit that can be verified on its own.
pub const BLOCK_BYTES: u32 = 64 * 1024;

/// Longest blob Shoal moves: 16 MiB pieces, a chaining value list of at most 32 MiB.
pub const MAX_LENGTH_BYTES: u64 = 16 * 1024 * GIB;

/// Index of a piece, made only by the [`Geometry`] of the blob that has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl From<ValidPieceIndex> for PieceIndex {
    fn from(index: ValidPieceIndex) -> Self {
        Self(index.get())
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A length that no blob may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a blob of {length_bytes} bytes exceeds the limit of {MAX_LENGTH_BYTES} bytes")]
pub struct GeometryError {
    pub length_bytes: u64,
}

/// How a blob of some length is cut into pieces. The length alone decides it, so that two
/// processes never disagree.
#[derive(Clone, Copy)]
pub struct Geometry {
    /// Absent for the blob of zero bytes, which has no pieces.
    lengths: Option<Lengths>,
}

impl Geometry {
    /// # Errors
    /// Above [`MAX_LENGTH_BYTES`].
    pub fn new(length_bytes: u64) -> Result<Self, GeometryError> {
        if length_bytes == 0 {
            return Ok(Self { lengths: None });
        }
        if length_bytes > MAX_LENGTH_BYTES {
            return Err(GeometryError { length_bytes });
        }
        Lengths::new(length_bytes, piece_length(length_bytes))
            .map(|lengths| Self {
                lengths: Some(lengths),
            })
            .map_err(|_| GeometryError { length_bytes })
    }

    #[must_use]
    pub fn length(&self) -> u64 {
        self.lengths.map_or(0, |lengths| lengths.total_length())
    }

    /// Returns the bytes of every piece but the last.
    #[must_use]
    pub fn piece_length(&self) -> u32 {
        self.lengths
            .map_or(piece_length(0), |lengths| lengths.default_piece_length())
    }

    /// Returns the number of pieces; 0 for the blob of zero bytes.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        self.lengths.map_or(0, |lengths| lengths.total_pieces())
    }

    /// Returns the index where the blob has that piece.
    #[must_use]
    pub fn index(&self, raw: u32) -> Option<PieceIndex> {
        self.lengths?
            .validate_piece_index(raw)
            .map(PieceIndex::from)
    }

    pub fn indexes(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + use<> {
        (0..self.pieces()).map(PieceIndex)
    }

    /// Returns the piece that holds the byte at `offset`, where the blob has that byte.
    #[must_use]
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        if offset >= self.length() {
            return None;
        }
        u32::try_from(offset / u64::from(self.piece_length()))
            .ok()
            .map(PieceIndex)
    }

    /// Returns the pieces that hold any byte of `range`.
    pub fn pieces_in(
        &self,
        range: Range<u64>,
    ) -> impl DoubleEndedIterator<Item = PieceIndex> + use<> {
        let end = range.end.min(self.length());
        let (first, last) = if range.start >= end {
            (0, 0)
        } else {
            let length = u64::from(self.piece_length());
            (range.start / length, (end - 1) / length + 1)
        };
        // Both are at most `pieces()`, a u32.
        (u32::try_from(first).unwrap_or(0)..u32::try_from(last).unwrap_or(0)).map(PieceIndex)
    }

    /// Returns the bytes of the blob that the piece holds.
    ///
    /// # Panics
    /// Where the index was made by the geometry of a longer blob.
    #[must_use]
    pub fn range(&self, piece: PieceIndex) -> Range<u64> {
        assert!(piece.0 < self.pieces(), "piece {piece} is of another blob");
        let start = u64::from(piece.0) * u64::from(self.piece_length());
        start..(start + u64::from(self.piece_length())).min(self.length())
    }

    /// Returns the bytes in the piece: the piece length, or less for the last one.
    ///
    /// # Panics
    /// As [`Self::range`].
    #[must_use]
    pub fn size(&self, piece: PieceIndex) -> u32 {
        let range = self.range(piece);
        u32::try_from(range.end - range.start).expect("a piece is at most 16 MiB")
    }
}

impl PartialEq for Geometry {
    fn eq(&self, other: &Self) -> bool {
        self.length() == other.length()
    }
}

impl Eq for Geometry {}

impl fmt::Debug for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in {} pieces", self.length(), self.pieces())
    }
}

/// Larger pieces waste bytes at a lazy cold start, smaller ones cost CPU for messages.
const fn piece_length(length_bytes: u64) -> u32 {
    if length_bytes <= 4 * GIB {
        1024 * 1024
    } else if length_bytes <= 64 * GIB {
        4 * 1024 * 1024
    } else {
        16 * 1024 * 1024
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_at_the_edges() {
        let check = |length: u64, pieces: u32, last: u64| {
            let geometry = Geometry::new(length).unwrap();
            assert_eq!(geometry.pieces(), pieces, "{length}");
            if let Some(piece) = geometry.indexes().next_back() {
                let range = geometry.range(piece);
                assert_eq!(range.end - range.start, last, "{length}");
                assert_eq!(range.end, length);
            }
        };
        check(0, 0, 0);
        check(1, 1, 1);
        check(MIB, 1, MIB);
        check(MIB + 1, 2, 1);
        check(4 * GIB, 4096, MIB);
        check(4 * GIB + 1, 1025, 1);
        check(64 * GIB, 16384, 4 * MIB);
        check(64 * GIB + 1, 4097, 1);
        check(MAX_LENGTH_BYTES, 1024 * 1024, 16 * MIB);
        assert!(Geometry::new(MAX_LENGTH_BYTES + 1).is_err());
        assert!(Geometry::new(u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn pieces_tile_the_blob(length in 1..200 * GIB, offset in any::<u64>()) {
            let geometry = Geometry::new(length).unwrap();
            let piece = geometry.piece_at(offset % length).unwrap();
            prop_assert!(geometry.range(piece).contains(&(offset % length)));
            prop_assert_eq!(geometry.index(piece.get()), Some(piece));
            prop_assert_eq!(geometry.index(geometry.pieces()), None);
            prop_assert_eq!(geometry.piece_at(length), None);
        }

        #[test]
        fn a_range_touches_just_its_pieces(length in 1..64 * MIB, a in any::<u64>(), b in any::<u64>()) {
            let geometry = Geometry::new(length).unwrap();
            let range = (a % length)..(b % (length + 1));
            let touched: Vec<_> = geometry.pieces_in(range.clone()).collect();
            let expected: Vec<_> = geometry
                .indexes()
                .filter(|&piece| {
                    let of = geometry.range(piece);
                    range.start < range.end && of.start < range.end && range.start < of.end
                })
                .collect();
            prop_assert_eq!(touched, expected);
        }
    }
}
