//! The stand-in for storage: a blob is a set of pieces, and chaining values are true by decree.

use std::sync::Arc;

use rand::RngExt as _;
use swarm::event::Found;
use swarm::{ConnId, Input, Message, Micros, Priority, ReaderId, RequestId};
use torrent::{Cv, Description, PieceIndex, Role, SignedCv, SwarmName};

use crate::blob::{GENERATION, Outcome, Stored};
use crate::link::Upload;
use crate::member::Reader;
use crate::scenario::Presence;
use crate::world::{Event, World};

/// Opening a blob's files.
const OPEN: Micros = Micros::from_millis(1);
/// Time between two reads of a client.
const THINK: Micros = Micros::from_millis(5);
/// Asking storage whether it has a blob.
const RESOLVE: Micros = Micros::from_millis(2);
/// Proving chaining values, or checking the signature of one.
const PROVE: Micros = Micros(200);

impl World {
    pub(crate) fn open(&mut self, machine: usize, description: &Description) {
        let name = *description.name();
        let Some(&blob) = self.names.get(&name) else {
            return self.violate(machine, "a blob that does not exist was opened");
        };
        let geometry = *description.geometry();
        let is_agent = self.machines[machine].peer.role == Role::Agent;
        let stored = self.machines[machine].disk.entry(name);
        let stored = stored.or_insert_with(|| Stored::nothing(&geometry)).clone();
        let opened = Input::Opened {
            name,
            have: stored.have,
            proven: stored.proven,
        };
        self.later(machine, OPEN, opened);
        if !is_agent || geometry.length() == 0 || self.machines[machine].is_mute {
            return;
        }
        let reader = match self.scenario.parts {
            Some(parts) => self.part_reader(blob, parts.count),
            None => Reader {
                id: ReaderId(blob as u64),
                position: 0,
                end: geometry.length(),
                began: self.now,
                left: 0,
            },
        };
        self.start_reader(machine, name, reader, OPEN);
    }

    /// Returns a reader of a part at a random place, after which as many come as are left.
    fn part_reader(&mut self, blob: usize, left: u32) -> Reader {
        let length = self.blobs[blob].geometry().length();
        let bytes = self.scenario.parts.map_or(length, |parts| parts.bytes);
        let position = self.rng.random_range(0..=length.saturating_sub(bytes));
        let number = u64::from(left) * self.blobs.len() as u64 + blob as u64;
        Reader {
            id: ReaderId(number),
            position,
            end: length.min(position + bytes),
            began: self.now,
            left: left.saturating_sub(1),
        }
    }

    fn start_reader(&mut self, machine: usize, name: SwarmName, reader: Reader, delay: Micros) {
        let began = self.now + delay;
        let reader = Reader { began, ..reader };
        if let Some(member) = self.member(machine) {
            member.readers.insert(name, reader);
        }
        let read = Input::Read {
            name,
            reader: reader.id,
            range: reader.position..reader.end,
        };
        self.later(machine, delay, read);
    }

    /// A shell has an answer. A part may be here already when somebody begins to read it.
    pub(crate) fn answered(&mut self, machine: usize, input: Input) {
        let begins = if let Input::Read { name, .. } = &input {
            self.scenario.parts.map(|_| *name)
        } else {
            None
        };
        self.tell(machine, input);
        if let Some(name) = begins
            && let Some(&blob) = self.names.get(&name)
        {
            self.read_on(machine, name, blob);
        }
    }

    /// A client has read all of its part.
    pub(crate) fn part_read(&mut self, machine: usize, name: SwarmName, blob: usize, read: Reader) {
        if self.scenario.parts.is_none() {
            return;
        }
        let took = self.now.since(read.began);
        self.longest_read = self.longest_read.max(took);
        if read.left == 0 {
            return self.finish(machine, blob, Outcome::Completed(self.now));
        }
        let next = self.part_reader(blob, read.left);
        self.start_reader(machine, name, next, THINK);
    }

    pub(crate) fn described(&mut self, machine: usize, description: &Description) {
        let pieces = description.geometry().pieces() as usize;
        if let Some(stored) = self.machines[machine].disk.get_mut(description.name()) {
            stored.proven |= stored.known.len() == pieces;
        }
    }

    pub(crate) fn prove(&mut self, machine: usize, conn: ConnId, name: SwarmName, cvs: &Arc<[Cv]>) {
        let Some(&blob) = self.names.get(&name) else {
            return;
        };
        let right = self.blobs[blob].cvs == *cvs;
        if right && let Some(stored) = self.machines[machine].disk.get_mut(&name) {
            stored.proven = true;
        }
        let verdict = if right {
            Input::CvsProven { name }
        } else {
            Input::CvsWrong { conn, name }
        };
        self.later(machine, PROVE, verdict);
    }

    pub(crate) fn check_growing(
        &mut self,
        machine: usize,
        conn: ConnId,
        name: SwarmName,
        cvs: &[SignedCv],
    ) {
        let Some(&blob) = self.names.get(&name) else {
            return;
        };
        let blob = &self.blobs[blob];
        if cvs.iter().any(|cv| blob.signed(cv.piece) != *cv) {
            return self.later(machine, PROVE, Input::CvsWrong { conn, name });
        }
        let pieces: Vec<PieceIndex> = cvs
            .iter()
            .filter_map(|cv| blob.geometry().index(cv.piece))
            .collect();
        if let Some(stored) = self.machines[machine].disk.get_mut(&name) {
            stored.known.extend(pieces.iter().map(|piece| piece.get()));
        }
        self.later(machine, PROVE, Input::GrowingCvsKnown { name, pieces });
    }

    pub(crate) fn send_cvs(
        &mut self,
        machine: usize,
        conn: ConnId,
        name: SwarmName,
        first: u32,
        count: u32,
    ) {
        let Some(conn) = self.conn_of(machine, conn.0) else {
            return;
        };
        let (Some(&blob), Some(stored)) = (
            self.names.get(&name),
            self.machines[machine].disk.get(&name),
        ) else {
            return;
        };
        let blob = &self.blobs[blob];
        let message = if stored.proven {
            Message::Cvs {
                name,
                cvs: Arc::clone(&blob.cvs),
            }
        } else {
            let known = stored.known.range(first..first.saturating_add(count));
            Message::GrowingCvs {
                name,
                generation: GENERATION,
                cvs: known.map(|piece| blob.signed(*piece)).collect(),
            }
        };
        self.send(machine, conn, &message);
    }

    pub(crate) fn upload(
        &mut self,
        machine: usize,
        conn: ConnId,
        id: RequestId,
        (name, piece): (SwarmName, PieceIndex),
        priority: Priority,
    ) {
        let Some(index) = self.conn_of(machine, conn.0) else {
            return;
        };
        if self.machines[machine].is_mute {
            return;
        }
        let stored = self.machines[machine].disk.get(&name);
        if !stored.is_some_and(|stored| stored.have.contains(piece)) {
            return self.later(machine, PROVE, Input::UploadFailed { conn, id });
        }
        let Some(&blob) = self.names.get(&name) else {
            return;
        };
        let upload = Upload {
            conn: index,
            id,
            piece,
            priority,
            sent: 0,
            size: self.blobs[blob].geometry().size(piece),
        };
        self.machines[machine].link.uploads.push(upload);
        self.transmit(machine);
    }

    // --- origins ---

    pub(crate) fn resolve(&mut self, machine: usize, name: SwarmName) {
        let Some(&blob) = self.names.get(&name) else {
            return;
        };
        let (complete, growing) = (self.blobs[blob].complete, self.blobs[blob].growing);
        let found = match self.blobs[blob].presence {
            Presence::Seeded | Presence::Stored => {
                let stored = Stored::everything(complete.geometry());
                self.machines[machine].disk.insert(name, stored);
                Found::Here(complete)
            }
            Presence::Growing { .. } | Presence::Revoked { .. } => {
                let stored = Stored::nothing(complete.geometry());
                self.machines[machine].disk.entry(name).or_insert(stored);
                self.start_hashing(machine, name, blob);
                Found::Here(growing)
            }
            Presence::Absent => Found::Absent,
            Presence::Unreadable => Found::Failed("storage answers 500".into()),
        };
        if matches!(found, Found::Here(_)) {
            self.activate(machine, name);
        }
        self.later(machine, RESOLVE, Input::Resolved { name, found });
    }

    fn start_hashing(&mut self, machine: usize, name: SwarmName, blob: usize) {
        let Some(member) = self.member(machine) else {
            return;
        };
        if member.hashing.insert(name) {
            let life = self.machines[machine].life;
            let at = self.now + RESOLVE + self.hash_time(blob);
            let hashed = Event::Hashed {
                machine,
                life,
                blob,
                piece: 0,
            };
            self.queue.push(at, hashed);
        }
    }

    /// Returns how long the source takes for one piece.
    fn hash_time(&self, blob: usize) -> Micros {
        let blob = &self.blobs[blob];
        let (Presence::Growing { bytes_per_s } | Presence::Revoked { bytes_per_s, .. }) =
            blob.presence
        else {
            return Micros(0);
        };
        let bytes = u64::from(blob.geometry().piece_length()).min(blob.geometry().length());
        Micros(bytes * 1_000_000 / bytes_per_s.max(1))
    }

    /// An origin has read the piece of a growing blob.
    pub(crate) fn hashed(&mut self, machine: usize, index: usize, piece: u32) {
        let blob = &self.blobs[index];
        let (name, description) = (blob.name, blob.complete);
        let geometry = *blob.geometry();
        if let Presence::Revoked { after_pieces, .. } = blob.presence
            && piece >= after_pieces
        {
            self.machines[machine].disk.remove(&name);
            let revoke = Input::Revoke {
                name,
                generation: Some(GENERATION),
                reason: "the digest of the source differs".into(),
            };
            return self.tell(machine, revoke);
        }
        let signed = Box::new(blob.signed(piece));
        let Some(stored) = self.machines[machine].disk.get_mut(&name) else {
            return;
        };
        if let Some(index) = geometry.index(piece) {
            stored.have.insert(index);
            stored.known.insert(piece);
            self.tell(machine, Input::Hashed { name, signed });
        }
        if piece + 1 < geometry.pieces() {
            let life = self.machines[machine].life;
            let hashed = Event::Hashed {
                machine,
                life,
                blob: index,
                piece: piece + 1,
            };
            self.queue.push(self.now + self.hash_time(index), hashed);
            return;
        }
        if let Some(stored) = self.machines[machine].disk.get_mut(&name) {
            stored.proven = true;
        }
        self.tell(machine, Input::Grown { description });
    }
}
