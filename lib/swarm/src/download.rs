//! Requests of ours: how many, of whom, for what, and what comes of them (§6).

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use torrent::{Role, SwarmName};

use crate::connection::{Request, smooth};
use crate::event::{CloseReason, ConnId};
use crate::message::{Message, Priority, RejectReason, RequestId, Target};
use crate::swarm::Swarm;
use crate::time::{Micros, Time};
use crate::timers::Timer;
use crate::torrent::Torrent;

/// Requests on one connection that may wait for their end, cancelled ones included. A peer that
/// ends none of them breaks §6.2.
const MAX_UNENDED: usize = 1_024;
/// Answers in a row that a piece is not there after which the peer has nothing to us.
const MAX_REFUSALS: u32 = 4;
/// Longest lag that is stated, either way.
const MAX_LAG: Micros = Micros::from_secs(3_600);

impl Swarm {
    /// Asks all peers that may be asked for more, beginning anywhere.
    pub(crate) fn refill(&mut self, now: Time) {
        // Origins take nothing from peers.
        if self.config.me.role == Role::Origin {
            return;
        }
        let conns: Vec<ConnId> = self.peers.values().copied().collect();
        let start = if conns.is_empty() {
            0
        } else {
            self.rng.random_range(0..conns.len())
        };
        for conn in conns.iter().cycle().skip(start).take(conns.len()) {
            self.fill(now, *conn);
        }
    }

    /// Asks the peer for as much as it may be asked for.
    pub(crate) fn fill(&mut self, now: Time, conn: ConnId) {
        loop {
            let Some(connection) = self.conns.get(&conn) else {
                return;
            };
            let is_ready = connection.peer.is_some()
                && !connection.is_silent
                && connection.busy_until <= now
                && !self.is_served_by(conn);
            if !is_ready || connection.live >= self.room(conn) {
                return;
            }
            let choice = self
                .choose(now, conn)
                .or_else(|| self.choose_again(now, conn));
            let Some((name, piece, priority)) = choice else {
                return;
            };
            if !self.has_room() && priority > Priority::Foreground {
                self.capped = true;
                return;
            }
            self.request(now, conn, name, Target::Piece(piece), priority);
        }
    }

    /// Returns how many requests may be open at the peer: one and what fills the round trip; more
    /// where so few peers have anything that they would wait for us.
    fn room(&self, conn: ConnId) -> usize {
        let policy = &self.config.policy;
        let Some(connection) = self.conns.get(&conn) else {
            return 0;
        };
        // What a peer sends may be damaged: before its first piece was checked it is asked for no
        // other, so that damage costs one piece.
        if !connection.is_proven && !connection.is_origin() {
            return usize::from(!self.is_being_checked(conn));
        }
        let mut holders = policy.few_peers_open;
        for torrent in connection
            .names
            .iter()
            .filter_map(|name| self.torrents.get(name))
        {
            if torrent.picker.is_some() {
                let has = |have: &crate::set::PieceSet| !have.is_empty();
                let links = torrent.links.values();
                let some = links.filter(|link| link.have.as_ref().is_some_and(has));
                holders = holders.min(some.count().max(1));
            }
        }
        let few = policy.few_peers_open.div_ceil(holders);
        let travelling = match (connection.round_trip, connection.service) {
            (Some(round_trip), Some(service)) if service > round_trip => {
                round_trip.0 / (service.0 - round_trip.0)
            }
            (Some(_), Some(_)) => u64::MAX,
            (None, _) | (_, None) => 0,
        };
        let travelling = usize::try_from(travelling).unwrap_or(usize::MAX);
        few.max(travelling.saturating_add(1))
            .min(policy.max_open_per_peer)
    }

    /// Returns whether a piece of this connection waits for its verdict.
    fn is_being_checked(&self, conn: ConnId) -> bool {
        let Some(connection) = self.conns.get(&conn) else {
            return false;
        };
        let torrents = connection.names.iter();
        let mut checking = torrents
            .filter_map(|name| self.torrents.get(name))
            .flat_map(|torrent| torrent.checking.values());
        checking.any(|(sender, _)| *sender == conn)
    }

    /// Returns how many requests may be open in all: a peer that is slow, whatever it believes,
    /// must not hold slots of others with more than it can take.
    pub(crate) fn cap(&self) -> usize {
        let policy = &self.config.policy;
        let measured = self.rate.get().unwrap_or(policy.assumed_rate);
        let rate = self.config.download_rate.unwrap_or(u64::MAX).min(measured);
        let pieces = (rate / 1_000_000 * policy.open_time.0) >> 20;
        let pieces = usize::try_from(pieces).unwrap_or(usize::MAX);
        pieces.clamp(policy.min_open, policy.max_open)
    }

    /// Returns whether more may be asked for: of the peers, and of our own disk.
    pub(crate) fn has_room(&self) -> bool {
        self.open < self.cap() && self.checking_bytes < self.config.policy.max_checking_bytes
    }

    /// Returns the rate in bytes per second of the own schedule. It never sinks because little
    /// came: whoever starves would state that it is in no hurry, and starve on.
    fn own_rate(&self) -> u64 {
        let rate = self.rate.peak().max(self.config.policy.assumed_rate);
        rate.min(self.config.download_rate.unwrap_or(u64::MAX))
            .max(1)
    }

    /// Returns the most urgent piece to ask this peer for, of all blobs.
    fn choose(&mut self, now: Time, conn: ConnId) -> Option<(SwarmName, u32, Priority)> {
        let connection = self.conns.get(&conn)?;
        let names = &connection.names;
        let start = if names.len() > 1 {
            self.rng.random_range(0..names.len())
        } else {
            0
        };
        let mut best: Option<(SwarmName, u32, Priority)> = None;
        for name in names.iter().cycle().skip(start).take(names.len()) {
            let Some(torrent) = self.torrents.get(name).filter(|one| one.can_ask(now)) else {
                continue;
            };
            let policy = &self.config.policy;
            let share = policy.window_share;
            let picked = torrent.pick(&mut self.rng, conn, share, policy.window_bytes);
            if let Some((piece, priority)) = picked
                && best.is_none_or(|(.., before)| priority < before)
            {
                best = Some((*name, piece, priority));
            }
        }
        best
    }

    /// Sends a request.
    pub(crate) fn request(
        &mut self,
        now: Time,
        conn: ConnId,
        name: SwarmName,
        target: Target,
        priority: Priority,
    ) {
        let lag_us = self.lag(now, &name);
        let (Some(connection), Some(torrent)) =
            (self.conns.get_mut(&conn), self.torrents.get_mut(&name))
        else {
            return;
        };
        if connection.open.len() >= MAX_UNENDED {
            let reason = "requests that do not end";
            return self.close(now, conn, CloseReason::Protocol(reason));
        }
        let id = connection.next_id();
        let piece = match target {
            Target::Piece(piece) | Target::Blocks(piece, _) => Some(piece),
            Target::Any => None,
        };
        match piece {
            Some(piece) => {
                torrent.asked.entry(piece).or_default().push((conn, id));
                torrent.review(piece);
            }
            None => torrent.unchosen += 1,
        }
        if connection.live == 0 {
            connection.due_since = now;
        }
        let request = Request {
            name,
            piece,
            sent_at: now,
            got: 0,
            first_at: None,
            cancelled: false,
        };
        connection.open.insert(id, request);
        connection.live += 1;
        connection.used_at = now;
        self.open += 1;
        self.stats.requests += 1;
        let due = now + self.config.policy.silence;
        self.timers.arm(Timer::Connection(conn), due);
        self.send(
            conn,
            Message::Request {
                id,
                name,
                target,
                priority,
                lag_us,
            },
        );
    }

    /// Returns how far the download is behind its own schedule: pieces at the own rate, from the
    /// moment it was wanted. What is on its way counts as here.
    fn lag(&self, now: Time, name: &SwarmName) -> i64 {
        let Some(torrent) = self.torrents.get(name) else {
            return 0;
        };
        let Some(wanted) = &torrent.wanted else {
            return 0;
        };
        let piece = torrent.geometry().map_or(0, |known| known.piece_length());
        let travelling = (torrent.asked.len() + torrent.unchosen) as u64 * u64::from(piece);
        let bytes = torrent.received_bytes + travelling;
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.own_rate());
        let schedule = i64::try_from(micros).unwrap_or(i64::MAX);
        let passed = i64::try_from(now.since(wanted.since).0).unwrap_or(i64::MAX);
        let max = i64::try_from(MAX_LAG.0).unwrap_or(i64::MAX);
        passed.saturating_sub(schedule).clamp(-max, max)
    }

    /// A frame of payload was read (§6.3).
    pub(crate) fn data(
        &mut self,
        now: Time,
        conn: ConnId,
        id: RequestId,
        (piece, offset, length, last): (u32, u32, u32, bool),
    ) {
        self.rate.add(now, length);
        self.stats.received_bytes += u64::from(length);
        let Some(connection) = self.conns.get_mut(&conn) else {
            return;
        };
        let Some(request) = connection.open.get_mut(&id) else {
            if !connection.is_forgiven(id) {
                let reason = "data that nobody asked for";
                self.close(now, conn, CloseReason::Protocol(reason));
            }
            return;
        };
        connection.used_at = now;
        if request.cancelled {
            self.stats.wasted_bytes += u64::from(length);
            if last {
                connection.open.remove(&id);
                connection.forgive(id);
            }
            return;
        }
        let name = request.name;
        let torrent = self.torrents.get(&name);
        let size = torrent.map_or(0, |torrent| torrent.size(piece));
        let end = u64::from(offset) + u64::from(length);
        let fits = request.piece.is_none_or(|asked| asked == piece)
            && offset == request.got
            && end <= u64::from(size)
            && last == (end == u64::from(size));
        if !fits {
            let reason = "data of another piece, or out of order";
            return self.close(now, conn, CloseReason::Protocol(reason));
        }
        request.got += length;
        let is_first = request.first_at.is_none();
        if is_first {
            request.first_at = Some(now);
            let first = now.since(request.sent_at);
            let shortest = connection
                .round_trip
                .map_or(first, |before| before.min(first));
            connection.round_trip = Some(shortest);
        }
        if request.piece.is_none() {
            request.piece = Some(piece);
            if !self.chosen(conn, id, &name, piece) {
                return;
            }
        }
        if is_first {
            self.cancel_others(&name, piece, (conn, id), false);
        }
        if last {
            self.received(now, conn, id, &name, piece);
        }
    }

    /// An origin chose this piece for a request of ours; returns whether it is of use.
    fn chosen(&mut self, conn: ConnId, id: RequestId, name: &SwarmName, piece: u32) -> bool {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return false;
        };
        torrent.unchosen = torrent.unchosen.saturating_sub(1);
        let begun = torrent.asked.get(&piece).is_some_and(|asked| {
            asked.iter().any(|(conn, id)| {
                let request = self.conns.get(conn).and_then(|one| one.open.get(id));
                request.is_some_and(|request| request.first_at.is_some())
            })
        });
        let useless = torrent.have.contains(piece) || torrent.checking.contains_key(&piece);
        torrent.asked.entry(piece).or_default().push((conn, id));
        torrent.review(piece);
        if useless || begun {
            self.cancel(conn, id);
            return false;
        }
        true
    }

    /// All bytes of a piece are here; the shell checks them.
    fn received(&mut self, now: Time, conn: ConnId, id: RequestId, name: &SwarmName, piece: u32) {
        let Some(peer) = self.peer_of(conn) else {
            return;
        };
        let Some(connection) = self.conns.get_mut(&conn) else {
            return;
        };
        let Some(request) = connection.open.remove(&id) else {
            return;
        };
        connection.live -= 1;
        let took = now.since(request.sent_at);
        smooth(&mut connection.service, took);
        smooth(&mut self.service, took);
        self.open -= 1;
        if let Some(torrent) = self.torrents.get_mut(name) {
            if torrent.checking.insert(piece, (conn, peer)).is_none() {
                self.checking_bytes += u64::from(torrent.size(piece));
            }
            if let Some(link) = torrent.links.get_mut(&conn) {
                link.refused = 0;
            }
        }
        self.unask(name, Some(piece), conn, id, false);
        self.cancel_others(name, piece, (conn, id), true);
        self.fill(now, conn);
        self.ask_origin(now, name);
        self.uncap(now);
    }

    /// Asks more where the cap kept us from it and has room now.
    pub(crate) fn uncap(&mut self, now: Time) {
        if self.capped && self.has_room() {
            self.capped = false;
            self.refill(now);
        }
    }

    /// Takes a request out of the picture of its piece; the piece is free again if nobody else was
    /// asked. `cancelled` requests were taken out before.
    pub(crate) fn unask(
        &mut self,
        name: &SwarmName,
        piece: Option<u32>,
        conn: ConnId,
        id: RequestId,
        cancelled: bool,
    ) {
        if cancelled {
            return;
        }
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let Some(piece) = piece else {
            torrent.unchosen = torrent.unchosen.saturating_sub(1);
            return;
        };
        if let Some(asked) = torrent.asked.get_mut(&piece) {
            asked.retain(|one| *one != (conn, id));
            if asked.is_empty() {
                torrent.asked.remove(&piece);
            }
        }
        torrent.review(piece);
    }

    /// Cancels the other requests for a piece; with `begun` also those whose data is coming.
    fn cancel_others(
        &mut self,
        name: &SwarmName,
        piece: u32,
        but: (ConnId, RequestId),
        begun: bool,
    ) {
        let asked = self
            .torrents
            .get(name)
            .and_then(|one| one.asked.get(&piece));
        let Some(asked) = asked.cloned() else {
            return;
        };
        for (conn, id) in asked.into_iter().filter(|one| *one != but) {
            let request = self.conns.get(&conn).and_then(|one| one.open.get(&id));
            if request.is_some_and(|request| begun || request.first_at.is_none()) {
                self.cancel(conn, id);
            }
        }
    }

    /// Cancels a request; it still ends by §6.2.
    pub(crate) fn cancel(&mut self, conn: ConnId, id: RequestId) {
        let Some(connection) = self.conns.get_mut(&conn) else {
            return;
        };
        let Some(request) = connection.open.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut request.cancelled, true) {
            return;
        }
        connection.live -= 1;
        self.open -= 1;
        self.stats.cancels += 1;
        self.stats.wasted_bytes += u64::from(request.got);
        let (name, piece) = (request.name, request.piece);
        self.unask(&name, piece, conn, id, false);
        self.send(conn, Message::Cancel { id });
    }

    /// Cancels all requests for a blob.
    pub(crate) fn end_requests(&mut self, now: Time, name: &SwarmName) {
        let mut open = Vec::new();
        for (conn, connection) in &self.conns {
            if connection.names.contains(name) {
                let requests = connection.open.iter();
                let of_blob = requests.filter(|(_, request)| request.name == *name);
                open.extend(of_blob.map(|(id, _)| (*conn, *id)));
            }
        }
        for (conn, id) in open {
            self.cancel(conn, id);
        }
        self.uncap(now);
    }

    /// The peer will not send this (§6.7).
    pub(crate) fn rejected(
        &mut self,
        now: Time,
        conn: ConnId,
        id: RequestId,
        reason: RejectReason,
    ) {
        let policy = self.config.policy.clone();
        let Some(connection) = self.conns.get_mut(&conn) else {
            return;
        };
        let Some(request) = connection.open.remove(&id) else {
            if !connection.is_forgiven(id) {
                let reason = "the end of a request that is not open";
                self.close(now, conn, CloseReason::Protocol(reason));
            }
            return;
        };
        if request.cancelled {
            connection.forgive(id);
            return;
        }
        connection.live -= 1;
        self.open -= 1;
        self.stats.rejects_received += 1;
        let name = request.name;
        self.unask(&name, request.piece, conn, id, false);
        match reason {
            RejectReason::NotHere | RejectReason::Revoked => {
                self.refused(conn, &name, request.piece);
            }
            RejectReason::Cancelled | RejectReason::Busy => {
                if let Some(connection) = self.conns.get_mut(&conn) {
                    connection.busy_until = now + policy.busy_pause;
                }
            }
            RejectReason::NoGrant | RejectReason::NothingToGive => {
                self.not_given(conn, &name, reason);
            }
        }
        self.refill(now);
    }

    /// The peer does not have the piece.
    fn refused(&mut self, conn: ConnId, name: &SwarmName, piece: Option<u32>) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let Some(link) = torrent.links.get_mut(&conn) else {
            return;
        };
        link.refused += 1;
        if link.refused >= MAX_REFUSALS {
            let pieces = torrent.have.pieces();
            torrent.discount(conn);
            if let Some(link) = torrent.links.get_mut(&conn)
                && link.have.is_some()
            {
                link.have = Some(crate::set::PieceSet::empty(pieces));
            }
            torrent.count(conn);
        } else if let Some(piece) = piece {
            torrent.neighbour_lost(conn, piece);
        }
    }
}

impl Torrent {
    /// Returns what to ask this peer for, and how urgent it is.
    fn pick(
        &self,
        rng: &mut ChaCha8Rng,
        conn: ConnId,
        share: f64,
        window_bytes: u64,
    ) -> Option<(u32, Priority)> {
        let (wanted, picker) = (self.wanted.as_ref()?, self.picker.as_ref()?);
        let have = self.links.get(&conn)?.have.as_ref()?;
        if !picker.free().intersects(have) {
            return None;
        }
        let urgent = |priority: Priority| priority.min(wanted.priority);
        for reader in self.readers.values() {
            if let Some(piece) = self.blocked(reader)
                && picker.free().contains(piece)
                && have.contains(piece)
            {
                return Some((piece, urgent(Priority::Foreground)));
            }
        }
        if !wanted.whole || rng.random_bool(share) {
            for reader in self.readers.values() {
                let (_, window) = self.window(reader, window_bytes);
                if let Some(piece) = picker.lowest(have, window) {
                    return Some((piece, urgent(Priority::Stream)));
                }
            }
        }
        if !wanted.whole {
            return None;
        }
        let piece = picker.rarest(rng, have)?;
        Some((piece, wanted.priority))
    }
}
