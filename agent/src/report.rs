//! What an agent tells of itself: its status, and counters besides those of its parts.

use std::net::SocketAddr;
use std::sync::Arc;

use api::agent::{self, Status, Traffic};
use async_trait::async_trait;
use peer::{Metrics, Node, PeerKind, Source};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use service::Report;
use store::Cache;

use crate::cache::blocking;

/// The state of an agent.
#[derive(Debug)]
pub(crate) struct AgentReport {
    node: Node,
    cache: Arc<Cache>,
    registry_addr: SocketAddr,
}

impl AgentReport {
    pub(crate) const fn new(node: Node, cache: Arc<Cache>, registry_addr: SocketAddr) -> Self {
        Self {
            node,
            cache,
            registry_addr,
        }
    }

    async fn collect(&self) -> Status {
        let cache = Arc::clone(&self.cache);
        let known = blocking(move || cache.known()).await;
        let overview = self.node.overview().await;
        let me = self.node.me();
        let Metrics {
            received_bytes,
            sent_bytes,
            ..
        } = self.node.metrics();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            peer_id: me.id.to_string(),
            zone: me.zone.to_string(),
            registry_addr: self.registry_addr.to_string(),
            peer_addr: me.addr.to_string(),
            cache: agent::Cache {
                blobs: known.len() as u64,
                bytes: self.cache.used_bytes(),
                limit_bytes: self.cache.capacity_bytes(),
            },
            connections: overview.peers.len() as u64,
            blobs: self.node.count_blobs() as u64,
            trackers: overview
                .trackers
                .iter()
                .map(|tracker| agent::Tracker {
                    addr: tracker.addr.to_string(),
                    is_up: tracker.is_up,
                })
                .collect(),
            received_bytes: traffic(received_bytes),
            sent_bytes: traffic(sent_bytes),
        }
    }
}

#[async_trait]
impl Report for AgentReport {
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

fn traffic(bytes: &Family<Source, Counter>) -> Traffic {
    let of = |peer| bytes.get_or_create(&Source { peer }).get();
    Traffic {
        agents: of(PeerKind::Agent),
        origins: of(PeerKind::Origin),
    }
}

/// Makes the agent's own metrics known; returns the counter of stale answers.
pub(crate) fn register(metrics: &mut Registry, cache: &Arc<Cache>) -> Counter {
    let stale = Counter::default();
    let agent = metrics.sub_registry_with_prefix("agent");
    agent.register(
        "stale_answers",
        "Answers out of memory because no build-index could be asked",
        stale.clone(),
    );
    agent.register_collector(Box::new(CacheBytes(Arc::clone(cache))));
    stale
}

/// How full the cache is, looked at when somebody asks.
#[derive(Debug)]
struct CacheBytes(Arc<Cache>);

impl Collector for CacheBytes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, bytes) in [
            ("cache", "Bytes of pieces in the cache", self.0.used_bytes()),
            (
                "cache_limit",
                "Bytes that the cache may hold",
                self.0.capacity_bytes(),
            ),
        ] {
            let gauge = ConstGauge::new(bytes);
            let unit = Some(&Unit::Bytes);
            let metric = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
