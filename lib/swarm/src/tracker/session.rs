//! Sessions: who is connected, and for how long nothing was heard.

use std::collections::BTreeSet;

use torrent::{Peer, PeerId, Role, SwarmName};

use super::{Timer, Tracker};
use crate::event::{CloseReason, SessionId, TrackerOutput};
use crate::message::{Message, VERSION};
use crate::time::Time;

/// A connection to an agent or an origin.
#[derive(Debug)]
pub(super) struct Session {
    /// Known from its HELLO on.
    pub(super) peer: Option<Peer>,
    /// Blobs whose swarm mentions the peer in any way.
    pub(super) blobs: BTreeSet<SwarmName>,
    /// Neighbours that the peer would like to keep.
    pub(super) connected: BTreeSet<PeerId>,
    /// Of an origin: slots not granted to anybody.
    pub(super) credits: u16,
    /// Of an origin: blobs it can give something of to somebody.
    pub(super) hungry: BTreeSet<SwarmName>,
    heard_at: Time,
    pinged: bool,
}

impl Session {
    pub(super) const fn heard(&mut self, now: Time) {
        self.heard_at = now;
        self.pinged = false;
    }
}

impl Tracker {
    pub(super) fn session_opened(&mut self, now: Time, session: SessionId) {
        let opened = Session {
            peer: None,
            blobs: BTreeSet::new(),
            connected: BTreeSet::new(),
            credits: 0,
            hungry: BTreeSet::new(),
            heard_at: now,
            pinged: false,
        };
        self.sessions.insert(session, opened);
        let due = now + self.config.policy.hello_timeout;
        self.timers.insert((due, Timer::Session(session)));
        let me = self.config.me.clone();
        let version = VERSION;
        self.send(session, Message::Hello { version, me });
    }

    /// Takes the HELLO of a session.
    pub(super) fn introduced(&mut self, now: Time, session: SessionId, peer: Peer) {
        if peer.role == Role::Tracker || peer.id == self.config.me.id {
            self.drop_session(
                now,
                session,
                CloseReason::Protocol("trackers do not announce"),
            );
            return;
        }
        // Ids of origins can be derived by everybody: nobody else may displace one.
        if !peer.id_fits_role() {
            let reason = CloseReason::Protocol("an id that is not of its role");
            self.drop_session(now, session, reason);
            return;
        }
        // It came back before we saw it go.
        if let Some(&old) = self.ids.get(&peer.id) {
            self.drop_session(now, old, CloseReason::Duplicate);
        }
        let (id, role) = (peer.id, peer.role);
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        known.peer = Some(peer);
        self.ids.insert(id, session);
        if role == Role::Origin {
            self.origins.insert(session);
            // Somebody may wait for just this owner.
            for name in self.pending.clone() {
                self.settle(now, &name);
            }
        }
    }

    /// Closes a session for a reason of ours.
    pub(super) fn drop_session(&mut self, now: Time, session: SessionId, reason: CloseReason) {
        if self.sessions.contains_key(&session) {
            self.outputs
                .push_back(TrackerOutput::Close { session, reason });
            self.session_closed(now, session);
        }
    }

    pub(super) fn session_closed(&mut self, now: Time, session: SessionId) {
        let Some(closed) = self.sessions.remove(&session) else {
            return;
        };
        self.origins.remove(&session);
        if let Some(peer) = closed.peer {
            self.ids.remove(&peer.id);
            for name in closed.blobs {
                self.depart(now, &name, peer.id);
            }
        }
    }

    pub(super) fn session_timer(&mut self, now: Time, session: SessionId) {
        let idle = self.config.policy.idle_timeout;
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        if known.peer.is_none() {
            self.drop_session(now, session, CloseReason::Protocol("no HELLO in time"));
        } else if known.heard_at + idle > now {
            let due = known.heard_at + idle;
            self.timers.insert((due, Timer::Session(session)));
        } else if known.pinged {
            self.drop_session(now, session, CloseReason::Silent);
        } else {
            known.pinged = true;
            self.timers.insert((now + idle, Timer::Session(session)));
            self.send(session, Message::Ping { token: now.0 });
        }
    }
}
