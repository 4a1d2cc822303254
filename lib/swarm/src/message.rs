//! What processes say to each other. `docs/wire.md` has the meaning clause by clause,
//! [`crate::wire`] the bytes.
//!
//! One connection carries all blobs of a pair of processes; the session with a tracker has the
//! same framing. Every [`Message::Request`] is ended by exactly one of: the last byte of its
//! [`Message::Data`], or a [`Message::Reject`] with the same id.

use std::sync::Arc;

use torrent::{Cv, Description, Generation, Peer, PeerId, SignedCv, SwarmName};

use crate::time::Micros;

/// Version of the wire protocol, in every [`Message::Hello`].
pub const VERSION: u16 = 1;

/// Number of a request, chosen by the requester, unique among its open requests of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// How urgent a request is. Lower is sooner; between frames the more urgent goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Manifests, bootstraps, what everything else waits for.
    Metadata = 0,
    /// A reader is blocked on it.
    Foreground = 1,
    /// In the window ahead of a reader.
    Stream = 2,
    Prefetch = 3,
    Bulk = 4,
}

/// Blocks of a piece: `first .. first + count`, each 64 KiB but perhaps the last of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    pub first: u16,
    pub count: u16,
}

/// What a [`Message::Request`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This piece.
    Piece(u32),
    /// Some blocks of this piece.
    Blocks(u32, BlockRange),
    /// The piece that an origin chooses, paid by a grant.
    Any,
}

/// Why a request will get no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The sender does not have it (any more).
    NotHere,
    /// It was cancelled before its last frame.
    Cancelled,
    /// The queue is full; ask somebody else.
    Busy,
    /// An origin got [`Target::Any`], or a piece, without a grant that pays for it.
    NoGrant,
    /// An origin has nothing left to choose that the requester lacks.
    NothingToGive,
    /// The blob's generation was revoked.
    Revoked,
}

/// One blob in a [`Message::Announce`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    pub name: SwarmName,
    pub event: AnnounceEvent,
    /// Length and root where the sender knows them; the tracker passes them on.
    pub description: Option<Description>,
}

/// What happened to a blob at the sender of an [`Announce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceEvent {
    /// An agent wants the blob; it has `sixteenths` of it (from an earlier life).
    Join { sixteenths: u8 },
    /// Coarse progress of a download: at each sixteenth.
    Progress { sixteenths: u8 },
    /// The sender has the whole blob. Of an origin: `unserved` tells that pieces are left that no
    /// agent has got yet (the first pass goes on).
    Complete { unserved: bool },
    /// An origin has a growing part of the blob and is hashing the rest.
    Growing,
    /// An origin was asked for the blob and its storage does not have it.
    Absent,
    /// An origin was asked for the blob and could not read it; asking again later may help.
    Failed,
    /// The download starves: no neighbour has anything for it. It wants more peers.
    Starving,
    /// The sender left the swarm of this blob.
    Leave,
}

/// What a tracker knows of a blob when an agent joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandoutStatus {
    /// Length and root, or the growing form.
    Known(Description),
    /// Origins were asked; another handout follows.
    Pending,
    /// No origin's storage has it.
    Absent,
    /// The origins could not be asked or could not read it. The reason is for people.
    Failed(Arc<str>),
}

/// Everything that is said. Bounds of each list are in [`crate::wire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// First message of both sides.
    Hello {
        version: u16,
        me: Peer,
    },
    /// What the sender has of a blob; first message about a blob on a connection, sent by both.
    /// An empty bitfield says that the sender is interested.
    Bitfield {
        name: SwarmName,
        /// Where the sender knows it; `None` only while an interested agent knows nothing.
        description: Option<Description>,
        /// As [`torrent::Bitfield::to_bytes`]; empty without a description.
        have: Vec<u8>,
    },
    /// Pieces (and blocks) verified since the last message, batched.
    Have {
        name: SwarmName,
        pieces: Vec<u32>,
        /// Blocks of pieces the sender does not have whole: (piece, first block, mask).
        blocks: Vec<(u32, u16, u64)>,
        /// Requests that wait at the sender.
        queue: u16,
    },
    Request {
        id: RequestId,
        name: SwarmName,
        target: Target,
        priority: Priority,
        /// How far the requester is behind (positive) or ahead of (negative) its own schedule, in
        /// microseconds. The uploader keeps `arrival - lag` and serves the least first.
        lag_us: i64,
    },
    /// Header of one frame of payload; `length` bytes follow it.
    Data {
        id: RequestId,
        /// The piece; of [`Target::Any`] this tells which was chosen.
        piece: u32,
        /// First byte of the payload within the piece.
        offset: u32,
        length: u32,
        /// Whether the request is done with this frame.
        last: bool,
    },
    Cancel {
        id: RequestId,
    },
    /// The request waits; sent every 100 ms, so that silence means death.
    Queued {
        id: RequestId,
        ahead: u16,
    },
    Reject {
        id: RequestId,
        reason: RejectReason,
    },
    /// Asks for chaining values of pieces `first .. first + count`; of a complete blob the whole
    /// list is asked for (it is proven only whole).
    CvRequest {
        name: SwarmName,
        first: u32,
        count: u32,
    },
    /// Chaining values of a complete blob, all of them.
    Cvs {
        name: SwarmName,
        cvs: Arc<[Cv]>,
    },
    /// Signed values of a growing blob; also sent unasked, ahead of the HAVE of those pieces.
    GrowingCvs {
        name: SwarmName,
        generation: Generation,
        cvs: Vec<SignedCv>,
    },
    /// A growing blob was read to its end and its digest was right.
    Grown {
        description: Description,
    },
    /// To the tracker, or to an origin where no tracker lives: nobody near has these pieces.
    Want {
        name: SwarmName,
        pieces: Vec<u32>,
    },
    /// Between owners: these pieces were delivered to some agent.
    Served {
        name: SwarmName,
        pieces: Vec<u32>,
    },
    /// The source did not match: drop every piece of the blob. `reason` is for people.
    Revoke {
        name: SwarmName,
        generation: Option<Generation>,
        reason: Arc<str>,
    },
    /// The receiver of this got bytes of the piece that do not verify: check and drop it.
    Complaint {
        name: SwarmName,
        piece: u32,
    },

    /// To the tracker. `connected` are the neighbours the sender would like to keep (affinity).
    Announce {
        entries: Vec<Announce>,
        connected: Vec<PeerId>,
        /// Of an origin: slots it gives to this tracker, on top of those it gave before.
        credits: u16,
    },
    /// From the tracker to an agent (peers to connect to), or to an origin (the other owners).
    Handout {
        name: SwarmName,
        status: HandoutStatus,
        peers: Vec<Peer>,
    },
    /// From the tracker, to the agent *and* the origin: the origin shall give `count` pieces of
    /// its choice, or those in `pieces`. It is over at `deadline` from receipt, or when
    /// either disconnects from the tracker. With a `count` of 0 it goes to the origin only, takes
    /// no slot, and asks whether the origin has the blob.
    Grant {
        name: SwarmName,
        agent: PeerId,
        origin: Peer,
        count: u16,
        pieces: Vec<u32>,
        zone: Arc<str>,
        deadline: Micros,
        /// Live owners of the blob in ring order, to split its runs by.
        owners: Vec<PeerId>,
    },
    /// Pieces `first .. first + count` may be fetched across zones by the receiver only.
    Lease {
        name: SwarmName,
        first: u32,
        count: u32,
        members: Vec<Peer>,
    },
    /// From the tracker: a grant is void.
    Withdraw {
        name: SwarmName,
        agent: PeerId,
        origin: PeerId,
    },
    /// Asks for an answer; keeps an idle session alive.
    Ping {
        token: u64,
    },
    Pong {
        token: u64,
    },
}
