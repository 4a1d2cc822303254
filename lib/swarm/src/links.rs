//! What neighbours have: BITFIELD, HAVE, and whom we tell what.

use torrent::{Description, PeerId, Role, SwarmName};

use crate::event::{CloseReason, ConnId, Output};
use crate::message::Message;
use crate::set::PieceSet;
use crate::swarm::Swarm;
use crate::time::{Micros, Time};
use crate::timers::Timer;
use crate::wire::{MAX_HAVE_PIECES, MAX_SMALL_FRAME_BYTES};

/// A BITFIELD is answered again where ours was sent longer ago than this: the other side may not
/// have cared for the blob then. A shorter time would let two ends answer each other for ever.
const TOLD_AGAIN: Micros = Micros::from_millis(500);
/// Signed values in one message that goes ahead of a HAVE.
const MAX_VALUES_AHEAD: u32 = 1_024;

impl Swarm {
    /// Tells the peer what we have of the blob, unless it was told just now.
    pub(crate) fn introduce_link(&mut self, now: Time, conn: ConnId, name: &SwarmName) {
        let to_origin = self.is_served_by(conn);
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let Some(connection) = self.conns.get_mut(&conn) else {
            return;
        };
        if connection.peer.is_none() {
            return;
        }
        let told = torrent.links.get(&conn).and_then(|link| link.told_at);
        if told.is_some_and(|at| at + TOLD_AGAIN > now) {
            return;
        }
        connection.names.insert(*name);
        connection.used_at = now;
        let link = torrent.links.entry(conn).or_default();
        link.told_at = Some(now);
        let fence = (to_origin && torrent.description.is_none()).then_some(now.0);
        link.fence = fence;
        let bitfield = Message::Bitfield {
            name: *name,
            description: torrent.description,
            have: torrent.have.to_wire(),
        };
        if let Some(token) = fence {
            self.send(conn, Message::Ping { token });
        }
        self.send(conn, bitfield);
        if self.config.me.role == Role::Origin && self.trackers_up == Some(false) {
            self.name_peers(now, conn, name);
        }
    }

    /// Takes the answer to a PING: what comes from now on was said after our question came there.
    pub(crate) fn fence_passed(&mut self, conn: ConnId, token: u64) {
        let names = self.conns.get(&conn).map(|one| &one.names);
        for name in names.into_iter().flatten() {
            let torrent = self.torrents.get_mut(name);
            if let Some(link) = torrent.and_then(|one| one.links.get_mut(&conn))
                && link.fence == Some(token)
            {
                link.fence = None;
            }
        }
    }

    /// Returns whether an origin that says to have nothing answers an earlier question.
    fn is_too_early(&self, conn: ConnId, name: &SwarmName) -> bool {
        let link = self.torrents.get(name).and_then(|one| one.links.get(&conn));
        link.is_some_and(|link| link.fence.is_some())
    }

    /// Tells all neighbours of the blob again, after what we have changed at once.
    pub(crate) fn reintroduce(&mut self, now: Time, name: &SwarmName) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let mut conns = Vec::new();
        for (conn, link) in &mut torrent.links {
            if link.told_at.take().is_some() {
                conns.push(*conn);
            }
        }
        for conn in conns {
            self.introduce_link(now, conn, name);
        }
    }

    /// Takes what a peer has of a blob (§4.1).
    pub(crate) fn bitfield(
        &mut self,
        now: Time,
        conn: ConnId,
        name: SwarmName,
        description: Option<Description>,
        have: &[u8],
    ) {
        let misnamed = description.is_some_and(|description| *description.name() != name);
        if misnamed || (description.is_none() && !have.is_empty()) {
            return self.close(
                now,
                conn,
                CloseReason::Protocol("a bitfield of another blob"),
            );
        }
        if !self.torrents.contains_key(&name) {
            return self.asked_about(conn, name);
        }
        let is_too_early = description.is_none() && self.is_too_early(conn, &name);
        if is_too_early || !self.admit_link(now, conn, &name) {
            return;
        }
        if let Some(description) = description {
            self.learn(now, &name, description, Some(conn));
        } else {
            self.without(now, conn, &name);
        }
        if !self.take_bitfield(now, conn, &name, description, have) {
            return;
        }
        self.introduce_link(now, conn, &name);
        self.seek_values(now, &name);
        self.use_grants(now, &name);
        self.fill(now, conn);
        self.ask_origin(now, &name);
    }

    /// Returns whether the peer may take part in this blob with us.
    fn admit_link(&mut self, now: Time, conn: ConnId, name: &SwarmName) -> bool {
        let policy = &self.config.policy;
        let (Some(torrent), Some(connection)) =
            (self.torrents.get_mut(name), self.conns.get_mut(&conn))
        else {
            return false;
        };
        if torrent.links.contains_key(&conn) {
            return true;
        }
        let max = match self.config.me.role {
            Role::Origin => policy.max_connections,
            Role::Agent | Role::Tracker => policy.max_links,
        };
        if torrent.links.len() >= max && !connection.is_origin() {
            return false;
        }
        if connection.names.len() >= policy.max_names {
            self.close(now, conn, CloseReason::Protocol("too many blobs"));
            return false;
        }
        connection.names.insert(*name);
        torrent.links.entry(conn).or_default();
        true
    }

    fn take_bitfield(
        &mut self,
        now: Time,
        conn: ConnId,
        name: &SwarmName,
        description: Option<Description>,
        have: &[u8],
    ) -> bool {
        let from_origin = self.is_served_by(conn);
        let Some(torrent) = self.torrents.get_mut(name) else {
            return false;
        };
        torrent.discount(conn);
        let ours = torrent.geometry();
        let Some(link) = torrent.links.get_mut(&conn) else {
            return false;
        };
        link.heard = true;
        link.described = description.is_some();
        link.nothing_to_give = false;
        link.have = None;
        let Some(description) = description else {
            link.have = ours.map(|geometry| PieceSet::empty(geometry.pieces()));
            return true;
        };
        // Of another length it is another blob; the signature tells whose is the right one.
        if ours != Some(*description.geometry()) {
            return true;
        }
        match PieceSet::from_wire(description.geometry(), have) {
            // What comes from an origin is asked for by grant, not picked.
            Ok(_) if from_origin => {}
            Ok(have) => {
                link.have = Some(have);
                torrent.count(conn);
            }
            Err(_) => {
                self.close(now, conn, CloseReason::Protocol("a malformed bitfield"));
                return false;
            }
        }
        true
    }

    /// A peer takes part and knows nothing of the blob. If it is an owner, it does not have it.
    fn without(&mut self, now: Time, conn: ConnId, name: &SwarmName) {
        if self.is_served_by(conn)
            && let Some(peer) = self.peer_of(conn)
        {
            self.owner_lacks(now, name, peer);
        }
    }

    /// Returns whether the connection is one of an agent to an origin.
    pub(crate) fn is_served_by(&self, conn: ConnId) -> bool {
        let origin = self.conns.get(&conn).is_some_and(|one| one.is_origin());
        origin && self.config.me.role != Role::Origin
    }

    pub(crate) fn peer_of(&self, conn: ConnId) -> Option<PeerId> {
        let peer = self.conns.get(&conn)?.peer.as_ref()?;
        Some(peer.id)
    }

    /// Takes pieces that a peer got (§4.2).
    pub(crate) fn neighbour_has(
        &mut self,
        now: Time,
        conn: ConnId,
        name: &SwarmName,
        pieces: &[u32],
    ) {
        let from_origin = self.is_served_by(conn);
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let Some(geometry) = torrent.geometry() else {
            return;
        };
        if pieces.iter().any(|piece| *piece >= geometry.pieces()) {
            return self.close(now, conn, CloseReason::Protocol("HAVE of no such piece"));
        }
        let Some(link) = torrent.links.get_mut(&conn) else {
            return;
        };
        link.described = true;
        if from_origin {
            self.seek_values(now, name);
            return self.use_grants(now, name);
        }
        if link.have.is_none() {
            link.have = Some(PieceSet::empty(geometry.pieces()));
            torrent.count(conn);
        }
        for piece in pieces {
            torrent.neighbour_gained(conn, *piece);
        }
        self.seek_values(now, name);
        self.fill(now, conn);
    }

    /// Lets a piece that was verified be announced soon.
    pub(crate) fn announce_piece(&mut self, now: Time, name: &SwarmName, piece: u32) {
        if let Some(torrent) = self.torrents.get_mut(name) {
            torrent.fresh.push(piece);
            let due = now + self.config.policy.have_delay;
            self.timers.arm(Timer::Haves(*name), due);
        }
    }

    /// Tells neighbours what was verified, those who have it excepted.
    pub(crate) fn flush_haves(&mut self, name: &SwarmName) {
        self.flush_served(name);
        let queue = u16::try_from(self.uploads.waiting()).unwrap_or(u16::MAX);
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let mut fresh = std::mem::take(&mut torrent.fresh);
        fresh.retain(|piece| torrent.have.contains(*piece));
        let is_growing = !torrent.proven;
        let mut told = Vec::new();
        let mut values = Vec::new();
        for (conn, link) in &mut torrent.links {
            if link.told_at.is_none() {
                continue;
            }
            let has = |piece: &u32| link.have.as_ref().is_some_and(|have| have.contains(*piece));
            let news: Vec<u32> = fresh.iter().filter(|piece| !has(piece)).copied().collect();
            if news.is_empty() {
                continue;
            }
            if is_growing {
                let unknown = news.iter().filter(|piece| link.values.insert(**piece));
                values.extend(runs(unknown.copied()).map(|run| (*conn, run)));
            }
            told.push((*conn, news));
        }
        for (conn, (first, count)) in values {
            let name = *name;
            self.outputs.push_back(Output::SendCvs {
                conn,
                name,
                first,
                count,
            });
        }
        for (conn, news) in told {
            // An origin has all of it already.
            if self.is_served_by(conn) {
                continue;
            }
            for pieces in news.chunks(MAX_HAVE_PIECES) {
                self.stats.haves_sent += 1;
                let have = Message::Have {
                    name: *name,
                    pieces: pieces.to_vec(),
                    blocks: Vec::new(),
                    queue,
                };
                self.send(conn, have);
            }
        }
    }

    /// Forgets a neighbour of the blob.
    pub(crate) fn drop_link(&mut self, name: &SwarmName, conn: ConnId) {
        if let Some(torrent) = self.torrents.get_mut(name) {
            torrent.discount(conn);
            torrent.links.remove(&conn);
            if torrent.values_asked.is_some_and(|(of, _)| of == conn) {
                torrent.values_asked = None;
            }
        }
    }
}

/// Puts pieces, lowest first, together to runs: first and count.
fn runs(pieces: impl Iterator<Item = u32>) -> impl Iterator<Item = (u32, u32)> {
    let mut sorted: Vec<u32> = pieces.collect();
    sorted.sort_unstable();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for piece in sorted {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == piece && *count < MAX_VALUES_AHEAD => {
                *count += 1;
            }
            _ => runs.push((piece, 1)),
        }
    }
    runs.into_iter()
}

// A bitfield of the longest blob must fit.
const _: () = assert!(crate::wire::MAX_BITFIELD_BYTES < MAX_SMALL_FRAME_BYTES);
