//! A tracker, driven by messages as a shell would.

mod grants;
mod overlay;
mod resolve;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use torrent::{ClusterKey, Description, Generation, GrowingMetaInfo, Peer, PeerId, Root, Summary};

use super::*;
use crate::message::HandoutStatus;

const START: Time = Time(1_000_000);

fn name(number: u8) -> SwarmName {
    SwarmName::Blob(oci::Digest::Sha256([number; 32]))
}

fn key() -> ClusterKey {
    ClusterKey::from_seed([5; 32])
}

/// A blob of 100 MiB: 100 pieces.
fn description(name: SwarmName) -> Description {
    let root = Root([9; 32]);
    Description::Complete(Summary::sign(&key(), name, 100 << 20, root).unwrap())
}

fn growing(name: SwarmName) -> Description {
    let growing = GrowingMetaInfo::sign(&key(), name, 100 << 20, Generation(1));
    Description::Growing(growing.unwrap())
}

fn agent(number: u32) -> Peer {
    agent_in("", number)
}

fn agent_in(zone: &str, number: u32) -> Peer {
    let mut id = [0xaa; 20];
    id[..4].copy_from_slice(&number.to_be_bytes());
    Peer {
        id: PeerId::new(id),
        role: Role::Agent,
        zone: zone.into(),
        addr: format!("10.0.0.1:{number}").into(),
    }
}

fn origin(number: u32) -> Peer {
    Peer {
        id: PeerId::of_origin(&format!("origin-{number}")),
        role: Role::Origin,
        ..agent(number)
    }
}

/// A tracker, and everything it said.
struct Harness {
    tracker: Tracker,
    now: Time,
    sessions: BTreeMap<PeerId, SessionId>,
    opened: u64,
    /// All that was sent, by receiver, until it is taken.
    sent: BTreeMap<PeerId, Vec<Message>>,
    closed: Vec<(SessionId, CloseReason)>,
    log: Vec<String>,
}

impl Harness {
    /// Origins 1 and 2 own every blob.
    fn new(seed: u64) -> Self {
        Self::with(seed, Policy::default())
    }

    fn with(seed: u64, policy: Policy) -> Self {
        let me = Peer {
            role: Role::Tracker,
            ..agent(0)
        };
        let config = Config {
            me,
            key: Some(key().public()),
            policy,
        };
        let owners = Box::new(|_: &SwarmName| vec![origin(1).id, origin(2).id]);
        Self {
            tracker: Tracker::new(config, seed, owners),
            now: START,
            sessions: BTreeMap::new(),
            opened: 0,
            sent: BTreeMap::new(),
            closed: Vec::new(),
            log: Vec::new(),
        }
    }

    fn open(&mut self) -> SessionId {
        self.opened += 1;
        let session = SessionId(self.opened);
        self.handle(TrackerInput::Opened { session });
        session
    }

    fn connect(&mut self, peer: &Peer) {
        let session = self.open();
        self.sessions.insert(peer.id, session);
        let me = peer.clone();
        let version = crate::message::VERSION;
        self.say(peer, Message::Hello { version, me });
    }

    fn connect_all(&mut self, peers: &[Peer]) {
        for peer in peers {
            self.connect(peer);
        }
    }

    fn disconnect(&mut self, peer: &Peer) {
        let session = self.sessions.remove(&peer.id).unwrap();
        self.handle(TrackerInput::Closed { session });
    }

    fn say(&mut self, peer: &Peer, message: Message) {
        let session = self.sessions[&peer.id];
        self.handle(TrackerInput::Received { session, message });
    }

    fn announce(
        &mut self,
        peer: &Peer,
        name: SwarmName,
        event: AnnounceEvent,
        description: Option<Description>,
    ) {
        let entries = vec![Announce {
            name,
            event,
            description,
        }];
        let message = Message::Announce {
            entries,
            connected: Vec::new(),
            credits: 0,
        };
        self.say(peer, message);
    }

    fn credit(&mut self, peer: &Peer, credits: u16) {
        let message = Message::Announce {
            entries: Vec::new(),
            connected: Vec::new(),
            credits,
        };
        self.say(peer, message);
    }

    fn join(&mut self, peer: &Peer, name: SwarmName) {
        self.announce(peer, name, AnnounceEvent::Join { sixteenths: 0 }, None);
    }

    fn seed(&mut self, peer: &Peer, name: SwarmName) {
        let event = AnnounceEvent::Complete { unserved: true };
        self.announce(peer, name, event, Some(description(name)));
    }

    fn want(&mut self, peer: &Peer, name: SwarmName, pieces: &[u32]) {
        let pieces = pieces.to_vec();
        self.say(peer, Message::Want { name, pieces });
    }

    fn handle(&mut self, input: TrackerInput) {
        self.tracker.handle(self.now, input);
        self.drain();
    }

    /// Lets time pass, doing what is due on the way.
    fn pass(&mut self, span: Micros) {
        let end = self.now + span;
        while let Some(due) = self.tracker.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.tracker.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.tracker.poll_output() {
            self.log.push(format!("{:?} {output:?}", self.now));
            match output {
                TrackerOutput::Send { session, message } => {
                    let id = self.sessions.iter().find(|(_, other)| **other == session);
                    if let Some((id, _)) = id {
                        self.sent.entry(*id).or_default().push(message);
                    }
                }
                TrackerOutput::Close { session, reason } => self.closed.push((session, reason)),
            }
        }
    }

    fn take(&mut self, peer: &Peer) -> Vec<Message> {
        self.sent.remove(&peer.id).unwrap_or_default()
    }

    fn handouts(&mut self, peer: &Peer) -> Vec<(HandoutStatus, Vec<PeerId>)> {
        let sent = self.take(peer).into_iter();
        sent.filter_map(|message| {
            let Message::Handout { status, peers, .. } = message else {
                return None;
            };
            Some((status, peers.iter().map(|peer| peer.id).collect()))
        })
        .collect()
    }

    fn grants(&mut self, peer: &Peer) -> Vec<Given> {
        let sent = self.take(peer).into_iter();
        sent.filter_map(|message| {
            let Message::Grant {
                name,
                agent,
                origin,
                count,
                pieces,
                owners,
                ..
            } = message
            else {
                return None;
            };
            Some(Given {
                name,
                agent,
                origin: origin.id,
                count,
                pieces,
                owners,
            })
        })
        .collect()
    }
}

/// A grant that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    name: SwarmName,
    agent: PeerId,
    origin: PeerId,
    count: u16,
    pieces: Vec<u32>,
    owners: Vec<PeerId>,
}
