//! Storage as an origin has it: a folder, or an object store with what lies before it.

use std::sync::Arc;

use api::{Http, Limits, OriginClient};
use backend::Backend;
use service::Role;
use service::tls::Tls;

use super::{KEPT_PART, StartError, open_tier, staging_of};
use crate::config::Config;
use crate::copies::Copies;
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::mirror::Mirrors;
use crate::tier::Tier;
use crate::write_back::{self, WriteBack};

/// Storage, and what brings pushed blobs to it where it is an object store.
pub(super) struct Storage {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) tier: Option<Arc<Tier>>,
    pub(super) copies: Option<Arc<Copies>>,
}

impl Storage {
    pub(super) async fn open(
        config: &Config,
        store: Arc<dyn Backend>,
        tls: &Tls,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        let tier = open_tier(config, &store, tls, metrics).await?;
        let copies = match &tier {
            Some(tier) => Some(open_copies(config, tier, tls, metrics).await?),
            None => None,
        };
        let before = tier.clone();
        let backend = before.map_or(store, |tier| -> Arc<dyn Backend> { tier });
        Ok(Self {
            backend,
            tier,
            copies,
        })
    }

    pub(super) fn write_back(&self) -> Option<Arc<WriteBack>> {
        let copies = self.copies.as_ref();
        copies.map(|copies| Arc::clone(copies.write_back()))
    }

    /// Returns the same uploads; their blobs are held where storage is an object store.
    pub(super) fn holding(&self, ingest: Ingest) -> Ingest {
        match &self.copies {
            Some(copies) => ingest.holding(Arc::clone(copies)),
            None => ingest,
        }
    }
}

/// Brings to storage what waits; does nothing, for ever, where nothing can wait.
pub(super) async fn write(write_back: Option<Arc<WriteBack>>, seed: u64) {
    match write_back {
        Some(write_back) => write_back.run(seed).await,
        None => std::future::pending().await,
    }
}

/// Opens what brings pushed blobs to an object store.
async fn open_copies(
    config: &Config,
    tier: &Tier,
    tls: &Tls,
    metrics: &Metrics,
) -> Result<Arc<Copies>, StartError> {
    let area = staging_of(config).ok_or(StartError::NoStaging)?;
    let limits = Limits {
        commit: config.write_back.commit_wait,
        ..Limits::default()
    };
    let http = Http::to(Role::Origin, tls, limits);
    let origins = OriginClient::new(http, Arc::new(config.cluster.clone()));
    let setup = write_back::Setup {
        held: Arc::clone(tier.held()),
        store: Arc::clone(tier.store()),
        origins: origins.clone(),
        options: write_back::Options {
            parallel: config.write_back.parallel,
            mirror_wait: config.write_back.mirror_wait,
            keep_bytes: config.cache.limit.as_u64() / KEPT_PART,
        },
    };
    let write_back = WriteBack::open(&area.join("queue"), setup).await?;
    let is_alone = config.cluster.origins.len() < 2 || config.cluster.replicas < 2;
    let mirrors = (!is_alone).then(|| {
        let me = config.name.clone();
        Arc::new(Mirrors::new(origins, me, metrics.mirrors_dropped.clone()))
    });
    let copies = Copies::new(write_back, mirrors, config.write_back.commit_wait);
    Ok(Arc::new(copies))
}
