//! Sets of pieces that can be searched a word at a time.

use std::ops::Range;

use torrent::codec::DecodeError;
use torrent::{Bitfield, Geometry};

const WORD: u32 = 64;

/// A set of pieces of one blob, by number. The lowest piece is in the lowest bit of the first word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PieceSet {
    words: Vec<u64>,
    pieces: u32,
    count: u32,
}

impl PieceSet {
    pub(crate) fn empty(pieces: u32) -> Self {
        Self {
            words: vec![0; pieces.div_ceil(WORD) as usize],
            pieces,
            count: 0,
        }
    }

    pub(crate) fn full(pieces: u32) -> Self {
        let mut set = Self::empty(pieces);
        set.words.fill(u64::MAX);
        let spare = pieces.next_multiple_of(WORD) - pieces;
        if let Some(last) = set.words.last_mut() {
            *last >>= spare;
        }
        set.count = pieces;
        set
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// As [`Bitfield::from_bytes`].
    pub(crate) fn from_wire(geometry: &Geometry, bytes: &[u8]) -> Result<Self, DecodeError> {
        Bitfield::from_bytes(geometry, bytes).map(|field| Self::from(&field.to_bytes(), geometry))
    }

    pub(crate) fn from_bitfield(geometry: &Geometry, field: &Bitfield) -> Self {
        Self::from(&field.to_bytes(), geometry)
    }

    /// The highest bit of the first byte is the first piece; bytes past the last piece are absent.
    fn from(bytes: &[u8], geometry: &Geometry) -> Self {
        let mut set = Self::empty(geometry.pieces());
        for (word, chunk) in set.words.iter_mut().zip(bytes.chunks(8)) {
            let mut full = [0; 8];
            full[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_be_bytes(full).reverse_bits();
        }
        set.count = set.words.iter().map(|word| word.count_ones()).sum();
        set
    }

    /// Returns the wire form, as [`Bitfield::to_bytes`].
    pub(crate) fn to_wire(&self) -> Vec<u8> {
        let words = self.words.iter();
        let mut bytes: Vec<u8> = words
            .flat_map(|word| word.reverse_bits().to_be_bytes())
            .collect();
        bytes.truncate(self.pieces.div_ceil(8) as usize);
        bytes
    }

    pub(crate) fn contains(&self, piece: u32) -> bool {
        self.word(piece / WORD) >> (piece % WORD) & 1 == 1
    }

    /// Adds the piece; returns whether it was new. One that the blob does not have changes nothing.
    pub(crate) fn insert(&mut self, piece: u32) -> bool {
        if piece >= self.pieces || self.contains(piece) {
            return false;
        }
        self.words[(piece / WORD) as usize] |= 1 << (piece % WORD);
        self.count += 1;
        true
    }

    /// Takes the piece out; returns whether it was there.
    pub(crate) fn remove(&mut self, piece: u32) -> bool {
        if !self.contains(piece) {
            return false;
        }
        self.words[(piece / WORD) as usize] &= !(1 << (piece % WORD));
        self.count -= 1;
        true
    }

    pub(crate) const fn pieces(&self) -> u32 {
        self.pieces
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.count == self.pieces
    }

    /// Returns the pieces of the set, lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..).zip(&self.words).flat_map(|(at, word)| {
            let rest = |rest: &u64| Some(rest & (rest - 1)).filter(|rest| *rest != 0);
            let first = Some(*word).filter(|word| *word != 0);
            std::iter::successors(first, rest).map(move |rest| at * WORD + rest.trailing_zeros())
        })
    }

    /// Returns the lowest piece of `range` that is not in the set.
    pub(crate) fn first_missing(&self, range: Range<u32>) -> Option<u32> {
        let range = range.start..range.end.min(self.pieces);
        first_bit(range, |at| !self.word(at))
    }

    /// Returns the lowest piece of `range` that is in both sets.
    pub(crate) fn first_common(&self, other: &Self, range: Range<u32>) -> Option<u32> {
        first_bit(range, |at| self.word(at) & other.word(at))
    }

    /// Returns the lowest piece of `range` that is in this set and not in the other.
    pub(crate) fn first_without(&self, other: &Self, range: Range<u32>) -> Option<u32> {
        let range = range.start..range.end.min(self.pieces);
        first_bit(range, |at| self.word(at) & !other.word(at))
    }

    pub(crate) fn intersects(&self, other: &Self) -> bool {
        let words = self.words.iter().zip(&other.words);
        words.into_iter().any(|(one, two)| one & two != 0)
    }

    /// Returns how many pieces are in all three sets.
    pub(crate) fn count_common(&self, two: &Self, three: &Self) -> u32 {
        self.common(two, three)
            .map(|(_, word)| word.count_ones())
            .sum()
    }

    /// Returns the piece that `skip` lower ones of all three sets come before.
    pub(crate) fn nth_common(&self, two: &Self, three: &Self, mut skip: u32) -> Option<u32> {
        for (at, mut word) in self.common(two, three) {
            let ones = word.count_ones();
            if skip >= ones {
                skip -= ones;
                continue;
            }
            for _ in 0..skip {
                word &= word - 1;
            }
            return Some(at * WORD + word.trailing_zeros());
        }
        None
    }

    fn common<'a>(&'a self, two: &'a Self, three: &'a Self) -> impl Iterator<Item = (u32, u64)> {
        let words = self.words.iter().zip(&two.words).zip(&three.words);
        (0..).zip(words.map(|((one, two), three)| one & two & three))
    }

    fn word(&self, at: u32) -> u64 {
        self.words.get(at as usize).copied().unwrap_or(0)
    }
}

/// Returns the lowest set bit of `range` in the words.
fn first_bit(range: Range<u32>, word: impl Fn(u32) -> u64) -> Option<u32> {
    if range.is_empty() {
        return None;
    }
    let words = range.start / WORD..range.end.div_ceil(WORD);
    for at in words {
        let mut bits = word(at);
        if at == range.start / WORD {
            bits &= u64::MAX << (range.start % WORD);
        }
        if bits != 0 {
            let piece = at * WORD + bits.trailing_zeros();
            return (piece < range.end).then_some(piece);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    type Model = BTreeSet<u32>;

    fn build(pieces: u32, raw: &[u32]) -> (PieceSet, Model) {
        let mut set = PieceSet::empty(pieces);
        let mut model = Model::new();
        for piece in raw.iter().filter(|piece| **piece < pieces) {
            assert_eq!(set.insert(*piece), model.insert(*piece));
        }
        (set, model)
    }

    fn pieces() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(0..200_u32, 0..120)
    }

    proptest! {
        #[test]
        fn searches_agree_with_a_model(
            pieces in 1..200_u32,
            one in pieces(),
            two in pieces(),
            three in pieces(),
            from in 0..220_u32,
            to in 0..220_u32,
        ) {
            let (a, ma) = build(pieces, &one);
            let (b, mb) = build(pieces, &two);
            let (c, mc) = build(pieces, &three);
            let range = from..to;
            prop_assert_eq!(a.iter().collect::<Model>(), ma.clone());
            prop_assert_eq!(a.count() as usize, ma.len());
            let common = ma.intersection(&mb).copied().find(|piece| range.contains(piece));
            prop_assert_eq!(a.first_common(&b, range.clone()), common);
            let without = ma.difference(&mb).copied().find(|piece| range.contains(piece));
            prop_assert_eq!(a.first_without(&b, range.clone()), without);
            let missing = (from..to.min(pieces)).find(|piece| !ma.contains(piece));
            prop_assert_eq!(a.first_missing(range), missing);
            prop_assert_eq!(a.intersects(&b), !ma.is_disjoint(&mb));
            let all: Vec<u32> = ma.iter().filter(|one| mb.contains(one) && mc.contains(one)).copied().collect();
            prop_assert_eq!(a.count_common(&b, &c) as usize, all.len());
            for (nth, piece) in (0..).zip(&all) {
                prop_assert_eq!(a.nth_common(&b, &c, nth), Some(*piece));
            }
        }

        #[test]
        fn the_wire_form_is_that_of_a_bitfield(pieces in 1..200_u32, raw in pieces()) {
            let geometry = Geometry::new(u64::from(pieces) << 20).unwrap();
            let (set, model) = build(pieces, &raw);
            let field = Bitfield::from_bytes(&geometry, &set.to_wire()).unwrap();
            prop_assert_eq!(field.count() as usize, model.len());
            prop_assert!(field.iter(&geometry).all(|piece| model.contains(&piece.get())));
            prop_assert_eq!(PieceSet::from_wire(&geometry, &set.to_wire()).unwrap(), set.clone());
            prop_assert_eq!(PieceSet::from_bitfield(&geometry, &field), set);
        }
    }

    #[test]
    fn the_full_set_has_no_spare_bits() {
        for pieces in [0, 1, 63, 64, 65, 200] {
            let set = PieceSet::full(pieces);
            assert!(set.is_full());
            assert_eq!(set.iter().count(), pieces as usize);
            assert_eq!(set.first_missing(0..pieces + 9), None);
        }
    }
}
