//! What an origin gives: each piece of its own runs once, in order, to whom a grant names (§7.4,
//! §7.5), and who of the owners lives.

use std::collections::{BTreeMap, BTreeSet};

use torrent::{Peer, PeerId, SwarmName};

use crate::early::Early;
use crate::event::{ConnId, Output};
use crate::message::{AnnounceEvent, Message, RejectReason};
use crate::set::PieceSet;
use crate::swarm::Swarm;
use crate::time::{Micros, Time};
use crate::timers::Timer;
use crate::upload::Upload;
use crate::wire::MAX_HAVE_PIECES;

/// Grants that are open at a time, whatever trackers say.
const MAX_GRANTS: usize = 4_096;

/// What pays for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paid {
    /// Nothing has to: agents serve whoever asks.
    Free,
    Grant,
    /// Nothing does; it is held for those who reach no tracker (§7.9).
    Ration,
}

/// What an origin can give to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Give(u32),
    /// The next piece was not hashed yet.
    Later,
    Nothing,
}

/// The first pass over one blob: every piece is given once, by one owner.
#[derive(Debug)]
pub(crate) struct FirstPass {
    /// Delivered, by whichever owner.
    pub(crate) served: PieceSet,
    /// Being given by us, and how many times.
    giving: BTreeMap<u32, u32>,
    /// Owners of the blob in the order that all of them know.
    pub(crate) owners: Vec<PeerId>,
    /// What trackers were told last.
    told_unserved: Option<bool>,
}

impl FirstPass {
    pub(crate) fn new(pieces: u32) -> Self {
        Self {
            served: PieceSet::empty(pieces),
            giving: BTreeMap::new(),
            owners: Vec::new(),
            told_unserved: None,
        }
    }

    fn is_left(&self, piece: u32) -> bool {
        !self.served.contains(piece) && !self.giving.contains_key(&piece)
    }
}

/// A grant at this origin.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// Credits that it took.
    credits: u16,
    any: u16,
    named: BTreeSet<u32>,
    expires: Time,
    used_at: Time,
    /// Requests that it pays for and that did not start.
    held: u16,
}

impl Slot {
    /// It holds credits while its requests wait for each other.
    const fn is_lendable(&self) -> bool {
        self.credits > 0 && self.held > 0
    }

    fn is_spent(&self) -> bool {
        self.any == 0 && self.named.is_empty() && self.held == 0
    }
}

/// Who wants to know whether storage has a blob.
#[derive(Debug, Default)]
pub(crate) struct Askers {
    pub(crate) agents: BTreeSet<ConnId>,
    pub(crate) tracker: bool,
}

/// A blob that storage is being asked for.
#[derive(Debug, Default)]
pub(crate) struct Question {
    pub(crate) askers: Askers,
    /// Who asked since. What was pushed meanwhile is not absent to them: storage is asked again.
    pub(crate) late: Option<Askers>,
    pub(crate) owners: Vec<PeerId>,
}

/// What only an origin has.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    pub(crate) slots: BTreeMap<(SwarmName, PeerId), Slot>,
    early: Early,
    pub(crate) resolving: BTreeMap<SwarmName, Question>,
    pub(crate) partners: BTreeMap<PeerId, Peer>,
}

impl Origin {
    pub(crate) fn credits_spent(&self) -> u64 {
        self.slots
            .values()
            .map(|slot| u64::from(slot.credits))
            .sum()
    }
}

impl Swarm {
    // --- grants ---

    /// A tracker lets an agent ask us, or asks itself whether we have the blob.
    pub(crate) fn granted_here(
        &mut self,
        now: Time,
        (name, agent): (SwarmName, PeerId),
        count: u16,
        pieces: Vec<u32>,
        deadline: Micros,
        owners: Vec<PeerId>,
    ) {
        if count > 0 {
            let (left, pieces) = self.origin.early.pay(now, (name, agent), count, pieces);
            let is_new = !self.origin.slots.contains_key(&(name, agent));
            if left == 0 || (is_new && self.origin.slots.len() >= MAX_GRANTS) {
                self.give_back(1);
            } else {
                let slot = self.origin.slots.entry((name, agent)).or_default();
                slot.credits = slot.credits.saturating_add(1);
                slot.expires = now + deadline;
                slot.used_at = now;
                if pieces.is_empty() {
                    slot.any = slot.any.saturating_add(left);
                } else {
                    slot.named.extend(pieces);
                }
                self.timers
                    .arm(Timer::Grants, now + self.config.policy.grant_idle);
            }
        }
        if let Some(torrent) = self.torrents.get_mut(&name) {
            if let Some(pass) = &mut torrent.pass {
                pass.owners = owners;
            }
            if count == 0 {
                self.announce_source(&name);
            } else {
                self.review_pass(&name);
            }
            return;
        }
        self.resolve(name, owners, None);
    }

    /// Ends a grant (§7.4).
    pub(crate) fn withdrawn(&mut self, name: SwarmName, agent: PeerId) {
        if let Some(slot) = self.origin.slots.get_mut(&(name, agent)) {
            slot.any = 0;
            slot.named.clear();
        }
        self.settle_slot(name, agent);
    }

    /// Gives a slot back if nothing more will be asked by it.
    fn settle_slot(&mut self, name: SwarmName, agent: PeerId) {
        let key = (name, agent);
        if self.origin.slots.get(&key).is_some_and(Slot::is_spent)
            && let Some(slot) = self.origin.slots.remove(&key)
        {
            self.give_back(slot.credits);
        }
    }

    fn give_back(&mut self, count: u16) {
        if count > 0 {
            self.outputs.push_back(Output::Credit { count });
        }
    }

    /// There is room to send more, and all who may ask are busy with what they asked for before:
    /// slots are lent to others, so that the first who come do not get everything.
    pub(crate) fn underused(&mut self, now: Time) {
        if self.uploads.waiting() > 0 && self.origin.slots.values().any(Slot::is_lendable) {
            let due = now + self.config.policy.lend_after;
            self.timers.arm(Timer::Grants, due);
        }
    }

    fn lend_slots(&mut self) -> u16 {
        let room = self.config.policy.max_interleaved;
        let room = room.saturating_sub(self.uploads.active());
        let slots = self.origin.slots.values_mut();
        let lent = slots.filter(|slot| slot.is_lendable()).take(room);
        lent.map(|slot| slot.credits -= 1)
            .count()
            .try_into()
            .unwrap_or(0)
    }

    /// Ends grants whose time is over, and gives slots back that nobody uses: an agent may be gone
    /// before a tracker sees it.
    pub(crate) fn grants_due(&mut self, now: Time) {
        let idle = self.config.policy.grant_idle;
        let mut back = self.lend_slots();
        self.origin.slots.retain(|_, slot| {
            let is_over = slot.expires <= now && slot.held == 0;
            if is_over || (slot.held == 0 && slot.used_at + idle <= now) {
                back = back.saturating_add(std::mem::take(&mut slot.credits));
            }
            !is_over
        });
        self.give_back(back);
        if !self.origin.slots.is_empty() {
            self.timers.arm(Timer::Grants, now + idle);
        }
    }

    pub(crate) fn grants_forgotten(&mut self, name: &SwarmName) {
        let mut back: u16 = 0;
        self.origin.slots.retain(|(of, _), slot| {
            let keep = of != name;
            if !keep {
                back = back.saturating_add(slot.credits);
            }
            keep
        });
        self.give_back(back);
    }

    /// Says what pays for the request of an agent.
    pub(crate) fn admit_paid(
        &mut self,
        now: Time,
        conn: ConnId,
        name: &SwarmName,
        piece: Option<u32>,
    ) -> Result<Paid, RejectReason> {
        let key = self.peer_of(conn).map(|agent| (*name, agent));
        if let Some(slot) = key.and_then(|key| self.origin.slots.get_mut(&key)) {
            let named = piece.is_some_and(|piece| slot.named.remove(&piece));
            if slot.expires > now && (named || slot.any > 0) {
                slot.any -= u16::from(!named);
                slot.held += 1;
                slot.used_at = now;
                return Ok(Paid::Grant);
            }
        }
        if let Some(key) = key
            && self.trackers_up != Some(false)
        {
            self.origin.early.note(now, key, piece);
        }
        let policy = &self.config.policy;
        let (all, own) = self.uploads.rationed(conn);
        if all < policy.ration && own < policy.ration_per_agent {
            if self.lacks_owners(name) {
                self.outputs.push_back(Output::FindOwners { name: *name });
            }
            return Ok(Paid::Ration);
        }
        // With a tracker there would be a grant.
        Err(if self.trackers_up == Some(false) || piece.is_some() {
            RejectReason::Busy
        } else {
            RejectReason::NoGrant
        })
    }

    // --- the first pass ---

    /// Returns the piece to give to this agent, or to anybody.
    pub(crate) fn choose_piece(&self, name: &SwarmName, conn: Option<ConnId>) -> Choice {
        let Some(torrent) = self.torrents.get(name) else {
            return Choice::Nothing;
        };
        let (Some(pass), Some(geometry)) = (&torrent.pass, torrent.geometry()) else {
            return Choice::Nothing;
        };
        let theirs = conn.and_then(|conn| torrent.links.get(&conn)?.have.as_ref());
        let lacks = |piece: u32| theirs.is_none_or(|have| !have.contains(piece));
        let owners = self.live_owners(pass);
        let run = self.config.policy.run_bytes / u64::from(geometry.piece_length());
        let run = u32::try_from(run.max(1)).unwrap_or(u32::MAX);
        let is_own = |piece: u32| owner_of(piece / run, &owners) == Some(self.config.me.id);
        let mut from = 0;
        let mut foreign = Vec::new();
        while let Some(piece) = torrent
            .have
            .first_without(&pass.served, from..geometry.pieces())
        {
            from = piece + 1;
            if !is_own(piece) {
                let end = (piece / run + 1).saturating_mul(run).min(geometry.pieces());
                let left = (piece..end).filter(|one| torrent.have.contains(*one));
                foreign.extend(left.filter(|one| pass.is_left(*one) && lacks(*one)));
                from = end;
            } else if pass.is_left(piece) && lacks(piece) {
                return Choice::Give(piece);
            }
        }
        if torrent.is_growing() {
            return Choice::Later;
        }
        // The others work from the front: the last piece is the least likely to be given twice.
        match foreign.last() {
            Some(piece) if foreign.len() >= self.config.policy.help_pieces as usize => {
                Choice::Give(*piece)
            }
            _ => Choice::Nothing,
        }
    }

    /// Returns the owners that live, in the order by which they split the runs.
    fn live_owners(&self, pass: &FirstPass) -> Vec<PeerId> {
        let me = self.config.me.id;
        let owners = pass.owners.iter();
        let live = owners.filter(|id| **id == me || self.peers.contains_key(*id));
        let live: Vec<PeerId> = live.copied().collect();
        if live.is_empty() { vec![me] } else { live }
    }

    /// A piece begins to be given.
    pub(crate) fn giving(
        &mut self,
        now: Time,
        conn: ConnId,
        name: &SwarmName,
        piece: u32,
        paid: Paid,
    ) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let Some(pass) = &mut torrent.pass else {
            return;
        };
        *pass.giving.entry(piece).or_default() += 1;
        let unknown = !torrent.proven
            && torrent
                .links
                .get_mut(&conn)
                .is_some_and(|link| link.values.insert(piece));
        if unknown {
            // Its proof goes ahead of it (§5.4).
            self.outputs.push_back(Output::SendCvs {
                conn,
                name: *name,
                first: piece,
                count: 1,
            });
        }
        if paid == Paid::Grant {
            self.release_slot(now, conn, name);
        }
        self.review_pass(name);
    }

    /// A request that a grant paid for began, or ended before.
    fn release_slot(&mut self, now: Time, conn: ConnId, name: &SwarmName) {
        let Some(agent) = self.peer_of(conn) else {
            return;
        };
        if let Some(slot) = self.origin.slots.get_mut(&(*name, agent)) {
            slot.held = slot.held.saturating_sub(1);
            slot.used_at = now;
        }
        self.settle_slot(*name, agent);
    }

    /// A request ended without being sent whole.
    pub(crate) fn not_given_after_all(
        &mut self,
        now: Time,
        conn: ConnId,
        upload: &Upload,
        started: bool,
    ) {
        if started && let Some(piece) = upload.piece {
            self.end_giving(&upload.name, piece);
            self.review_pass(&upload.name);
        } else if upload.paid == Paid::Grant {
            self.release_slot(now, conn, &upload.name);
        }
    }

    fn end_giving(&mut self, name: &SwarmName, piece: u32) {
        let pass = self
            .torrents
            .get_mut(name)
            .and_then(|one| one.pass.as_mut());
        if let Some(pass) = pass
            && let Some(count) = pass.giving.get_mut(&piece)
        {
            *count -= 1;
            if *count == 0 {
                pass.giving.remove(&piece);
            }
        }
    }

    /// A piece was sent whole: partners need not give it again. Not before: what was merely chosen
    /// by an origin that dies would be missed by all.
    pub(crate) fn delivered(&mut self, now: Time, name: &SwarmName, piece: u32) {
        self.end_giving(name, piece);
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let Some(pass) = &mut torrent.pass else {
            return;
        };
        if pass.served.insert(piece) {
            torrent.delivered.push_back(piece);
            let due = now + self.config.policy.have_delay;
            self.timers.arm(Timer::Haves(*name), due);
        }
        self.review_pass(name);
    }

    /// Tells partners what was delivered (§7.7).
    pub(crate) fn flush_served(&mut self, name: &SwarmName) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let pieces: Vec<u32> = torrent.delivered.drain(..).collect();
        if pieces.is_empty() {
            return;
        }
        let partners = self.origin.partners.keys();
        let conns: Vec<ConnId> = partners
            .filter_map(|id| self.peers.get(id).copied())
            .collect();
        for conn in conns {
            self.tell_served(conn, *name, &pieces);
        }
    }

    pub(crate) fn tell_served(&mut self, conn: ConnId, name: SwarmName, pieces: &[u32]) {
        for pieces in pieces.chunks(MAX_HAVE_PIECES) {
            let pieces = pieces.to_vec();
            self.send(conn, Message::Served { name, pieces });
        }
    }

    /// A partner delivered pieces.
    pub(crate) fn served(&mut self, name: &SwarmName, pieces: &[u32]) {
        let pass = self
            .torrents
            .get_mut(name)
            .and_then(|one| one.pass.as_mut());
        if let Some(pass) = pass {
            for piece in pieces {
                pass.served.insert(*piece);
            }
            self.review_pass(name);
        }
    }

    /// Tells the tracker if the first pass ended, or goes on after all.
    pub(crate) fn review_pass(&mut self, name: &SwarmName) {
        let Some(torrent) = self.torrents.get(name) else {
            return;
        };
        let told = torrent.pass.as_ref().and_then(|pass| pass.told_unserved);
        if told.is_some() && !torrent.is_growing() && told != Some(self.is_unserved(name)) {
            self.announce_source(name);
        }
    }

    fn is_unserved(&self, name: &SwarmName) -> bool {
        self.choose_piece(name, None) != Choice::Nothing
    }

    /// Announces what an origin has of the blob.
    pub(crate) fn announce_source(&mut self, name: &SwarmName) {
        let unserved = self.is_unserved(name);
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        if let Some(pass) = &mut torrent.pass {
            pass.told_unserved = Some(unserved);
        }
        let event = if torrent.is_growing() {
            AnnounceEvent::Growing
        } else {
            AnnounceEvent::Complete { unserved }
        };
        self.announce(name, event);
    }

    /// Owners by the ring, for a blob that is given without any grant.
    pub(crate) fn set_owners(&mut self, name: &SwarmName, peers: &[Peer]) {
        let me = self.config.me.id;
        let pass = self
            .torrents
            .get_mut(name)
            .and_then(|one| one.pass.as_mut());
        if let Some(pass) = pass
            && pass.owners.is_empty()
        {
            // Whether the ring names ourselves differs, so all sort alike.
            let all: BTreeSet<PeerId> = peers.iter().map(|peer| peer.id).chain([me]).collect();
            pass.owners = all.into_iter().collect();
            self.review_pass(name);
        }
    }

    /// Returns whether the first pass knows who shares it.
    pub(crate) fn lacks_owners(&self, name: &SwarmName) -> bool {
        let pass = self.torrents.get(name).and_then(|one| one.pass.as_ref());
        pass.is_some_and(|pass| pass.owners.is_empty())
    }
}

fn owner_of(run: u32, owners: &[PeerId]) -> Option<PeerId> {
    let count = u32::try_from(owners.len()).unwrap_or(u32::MAX);
    owners.get(run.checked_rem(count)? as usize).copied()
}
