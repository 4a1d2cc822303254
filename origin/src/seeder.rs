//! What the swarm is told of storage, unasked.

use std::sync::Arc;

use async_trait::async_trait;
use peer::{Found, Node};
use tokio::sync::mpsc;
use torrent::{Description, SwarmName};

use crate::fetch::Event;
use crate::http;
use crate::metrics::Metrics;
use crate::recent::Recent;

/// Tells a node of the swarm.
#[derive(Debug)]
pub struct Seeder {
    node: Node,
    recent: Arc<Recent>,
}

impl Seeder {
    #[must_use]
    pub const fn new(node: Node, recent: Arc<Recent>) -> Self {
        Self { node, recent }
    }
}

#[async_trait]
impl http::Seeder for Seeder {
    async fn seed(&self, description: Description) {
        self.recent.touch(description.name());
        self.node.seed(vec![description]).await;
    }

    async fn remove(&self, name: SwarmName) {
        self.node.remove(vec![name]).await;
    }
}

/// Passes on what happens to blobs that are being hashed, in its order.
pub(crate) async fn tell(node: Node, mut events: mpsc::Receiver<Event>, metrics: Metrics) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Begun { description } => {
                let found = Found::Here(description);
                node.resolved(*description.name(), found).await;
            }
            Event::Hashed { name, signed } => node.hashed(name, signed).await,
            Event::Grown { description } => {
                metrics.grown.inc();
                node.grown(description).await;
            }
            Event::Revoked {
                name,
                generation,
                reason,
            } => {
                metrics.revoked.inc();
                node.revoke(name, Some(generation), reason).await;
            }
        }
    }
}

/// Lets the node leave the swarms of blobs that nobody asked for in a long time. Who asks for one
/// again finds it in storage.
pub(crate) async fn trim(node: Node, recent: Arc<Recent>) {
    loop {
        let surplus = recent.surplus().await;
        tracing::debug!(
            blobs = surplus.len(),
            "leaving swarms that nobody used lately"
        );
        node.remove(surplus).await;
    }
}
