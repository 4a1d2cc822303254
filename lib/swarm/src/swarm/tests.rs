//! Swarms that talk to each other and to a script, message by message through the codec.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at what it is about"
)]

mod ends;
mod hostile;
mod late;
mod origins;
mod pairs;
mod scripted;
mod slow_disk;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use torrent::{
    Bitfield, ClusterKey, Cv, Description, Generation, Geometry, GrowingMetaInfo, Peer, PeerId,
    PieceIndex, Role, Root, Signature, SignedCv, Summary, SwarmName,
};

use super::*;
use crate::message::{Announce, AnnounceEvent, Priority, RequestId, Target, VERSION};
use crate::wire;

const START: Time = Time(1_000_000);
/// Time of a message from one end to the other.
const LATENCY: Micros = Micros(250);
const MIB: u64 = 1 << 20;

fn name(number: u8) -> SwarmName {
    SwarmName::Blob(oci::Digest::Sha256([number; 32]))
}

fn key() -> ClusterKey {
    ClusterKey::from_seed([5; 32])
}

fn complete(name: SwarmName, bytes: u64) -> Description {
    Description::Complete(Summary::sign(&key(), name, bytes, Root([9; 32])).unwrap())
}

fn growing(name: SwarmName, bytes: u64) -> Description {
    Description::Growing(GrowingMetaInfo::sign(&key(), name, bytes, Generation(1)).unwrap())
}

fn signed(piece: u32) -> SignedCv {
    SignedCv {
        piece,
        cv: Cv([3; 32]),
        signature: Signature([7; 64]),
    }
}

fn peer(number: u8, role: Role) -> Peer {
    let mut id = [number; 20];
    if role == Role::Origin {
        id[0] |= 0x80;
    }
    Peer {
        id: PeerId::from_wire(id),
        role,
        zone: "".into(),
        addr: format!("10.0.0.{number}:7000").into(),
    }
}

fn agent(number: u8) -> Peer {
    peer(number, Role::Agent)
}

fn origin(number: u8) -> Peer {
    peer(number, Role::Origin)
}

fn bits(geometry: &Geometry, pieces: &[u32]) -> Bitfield {
    let mut bits = Bitfield::empty(geometry);
    for piece in pieces {
        bits.insert(geometry.index(*piece).unwrap());
    }
    bits
}

/// A swarm, what storage holds for it, and what it said that no peer hears.
struct Member {
    swarm: Swarm,
    have: BTreeMap<SwarmName, Bitfield>,
    proven: bool,
    /// Everything it sends is damaged.
    damages: bool,
    announced: Vec<Announce>,
    wanted: Vec<Vec<u32>>,
    credits: u16,
    completed: Vec<SwarmName>,
    failed: Vec<(SwarmName, Failure)>,
    closed: Vec<CloseReason>,
    found_owners: usize,
    rechecked: Vec<PieceIndex>,
}

/// Members on perfect links: messages take [`LATENCY`], a piece a millisecond.
struct Net {
    now: Time,
    members: Vec<Member>,
    /// Ends of each connection.
    conns: Vec<[usize; 2]>,
    queue: BTreeMap<(Time, u64), (usize, Input)>,
    turn: u64,
    /// All messages between members, as they were sent.
    log: Vec<(usize, Message)>,
    /// Members that hear nothing and say nothing.
    lost: Vec<usize>,
}

impl Net {
    fn new(peers: Vec<Peer>) -> Self {
        let members = peers.into_iter().zip(1..).map(|(me, seed)| Member {
            swarm: Swarm::new(Config::new(me), seed),
            have: BTreeMap::new(),
            proven: false,
            damages: false,
            announced: Vec::new(),
            wanted: Vec::new(),
            credits: 0,
            completed: Vec::new(),
            failed: Vec::new(),
            closed: Vec::new(),
            found_owners: 0,
            rechecked: Vec::new(),
        });
        Self {
            now: START,
            members: members.collect(),
            conns: Vec::new(),
            queue: BTreeMap::new(),
            turn: 0,
            log: Vec::new(),
            lost: Vec::new(),
        }
    }

    fn me(&self, member: usize) -> Peer {
        self.members[member].swarm.config.me.clone()
    }

    fn later(&mut self, delay: Micros, member: usize, input: Input) {
        self.turn += 1;
        self.queue
            .insert((self.now + delay, self.turn), (member, input));
    }

    fn tell(&mut self, member: usize, input: Input) {
        let now = self.now;
        self.members[member].swarm.handle(now, input);
        self.drain(member);
    }

    fn connect(&mut self, from: usize, to: usize) {
        let conn = ConnId(self.conns.len() as u64);
        self.conns.push([from, to]);
        let expected = Some(self.me(to).id);
        self.later(LATENCY, from, Input::Connected { conn, expected });
        let expected = None;
        self.later(LATENCY, to, Input::Connected { conn, expected });
    }

    fn other_end(&self, conn: ConnId, member: usize) -> usize {
        let ends = self.conns[usize::try_from(conn.0).unwrap()];
        if ends[0] == member { ends[1] } else { ends[0] }
    }

    /// Lets time pass, doing what is due on the way.
    fn pass(&mut self, span: Micros) {
        let end = self.now + span;
        loop {
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timers = self.members.iter().enumerate();
            let timer = timers
                .filter(|(member, _)| !self.lost.contains(member))
                .filter_map(|(member, one)| Some((one.swarm.poll_timeout()?, member)))
                .min();
            let next = queued.into_iter().chain(timer.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = next.max(self.now);
            if queued == Some(next) {
                let (_, (member, input)) = self.queue.pop_first().unwrap();
                if !self.lost.contains(&member) {
                    self.tell(member, input);
                }
            } else if let Some((_, member)) = timer {
                let now = self.now;
                self.members[member].swarm.handle_timeout(now);
                self.drain(member);
            }
        }
        self.now = end;
    }

    fn millis(&mut self, millis: u64) {
        self.pass(Micros::from_millis(millis));
    }

    fn drain(&mut self, member: usize) {
        while let Some(output) = self.members[member].swarm.poll_output() {
            self.act(member, output);
        }
        if let Err(broken) = self.members[member].swarm.check() {
            panic!("member {member}: {broken}");
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each output")]
    fn act(&mut self, member: usize, output: Output) {
        match output {
            Output::Connect { peer } => {
                let to = self
                    .members
                    .iter()
                    .position(|one| one.swarm.config.me.id == peer.id);
                match to.filter(|to| !self.lost.contains(to)) {
                    Some(to) => self.connect(member, to),
                    None => {
                        self.later(LATENCY, member, Input::ConnectFailed { peer: peer.id });
                    }
                }
            }
            Output::Close { conn, reason } => {
                self.members[member].closed.push(reason);
                let other = self.other_end(conn, member);
                self.later(LATENCY, other, Input::Closed { conn });
            }
            Output::Send { conn, message } => {
                let mut bytes = Vec::new();
                wire::encode(&message, &mut bytes);
                let (decoded, _) = wire::decode(&bytes).unwrap().unwrap();
                assert_eq!(decoded, message);
                self.log.push((member, message));
                let other = self.other_end(conn, member);
                let message = decoded;
                self.later(LATENCY, other, Input::Received { conn, message });
            }
            Output::Announce(entry) => self.members[member].announced.push(entry),
            Output::Tracker { message, .. } => {
                if let Message::Want { pieces, .. } = message {
                    self.members[member].wanted.push(pieces);
                }
            }
            Output::Credit { count } => self.members[member].credits += count,
            Output::FindOwners { .. } => self.members[member].found_owners += 1,
            Output::Open { description } => {
                let geometry = *description.geometry();
                let name = *description.name();
                let stored = self.members[member].have.entry(name);
                let have = stored.or_insert_with(|| Bitfield::empty(&geometry)).clone();
                let proven = self.members[member].proven;
                self.later(LATENCY, member, Input::Opened { name, have, proven });
            }
            Output::ProveCvs { conn, name, cvs } => {
                let right = cvs.iter().all(|cv| *cv == Cv([3; 32]));
                let verdict = if right {
                    Input::CvsProven { name }
                } else {
                    Input::CvsWrong { conn, name }
                };
                self.later(LATENCY, member, verdict);
            }
            Output::CheckGrowingCvs { name, cvs, .. } => {
                let geometry = self.members[member].have[&name].clone();
                let blob = Geometry::new(u64::from(geometry.count() + 64) * MIB).unwrap();
                let pieces = cvs.iter().filter_map(|cv| blob.index(cv.piece)).collect();
                self.later(LATENCY, member, Input::GrowingCvsKnown { name, pieces });
            }
            Output::SendCvs {
                conn,
                name,
                first,
                count,
            } => {
                let torrent = &self.members[member].swarm.torrents[&name];
                let message = if torrent.proven {
                    let cvs = vec![Cv([3; 32]); torrent.have.pieces() as usize];
                    Message::Cvs {
                        name,
                        cvs: cvs.into(),
                    }
                } else {
                    let known = (first..first + count).filter(|one| torrent.known.contains(*one));
                    Message::GrowingCvs {
                        name,
                        generation: Generation(1),
                        cvs: known.map(signed).collect(),
                    }
                };
                self.act(member, Output::Send { conn, message });
            }
            Output::Upload {
                conn,
                id,
                name,
                piece,
                ..
            } => self.upload(member, conn, id, name, piece),
            Output::Recheck { piece, .. } => self.members[member].rechecked.push(piece),
            Output::Completed { name } => self.members[member].completed.push(name),
            Output::Failed { name, failure } => self.members[member].failed.push((name, failure)),
            Output::CancelUpload { conn, id } => {
                let other = self.other_end(conn, member);
                self.queue.retain(|_, (to, input)| match input {
                    Input::Received {
                        conn: of,
                        message: Message::Data { id: data, .. },
                    } => (*to, *of, *data) != (other, conn, id),
                    Input::PieceVerified {
                        conn: of, id: data, ..
                    }
                    | Input::PieceCorrupt {
                        conn: of, id: data, ..
                    } => (*to, *of, *data) != (other, conn, id),
                    _ => true,
                });
            }
            Output::Resolve { .. } | Output::Described { .. } => {}
        }
    }

    /// Sends a piece in two frames; its verdict comes right behind it.
    fn upload(
        &mut self,
        member: usize,
        conn: ConnId,
        id: RequestId,
        name: SwarmName,
        piece: PieceIndex,
    ) {
        let size = self.members[member].swarm.torrents[&name].size(piece.get());
        let other = self.other_end(conn, member);
        let half = (size / 2).max(1);
        let frames = [(0, half, half == size), (half, size - half, true)];
        for (offset, length, last) in frames.into_iter().filter(|(_, length, _)| *length > 0) {
            let message = Message::Data {
                id,
                piece: piece.get(),
                offset,
                length,
                last,
            };
            self.later(
                Micros::from_millis(1),
                other,
                Input::Received { conn, message },
            );
        }
        let verdict = if self.members[member].damages {
            Input::PieceCorrupt {
                conn,
                id,
                name,
                piece,
            }
        } else {
            Input::PieceVerified {
                conn,
                id,
                name,
                piece,
            }
        };
        self.later(Micros(1_100), other, verdict);
        self.later(Micros(900), member, Input::UploadDone { conn, id });
    }

    // --- shorthands ---

    fn seed(&mut self, member: usize, description: Description) {
        self.tell(member, Input::Seed { description });
    }

    fn download(&mut self, member: usize, name: SwarmName, whole: bool) {
        let priority = Priority::Stream;
        self.tell(
            member,
            Input::Download {
                name,
                priority,
                whole,
            },
        );
    }

    /// The tracker names these to the member.
    fn hand_out(&mut self, member: usize, description: Description, peers: &[usize]) {
        let peers = peers.iter().map(|peer| self.me(*peer)).collect();
        self.tell(
            member,
            Input::Tracker(Message::Handout {
                name: *description.name(),
                status: HandoutStatus::Known(description),
                peers,
            }),
        );
    }

    /// The tracker lets the agent ask the origin; the origin hears it first.
    fn grant(&mut self, agent: usize, origin: usize, name: SwarmName, count: u16, pieces: &[u32]) {
        let grant = Message::Grant {
            name,
            agent: self.me(agent).id,
            origin: self.me(origin),
            count,
            pieces: pieces.to_vec(),
            zone: "".into(),
            deadline: Micros::from_secs(5),
            owners: vec![self.me(origin).id],
        };
        self.tell(origin, Input::Tracker(grant.clone()));
        self.tell(agent, Input::Tracker(grant));
    }

    fn events(&self, member: usize) -> Vec<AnnounceEvent> {
        let announced = self.members[member].announced.iter();
        announced.map(|entry| entry.event).collect()
    }

    fn count(&self, of: impl Fn(&Message) -> bool) -> usize {
        self.log.iter().filter(|(_, message)| of(message)).count()
    }

    fn is_complete(&self, member: usize, name: SwarmName) -> bool {
        self.members[member].completed.contains(&name)
    }
}

/// One swarm and a script that plays everybody else.
struct Alone {
    swarm: Swarm,
    now: Time,
    next_conn: u64,
}

impl Alone {
    fn new(me: Peer) -> Self {
        Self {
            swarm: Swarm::new(Config::new(me), 1),
            now: START,
            next_conn: 0,
        }
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        self.swarm.handle(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        let outputs: Vec<Output> = std::iter::from_fn(|| self.swarm.poll_output()).collect();
        if let Err(broken) = self.swarm.check() {
            panic!("{broken}");
        }
        outputs
    }

    /// Lets time pass; returns what was said meanwhile.
    fn pass(&mut self, span: Micros) -> Vec<Output> {
        let end = self.now + span;
        let mut outputs = Vec::new();
        while let Some(due) = self.swarm.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.swarm.handle_timeout(self.now);
            outputs.extend(self.drain());
        }
        self.now = end;
        outputs
    }

    fn hear(&mut self, conn: ConnId, message: Message) -> Vec<Output> {
        self.tell(Input::Received { conn, message })
    }

    /// A peer connects and says who it is.
    fn meet(&mut self, me: Peer) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let expected = None;
        self.tell(Input::Connected { conn, expected });
        let version = VERSION;
        self.hear(conn, Message::Hello { version, me });
        conn
    }

    /// As [`Self::meet`], with a peer of which a piece was verified before.
    fn meet_proven(&mut self, me: Peer) -> ConnId {
        let conn = self.meet(me);
        let connection = self.swarm.conns.get_mut(&conn).unwrap();
        connection.is_proven = true;
        conn
    }

    /// The peer takes part, and has these pieces.
    fn link(&mut self, conn: ConnId, description: Description, pieces: &[u32]) -> Vec<Output> {
        let have = bits(description.geometry(), pieces).to_bytes();
        self.hear(
            conn,
            Message::Bitfield {
                name: *description.name(),
                description: Some(description),
                have,
            },
        )
    }

    fn request(&mut self, conn: ConnId, id: u32, piece: u32, lag_us: i64) -> Vec<Output> {
        self.hear(
            conn,
            Message::Request {
                id: RequestId(id),
                name: name(1),
                target: Target::Piece(piece),
                priority: Priority::Stream,
                lag_us,
            },
        )
    }

    /// Downloads a blob whose storage and proof are ready.
    fn begin(&mut self, description: Description, whole: bool) {
        let name = *description.name();
        let priority = Priority::Stream;
        self.tell(Input::Download {
            name,
            priority,
            whole,
        });
        self.tell(Input::Tracker(Message::Handout {
            name,
            status: HandoutStatus::Known(description),
            peers: Vec::new(),
        }));
        let have = Bitfield::empty(description.geometry());
        let proven = true;
        self.tell(Input::Opened { name, have, proven });
    }
}

/// Returns the messages that were sent, with their connections.
fn sent(outputs: &[Output]) -> Vec<(ConnId, Message)> {
    let sent = outputs.iter().filter_map(|output| {
        let Output::Send { conn, message } = output else {
            return None;
        };
        Some((*conn, message.clone()))
    });
    sent.collect()
}

/// Returns the requests that were sent: connection, id, target, priority.
fn requests(outputs: &[Output]) -> Vec<(ConnId, RequestId, Target, Priority)> {
    let requests = sent(outputs).into_iter().filter_map(|(conn, message)| {
        let Message::Request {
            id,
            target,
            priority,
            ..
        } = message
        else {
            return None;
        };
        Some((conn, id, target, priority))
    });
    requests.collect()
}

/// Returns the uploads that were started: connection and piece.
fn uploads(outputs: &[Output]) -> Vec<(u64, u32)> {
    let started = outputs.iter().filter_map(|output| {
        let Output::Upload { conn, piece, .. } = output else {
            return None;
        };
        Some((conn.0, piece.get()))
    });
    started.collect()
}

fn closes(outputs: &[Output]) -> Vec<(ConnId, CloseReason)> {
    let closes = outputs.iter().filter_map(|output| {
        let Output::Close { conn, reason } = output else {
            return None;
        };
        Some((*conn, *reason))
    });
    closes.collect()
}
