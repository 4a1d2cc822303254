//! Blobs of which only parts are wanted. Each manifest that is read joins some, and whether anybody
//! ever comes for them is not known: what they hold goes back in time.

use std::sync::Arc;
use std::time::Duration;

use torrent::{Bitfield, SwarmName};

use super::{Driver, Event};
use crate::progress::Torrent;

/// Longest time between two looks.
const MAX_SWEEP: Duration = Duration::from_secs(60);
const MIN_SWEEP: Duration = Duration::from_millis(10);

impl Driver {
    pub(super) fn sweep_every(&self) -> Duration {
        (self.node.config.lazy_idle / 2).clamp(MIN_SWEEP, MAX_SWEEP)
    }

    /// Lets go of what nobody reads: pieces that are here may be evicted, and are given to others
    /// until then; a swarm of which nothing is here is left.
    pub(super) fn sweep(&mut self) {
        // A host has better uses for the memory of a node that does nothing.
        if self.node.buffers.rest() {
            self.node.kept.clear();
        }
        let idle = self.node.config.lazy_idle;
        let alone: Vec<Arc<Torrent>> = {
            let torrents = self.node.torrents.read();
            let alone = torrents.values().filter(|one| one.is_left_alone(idle));
            alone.cloned().collect()
        };
        let mut empty: Vec<SwarmName> = Vec::new();
        for torrent in alone {
            self.pins.remove(&torrent.name);
            let has_some = torrent
                .now()
                .have
                .as_ref()
                .is_some_and(|have| !Bitfield::is_empty(have));
            // Who is still waiting for its length is answered by the swarm.
            if !has_some && torrent.is_unwatched() {
                empty.push(torrent.name);
            }
        }
        if empty.is_empty() {
            return;
        }
        // In one order in every run.
        empty.sort_unstable();
        self.remove(empty.clone(), "nobody read it");
        let pieces = Arc::clone(&self.node.pieces);
        self.spawn(async move {
            for name in &empty {
                pieces.release(name).await;
            }
        });
    }

    /// Keeps a blob from eviction that was let go of, and is wanted again.
    pub(super) fn pin(&self, torrent: &Arc<Torrent>) {
        if torrent.now().have.is_none() || self.pins.contains_key(&torrent.name) {
            return;
        }
        let (torrent, node, events) = (
            Arc::clone(torrent),
            Arc::clone(&self.node),
            self.sender.clone(),
        );
        self.spawn(async move {
            let pin = node.pieces.pin(&torrent.name).await;
            let _ = events.send(Event::Pinned { torrent, pin }).await;
        });
    }
}
