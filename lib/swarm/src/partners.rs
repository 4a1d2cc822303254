//! Owners look after each other: a connection to each, who lives, and what was given before.

use torrent::{Peer, PeerId, SwarmName};

use crate::event::{CloseReason, ConnId};
use crate::message::Message;
use crate::swarm::Swarm;
use crate::time::{Micros, Time};
use crate::timers::Timer;

/// Blobs whose first pass a partner is told of when it comes.
const MAX_PASSES_TOLD: usize = 1_024;
/// A partner that said nothing for this many of its ticks does not live.
const DEAD_TICKS: u64 = 3;

impl Swarm {
    pub(crate) fn set_partners(&mut self, now: Time, partners: Vec<Peer>) {
        let me = self.config.me.id;
        let others = partners.into_iter().filter(|peer| peer.id != me);
        self.origin.partners = others.map(|peer| (peer.id, peer)).collect();
        self.partners_due(now);
    }

    pub(crate) fn is_partner(&self, peer: &PeerId) -> bool {
        self.origin.partners.contains_key(peer)
    }

    pub(crate) fn is_partner_conn(&self, conn: ConnId) -> bool {
        self.peer_of(conn)
            .is_some_and(|peer| self.is_partner(&peer))
    }

    /// Keeps a connection to every partner, and sees who lives.
    pub(crate) fn partners_due(&mut self, now: Time) {
        if self.origin.partners.is_empty() {
            return;
        }
        let tick = self.config.policy.partner_tick;
        let dead = Micros(tick.0 * DEAD_TICKS);
        let partners: Vec<Peer> = self.origin.partners.values().cloned().collect();
        for partner in partners {
            match self.peers.get(&partner.id).copied() {
                None if !self.dials.contains_key(&partner.id) => self.dial(&partner, None),
                None => {}
                Some(conn) => {
                    let heard = self.conns.get(&conn).map_or(now, |one| one.heard_at);
                    if heard + dead <= now {
                        self.close(now, conn, CloseReason::Silent);
                    } else {
                        self.send(conn, Message::Ping { token: now.0 });
                    }
                }
            }
        }
        self.timers.arm(Timer::Partners, now + tick);
    }

    /// A partner is there: it may have lost its memory, and runs are split anew.
    pub(crate) fn partner_came(&mut self, _now: Time, conn: ConnId, peer: &PeerId) {
        if !self.is_partner(peer) {
            return;
        }
        let passes = self.torrents.iter().filter_map(|(name, torrent)| {
            let served = &torrent.pass.as_ref()?.served;
            (!served.is_empty()).then(|| (*name, served.iter().collect::<Vec<u32>>()))
        });
        let passes: Vec<_> = passes.take(MAX_PASSES_TOLD).collect();
        for (name, pieces) in passes {
            self.tell_served(conn, name, &pieces);
        }
        self.review_passes();
    }

    pub(crate) fn partner_left(&mut self, now: Time, peer: &PeerId) {
        if self.is_partner(peer) {
            self.review_passes();
            self.start_uploads(now);
        }
    }

    fn review_passes(&mut self) {
        let known = self.torrents.iter().filter(|(_, one)| one.pass.is_some());
        let names: Vec<SwarmName> = known.map(|(name, _)| *name).collect();
        for name in names {
            self.review_pass(&name);
        }
    }
}
