//! Many small blobs that no origin has looked at since it started.

use std::net::SocketAddr;
use std::time::Instant;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci::Digest;
use reqwest::Client;
use serde::Serialize;
use service::Role;

use crate::client::{self, Pulled};
use crate::cluster::{Cluster, Place, Size, Snapshot};
use crate::swarm::{push, rounded};

/// Requests of one client at a time where several agents are asked.
const PARALLEL: usize = 4;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct SmallPlan {
    pub blobs: u16,
    /// Length of each.
    pub size: u64,
    pub agents: u16,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct SmallReport {
    pub blobs: u16,
    pub bytes: u64,
    pub agents: u16,
    /// One agent, one request after the other.
    pub one_after_another_s: f64,
    /// All agents at once, four requests of each at a time, until the last one is done.
    pub at_once_s: f64,
    pub at_once: Reads,
    /// Whether all bytes that clients got were right.
    pub digest_ok: bool,
}

/// What was asked of storage and of origins.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Reads {
    /// Bytes of storage that origins read, to those of all blobs; their metainfo is in it.
    pub backend_read_ratio: f64,
    pub backend_requests: u64,
    /// Payload that left origins towards peers, to that of all blobs.
    pub origin_egress_ratio: f64,
}

/// Pulls small blobs through one agent in a row, then through agents that are all new to them.
///
/// # Errors
/// A part that does not start or ends, a pull that fails.
pub async fn small(place: &Place, plan: &SmallPlan) -> anyhow::Result<SmallReport> {
    let bytes = u64::from(plan.blobs) * plan.size;
    let (in_a_row, one_after_another_s, _) = cold(place, plan, 1, 1).await?;
    let (at_once, at_once_s, reads) = cold(place, plan, plan.agents, PARALLEL).await?;
    Ok(SmallReport {
        blobs: plan.blobs,
        bytes,
        agents: plan.agents,
        one_after_another_s,
        at_once_s,
        at_once: reads,
        digest_ok: in_a_row.iter().chain(&at_once).all(|one| one.is_right),
    })
}

/// Pulls all blobs through each of some agents of a new cluster.
async fn cold(
    place: &Place,
    plan: &SmallPlan,
    agents: u16,
    parallel: usize,
) -> anyhow::Result<(Vec<Pulled>, f64, Reads)> {
    let size = Size {
        agents,
        origins: 1,
        rate: None,
    };
    let mut cluster = Cluster::start(place, size).await?;
    let digests = push(&cluster, plan.blobs, plan.size).await?;
    cluster.cool_origins().await?;
    let before = cluster.snapshot().await?;
    let clients = cluster.addrs(Role::Agent).into_iter().map(|agent| {
        let (client, digests) = (client::new(), digests.clone());
        async move { pull_all(client?, agent, digests, parallel).await }
    });
    let clients: Vec<_> = clients.map(tokio::spawn).collect();
    let start = Instant::now();
    let mut pulled = Vec::new();
    for client in clients {
        pulled.extend(client.await??);
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = cluster.snapshot().await?;
    let bytes = u64::from(plan.blobs) * plan.size;
    Ok((pulled, rounded(seconds), reads(&before, &after, bytes)))
}

async fn pull_all(
    client: Client,
    agent: SocketAddr,
    digests: Vec<Digest>,
    parallel: usize,
) -> anyhow::Result<Vec<Pulled>> {
    let client = &client;
    let pulls = digests
        .into_iter()
        .map(|digest| async move { client::pull(client, agent, &digest).await });
    stream::iter(pulls).buffered(parallel).try_collect().await
}

fn reads(before: &Snapshot, after: &Snapshot, bytes: u64) -> Reads {
    let origins = after.counters(Role::Origin);
    let origins = origins.since(&before.counters(Role::Origin));
    let ratio = |count: u64| rounded(count as f64 / bytes as f64);
    let asked = after.asked_since(before);
    Reads {
        backend_read_ratio: ratio(asked.read_bytes),
        backend_requests: asked.requests,
        origin_egress_ratio: ratio(origins.sum("peer_sent_bytes_total", &[])),
    }
}
