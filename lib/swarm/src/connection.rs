//! Connections: HELLO, of two to the same peer one, silence, and peers that are left alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use torrent::{Peer, PeerId, Role, SwarmName};

use crate::event::{CloseReason, ConnId, Output};
use crate::message::{Message, RequestId, VERSION};
use crate::swarm::Swarm;
use crate::time::{Micros, Time};
use crate::timers::Timer;

/// Ends of cancelled requests that are remembered: what crossed a CANCEL is no breach (§6.2).
const MAX_ENDED: usize = 64;
/// Doublings of the time that an unreachable peer is left alone.
const MAX_DOUBLINGS: u32 = 5;

/// A request of ours that has not ended.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: SwarmName,
    /// Absent while the origin has not chosen.
    pub(crate) piece: Option<u32>,
    pub(crate) sent_at: Time,
    /// Bytes that came.
    pub(crate) got: u32,
    pub(crate) first_at: Option<Time>,
    /// Nobody waits for it any more.
    pub(crate) cancelled: bool,
}

/// A connection with a peer, or with somebody who did not say HELLO yet.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: Option<Peer>,
    expected: Option<PeerId>,
    opened_at: Time,
    pub(crate) heard_at: Time,
    /// When it was last of use.
    pub(crate) used_at: Time,
    /// Blobs it is about.
    pub(crate) names: BTreeSet<SwarmName>,
    pub(crate) open: BTreeMap<RequestId, Request>,
    /// Open requests that somebody waits for.
    pub(crate) live: usize,
    /// Since when something is due from it.
    pub(crate) due_since: Time,
    next_id: u32,
    ended: VecDeque<RequestId>,
    /// It owes us something and says nothing.
    pub(crate) is_silent: bool,
    /// It is not asked before.
    pub(crate) busy_until: Time,
    /// A piece of it was verified.
    pub(crate) is_proven: bool,
    /// How long a piece takes from it, asked for to received.
    pub(crate) service: Option<Micros>,
    /// Shortest time to the first answer.
    pub(crate) round_trip: Option<Micros>,
    pub(crate) complaints: u32,
    pub(crate) pinged_at: Option<Time>,
}

impl Connection {
    fn new(now: Time, expected: Option<PeerId>) -> Self {
        Self {
            peer: None,
            expected,
            opened_at: now,
            heard_at: now,
            used_at: now,
            names: BTreeSet::new(),
            open: BTreeMap::new(),
            live: 0,
            due_since: now,
            next_id: 0,
            ended: VecDeque::new(),
            is_silent: false,
            busy_until: now,
            is_proven: false,
            service: None,
            round_trip: None,
            complaints: 0,
            pinged_at: None,
        }
    }

    pub(crate) fn is_origin(&self) -> bool {
        self.peer
            .as_ref()
            .is_some_and(|peer| peer.role == Role::Origin)
    }

    pub(crate) fn next_id(&mut self) -> RequestId {
        self.next_id = self.next_id.wrapping_add(1);
        RequestId(self.next_id)
    }

    /// Notes that a cancelled request ended, so that what else crossed the CANCEL is forgiven.
    pub(crate) fn forgive(&mut self, id: RequestId) {
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(id);
    }

    pub(crate) fn is_forgiven(&self, id: RequestId) -> bool {
        self.ended.contains(&id)
    }
}

/// Takes a new sample into a moving average that forgets a quarter each time.
pub(crate) fn smooth(average: &mut Option<Micros>, sample: Micros) {
    let smooth = average.map_or(sample.0, |before| before.0 - before.0 / 4 + sample.0 / 4);
    *average = Some(Micros(smooth));
}

/// A connection that is being made, and the blobs it is made for.
#[derive(Debug, Default)]
pub(crate) struct Dial {
    pub(crate) names: BTreeSet<SwarmName>,
}

/// Peers that are left alone for a while.
#[derive(Debug, Default)]
pub(crate) struct BackOff {
    peers: BTreeMap<PeerId, (Time, u32)>,
}

impl BackOff {
    pub(crate) fn holds(&self, peer: &PeerId, now: Time) -> bool {
        self.peers.get(peer).is_some_and(|(until, _)| *until > now)
    }

    /// Leaves the peer alone for at least this long, twice as long each time.
    pub(crate) fn put(&mut self, peer: PeerId, now: Time, base: Micros, max: usize) {
        let doublings = self.peers.get(&peer).map_or(0, |(_, failures)| *failures);
        let span = Micros(base.0 << doublings.min(MAX_DOUBLINGS));
        self.peers.insert(peer, (now + span, doublings + 1));
        if self.peers.len() > max {
            let first = self.peers.iter().min_by_key(|(_, (until, _))| *until);
            if let Some(first) = first.map(|(peer, _)| *peer) {
                self.peers.remove(&first);
            }
        }
    }

    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }
}

impl Swarm {
    pub(crate) fn connected(&mut self, now: Time, conn: ConnId, expected: Option<PeerId>) {
        self.conns.insert(conn, Connection::new(now, expected));
        let due = now + self.config.policy.hello_timeout;
        self.timers.arm(Timer::Connection(conn), due);
        let me = self.config.me.clone();
        let version = VERSION;
        self.send(conn, Message::Hello { version, me });
    }

    pub(crate) fn connect_failed(&mut self, now: Time, peer: PeerId) {
        self.dials.remove(&peer);
        let policy = &self.config.policy;
        self.back_off
            .put(peer, now, policy.back_off, policy.max_back_offs);
        for torrent in self.torrents.values_mut() {
            torrent.granted.remove(&peer);
        }
    }

    /// Takes the HELLO of the other side (§2.2).
    pub(crate) fn introduced(&mut self, now: Time, conn: ConnId, version: u16, peer: Peer) {
        let Some(connection) = self.conns.get_mut(&conn) else {
            return;
        };
        if connection.peer.is_some() {
            return self.close(now, conn, CloseReason::Protocol("a second HELLO"));
        }
        if version == 0 || peer.role == Role::Tracker {
            return self.close(now, conn, CloseReason::Protocol("not a peer of ours"));
        }
        // Ids of origins can be derived by everybody: nobody else may displace one.
        if !peer.id_fits_role() {
            let reason = CloseReason::Protocol("an id that is not of its role");
            return self.close(now, conn, reason);
        }
        let expected = connection.expected;
        if peer.id == self.config.me.id {
            if let Some(expected) = expected {
                self.dials.remove(&expected);
            }
            return self.close(now, conn, CloseReason::Myself);
        }
        connection.peer = Some(peer.clone());
        // Another process may have taken the address; it is as good.
        let dial = expected.and_then(|expected| self.dials.remove(&expected));
        let mut names = dial.map(|dial| dial.names).unwrap_or_default();
        if let Some(&other) = self.peers.get(&peer.id) {
            let (kept, dropped) = self.resolve_duplicate(conn, other, &peer.id);
            self.peers.insert(peer.id, kept);
            names.extend(
                self.conns
                    .get(&dropped)
                    .into_iter()
                    .flat_map(|old| old.names.iter()),
            );
            self.close(now, dropped, CloseReason::Duplicate);
            return self.begin_links(now, kept, names);
        }
        self.peers.insert(peer.id, conn);
        self.back_off.forget(&peer.id);
        self.timers.arm(
            Timer::Connection(conn),
            now + self.config.policy.idle_timeout,
        );
        self.make_room(now, conn);
        self.begin_links(now, conn, names);
        self.partner_came(now, conn, &peer.id);
    }

    /// Of two connections to a peer returns the one to keep: that opened by the lower id, so that
    /// both ends keep the same; of two opened by the same end the later one, since that end would
    /// not have opened it if the first were alive.
    fn resolve_duplicate(&self, new: ConnId, old: ConnId, peer: &PeerId) -> (ConnId, ConnId) {
        let opener = |conn: ConnId| {
            let ours = self
                .conns
                .get(&conn)
                .is_some_and(|one| one.expected.is_some());
            if ours { self.config.me.id } else { *peer }
        };
        let lower = self.config.me.id.min(*peer);
        if opener(old) == lower && opener(new) != lower {
            (old, new)
        } else {
            (new, old)
        }
    }

    /// Starts to exchange blobs over a connection.
    fn begin_links(&mut self, now: Time, conn: ConnId, names: BTreeSet<SwarmName>) {
        for name in names {
            self.introduce_link(now, conn, &name);
        }
    }

    /// Closes the connection that was not used for longest, where there are too many.
    fn make_room(&mut self, now: Time, new: ConnId) {
        if self.peers.len() <= self.config.policy.max_connections {
            return;
        }
        let spare = self
            .conns
            .iter()
            .filter(|(conn, one)| {
                **conn != new && one.open.is_empty() && !self.uploads.serves(**conn)
            })
            .min_by_key(|(_, one)| one.used_at)
            .map(|(conn, _)| *conn);
        self.close(now, spare.unwrap_or(new), CloseReason::Spare);
    }

    /// Connects to the peer for this blob, where that is not done already.
    pub(crate) fn meet(&mut self, now: Time, peer: &Peer, name: &SwarmName, max_degree: usize) {
        if peer.id == self.config.me.id || peer.role == Role::Tracker {
            return;
        }
        if let Some(&conn) = self.peers.get(&peer.id) {
            return self.introduce_link(now, conn, name);
        }
        if let Some(dial) = self.dials.get_mut(&peer.id) {
            dial.names.insert(*name);
            return;
        }
        let linked = self
            .torrents
            .get(name)
            .map_or(0, |torrent| torrent.links.len());
        let dialled = self
            .dials
            .values()
            .filter(|dial| dial.names.contains(name))
            .count();
        let full = peer.role == Role::Agent && linked + dialled >= max_degree;
        if full || self.back_off.holds(&peer.id, now) {
            return;
        }
        self.dial(peer, Some(*name));
    }

    pub(crate) fn dial(&mut self, peer: &Peer, name: Option<SwarmName>) {
        let dial = self.dials.entry(peer.id).or_default();
        dial.names.extend(name);
        self.outputs
            .push_back(Output::Connect { peer: peer.clone() });
    }

    /// Closes a connection for a reason of ours, and draws the consequences.
    pub(crate) fn close(&mut self, now: Time, conn: ConnId, reason: CloseReason) {
        let Some(connection) = self.conns.get(&conn) else {
            return;
        };
        let policy = &self.config.policy;
        if let Some(peer) = &connection.peer {
            let left_alone = match reason {
                CloseReason::Corrupt | CloseReason::Protocol(_) => Some(policy.corrupt_back_off),
                CloseReason::Silent => Some(policy.back_off),
                CloseReason::Duplicate
                | CloseReason::Myself
                | CloseReason::Spare
                | CloseReason::Idle => None,
            };
            if let Some(span) = left_alone {
                self.back_off.put(peer.id, now, span, policy.max_back_offs);
            }
        }
        self.stats.closed_for(reason);
        self.outputs.push_back(Output::Close { conn, reason });
        self.closed(now, conn);
    }

    /// A connection is gone: what was asked over it is asked elsewhere.
    pub(crate) fn closed(&mut self, now: Time, conn: ConnId) {
        if !self.conns.contains_key(&conn) {
            return;
        }
        // While it is known whose they are: grants that paid for them are given back.
        self.uploads_closed(now, conn);
        let Some(connection) = self.conns.remove(&conn) else {
            return;
        };
        self.timers.disarm(Timer::Connection(conn));
        self.timers.disarm(Timer::Queued(conn));
        if connection.peer.is_none()
            && let Some(expected) = connection.expected
        {
            self.connect_failed(now, expected);
        }
        self.open -= connection.live;
        for (id, request) in &connection.open {
            self.unask(&request.name, request.piece, conn, *id, request.cancelled);
        }
        for name in &connection.names {
            self.drop_link(name, conn);
        }
        if let Some(peer) = &connection.peer
            && self.peers.get(&peer.id) == Some(&conn)
        {
            self.peers.remove(&peer.id);
            self.partner_left(now, &peer.id);
        }
        self.refill(now);
    }

    /// Looks after a connection: HELLO, silence, idleness.
    pub(crate) fn connection_due(&mut self, now: Time, conn: ConnId) {
        let policy = &self.config.policy;
        let Some(connection) = self.conns.get(&conn) else {
            return;
        };
        if connection.peer.is_none() {
            let late = connection.opened_at + policy.hello_timeout <= now;
            if late {
                self.close(now, conn, CloseReason::Protocol("no HELLO in time"));
            } else {
                let due = connection.opened_at + policy.hello_timeout;
                self.timers.arm(Timer::Connection(conn), due);
            }
            return;
        }
        let uploading = self.uploads.serves(conn);
        if connection.live > 0 || uploading || !connection.open.is_empty() {
            return self.listen(now, conn, uploading);
        }
        let origin = connection.is_origin() && self.config.me.role == Role::Agent;
        let span = if origin {
            policy.origin_idle_timeout
        } else {
            policy.idle_timeout
        };
        if connection.used_at + span > now {
            let due = connection.used_at + span;
            self.timers.arm(Timer::Connection(conn), due);
        } else if self.is_needed(conn) {
            self.timers.arm(Timer::Connection(conn), now + span);
        } else {
            self.close(now, conn, CloseReason::Idle);
        }
    }

    /// A connection is kept for as long as one side may have something for the other.
    fn is_needed(&self, conn: ConnId) -> bool {
        let Some(connection) = self.conns.get(&conn) else {
            return false;
        };
        if let Some(peer) = &connection.peer
            && self.is_partner(&peer.id)
        {
            return true;
        }
        if connection.is_origin() {
            let direct = self.trackers_up == Some(false);
            return direct && connection.names.iter().any(|name| self.is_hungry(name));
        }
        connection.names.iter().any(|name| {
            self.torrents.get(name).is_some_and(|torrent| {
                let theirs = torrent.links.get(&conn).and_then(|link| link.have.as_ref());
                !torrent.is_complete() || theirs.is_none_or(|have| !have.is_full())
            })
        })
    }

    /// Something is due on this connection: the silence rule of §6.6, and PING where we only send.
    fn listen(&mut self, now: Time, conn: ConnId, uploading: bool) {
        let policy = self.config.policy.clone();
        let Some(connection) = self.conns.get_mut(&conn) else {
            return;
        };
        let since = if connection.live > 0 {
            connection.heard_at.max(connection.due_since)
        } else {
            connection.heard_at
        };
        let quiet = now.since(since);
        let dead = connection.heard_at.max(connection.due_since) + policy.dead_after <= now;
        if dead && (connection.is_silent || connection.pinged_at.is_some()) {
            return self.close(now, conn, CloseReason::Silent);
        }
        if quiet >= policy.silence {
            if uploading && connection.pinged_at.is_none() {
                connection.pinged_at = Some(now);
                connection.due_since = now;
                self.send(conn, Message::Ping { token: now.0 });
            }
            if self.conns.get(&conn).is_some_and(|one| one.live > 0) {
                self.ask_elsewhere(now, conn);
            }
        }
        let next = if quiet >= policy.silence {
            now + policy.silence
        } else {
            since + policy.silence
        };
        self.timers.arm(Timer::Connection(conn), next);
    }

    /// Notes that the other side said something.
    pub(crate) fn heard(&mut self, now: Time, conn: ConnId) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.heard_at = now;
            connection.pinged_at = None;
            connection.is_silent = false;
        }
    }

    pub(crate) fn send(&mut self, conn: ConnId, message: Message) {
        self.outputs.push_back(Output::Send { conn, message });
    }

    pub(crate) fn is_hungry(&self, name: &SwarmName) -> bool {
        let torrent = self.torrents.get(name);
        torrent.is_some_and(crate::torrent::Torrent::is_hungry)
    }
}
