//! Roles that nobody uses.

use std::time::Duration;

use serde::Serialize;
use service::Role;

use crate::cluster::{Cluster, Place, Size};

/// How long roles are left alone.
const IDLE: Duration = Duration::from_secs(5);

/// Resident memory of roles that started and did nothing since.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct IdleReport {
    pub rss_bytes: Sizes,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sizes {
    pub agent: u64,
    pub origin: u64,
    pub tracker: u64,
    pub build_index: u64,
    pub proxy: u64,
}

/// Starts one of each role and looks at them after a while.
///
/// # Errors
/// A part that does not start or ends.
pub async fn idle(place: &Place) -> anyhow::Result<IdleReport> {
    let size = Size {
        agents: 1,
        origins: 1,
        rate: None,
    };
    let cluster = Cluster::start(place, size).await?;
    tokio::time::sleep(IDLE).await;
    let now = cluster.snapshot().await?;
    Ok(IdleReport {
        rss_bytes: Sizes {
            agent: now.rss_bytes(Role::Agent),
            origin: now.rss_bytes(Role::Origin),
            tracker: now.rss_bytes(Role::Tracker),
            build_index: now.rss_bytes(Role::BuildIndex),
            proxy: now.rss_bytes(Role::Proxy),
        },
    })
}
