//! Who reads a blob in order, and what they wait for.

use std::ops::Range;

use torrent::SwarmName;

use crate::event::{ConnId, ReaderId};
use crate::rescue::MAX_ASKED;
use crate::swarm::Swarm;
use crate::time::{Micros, Time};
use crate::timers::Timer;
use crate::torrent::{Reader, Torrent};
use crate::wire::MAX_WANT_PIECES;

/// Pieces of a part that count as late when the first of them is.
const LATE_TOGETHER: usize = 4;

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
            waits: None,
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

impl Torrent {
    /// Looks which pieces readers have waited for too long. Where one is, those that a reader of a
    /// part needs next are taken for late too: they were asked for together.
    pub(crate) fn note_late(&mut self, now: Time, patience: Micros) {
        let ids: Vec<ReaderId> = self.readers.keys().copied().collect();
        let whole = self.wanted.is_some_and(|wanted| wanted.whole);
        let together = if whole { 1 } else { LATE_TOGETHER };
        self.late.clear();
        for id in ids {
            let Some(reader) = self.readers.get(&id).copied() else {
                continue;
            };
            let (rest, _) = self.window(&reader, 0);
            let waits = self.blocked(&reader).filter(|piece| *piece == rest.start);
            let waits = waits.map(|piece| match reader.waits {
                Some((before, since)) if before == piece => (piece, since),
                Some(_) | None => (piece, now),
            });
            if let Some((piece, since)) = waits
                && since + patience <= now
            {
                for piece in (piece..rest.end).take(together) {
                    self.add_late(piece);
                }
            }
            if let Some(reader) = self.readers.get_mut(&id) {
                reader.waits = waits;
            }
        }
    }

    fn add_late(&mut self, piece: u32) {
        let is_here = self.have.contains(piece) || self.checking.contains_key(&piece);
        if !is_here && self.late.len() < MAX_WANT_PIECES && !self.late.contains(&piece) {
            self.late.push(piece);
        }
    }

    /// Returns whether an origin may be asked for the piece though others were: somebody has waited
    /// for it too long, and this origin was not asked yet.
    pub(crate) fn may_hedge(&self, piece: u32, origin: ConnId) -> bool {
        let asked = self.asked.get(&piece);
        self.late.contains(&piece)
            && asked.is_some_and(|asked| {
                asked.len() <= MAX_ASKED && asked.iter().all(|(conn, _)| *conn != origin)
            })
    }
}
