//! What an origin tells of itself.

use std::sync::Arc;

use async_trait::async_trait;
use peer::{Node, PeerKind, Source};
use serde::Serialize;
use service::Report;
use torrent::ClusterPublicKey;

use crate::fetch::Fetcher;

/// The state of an origin.
#[derive(Debug)]
pub(crate) struct OriginReport {
    pub(crate) node: Node,
    pub(crate) fetcher: Arc<Fetcher>,
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
    trackers: Vec<Tracker>,
    sent_bytes: Sent,
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
