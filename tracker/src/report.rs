//! What a tracker tells of itself.

use async_trait::async_trait;
use serde_json::{Value, json};
use service::Report;

use crate::config::Config;
use crate::metrics::Metrics;

/// State of a tracker.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
}

#[async_trait]
impl Report for State {
    async fn status(&self) -> Value {
        let metrics = &self.metrics;
        json!({
            "role": "tracker",
            "peer_addr": self.config.peer_addr,
            "cluster_key": self.config.cluster_key.map(|key| key.to_string()),
            "sessions": metrics.sessions.get(),
            "max_sessions": self.config.max_sessions,
            "swarms": metrics.swarms.get(),
            "pending": metrics.pending.get(),
            "credits": metrics.credits.get(),
            "announces": metrics.announces.get(),
            "handouts": metrics.handouts.get(),
            "grants": metrics.grants.get(),
            "withdrawals": metrics.withdrawals.get(),
        })
    }

    async fn not_ready(&self) -> Vec<String> {
        // It depends on nobody: whoever needs it comes by itself.
        Vec::new()
    }
}
