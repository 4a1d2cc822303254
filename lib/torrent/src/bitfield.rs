//! Sets of pieces.

use std::fmt;

use crate::codec::DecodeError;
use crate::piece::{Geometry, PieceIndex};

/// Set of pieces of one blob. One bit per piece, the first piece in the highest bit of the first
/// byte on the wire (BEP 3).
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    words: Vec<u64>,
    pieces: u32,
    count: u32,
}

impl Bitfield {
    /// Returns the empty set.
    #[must_use]
    pub fn empty(geometry: &Geometry) -> Self {
        let pieces = geometry.pieces();
        Self {
            words: vec![0; pieces.div_ceil(64) as usize],
            pieces,
            count: 0,
        }
    }

    /// Returns the set of all pieces.
    #[must_use]
    pub fn full(geometry: &Geometry) -> Self {
        let mut set = Self::empty(geometry);
        for piece in geometry.indexes() {
            set.insert(piece);
        }
        set
    }

    #[must_use]
    pub fn contains(&self, piece: PieceIndex) -> bool {
        self.words
            .get(piece.as_usize() / 64)
            .is_some_and(|word| word >> (63 - piece.get() % 64) & 1 == 1)
    }

    /// Adds the piece; returns whether it was new.
    ///
    /// # Panics
    /// Where the index is of a longer blob.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        assert!(
            piece.get() < self.pieces,
            "piece {piece} is of another blob"
        );
        let new = !self.contains(piece);
        self.words[piece.as_usize() / 64] |= 1 << (63 - piece.get() % 64);
        self.count += u32::from(new);
        new
    }

    /// Takes the piece out; returns whether it was there.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let there = self.contains(piece);
        if there {
            self.words[piece.as_usize() / 64] &= !(1 << (63 - piece.get() % 64));
            self.count -= 1;
        }
        there
    }

    /// Returns the number of pieces in the set.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.count == self.pieces
    }

    /// Returns the pieces in the set, lowest first.
    pub fn iter<'a>(&'a self, geometry: &'a Geometry) -> impl Iterator<Item = PieceIndex> + 'a {
        geometry.indexes().filter(|&piece| self.contains(piece))
    }

    /// Returns the pieces not in the set, lowest first.
    pub fn missing<'a>(&'a self, geometry: &'a Geometry) -> impl Iterator<Item = PieceIndex> + 'a {
        geometry.indexes().filter(|&piece| !self.contains(piece))
    }

    /// Returns the wire form: ⌈pieces / 8⌉ bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect();
        bytes.truncate(self.pieces.div_ceil(8) as usize);
        bytes
    }

    /// # Errors
    /// Where the length is not that of the blob, or a bit past the last piece is set.
    pub fn from_bytes(geometry: &Geometry, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut set = Self::empty(geometry);
        if bytes.len() != set.pieces.div_ceil(8) as usize {
            return Err(DecodeError::OutOfBounds("bitfield length"));
        }
        for (word, chunk) in set.words.iter_mut().zip(bytes.chunks(8)) {
            let mut full = [0; 8];
            full[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_be_bytes(full);
        }
        let spare = set.words.len() * 64 - set.pieces as usize;
        if spare > 0
            && set
                .words
                .last()
                .is_some_and(|word| word & ((1 << spare) - 1) != 0)
        {
            return Err(DecodeError::OutOfBounds("bitfield spare bits"));
        }
        set.count = set.words.iter().map(|word| word.count_ones()).sum();
        Ok(set)
    }
}

impl fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} pieces", self.count, self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    proptest! {
        #[test]
        fn behaves_as_a_set(pieces in 0..300u64, steps in prop::collection::vec((any::<bool>(), any::<u32>()), 0..200)) {
            let geometry = Geometry::new(pieces * MIB).unwrap();
            let mut set = Bitfield::empty(&geometry);
            let mut model = BTreeSet::new();
            for (add, raw) in steps {
                let Some(piece) = geometry.index(raw % 320) else { continue };
                if add {
                    prop_assert_eq!(set.insert(piece), model.insert(piece));
                } else {
                    prop_assert_eq!(set.remove(piece), model.remove(&piece));
                }
            }
            prop_assert_eq!(set.count() as usize, model.len());
            prop_assert_eq!(set.iter(&geometry).collect::<BTreeSet<_>>(), model);
            prop_assert_eq!(Bitfield::from_bytes(&geometry, &set.to_bytes()), Ok(set));
        }

        #[test]
        fn any_bytes_are_a_set_or_an_error(pieces in 0..80u64, bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let geometry = Geometry::new(pieces * MIB).unwrap();
            if let Ok(set) = Bitfield::from_bytes(&geometry, &bytes) {
                prop_assert_eq!(set.to_bytes(), bytes);
                prop_assert!(u64::from(set.count()) <= pieces);
            }
        }
    }
}
