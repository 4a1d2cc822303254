//! What is told to trackers, in as few messages as possible.

use std::collections::BTreeMap;

use torrent::SwarmName;

use crate::message::Announce;

/// Sorts announces by the tracker that each goes to. Of each tracker they keep their order; an
/// announce that says the same as an earlier one of the same blob is left out.
pub fn batch<K: Ord>(
    entries: Vec<Announce>,
    mut route: impl FnMut(&SwarmName) -> K,
) -> Vec<(K, Vec<Announce>)> {
    let mut batches: BTreeMap<K, Vec<Announce>> = BTreeMap::new();
    for entry in entries {
        batches.entry(route(&entry.name)).or_default().push(entry);
    }
    batches.into_iter().collect()
}
