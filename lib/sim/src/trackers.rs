//! Trackers, and the sessions that members keep with them.

use swarm::message::{Announce, VERSION};
use swarm::tracker::{Config, Policy};
use swarm::{Input, Message, Micros, SessionId, Tracker, TrackerInput, TrackerOutput};
use torrent::{Peer, PeerId, Role, SwarmName};

use crate::link::{Conn, Packet};
use crate::world::{Event, Process, World};

/// Pause before a tracker that could not be reached is tried again.
const RETRY: Micros = Micros::from_millis(100);

/// A member's session with one tracker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// The connection while it is up.
    pub(crate) conn: Option<Conn>,
    /// Of an origin: slots that this tracker has and did not grant yet.
    credits: u16,
    /// Whether it was tried at least once.
    tried: bool,
}

/// What a member knows of the trackers.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) list: Vec<Session>,
    /// Slots that no tracker has.
    spare: u16,
    /// Tracker that gets the next slot.
    next: usize,
}

impl Sessions {
    pub(crate) fn new(trackers: usize) -> Self {
        Self {
            list: vec![Session::default(); trackers],
            ..Self::default()
        }
    }

    /// Returns the tracker of the blob: the first that is up, from one that its name decides on.
    pub(crate) fn route(&self, name: &SwarmName) -> Option<usize> {
        let first = usize::from(first_byte(name));
        let count = self.list.len();
        (0..count)
            .map(|step| (first + step) % count)
            .find(|tracker| self.list[*tracker].conn.is_some())
    }

    /// Returns whether there is no session, and every tracker was tried.
    fn all_down(&self) -> bool {
        let mut list = self.list.iter();
        list.all(|session| session.conn.is_none() && session.tried)
    }

    fn any(&self) -> bool {
        self.list.iter().any(|session| session.conn.is_some())
    }
}

fn first_byte(name: &SwarmName) -> u8 {
    let mut bytes = Vec::new();
    name.encode(&mut bytes);
    bytes.get(1).copied().unwrap_or_default()
}

/// Returns which of the origins own the blob, in the order of the ring.
pub(crate) fn owners_of(name: &SwarmName, origins: u32, owners: u32) -> Vec<u32> {
    let first = u32::from(first_byte(name));
    (0..owners.min(origins))
        .map(|step| (first + step) % origins)
        .collect()
}

impl World {
    pub(crate) fn owners(&self, name: &SwarmName) -> Vec<Peer> {
        let first = self.origins().start;
        owners_of(name, self.scenario.origins, self.scenario.owners)
            .into_iter()
            .map(|index| self.machines[first + index as usize].peer.clone())
            .collect()
    }

    pub(crate) fn new_tracker(&self, machine: usize) -> Tracker {
        let config = Config {
            me: self.machines[machine].peer.clone(),
            key: Some(self.key.public()),
            policy: Policy::default(),
        };
        let ids: Vec<PeerId> = self
            .origins()
            .map(|origin| self.machines[origin].peer.id)
            .collect();
        let (origins, owners) = (self.scenario.origins, self.scenario.owners);
        let ring = move |name: &SwarmName| {
            owners_of(name, origins, owners)
                .into_iter()
                .map(|index| ids[index as usize])
                .collect()
        };
        let life = u64::from(self.machines[machine].life);
        let seed = self.seed ^ ((machine as u64) << 32) ^ (life << 48);
        Tracker::new(config, seed, Box::new(ring))
    }

    // --- the tracker's side ---

    pub(crate) fn tracker_received(&mut self, machine: usize, conn: Conn, packet: Packet) {
        let Packet::Message(bytes) = packet else {
            return self.violate(machine, "payload for a tracker");
        };
        if let Some(message) = self.decoded(machine, &bytes) {
            let session = SessionId(conn as u64);
            self.tell_tracker(machine, TrackerInput::Received { session, message });
        }
    }

    pub(crate) fn tell_tracker(&mut self, machine: usize, input: TrackerInput) {
        let now = self.now;
        if let Process::Tracker(tracker) = &mut self.machines[machine].process {
            tracker.handle(now, input);
            self.drain_tracker(machine);
        }
    }

    pub(crate) fn drain_tracker(&mut self, machine: usize) {
        while let Process::Tracker(tracker) = &mut self.machines[machine].process
            && let Some(output) = tracker.poll_output()
        {
            match output {
                TrackerOutput::Send { session, message } => {
                    let Some(conn) = self.conn_of(machine, session.0) else {
                        continue;
                    };
                    self.send(machine, conn, &message);
                }
                TrackerOutput::Close { session, .. } => {
                    if let Some(conn) = self.conn_of(machine, session.0) {
                        self.close(machine, conn);
                    }
                }
            }
        }
        self.arm(machine);
    }

    // --- the member's side ---

    /// Tries to open a session with the tracker.
    pub(crate) fn reach(&mut self, machine: usize, tracker: usize) {
        let peer = self.machines[tracker].peer.clone();
        self.connect(machine, peer, true);
    }

    pub(crate) fn unreachable(&mut self, machine: usize, tracker: usize) {
        if let Some(member) = self.member(machine) {
            let first = !member.sessions.all_down();
            member.sessions.list[tracker].tried = true;
            if first && member.sessions.all_down() {
                self.tell(machine, Input::TrackersUp(false));
            }
        }
        let life = self.machines[machine].life;
        let reach = Event::Reach {
            machine,
            life,
            tracker,
        };
        self.queue.push(self.now + RETRY, reach);
    }

    pub(crate) fn session_up(&mut self, conn: Conn) {
        let [machine, tracker] = self.conns[conn].machines;
        let session = SessionId(conn as u64);
        self.tell_tracker(tracker, TrackerInput::Opened { session });
        let me = self.machines[machine].peer.clone();
        let version = VERSION;
        self.send(machine, conn, &Message::Hello { version, me });
        let Some(member) = self.member(machine) else {
            return;
        };
        let first = !member.sessions.any();
        let before = member.routes();
        member.sessions.list[tracker].conn = Some(conn);
        if first {
            self.tell(machine, Input::TrackersUp(true));
        }
        self.reannounce(machine, &before);
        self.give_credits(machine, 0);
    }

    /// One end of a session saw the other go.
    pub(crate) fn session_down(&mut self, machine: usize, conn: Conn) {
        if self.machines[machine].peer.role == Role::Tracker {
            let session = SessionId(conn as u64);
            return self.tell_tracker(machine, TrackerInput::Closed { session });
        }
        let tracker = self.conns[conn].machines[1];
        let Some(member) = self.member(machine) else {
            return;
        };
        let before = member.routes();
        let lost = std::mem::take(&mut member.sessions.list[tracker]);
        member.sessions.spare += lost.credits;
        self.reannounce(machine, &before);
        self.give_credits(machine, 0);
        self.unreachable(machine, tracker);
    }

    /// Lets the swarm say again what a tracker that is new to some blobs must know.
    fn reannounce(&mut self, machine: usize, before: &[(SwarmName, Option<usize>)]) {
        let Some(member) = self.member(machine) else {
            return;
        };
        let names: Vec<SwarmName> = before
            .iter()
            .filter(|(name, route)| {
                let now = member.sessions.route(name);
                now.is_some() && now != *route
            })
            .map(|(name, _)| *name)
            .collect();
        if !names.is_empty() {
            self.tell(machine, Input::Reannounce { names });
        }
    }

    pub(crate) fn session_received(&mut self, machine: usize, conn: Conn, message: Message) {
        let tracker = self.conns[conn].machines[1];
        if let Message::Ping { token } = message {
            return self.send(machine, conn, &Message::Pong { token });
        }
        if matches!(message, Message::Hello { .. } | Message::Pong { .. }) {
            return;
        }
        let is_origin = self.machines[machine].peer.role == Role::Origin;
        if is_origin && let Message::Grant { count, .. } = &message {
            let spent = u16::from(*count > 0);
            let Some(member) = self.member(machine) else {
                return;
            };
            match member.sessions.list[tracker].credits.checked_sub(spent) {
                Some(left) => member.sessions.list[tracker].credits = left,
                None => return self.violate(machine, "a grant that no credit pays for"),
            }
        }
        self.tell(machine, Input::Tracker(message));
    }

    /// Gives slots to the trackers in turn.
    pub(crate) fn give_credits(&mut self, machine: usize, count: u16) {
        let Some(member) = self.member(machine) else {
            return;
        };
        let sessions = &mut member.sessions;
        let mut spare = sessions.spare + count;
        let mut given = vec![0u16; sessions.list.len()];
        while spare > 0 && sessions.any() {
            let tracker = sessions.next % sessions.list.len();
            sessions.next = tracker + 1;
            if sessions.list[tracker].conn.is_some() {
                sessions.list[tracker].credits += 1;
                given[tracker] += 1;
                spare -= 1;
            }
        }
        sessions.spare = spare;
        for (tracker, credits) in given.into_iter().enumerate() {
            if credits > 0 {
                self.announce_to(machine, tracker, Vec::new(), credits);
            }
        }
    }

    /// Sends what the swarm announced, one message per tracker.
    pub(crate) fn announce(&mut self, machine: usize, entries: Vec<Announce>) {
        let Some(member) = self.member(machine) else {
            return;
        };
        let sessions = &member.sessions;
        // What no tracker hears now is said again when one is reached.
        let heard = entries.into_iter();
        let heard = heard.filter(|entry| sessions.route(&entry.name).is_some());
        let batches = swarm::announce::batch(heard.collect(), |name| sessions.route(name));
        for (tracker, entries) in batches {
            if let Some(tracker) = tracker {
                self.announce_to(machine, tracker, entries, 0);
            }
        }
    }

    fn announce_to(
        &mut self,
        machine: usize,
        tracker: usize,
        entries: Vec<Announce>,
        credits: u16,
    ) {
        let Some(member) = self.member(machine) else {
            return;
        };
        let connected = member.neighbours.values().copied();
        let connected = connected.take(swarm::wire::MAX_CONNECTED).collect();
        let Some(conn) = member.sessions.list[tracker].conn else {
            return;
        };
        let message = Message::Announce {
            entries,
            connected,
            credits,
        };
        self.send(machine, conn, &message);
    }
}
