//! The shell of an agent or an origin: does what the swarm says, without a byte of payload.

use std::collections::{BTreeMap, BTreeSet};

use swarm::message::{Announce, Target};
use swarm::{
    ConnId, Failure, Input, Message, Micros, Output, Priority, ReaderId, RequestId, Swarm, Time,
};
use torrent::{Peer, PeerId, Role, SwarmName};

use crate::blob::{Outcome, Stored};
use crate::check::MAX_OUTPUTS;
use crate::link::{Conn, Packet};
use crate::scenario::Presence;
use crate::trackers::Sessions;
use crate::world::{Process, World, id_of};

/// Looking up the owners of a blob.
const LOOK_UP: Micros = Micros(50);

/// The process on an agent or origin.
pub(crate) struct Member {
    pub(crate) swarm: Swarm,
    pub(crate) sessions: Sessions,
    /// Agents at the other end of a connection.
    pub(crate) neighbours: BTreeMap<Conn, PeerId>,
    /// Requests that have not ended.
    pub(crate) asked: BTreeMap<(Conn, RequestId), Asked>,
    pub(crate) readers: BTreeMap<SwarmName, Reader>,
    /// Blobs this process takes part in.
    active: BTreeSet<SwarmName>,
    /// Growing blobs that this origin reads.
    pub(crate) hashing: BTreeSet<SwarmName>,
}

/// A request, and what came of its piece.
pub(crate) struct Asked {
    pub(crate) name: SwarmName,
    pub(crate) target: Target,
    pub(crate) got: u32,
    pub(crate) damaged: bool,
}

/// A client that reads a blob or a part of it in order, as fast as its pieces come.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) id: ReaderId,
    pub(crate) position: u64,
    pub(crate) end: u64,
    pub(crate) began: Time,
    /// Parts that come after this one.
    pub(crate) left: u32,
}

impl Member {
    pub(crate) fn routes(&self) -> Vec<(SwarmName, Option<usize>)> {
        let names = self.active.iter();
        names
            .map(|name| (*name, self.sessions.route(name)))
            .collect()
    }
}

impl World {
    pub(crate) fn member(&mut self, machine: usize) -> Option<&mut Member> {
        match &mut self.machines[machine].process {
            Process::Member(member) => Some(member),
            Process::Down | Process::Tracker(_) => None,
        }
    }

    /// Starts the machine's process, for the first time or again.
    pub(crate) fn start(&mut self, machine: usize) {
        // What an earlier process left behind is refused by the new one.
        self.hang_up(machine, true);
        let place = &mut self.machines[machine];
        place.life += 1;
        if place.peer.role == Role::Tracker {
            let tracker = self.new_tracker(machine);
            self.machines[machine].process = Process::Tracker(Box::new(tracker));
            return;
        }
        if place.peer.role == Role::Agent {
            // An agent is somebody else after a restart; an origin keeps its place in the ring.
            place.peer.id = id_of(Role::Agent, &format!("{} {}", place.peer.addr, place.life));
        }
        let life = place.life;
        let me = place.peer.clone();
        let seed = self.seed ^ ((machine as u64) << 32) ^ (u64::from(life) << 48);
        let is_origin = me.role == Role::Origin;
        let is_mute = place.is_mute;
        let mut config = swarm::Config::new(me);
        config.key = Some(self.key.public());
        let member = Member {
            swarm: Swarm::new(config, seed),
            sessions: Sessions::new(self.trackers().len()),
            neighbours: BTreeMap::new(),
            asked: BTreeMap::new(),
            readers: BTreeMap::new(),
            active: BTreeSet::new(),
            hashing: BTreeSet::new(),
        };
        self.machines[machine].process = Process::Member(Box::new(member));
        for tracker in self.trackers() {
            self.reach(machine, tracker);
        }
        if is_origin {
            self.start_origin(machine);
        } else if is_mute {
            for blob in 0..self.blobs.len() {
                self.seed(machine, blob);
            }
        } else if life > 1 {
            for blob in 0..self.blobs.len() {
                self.ask(machine, blob);
            }
        }
    }

    fn start_origin(&mut self, machine: usize) {
        let me = self.machines[machine].peer.id;
        let partners: Vec<Peer> = self
            .origins()
            .filter(|origin| *origin != machine)
            .map(|origin| self.machines[origin].peer.clone())
            .collect();
        self.tell(machine, Input::Partners(partners));
        for blob in 0..self.blobs.len() {
            let name = self.blobs[blob].name;
            let owns = self.owners(&name).iter().any(|owner| owner.id == me);
            if owns && self.blobs[blob].presence == Presence::Seeded {
                self.seed(machine, blob);
            }
        }
    }

    fn seed(&mut self, machine: usize, blob: usize) {
        let (name, description) = (self.blobs[blob].name, self.blobs[blob].complete);
        let stored = Stored::everything(description.geometry());
        self.machines[machine].disk.insert(name, stored);
        self.activate(machine, name);
        self.tell(machine, Input::Seed { description });
    }

    pub(crate) fn activate(&mut self, machine: usize, name: SwarmName) {
        if let Some(member) = self.member(machine) {
            member.active.insert(name);
        }
    }

    /// A client of this machine wants the blob.
    pub(crate) fn ask(&mut self, machine: usize, blob: usize) {
        let name = self.blobs[blob].name;
        self.activate(machine, name);
        let download = Input::Download {
            name,
            priority: Priority::Stream,
            whole: self.scenario.parts.is_none(),
        };
        self.tell(machine, download);
    }

    /// Tells the swarm something and does what it says.
    pub(crate) fn tell(&mut self, machine: usize, input: Input) {
        let now = self.now;
        if let Some(member) = self.member(machine) {
            member.swarm.handle(now, input);
            self.drain(machine);
        }
    }

    pub(crate) fn drain(&mut self, machine: usize) {
        let mut announces = Vec::new();
        for count in 0.. {
            let Some(member) = self.member(machine) else {
                return;
            };
            let Some(output) = member.swarm.poll_output() else {
                break;
            };
            if count == MAX_OUTPUTS {
                return self.violate(machine, "outputs without end");
            }
            self.act(machine, output, &mut announces);
        }
        if !announces.is_empty() {
            self.announce(machine, announces);
        }
        self.check_swarm(machine);
        self.arm(machine);
    }

    fn act(&mut self, machine: usize, output: Output, announces: &mut Vec<Announce>) {
        match output {
            Output::Connect { peer } => self.connect(machine, peer, false),
            Output::Close { conn, .. } => {
                if let Some(conn) = self.conn_of(machine, conn.0) {
                    self.close(machine, conn);
                    self.forget(machine, conn);
                }
            }
            Output::Send { conn, message } => {
                if let Some(conn) = self.conn_of(machine, conn.0) {
                    self.note(machine, conn, &message);
                    self.send(machine, conn, &message);
                }
            }
            Output::Announce(entry) => announces.push(entry),
            Output::Tracker { name, message } => {
                let route = self.member(machine).and_then(|member| {
                    let tracker = member.sessions.route(&name)?;
                    member.sessions.list[tracker].conn
                });
                if let Some(conn) = route {
                    self.send(machine, conn, &message);
                }
            }
            Output::Credit { count } => self.give_credits(machine, count),
            Output::FindOwners { name } => {
                let peers = self.owners(&name);
                self.later(machine, LOOK_UP, Input::Owners { name, peers });
            }
            Output::Open { description } => self.open(machine, &description),
            Output::Described { description } => self.described(machine, &description),
            Output::ProveCvs { conn, name, cvs } => self.prove(machine, conn, name, &cvs),
            Output::CheckGrowingCvs {
                conn, name, cvs, ..
            } => self.check_growing(machine, conn, name, &cvs),
            Output::SendCvs {
                conn,
                name,
                first,
                count,
            } => self.send_cvs(machine, conn, name, first, count),
            Output::Upload {
                conn,
                id,
                name,
                piece,
                priority,
                ..
            } => self.upload(machine, conn, id, (name, piece), priority),
            Output::CancelUpload { conn, id } => {
                let link = &mut self.machines[machine].link;
                link.uploads
                    .retain(|upload| (upload.conn as u64, upload.id) != (conn.0, id));
            }
            // Damage comes from machines that lie, so their disks are right.
            Output::Recheck { .. } => {}
            Output::Completed { name } => self.completed(machine, &name),
            Output::Failed { name, failure } => self.failed(machine, &name, &failure),
            Output::Resolve { name } => self.resolve(machine, name),
        }
    }

    pub(crate) fn send(&mut self, machine: usize, conn: Conn, message: &Message) {
        let mut bytes = Vec::new();
        swarm::wire::encode(message, &mut bytes);
        self.post(machine, conn, Packet::Message(bytes));
    }

    /// Remembers requests, to know what their data is.
    fn note(&mut self, machine: usize, conn: Conn, message: &Message) {
        let Message::Request {
            id, name, target, ..
        } = message
        else {
            return;
        };
        let asked = Asked {
            name: *name,
            target: *target,
            got: 0,
            damaged: false,
        };
        let Some(member) = self.member(machine) else {
            return;
        };
        if member.asked.insert((conn, *id), asked).is_some() {
            self.violate(machine, "a request with the id of an open one");
        }
    }

    fn forget(&mut self, machine: usize, conn: Conn) {
        if let Some(member) = self.member(machine) {
            member.neighbours.remove(&conn);
            member.asked.retain(|(other, _), _| *other != conn);
        }
    }

    pub(crate) fn member_closed(&mut self, machine: usize, conn: Conn) {
        self.forget(machine, conn);
        let conn = ConnId(conn as u64);
        self.tell(machine, Input::Closed { conn });
    }

    fn completed(&mut self, machine: usize, name: &SwarmName) {
        let Some(&blob) = self.names.get(name) else {
            return;
        };
        let stored = self.machines[machine].disk.get(name);
        if !stored.is_some_and(|stored| stored.have.is_full()) {
            return self.violate(machine, "a blob is complete that lacks pieces");
        }
        self.finish(machine, blob, Outcome::Completed(self.now));
    }

    fn failed(&mut self, machine: usize, name: &SwarmName, failure: &Failure) {
        let Some(&blob) = self.names.get(name) else {
            return;
        };
        if matches!(failure, Failure::Revoked(_)) {
            self.machines[machine].disk.remove(name);
        }
        if let Some(member) = self.member(machine) {
            member.active.remove(name);
            member.readers.remove(name);
        }
        self.finish(machine, blob, Outcome::Failed);
    }

    pub(crate) fn finish(&mut self, machine: usize, blob: usize, outcome: Outcome) {
        if let Some(download) = self.downloads.get_mut(&(machine, blob))
            && download.outcome.is_none()
        {
            download.outcome = Some(outcome);
            self.unfinished -= 1;
        }
    }
}
