//! Downloads that do not flow: slow and silent peers, the end game, starving, patience.

use rand::RngExt as _;
use torrent::SwarmName;

use crate::event::{ConnId, Failure, Output};
use crate::message::{AnnounceEvent, Message, Priority, RequestId};
use crate::swarm::Swarm;
use crate::time::{Micros, Time};
use crate::timers::Timer;
use crate::torrent::{Link, Torrent};
use crate::wire::MAX_WANT_PIECES;

/// Requests for one piece at the same time, and one more at an origin where it comes late.
pub(crate) const MAX_ASKED: usize = 2;
/// Pieces that a blocked reader says it wants.
const WANTED_AHEAD: usize = 4;
/// A download of everything has other pieces to take meanwhile: its readers wait this many times
/// longer before an origin is asked for what peers were asked for.
const WHOLE_HEDGE: u64 = 4;
/// How long a piece takes from a peer that sent none yet, where no other tells.
const ASSUMED_SERVICE: Micros = Micros::from_millis(100);
/// A download that waits for nothing but time looks after itself this much less often.
const SLOW_TICKS: u64 = 10;

impl Swarm {
    /// Returns a piece that was asked for before and that this peer would bring much sooner. The
    /// first request stays open until data of either comes: cancelling it at once would let a
    /// piece wander from queue to queue for ever.
    pub(crate) fn choose_again(
        &mut self,
        now: Time,
        conn: ConnId,
    ) -> Option<(SwarmName, u32, Priority)> {
        let connection = self.conns.get(&conn)?;
        // Where the own link is what is slow, all peers are.
        let usual = self.service.unwrap_or(ASSUMED_SERVICE);
        let service = connection
            .service
            .map_or(usual, |service| service.max(usual));
        for name in &connection.names {
            let Some(torrent) = self.torrents.get(name).filter(|one| one.can_ask(now)) else {
                continue;
            };
            if let Some(piece) = self.slow_piece(now, torrent, conn, service) {
                self.stats.steals += 1;
                let priority = torrent.wanted?.priority.min(Priority::Stream);
                return Some((*name, piece, priority));
            }
        }
        None
    }

    /// Returns a piece whose request at another peer this one would beat by far.
    fn slow_piece(
        &self,
        now: Time,
        torrent: &Torrent,
        conn: ConnId,
        service: Micros,
    ) -> Option<u32> {
        let policy = &self.config.policy;
        let have = torrent.links.get(&conn)?.have.as_ref()?;
        let is_end = torrent.missing() <= policy.end_game_pieces;
        for (piece, asked) in &torrent.asked {
            if !have.contains(*piece)
                || asked.len() >= MAX_ASKED
                || asked.iter().any(|(of, _)| *of == conn)
            {
                continue;
            }
            let Some(&(of, id)) = asked.first() else {
                continue;
            };
            let Some(request) = self.conns.get(&of).and_then(|one| one.open.get(&id)) else {
                continue;
            };
            let waited = now.since(request.sent_at).0;
            let size = u64::from(torrent.size(*piece));
            let (rest, begun) = match request.first_at {
                Some(_) => {
                    let got = u64::from(request.got).max(1);
                    (waited * (size - got.min(size)) / got, true)
                }
                // What waited so long may wait as long again.
                None => (waited, false),
            };
            // What is coming already would come twice: it must be slower still.
            let factor = policy.steal_factor << u32::from(begun);
            let is_slow = rest > factor * service.0;
            if is_slow || (is_end && !begun && waited > service.0) {
                return Some(*piece);
            }
        }
        None
    }

    /// The peer owes us data and says nothing: all of it is asked for elsewhere (§6.6).
    pub(crate) fn ask_elsewhere(&mut self, now: Time, conn: ConnId) {
        let Some(connection) = self.conns.get_mut(&conn) else {
            return;
        };
        connection.is_silent = true;
        let open = connection.open.iter();
        let live = open.filter(|(_, request)| !request.cancelled);
        let live: Vec<RequestId> = live.map(|(id, _)| *id).collect();
        self.stats.silences += 1;
        for id in live {
            self.cancel(conn, id);
        }
        self.refill(now);
    }

    /// A download looks after itself.
    pub(crate) fn torrent_due(&mut self, now: Time, name: SwarmName) {
        let policy = self.config.policy.clone();
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        torrent.granted.retain(|_, granted| granted.expires > now);
        if torrent.wanted.is_none() || torrent.is_complete() {
            return;
        }
        if !torrent.is_hungry() {
            // Nobody reads a lazy download: the next reader wakes it.
            torrent.starving_since = None;
            torrent.late.clear();
            return;
        }
        if torrent.useful_at + policy.patience <= now {
            let reason = "no peer and no origin sent any of it in time";
            return self.fail(now, name, Failure::Unavailable(reason.into()));
        }
        let factor = match torrent.wanted {
            Some(wanted) if wanted.whole => WHOLE_HEDGE,
            Some(_) | None => 1,
        };
        torrent.note_late(now, Micros(policy.hedge.0 * factor));
        self.seek_values(now, &name);
        self.use_grants(now, &name);
        self.without_trackers(now, &name);
        self.ask_origin(now, &name);
        self.refill(now);
        self.starve(now, &name);
        let Some(torrent) = self.torrents.get(&name) else {
            return;
        };
        let waits = torrent.asked.is_empty() && torrent.unchosen == 0;
        let long = torrent
            .starving_since
            .is_some_and(|since| since + policy.starving_pause < now);
        let tick = if waits && (long || torrent.description.is_none()) {
            Micros(policy.tick.0 * SLOW_TICKS)
        } else {
            policy.tick
        };
        let tick = Micros(tick.0 + self.rng.random_range(0..=tick.0 / 8));
        self.timers.arm(Timer::Torrent(name), now + tick);
    }

    /// Sees whether the download has nothing to ask for, and tells who can help. Nobody is ever
    /// left without somebody to turn to.
    fn starve(&mut self, now: Time, name: &SwarmName) {
        let policy = self.config.policy.clone();
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        // Before anything is known the tracker is busy with us already.
        if torrent.description.is_none() || !torrent.opened {
            return;
        }
        let flows = !torrent.asked.is_empty() || torrent.unchosen > 0;
        let flows = flows || !torrent.checking.is_empty() || torrent.paused_until > now;
        let far = torrent.far_and_blocked(now);
        if flows {
            torrent.starving_since = None;
        }
        let since = *torrent.starving_since.get_or_insert(now);
        let lazy = torrent.wanted.is_some_and(|wanted| !wanted.whole);
        let is_late = !torrent.late.is_empty();
        // Each part that is read is news to the tracker; what is left of a whole blob is not.
        let has_news = lazy && torrent.has_new_wants();
        let want_after = if lazy { policy.tick } else { policy.want };
        let rested = |told: Option<Time>| told.is_none_or(|at| at + policy.starving_pause <= now);
        let is_starving = !flows && since + policy.starving <= now;
        let tells_starving = is_starving && rested(torrent.starving_told);
        let blocked_long = far.is_some_and(|blocked| blocked + want_after <= now);
        let tells_want = (has_news || rested(torrent.want_told))
            && ((!flows && since + want_after <= now) || blocked_long || is_late);
        if tells_starving {
            torrent.starving_told = Some(now);
            self.call_for_help(now, name);
        }
        if tells_want {
            self.tell_want(now, name);
        }
    }

    /// A tracker knows of no origin that helps a download. It ends, unless a neighbour does, or an
    /// origin that could not be asked may be back soon.
    pub(crate) fn not_helped(&mut self, now: Time, name: SwarmName, failure: Failure) {
        let is_helped = self.is_helped(&name);
        let helpless = self.config.policy.helpless;
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        let passes = matches!(failure, Failure::Unavailable(_));
        let has_time = passes && torrent.useful_at + helpless > now;
        if torrent.description.is_none() || !(is_helped || has_time) {
            return self.fail(now, name, failure);
        }
        // The tracker forgot us: the swarm is joined again where this starves.
        torrent.dismissed = true;
    }

    /// Returns whether something of a download is on its way, or a neighbour has pieces that are
    /// wanted or did not say yet what it has. A download that nobody waits for has time.
    fn is_helped(&self, name: &SwarmName) -> bool {
        let Some(torrent) = self.torrents.get(name) else {
            return false;
        };
        let dialled = self.dials.values().any(|dial| dial.names.contains(name));
        let flows = !torrent.asked.is_empty() || torrent.unchosen > 0;
        let links = torrent.links.iter();
        let mut neighbours = links.filter(|(conn, _)| !self.is_served_by(**conn));
        !torrent.is_hungry()
            || !torrent.opened
            || flows
            || !torrent.checking.is_empty()
            || dialled
            || neighbours.any(|(_, link)| !link.heard || torrent.wants_of(link))
    }

    /// Asks the tracker for one more peer.
    fn call_for_help(&mut self, now: Time, name: &SwarmName) {
        self.stats.starvings += 1;
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        if std::mem::take(&mut torrent.dismissed) {
            return self.join(name);
        }
        self.announce(name, AnnounceEvent::Starving);
        // A neighbour that did not care for the blob then may do so now.
        let links = self.torrents.get(name).map(|torrent| torrent.links.keys());
        let conns: Vec<ConnId> = links.into_iter().flatten().copied().collect();
        for conn in conns {
            self.introduce_link(now, conn, name);
        }
    }

    /// Tells the tracker which pieces nobody near has (§7.6).
    fn tell_want(&mut self, now: Time, name: &SwarmName) {
        let Some(torrent) = self.torrents.get_mut(name) else {
            return;
        };
        // While data flows only what a reader waits for is worth the question.
        let flows = !torrent.asked.is_empty() || torrent.unchosen > 0;
        let max = if flows { WANTED_AHEAD } else { MAX_WANT_PIECES };
        let pieces = torrent.wants(max);
        if pieces.is_empty() {
            return;
        }
        torrent.want_told = Some(now);
        torrent.told_wants.clone_from(&pieces);
        self.stats.wants += 1;
        if self.trackers_up == Some(false) {
            return self.want_of_origins(name, &pieces);
        }
        let name = *name;
        let message = Message::Want { name, pieces };
        self.outputs.push_back(Output::Tracker { name, message });
    }
}

impl Torrent {
    /// Returns since when a reader waits for a piece that no neighbour has and nobody was asked
    /// for.
    fn far_and_blocked(&mut self, now: Time) -> Option<Time> {
        let picker = self.picker.as_ref()?;
        let mut earliest = None;
        let ids: Vec<_> = self.readers.keys().copied().collect();
        for id in ids {
            let reader = *self.readers.get(&id)?;
            let blocked = self.blocked(&reader);
            let far = blocked
                .is_some_and(|piece| picker.free().contains(piece) && !picker.is_near(piece));
            let since = if far {
                Some(reader.blocked_since.unwrap_or(now))
            } else {
                None
            };
            if let Some(reader) = self.readers.get_mut(&id) {
                reader.blocked_since = since;
            }
            earliest = match (earliest, since) {
                (Some(one), Some(other)) => Some(std::cmp::min(one, other)),
                (one, other) => one.or(other),
            };
        }
        earliest
    }

    /// Returns whether the neighbour has a piece that is wanted here.
    fn wants_of(&self, link: &Link) -> bool {
        let (Some(wanted), Some(have)) = (&self.wanted, &link.have) else {
            return false;
        };
        let mut blocked = self.readers.values().filter_map(|one| self.blocked(one));
        let all = 0..self.have.pieces();
        (wanted.whole && have.first_without(&self.have, all).is_some())
            || blocked.any(|piece| have.contains(piece))
    }

    /// Returns whether the tracker was not told of a piece that is wanted.
    fn has_new_wants(&self) -> bool {
        let wants = self.wants(WANTED_AHEAD);
        wants.iter().any(|piece| !self.told_wants.contains(piece))
    }

    /// Returns pieces that are wanted and that no neighbour has, or none brings: what readers wait
    /// for first.
    pub(crate) fn wants(&self, max: usize) -> Vec<u32> {
        let Some(picker) = &self.picker else {
            return Vec::new();
        };
        let late = self.late.iter().copied();
        let is_missing =
            |piece: &u32| !self.have.contains(*piece) && !self.checking.contains_key(piece);
        let mut pieces: Vec<u32> = late.filter(is_missing).take(max).collect();
        for reader in self.readers.values() {
            let (rest, _) = self.window(reader, 0);
            for piece in picker.far(rest, max) {
                if pieces.len() < max && !pieces.contains(&piece) {
                    pieces.push(piece);
                }
            }
        }
        if pieces.is_empty() && self.wanted.is_some_and(|wanted| wanted.whole) {
            pieces = picker.far(0..self.have.pieces(), max);
        }
        pieces
    }
}
