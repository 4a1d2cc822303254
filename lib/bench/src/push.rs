//! One large blob is pushed.

use std::time::Instant;

use serde::Serialize;
use service::Role;

use crate::client;
use crate::cluster::{Cluster, Place, Size};
use crate::machine;
use crate::swarm::{payloads, rounded};

/// What pushing a blob took, until the manifest was acknowledged: everything is on disk then.
#[derive(Clone, Debug, Serialize)]
pub struct PushReport {
    pub bytes: u64,
    pub seconds: f64,
    pub cpu_s: Cpu,
    pub rss_peak_bytes: Peaks,
    pub file_system: String,
}

/// CPU time of all roles that a push needs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cpu {
    pub proxy: f64,
    pub origin: f64,
    pub build_index: f64,
    pub total: f64,
}

/// Peaks of resident memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peaks {
    pub proxy: u64,
    pub origin: u64,
}

/// Pushes an image with one layer of `size` bytes through the proxy.
///
/// # Errors
/// A part that does not start or ends, a push that fails.
pub async fn push(place: &Place, origins: u16, size: u64) -> anyhow::Result<PushReport> {
    let roles = Size {
        agents: 0,
        origins,
        rate: None,
    };
    let cluster = Cluster::start(place, roles).await?;
    let layers = tokio::task::spawn_blocking(move || payloads(1, size)).await?;
    cluster.forget_peaks()?;
    let before = cluster.snapshot().await?;
    let start = Instant::now();
    client::push(&client::new()?, cluster.addrs(Role::Proxy)[0], &layers).await?;
    let seconds = start.elapsed().as_secs_f64();
    let after = cluster.snapshot().await?;
    let cpu = |role| rounded(after.cpu_s_since(&before, role));
    let (proxy, origin, build_index) = (cpu(Role::Proxy), cpu(Role::Origin), cpu(Role::BuildIndex));
    Ok(PushReport {
        bytes: size,
        seconds: rounded(seconds),
        cpu_s: Cpu {
            proxy,
            origin,
            build_index,
            total: rounded(proxy + origin + build_index),
        },
        rss_peak_bytes: Peaks {
            proxy: after.peak_bytes(Role::Proxy),
            origin: after.peak_bytes(Role::Origin),
        },
        file_system: machine::file_system(cluster.folder()),
    })
}
