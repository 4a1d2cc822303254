//! Many agents want the same blobs at once.

use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use oci::Digest;
use serde::Serialize;
use service::Role;

use crate::client::{self, Pulled};
use crate::cluster::{Cluster, LOOK, Place, Size, Snapshot};
use crate::machine;
use crate::payload::Payload;

/// Share of the payload that agents have when the tracker is killed, if it is.
const KILL_AT: f64 = 0.25;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct SwarmPlan {
    pub agents: u16,
    pub origins: u16,
    /// Blobs, which each agent is asked for one after the other.
    pub blobs: u16,
    /// Length of each.
    pub size: u64,
    /// Bytes per second that each agent and origin may send.
    pub rate: Option<u64>,
    /// Whether origins begin with nothing but what storage has.
    pub cold: bool,
    /// Whether the tracker dies (`kill -9`) once agents have a quarter of the payload.
    pub kill_tracker: bool,
}

/// What came of it. Ratios are to the length of the blobs, or where agents are many to what was
/// delivered to clients.
#[derive(Clone, Debug, Serialize)]
pub struct SwarmReport {
    pub agents: u16,
    /// Length of all blobs together.
    pub bytes: u64,
    /// Shortest time that the rates allow; absent where nothing is limited.
    pub ideal_s: Option<f64>,
    /// Times of the agents until they had delivered all blobs.
    pub p50_s: f64,
    pub p99_s: f64,
    pub max_s: f64,
    /// Times of all requests until the first byte of the body.
    pub first_byte_ms: Percentiles,
    /// Payload that left origins towards peers, to `bytes`.
    pub origin_egress_ratio: f64,
    /// Bytes that were read from storage, to `bytes`; absent for a folder.
    pub backend_read_ratio: Option<f64>,
    /// Requests to storage: of everybody where a store counts them, else of the origins.
    pub backend_requests: u64,
    /// Payload that agents received in vain, to what was delivered.
    pub duplicate_ratio: f64,
    /// Bytes of messages between peers and with trackers, to what was delivered.
    pub control_ratio: f64,
    pub cpu_s_per_gb: ByRole<f64>,
    pub rss_peak_bytes: ByRole<u64>,
    pub file_system: String,
    /// Whether all bytes that clients got were right.
    pub digest_ok: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
}

/// A figure of each role; memory has no total.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ByRole<T> {
    pub agent: T,
    pub origin: T,
    pub tracker: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<T>,
}

/// What the client of one agent got.
#[derive(Debug)]
struct Served {
    pulled: Vec<Pulled>,
    took: Duration,
}

/// Pushes blobs and lets a client of every agent pull them at the same moment.
///
/// # Errors
/// A part that does not start or ends, a pull that fails.
pub async fn swarm(place: &Place, plan: &SwarmPlan) -> anyhow::Result<SwarmReport> {
    if plan.agents == 0 || plan.origins == 0 || plan.blobs == 0 || plan.size == 0 {
        bail!("there is nothing to measure: agents, origins, blobs and size are at least 1");
    }
    let size = Size {
        agents: plan.agents,
        origins: plan.origins,
        rate: plan.rate,
    };
    let mut cluster = Cluster::start(place, size).await?;
    let digests = push(&cluster, plan.blobs, plan.size).await?;
    if plan.cold {
        cluster.cool_origins().await?;
    }
    cluster.forget_peaks()?;
    let before = cluster.snapshot().await?;
    let clients = Clients::start(&cluster.addrs(Role::Agent), &digests);
    if plan.kill_tracker {
        let enough = KILL_AT * plan.bytes() as f64 * f64::from(plan.agents);
        until_received(&cluster, &before, enough, &clients).await?;
        cluster.kill(Role::Tracker)?;
    }
    let served = clients.wait().await?;
    let after = cluster.snapshot().await?;
    Ok(report(&cluster, plan, &served, &before, &after))
}

/// Pushes blobs as the layers of an image; returns their digests once all of it is in storage.
pub(crate) async fn push(cluster: &Cluster, blobs: u16, size: u64) -> anyhow::Result<Vec<Digest>> {
    let layers = tokio::task::spawn_blocking(move || payloads(blobs, size)).await?;
    let proxy = cluster.addrs(Role::Proxy)[0];
    client::push(&client::new()?, proxy, &layers).await?;
    Ok(layers.into_iter().map(|(digest, _)| digest).collect())
}

pub(crate) fn payloads(blobs: u16, size: u64) -> Vec<(Digest, Payload)> {
    let payloads = (0..blobs).map(|number| Payload::new(number.into(), size));
    payloads
        .map(|payload| (payload.digest(), payload))
        .collect()
}

/// Clients that run, one for each agent.
struct Clients(Vec<JoinHandle<anyhow::Result<Served>>>);

impl Clients {
    /// Starts them at one moment, each in a thread of its own.
    fn start(agents: &[SocketAddr], digests: &[Digest]) -> Self {
        let barrier = Arc::new(Barrier::new(agents.len()));
        let threads = agents.iter().map(|agent| {
            let (agent, digests, barrier) = (*agent, digests.to_vec(), Arc::clone(&barrier));
            std::thread::spawn(move || serve(agent, &digests, &barrier))
        });
        Self(threads.collect())
    }

    fn have_ended(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }

    async fn wait(self) -> anyhow::Result<Vec<Served>> {
        let join = || {
            let results = self.0.into_iter().map(|thread| {
                let result = thread.join();
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            results.collect()
        };
        tokio::task::spawn_blocking(join).await?
    }
}

fn serve(agent: SocketAddr, digests: &[Digest], barrier: &Barrier) -> anyhow::Result<Served> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let made = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let client = client::new()?;
        Ok((runtime, client))
    });
    // Whoever fails before would leave the others waiting for ever.
    barrier.wait();
    let (runtime, client) = made?;
    let start = Instant::now();
    runtime.block_on(async {
        let mut pulled = Vec::new();
        for digest in digests {
            let pull = client::pull(&client, agent, digest).await;
            pulled.push(pull.with_context(|| format!("pulling {digest} through {agent}"))?);
        }
        let took = start.elapsed();
        Ok(Served { pulled, took })
    })
}

/// Waits until agents have received so much payload, or all is over.
async fn until_received(
    cluster: &Cluster,
    before: &Snapshot,
    enough: f64,
    clients: &Clients,
) -> anyhow::Result<()> {
    let received = |snapshot: &Snapshot| {
        let counters = snapshot.counters(Role::Agent);
        let counters = counters.since(&before.counters(Role::Agent));
        counters.sum("peer_received_bytes_total", &[]) as f64
    };
    while !clients.have_ended() && received(&cluster.snapshot().await?) < enough {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn report(
    cluster: &Cluster,
    plan: &SwarmPlan,
    served: &[Served],
    before: &Snapshot,
    after: &Snapshot,
) -> SwarmReport {
    let bytes = plan.bytes();
    let delivered = bytes as f64 * f64::from(plan.agents);
    let counted = |role| after.counters(role).since(&before.counters(role));
    let (agents, origins, trackers) = (
        counted(Role::Agent),
        counted(Role::Origin),
        counted(Role::Tracker),
    );
    let control: u64 = [&agents, &origins, &trackers]
        .iter()
        .map(|counters| counters.sum("peer_control_bytes_total", &[]))
        .sum();
    let egress = origins.sum("peer_sent_bytes_total", &[]);
    let asked = after.asked_since(before);
    let folder = cluster.storage().is_folder();
    let cpu = |role| after.cpu_s_since(before, role) / (delivered / 1e9);
    let (agent, origin, tracker) = (cpu(Role::Agent), cpu(Role::Origin), cpu(Role::Tracker));
    let others = cpu(Role::BuildIndex) + cpu(Role::Proxy);
    let times = sorted(served.iter().map(|served| served.took.as_secs_f64()));
    let pulled = served.iter().flat_map(|served| &served.pulled);
    let firsts = sorted(pulled.clone().map(|one| one.first_byte.as_secs_f64() * 1e3));
    SwarmReport {
        agents: plan.agents,
        bytes,
        ideal_s: plan.ideal_s(),
        p50_s: percentile(&times, 0.5),
        p99_s: percentile(&times, 0.99),
        max_s: percentile(&times, 1.0),
        first_byte_ms: Percentiles {
            p50: percentile(&firsts, 0.5),
            p99: percentile(&firsts, 0.99),
        },
        origin_egress_ratio: rounded(egress as f64 / bytes as f64),
        backend_read_ratio: (!folder).then(|| rounded(asked.read_bytes as f64 / bytes as f64)),
        backend_requests: asked.requests,
        duplicate_ratio: rounded(agents.sum("peer_duplicate_bytes_total", &[]) as f64 / delivered),
        control_ratio: rounded(control as f64 / delivered),
        cpu_s_per_gb: ByRole {
            agent: rounded(agent),
            origin: rounded(origin),
            tracker: rounded(tracker),
            total: Some(rounded(agent + origin + tracker + others)),
        },
        rss_peak_bytes: ByRole {
            agent: after.peak_bytes(Role::Agent),
            origin: after.peak_bytes(Role::Origin),
            tracker: after.peak_bytes(Role::Tracker),
            total: None,
        },
        file_system: machine::file_system(cluster.folder()),
        digest_ok: pulled.clone().all(|one| one.is_right),
    }
}

impl SwarmPlan {
    fn bytes(&self) -> u64 {
        u64::from(self.blobs) * self.size
    }

    /// Returns the shortest time that all agents can have everything in: bytes cannot leave the
    /// origins, or everybody together, faster than the rate (the fluid bound of Kumar and Ross).
    fn ideal_s(&self) -> Option<f64> {
        let rate = self.rate? as f64;
        let bytes = self.bytes() as f64;
        let (agents, origins) = (f64::from(self.agents), f64::from(self.origins));
        let from_origins = bytes / (origins * rate);
        let from_all = agents * bytes / ((origins + agents) * rate);
        Some(rounded(from_origins.max(from_all)))
    }
}

pub(crate) fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Returns the smallest value that at least this share of all is not above.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is between 1 and the number of values"
)]
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil().max(1.0) as usize;
    let value = sorted.get(rank.min(sorted.len()).saturating_sub(1));
    rounded(value.copied().unwrap_or_default())
}

/// Leaves the digits that mean something.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values = sorted([3.0, 1.0, 2.0, 4.0].into_iter());
        assert_eq!(percentile(&values, 0.5), 2.0);
        assert_eq!(percentile(&values, 0.99), 4.0);
        assert_eq!(percentile(&values, 1.0), 4.0);
        assert_eq!(percentile(&values[..1], 0.5), 1.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn the_ideal_is_the_narrower_bound() {
        let plan = SwarmPlan {
            agents: 8,
            origins: 1,
            blobs: 2,
            size: 500,
            rate: Some(100),
            cold: false,
            kill_tracker: false,
        };
        // The one origin needs 10 s to send it all once.
        assert_eq!(plan.ideal_s(), Some(10.0));
        // Four do it in 2.5 s, but all have to send 8000 bytes at 1200 a second.
        let plan = SwarmPlan { origins: 4, ..plan };
        assert_eq!(plan.ideal_s(), Some(6.6667));
        assert_eq!(SwarmPlan { rate: None, ..plan }.ideal_s(), None);
    }

    #[test]
    fn the_report_has_the_keys_that_others_read() {
        let by_role = |total| ByRole {
            agent: 1,
            origin: 2,
            tracker: 3,
            total,
        };
        let json = serde_json::to_string(&by_role(None)).unwrap();
        assert_eq!(json, r#"{"agent":1,"origin":2,"tracker":3}"#);
        let json = serde_json::to_string(&by_role(Some(6))).unwrap();
        assert_eq!(json, r#"{"agent":1,"origin":2,"tracker":3,"total":6}"#);
    }
}
