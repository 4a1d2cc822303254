//! The peer side of the swarm.

use std::collections::{BTreeMap, VecDeque};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use torrent::{PeerId, Role, SwarmName};

use crate::config::Config;
use crate::connection::{BackOff, Connection, Dial};
use crate::event::{CloseReason, ConnId, Failure, Input, Output, ReaderId};
use crate::invariants::{self, Broken};
use crate::message::{HandoutStatus, Message};
use crate::rate::Rate;
use crate::seed::Origin;
use crate::stats::Stats;
use crate::time::{Micros, Time};
use crate::timers::{Timer, Timers};
use crate::torrent::Torrents;
use crate::upload::Uploads;

/// All blobs and connections of one agent or origin.
///
/// Use: tell it everything by [`Swarm::handle`], then take outputs until there are none, then call
/// [`Swarm::handle_timeout`] once [`Swarm::poll_timeout`] has passed. The meaning of the messages
/// is `docs/wire.md`. The same inputs and seed give the same outputs.
#[derive(Debug)]
pub struct Swarm {
    pub(crate) config: Config,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) conns: BTreeMap<ConnId, Connection>,
    /// Peers that said HELLO, each with the connection that is kept.
    pub(crate) peers: BTreeMap<PeerId, ConnId>,
    pub(crate) dials: BTreeMap<PeerId, Dial>,
    pub(crate) back_off: BackOff,
    pub(crate) torrents: Torrents,
    pub(crate) readers: BTreeMap<ReaderId, SwarmName>,
    pub(crate) timers: Timers,
    pub(crate) uploads: Uploads,
    pub(crate) origin: Origin,
    pub(crate) rate: Rate,
    /// How long a piece takes from whichever peer, asked for to received.
    pub(crate) service: Option<Micros>,
    /// Requests open in all, cancelled ones excepted.
    pub(crate) open: usize,
    /// Bytes of pieces that were received and wait for their verdict, over all blobs.
    pub(crate) checking_bytes: u64,
    /// The cap, or what waits for its verdict, kept us from asking for more.
    pub(crate) capped: bool,
    /// Unknown until the shell tried.
    pub(crate) trackers_up: Option<bool>,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) stats: Stats,
}

impl Swarm {
    /// Makes the swarm of a process that has nothing and knows nobody. An origin gives its slots
    /// to trackers with the first outputs.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let mut outputs = VecDeque::new();
        if config.me.role == Role::Origin {
            let count = config.policy.credits;
            outputs.push_back(Output::Credit { count });
        }
        Self {
            config,
            rng: ChaCha8Rng::seed_from_u64(seed),
            conns: BTreeMap::new(),
            peers: BTreeMap::new(),
            dials: BTreeMap::new(),
            back_off: BackOff::default(),
            torrents: Torrents::new(),
            readers: BTreeMap::new(),
            timers: Timers::default(),
            uploads: Uploads::default(),
            origin: Origin::default(),
            rate: Rate::default(),
            service: None,
            open: 0,
            checking_bytes: 0,
            capped: false,
            trackers_up: None,
            outputs,
            stats: Stats::default(),
        }
    }

    /// Takes in what happened. Call [`Self::poll_output`] until it is empty afterwards.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Connected { conn, expected } => self.connected(now, conn, expected),
            Input::ConnectFailed { peer } => self.connect_failed(now, peer),
            Input::Closed { conn } => self.closed(now, conn),
            Input::Received { conn, message } => self.received_message(now, conn, message),
            Input::Tracker(message) => self.tracker_said(now, message),
            Input::TrackersUp(up) => self.set_trackers_up(now, up),
            Input::Reannounce { names } => self.announce_again(&names),
            Input::Owners { name, peers } => self.owners_found(now, name, peers),
            Input::Partners(peers) => self.set_partners(now, peers),
            Input::Seed { description } => self.seed(now, description),
            Input::Download {
                name,
                priority,
                whole,
            } => self.download(now, name, priority, whole),
            Input::Opened { name, have, proven } => self.opened(now, name, &have, proven),
            Input::OpenFailed { name, reason } => self.open_failed(now, name, reason),
            Input::Read {
                name,
                reader,
                range,
            } => self.read(now, name, reader, range),
            Input::ReadAt { reader, position } => self.read_at(now, reader, position),
            Input::ReadDone { reader } => self.read_done(reader),
            Input::Remove { name } => self.remove(now, name),
            Input::Resolved { name, found } => self.resolved(now, name, found),
            Input::Hashed { name, signed } => self.hashed(now, name, signed.piece),
            Input::Grown { description } => self.grown(now, description, None),
            Input::Revoke {
                name,
                generation,
                reason,
            } => self.revoke(now, name, generation, reason, None),
            Input::PieceVerified { .. }
            | Input::PieceCorrupt { .. }
            | Input::PieceNotStored { .. }
            | Input::PieceLost { .. }
            | Input::CvsProven { .. }
            | Input::CvsWrong { .. }
            | Input::GrowingCvsKnown { .. }
            | Input::UploadDone { .. }
            | Input::UploadFailed { .. } => self.verdict(now, input),
        }
    }

    /// Does what is due. Call it when the time of [`Self::poll_timeout`] has come; early is
    /// harmless. Take outputs afterwards.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Connection(conn) => self.connection_due(now, conn),
                Timer::Queued(conn) => self.queued_due(now, conn),
                Timer::Uploads => self.start_uploads(now),
                Timer::Haves(name) => self.flush_haves(&name),
                Timer::Torrent(name) => self.torrent_due(now, name),
                Timer::Grants => self.grants_due(now),
                Timer::Partners => self.partners_due(now),
            }
        }
    }

    /// Returns the next thing to do; call it again until it returns `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns when [`Self::handle_timeout`] is due; ask again after each call of the others.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Returns what the swarm did and holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let downloading = self.torrents.values().filter(|one| one.is_hungry()).count();
        Stats {
            connections: self.conns.len(),
            torrents: self.torrents.len(),
            downloading,
            readers: self.readers.len(),
            open_requests: self.open,
            uploads_active: self.uploads.active(),
            uploads_waiting: self.uploads.waiting(),
            left_alone: self.back_off.len(),
            credits_spent: self.origin.credits_spent(),
            download_rate: self.rate.get().unwrap_or(0),
            ..self.stats.clone()
        }
    }

    /// Checks every invariant.
    ///
    /// # Errors
    /// The first one that is broken.
    pub fn check(&self) -> Result<(), Broken> {
        invariants::check(self)
    }

    fn verdict(&mut self, now: Time, input: Input) {
        match input {
            Input::PieceVerified {
                conn, name, piece, ..
            } => self.verified(now, conn, name, piece),
            Input::PieceCorrupt {
                conn, name, piece, ..
            } => self.corrupt(now, conn, name, piece),
            Input::PieceNotStored { name, piece, .. } => self.not_stored(now, &name, piece),
            Input::PieceLost { name, piece } => self.piece_lost(now, name, piece),
            Input::CvsProven { name } => self.values_proven(now, &name),
            Input::CvsWrong { conn, name } => self.values_wrong(now, conn, name),
            Input::GrowingCvsKnown { name, pieces } => self.signed_known(now, &name, &pieces),
            Input::UploadDone { conn, id } => self.upload_done(now, conn, id),
            Input::UploadFailed { conn, id } => self.upload_failed(now, conn, id),
            Input::Connected { .. }
            | Input::ConnectFailed { .. }
            | Input::Closed { .. }
            | Input::Received { .. }
            | Input::Tracker(_)
            | Input::TrackersUp(_)
            | Input::Reannounce { .. }
            | Input::Owners { .. }
            | Input::Partners(_)
            | Input::Seed { .. }
            | Input::Download { .. }
            | Input::Opened { .. }
            | Input::OpenFailed { .. }
            | Input::Read { .. }
            | Input::ReadAt { .. }
            | Input::ReadDone { .. }
            | Input::Remove { .. }
            | Input::Resolved { .. }
            | Input::Hashed { .. }
            | Input::Grown { .. }
            | Input::Revoke { .. } => {}
        }
    }

    fn received_message(&mut self, now: Time, conn: ConnId, message: Message) {
        let Some(connection) = self.conns.get(&conn) else {
            return;
        };
        let is_known = connection.peer.is_some();
        self.heard(now, conn);
        match message {
            Message::Hello { version, me } => self.introduced(now, conn, version, me),
            _ if !is_known => self.close(now, conn, CloseReason::Protocol("no HELLO first")),
            Message::Ping { token } => self.send(conn, Message::Pong { token }),
            Message::Pong { token } => self.fence_passed(conn, token),
            Message::Bitfield {
                name,
                description,
                have,
            } => self.bitfield(now, conn, name, description, &have),
            Message::Have { name, pieces, .. } => self.neighbour_has(now, conn, &name, &pieces),
            Message::Request {
                id,
                name,
                target,
                priority,
                lag_us,
            } => self.requested(now, conn, id, name, target, (priority, lag_us)),
            Message::Data {
                id,
                piece,
                offset,
                length,
                last,
            } => self.data(now, conn, id, (piece, offset, length, last)),
            Message::Cancel { id } => self.upload_cancelled(now, conn, id),
            // It was heard, and that is all it says.
            Message::Queued { .. } => {}
            Message::Reject { id, reason } => self.rejected(now, conn, id, reason),
            Message::CvRequest { name, first, count } => {
                self.values_wanted(now, conn, &name, first, count);
            }
            Message::Cvs { name, cvs } => self.list_came(now, conn, name, cvs),
            Message::GrowingCvs {
                name,
                generation,
                cvs,
            } => self.signed_came(now, conn, name, generation, cvs),
            Message::Grown { description } => self.grown(now, description, Some(conn)),
            Message::Revoke {
                name,
                generation,
                reason,
            } => self.revoke(now, name, generation, reason, Some(conn)),
            Message::Complaint { name, piece } => self.complained(now, conn, name, piece),
            Message::Want { .. }
            | Message::Served { .. }
            | Message::Announce { .. }
            | Message::Handout { .. }
            | Message::Grant { .. }
            | Message::Lease { .. }
            | Message::Withdraw { .. } => self.received_of_role(now, conn, message),
        }
    }

    /// Takes what only an origin may say, or hear.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever else there is breaks the protocol"
    )]
    fn received_of_role(&mut self, now: Time, conn: ConnId, message: Message) {
        let is_origin = self.config.me.role == Role::Origin;
        let from_origin = self.conns.get(&conn).is_some_and(|one| one.is_origin());
        match message {
            // The pieces themselves are asked for by REQUEST.
            Message::Want { name, .. } if is_origin => self.name_peers(now, conn, &name),
            Message::Served { name, pieces } if is_origin && from_origin => {
                self.served(&name, &pieces);
            }
            Message::Handout {
                name,
                status,
                peers,
            } if from_origin && !is_origin => self.named(now, conn, &name, &status, &peers),
            _ => self.close(now, conn, CloseReason::Protocol("not a message for a peer")),
        }
    }

    fn tracker_said(&mut self, now: Time, message: Message) {
        match message {
            Message::Handout {
                name,
                status,
                peers,
            } => self.handed_out(now, name, status, peers),
            Message::Grant {
                name,
                agent,
                origin,
                count,
                pieces,
                deadline,
                owners,
                ..
            } => {
                if self.config.me.role == Role::Origin {
                    if origin.id == self.config.me.id {
                        self.granted_here(now, (name, agent), count, pieces, deadline, owners);
                    }
                } else if agent == self.config.me.id {
                    self.granted(now, name, origin, count, pieces, deadline);
                }
            }
            Message::Withdraw {
                name,
                agent,
                origin,
            } => {
                if self.config.me.role == Role::Origin {
                    self.withdrawn(name, agent);
                } else {
                    self.grant_withdrawn(&name, &origin);
                }
            }
            Message::Revoke {
                name,
                generation,
                reason,
            } => self.revoke(now, name, generation, reason, None),
            // No tracker leases runs to zones yet; what a tracker may not say is for the shell.
            Message::Lease { .. }
            | Message::Hello { .. }
            | Message::Bitfield { .. }
            | Message::Have { .. }
            | Message::Request { .. }
            | Message::Data { .. }
            | Message::Cancel { .. }
            | Message::Queued { .. }
            | Message::Reject { .. }
            | Message::CvRequest { .. }
            | Message::Cvs { .. }
            | Message::GrowingCvs { .. }
            | Message::Grown { .. }
            | Message::Want { .. }
            | Message::Served { .. }
            | Message::Complaint { .. }
            | Message::Announce { .. }
            | Message::Ping { .. }
            | Message::Pong { .. } => {}
        }
    }

    /// Takes the answer to a join, or an introduction (§7.3).
    fn handed_out(
        &mut self,
        now: Time,
        name: SwarmName,
        status: HandoutStatus,
        peers: Vec<torrent::Peer>,
    ) {
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        torrent.dismissed = false;
        match status {
            HandoutStatus::Pending => {}
            HandoutStatus::Known(description) => {
                if *description.name() != name {
                    return;
                }
                let starves = torrent.starving_since.is_some();
                self.learn(now, &name, description, None);
                let policy = &self.config.policy;
                let max_degree = if starves {
                    policy.max_links
                } else {
                    policy.max_degree
                };
                for peer in peers {
                    self.meet(now, &peer, &name, max_degree);
                }
            }
            HandoutStatus::Absent => self.not_helped(now, name, Failure::Absent),
            HandoutStatus::Failed(reason) => {
                self.not_helped(now, name, Failure::Unavailable(reason));
            }
        }
    }
}

#[cfg(test)]
mod tests;
