//! Which piece to ask a peer for: the lowest of a reader's window, or the rarest.
//!
//! A data structure without a clock. It knows which pieces are free to be asked for and how many
//! neighbours have each; pieces of the same availability are a set, so that the rarest one that a
//! peer has is found a word at a time, and a HAVE moves one bit.

use std::ops::Range;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::set::PieceSet;

/// Availabilities that are told apart; more is as good as this.
const MAX_RARITY: usize = 24;

/// Pieces of one blob that are missing, by how many neighbours have them.
#[derive(Debug)]
pub(crate) struct Picker {
    /// Missing, provable, and not asked for.
    free: PieceSet,
    /// Neighbours that have a piece, those not counted that have all.
    holders: Vec<u16>,
    /// All pieces, by the number of holders up to [`MAX_RARITY`].
    rarity: Vec<PieceSet>,
    /// Neighbours that have all.
    seeders: usize,
}

impl Picker {
    pub(crate) fn new(pieces: u32) -> Self {
        let mut rarity = vec![PieceSet::empty(pieces); MAX_RARITY + 1];
        rarity[0] = PieceSet::full(pieces);
        Self {
            free: PieceSet::empty(pieces),
            holders: vec![0; pieces as usize],
            rarity,
            seeders: 0,
        }
    }

    /// Lets the piece be asked for.
    pub(crate) fn release(&mut self, piece: u32) {
        self.free.insert(piece);
    }

    /// Returns whether the piece was free; it is not any more.
    pub(crate) fn take(&mut self, piece: u32) -> bool {
        self.free.remove(piece)
    }

    pub(crate) const fn free(&self) -> &PieceSet {
        &self.free
    }

    /// Counts a neighbour that has these pieces.
    pub(crate) fn add(&mut self, have: &PieceSet) {
        if have.is_full() {
            self.seeders += 1;
        } else {
            have.iter().for_each(|piece| self.gained(piece));
        }
    }

    /// Takes out what [`Self::add`] and [`Self::gained`] counted. `was_seeder` tells whether the
    /// neighbour had all pieces when it was added.
    pub(crate) fn remove(&mut self, have: &PieceSet, was_seeder: bool) {
        if was_seeder {
            self.seeders = self.seeders.saturating_sub(1);
        } else {
            have.iter().for_each(|piece| self.lost(piece));
        }
    }

    /// Counts a neighbour that got the piece.
    pub(crate) fn gained(&mut self, piece: u32) {
        let holders = self.holders(piece);
        self.set_holders(piece, holders.saturating_add(1));
    }

    /// Counts a neighbour that has the piece no more.
    pub(crate) fn lost(&mut self, piece: u32) {
        let holders = self.holders(piece);
        self.set_holders(piece, holders.saturating_sub(1));
    }

    /// Returns whether any neighbour has the piece.
    pub(crate) fn is_near(&self, piece: u32) -> bool {
        self.seeders > 0 || self.holders(piece) > 0
    }

    /// Returns the lowest free piece of the range that the peer has.
    pub(crate) fn lowest(&self, have: &PieceSet, range: Range<u32>) -> Option<u32> {
        self.free.first_common(have, range)
    }

    /// Returns one of the rarest free pieces that the peer has.
    pub(crate) fn rarest(&self, rng: &mut ChaCha8Rng, have: &PieceSet) -> Option<u32> {
        if !self.free.intersects(have) {
            return None;
        }
        for rarity in self.rarity.iter().filter(|rarity| !rarity.is_empty()) {
            let count = self.free.count_common(have, rarity);
            if count > 0 {
                let nth = rng.random_range(0..count);
                return self.free.nth_common(have, rarity, nth);
            }
        }
        None
    }

    /// Returns free pieces of the range that no neighbour has, lowest first.
    pub(crate) fn far(&self, range: Range<u32>, max: usize) -> Vec<u32> {
        if self.seeders > 0 {
            return Vec::new();
        }
        let mut far = Vec::new();
        let mut from = range.start;
        while far.len() < max
            && let Some(piece) = self.free.first_common(&self.rarity[0], from..range.end)
        {
            far.push(piece);
            from = piece + 1;
        }
        far
    }

    fn holders(&self, piece: u32) -> u16 {
        self.holders.get(piece as usize).copied().unwrap_or(0)
    }

    fn set_holders(&mut self, piece: u32, holders: u16) {
        if let Some(known) = self.holders.get_mut(piece as usize) {
            self.rarity[usize::from(*known).min(MAX_RARITY)].remove(piece);
            *known = holders;
            self.rarity[usize::from(holders).min(MAX_RARITY)].insert(piece);
        }
    }
}

#[cfg(test)]
mod tests;
