//! What the shell says of pieces that were received whole.

use torrent::{PeerId, PieceIndex, SwarmName};

use crate::event::{CloseReason, ConnId};
use crate::message::Message;
use crate::swarm::Swarm;
use crate::time::Time;
use crate::timers::Timer;

impl Swarm {
    /// Notes that a piece does not wait for its verdict any more; returns who sent it.
    fn checked(&mut self, name: &SwarmName, piece: u32) -> Option<PeerId> {
        let torrent = self.torrents.get_mut(name)?;
        let (_, sender) = torrent.checking.remove(&piece)?;
        self.checking_bytes -= u64::from(torrent.size(piece));
        torrent.review(piece);
        Some(sender)
    }

    /// A piece was verified and stored.
    pub(crate) fn verified(&mut self, now: Time, conn: ConnId, name: SwarmName, piece: PieceIndex) {
        let raw = piece.get();
        let was_proven = match self.conns.get_mut(&conn) {
            Some(connection) => std::mem::replace(&mut connection.is_proven, true),
            None => true,
        };
        self.checked(&name, raw);
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        torrent.described_by = None;
        if !torrent.have.insert(raw) {
            self.stats.pieces_duplicate += 1;
            if !was_proven {
                self.fill(now, conn);
            }
            return self.uncap(now);
        }
        torrent.review(raw);
        torrent.received_bytes += u64::from(torrent.size(raw));
        torrent.useful_at = now;
        torrent.starving_since = None;
        let progress = torrent.progress();
        let is_step = progress > torrent.sixteenths;
        torrent.sixteenths = torrent.sixteenths.max(progress);
        self.stats.pieces_verified += 1;
        let asked = self.torrents.get(&name).and_then(|one| one.asked.get(&raw));
        for (conn, id) in asked.cloned().unwrap_or_default() {
            self.cancel(conn, id);
        }
        self.announce_piece(now, &name, raw);
        if !self.finish_if_complete(now, &name) && is_step {
            self.announce_progress(&name);
        }
        if !was_proven {
            self.fill(now, conn);
        }
        self.uncap(now);
    }

    /// A piece is not what it should be: its sender hears it and is left alone (§5.6).
    pub(crate) fn corrupt(&mut self, now: Time, conn: ConnId, name: SwarmName, piece: PieceIndex) {
        self.stats.pieces_corrupt += 1;
        let piece = piece.get();
        let sender = self.checked(&name, piece);
        let policy = &self.config.policy;
        if let Some(peer) = sender {
            self.back_off
                .put(peer, now, policy.corrupt_back_off, policy.max_back_offs);
        }
        if self.conns.contains_key(&conn) {
            self.stats.complaints_sent += 1;
            self.send(conn, Message::Complaint { name, piece });
            self.close(now, conn, CloseReason::Corrupt);
        }
        self.refill(now);
    }

    /// A piece could not be stored: after a pause it is tried again, until patience ends.
    pub(crate) fn not_stored(&mut self, now: Time, name: &SwarmName, piece: PieceIndex) {
        self.stats.pieces_not_stored += 1;
        self.checked(name, piece.get());
        let due = now + self.config.policy.store_pause;
        if let Some(torrent) = self.torrents.get_mut(name) {
            torrent.paused_until = due;
            self.timers.arm(Timer::Torrent(*name), due);
        }
    }
}
