//! What is told to trackers, in as few messages as possible.

use std::collections::BTreeMap;

use torrent::{Role, SwarmName};

use crate::event::Output;
use crate::message::{Announce, AnnounceEvent};
use crate::swarm::Swarm;

/// Sorts announces by the tracker that each goes to. Of each tracker they keep their order; an
/// announce that says the same as the last one of the same blob is left out.
pub fn batch<K: Ord>(
    entries: Vec<Announce>,
    mut route: impl FnMut(&SwarmName) -> K,
) -> Vec<(K, Vec<Announce>)> {
    let mut batches: BTreeMap<K, Vec<Announce>> = BTreeMap::new();
    for entry in entries {
        let batch = batches.entry(route(&entry.name)).or_default();
        let mut earlier = batch.iter().rev();
        let last = earlier.find(|earlier| earlier.name == entry.name);
        if last != Some(&entry) {
            batch.push(entry);
        }
    }
    batches.into_iter().collect()
}

impl Swarm {
    pub(crate) fn announce(&mut self, name: &SwarmName, event: AnnounceEvent) {
        let torrent = self.torrents.get(name);
        let description = torrent.and_then(|torrent| torrent.description);
        self.stats.announces += 1;
        self.outputs.push_back(Output::Announce(Announce {
            name: *name,
            event,
            description,
        }));
    }

    /// Joins the swarm of a blob (again).
    pub(crate) fn join(&mut self, name: &SwarmName) {
        let torrent = self.torrents.get(name);
        let sixteenths = torrent.map_or(0, |torrent| torrent.sixteenths);
        self.announce(name, AnnounceEvent::Join { sixteenths });
    }

    pub(crate) fn announce_progress(&mut self, name: &SwarmName) {
        let torrent = self.torrents.get(name);
        let sixteenths = torrent.map_or(0, |torrent| torrent.sixteenths);
        self.announce(name, AnnounceEvent::Progress { sixteenths });
    }

    pub(crate) fn announce_complete(&mut self, name: &SwarmName) {
        match self.config.me.role {
            Role::Origin => self.announce_source(name),
            Role::Agent | Role::Tracker => {
                let unserved = false;
                self.announce(name, AnnounceEvent::Complete { unserved });
            }
        }
    }

    /// The tracker of these blobs is new to us: it is told all that it must know (§7.1).
    pub(crate) fn announce_again(&mut self, names: &[SwarmName]) {
        for name in names {
            let Some(torrent) = self.torrents.get_mut(name) else {
                continue;
            };
            torrent.dismissed = false;
            if torrent.pass.is_some() {
                self.announce_source(name);
            } else if torrent.is_complete() {
                self.announce_complete(name);
            } else {
                self.join(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announces_are_sorted_by_tracker_and_said_once() {
        let name = |number: u8| SwarmName::Blob(oci::Digest::Sha256([number; 32]));
        let entry = |number: u8, event: AnnounceEvent| Announce {
            name: name(number),
            event,
            description: None,
        };
        let join = AnnounceEvent::Join { sixteenths: 0 };
        let leave = AnnounceEvent::Leave;
        let entries = [
            (1, join),
            (2, join),
            (1, join),
            (3, join),
            (1, leave),
            (1, join),
        ];
        let entries = entries.map(|(number, event)| entry(number, event)).to_vec();
        let batches = batch(entries, |of| *of == name(2));
        let expected = vec![
            (
                false,
                vec![
                    entry(1, join),
                    entry(3, join),
                    entry(1, leave),
                    entry(1, join),
                ],
            ),
            (true, vec![entry(2, join)]),
        ];
        assert_eq!(batches, expected);
    }
}
