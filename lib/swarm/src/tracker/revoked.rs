//! Blobs that were revoked lately. Announces that were under way when they were must not bring
//! them back: whoever joins next would get what everybody just dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use torrent::{Description, Generation, PeerId, SwarmName};

use super::Tracker;
use crate::message::Message;
use crate::time::{Micros, Time};

/// Revocations that are remembered; of more, the oldest is forgotten.
const MAX_REVOKED: usize = 4_096;
/// How long one is remembered: longer than any session can be silent and live.
const REMEMBERED: Micros = Micros::from_secs(60);

/// What was revoked, when, and why. Without a generation it is the complete blob.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    entries: BTreeMap<(SwarmName, Option<Generation>), (Time, Arc<str>)>,
}

impl Revoked {
    pub(super) fn note(
        &mut self,
        now: Time,
        name: SwarmName,
        generation: Option<Generation>,
        reason: Arc<str>,
    ) {
        let key = (name, generation);
        if self.entries.len() >= MAX_REVOKED && !self.entries.contains_key(&key) {
            let oldest = self.entries.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(key, (now, reason));
    }

    fn reason(&self, now: Time, description: &Description) -> Option<Arc<str>> {
        let key = (*description.name(), description.generation());
        let (at, reason) = self.entries.get(&key)?;
        (*at + REMEMBERED > now).then(|| Arc::clone(reason))
    }

    /// An origin has the blob again.
    fn forget(&mut self, description: &Description) {
        let key = (*description.name(), description.generation());
        self.entries.remove(&key);
    }
}

impl Tracker {
    /// Returns whether what an agent announces was revoked; it is told so again, since it may have
    /// been away when everybody was.
    pub(super) fn is_revoked(
        &mut self,
        now: Time,
        agent: &PeerId,
        description: Option<&Description>,
    ) -> bool {
        let Some(description) = description else {
            return false;
        };
        let Some(reason) = self.revoked.reason(now, description) else {
            return false;
        };
        let revoke = Message::Revoke {
            name: *description.name(),
            generation: description.generation(),
            reason,
        };
        self.send_to(agent, revoke);
        true
    }

    /// As [`Self::is_revoked`] of an origin: a generation that was revoked stays so, but a complete
    /// blob is whatever storage holds now.
    pub(super) fn is_revoked_source(
        &mut self,
        now: Time,
        origin: &PeerId,
        description: Option<&Description>,
    ) -> bool {
        if let Some(complete @ Description::Complete(_)) = description {
            self.revoked.forget(complete);
            return false;
        }
        self.is_revoked(now, origin, description)
    }
}
