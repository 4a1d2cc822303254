//! Without trackers origins introduce agents to each other (§7.9): who came before the last tracker
//! went has neighbours, and who comes after it would have nobody but the origins.

use rand::seq::IteratorRandom as _;
use torrent::{Peer, Role, SwarmName};

use crate::event::ConnId;
use crate::message::{HandoutStatus, Message};
use crate::swarm::Swarm;
use crate::time::{Micros, Time};

/// Agents named at a time.
const NAMED: usize = 6;
/// An agent is told of others at most this often.
const PAUSE: Micros = Micros::from_millis(200);

impl Swarm {
    /// Names some agents that take part in the blob to one of them.
    pub(crate) fn name_peers(&mut self, now: Time, conn: ConnId, name: &SwarmName) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let (Some(description), Some(link)) = (torrent.description, torrent.links.get_mut(&conn))
        else {
            return;
        };
        if link.named_at.is_some_and(|at| at + PAUSE > now) {
            return;
        }
        let others = torrent.links.iter();
        let others = others.filter(|(other, link)| **other != conn && link.heard);
        let agents = others.filter_map(|(other, _)| {
            let peer = self.conns.get(other)?.peer.as_ref()?;
            (peer.role == Role::Agent).then_some(peer)
        });
        let peers: Vec<Peer> = agents
            .sample(&mut self.rng, NAMED)
            .into_iter()
            .cloned()
            .collect();
        if peers.is_empty() {
            return;
        }
        if let Some(link) = torrent.links.get_mut(&conn) {
            link.named_at = Some(now);
        }
        let handout = Message::Handout {
            name: *name,
            status: HandoutStatus::Known(description),
            peers,
        };
        self.send(conn, handout);
    }

    /// An origin named agents to us.
    pub(crate) fn named(
        &mut self,
        now: Time,
        conn: ConnId,
        name: &SwarmName,
        status: &HandoutStatus,
        peers: &[Peer],
    ) {
        let HandoutStatus::Known(description) = status else {
            return;
        };
        if self.trackers_up != Some(false) || description.name() != name {
            return;
        }
        self.learn(now, name, *description, Some(conn));
        let max_degree = self.config.policy.max_degree;
        for peer in peers.iter().filter(|peer| peer.role == Role::Agent) {
            if self.is_hungry(name) {
                self.meet(now, peer, name, max_degree);
            }
        }
    }

    /// Asks origins who else takes part, where no tracker can be asked.
    pub(crate) fn want_of_origins(&mut self, name: &SwarmName, pieces: &[u32]) {
        let links = self.torrents.get(name).map(|torrent| &torrent.links);
        let heard = links.into_iter().flatten().filter(|(_, link)| link.heard);
        let conns: Vec<ConnId> = heard
            .map(|(conn, _)| *conn)
            .filter(|conn| self.is_served_by(*conn))
            .collect();
        for conn in conns {
            let pieces = pieces.to_vec();
            let name = *name;
            self.send(conn, Message::Want { name, pieces });
        }
    }
}
