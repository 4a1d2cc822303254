//! Blobs nobody announced: owners are asked, and those who wait get an answer within a bound.

use std::sync::Arc;

use torrent::{PeerId, SwarmName};

use super::{Timer, Tracker};
use crate::message::HandoutStatus;
use crate::time::Time;

/// What an owner that was asked said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Asked,
    Absent,
    Failed,
}

impl Tracker {
    /// Brings a swarm in order after anything about it changed: asks owners or ends the asking,
    /// says who can be given something, and forgets a swarm nobody is in.
    pub(super) fn settle(&mut self, now: Time, name: &SwarmName) {
        let Some(swarm) = self.swarms.get(name) else {
            self.pending.remove(name);
            return;
        };
        if swarm.members.is_empty() && swarm.sources.is_empty() {
            self.forget(name);
            return;
        }
        let helpless = !swarm.incomplete.is_empty() && swarm.roster.complete().is_empty();
        let asks = !swarm.waiting.is_empty() || !swarm.stranded.is_empty() || helpless;
        if swarm.sources.is_empty() && asks {
            self.resolve(now, name);
        } else {
            self.end_resolving(name);
        }
        self.refresh(now, name);
    }

    /// An owner said that it does not have the blob, or cannot read it.
    pub(super) fn answered(&mut self, now: Time, name: &SwarmName, id: PeerId, answer: Answer) {
        self.withdraw_from_origin(now, name, id);
        let Some(swarm) = self.swarms.get_mut(name) else {
            return;
        };
        let was_source = swarm.sources.remove(&id).is_some();
        if was_source || swarm.answers.contains_key(&id) {
            swarm.answers.insert(id, answer);
            self.settle(now, name);
        }
    }

    pub(super) fn resolve_timer(&mut self, now: Time, name: SwarmName) {
        let due = self.swarms.get(&name).and_then(|swarm| swarm.deadline);
        if due.is_none_or(|due| due > now) {
            return;
        }
        let reason = if self.live_owners(&name).is_empty() {
            "no origin that owns this blob is connected to the tracker; are the origins up?"
        } else {
            "the origins did not say in time whether they have this blob"
        };
        if let Some(swarm) = self.swarms.get_mut(&name) {
            swarm.answers.clear();
        }
        self.conclude(now, &name, &HandoutStatus::Failed(Arc::from(reason)));
    }

    fn resolve(&mut self, now: Time, name: &SwarmName) {
        let live = self.live_owners(name);
        let Some(swarm) = self.swarms.get(name) else {
            return;
        };
        let answer = |id: &PeerId| swarm.answers.get(id).copied();
        let unasked: Vec<PeerId> = live
            .iter()
            .filter(|id| answer(id).is_none())
            .copied()
            .collect();
        let said = |wanted| live.iter().all(|id| answer(id) == Some(wanted));
        if !live.is_empty() && said(Answer::Absent) {
            self.conclude(now, name, &HandoutStatus::Absent);
        } else if !live.is_empty()
            && live
                .iter()
                .all(|id| matches!(answer(id), Some(Answer::Absent | Answer::Failed)))
        {
            let reason = "the origins could not read this blob from storage; their logs say why";
            self.conclude(now, name, &HandoutStatus::Failed(Arc::from(reason)));
        } else {
            self.ask(now, name, &unasked, live.is_empty());
        }
    }

    fn ask(&mut self, now: Time, name: &SwarmName, unasked: &[PeerId], nobody: bool) {
        let policy = &self.config.policy;
        let Some(swarm) = self.swarms.get_mut(name) else {
            return;
        };
        if !unasked.is_empty() || swarm.deadline.is_none() {
            let wait = if nobody {
                policy.no_owner_timeout
            } else {
                policy.resolve_timeout
            };
            swarm.deadline = Some(now + wait);
            self.timers.insert((now + wait, Timer::Resolve(*name)));
        }
        self.pending.insert(*name);
        for owner in unasked {
            if let Some(swarm) = self.swarms.get_mut(name) {
                swarm.answers.insert(*owner, Answer::Asked);
            }
            if let Some(session) = self.session_of(owner) {
                session.blobs.insert(*name);
            }
            self.grant_question(now, name, *owner);
        }
    }

    fn end_resolving(&mut self, name: &SwarmName) {
        self.pending.remove(name);
        if let Some(swarm) = self.swarms.get_mut(name) {
            swarm.deadline = None;
        }
    }

    /// Tells those who wait how the asking ended. Whoever joins after that asks anew.
    fn conclude(&mut self, now: Time, name: &SwarmName, status: &HandoutStatus) {
        self.end_resolving(name);
        let Some(swarm) = self.swarms.get_mut(name) else {
            return;
        };
        let mut told: Vec<PeerId> = swarm.waiting.drain(..).collect();
        told.extend(std::mem::take(&mut swarm.stranded));
        for id in told {
            self.handout(name, &id, status.clone(), Vec::new());
            self.dismiss(now, name, id);
        }
        let Some(swarm) = self.swarms.get_mut(name) else {
            return;
        };
        if swarm.members.is_empty() && swarm.sources.is_empty() {
            self.forget(name);
        }
    }

    /// Returns the owners of the blob that have a session, in the order of the ring.
    pub(super) fn live_owners(&self, name: &SwarmName) -> Vec<PeerId> {
        let mut owners = (self.owners)(name);
        owners.retain(|id| {
            self.ids
                .get(id)
                .is_some_and(|session| self.origins.contains(session))
        });
        owners
    }
}
