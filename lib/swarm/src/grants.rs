//! How an agent asks origins: by grant, and without any tracker by itself (§7.4, §7.9).

use torrent::{Peer, PeerId, Role, SwarmName};

use crate::event::{ConnId, Failure, Output};
use crate::message::{Priority, RejectReason, Target};
use crate::swarm::Swarm;
use crate::time::{Micros, Time};
use crate::torrent::{Granted, Torrent};

/// Grants of one blob that are kept; there is one per origin.
const MAX_GRANTED: usize = 64;
/// Pieces among which one is looked for that is not on its way.
const MAX_LOOKED_AT: usize = 16;

impl Swarm {
    /// A tracker lets us ask an origin.
    pub(crate) fn granted(
        &mut self,
        now: Time,
        name: SwarmName,
        origin: Peer,
        count: u16,
        pieces: Vec<u32>,
        deadline: Micros,
    ) {
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        let full = torrent.granted.len() >= MAX_GRANTED;
        if !torrent.is_hungry() || (full && !torrent.granted.contains_key(&origin.id)) {
            return;
        }
        let granted = torrent.granted.entry(origin.id).or_insert_with(|| Granted {
            any: 0,
            named: Vec::new(),
            expires: now,
        });
        granted.expires = now + deadline;
        if pieces.is_empty() {
            granted.any = granted.any.saturating_add(count);
        } else {
            granted.named = pieces;
        }
        self.stats.grants += 1;
        self.meet(now, &origin, &name, usize::MAX);
        self.use_grants(now, &name);
    }

    /// Asks origins for all that was granted, once it can be proven.
    pub(crate) fn use_grants(&mut self, now: Time, name: &SwarmName) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let ready = torrent.proven || torrent.is_growing();
        if torrent.granted.is_empty() || !torrent.can_ask(now) || !ready {
            return;
        }
        let Some(wanted) = torrent.wanted else {
            return;
        };
        let mut asks: Vec<(ConnId, Target, Priority)> = Vec::new();
        let origins: Vec<PeerId> = torrent.granted.keys().copied().collect();
        let busy = torrent.asked.len() + torrent.checking.len() + torrent.unchosen;
        let mut lacking = (torrent.missing() as usize).saturating_sub(busy);
        for id in origins {
            let link = self
                .peers
                .get(&id)
                .filter(|conn| torrent.links.contains_key(*conn));
            let Some(&conn) = link else { continue };
            let Some(mut granted) = torrent.granted.remove(&id) else {
                continue;
            };
            if granted.expires <= now {
                continue;
            }
            let is_free = |piece: &u32| {
                let picker = torrent.picker.as_ref();
                picker.is_some_and(|picker| picker.free().contains(*piece))
                    || torrent.may_hedge(*piece, conn)
            };
            granted.named.retain(|piece| !torrent.have.contains(*piece));
            let (now_free, later) = granted.named.into_iter().partition(is_free);
            granted.named = later;
            let foreground = wanted.priority.min(Priority::Foreground);
            let named: Vec<u32> = now_free;
            asks.extend(
                named
                    .iter()
                    .map(|one| (conn, Target::Piece(*one), foreground)),
            );
            lacking = lacking.saturating_sub(named.len());
            if wanted.whole {
                let count = usize::from(granted.any).min(lacking);
                lacking -= count;
                granted.any -= u16::try_from(count).unwrap_or(granted.any);
                asks.extend((0..count).map(|_| (conn, Target::Any, wanted.priority)));
            } else if torrent.links.values().all(|link| link.have.is_none()) {
                // What nobody reads is not worth a slot: the own choice, where there is one. With
                // neighbours the tracker sees to it that they do not choose the same.
                for piece in torrent.wants(usize::from(granted.any)) {
                    granted.any -= 1;
                    asks.push((conn, Target::Piece(piece), foreground));
                }
            }
            if granted.any > 0 || !granted.named.is_empty() {
                torrent.granted.insert(id, granted);
            }
        }
        for (conn, target, priority) in asks {
            if let Target::Piece(piece) = target
                && self.is_taken(name, piece, conn)
            {
                continue;
            }
            self.request(now, conn, *name, target, priority);
        }
    }

    /// Returns whether the piece is on its way already, so that this origin need not be asked.
    fn is_taken(&self, name: &SwarmName, piece: u32, origin: ConnId) -> bool {
        let Some(torrent) = self.torrents.get(name) else {
            return true;
        };
        let picker = torrent.picker.as_ref();
        let is_free = picker.is_some_and(|picker| picker.free().contains(piece));
        !is_free && !torrent.may_hedge(piece, origin)
    }

    /// The origin has nothing for us, or knows of no grant.
    pub(crate) fn not_given(&mut self, conn: ConnId, name: &SwarmName, reason: RejectReason) {
        let origin = self.peer_of(conn);
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        if let Some(origin) = origin {
            torrent.granted.remove(&origin);
        }
        if let Some(link) = torrent.links.get_mut(&conn) {
            link.nothing_to_give |= reason == RejectReason::NothingToGive;
        }
    }

    pub(crate) fn grant_withdrawn(&mut self, name: &SwarmName, origin: &PeerId) {
        if let Some(torrent) = self.torrents.get_mut(name) {
            torrent.granted.remove(origin);
        }
    }

    // --- without trackers ---

    /// Looks for the owners of a blob, where no tracker tells.
    pub(crate) fn without_trackers(&mut self, now: Time, name: &SwarmName) {
        if self.trackers_up != Some(false) || self.config.me.role == Role::Origin {
            return;
        }
        let pause = self.config.policy.starving_pause;
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        let rested = torrent.owners_asked.is_none_or(|at| at + pause <= now);
        if !torrent.is_hungry() || !rested {
            return;
        }
        torrent.owners_asked = Some(now);
        self.outputs.push_back(Output::FindOwners { name: *name });
        // Neighbours of other blobs may have this one too.
        let conns: Vec<ConnId> = self.peers.values().copied().collect();
        for conn in conns {
            let torrent = self.torrents.get(name);
            let link = torrent.and_then(|torrent| torrent.links.get(&conn));
            if link.is_none_or(|link| !link.heard) && self.has_room_for_link(name) {
                self.introduce_link(now, conn, name);
            }
        }
    }

    fn has_room_for_link(&self, name: &SwarmName) -> bool {
        let links = self
            .torrents
            .get(name)
            .map_or(0, |torrent| torrent.links.len());
        links < self.config.policy.max_degree
    }

    /// The ring told who owns the blob.
    pub(crate) fn owners_found(&mut self, now: Time, name: SwarmName, peers: Vec<Peer>) {
        if self.config.me.role == Role::Origin {
            return self.set_owners(&name, &peers);
        }
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        torrent.owners.clone_from(&peers);
        for peer in peers {
            self.meet(now, &peer, &name, usize::MAX);
        }
        self.ask_origin(now, &name);
    }

    /// An owner said that it does not have the blob.
    pub(crate) fn owner_lacks(&mut self, now: Time, name: &SwarmName, owner: PeerId) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        torrent.owners_without.insert(owner);
        let mut owners = torrent.owners.iter();
        let all = owners.all(|peer| torrent.owners_without.contains(&peer.id));
        let direct = self.trackers_up == Some(false) && !torrent.owners.is_empty();
        if direct && all && torrent.description.is_none() {
            self.fail(now, *name, Failure::Absent);
        }
    }

    /// Asks an origin without a grant: for a piece of its choice while it has any that nobody got,
    /// then for what no neighbour has.
    pub(crate) fn ask_origin(&mut self, now: Time, name: &SwarmName) {
        if self.trackers_up != Some(false) || self.config.me.role == Role::Origin {
            return;
        }
        let conns: Vec<ConnId> = match self.torrents.get(name) {
            Some(torrent) if torrent.is_hungry() && torrent.can_ask(now) => {
                torrent.links.keys().copied().collect()
            }
            Some(_) | None => return,
        };
        for conn in conns {
            if !self.is_served_by(conn) {
                continue;
            }
            while let Some((target, priority)) = self.direct_target(now, conn, name) {
                self.request(now, conn, *name, target, priority);
            }
        }
    }

    fn direct_target(
        &self,
        now: Time,
        conn: ConnId,
        name: &SwarmName,
    ) -> Option<(Target, Priority)> {
        let (torrent, connection) = (self.torrents.get(name)?, self.conns.get(&conn)?);
        let link = torrent.links.get(&conn)?;
        let wanted = torrent.wanted.as_ref()?;
        let lone = torrent.links.len() <= torrent.owners.len();
        let room = if lone {
            self.config.policy.ration_per_agent
        } else {
            1
        };
        let is_ready = link.heard
            && link.described
            && (torrent.proven || torrent.is_growing())
            && !connection.is_silent
            && connection.busy_until <= now
            && connection.live < room
            && self.has_room();
        if !is_ready {
            return None;
        }
        let travelling = torrent.asked.len() + torrent.unchosen + torrent.checking.len();
        let lacking = (torrent.missing() as usize).saturating_sub(travelling);
        if lacking == 0 && torrent.late.is_empty() {
            return None;
        }
        if wanted.whole && !link.nothing_to_give && lacking > 0 {
            return Some((Target::Any, wanted.priority));
        }
        // It may be on its way to a neighbour: an origin is asked when nothing else helps.
        let starves = torrent
            .starving_since
            .is_some_and(|since| since + self.config.policy.want <= now);
        let gives = |(conn, link): (&ConnId, &crate::torrent::Link)| {
            self.is_served_by(*conn) && link.described && !link.nothing_to_give
        };
        let others_give = wanted.whole && torrent.links.iter().any(gives);
        if !starves && torrent.late.is_empty() && (!lone || others_give) {
            return None;
        }
        let mut wants = torrent.wants(MAX_LOOKED_AT).into_iter();
        let piece = wants.find(|piece| !self.is_taken(name, *piece, conn))?;
        let foreground = wanted.priority.min(Priority::Foreground);
        Some((Target::Piece(piece), foreground))
    }

    /// Whether any tracker can be reached changed.
    pub(crate) fn set_trackers_up(&mut self, now: Time, up: bool) {
        self.trackers_up = Some(up);
        let hungry = |(name, torrent): (&SwarmName, &Torrent)| torrent.is_hungry().then_some(*name);
        let names: Vec<SwarmName> = self.torrents.iter().filter_map(hungry).collect();
        for name in names {
            if let Some(torrent) = self.torrents.get_mut(&name) {
                torrent.owners_asked = None;
                torrent.owners_without.clear();
            }
            self.without_trackers(now, &name);
            self.ask_origin(now, &name);
        }
    }
}
