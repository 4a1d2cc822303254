//! One blob of this process: what is here of it, who else has what, and what was asked of whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use smallvec::SmallVec;
use torrent::{Description, Generation, Geometry, Peer, PeerId, PieceIndex, SwarmName};

use crate::event::{ConnId, ReaderId};
use crate::message::{Priority, RequestId};
use crate::picker::Picker;
use crate::seed::FirstPass;
use crate::set::PieceSet;
use crate::time::Time;

/// A neighbour's part in a blob.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// What the neighbour has; absent until it said so and the blob's length is known.
    pub(crate) have: Option<PieceSet>,
    /// The picker counts the neighbour, and did so as one that has all.
    pub(crate) counted: Option<bool>,
    /// When we last told what we have.
    pub(crate) told_at: Option<Time>,
    /// It said BITFIELD: it takes part.
    pub(crate) heard: bool,
    /// Of an origin: the PING ahead of our question about a blob we know nothing of. Until it is
    /// answered, what the origin says answers an earlier question (§7.10).
    pub(crate) fence: Option<u64>,
    /// Of an agent: when we last named others to it.
    pub(crate) named_at: Option<Time>,
    /// It described the blob, or told pieces of it.
    pub(crate) described: bool,
    /// Pieces of a growing blob whose signed values were sent to it or came from it.
    pub(crate) values: BTreeSet<u32>,
    /// It asked for chaining values that we did not know yet.
    pub(crate) wants_values: bool,
    /// Whole lists of chaining values that were sent to it.
    pub(crate) lists_sent: u32,
    /// Answers in a row that it does not have what it was asked for.
    pub(crate) refused: u32,
    /// Of an origin: it has nothing of its own choice for us.
    pub(crate) nothing_to_give: bool,
}

/// Somebody who reads the blob in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) position: u64,
    pub(crate) end: u64,
    /// Since when it waits for the piece at its position, which nobody was asked for.
    pub(crate) blocked_since: Option<Time>,
    /// The piece at its position while that is missing, and since when it waits for it.
    pub(crate) waits: Option<(u32, Time)>,
}

/// What a tracker allowed us to ask of an origin (`docs/wire.md` §7.4).
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    /// Requests for pieces of the origin's choice.
    pub(crate) any: u16,
    pub(crate) named: Vec<u32>,
    pub(crate) expires: Time,
}

/// Why the blob is here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) priority: Priority,
    /// All of it, not only what readers ask for.
    pub(crate) whole: bool,
    /// Start of the own schedule that virtual time is counted from.
    pub(crate) since: Time,
}

/// Requests for one piece: one, or two where the first is slow.
pub(crate) type Asked = SmallVec<[(ConnId, RequestId); 2]>;

/// The state of one blob.
#[derive(Debug)]
pub(crate) struct Torrent {
    pub(crate) description: Option<Description>,
    /// The neighbour that told the description, until storage has checked it.
    pub(crate) described_by: Option<(ConnId, Option<Description>)>,
    pub(crate) wanted: Option<Wanted>,
    /// Storage is ready.
    pub(crate) opened: bool,
    /// All chaining values are known.
    pub(crate) proven: bool,
    pub(crate) have: PieceSet,
    /// Pieces whose signed value is known, while the blob grows.
    pub(crate) known: PieceSet,
    /// There while pieces are missing.
    pub(crate) picker: Option<Picker>,
    pub(crate) links: BTreeMap<ConnId, Link>,
    pub(crate) asked: BTreeMap<u32, Asked>,
    /// Requests for pieces that an origin has not chosen yet.
    pub(crate) unchosen: usize,
    /// Received, not verified yet: from whom.
    pub(crate) checking: BTreeMap<u32, (ConnId, PeerId)>,
    pub(crate) readers: BTreeMap<ReaderId, Reader>,
    pub(crate) granted: BTreeMap<PeerId, Granted>,
    /// Payload received since `wanted.since`.
    pub(crate) received_bytes: u64,
    /// When the last useful byte came, or somebody began to wait.
    pub(crate) useful_at: Time,
    /// No piece is asked for before.
    pub(crate) paused_until: Time,
    /// Chaining values were asked for: of whom, and until when they may take.
    pub(crate) values_asked: Option<(ConnId, Time)>,
    /// Chaining values are being proven: from whom they came.
    pub(crate) proving: Option<ConnId>,
    /// Verified since the last HAVE.
    pub(crate) fresh: Vec<u32>,
    /// Sixteenths that the tracker knows of.
    pub(crate) sixteenths: u8,
    /// Since when there is nothing to ask for.
    pub(crate) starving_since: Option<Time>,
    pub(crate) starving_told: Option<Time>,
    pub(crate) want_told: Option<Time>,
    /// The pieces that were told of then.
    pub(crate) told_wants: Vec<u32>,
    /// Pieces that readers have waited for too long, whoever was asked for them.
    pub(crate) late: Vec<u32>,
    /// The tracker took us out of the swarm; it must be joined again.
    pub(crate) dismissed: bool,
    /// Without trackers: owners by the ring, what they said, and when they were last looked up.
    pub(crate) owners: Vec<Peer>,
    pub(crate) owners_without: BTreeSet<PeerId>,
    pub(crate) owners_asked: Option<Time>,
    /// Pieces that were sent to somebody.
    pub(crate) sent: PieceSet,
    /// Of an origin.
    pub(crate) pass: Option<FirstPass>,
    /// Pieces delivered since the last SERVED.
    pub(crate) delivered: VecDeque<u32>,
}

impl Torrent {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            description: None,
            described_by: None,
            wanted: None,
            opened: false,
            proven: false,
            have: PieceSet::default(),
            known: PieceSet::default(),
            picker: None,
            links: BTreeMap::new(),
            asked: BTreeMap::new(),
            unchosen: 0,
            checking: BTreeMap::new(),
            readers: BTreeMap::new(),
            granted: BTreeMap::new(),
            received_bytes: 0,
            useful_at: now,
            paused_until: now,
            values_asked: None,
            proving: None,
            fresh: Vec::new(),
            sixteenths: 0,
            starving_since: None,
            starving_told: None,
            want_told: None,
            told_wants: Vec::new(),
            late: Vec::new(),
            dismissed: false,
            owners: Vec::new(),
            owners_without: BTreeSet::new(),
            owners_asked: None,
            sent: PieceSet::default(),
            pass: None,
            delivered: VecDeque::new(),
        }
    }

    /// Begins with no piece of a blob of this length.
    pub(crate) fn size_sets(&mut self, pieces: u32) {
        self.have = PieceSet::empty(pieces);
        self.known = PieceSet::empty(pieces);
        self.sent = PieceSet::empty(pieces);
    }

    pub(crate) fn geometry(&self) -> Option<Geometry> {
        self.description.as_ref().map(|known| *known.geometry())
    }

    pub(crate) fn generation(&self) -> Option<Generation> {
        self.description.as_ref().and_then(Description::generation)
    }

    pub(crate) const fn is_growing(&self) -> bool {
        matches!(self.description, Some(Description::Growing(_)))
    }

    pub(crate) fn index(&self, piece: u32) -> Option<PieceIndex> {
        self.geometry()?.index(piece)
    }

    pub(crate) fn size(&self, piece: u32) -> u32 {
        let geometry = self.geometry();
        let size = geometry.and_then(|known| Some(known.size(known.index(piece)?)));
        size.unwrap_or(0)
    }

    /// Returns the bytes of pieces that wait for their verdict.
    pub(crate) fn checking_bytes(&self) -> u64 {
        let sizes = self
            .checking
            .keys()
            .map(|piece| u64::from(self.size(*piece)));
        sizes.sum()
    }

    /// Returns whether all pieces are here and nothing about them is in doubt.
    pub(crate) const fn is_complete(&self) -> bool {
        self.opened && self.have.is_full() && !self.is_growing()
    }

    /// Returns whether pieces are missing that somebody wants.
    pub(crate) fn is_hungry(&self) -> bool {
        let wanted = self.wanted.as_ref();
        !self.is_complete() && wanted.is_some_and(|wanted| wanted.whole || self.has_blocked())
    }

    /// Returns whether pieces can be asked for now.
    pub(crate) fn can_ask(&self, now: Time) -> bool {
        self.opened && self.picker.is_some() && self.paused_until <= now && self.wanted.is_some()
    }

    pub(crate) fn is_provable(&self, piece: u32) -> bool {
        self.proven || self.known.contains(piece)
    }

    /// Says whether the piece is free to be asked for, after anything about it changed.
    pub(crate) fn review(&mut self, piece: u32) {
        let free = !self.have.contains(piece)
            && self.is_provable(piece)
            && !self.asked.contains_key(&piece)
            && !self.checking.contains_key(&piece);
        if let Some(picker) = &mut self.picker {
            if free {
                picker.release(piece);
            } else {
                picker.take(piece);
            }
        }
    }

    /// As [`Self::review`], of all pieces.
    pub(crate) fn review_all(&mut self) {
        for piece in 0..self.have.pieces() {
            self.review(piece);
        }
    }

    /// Starts to count neighbours, once storage is ready and pieces are missing.
    pub(crate) fn start_picking(&mut self) {
        if self.picker.is_some() || self.have.is_full() {
            return;
        }
        self.picker = Some(Picker::new(self.have.pieces()));
        self.review_all();
        let conns: Vec<ConnId> = self.links.keys().copied().collect();
        for link in self.links.values_mut() {
            link.counted = None;
        }
        for conn in conns {
            self.count(conn);
        }
    }

    /// Lets the picker count what the neighbour has. Origins are not neighbours to pick from: they
    /// have no `have`.
    pub(crate) fn count(&mut self, conn: ConnId) {
        let (Some(picker), Some(link)) = (&mut self.picker, self.links.get_mut(&conn)) else {
            return;
        };
        if let (None, Some(have)) = (link.counted, &link.have) {
            picker.add(have);
            link.counted = Some(have.is_full());
        }
    }

    /// Takes the neighbour out of the picker's count.
    pub(crate) fn discount(&mut self, conn: ConnId) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if let (Some(was_seeder), Some(have), Some(picker)) =
            (link.counted.take(), &link.have, &mut self.picker)
        {
            picker.remove(have, was_seeder);
        }
    }

    /// The neighbour got a piece; returns whether that was news.
    pub(crate) fn neighbour_gained(&mut self, conn: ConnId, piece: u32) -> bool {
        let Some(link) = self.links.get_mut(&conn) else {
            return false;
        };
        let new = link.have.as_mut().is_some_and(|have| have.insert(piece));
        if new
            && link.counted == Some(false)
            && let Some(picker) = &mut self.picker
        {
            picker.gained(piece);
        }
        new
    }

    /// The neighbour does not have the piece (any more).
    pub(crate) fn neighbour_lost(&mut self, conn: ConnId, piece: u32) {
        self.discount(conn);
        if let Some(have) = self
            .links
            .get_mut(&conn)
            .and_then(|link| link.have.as_mut())
        {
            have.remove(piece);
        }
        self.count(conn);
    }

    /// Returns pieces from the reader's position to the end of what it reads, and of its window.
    pub(crate) fn window(&self, reader: &Reader, window_bytes: u64) -> (Range<u32>, Range<u32>) {
        let Some(geometry) = self.geometry() else {
            return (0..0, 0..0);
        };
        let pieces = |end: u64| {
            let mut pieces = geometry.pieces_in(reader.position..end);
            let first = pieces.next().map_or(0, PieceIndex::get);
            let last = pieces.next_back().map_or(first, PieceIndex::get);
            let is_empty = geometry.pieces_in(reader.position..end).next().is_none();
            first..if is_empty { first } else { last + 1 }
        };
        let ahead = reader.position.saturating_add(window_bytes);
        (pieces(reader.end), pieces(reader.end.min(ahead)))
    }

    /// Returns the piece that the reader waits for, or will wait for first.
    pub(crate) fn blocked(&self, reader: &Reader) -> Option<u32> {
        let (rest, _) = self.window(reader, 0);
        let piece = self.have.first_missing(rest.clone())?;
        rest.contains(&piece).then_some(piece)
    }

    pub(crate) fn has_blocked(&self) -> bool {
        let mut readers = self.readers.values();
        !self.opened || readers.any(|reader| self.blocked(reader).is_some())
    }

    pub(crate) fn missing(&self) -> u32 {
        self.have.pieces() - self.have.count()
    }

    /// Returns sixteenths of the whole that are here, rounded down.
    pub(crate) fn progress(&self) -> u8 {
        let pieces = u64::from(self.have.pieces().max(1));
        let sixteenths = u64::from(self.have.count()) * 16 / pieces;
        u8::try_from(sixteenths).unwrap_or(16)
    }
}

/// Names with their torrents, in the order of the names.
pub(crate) type Torrents = BTreeMap<SwarmName, Torrent>;
