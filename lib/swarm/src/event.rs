//! What goes into the decisions and what comes out: data, no traits, so that a fake is a loop.
//!
//! Payload bytes never enter this crate. The shell streams a piece from socket to memory, verifies
//! and stores it, and reports the verdict.

use std::ops::Range;
use std::sync::Arc;

use torrent::{
    Bitfield, Cv, Description, Generation, Peer, PeerId, PieceIndex, SignedCv, SwarmName,
};

use crate::message::{Announce, BlockRange, Message, Priority, RequestId};

/// A connection of this process, numbered by the shell; never used again after it closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Somebody who reads a blob in order through this process, numbered by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u64);

/// What happened, told to [`crate::Swarm::handle`].
#[derive(Clone, Debug)]
pub enum Input {
    // --- connections ---
    /// A transport connection is up; nothing was said on it yet. `expected` is the peer of the
    /// [`Output::Connect`] that led to it, `None` for one that was accepted.
    Connected {
        conn: ConnId,
        expected: Option<PeerId>,
    },
    /// An [`Output::Connect`] came to nothing.
    ConnectFailed {
        peer: PeerId,
    },
    Closed {
        conn: ConnId,
    },
    /// Any message; of [`Message::Data`] the header, when its payload has been read.
    Received {
        conn: ConnId,
        message: Message,
    },

    // --- trackers ---
    /// A message of a tracker's session.
    Tracker(Message),
    /// Whether any tracker can be reached. While none can, origins are asked directly.
    TrackersUp(bool),
    /// The tracker of these swarms is new to us (it restarted, or the ring moved them): say again
    /// what we have and want.
    Reannounce {
        names: Vec<SwarmName>,
    },
    /// Owners of a blob by the ring, answering [`Output::FindOwners`].
    Owners {
        name: SwarmName,
        peers: Vec<Peer>,
    },
    /// An origin's fellow members of the ring; it keeps connections to them.
    Partners(Vec<Peer>),

    // --- blobs of this process ---
    /// This process has all of the blob and can prove it.
    Seed {
        description: Description,
    },
    /// The blob shall be here: all of it, or with `whole: false` only what readers ask for.
    Download {
        name: SwarmName,
        priority: Priority,
        whole: bool,
    },
    /// Storage for the blob is ready, answering [`Output::Open`]. `have` are pieces from an
    /// earlier life, verified again; `proven` tells whether the chaining values are known.
    Opened {
        name: SwarmName,
        have: Bitfield,
        proven: bool,
    },
    /// Storage could not be made ready.
    OpenFailed {
        name: SwarmName,
        reason: Arc<str>,
    },
    /// A reader wants these bytes, in order.
    Read {
        name: SwarmName,
        reader: ReaderId,
        range: Range<u64>,
    },
    /// The reader has taken everything before `position` (an offset in the blob).
    ReadAt {
        reader: ReaderId,
        position: u64,
    },
    ReadDone {
        reader: ReaderId,
    },
    /// The blob was evicted or given up.
    Remove {
        name: SwarmName,
    },

    // --- verdicts ---
    /// A piece was received whole, verified and stored.
    PieceVerified {
        conn: ConnId,
        id: RequestId,
        name: SwarmName,
        piece: PieceIndex,
    },
    /// A piece was received whole and is not what it should be.
    PieceCorrupt {
        conn: ConnId,
        id: RequestId,
        name: SwarmName,
        piece: PieceIndex,
    },
    /// A piece was received and could not be stored (disk full, IO error).
    PieceNotStored {
        conn: ConnId,
        id: RequestId,
        name: SwarmName,
        piece: PieceIndex,
    },
    /// A stored piece turned out damaged and was dropped.
    PieceLost {
        name: SwarmName,
        piece: PieceIndex,
    },
    /// The values of [`Output::ProveCvs`] merge to the root; they are kept.
    CvsProven {
        name: SwarmName,
    },
    CvsWrong {
        conn: ConnId,
        name: SwarmName,
    },
    /// These values of [`Output::CheckGrowingCvs`] are signed; their pieces can be asked for.
    GrowingCvsKnown {
        name: SwarmName,
        pieces: Vec<PieceIndex>,
    },
    /// The last frame of an upload was written to the socket.
    UploadDone {
        conn: ConnId,
        id: RequestId,
    },
    /// The piece of an upload could not be read.
    UploadFailed {
        conn: ConnId,
        id: RequestId,
    },

    // --- origins ---
    /// What storage says about a blob, answering [`Output::Resolve`].
    Resolved {
        name: SwarmName,
        found: Found,
    },
    /// The next piece of a growing blob was read and its value signed.
    Hashed {
        name: SwarmName,
        signed: Box<SignedCv>,
    },
    /// A growing blob was read to its end and its digest was right.
    Grown {
        description: Description,
    },
    /// The source of a growing blob did not match its digest, or changed.
    Revoke {
        name: SwarmName,
        generation: Option<Generation>,
        reason: Arc<str>,
    },
}

/// What an origin's storage says about a blob.
#[derive(Clone, Debug)]
pub enum Found {
    /// It is there, hashed or being hashed from now on.
    Here(Description),
    Absent,
    Failed(Arc<str>),
}

/// Why a download ended without the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No origin's storage has it.
    Absent,
    /// It could not be had now. The reason is for people.
    Unavailable(Arc<str>),
    /// Its source did not match: everything received of it must go.
    Revoked(Arc<str>),
}

/// What to do, taken from [`crate::Swarm::poll_output`].
#[derive(Clone, Debug)]
pub enum Output {
    // --- connections ---
    /// Connect to the peer; answer with [`Input::Connected`] or [`Input::ConnectFailed`].
    Connect { peer: Peer },
    /// Close the connection, after what was sent before; no [`Input::Closed`] is needed.
    Close { conn: ConnId, reason: CloseReason },
    /// Send a message. A [`Message::Request`] also says that its data is welcome from now on.
    Send { conn: ConnId, message: Message },

    // --- trackers ---
    /// Tell the blob's tracker. Those of one drain go in one message per tracker:
    /// [`crate::announce::batch`].
    Announce(Announce),
    /// Send a message to the blob's tracker.
    Tracker { name: SwarmName, message: Message },
    /// Of an origin: give this many more slots to the trackers in turn.
    Credit { count: u16 },
    /// Tell the ring's owners of the blob: [`Input::Owners`].
    FindOwners { name: SwarmName },

    // --- blobs ---
    /// The blob's length (and root) became known; make its storage ready and answer with
    /// [`Input::Opened`] or [`Input::OpenFailed`].
    Open { description: Description },
    /// A growing blob's final description: the chaining values must merge to this root.
    Described { description: Description },
    /// Prove these chaining values against the description and keep them.
    ProveCvs {
        conn: ConnId,
        name: SwarmName,
        cvs: Arc<[Cv]>,
    },
    /// Check the signatures of these values and keep them.
    CheckGrowingCvs {
        conn: ConnId,
        name: SwarmName,
        generation: Generation,
        cvs: Vec<SignedCv>,
    },
    /// Send [`Message::Cvs`] or [`Message::GrowingCvs`] for what is known of these pieces.
    SendCvs {
        conn: ConnId,
        name: SwarmName,
        first: u32,
        count: u32,
    },
    /// Read the piece (or some blocks of it) and send it in [`Message::Data`] frames; answer with
    /// [`Input::UploadDone`] or [`Input::UploadFailed`].
    Upload {
        conn: ConnId,
        id: RequestId,
        name: SwarmName,
        piece: PieceIndex,
        blocks: Option<BlockRange>,
        priority: Priority,
    },
    /// Stop sending; what was not written yet is dropped. No answer is needed.
    CancelUpload { conn: ConnId, id: RequestId },
    /// A peer says that our copy of this piece is bad: hash it again; [`Input::PieceLost`] if so.
    Recheck { name: SwarmName, piece: PieceIndex },
    /// All wanted pieces are here.
    Completed { name: SwarmName },
    /// The download is over without the blob. The torrent is gone from the swarm.
    Failed { name: SwarmName, failure: Failure },
    /// Of an origin: does storage have this blob? Answer with [`Input::Resolved`].
    Resolve { name: SwarmName },
}

/// Why a connection was closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The other side broke the protocol.
    Protocol(&'static str),
    /// It sent bytes that do not verify.
    Corrupt,
    /// It was silent for too long while data was due.
    Silent,
    /// There is another connection to the same peer.
    Duplicate,
    /// The peer is ourselves.
    Myself,
    /// Too many connections, and this one is not used.
    Spare,
    /// Nothing is left to exchange.
    Idle,
}

/// A session of a tracker, numbered by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What happened, told to [`crate::Tracker::handle`].
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all of them are messages; none is kept for long"
)]
pub enum TrackerInput {
    Opened {
        session: SessionId,
    },
    Received {
        session: SessionId,
        message: Message,
    },
    Closed {
        session: SessionId,
    },
}

/// What a tracker is to do.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all of them are messages; none is kept for long"
)]
pub enum TrackerOutput {
    Send {
        session: SessionId,
        message: Message,
    },
    Close {
        session: SessionId,
        reason: CloseReason,
    },
}
