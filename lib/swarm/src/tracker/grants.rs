//! Grants: who may ask an origin for how much. Every grant spends a credit that the origin gave;
//! the origin gives it again when the slot is free.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;
use torrent::{Peer, PeerId, Role, SwarmName};

use super::resolve::Answer;
use super::{Timer, Tracker};
use crate::event::SessionId;
use crate::message::Message;
use crate::time::{Micros, Time};
use crate::wire::{MAX_GRANT_PIECES, MAX_OWNERS};

/// Most ends of grants, and most pieces granted by name, that are remembered of a blob.
const MAX_ENDS: usize = 4_096;

/// Pieces that somebody asked for by name. A piece waits once, whoever else wants it too.
#[derive(Debug, Default)]
pub(super) struct Wants {
    agents: BTreeMap<PeerId, Want>,
    pieces: BTreeSet<u32>,
    /// Pieces granted by name lately, to whom and when.
    given: BTreeMap<u32, (PeerId, Time)>,
}

#[derive(Debug)]
struct Want {
    ripe_at: Time,
    pieces: Vec<u32>,
}

impl Wants {
    pub(super) fn forget_agent(&mut self, id: &PeerId) {
        if let Some(want) = self.agents.remove(id) {
            for piece in want.pieces {
                self.pieces.remove(&piece);
            }
        }
    }

    /// Puts pieces in the queue; those of the same agent take the place of earlier ones.
    fn put(&mut self, id: PeerId, pieces: &[u32], ripe_at: Time, max: usize) -> Option<Time> {
        let since = self.agents.get(&id).map(|want| want.ripe_at);
        self.forget_agent(&id);
        let ripe_at = since.unwrap_or(ripe_at).min(ripe_at);
        let mut fresh = Vec::new();
        for piece in pieces {
            if self.pieces.len() < max && self.pieces.insert(*piece) {
                fresh.push(*piece);
            }
        }
        if fresh.is_empty() {
            return None;
        }
        let pieces = fresh;
        self.agents.insert(id, Want { ripe_at, pieces });
        Some(ripe_at)
    }

    fn is_ripe(&self, now: Time) -> bool {
        self.agents.values().any(|want| want.ripe_at <= now)
    }

    /// Takes up to `max` pieces of the agent that has waited longest.
    fn take(&mut self, now: Time, max: usize) -> Option<(PeerId, Vec<u32>)> {
        let (&id, want) = self
            .agents
            .iter_mut()
            .filter(|(_, want)| want.ripe_at <= now)
            .min_by_key(|(_, want)| want.ripe_at)?;
        let rest = want.pieces.split_off(max.min(want.pieces.len()));
        let taken = std::mem::replace(&mut want.pieces, rest);
        if want.pieces.is_empty() {
            self.agents.remove(&id);
        }
        if self.given.len() >= MAX_ENDS {
            self.given.clear();
        }
        for piece in &taken {
            self.pieces.remove(piece);
            self.given.insert(*piece, (id, now));
        }
        Some((id, taken))
    }

    /// Returns who was given the piece since `time`.
    fn given_since(&self, piece: u32, time: Time) -> Option<PeerId> {
        self.given
            .get(&piece)
            .filter(|(_, at)| *at >= time)
            .map(|(id, _)| *id)
    }
}

impl Tracker {
    pub(super) fn credited(&mut self, session: SessionId, peer: &Peer, credits: u16) {
        let max = self.config.policy.max_credits;
        if peer.role == Role::Origin
            && let Some(known) = self.sessions.get_mut(&session)
        {
            known.credits = known.credits.saturating_add(credits).min(max);
        }
    }

    /// An agent says that no neighbour has these pieces.
    pub(super) fn wanted(&mut self, now: Time, name: &SwarmName, id: PeerId, pieces: &[u32]) {
        let policy = self.config.policy.clone();
        let Some(swarm) = self.swarms.get(name) else {
            return;
        };
        let Some(description) = swarm.description else {
            return;
        };
        let Some(member) = swarm.members.get(&id) else {
            return;
        };
        let rested = member
            .introduced_at
            .is_none_or(|at| at + policy.introduction_pause <= now);
        let lately = Time(now.0.saturating_sub(policy.introduction_pause.0));
        let geometry = description.geometry();
        let mut holder = None;
        let mut missing = Vec::new();
        for &piece in pieces {
            if geometry.index(piece).is_none() {
                continue;
            }
            match swarm.wants.given_since(piece, lately) {
                Some(given) if given != id && swarm.members.contains_key(&given) => {
                    holder = holder.or(Some(given));
                }
                _ => missing.push(piece),
            }
        }
        let alone = swarm.is_alone(&id);
        let new_holder = holder.filter(|holder| !member.neighbours.contains(holder));
        let introduced = match new_holder {
            Some(holder) => {
                self.introduce_to(name, id, holder);
                true
            }
            None => rested && !alone && self.introduce(name, id),
        };
        let Some(swarm) = self.swarms.get_mut(name) else {
            return;
        };
        if introduced && let Some(member) = swarm.members.get_mut(&id) {
            member.introduced_at = Some(now);
        }
        // Who knows everybody knows what nobody has.
        let is_sure = swarm.first_pass_is_over() || swarm.knows_everybody(&id);
        let at_once = alone || (is_sure && !introduced);
        let ripe_at = if at_once {
            now
        } else {
            now + policy.want_patience
        };
        if let Some(due) = swarm.wants.put(id, &missing, ripe_at, policy.max_wants) {
            self.timers.insert((due, Timer::Wants(*name)));
        }
        if swarm.sources.is_empty() {
            self.starving(now, name, id);
        }
        self.refresh(now, name);
    }

    /// Says for each origin of the blob whether it can give something of it to somebody.
    pub(super) fn refresh(&mut self, now: Time, name: &SwarmName) {
        let Some(swarm) = self.swarms.get(name) else {
            return;
        };
        let ripe = swarm.wants.is_ripe(now);
        for (id, source) in &swarm.sources {
            let Some(session) = self.ids.get(id).and_then(|id| self.sessions.get_mut(id)) else {
                continue;
            };
            if ripe || swarm.wants_any(*source) {
                session.hungry.insert(*name);
            } else {
                session.hungry.remove(name);
            }
        }
    }

    /// Turns credits into grants, as long as somebody can use them.
    pub(super) fn spend_credits(&mut self, now: Time) {
        for session in self.origins.clone() {
            while let Some(origin) = self.sessions.get(&session) {
                let Some(peer) = &origin.peer else { break };
                if origin.credits == 0 || origin.hungry.is_empty() {
                    break;
                }
                let id = peer.id;
                let chosen = self.rng.random_range(0..origin.hungry.len());
                let Some(name) = origin.hungry.iter().nth(chosen).copied() else {
                    break;
                };
                self.grant_of(now, &name, id);
            }
        }
    }

    /// Grants something of this blob at this origin, or finds that there is nothing to grant.
    fn grant_of(&mut self, now: Time, name: &SwarmName, origin: PeerId) {
        let policy = &self.config.policy;
        let wanted = policy.wanted_per_grant.min(MAX_GRANT_PIECES);
        let count = policy.pieces_per_grant;
        let chosen = self.swarms.get_mut(name).and_then(|swarm| {
            swarm.wants.take(now, wanted).or_else(|| {
                let source = swarm.sources.get(&origin).copied()?;
                let agent = swarm.incomplete.draw(&mut self.rng)?;
                swarm.wants_any(source).then(|| (agent, Vec::new()))
            })
        });
        let granted = chosen.is_some_and(|(agent, pieces)| {
            let named = u16::try_from(pieces.len()).unwrap_or(u16::MAX);
            let count = if named == 0 { count } else { named };
            self.grant(now, name, agent, origin, count, pieces)
        });
        self.refresh(now, name);
        if !granted && let Some(session) = self.session_of(&origin) {
            session.hungry.remove(name);
        }
    }

    /// Asks an owner for a blob nobody announced: by a grant to somebody who waits, or where the
    /// owner has no slot free by one of no pieces, which takes none.
    pub(super) fn grant_question(&mut self, now: Time, name: &SwarmName, owner: PeerId) {
        let count = self.config.policy.pieces_per_grant;
        let Some(swarm) = self.swarms.get(name) else {
            return;
        };
        let agent = swarm
            .waiting
            .front()
            .copied()
            .or_else(|| swarm.incomplete.draw(&mut self.rng));
        let agent = agent.or_else(|| swarm.stranded.first().copied());
        let Some(agent) = agent else {
            return;
        };
        let free = self
            .session_of(&owner)
            .is_some_and(|session| session.credits > 0);
        let count = if free { count } else { 0 };
        self.grant(now, name, agent, owner, count, Vec::new());
    }

    /// Sends a grant; returns whether both ends are there to get it.
    fn grant(
        &mut self,
        now: Time,
        name: &SwarmName,
        agent: PeerId,
        origin: PeerId,
        count: u16,
        pieces: Vec<u32>,
    ) -> bool {
        let owners = self.owners_with(name);
        let deadline = self.config.policy.grant_deadline;
        let zone = self.peer(&agent).map(|peer| peer.zone.clone());
        let (Some(zone), Some(peer)) = (zone, self.peer(&origin).cloned()) else {
            return false;
        };
        let grant = Message::Grant {
            name: *name,
            agent,
            origin: peer,
            count,
            pieces,
            zone,
            deadline,
            owners,
        };
        if count == 0 {
            self.send_to(&origin, grant);
            return true;
        }
        if let Some(session) = self.session_of(&origin) {
            session.credits -= 1;
        }
        self.stats.grants += 1;
        self.remember_grant(now, name, agent, origin, deadline);
        // The origin first: the agent's requests follow the grant.
        self.send_to(&origin, grant.clone());
        self.send_to(&agent, grant);
        true
    }

    fn remember_grant(
        &mut self,
        now: Time,
        name: &SwarmName,
        agent: PeerId,
        origin: PeerId,
        deadline: Micros,
    ) {
        if let Some(swarm) = self.swarms.get_mut(name) {
            if swarm.grants.len() >= MAX_ENDS {
                swarm.grants.retain(|_, end| *end > now);
            }
            swarm.grants.insert((agent, origin), now + deadline);
        }
    }

    /// Ends the grants of an agent that is gone, or has what it wanted.
    pub(super) fn withdraw_from_agent(&mut self, now: Time, name: &SwarmName, agent: PeerId) {
        let open = self.end_grants(now, name, |(of, _)| *of == agent);
        for (agent, origin) in open {
            self.withdraw(name, agent, origin, &origin);
        }
    }

    /// Ends the grants at an origin that is gone, or has nothing.
    pub(super) fn withdraw_from_origin(&mut self, now: Time, name: &SwarmName, origin: PeerId) {
        let open = self.end_grants(now, name, |(_, at)| *at == origin);
        for (agent, origin) in open {
            self.withdraw(name, agent, origin, &agent);
            self.withdraw(name, agent, origin, &origin);
        }
    }

    fn withdraw(&mut self, name: &SwarmName, agent: PeerId, origin: PeerId, to: &PeerId) {
        self.stats.withdrawals += 1;
        let name = *name;
        let withdraw = Message::Withdraw {
            name,
            agent,
            origin,
        };
        self.send_to(to, withdraw);
    }

    /// Forgets some grants; returns those that had not ended yet.
    fn end_grants(
        &mut self,
        now: Time,
        name: &SwarmName,
        ended: impl Fn(&(PeerId, PeerId)) -> bool,
    ) -> Vec<(PeerId, PeerId)> {
        let Some(swarm) = self.swarms.get_mut(name) else {
            return Vec::new();
        };
        let mut open = Vec::new();
        swarm.grants.retain(|grant, end| {
            let keep = !ended(grant);
            if !keep && *end > now {
                open.push(*grant);
            }
            keep
        });
        open
    }

    /// Returns the live owners that have the blob or may have it, in the order of the ring, then
    /// any other origin that has it: they split its runs.
    fn owners_with(&self, name: &SwarmName) -> Vec<PeerId> {
        let mut owners = self.live_owners(name);
        if let Some(swarm) = self.swarms.get(name) {
            owners.retain(|id| {
                !matches!(swarm.answers.get(id), Some(Answer::Absent | Answer::Failed))
            });
            for id in swarm.sources.keys() {
                if !owners.contains(id) {
                    owners.push(*id);
                }
            }
        }
        owners.truncate(MAX_OWNERS);
        owners
    }
}
