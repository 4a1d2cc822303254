//! Who reads a blob in order, and what they wait for.

use std::ops::Range;

use torrent::SwarmName;

use crate::event::ReaderId;
use crate::swarm::Swarm;
use crate::time::Time;
use crate::timers::Timer;
use crate::torrent::Reader;

impl Swarm {
    pub(crate) fn read(&mut self, now: Time, name: SwarmName, reader: ReaderId, range: Range<u64>) {
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        let was_hungry = torrent.is_hungry();
        let state = Reader {
            position: range.start,
            end: range.end,
            blocked_since: None,
        };
        torrent.readers.insert(reader, state);
        self.readers.insert(reader, name);
        if let Some(torrent) = self.torrents.get_mut(&name)
            && torrent.is_hungry()
        {
            if !was_hungry {
                torrent.useful_at = now;
            }
            self.timers.arm(Timer::Torrent(name), now);
        }
        self.refill(now);
        self.use_grants(now, &name);
    }

    pub(crate) fn read_at(&mut self, now: Time, reader: ReaderId, position: u64) {
        let Some(name) = self.readers.get(&reader).copied() else {
            return;
        };
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        let whole = torrent.wanted.is_some_and(|wanted| wanted.whole);
        if let Some(state) = torrent.readers.get_mut(&reader) {
            state.position = position;
            state.blocked_since = None;
        }
        // The window moved: with lazy downloads that frees pieces, else they were free before.
        if !whole && torrent.is_hungry() {
            torrent.useful_at = torrent.useful_at.max(now);
            self.timers
                .arm(Timer::Torrent(name), now + self.config.policy.tick);
            self.refill(now);
        }
    }

    pub(crate) fn read_done(&mut self, reader: ReaderId) {
        if let Some(name) = self.readers.remove(&reader)
            && let Some(torrent) = self.torrents.get_mut(&name)
        {
            torrent.readers.remove(&reader);
        }
    }
}
