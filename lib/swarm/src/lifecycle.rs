//! From the wish for a blob to its end: described, opened, complete, failed, lost, removed.

use std::sync::Arc;

use torrent::{Bitfield, Description, PieceIndex, Role, SwarmName};

use crate::event::{CloseReason, ConnId, Failure, Output};
use crate::message::{AnnounceEvent, Message, Priority, RejectReason};
use crate::set::PieceSet;
use crate::swarm::Swarm;
use crate::time::Time;
use crate::timers::Timer;
use crate::torrent::{Torrent, Wanted};

impl Swarm {
    /// Somebody wants the blob here.
    pub(crate) fn download(&mut self, now: Time, name: SwarmName, priority: Priority, whole: bool) {
        let is_new = !self.torrents.contains_key(&name);
        let torrent = self
            .torrents
            .entry(name)
            .or_insert_with(|| Torrent::new(now));
        if torrent.is_complete() {
            self.outputs.push_back(Output::Completed { name });
            return;
        }
        match &mut torrent.wanted {
            Some(wanted) => {
                wanted.priority = wanted.priority.min(priority);
                wanted.whole |= whole;
            }
            None => {
                let since = now;
                torrent.wanted = Some(Wanted {
                    priority,
                    whole,
                    since,
                });
            }
        }
        torrent.useful_at = torrent.useful_at.max(now);
        self.timers
            .arm(Timer::Torrent(name), now + self.config.policy.tick);
        if is_new {
            self.join(&name);
            self.without_trackers(now, &name);
        } else {
            self.refill(now);
        }
    }

    /// This process has all of the blob.
    pub(crate) fn seed(&mut self, now: Time, description: Description) {
        let name = *description.name();
        let pieces = description.geometry().pieces();
        let torrent = self
            .torrents
            .entry(name)
            .or_insert_with(|| Torrent::new(now));
        let was_complete = torrent.is_complete();
        torrent.description = Some(description);
        torrent.opened = true;
        torrent.proven = true;
        torrent.picker = None;
        torrent.size_sets(pieces);
        torrent.have = PieceSet::full(pieces);
        if self.config.me.role == Role::Origin {
            torrent
                .pass
                .get_or_insert_with(|| crate::seed::FirstPass::new(pieces));
        }
        self.end_requests(now, &name);
        if !was_complete {
            self.announce_complete(&name);
        }
        self.reintroduce(now, &name);
    }

    /// Takes a description, if it is better than what is known: `by` is the neighbour that told
    /// it, `None` where it was a tracker.
    pub(crate) fn learn(
        &mut self,
        now: Time,
        name: &SwarmName,
        description: Description,
        by: Option<ConnId>,
    ) {
        let known = self.torrents.get(name).map(|one| one.description);
        let is_news = match known {
            None => return,
            Some(None) => true,
            Some(Some(known)) => !matches!(known, Description::Complete(_)) && known != description,
        };
        // Storage checks it too; but by then neighbours would have heard it, and blamed us.
        if let (true, Some(conn), Some(key)) = (is_news, by, &self.config.key)
            && description.verify(key).is_err()
        {
            return self.close(now, conn, CloseReason::Corrupt);
        }
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        match (&torrent.description, &description) {
            (None, _) => {
                let pieces = description.geometry().pieces();
                torrent.description = Some(description);
                torrent.described_by = by.map(|conn| (conn, None));
                torrent.size_sets(pieces);
                self.outputs.push_back(Output::Open { description });
                self.reintroduce(now, name);
            }
            (Some(Description::Growing(known)), Description::Complete(summary))
                if known.geometry() == summary.geometry() =>
            {
                let before = torrent.description.replace(description);
                torrent.described_by = by.map(|conn| (conn, before));
                torrent.proven |= torrent.have.is_full() || summary.geometry().pieces() <= 1;
                self.outputs.push_back(Output::Described { description });
                self.pass_on_grown(now, name, by);
            }
            (Some(_), _) => {}
        }
    }

    /// The blob grew to its end: neighbours hear it once, and a download may be complete.
    fn pass_on_grown(&mut self, now: Time, name: &SwarmName, by: Option<ConnId>) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let Some(description) = torrent.description else {
            return;
        };
        let links = torrent.links.iter();
        let told: Vec<ConnId> = links
            .filter(|(conn, link)| link.heard && Some(**conn) != by)
            .map(|(conn, _)| *conn)
            .collect();
        torrent.review_all();
        for conn in told {
            self.send(conn, Message::Grown { description });
        }
        self.finish_if_complete(now, name);
        self.seek_values(now, name);
        self.refill(now);
    }

    /// Storage is ready.
    pub(crate) fn opened(&mut self, now: Time, name: SwarmName, have: &Bitfield, proven: bool) {
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        let Some(geometry) = torrent.geometry() else {
            return;
        };
        let stored = PieceSet::from_bitfield(&geometry, have);
        for piece in stored.iter() {
            torrent.have.insert(piece);
        }
        torrent.opened = true;
        torrent.described_by = None;
        torrent.proven |= proven || (!torrent.is_growing() && geometry.pieces() <= 1);
        torrent.useful_at = now;
        if torrent.is_growing() && self.config.me.role == Role::Origin {
            // Its own values are known as far as it got.
            for piece in stored.iter() {
                torrent.known.insert(piece);
            }
        } else if !torrent.have.is_full() {
            torrent.start_picking();
        }
        torrent.sixteenths = torrent.progress();
        let (begun, some) = (torrent.sixteenths > 0, !torrent.have.is_empty());
        if self.finish_if_complete(now, &name) {
            return self.reintroduce(now, &name);
        }
        if begun {
            self.announce_progress(&name);
        }
        if some {
            self.reintroduce(now, &name);
        }
        self.seek_values(now, &name);
        self.use_grants(now, &name);
        self.start_uploads(now);
        self.refill(now);
    }

    /// Storage does not take the blob: the description is not signed, or the disk is at its end.
    pub(crate) fn open_failed(&mut self, now: Time, name: SwarmName, reason: Arc<str>) {
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        let Some((conn, before)) = torrent.described_by.take() else {
            if self.config.me.role == Role::Origin {
                self.storage_failed(&name);
            }
            return self.fail(now, name, Failure::Unavailable(reason));
        };
        // What a neighbour said was not true; somebody else may know better.
        torrent.description = before;
        if before.is_none() {
            torrent.size_sets(0);
            torrent.opened = false;
        }
        self.close(now, conn, CloseReason::Corrupt);
    }

    /// Ends the download if all is here; returns whether it is complete.
    pub(crate) fn finish_if_complete(&mut self, now: Time, name: &SwarmName) -> bool {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return false;
        };
        if !torrent.is_complete() {
            return false;
        }
        torrent.picker = None;
        torrent.proven = true;
        torrent.granted.clear();
        torrent.starving_since = None;
        torrent.sixteenths = 16;
        self.end_requests(now, name);
        self.outputs.push_back(Output::Completed { name: *name });
        self.stats.completed += 1;
        self.announce_complete(name);
        true
    }

    /// Ends a download without the blob.
    pub(crate) fn fail(&mut self, now: Time, name: SwarmName, failure: Failure) {
        if !self.torrents.contains_key(&name) {
            return;
        }
        let reason = match &failure {
            Failure::Revoked(_) => RejectReason::Revoked,
            Failure::Absent | Failure::Unavailable(_) => RejectReason::NotHere,
        };
        if matches!(failure, Failure::Unavailable(_)) {
            self.announce(&name, AnnounceEvent::Leave);
        }
        self.stats.failed += 1;
        self.forget(now, name, reason);
        self.outputs.push_back(Output::Failed { name, failure });
    }

    /// The blob was evicted or given up.
    pub(crate) fn remove(&mut self, now: Time, name: SwarmName) {
        if self.torrents.contains_key(&name) {
            self.announce(&name, AnnounceEvent::Leave);
            self.forget(now, name, RejectReason::NotHere);
        }
    }

    /// Drops a blob; neighbours hear that nothing of it is here.
    fn forget(&mut self, now: Time, name: SwarmName, reason: RejectReason) {
        self.end_requests(now, &name);
        self.reject_all(now, &name, reason);
        let Some(torrent) = self.torrents.remove(&name) else {
            return;
        };
        self.checking_bytes -= torrent.checking_bytes();
        for (conn, link) in &torrent.links {
            if let Some(connection) = self.conns.get_mut(conn) {
                connection.names.remove(&name);
            }
            // To an origin it would be a question, whose answer comes too late for this download
            // and too early for the next.
            if link.heard && !self.is_served_by(*conn) && reason != RejectReason::Revoked {
                let nothing = Message::Bitfield {
                    name,
                    description: None,
                    have: Vec::new(),
                };
                self.send(*conn, nothing);
            }
        }
        for reader in torrent.readers.keys() {
            self.readers.remove(reader);
        }
        for timer in [Timer::Haves(name), Timer::Torrent(name)] {
            self.timers.disarm(timer);
        }
        self.grants_forgotten(&name);
        self.uncap(now);
    }

    /// A stored piece turned out damaged: it is fetched again.
    pub(crate) fn piece_lost(&mut self, now: Time, name: SwarmName, piece: PieceIndex) {
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        if !torrent.have.remove(piece.get()) {
            return;
        }
        self.stats.pieces_lost += 1;
        // An origin takes nothing from peers: storage is asked again when somebody wants it.
        if self.config.me.role == Role::Origin {
            return;
        }
        let was_seeding = torrent.picker.is_none();
        let since = now;
        torrent.wanted.get_or_insert(Wanted {
            priority: Priority::Bulk,
            whole: true,
            since,
        });
        torrent.useful_at = now;
        torrent.start_picking();
        torrent.review(piece.get());
        torrent.sixteenths = torrent.progress();
        if was_seeding {
            // The tracker must not name us as one that has all.
            self.announce(&name, AnnounceEvent::Leave);
            self.join(&name);
        }
        self.timers
            .arm(Timer::Torrent(name), now + self.config.policy.tick);
        self.refill(now);
    }

    /// The source of a blob did not match (§8). `by` is the neighbour that told it, `None` where
    /// it was our own storage or the tracker.
    pub(crate) fn revoke(
        &mut self,
        now: Time,
        name: SwarmName,
        generation: Option<torrent::Generation>,
        reason: Arc<str>,
        by: Option<ConnId>,
    ) {
        let Some(torrent) = self.torrents.get(&name) else {
            return;
        };
        let known = torrent.generation();
        // Another generation is another attempt; a complete description is signed, and only who
        // signs may take it back.
        let trusted = by.is_none_or(|conn| self.is_served_by(conn) || self.is_partner_conn(conn));
        let concerned = match (known, generation) {
            (Some(known), Some(revoked)) => known == revoked,
            // Nothing of that generation is here: this is another attempt.
            (None, Some(_)) if torrent.description.is_none() => false,
            (None, _) | (_, None) => trusted,
        };
        if !concerned {
            return;
        }
        let links = torrent.links.iter();
        let told: Vec<ConnId> = links
            .filter(|(conn, link)| (link.heard || link.told_at.is_some()) && Some(**conn) != by)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in told {
            let reason = Arc::clone(&reason);
            self.send(
                conn,
                Message::Revoke {
                    name,
                    generation,
                    reason,
                },
            );
        }
        if by.is_none() && self.config.me.role == Role::Origin {
            let reason = Arc::clone(&reason);
            let message = Message::Revoke {
                name,
                generation,
                reason,
            };
            self.outputs.push_back(Output::Tracker { name, message });
        }
        self.stats.revoked += 1;
        self.fail(now, name, Failure::Revoked(reason));
    }
}
