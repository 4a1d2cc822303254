//! Counters of a swarm.

use crate::event::CloseReason;

/// What a swarm did and holds, for metrics and the status page. Those without another word count
/// from the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that are there now, with those that did not say HELLO yet.
    pub connections: usize,
    /// Blobs that this process takes part in now.
    pub torrents: usize,
    /// Of those the ones that pieces are wanted of.
    pub downloading: usize,
    /// Readers that are there now.
    pub readers: usize,
    /// Own requests that are open now.
    pub open_requests: usize,
    /// Pieces that are being sent now.
    pub uploads_active: usize,
    /// Requests of others that wait now.
    pub uploads_waiting: usize,
    /// Peers that are left alone now, because they failed.
    pub left_alone: usize,
    /// Of an origin: slots that open grants hold now.
    pub credits_spent: u64,
    /// Measured rate of payload received now, in bytes per second; 0 before it was measured.
    pub download_rate: u64,

    /// Payload received, in bytes.
    pub received_bytes: u64,
    /// Of that, what came for requests that were cancelled.
    pub wasted_bytes: u64,
    pub requests: u64,
    /// Own requests that were cancelled.
    pub cancels: u64,
    /// Pieces asked for a second time, because the first peer was slow.
    pub steals: u64,
    /// Peers that owed something and fell silent.
    pub silences: u64,
    /// Own requests that were rejected.
    pub rejects_received: u64,
    pub pieces_verified: u64,
    pub pieces_corrupt: u64,
    /// Pieces that were here already when they were verified.
    pub pieces_duplicate: u64,
    pub pieces_not_stored: u64,
    /// Stored pieces that turned out damaged.
    pub pieces_lost: u64,
    /// Lists of chaining values that were wrong.
    pub values_wrong: u64,
    pub complaints_sent: u64,
    pub complaints_received: u64,
    pub completed: u64,
    pub failed: u64,
    pub revoked: u64,

    pub uploads_started: u64,
    pub uploads_done: u64,
    pub uploads_failed: u64,
    /// Requests of others that were rejected.
    pub rejects_sent: u64,
    pub queued_sent: u64,
    pub haves_sent: u64,

    pub announces: u64,
    /// Grants received from trackers.
    pub grants: u64,
    /// Times that a tracker was asked for one more peer.
    pub starvings: u64,
    /// Times that a tracker was told of pieces nobody near has.
    pub wants: u64,

    /// Connections that we closed because the other side broke the protocol.
    pub closed_protocol: u64,
    /// Because it sent what does not verify.
    pub closed_corrupt: u64,
    /// Because it was silent.
    pub closed_silent: u64,
    /// Because they were not needed, or twice there.
    pub closed_unneeded: u64,
}

impl Stats {
    pub(crate) const fn closed_for(&mut self, reason: CloseReason) {
        match reason {
            CloseReason::Protocol(_) => self.closed_protocol += 1,
            CloseReason::Corrupt => self.closed_corrupt += 1,
            CloseReason::Silent => self.closed_silent += 1,
            CloseReason::Duplicate
            | CloseReason::Myself
            | CloseReason::Spare
            | CloseReason::Idle => self.closed_unneeded += 1,
        }
    }
}
