//! One swarm as its tracker sees it, and who enters and leaves it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use torrent::{Description, Generation, Peer, PeerId, SwarmName};

use super::Tracker;
use super::grants::Wants;
use super::resolve::Answer;
use crate::handout::{Pool, Roster};
use crate::message::{HandoutStatus, Message};
use crate::time::Time;

/// Sixteenths of a whole blob.
pub(super) const WHOLE: u8 = 16;

/// Everything a tracker knows of one blob.
#[derive(Debug, Default)]
pub(super) struct TrackedSwarm {
    pub(super) description: Option<Description>,
    pub(super) members: BTreeMap<PeerId, Member>,
    /// Members that wait for the description, in the order they came.
    pub(super) waiting: VecDeque<PeerId>,
    /// Members that starve with nobody left to name, and no origin.
    pub(super) stranded: BTreeSet<PeerId>,
    /// Members that know the blob's description and can be named.
    pub(super) roster: Roster,
    /// Those of the roster that lack pieces.
    pub(super) incomplete: Pool,
    /// Origins that have the blob.
    pub(super) sources: BTreeMap<PeerId, Source>,
    /// What owners that were asked said.
    pub(super) answers: BTreeMap<PeerId, Answer>,
    /// When those who wait are told that nobody could be asked.
    pub(super) deadline: Option<Time>,
    pub(super) wants: Wants,
    /// Latest end of the grants of an agent at an origin.
    pub(super) grants: BTreeMap<(PeerId, PeerId), Time>,
}

/// An agent that takes part.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) zone: Arc<str>,
    pub(super) sixteenths: u8,
    /// It is in the queue of those who wait: a look through it would take long in a rush.
    waits: bool,
    /// Whom it was named, and who was named to it.
    pub(super) neighbours: BTreeSet<PeerId>,
    /// When a WANT last led to an introduction.
    pub(super) introduced_at: Option<Time>,
}

/// An origin that has the blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// Pieces are left that it gave nobody yet.
    pub(super) unserved: bool,
}

impl TrackedSwarm {
    pub(super) fn degree(&self, id: &PeerId) -> usize {
        self.members
            .get(id)
            .map_or(0, |member| member.neighbours.len())
    }

    pub(super) fn link(&mut self, one: PeerId, two: PeerId) {
        for (from, to) in [(one, two), (two, one)] {
            if let Some(member) = self.members.get_mut(&from) {
                member.neighbours.insert(to);
            }
        }
    }

    pub(super) fn first_pass_is_over(&self) -> bool {
        self.sources.values().all(|source| !source.unserved)
    }

    /// Returns whether the first pass of this origin goes on and has somebody to go to. Where a
    /// member has the whole blob every piece is among them already.
    pub(super) fn wants_any(&self, source: Source) -> bool {
        source.unserved && !self.incomplete.is_empty() && self.roster.complete().is_empty()
    }

    /// Returns whether nobody but this member has any of the blob.
    pub(super) fn is_alone(&self, id: &PeerId) -> bool {
        self.members
            .iter()
            .all(|(other, member)| other == id || member.sixteenths == 0)
    }

    /// Returns whether all other members are neighbours of this one.
    pub(super) fn knows_everybody(&self, id: &PeerId) -> bool {
        let mut others = self.members.keys().filter(|other| *other != id);
        self.members
            .get(id)
            .is_some_and(|member| others.all(|other| member.neighbours.contains(other)))
    }

    fn remove_member(&mut self, id: &PeerId) {
        let Some(member) = self.members.remove(id) else {
            return;
        };
        for neighbour in &member.neighbours {
            if let Some(neighbour) = self.members.get_mut(neighbour) {
                neighbour.neighbours.remove(id);
            }
        }
        self.roster.remove(id, &member.zone);
        self.incomplete.remove(id);
        if member.waits {
            self.waiting.retain(|waiting| waiting != id);
        }
        self.stranded.remove(id);
        self.wants.forget_agent(id);
    }
}

impl Tracker {
    pub(super) fn joined(&mut self, now: Time, name: &SwarmName, peer: &Peer, sixteenths: u8) {
        self.enter(name, peer, sixteenths);
        self.welcome(now, name, peer.id);
        self.settle(now, name);
    }

    pub(super) fn progressed(&mut self, now: Time, name: &SwarmName, peer: &Peer, sixteenths: u8) {
        let Some(swarm) = self.swarms.get_mut(name) else {
            return self.joined(now, name, peer, sixteenths);
        };
        let Some(member) = swarm.members.get_mut(&peer.id) else {
            return self.joined(now, name, peer, sixteenths);
        };
        member.sixteenths = sixteenths.min(WHOLE);
        // It flows again; what it still lacks it will say again.
        swarm.stranded.remove(&peer.id);
        swarm.wants.forget_agent(&peer.id);
        self.refresh(now, name);
    }

    pub(super) fn completed(&mut self, now: Time, name: &SwarmName, peer: &Peer) {
        self.enter(name, peer, WHOLE);
        let Some(swarm) = self.swarms.get_mut(name) else {
            return;
        };
        let member = swarm.members.get_mut(&peer.id);
        if member.is_some_and(|member| std::mem::take(&mut member.waits)) {
            swarm.waiting.retain(|waiting| *waiting != peer.id);
        }
        swarm.stranded.remove(&peer.id);
        swarm.wants.forget_agent(&peer.id);
        swarm.incomplete.remove(&peer.id);
        swarm.roster.insert(peer.id, &peer.zone);
        swarm.roster.set_complete(peer.id);
        // Slots kept for it can go to others.
        self.withdraw_from_agent(now, name, peer.id);
        self.settle(now, name);
    }

    /// Makes the peer a member, or takes its progress where it is one.
    fn enter(&mut self, name: &SwarmName, peer: &Peer, sixteenths: u8) {
        if let Some(session) = self.session_of(&peer.id) {
            session.blobs.insert(*name);
        }
        let swarm = self.swarms.entry(*name).or_default();
        let member = swarm.members.entry(peer.id).or_insert_with(|| Member {
            zone: Arc::clone(&peer.zone),
            sixteenths: 0,
            waits: false,
            neighbours: BTreeSet::new(),
            introduced_at: None,
        });
        member.sixteenths = sixteenths.min(WHOLE);
    }

    /// Answers a member that joined: at once with neighbours, or that owners are asked.
    fn welcome(&mut self, now: Time, name: &SwarmName, id: PeerId) {
        let Some(swarm) = self.swarms.get_mut(name) else {
            return;
        };
        if swarm.description.is_some() {
            self.name_neighbours(now, name, id);
            return;
        }
        let member = swarm.members.get_mut(&id);
        if member.is_some_and(|member| !std::mem::replace(&mut member.waits, true)) {
            swarm.waiting.push_back(id);
        }
        self.handout(name, &id, HandoutStatus::Pending, Vec::new());
    }

    /// Tells those who waited, once the description is known.
    pub(super) fn answer_waiting(&mut self, now: Time, name: &SwarmName) {
        while let Some(swarm) = self.swarms.get_mut(name)
            && let Some(id) = swarm.waiting.pop_front()
        {
            if let Some(member) = swarm.members.get_mut(&id) {
                member.waits = false;
            }
            self.name_neighbours(now, name, id);
        }
    }

    pub(super) fn source_announced(
        &mut self,
        now: Time,
        name: &SwarmName,
        peer: &Peer,
        unserved: bool,
    ) {
        let Some(swarm) = self.swarms.get_mut(name) else {
            return;
        };
        if swarm.description.is_none() {
            return;
        }
        swarm.sources.insert(peer.id, Source { unserved });
        swarm.answers.remove(&peer.id);
        swarm.stranded.clear();
        if let Some(session) = self.session_of(&peer.id) {
            session.blobs.insert(*name);
        }
        self.settle(now, name);
    }

    /// Takes a member out that was told that there is nothing for it.
    pub(super) fn dismiss(&mut self, now: Time, name: &SwarmName, id: PeerId) {
        if let Some(session) = self.session_of(&id) {
            session.blobs.remove(name);
        }
        self.withdraw_from_agent(now, name, id);
        if let Some(swarm) = self.swarms.get_mut(name) {
            swarm.remove_member(&id);
        }
    }

    /// Takes a peer out of a swarm, whatever it was in it.
    pub(super) fn depart(&mut self, now: Time, name: &SwarmName, id: PeerId) {
        if let Some(session) = self.session_of(&id) {
            session.blobs.remove(name);
            session.hungry.remove(name);
        }
        self.withdraw_from_agent(now, name, id);
        self.withdraw_from_origin(now, name, id);
        if let Some(swarm) = self.swarms.get_mut(name) {
            swarm.remove_member(&id);
            swarm.sources.remove(&id);
            swarm.answers.remove(&id);
        }
        self.settle(now, name);
    }

    /// Drops everything about a blob whose source was wrong, and tells everybody.
    pub(super) fn revoked(
        &mut self,
        now: Time,
        name: &SwarmName,
        by: PeerId,
        generation: Option<Generation>,
        reason: &Arc<str>,
    ) {
        let said = Arc::clone(reason);
        self.revoked.note(now, *name, generation, said);
        let Some(swarm) = self.swarms.get(name) else {
            return;
        };
        let known = swarm.description.as_ref().and_then(Description::generation);
        if let (Some(known), Some(revoked)) = (known, generation)
            && known != revoked
        {
            return;
        }
        // Who was told nothing of the blob has nothing to drop.
        let waiting: BTreeSet<PeerId> = swarm.waiting.iter().copied().collect();
        let members = swarm.members.keys().filter(|id| !waiting.contains(*id));
        let involved: BTreeSet<PeerId> = members.chain(swarm.sources.keys()).copied().collect();
        for id in &waiting {
            let failed = HandoutStatus::Failed(Arc::clone(reason));
            self.handout(name, id, failed, Vec::new());
        }
        for id in involved.iter().filter(|id| **id != by) {
            let revoke = Message::Revoke {
                name: *name,
                generation,
                reason: Arc::clone(reason),
            };
            self.send_to(id, revoke);
        }
        self.forget(name);
    }

    /// Removes the swarm and every mention of it.
    pub(super) fn forget(&mut self, name: &SwarmName) {
        let Some(swarm) = self.swarms.remove(name) else {
            return;
        };
        self.pending.remove(name);
        let mentioned = swarm.members.into_keys();
        let mentioned = mentioned.chain(swarm.sources.into_keys());
        for id in mentioned.chain(swarm.answers.into_keys()) {
            if let Some(session) = self.session_of(&id) {
                session.blobs.remove(name);
                session.hungry.remove(name);
            }
        }
    }
}
