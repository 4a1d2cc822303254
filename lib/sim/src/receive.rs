//! What peers send: messages go to the swarm, pieces are put together and checked first.

use swarm::message::Target;
use swarm::{ConnId, Input, Message, Micros, RequestId};
use torrent::{PieceIndex, Role, SwarmName};

use crate::link::{Conn, Packet};
use crate::world::{Event, Process, World};

/// Bytes that are hashed and written in a microsecond.
const CHECK_BYTES_PER_US: u64 = 1_000;

impl World {
    pub(crate) fn received(&mut self, machine: usize, conn: Conn, packet: Packet) {
        let (bytes, damaged) = match packet {
            Packet::Message(bytes) => (bytes, None),
            Packet::Frame {
                header, damaged, ..
            } => (header, Some(damaged)),
            Packet::Close => return,
        };
        let Some(message) = self.decoded(machine, &bytes) else {
            return;
        };
        if self.conns[conn].session {
            return self.session_received(machine, conn, message);
        }
        let Some(member) = self.member(machine) else {
            return;
        };
        if let Message::Hello { me, .. } = &message
            && me.role == Role::Agent
        {
            member.neighbours.insert(conn, me.id);
        }
        if let Message::Reject { id, .. } = &message {
            member.asked.remove(&(conn, *id));
        }
        let piece = match (&message, damaged) {
            (
                Message::Data {
                    id,
                    piece,
                    offset,
                    length,
                    last,
                },
                Some(damaged),
            ) => self.assemble(
                machine,
                conn,
                *id,
                *piece,
                [*offset, *length],
                *last,
                damaged,
            ),
            _ => None,
        };
        let id = ConnId(conn as u64);
        self.tell(machine, Input::Received { conn: id, message });
        if let Some((id, name, piece, damaged)) = piece {
            let life = self.machines[machine].life;
            let size = self.names.get(&name).map_or(0, |blob| {
                u64::from(self.blobs[*blob].geometry().size(piece))
            });
            let checked = Event::Checked {
                machine,
                life,
                conn,
                id,
                name,
                piece,
                damaged,
            };
            let at = self.now + Micros(size / CHECK_BYTES_PER_US);
            self.queue.push(at, checked);
        }
    }

    /// Counts a frame; returns the piece when it is whole.
    #[expect(clippy::too_many_arguments, reason = "the fields of DATA")]
    fn assemble(
        &mut self,
        machine: usize,
        conn: Conn,
        id: RequestId,
        raw: u32,
        [offset, length]: [u32; 2],
        last: bool,
        damaged: bool,
    ) -> Option<(RequestId, SwarmName, PieceIndex, bool)> {
        let sender = self.conns[conn].machines[1 - self.end_of(machine, conn)];
        let from_origin = self.machines[sender].peer.role == Role::Origin;
        if from_origin && self.machines[machine].peer.role == Role::Agent {
            self.traffic.egress += u64::from(length);
        }
        let Some(asked) = self.member(machine)?.asked.get_mut(&(conn, id)) else {
            self.violate(machine, "data for a request that is not open");
            return None;
        };
        let fits = match asked.target {
            Target::Piece(piece) | Target::Blocks(piece, _) => piece == raw,
            Target::Any => true,
        };
        let in_order = asked.got == offset;
        asked.got += length;
        asked.damaged |= damaged;
        let (name, got, damaged) = (asked.name, asked.got, asked.damaged);
        if last {
            self.member(machine)?.asked.remove(&(conn, id));
        }
        if !fits || !in_order {
            self.violate(machine, "data of another piece, or out of order");
            return None;
        }
        let blob = &self.blobs[*self.names.get(&name)?];
        let piece = blob.geometry().index(raw)?;
        if !last {
            return None;
        }
        if got != blob.geometry().size(piece) {
            self.violate(machine, "a piece that ended short");
            return None;
        }
        Some((id, name, piece, damaged))
    }

    /// A piece was hashed.
    pub(crate) fn checked(
        &mut self,
        machine: usize,
        conn: Conn,
        id: RequestId,
        name: SwarmName,
        piece: PieceIndex,
        damaged: bool,
    ) {
        let Some(&blob) = self.names.get(&name) else {
            return;
        };
        let size = u64::from(self.blobs[blob].geometry().size(piece));
        if !self.machines[machine].disk.contains_key(&name) {
            // The blob was given up while the piece was on its way.
            self.traffic.wasted += size;
            return;
        }
        self.check_provable(machine, &name, piece);
        let conn = ConnId(conn as u64);
        if damaged {
            self.traffic.wasted += size;
            let corrupt = Input::PieceCorrupt {
                conn,
                id,
                name,
                piece,
            };
            return self.tell(machine, corrupt);
        }
        let stored = self.machines[machine].disk.get_mut(&name);
        if stored.is_some_and(|stored| stored.have.insert(piece)) {
            self.traffic.useful += size;
        } else {
            self.traffic.wasted += size;
        }
        let verified = Input::PieceVerified {
            conn,
            id,
            name,
            piece,
        };
        self.tell(machine, verified);
        self.read_on(machine, name, blob);
    }

    /// The client takes what has come in order.
    pub(crate) fn read_on(&mut self, machine: usize, name: SwarmName, blob: usize) {
        let geometry = *self.blobs[blob].geometry();
        let place = &mut self.machines[machine];
        let (Process::Member(member), Some(stored)) = (&mut place.process, place.disk.get(&name))
        else {
            return;
        };
        let Some(mut reader) = member.readers.get(&name).copied() else {
            return;
        };
        let before = reader.position;
        while reader.position < reader.end
            && let Some(piece) = geometry.piece_at(reader.position)
            && stored.have.contains(piece)
        {
            reader.position = geometry.range(piece).end.min(reader.end);
        }
        if reader.position == before {
            return;
        }
        let done = reader.position == reader.end;
        if done {
            member.readers.remove(&name);
        } else {
            member.readers.insert(name, reader);
        }
        let read = reader;
        let (reader, position) = (reader.id, reader.position);
        self.tell(machine, Input::ReadAt { reader, position });
        if done {
            self.tell(machine, Input::ReadDone { reader });
            self.part_read(machine, name, blob, read);
        }
    }
}
