//! The BLAKE3 tree of a blob: root, chaining values of pieces, chaining values of blocks.
//!
//! They are the values of BLAKE3's own tree (BLAKE3 paper, section 2.4; `blake3::hazmat`): the
//! root is the plain BLAKE3 of the blob, a complete list of piece values merges to the root, the
//! block values of a piece merge to the value of the piece. A blob of one piece has no piece list
//! and one of a single block no block list: its root is the hash itself, which is *not* the
//! chaining value of the same bytes.

use std::fmt;

use blake3::hazmat::{
    HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::piece::{BLOCK_BYTES, Geometry, GeometryError, PieceIndex};

/// Chaining value of a subtree that is not the whole blob.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cv(pub [u8; 32]);

/// BLAKE3 of a whole blob.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(pub [u8; 32]);

impl Root {
    /// Returns the root of the blob of zero bytes.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self(*blake3::hash(b"").as_bytes())
    }
}

impl fmt::Debug for Cv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cv:{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2])
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "root:{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// Returns the chaining value of `bytes`, which start at `offset` of a blob that is longer.
///
/// # Panics
/// Where `offset` is no multiple of [`BLOCK_BYTES`] or the bytes are empty or reach past the
/// subtree that starts there.
#[must_use]
pub fn chaining_value(offset: u64, bytes: &[u8]) -> Cv {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    Cv(hasher.finalize_non_root())
}

/// Returns the chaining value of a piece.
#[must_use]
pub fn piece_cv(geometry: &Geometry, piece: PieceIndex, bytes: &[u8]) -> Cv {
    chaining_value(geometry.range(piece).start, bytes)
}

/// Returns the chaining values of the blocks of a piece. A piece of a single block has that
/// block's value as its own.
#[must_use]
pub fn block_cvs(geometry: &Geometry, piece: PieceIndex, bytes: &[u8]) -> Vec<Cv> {
    let start = geometry.range(piece).start;
    bytes
        .chunks(BLOCK_BYTES as usize)
        .zip((start..).step_by(BLOCK_BYTES as usize))
        .map(|(block, offset)| chaining_value(offset, block))
        .collect()
}

/// Merges the values of consecutive subtrees of `unit` bytes (the last may be shorter, the total
/// is `length` bytes) into the value of their parent. One value is its own parent.
///
/// # Panics
/// Where the values are not ⌈length / unit⌉ many.
#[must_use]
pub fn merge(cvs: &[Cv], unit: u32, length: u64) -> Cv {
    if let [only] = cvs {
        return *only;
    }
    let (left, right) = split(cvs, unit, length);
    Cv(merge_subtrees_non_root(&left.0, &right.0, Mode::Hash))
}

/// Merges all chaining values of a blob of at least two subtrees into its root.
///
/// # Panics
/// As [`merge`], and where there are fewer than two values.
#[must_use]
pub fn merge_root(cvs: &[Cv], unit: u32, length: u64) -> Root {
    let (left, right) = split(cvs, unit, length);
    Root(*merge_subtrees_root(&left.0, &right.0, Mode::Hash).as_bytes())
}

fn split(cvs: &[Cv], unit: u32, length: u64) -> (Cv, Cv) {
    let unit_bytes = u64::from(unit);
    assert_eq!(
        cvs.len() as u64,
        length.div_ceil(unit_bytes),
        "values do not match the length"
    );
    let left_bytes = left_subtree_len(length);
    let at = usize::try_from(left_bytes / unit_bytes).expect("no more than the values in memory");
    let (left, right) = cvs.split_at(at);
    (
        merge(left, unit, left_bytes),
        merge(right, unit, length - left_bytes),
    )
}

/// What hashing a whole blob yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    pub length: u64,
    pub root: Root,
    /// One value per piece; empty for blobs of at most one piece.
    pub pieces: Vec<Cv>,
    /// One value per block; empty for blobs of at most one block.
    pub blocks: Vec<Cv>,
}

/// Hashes a stream of bytes whose length need not be known into a [`Tree`], in one pass.
///
/// Keeps 32 bytes per 64 KiB (0.05 % of the blob).
#[derive(Debug)]
pub struct TreeHasher {
    blocks: Vec<Cv>,
    /// Hash of the block that is not complete yet, or complete but maybe the last.
    current: blake3::Hasher,
    current_bytes: u32,
    length: u64,
}

impl Default for TreeHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeHasher {
    #[must_use]
    pub fn new() -> Self {
        Self {
            blocks: Vec::new(),
            current: blake3::Hasher::new(),
            current_bytes: 0,
            length: 0,
        }
    }

    /// Returns the bytes hashed so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.current_bytes == BLOCK_BYTES {
                self.close_block();
            }
            let room = (BLOCK_BYTES - self.current_bytes) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.current.update(now);
            // Both are at most BLOCK_BYTES.
            self.current_bytes += u32::try_from(now.len()).unwrap_or(BLOCK_BYTES);
            self.length += now.len() as u64;
            bytes = later;
        }
    }

    fn close_block(&mut self) {
        self.blocks.push(Cv(self.current.finalize_non_root()));
        self.current = blake3::Hasher::new();
        self.current.set_input_offset(self.length);
        self.current_bytes = 0;
    }

    /// Returns the tree of all bytes seen.
    ///
    /// # Errors
    /// Where the blob is longer than any geometry allows.
    pub fn finish(mut self) -> Result<Tree, GeometryError> {
        let geometry = Geometry::new(self.length)?;
        if self.blocks.is_empty() {
            let root = Root(*self.current.finalize().as_bytes());
            return Ok(Tree {
                length: self.length,
                root,
                pieces: Vec::new(),
                blocks: Vec::new(),
            });
        }
        self.blocks.push(Cv(self.current.finalize_non_root()));
        let root = merge_root(&self.blocks, BLOCK_BYTES, self.length);
        let pieces = if geometry.pieces() < 2 {
            Vec::new()
        } else {
            let per_piece = (geometry.piece_length() / BLOCK_BYTES) as usize;
            self.blocks
                .chunks(per_piece)
                .zip(geometry.indexes())
                .map(|(blocks, piece)| merge(blocks, BLOCK_BYTES, geometry.size(piece).into()))
                .collect()
        };
        Ok(Tree {
            length: self.length,
            root,
            pieces,
            blocks: self.blocks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| u8::try_from(i * 31 % 251).unwrap())
            .collect()
    }

    fn tree(bytes: &[u8], step: usize) -> Tree {
        let mut hasher = TreeHasher::new();
        for part in bytes.chunks(step) {
            hasher.update(part);
        }
        hasher.finish().unwrap()
    }

    #[test]
    fn the_root_is_the_plain_blake3() {
        const MIB: usize = 1 << 20;
        let lengths = [
            0,
            1,
            65_535,
            65_536,
            65_537,
            131_072,
            MIB - 1,
            MIB,
            MIB + 1,
            2 * MIB,
            3 * MIB + 70_000,
            5 * MIB,
        ];
        for length in lengths {
            let bytes = bytes(length);
            let tree = tree(&bytes, 10_007);
            assert_eq!(tree.root.0, *blake3::hash(&bytes).as_bytes(), "{length}");
            let geometry = Geometry::new(length as u64).unwrap();
            if geometry.pieces() < 2 {
                assert!(tree.pieces.is_empty());
            } else {
                assert_eq!(tree.pieces.len(), geometry.pieces() as usize);
                assert_eq!(
                    merge_root(&tree.pieces, geometry.piece_length(), length as u64),
                    tree.root
                );
            }
            assert_eq!(tree.blocks.is_empty(), length <= BLOCK_BYTES as usize);
        }
    }

    #[test]
    fn a_piece_and_its_blocks_agree_with_the_stream() {
        let bytes = bytes(2_500_000);
        let tree = tree(&bytes, 65_536);
        let geometry = Geometry::new(bytes.len() as u64).unwrap();
        for piece in geometry.indexes() {
            let range = geometry.range(piece);
            let of =
                &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
            assert_eq!(
                piece_cv(&geometry, piece, of),
                tree.pieces[piece.as_usize()]
            );
            let blocks = block_cvs(&geometry, piece, of);
            assert_eq!(blocks, tree.blocks[piece.as_usize() * 16..][..blocks.len()]);
            assert_eq!(
                merge(&blocks, BLOCK_BYTES, of.len() as u64),
                tree.pieces[piece.as_usize()]
            );
        }
    }
}
