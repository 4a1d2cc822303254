//! What an agent tells of itself on its admin port.

use serde::{Deserialize, Serialize};

/// Path of the status.
pub const STATUS: &str = "/status";

/// Status of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub peer_id: String,
    /// Empty where there is only one zone.
    pub zone: String,
    /// Where clients find it.
    pub registry_addr: String,
    /// Where peers find it.
    pub peer_addr: String,
    pub cache: Cache,
    /// Open connections with peers.
    pub connections: u64,
    /// Blobs it takes part in.
    pub blobs: u64,
    pub trackers: Vec<Tracker>,
    pub received_bytes: Traffic,
    pub sent_bytes: Traffic,
}

/// What the cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    pub blobs: u64,
    pub bytes: u64,
    /// When more is there, the least recently used goes.
    pub limit_bytes: u64,
}

/// A tracker as the agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracker {
    pub addr: String,
    pub is_up: bool,
}

/// Payload bytes by who is at the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub agents: u64,
    pub origins: u64,
}
