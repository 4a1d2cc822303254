//! What an origin tells of itself.

use std::sync::Arc;

use async_trait::async_trait;
use peer::{Node, PeerKind, Source};
use serde::Serialize;
use service::Report;
use torrent::ClusterPublicKey;

use crate::fetch::Fetcher;
use crate::write_back::WriteBack;

/// The state of an origin.
#[derive(Debug)]
pub(crate) struct OriginReport {
    pub(crate) node: Node,
    pub(crate) fetcher: Arc<Fetcher>,
    /// Where storage is an object store.
    pub(crate) write_back: Option<Arc<WriteBack>>,
    pub(crate) key: ClusterPublicKey,
    pub(crate) http_addr: String,
}

/// Status of an origin.
#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    peer_id: String,
    zone: String,
    http_addr: String,
    peer_addr: String,
    /// What agents and trackers must be configured with.
    cluster_key: String,
    connections: usize,
    /// Blobs it takes part in.
    blobs: usize,
    /// Blobs it is hashing.
    growing: usize,
    /// Blobs that storage does not have yet; absent where storage is a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    write_back: Option<Unwritten>,
    trackers: Vec<Tracker>,
    sent_bytes: Sent,
}

#[derive(Debug, Serialize)]
struct Unwritten {
    pending: usize,
    pending_bytes: u64,
    oldest_age_seconds: u64,
    /// Why the last attempt failed, until one succeeds.
    last_error: Option<String>,
}

impl Unwritten {
    fn of(write_back: &WriteBack) -> Self {
        let (total, pending) = (write_back.held().total(), write_back.pending());
        Self {
            pending: total.blobs,
            pending_bytes: total.bytes,
            oldest_age_seconds: pending.oldest.unwrap_or_default().as_secs(),
            last_error: pending.last_error,
        }
    }
}

#[derive(Debug, Serialize)]
struct Tracker {
    addr: String,
    is_up: bool,
}

#[derive(Debug, Serialize)]
struct Sent {
    agents: u64,
    origins: u64,
}

impl OriginReport {
    async fn collect(&self) -> Status {
        let overview = self.node.overview().await;
        let me = self.node.me();
        let sent = |peer| {
            let sent_bytes = &self.node.metrics().sent_bytes;
            sent_bytes.get_or_create(&Source { peer }).get()
        };
        let trackers = overview.trackers.iter().map(|tracker| Tracker {
            addr: tracker.addr.to_string(),
            is_up: tracker.is_up,
        });
        Status {
            version: env!("CARGO_PKG_VERSION"),
            peer_id: me.id.to_string(),
            zone: me.zone.to_string(),
            http_addr: self.http_addr.clone(),
            peer_addr: me.addr.to_string(),
            cluster_key: self.key.to_string(),
            connections: overview.peers.len(),
            blobs: self.node.count_blobs(),
            growing: self.fetcher.count_growing(),
            write_back: self.write_back.as_deref().map(Unwritten::of),
            trackers: trackers.collect(),
            sent_bytes: Sent {
                agents: sent(PeerKind::Agent),
                origins: sent(PeerKind::Origin),
            },
        }
    }
}

#[async_trait]
impl Report for OriginReport {
    async fn status(&self) -> serde_json::Value {
        let status = serde_json::to_value(self.collect().await);
        status.expect("a status is plain data")
    }

    async fn not_ready(&self) -> Vec<String> {
        if self.node.is_settled() {
            return Vec::new();
        }
        vec!["no tracker was reached yet".into()]
    }
}
