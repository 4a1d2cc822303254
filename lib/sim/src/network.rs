//! Connections between machines, and the packets on them.

use swarm::{ConnId, Input, Micros, RequestId};
use torrent::{Peer, Role};

use crate::link::{Conn, FRAME_BYTES, Packet};
use crate::world::{Connection, Event, World};

impl World {
    pub(crate) fn connect(&mut self, machine: usize, expected: Peer, session: bool) {
        let Some(&other) = self.addresses.get(&expected.addr) else {
            let what = format!("a connection to nobody: {}", expected.addr);
            return self.violate(machine, &what);
        };
        let machines = [machine, other];
        let lives = machines.map(|machine| self.machines[machine].life);
        // Two messages and an answer before the first byte can be sent.
        let at = self.now + Micros(self.scenario.rtt_us * 3 / 2);
        let connected = Event::Connected {
            machines,
            lives,
            expected,
            session,
        };
        self.queue.push(at, connected);
    }

    pub(crate) fn connected(
        &mut self,
        machines: [usize; 2],
        lives: [u32; 2],
        expected: &Peer,
        session: bool,
    ) {
        let [from, to] = machines;
        if !self.lives(from, lives[0]) {
            return;
        }
        if !self.lives(to, lives[1]) {
            if session {
                self.unreachable(from, to);
            } else {
                self.tell(from, Input::ConnectFailed { peer: expected.id });
            }
            return;
        }
        let conn = self.conns.len();
        self.conns.push(Connection {
            machines,
            open: [true, true],
            under_way: [0, 0],
            session,
        });
        if session {
            self.session_up(conn);
            return;
        }
        let id = ConnId(conn as u64);
        for (machine, expected) in [(from, Some(expected.id)), (to, None)] {
            let input = Input::Connected { conn: id, expected };
            self.tell(machine, input);
        }
    }

    /// Queues a packet at an end; whatever is sent over a closed end is dropped.
    pub(crate) fn post(&mut self, machine: usize, conn: Conn, packet: Packet) {
        let end = self.end_of(machine, conn);
        if self.conns[conn].open[end] {
            let link = &mut self.machines[machine].link;
            link.messages.push_back((conn, packet));
            self.transmit(machine);
        }
    }

    pub(crate) fn end_of(&self, machine: usize, conn: Conn) -> usize {
        usize::from(self.conns[conn].machines[0] != machine)
    }

    /// Closes an end of ours, after what was sent before.
    pub(crate) fn close(&mut self, machine: usize, conn: Conn) {
        self.post(machine, conn, Packet::Close);
        let end = self.end_of(machine, conn);
        self.conns[conn].open[end] = false;
        let link = &mut self.machines[machine].link;
        link.uploads.retain(|upload| upload.conn != conn);
    }

    /// The other end of a connection is gone.
    pub(crate) fn end_closed(&mut self, conn: Conn, end: usize) {
        if !self.conns[conn].open[end] {
            return;
        }
        self.conns[conn].open[end] = false;
        let machine = self.conns[conn].machines[end];
        let link = &mut self.machines[machine].link;
        link.uploads.retain(|upload| upload.conn != conn);
        link.messages.retain(|(other, _)| *other != conn);
        if self.conns[conn].session {
            self.session_down(machine, conn);
        } else {
            self.member_closed(machine, conn);
        }
    }

    /// Sends the next packet, if the way up is free.
    pub(crate) fn transmit(&mut self, machine: usize) {
        if self.machines[machine].link.sending.is_some() {
            return;
        }
        let Some((conn, packet, last)) = self.next_packet(machine) else {
            return;
        };
        let end = self.end_of(machine, conn);
        self.conns[conn].under_way[end] += packet.payload();
        let place = &mut self.machines[machine];
        place.link.sending = Some((conn, last));
        let done = self.now + place.link.up_time(&packet);
        let life = place.life;
        let other = 1 - end;
        let (at, end) = (done + self.latency(), other);
        self.queue.push(done, Event::Sent { machine, life });
        self.queue.push(at, Event::Arrived { conn, end, packet });
    }

    fn next_packet(&mut self, machine: usize) -> Option<(Conn, Packet, Option<RequestId>)> {
        if let Some((conn, packet)) = self.machines[machine].link.messages.pop_front() {
            return Some((conn, packet, None));
        }
        let conns = &self.conns;
        let under_way = |conn: Conn| {
            let end = usize::from(conns[conn].machines[0] != machine);
            conns[conn].under_way[end]
        };
        let place = &mut self.machines[machine];
        let index = place.link.next_upload(under_way)?;
        let mut upload = place.link.uploads.remove(index);
        let length = FRAME_BYTES.min(upload.size - upload.sent);
        let last = upload.sent + length == upload.size;
        let header = swarm::Message::Data {
            id: upload.id,
            piece: upload.piece.get(),
            offset: upload.sent,
            length,
            last,
        };
        let mut bytes = Vec::new();
        swarm::wire::encode(&header, &mut bytes);
        let packet = Packet::Frame {
            header: bytes,
            length,
            damaged: place.damages,
        };
        let (conn, id) = (upload.conn, upload.id);
        upload.sent += length;
        if !last {
            place.link.uploads.push(upload);
        }
        Some((conn, packet, last.then_some(id)))
    }

    pub(crate) fn sent(&mut self, machine: usize, life: u32) {
        if !self.lives(machine, life) {
            return;
        }
        let sent = self.machines[machine].link.sending.take();
        if let Some((conn, Some(id))) = sent
            && self.conns[conn].open[self.end_of(machine, conn)]
        {
            let conn = ConnId(conn as u64);
            self.tell(machine, Input::UploadDone { conn, id });
        }
        self.transmit(machine);
    }

    pub(crate) fn delivered(&mut self, conn: Conn, end: usize, packet: Packet) {
        let [sender, machine] = [1 - end, end].map(|end| self.conns[conn].machines[end]);
        self.conns[conn].under_way[1 - end] -= packet.payload();
        if self.conns[conn].open[end] {
            match (packet, self.machines[machine].peer.role) {
                (Packet::Close, _) => self.end_closed(conn, end),
                (packet, Role::Tracker) => self.tracker_received(machine, conn, packet),
                (packet, Role::Agent | Role::Origin) => self.received(machine, conn, packet),
            }
        }
        self.transmit(sender);
    }
}
