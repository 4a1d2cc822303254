//! The tracker: who takes part in which blob, who is introduced to whom, and who may ask an origin
//! for how much. It keeps nothing but memory, and never polls: everything is pushed.
//!
//! Use: tell it everything by [`Tracker::handle`], then take outputs until there are none, then
//! call [`Tracker::handle_timeout`] once [`Tracker::poll_timeout`] has passed. The meaning of the
//! messages is `docs/wire.md` §7.

mod grants;
mod introduce;
mod members;
mod resolve;
mod revoked;
mod session;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use torrent::{ClusterPublicKey, Description, Peer, PeerId, Role, SwarmName};

use self::members::TrackedSwarm;
use self::revoked::Revoked;
use self::session::Session;
use crate::event::{CloseReason, SessionId, TrackerInput, TrackerOutput};
use crate::message::{Announce, AnnounceEvent, Message};
use crate::time::{Micros, Time};

/// Answers which origins own a blob: ids by [`PeerId::of_origin`], in the order of the ring.
pub type Owners = Box<dyn Fn(&SwarmName) -> Vec<PeerId> + Send>;

/// What a tracker must know.
#[derive(Clone, Debug)]
pub struct Config {
    pub me: Peer,
    /// Where given, descriptions that this key did not sign are not passed on.
    pub key: Option<ClusterPublicKey>,
    pub policy: Policy,
}

/// The numbers of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Peers named to an agent that joins. Each agent ends up with twice as many links.
    pub named_peers: usize,
    /// Nobody with this many links is named to one who joins.
    pub max_degree: usize,
    /// Nobody with this many links is named to one who starves.
    pub max_introduced_degree: usize,
    /// Pieces of an origin's choice in one grant.
    pub pieces_per_grant: u16,
    /// Most pieces named in one grant; at most [`crate::wire::MAX_GRANT_PIECES`].
    pub wanted_per_grant: usize,
    /// Most pieces of one blob that wait to be granted by name.
    pub max_wants: usize,
    /// How long a wanted piece waits for the neighbours while the first pass goes on, and for a
    /// new neighbour after an introduction.
    pub want_patience: Micros,
    /// An agent that starves on is introduced to one more peer at most this often on WANT; a piece
    /// granted by name is not granted again for as long.
    pub introduction_pause: Micros,
    /// Most credits that count for one origin.
    pub max_credits: u16,
    /// How long a grant is good, from receipt.
    pub grant_deadline: Micros,
    /// How long owners may take to say whether they have a blob.
    pub resolve_timeout: Micros,
    /// How long to wait for an owner to connect where none is.
    pub no_owner_timeout: Micros,
    /// How long a session may take to say HELLO.
    pub hello_timeout: Micros,
    /// After this much silence a session is pinged; after twice as much it is closed.
    pub idle_timeout: Micros,
    /// Most blobs one session takes part in; announces of more are ignored.
    pub max_blobs_per_session: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            named_peers: 6,
            max_degree: 16,
            max_introduced_degree: 24,
            pieces_per_grant: 2,
            wanted_per_grant: 16,
            max_wants: 4_096,
            want_patience: Micros::from_millis(200),
            introduction_pause: Micros::from_millis(500),
            max_credits: 256,
            grant_deadline: Micros::from_secs(5),
            resolve_timeout: Micros::from_secs(10),
            no_owner_timeout: Micros::from_secs(2),
            hello_timeout: Micros::from_secs(5),
            idle_timeout: Micros::from_secs(10),
            max_blobs_per_session: 262_144,
        }
    }
}

/// What a tracker holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub sessions: usize,
    pub swarms: usize,
    /// Blobs whose owners are being asked.
    pub pending: usize,
    /// Slots of origins that wait for an agent.
    pub credits: u64,
    pub handouts: u64,
    /// Grants that took a credit.
    pub grants: u64,
    pub withdrawals: u64,
}

/// All swarms of one tracker.
pub struct Tracker {
    config: Config,
    owners: Owners,
    rng: ChaCha8Rng,
    sessions: BTreeMap<SessionId, Session>,
    ids: BTreeMap<PeerId, SessionId>,
    origins: BTreeSet<SessionId>,
    swarms: BTreeMap<SwarmName, TrackedSwarm>,
    /// Swarms whose owners are being asked.
    pending: BTreeSet<SwarmName>,
    revoked: Revoked,
    timers: BTreeSet<(Time, Timer)>,
    outputs: VecDeque<TrackerOutput>,
    stats: Stats,
}

/// What is due at a time. Timers are not cancelled: one that is due looks at what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Session(SessionId),
    Resolve(SwarmName),
    Wants(SwarmName),
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker")
            .field("me", &self.config.me)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Tracker {
    #[must_use]
    pub fn new(config: Config, seed: u64, owners: Owners) -> Self {
        Self {
            config,
            owners,
            rng: ChaCha8Rng::seed_from_u64(seed),
            sessions: BTreeMap::new(),
            ids: BTreeMap::new(),
            origins: BTreeSet::new(),
            swarms: BTreeMap::new(),
            pending: BTreeSet::new(),
            revoked: Revoked::default(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Takes in what happened. Call [`Self::poll_output`] until it is empty afterwards.
    pub fn handle(&mut self, now: Time, input: TrackerInput) {
        match input {
            TrackerInput::Opened { session } => self.session_opened(now, session),
            TrackerInput::Closed { session } => self.session_closed(now, session),
            TrackerInput::Received { session, message } => self.received(now, session, message),
        }
        self.spend_credits(now);
    }

    /// Does what is due. Call it when the time of [`Self::poll_timeout`] has come; early is
    /// harmless. Take outputs afterwards.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(&(at, timer)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Session(session) => self.session_timer(now, session),
                Timer::Resolve(name) => self.resolve_timer(now, name),
                Timer::Wants(name) => self.refresh(now, &name),
            }
        }
        self.spend_credits(now);
    }

    /// Returns the next thing to do; call it again until it returns `None`.
    pub fn poll_output(&mut self) -> Option<TrackerOutput> {
        self.outputs.pop_front()
    }

    /// Returns when [`Self::handle_timeout`] is due; ask again after each call of the others.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            sessions: self.sessions.len(),
            swarms: self.swarms.len(),
            pending: self.pending.len(),
            credits: self
                .origins
                .iter()
                .filter_map(|session| self.sessions.get(session))
                .map(|session| u64::from(session.credits))
                .sum(),
            ..self.stats
        }
    }

    fn received(&mut self, now: Time, session: SessionId, message: Message) {
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        known.heard(now);
        let peer = known.peer.clone();
        match (message, peer) {
            (Message::Hello { me, .. }, None) => self.introduced(now, session, me),
            (Message::Hello { .. }, Some(_)) => {
                self.drop_session(now, session, CloseReason::Protocol("a second HELLO"));
            }
            (_, None) => {
                self.drop_session(now, session, CloseReason::Protocol("no HELLO first"));
            }
            (Message::Ping { token }, Some(_)) => self.send(session, Message::Pong { token }),
            (Message::Pong { .. }, Some(_)) => {}
            (
                Message::Announce {
                    entries,
                    connected,
                    credits,
                },
                Some(peer),
            ) => {
                self.announced(now, session, &peer, entries, connected);
                self.credited(session, &peer, credits);
            }
            (Message::Want { name, pieces }, Some(peer)) => {
                self.wanted(now, &name, peer.id, &pieces);
            }
            (
                Message::Revoke {
                    name,
                    generation,
                    reason,
                },
                Some(peer),
            ) => {
                if peer.role == Role::Origin {
                    self.revoked(now, &name, peer.id, generation, &reason);
                }
            }
            (
                Message::Bitfield { .. }
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
                | Message::Served { .. }
                | Message::Complaint { .. }
                | Message::Handout { .. }
                | Message::Grant { .. }
                | Message::Lease { .. }
                | Message::Withdraw { .. },
                Some(_),
            ) => {
                let reason = CloseReason::Protocol("not a message for a tracker");
                self.drop_session(now, session, reason);
            }
        }
    }

    fn announced(
        &mut self,
        now: Time,
        session: SessionId,
        peer: &Peer,
        entries: Vec<Announce>,
        connected: Vec<PeerId>,
    ) {
        if let Some(known) = self.sessions.get_mut(&session) {
            known.connected = connected.into_iter().collect();
        }
        for entry in entries {
            let full = self.sessions.get(&session).is_none_or(|known| {
                known.blobs.len() >= self.config.policy.max_blobs_per_session
                    && !known.blobs.contains(&entry.name)
            });
            if full {
                continue;
            }
            match peer.role {
                Role::Agent => self.agent_announced(now, peer, entry),
                Role::Origin => self.origin_announced(now, peer, entry),
                Role::Tracker => {}
            }
        }
    }

    fn agent_announced(&mut self, now: Time, peer: &Peer, entry: Announce) {
        let Announce {
            name,
            event,
            description,
        } = entry;
        if event != AnnounceEvent::Leave && self.is_revoked(now, &peer.id, description.as_ref()) {
            return;
        }
        match event {
            AnnounceEvent::Join { sixteenths } => {
                self.learn(now, &name, description, false);
                self.joined(now, &name, peer, sixteenths);
            }
            AnnounceEvent::Progress { sixteenths } => {
                self.learn(now, &name, description, false);
                self.progressed(now, &name, peer, sixteenths);
            }
            AnnounceEvent::Complete { .. } => {
                self.learn(now, &name, description, false);
                self.completed(now, &name, peer);
            }
            AnnounceEvent::Starving => self.starving(now, &name, peer.id),
            AnnounceEvent::Leave => self.depart(now, &name, peer.id),
            // Only origins know these.
            AnnounceEvent::Growing | AnnounceEvent::Absent | AnnounceEvent::Failed => {}
        }
    }

    fn origin_announced(&mut self, now: Time, peer: &Peer, entry: Announce) {
        let Announce {
            name,
            event,
            description,
        } = entry;
        if matches!(
            event,
            AnnounceEvent::Complete { .. } | AnnounceEvent::Growing
        ) && self.is_revoked_source(now, &peer.id, description.as_ref())
        {
            return;
        }
        match event {
            AnnounceEvent::Complete { unserved } => {
                self.learn(now, &name, description, true);
                self.source_announced(now, &name, peer, unserved);
            }
            AnnounceEvent::Growing => {
                self.learn(now, &name, description, true);
                self.source_announced(now, &name, peer, true);
            }
            AnnounceEvent::Absent => self.answered(now, &name, peer.id, resolve::Answer::Absent),
            AnnounceEvent::Failed => self.answered(now, &name, peer.id, resolve::Answer::Failed),
            AnnounceEvent::Leave => self.depart(now, &name, peer.id),
            // Only agents download.
            AnnounceEvent::Join { .. }
            | AnnounceEvent::Progress { .. }
            | AnnounceEvent::Starving => {}
        }
    }

    /// Keeps a description, if it is better than what is known and signed.
    fn learn(
        &mut self,
        now: Time,
        name: &SwarmName,
        description: Option<Description>,
        from_origin: bool,
    ) {
        let Some(description) = description else {
            return;
        };
        let known = self.swarms.get(name).and_then(|swarm| swarm.description);
        let better = match (&known, &description) {
            (None, _) | (Some(Description::Growing(_)), Description::Complete(_)) => true,
            (Some(Description::Complete(_)), Description::Growing(_)) => false,
            (Some(known), new) => from_origin && known != new,
        };
        let signed = || {
            let key = self.config.key.as_ref();
            key.is_none_or(|key| description.verify(key).is_ok())
        };
        if !better || description.name() != name || !signed() {
            return;
        }
        self.swarms.entry(*name).or_default().description = Some(description);
        self.answer_waiting(now, name);
    }

    fn send(&mut self, session: SessionId, message: Message) {
        self.outputs
            .push_back(TrackerOutput::Send { session, message });
    }

    /// Sends to a peer by its id; whoever has no session hears of it when it comes back.
    fn send_to(&mut self, id: &PeerId, message: Message) {
        if let Some(&session) = self.ids.get(id) {
            self.send(session, message);
        }
    }

    fn session_of(&mut self, id: &PeerId) -> Option<&mut Session> {
        self.sessions.get_mut(self.ids.get(id)?)
    }

    fn peer(&self, id: &PeerId) -> Option<&Peer> {
        self.sessions.get(self.ids.get(id)?)?.peer.as_ref()
    }
}

#[cfg(test)]
mod tests;
