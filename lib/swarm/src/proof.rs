//! Chaining values: whom to ask for them, and what comes of those that came (§5).

use std::sync::Arc;

use torrent::{Cv, Description, Generation, PieceIndex, SignedCv, SwarmName};

use crate::event::{CloseReason, ConnId, Output};
use crate::message::Message;
use crate::set::PieceSet;
use crate::swarm::Swarm;
use crate::time::{Micros, Time};

/// Rate in bytes per second that a list of chaining values comes at, at least.
const LIST_RATE: u64 = 10_000_000;
/// Whole lists that one peer gets of one blob; it needs one.
const MAX_LISTS: u32 = 8;
/// Values of a growing blob that are asked for at a time.
const MAX_ASKED: u32 = 4_096;

impl Swarm {
    /// Asks somebody for chaining values, where some are missing and nobody is asked.
    pub(crate) fn seek_values(&mut self, now: Time, name: &SwarmName) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let busy = torrent.values_asked.is_some_and(|(_, until)| until > now);
        if !torrent.opened || torrent.proven || busy || torrent.proving.is_some() {
            return;
        }
        let growing = torrent.is_growing();
        let last = torrent.values_asked.map(|(conn, _)| conn);
        let pieces = torrent.have.pieces();
        // Of a growing blob a neighbour is asked for values of pieces that it has; else who has a
        // piece has the list.
        let mut choice: Option<(bool, ConnId, u32, u32)> = None;
        for (conn, link) in &torrent.links {
            let silent = self.conns.get(conn).is_none_or(|one| one.is_silent);
            if silent || !link.heard || !link.described {
                continue;
            }
            let (first, count) = match (&link.have, growing) {
                (Some(have), true) => match unknown(have, &torrent.known, &torrent.have) {
                    Some(first) => (first, MAX_ASKED.min(pieces - first)),
                    None => continue,
                },
                // An origin of a growing blob tells values unasked.
                (None, true) => continue,
                (Some(have), false) if have.is_empty() => continue,
                (Some(_) | None, false) => (0, pieces),
            };
            // Whoever let us wait is asked again only where nobody else is there.
            let again = Some(*conn) == last;
            let better = choice.is_none_or(|(before, ..)| before && !again);
            if better {
                choice = Some((again, *conn, first, count));
            }
        }
        let Some((_, conn, first, count)) = choice else {
            return;
        };
        let bytes = u64::from(count) * 100;
        let patience = self.config.policy.silence.0 + bytes * 1_000_000 / LIST_RATE;
        torrent.values_asked = Some((conn, now + Micros(patience)));
        let name = *name;
        self.send(conn, Message::CvRequest { name, first, count });
    }

    /// A peer asks for values.
    pub(crate) fn values_wanted(
        &mut self,
        now: Time,
        conn: ConnId,
        name: &SwarmName,
        first: u32,
        count: u32,
    ) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let can_tell = torrent.opened && (torrent.proven || torrent.is_growing());
        let Some(link) = torrent.links.get_mut(&conn) else {
            return;
        };
        if !can_tell {
            link.wants_values = true;
            return;
        }
        if torrent.proven {
            link.lists_sent += 1;
            if link.lists_sent > MAX_LISTS {
                let reason = "the same chaining values again and again";
                return self.close(now, conn, CloseReason::Protocol(reason));
            }
        }
        self.outputs.push_back(Output::SendCvs {
            conn,
            name: *name,
            first,
            count,
        });
    }

    /// The whole list came.
    pub(crate) fn list_came(&mut self, now: Time, conn: ConnId, name: SwarmName, cvs: Arc<[Cv]>) {
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        let asked = torrent.values_asked.is_some_and(|(of, _)| of == conn);
        if torrent.proven || torrent.proving.is_some() || !torrent.opened {
            return;
        }
        if torrent.is_growing() {
            // It knows the blob to be complete, and we will hear of that.
            if asked {
                torrent.values_asked = None;
            }
            return;
        }
        if cvs.len() != torrent.have.pieces() as usize {
            return self.values_wrong(now, conn, name);
        }
        torrent.proving = Some(conn);
        self.outputs.push_back(Output::ProveCvs { conn, name, cvs });
    }

    pub(crate) fn values_proven(&mut self, now: Time, name: &SwarmName) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        torrent.proving = None;
        torrent.values_asked = None;
        torrent.described_by = None;
        torrent.proven = true;
        torrent.review_all();
        let pieces = torrent.have.pieces();
        let mut waiting = Vec::new();
        for (conn, link) in &mut torrent.links {
            if std::mem::take(&mut link.wants_values) {
                waiting.push(*conn);
            }
        }
        for conn in waiting {
            self.values_wanted(now, conn, name, 0, pieces);
        }
        self.use_grants(now, name);
        self.ask_origin(now, name);
        self.refill(now);
    }

    /// Values that came are not those of the blob (§5.2).
    pub(crate) fn values_wrong(&mut self, now: Time, conn: ConnId, name: SwarmName) {
        self.stats.values_wrong += 1;
        if let Some(torrent) = self.torrents.get_mut(&name) {
            torrent.proving = None;
            torrent.values_asked = None;
        }
        self.close(now, conn, CloseReason::Corrupt);
        self.seek_values(now, &name);
    }

    /// Signed values of a growing blob came (§5.4).
    pub(crate) fn signed_came(
        &mut self,
        now: Time,
        conn: ConnId,
        name: SwarmName,
        generation: Generation,
        mut cvs: Vec<SignedCv>,
    ) {
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        if torrent.values_asked.is_some_and(|(of, _)| of == conn) {
            torrent.values_asked = None;
        }
        if !torrent.opened || torrent.generation() != Some(generation) {
            return;
        }
        let pieces = torrent.have.pieces();
        if let Some(link) = torrent.links.get_mut(&conn) {
            let known = cvs.iter().map(|cv| cv.piece);
            link.values.extend(known.filter(|piece| *piece < pieces));
        }
        cvs.retain(|cv| cv.piece < pieces && !torrent.known.contains(cv.piece));
        if cvs.is_empty() {
            return self.seek_values(now, &name);
        }
        self.outputs.push_back(Output::CheckGrowingCvs {
            conn,
            name,
            generation,
            cvs,
        });
    }

    pub(crate) fn signed_known(&mut self, now: Time, name: &SwarmName, pieces: &[PieceIndex]) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        for piece in pieces {
            torrent.known.insert(piece.get());
            torrent.review(piece.get());
        }
        self.seek_values(now, name);
        self.use_grants(now, name);
        self.refill(now);
    }

    /// A blob grew to its end (§5.5).
    pub(crate) fn grown(&mut self, now: Time, description: Description, by: Option<ConnId>) {
        let name = *description.name();
        if matches!(description, Description::Growing(_)) || !self.torrents.contains_key(&name) {
            return;
        }
        self.learn(now, &name, description, by);
    }
}

/// Returns the lowest piece that a neighbour has, whose value we do not know and that we lack.
fn unknown(theirs: &PieceSet, known: &PieceSet, have: &PieceSet) -> Option<u32> {
    let mut from = 0;
    while let Some(piece) = theirs.first_without(known, from..theirs.pieces()) {
        if !have.contains(piece) {
            return Some(piece);
        }
        from = piece + 1;
    }
    None
}
