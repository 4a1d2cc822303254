//! Whom a tracker names to whom: a near-regular random graph, zone by zone.
//!
//! Each newcomer is linked to some who came before, so the graph is connected by construction. The
//! others are chosen as the less linked of two random ones. Always the least linked would be a
//! mistake: those are the latest newcomers, and the graph would become a chain in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use torrent::PeerId;

/// Up to this many are looked at one by one; of more, samples are drawn.
const FEW: usize = 32;
/// Samples drawn for each peer to be named before everybody is looked at.
const TRIES: usize = 16;

/// A set of peers that random ones can be drawn from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    list: Vec<PeerId>,
    positions: BTreeMap<PeerId, usize>,
}

impl Pool {
    pub(crate) fn insert(&mut self, id: PeerId) {
        if !self.positions.contains_key(&id) {
            self.positions.insert(id, self.list.len());
            self.list.push(id);
        }
    }

    pub(crate) fn remove(&mut self, id: &PeerId) {
        if let Some(position) = self.positions.remove(id) {
            self.list.swap_remove(position);
            if let Some(moved) = self.list.get(position) {
                self.positions.insert(*moved, position);
            }
        }
    }

    pub(crate) fn contains(&self, id: &PeerId) -> bool {
        self.positions.contains_key(id)
    }

    pub(crate) const fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn draw(&self, rng: &mut ChaCha8Rng) -> Option<PeerId> {
        if self.list.is_empty() {
            None
        } else {
            Some(self.list[rng.random_range(0..self.list.len())])
        }
    }
}

/// Members of a swarm that may be named, by zone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    all: Pool,
    complete: Pool,
    zones: BTreeMap<Arc<str>, Pool>,
}

impl Roster {
    pub(crate) fn insert(&mut self, id: PeerId, zone: &Arc<str>) {
        self.all.insert(id);
        self.zones.entry(Arc::clone(zone)).or_default().insert(id);
    }

    pub(crate) fn set_complete(&mut self, id: PeerId) {
        if self.all.contains(&id) {
            self.complete.insert(id);
        }
    }

    pub(crate) fn remove(&mut self, id: &PeerId, zone: &Arc<str>) {
        self.all.remove(id);
        self.complete.remove(id);
        if let Some(pool) = self.zones.get_mut(zone) {
            pool.remove(id);
            if pool.is_empty() {
                self.zones.remove(zone);
            }
        }
    }

    pub(crate) const fn all(&self) -> &Pool {
        &self.all
    }

    pub(crate) const fn complete(&self) -> &Pool {
        &self.complete
    }
}

/// Who asks for neighbours.
pub(crate) struct Asker<'a> {
    pub(crate) id: PeerId,
    pub(crate) zone: &'a str,
    /// Peers it is connected to for other blobs.
    pub(crate) connected: &'a BTreeSet<PeerId>,
    /// Peers it was linked to before, in this swarm.
    pub(crate) neighbours: &'a BTreeSet<PeerId>,
}

/// Names up to `count` neighbours, none of whom has `max_degree` already; but where everybody has,
/// one of them all the same, since an unlinked newcomer gets nothing.
///
/// One is complete where somebody is; then those already connected, the own zone, the others; and
/// one of `count` is kept for each of the later kinds, so that neither old neighbours nor a zone
/// can become an island.
pub(crate) fn choose(
    rng: &mut ChaCha8Rng,
    roster: &Roster,
    asker: &Asker<'_>,
    count: usize,
    max_degree: usize,
    degree: impl Fn(&PeerId) -> usize,
) -> Vec<PeerId> {
    let mut choice = Choice {
        asker,
        degree: &degree,
        max_degree,
        named: Vec::with_capacity(count),
    };
    choice.fill(rng, &roster.complete, count.min(1));
    for id in asker.connected {
        if choice.named.len() + 1 >= count {
            break;
        }
        if roster.all.contains(id) && choice.may_name(id) {
            choice.named.push(*id);
        }
    }
    if let Some(zone) = roster.zones.get(asker.zone) {
        let others = usize::from(roster.zones.len() > 1);
        choice.fill(rng, zone, count.saturating_sub(others));
    }
    choice.fill(rng, &roster.all, count);
    if choice.named.is_empty() && asker.neighbours.is_empty() && count > 0 {
        choice.max_degree = usize::MAX;
        choice.fill(rng, &roster.all, 1);
    }
    choice.named
}

struct Choice<'a, F> {
    asker: &'a Asker<'a>,
    degree: &'a F,
    max_degree: usize,
    named: Vec<PeerId>,
}

impl<F: Fn(&PeerId) -> usize> Choice<'_, F> {
    fn may_name(&self, id: &PeerId) -> bool {
        *id != self.asker.id
            && !self.asker.neighbours.contains(id)
            && !self.named.contains(id)
            && (self.degree)(id) < self.max_degree
    }

    /// Names peers of the pool until `count` are named in all.
    fn fill(&mut self, rng: &mut ChaCha8Rng, pool: &Pool, count: usize) {
        if pool.len() > FEW {
            let tries = TRIES * count.saturating_sub(self.named.len());
            for _ in 0..tries {
                if self.named.len() >= count {
                    return;
                }
                let pair = [pool.draw(rng), pool.draw(rng)];
                let fit = pair.into_iter().flatten().filter(|id| self.may_name(id));
                if let Some(id) = fit.min_by_key(|id| (self.degree)(id)) {
                    self.named.push(id);
                }
            }
        }
        while self.named.len() < count {
            let fit: Vec<PeerId> = pool
                .list
                .iter()
                .filter(|id| self.may_name(id))
                .copied()
                .collect();
            if fit.is_empty() {
                return;
            }
            let pair = [0, 1].map(|_| fit[rng.random_range(0..fit.len())]);
            let id = if (self.degree)(&pair[0]) <= (self.degree)(&pair[1]) {
                pair[0]
            } else {
                pair[1]
            };
            self.named.push(id);
        }
    }
}
