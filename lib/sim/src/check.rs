//! What must hold at every moment of every run. The first breach ends it.

use swarm::Message;
use torrent::{PieceIndex, SwarmName};

use crate::link::Conn;
use crate::world::World;

/// Most outputs that one input may lead to: more is a loop that does not end.
pub(crate) const MAX_OUTPUTS: usize = 100_000;

impl World {
    pub(crate) fn violate(&mut self, machine: usize, what: &str) {
        let seconds = self.now.0 as f64 / 1e6;
        let who = &self.machines[machine].peer.addr;
        self.violations
            .push(format!("{seconds:.6} s, {who}: {what}"));
    }

    /// Everything that was encoded must decode to itself, whole.
    pub(crate) fn decoded(&mut self, machine: usize, bytes: &[u8]) -> Option<Message> {
        match swarm::wire::decode(bytes) {
            Ok(Some((message, consumed))) if consumed == bytes.len() => Some(message),
            other => {
                self.violate(machine, &format!("a frame that does not decode: {other:?}"));
                None
            }
        }
    }

    /// Nobody may send over a connection that it does not have.
    pub(crate) fn conn_of(&mut self, machine: usize, number: u64) -> Option<Conn> {
        let conn = usize::try_from(number).ok()?;
        let known = self.conns.get(conn);
        if known.is_some_and(|known| known.machines.contains(&machine)) {
            let end = self.end_of(machine, conn);
            return self.conns[conn].open[end].then_some(conn);
        }
        self.violate(machine, &format!("connection {number} is not its own"));
        None
    }

    /// What the swarm says must hold of itself.
    pub(crate) fn check_swarm(&mut self, machine: usize) {
        let Some(member) = self.member(machine) else {
            return;
        };
        if let Err(broken) = member.swarm.check() {
            self.violate(machine, &broken.to_string());
        }
    }

    /// A piece may be asked for only where its bytes can be checked when they come.
    pub(crate) fn check_provable(&mut self, machine: usize, name: &SwarmName, piece: PieceIndex) {
        let stored = self.machines[machine].disk.get(name);
        let one_piece = self.names.get(name).is_some_and(|blob| {
            let blob = &self.blobs[*blob];
            blob.geometry().pieces() == 1
        });
        let provable = stored.is_some_and(|stored| {
            stored.proven || one_piece || stored.known.contains(&piece.get())
        });
        if !provable {
            self.violate(machine, &format!("piece {piece} came before its proof"));
        }
    }
}
