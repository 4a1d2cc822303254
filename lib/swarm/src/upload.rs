//! Requests of others: who is served next, and how each of them ends (§6.2, §6.4).

use std::collections::{BTreeMap, BTreeSet};

use torrent::{PieceIndex, Role, SwarmName};

use crate::config::Policy;
use crate::event::{CloseReason, ConnId, Output};
use crate::message::{BlockRange, Message, Priority, RejectReason, RequestId, Target};
use crate::seed::{Choice, Paid};
use crate::swarm::Swarm;
use crate::time::Time;
use crate::timers::Timer;

/// Longest lag that counts: whoever states more is no better off.
const MAX_LAG_US: i64 = 3_600_000_000;

/// Place in the queue: what no grant pays for is last; then the most urgent first, then what was
/// sent to nobody yet (whoever gets it passes it on, and a piece that only we have is what the
/// whole swarm waits for), then the least virtual time, then the first that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    rationed: bool,
    priority: Priority,
    sent_before: bool,
    virtual_us: i64,
    turn: u64,
}

type Key = (ConnId, RequestId);

/// A request that has not ended.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) name: SwarmName,
    /// Absent while an origin has not chosen.
    pub(crate) piece: Option<u32>,
    pub(crate) blocks: Option<BlockRange>,
    pub(crate) paid: Paid,
    rank: Rank,
    started_at: Option<Time>,
}

/// All requests of others.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    all: BTreeMap<Key, Upload>,
    waiting: BTreeSet<(Rank, Key)>,
    active: BTreeMap<Key, Time>,
    turn: u64,
}

impl Uploads {
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn active(&self) -> usize {
        self.active.len()
    }

    /// Returns whether requests of this connection have not ended.
    pub(crate) fn serves(&self, conn: ConnId) -> bool {
        self.of(conn).next().is_some()
    }

    fn of(&self, conn: ConnId) -> impl Iterator<Item = (&Key, &Upload)> {
        let all = (conn, RequestId(0))..=(conn, RequestId(u32::MAX));
        self.all.range(all)
    }

    fn is_active(&self, conn: ConnId) -> bool {
        let all = (conn, RequestId(0))..=(conn, RequestId(u32::MAX));
        self.active.range(all).next().is_some()
    }

    fn remove(&mut self, key: Key) -> Option<Upload> {
        let upload = self.all.remove(&key)?;
        self.waiting.remove(&(upload.rank, key));
        self.active.remove(&key);
        Some(upload)
    }

    /// Returns how many requests without a grant there are, in all and of this connection.
    pub(crate) fn rationed(&self, conn: ConnId) -> (usize, usize) {
        let is_rationed = |upload: &&Upload| upload.paid == Paid::Ration;
        let all = self.all.values().filter(is_rationed).count();
        let of = self.of(conn).map(|(_, upload)| upload);
        (all, of.filter(is_rationed).count())
    }

    /// Returns whether one more may start now. `is_there` tells whether the receiver lives.
    fn has_room(&self, now: Time, policy: &Policy, is_there: impl Fn(ConnId) -> bool) -> bool {
        let alive = self.active.iter().filter(|((conn, _), _)| is_there(*conn));
        let (mut all, mut flowing) = (0, 0);
        for (_, started_at) in alive {
            all += 1;
            flowing += usize::from(*started_at + policy.stall > now);
        }
        all < policy.max_uploads && flowing < policy.max_interleaved
    }

    /// A piece was sent for the first time: who waits for it waits behind others now.
    fn was_sent(&mut self, name: &SwarmName, piece: u32) {
        let waiting = self.waiting.iter().filter(|(rank, key)| {
            let upload = self.all.get(key);
            let is_it = upload.is_some_and(|one| one.piece == Some(piece) && one.name == *name);
            is_it && !rank.sent_before
        });
        let moved: Vec<(Rank, Key)> = waiting.copied().collect();
        for (mut rank, key) in moved {
            self.waiting.remove(&(rank, key));
            rank.sent_before = true;
            self.waiting.insert((rank, key));
            if let Some(upload) = self.all.get_mut(&key) {
                upload.rank = rank;
            }
        }
    }

    /// Returns when the next upload stalls, where somebody waits for that.
    fn next_stall(&self, now: Time, policy: &Policy) -> Option<Time> {
        let stalls = self.active.values().map(|at| *at + policy.stall);
        let next = stalls.filter(|at| *at > now).min();
        next.filter(|_| !self.waiting.is_empty())
    }

    /// Checks the books; used by [`crate::invariants`].
    pub(crate) fn is_sound(&self) -> bool {
        let waiting = self.all.values().filter(|one| one.started_at.is_none());
        let listed = self.waiting.iter().all(|(rank, key)| {
            self.all
                .get(key)
                .is_some_and(|upload| upload.rank == *rank && upload.started_at.is_none())
        });
        listed
            && waiting.count() == self.waiting.len()
            && self.waiting.len() + self.active.len() == self.all.len()
    }

    pub(crate) fn conns(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.all.keys().map(|(conn, _)| *conn)
    }

    /// Returns the receivers of what is being sent.
    pub(crate) fn receivers(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.active.keys().map(|(conn, _)| *conn)
    }
}

impl Swarm {
    /// A peer asks for something.
    pub(crate) fn requested(
        &mut self,
        now: Time,
        conn: ConnId,
        id: RequestId,
        name: SwarmName,
        target: Target,
        (priority, lag_us): (Priority, i64),
    ) {
        if self.uploads.all.contains_key(&(conn, id)) {
            let reason = "a request with the id of an open one";
            return self.close(now, conn, CloseReason::Protocol(reason));
        }
        let (piece, blocks) = match target {
            Target::Piece(piece) => (Some(piece), None),
            Target::Blocks(piece, blocks) => (Some(piece), Some(blocks)),
            Target::Any => (None, None),
        };
        let admitted = match self.servable(&name, piece, blocks) {
            Err(Refusal::Breach(reason)) => {
                return self.close(now, conn, CloseReason::Protocol(reason));
            }
            Err(Refusal::Reject(reason)) => Err(reason),
            Ok(()) if self.is_crowded(conn) => Err(RejectReason::Busy),
            Ok(()) => self.admit(now, conn, &name, piece),
        };
        let paid = match admitted {
            Ok(paid) => paid,
            Err(reason) => return self.reject(conn, id, reason),
        };
        self.uploads.turn += 1;
        let arrived = i64::try_from(now.0).unwrap_or(i64::MAX);
        let lag_us = lag_us.clamp(-MAX_LAG_US, MAX_LAG_US);
        let rank = Rank {
            rationed: paid == Paid::Ration,
            priority,
            sent_before: self.was_sent(&name, piece),
            // Absolute, so that waiting counts: a number that does not age starves who comes late.
            virtual_us: arrived.saturating_sub(lag_us),
            turn: self.uploads.turn,
        };
        let upload = Upload {
            name,
            piece,
            blocks,
            paid,
            rank,
            started_at: None,
        };
        self.uploads.all.insert((conn, id), upload);
        self.uploads.waiting.insert((rank, (conn, id)));
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.used_at = now;
        }
        let policy = &self.config.policy;
        self.timers.arm(Timer::Queued(conn), now + policy.queued);
        self.start_uploads(now);
    }

    fn was_sent(&self, name: &SwarmName, piece: Option<u32>) -> bool {
        let sent = self.torrents.get(name).map(|torrent| &torrent.sent);
        sent.zip(piece)
            .is_some_and(|(sent, piece)| sent.contains(piece))
    }

    fn is_crowded(&self, conn: ConnId) -> bool {
        let policy = &self.config.policy;
        self.uploads.all.len() >= policy.max_waiting
            || self.uploads.of(conn).count() >= policy.max_waiting_per_peer
    }

    /// Says whether this could be sent at all.
    fn servable(
        &self,
        name: &SwarmName,
        piece: Option<u32>,
        blocks: Option<BlockRange>,
    ) -> Result<(), Refusal> {
        let not_here = Refusal::Reject(RejectReason::NotHere);
        let Some(torrent) = self.torrents.get(name) else {
            return Err(not_here);
        };
        let (Some(geometry), Some(piece)) = (torrent.geometry(), piece) else {
            return if piece.is_none() {
                Ok(())
            } else {
                Err(not_here)
            };
        };
        if piece >= geometry.pieces() {
            return Err(Refusal::Breach("a request for no such piece"));
        }
        if let Some(blocks) = blocks {
            let end = u32::from(blocks.first) + u32::from(blocks.count);
            let all = torrent.size(piece).div_ceil(torrent::piece::BLOCK_BYTES);
            if blocks.count == 0 || end > all {
                return Err(Refusal::Breach("a request for no such blocks"));
            }
        }
        if torrent.have.contains(piece) {
            Ok(())
        } else {
            Err(not_here)
        }
    }

    pub(crate) fn reject(&mut self, conn: ConnId, id: RequestId, reason: RejectReason) {
        self.stats.rejects_sent += 1;
        self.send(conn, Message::Reject { id, reason });
    }

    /// Starts what may be started, the least virtual time first.
    pub(crate) fn start_uploads(&mut self, now: Time) {
        loop {
            let policy = &self.config.policy;
            let silence = policy.silence;
            let is_there = |conn: ConnId| {
                let connection = self.conns.get(&conn);
                connection.is_some_and(|one| one.pinged_at.is_none_or(|at| at + silence > now))
            };
            if !self.uploads.has_room(now, policy, is_there) {
                if let Some(due) = self.uploads.next_stall(now, policy) {
                    self.timers.arm(Timer::Uploads, due);
                }
                return;
            }
            let mut next = None;
            let mut nothing = None;
            for (_, key) in &self.uploads.waiting {
                if self.uploads.is_active(key.0) {
                    continue;
                }
                let Some(upload) = self.uploads.all.get(key) else {
                    continue;
                };
                match upload.piece {
                    Some(piece) => next = Some((*key, piece)),
                    None => match self.choose_piece(&upload.name, Some(key.0)) {
                        Choice::Give(piece) => next = Some((*key, piece)),
                        Choice::Later => continue,
                        Choice::Nothing => nothing = Some(*key),
                    },
                }
                break;
            }
            match (next, nothing) {
                (Some((key, piece)), _) => self.start_upload(now, key, piece),
                (None, Some(key)) => {
                    self.end_upload(now, key, Some(RejectReason::NothingToGive));
                }
                (None, None) => return self.underused(now),
            }
        }
    }

    fn start_upload(&mut self, now: Time, key: Key, piece: u32) {
        let Some(upload) = self.uploads.all.get_mut(&key) else {
            return;
        };
        let name = upload.name;
        let Some(index) = self.torrents.get(&name).and_then(|one| one.index(piece)) else {
            return self.end_upload(now, key, Some(RejectReason::NotHere));
        };
        self.uploads.waiting.remove(&(upload.rank, key));
        upload.piece = Some(piece);
        upload.started_at = Some(now);
        self.uploads.active.insert(key, now);
        let (paid, blocks, priority) = (upload.paid, upload.blocks, upload.rank.priority);
        let (conn, id) = key;
        self.stats.uploads_started += 1;
        let first = self.torrents.get_mut(&name);
        if first.is_some_and(|torrent| torrent.sent.insert(piece)) {
            self.uploads.was_sent(&name, piece);
        }
        self.giving(now, conn, &name, piece, paid);
        self.timers
            .arm(Timer::Connection(conn), now + self.config.policy.silence);
        self.outputs.push_back(Output::Upload {
            conn,
            id,
            name,
            piece: index,
            blocks,
            priority,
        });
    }

    /// Ends a request that was not sent to its end.
    fn end_upload(&mut self, now: Time, key: Key, reason: Option<RejectReason>) {
        let Some(upload) = self.uploads.remove(key) else {
            return;
        };
        let (conn, id) = key;
        let started = upload.started_at.is_some();
        if let Some(reason) = reason {
            if started && reason != RejectReason::NotHere {
                self.outputs.push_back(Output::CancelUpload { conn, id });
            }
            self.reject(conn, id, reason);
        }
        self.not_given_after_all(now, conn, &upload, started);
    }

    pub(crate) fn upload_done(&mut self, now: Time, conn: ConnId, id: RequestId) {
        if let Some(upload) = self.uploads.remove((conn, id)) {
            self.stats.uploads_done += 1;
            if let Some(connection) = self.conns.get_mut(&conn) {
                connection.used_at = now;
            }
            if let Some(piece) = upload.piece {
                self.delivered(now, &upload.name, piece);
            }
            self.start_uploads(now);
        }
    }

    pub(crate) fn upload_failed(&mut self, now: Time, conn: ConnId, id: RequestId) {
        self.stats.uploads_failed += 1;
        self.end_upload(now, (conn, id), Some(RejectReason::NotHere));
        self.start_uploads(now);
    }

    /// A peer does not want it any more (§6.5).
    pub(crate) fn upload_cancelled(&mut self, now: Time, conn: ConnId, id: RequestId) {
        self.end_upload(now, (conn, id), Some(RejectReason::Cancelled));
        self.start_uploads(now);
    }

    /// The connection is gone, and its requests with it.
    pub(crate) fn uploads_closed(&mut self, now: Time, conn: ConnId) {
        let keys: Vec<Key> = self.uploads.of(conn).map(|(key, _)| *key).collect();
        for key in &keys {
            self.end_upload(now, *key, None);
        }
        if !keys.is_empty() {
            self.start_uploads(now);
        }
    }

    /// Ends all requests for a blob that is not here any more.
    pub(crate) fn reject_all(&mut self, now: Time, name: &SwarmName, reason: RejectReason) {
        let all = self.uploads.all.iter();
        let keys: Vec<Key> = all
            .filter(|(_, upload)| upload.name == *name)
            .map(|(key, _)| *key)
            .collect();
        for (conn, id) in keys {
            let started = self.uploads.active.contains_key(&(conn, id));
            if started && reason == RejectReason::NotHere {
                self.outputs.push_back(Output::CancelUpload { conn, id });
            }
            self.end_upload(now, (conn, id), Some(reason));
        }
    }

    /// Tells a peer whose requests wait that they do (§6.6).
    pub(crate) fn queued_due(&mut self, now: Time, conn: ConnId) {
        let ahead = u16::try_from(self.uploads.waiting()).unwrap_or(u16::MAX);
        let waiting = self.uploads.of(conn);
        let mut ids: Vec<RequestId> = waiting
            .filter(|(_, upload)| upload.started_at.is_none())
            .map(|((_, id), _)| *id)
            .collect();
        if ids.is_empty() {
            // What is being sent may wait behind others for a frame.
            ids.extend(self.uploads.of(conn).map(|((_, id), _)| *id).next());
        }
        if ids.is_empty() {
            return;
        }
        for id in ids {
            self.stats.queued_sent += 1;
            self.send(conn, Message::Queued { id, ahead });
        }
        self.timers
            .arm(Timer::Queued(conn), now + self.config.policy.queued);
        // One that stalls makes room for another.
        self.start_uploads(now);
    }

    /// A peer says that our copy is bad (§5.6).
    pub(crate) fn complained(&mut self, now: Time, conn: ConnId, name: SwarmName, piece: u32) {
        /// Complaints of one connection that are looked into.
        const MAX_COMPLAINTS: u32 = 64;
        let Some(connection) = self.conns.get_mut(&conn) else {
            return;
        };
        connection.complaints += 1;
        self.stats.complaints_received += 1;
        if connection.complaints > MAX_COMPLAINTS {
            let reason = "complaints without end";
            return self.close(now, conn, CloseReason::Protocol(reason));
        }
        let index: Option<PieceIndex> = self.torrents.get(&name).and_then(|torrent| {
            let index = torrent.index(piece)?;
            torrent.have.contains(piece).then_some(index)
        });
        if let Some(piece) = index {
            self.outputs.push_back(Output::Recheck { name, piece });
        }
    }

    /// Says what pays for a request, or why nothing does.
    fn admit(
        &mut self,
        now: Time,
        conn: ConnId,
        name: &SwarmName,
        piece: Option<u32>,
    ) -> Result<Paid, RejectReason> {
        let peer = self.conns.get(&conn).and_then(|one| one.peer.as_ref());
        let is_agent = peer.is_some_and(|peer| peer.role == Role::Agent);
        match (self.config.me.role, piece) {
            (Role::Origin, _) if is_agent => self.admit_paid(now, conn, name, piece),
            (_, None) => Err(RejectReason::NoGrant),
            (_, Some(_)) => Ok(Paid::Free),
        }
    }
}

/// Why something cannot be sent.
enum Refusal {
    Reject(RejectReason),
    /// Nobody who keeps to the protocol asks for this.
    Breach(&'static str),
}
