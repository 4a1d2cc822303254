//! Settings and limits of a node.

use std::time::Duration;

use api::Size;
use serde::{Deserialize, Serialize};

/// How a node is run. Every queue and buffer of it is bounded by one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most connections with peers, opened and accepted; more are refused.
    pub max_connections: usize,
    /// Most messages that wait for one peer. A peer that lets more pile up is disconnected.
    pub max_queued_messages: usize,
    /// Most bytes of pieces that are being received, checked and stored, over all connections.
    pub receive_buffer: Size,
    /// Most bytes of verified pieces kept in memory for readers and uploads.
    pub kept_pieces: Size,
    /// Most bytes per second that go to peers, over all connections. No limit where absent.
    pub upload_rate: Option<Size>,
    /// Bytes per second that this machine can receive, where that is known to be less than what
    /// the network gives. Peers are told how far behind that rate a download is.
    pub download_rate: Option<Size>,
    /// How long a connection to a peer or tracker may take.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long one write to a peer may take.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long opening a blob may take: somebody must say its length.
    #[serde(with = "humantime_serde")]
    pub open_timeout: Duration,
    /// How long a reader waits for the piece it needs next.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    /// How long a blob of which only parts are wanted may go unread. Then it may be evicted, and
    /// where nothing of it is here its swarm is left.
    #[serde(with = "humantime_serde")]
    pub lazy_idle: Duration,
    /// Most readers at a time.
    pub max_readers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_queued_messages: 4096,
            receive_buffer: Size::mib(24),
            kept_pieces: Size::mib(12),
            upload_rate: None,
            download_rate: None,
            connect_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(30),
            open_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            lazy_idle: Duration::from_secs(300),
            max_readers: 4096,
        }
    }
}
