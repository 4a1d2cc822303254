//! Handouts: who is named to whom.

use torrent::{PeerId, SwarmName};

use super::Tracker;
use super::members::TrackedSwarm;
use crate::handout::{self, Asker};
use crate::message::{HandoutStatus, Message};
use crate::time::Time;
use crate::wire::MAX_PEERS;

/// Random members that are looked at for the one with most progress.
const SAMPLES: usize = 8;

impl Tracker {
    /// Answers a join with neighbours, and lets others be linked to the member from now on.
    pub(super) fn name_neighbours(&mut self, now: Time, name: &SwarmName, id: PeerId) {
        let Some(swarm) = self.swarms.get_mut(name) else {
            return;
        };
        let Some(description) = swarm.description else {
            return;
        };
        let Some(member) = swarm.members.get(&id) else {
            return;
        };
        let connected = self
            .ids
            .get(&id)
            .and_then(|session| self.sessions.get(session))
            .map(|session| &session.connected);
        let Some(connected) = connected else {
            return;
        };
        let asker = Asker {
            id,
            zone: &member.zone,
            connected,
            neighbours: &member.neighbours,
        };
        let peers = handout::choose(
            &mut self.rng,
            &swarm.roster,
            &asker,
            self.config.policy.named_peers.min(MAX_PEERS),
            self.config.policy.max_degree,
            |id| swarm.degree(id),
        );
        let zone = member.zone.clone();
        swarm.roster.insert(id, &zone);
        swarm.incomplete.insert(id);
        for peer in &peers {
            swarm.link(id, *peer);
        }
        self.handout(name, &id, HandoutStatus::Known(description), peers);
        self.refresh(now, name);
    }

    /// One more peer for a member that nobody near has anything for.
    pub(super) fn starving(&mut self, now: Time, name: &SwarmName, id: PeerId) {
        if !self.introduce(name, id)
            && let Some(swarm) = self.swarms.get_mut(name)
            && swarm.roster.all().contains(&id)
            && swarm.sources.is_empty()
        {
            // Nobody is left to name: owners must be asked, again if need be, and the member told.
            if swarm.stranded.insert(id) && !self.pending.contains(name) {
                swarm.answers.clear();
            }
            self.settle(now, name);
        }
    }

    /// Introduces the member to one that has more of the blob; returns whether there was one.
    pub(super) fn introduce(&mut self, name: &SwarmName, id: PeerId) -> bool {
        let max_degree = self.config.policy.max_introduced_degree;
        let Some(swarm) = self.swarms.get(name) else {
            return false;
        };
        let Some(member) = swarm.members.get(&id) else {
            return false;
        };
        let may_be_named = |peer: &PeerId| {
            *peer != id && !member.neighbours.contains(peer) && swarm.degree(peer) < max_degree
        };
        let complete = swarm.roster.complete();
        let mut drawn: Vec<PeerId> = (0..SAMPLES)
            .filter_map(|_| complete.draw(&mut self.rng))
            .collect();
        drawn.extend((0..SAMPLES).filter_map(|_| swarm.roster.all().draw(&mut self.rng)));
        drawn.retain(may_be_named);
        let best = drawn
            .into_iter()
            .max_by_key(|peer| progress(swarm, peer))
            .or_else(|| {
                // Bad luck, or a small swarm where nearly all are neighbours.
                let members = swarm.members.keys().filter(|peer| may_be_named(peer));
                members
                    .filter(|peer| swarm.roster.all().contains(peer))
                    .max_by_key(|peer| progress(swarm, peer))
                    .copied()
            });
        match best {
            Some(peer) => {
                self.introduce_to(name, id, peer);
                true
            }
            None => false,
        }
    }

    /// Introduces the member to this very peer.
    pub(super) fn introduce_to(&mut self, name: &SwarmName, id: PeerId, peer: PeerId) {
        let Some(swarm) = self.swarms.get_mut(name) else {
            return;
        };
        let Some(description) = swarm.description else {
            return;
        };
        swarm.link(id, peer);
        self.handout(name, &id, HandoutStatus::Known(description), vec![peer]);
    }

    pub(super) fn handout(
        &mut self,
        name: &SwarmName,
        to: &PeerId,
        status: HandoutStatus,
        peers: Vec<PeerId>,
    ) {
        let peers = peers
            .iter()
            .filter_map(|id| self.peer(id).cloned())
            .collect();
        self.stats.handouts += 1;
        let handout = Message::Handout {
            name: *name,
            status,
            peers,
        };
        self.send_to(to, handout);
    }
}

fn progress(swarm: &TrackedSwarm, id: &PeerId) -> u8 {
    swarm.members.get(id).map_or(0, |member| member.sixteenths)
}
