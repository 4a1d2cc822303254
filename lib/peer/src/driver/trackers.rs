//! What goes to trackers and what comes from them.

use std::sync::atomic::Ordering;

use swarm::message::Announce;
use swarm::{Input, Message, wire};
use torrent::{PeerId, Role, SwarmName};

use super::Driver;
use crate::announcer::SessionEvent;

impl Driver {
    pub(super) fn session(&mut self, tracker: usize, event: SessionEvent) {
        match event {
            SessionEvent::Up(queue, cut) => {
                let before = self.routes();
                let slots = self.sessions.up(tracker, queue, cut);
                self.routes_changed(&before);
                if slots > 0 {
                    self.announce_to(tracker, Vec::new(), slots);
                }
            }
            SessionEvent::Down => {
                let before = self.routes();
                self.sessions.down(tracker);
                self.routes_changed(&before);
            }
            SessionEvent::Received(message) => self.tracker_said(tracker, *message),
        }
    }

    fn tracker_said(&mut self, tracker: usize, message: Message) {
        if matches!(message, Message::Hello { .. } | Message::Pong { .. }) {
            return;
        }
        if self.node.me.role == Role::Origin
            && let Message::Grant { count, .. } = &message
            && *count > 0
        {
            self.sessions.granted(tracker);
        }
        self.tell(Input::Tracker(message));
    }

    fn routes(&self) -> Vec<(SwarmName, Option<usize>)> {
        let torrents = self.node.torrents.read();
        let names = torrents.keys();
        names
            .map(|name| (*name, self.sessions.route(name)))
            .collect()
    }

    /// Lets the swarm say again what a tracker that is new to some blobs must know.
    fn routes_changed(&mut self, before: &[(SwarmName, Option<usize>)]) {
        let up = i64::try_from(self.sessions.count_up()).unwrap_or(i64::MAX);
        self.node.metrics.trackers.set(up);
        if up > 0 {
            self.node.reached_tracker.store(true, Ordering::Relaxed);
        }
        self.tell_trackers_up();
        let mut names: Vec<SwarmName> = before
            .iter()
            .filter(|(name, route)| {
                let now = self.sessions.route(name);
                now.is_some() && now != *route
            })
            .map(|(name, _)| *name)
            .collect();
        // The order of the map would be another one in each run.
        names.sort_unstable();
        if !names.is_empty() {
            self.tell(Input::Reannounce { names });
        }
    }

    /// Tells the swarm whether there is a tracker, once that is known and whenever it changes.
    pub(super) fn tell_trackers_up(&mut self) {
        let up = if self.sessions.count_up() > 0 {
            true
        } else if self.sessions.all_down() {
            false
        } else {
            return;
        };
        if self.trackers_up != Some(up) {
            self.trackers_up = Some(up);
            if !up {
                tracing::warn!("no tracker can be reached; asking origins directly");
            }
            self.tell(Input::TrackersUp(up));
        }
    }

    pub(super) fn give_credits(&mut self, count: u16) {
        for (tracker, credits) in self.sessions.give(count) {
            self.announce_to(tracker, Vec::new(), credits);
        }
    }

    /// Sends what the swarm announced, in one message per tracker.
    pub(super) fn announce(&mut self) {
        let entries = std::mem::take(&mut self.announces);
        let batches = swarm::announce::batch(entries, |name| self.sessions.route(name));
        for (tracker, entries) in batches {
            // What no tracker hears now is said again when one is reached.
            let Some(tracker) = tracker else {
                continue;
            };
            for part in entries.chunks(wire::MAX_ANNOUNCES) {
                self.announce_to(tracker, part.to_vec(), 0);
            }
        }
    }

    fn announce_to(&self, tracker: usize, entries: Vec<Announce>, credits: u16) {
        let message = Message::Announce {
            entries,
            connected: self.neighbours(),
            credits,
        };
        self.sessions.send(tracker, message);
    }

    /// Returns the agents this node is connected to.
    fn neighbours(&self) -> Vec<PeerId> {
        let peers = self.conns.values().filter_map(|one| one.known.peer.get());
        let agents = peers.filter(|peer| peer.role == Role::Agent);
        agents
            .map(|peer| peer.id)
            .take(wire::MAX_CONNECTED)
            .collect()
    }
}
