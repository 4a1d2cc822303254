//! From a configuration to a build-index that runs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::Name;
use async_trait::async_trait;
use backend::probe::{self, Conditions};
use backend::{Backend, List, layout};
use prometheus_client::registry::Registry;
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde_json::{Value, json};
use service::http::Door;
use service::tls::{Tls, TlsError};
use service::{Admin, Report, Role, RunError, Running};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::http::{self, Doors, MAX_CHANGES};
use crate::manifests::{Manifests, Parts};
use crate::metrics::Metrics;
use crate::names::Names;
use crate::referrers::Referrers;
use crate::repositories::Repositories;
use crate::storage::Storage;
use crate::tags::Tags;
use crate::writer::{SETTLE, Writer};

/// How long storage may take to show that it is there.
const PROBE_WAIT: Duration = Duration::from_secs(3);

/// Where a build-index listens.
#[derive(Debug)]
pub struct Listeners {
    /// For agents and proxies.
    pub http: TcpListener,
}

/// A build-index that cannot start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("`{0}` is nothing, so that no request could be answered; write a time such as 8s")]
    NoWait(&'static str),
    #[error("the storage of `backend`: {0}")]
    Backend(#[from] backend::Error),
    #[error(
        "the storage of `backend` {0}, so that two writers of a tag could both believe they won; \
         let one build-index write all tags: give its name as `tag_writer` in the configurations of \
         all build-indexes (or use a store that keeps If-Match and If-None-Match of writes)"
    )]
    Conditions(&'static str),
    #[error(
        "`tag_writer` is {0}, and `cluster.build_indexes` has no member of that name; give the name \
         of one that it has"
    )]
    NoSuchWriter(Name),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the system does not give {what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}

/// Starts a build-index; it runs until `shutdown`, and then ends what it was asked for.
///
/// # Errors
/// [`StartError`].
pub async fn start(
    config: Config,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<Running, StartError> {
    config.validate()?;
    let addr = listeners.http.local_addr();
    let addr = addr.map_err(|source| StartError::System {
        what: "an address",
        source,
    })?;
    let tls = Tls::open(&config.tls, Role::BuildIndex, &shutdown).await?;
    let backend = storage_of(&config).open().await?;
    let writer = Writer::new(&config, &tls)?;
    match &config.tag_writer {
        Some(name) if *name == config.name => {
            tracing::info!("this build-index writes all tags");
            tokio::time::sleep(SETTLE).await;
        }
        Some(name) => tracing::info!(%name, "another build-index writes all tags"),
        None if matches!(config.backend, backend::Config::S3(_)) => {
            check_conditions(&backend).await?;
        }
        None => {}
    }
    let mut registry = Registry::default();
    service::telemetry::build_info(&mut registry);
    tls.register(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let tag_writer = config.tag_writer.clone();
    let process = random()?;
    let doors = doors(
        Arc::clone(&backend),
        &config,
        metrics.clone(),
        process,
        writer,
    );
    let router = http::router(Arc::new(doors));
    let door = Door::of_cluster(listeners.http, &tls, &api::access::BUILD_INDEX);
    let serving = service::http::serve(door, router, config.server, shutdown.clone());
    let report = IndexReport {
        storage: Storage::new(backend),
        metrics,
        http_addr: addr.to_string(),
        tag_writer,
    };
    let admin = Admin::new(
        config.name.to_string(),
        registry,
        Arc::new(report),
        shutdown,
    );
    Ok(Running::new(admin, async move {
        let served = serving.await;
        served.map_err(|error| RunError(format!("the build-index cannot be served: {error}")))
    }))
}

/// Returns the storage, set up for a process that writes alone where one does.
fn storage_of(config: &Config) -> backend::Config {
    let mut storage = config.backend.clone();
    if let backend::Config::S3(s3) = &mut storage {
        s3.send_once = config.tag_writer.is_some();
    }
    storage
}

/// Refuses a store on which tags could go wrong.
async fn check_conditions(backend: &Arc<dyn Backend>) -> Result<(), StartError> {
    match probe::conditions(backend).await? {
        Conditions::Atomic => Ok(()),
        Conditions::Racy => Err(StartError::Conditions(
            "looks at conditions and then writes",
        )),
        Conditions::Ignored => Err(StartError::Conditions("does not look at conditions")),
    }
}

/// Builds the parts and joins them.
pub(crate) fn doors(
    backend: Arc<dyn Backend>,
    config: &Config,
    metrics: Metrics,
    process: u128,
    writer: Writer,
) -> Doors {
    let storage = match &config.tag_writer {
        Some(_) => Storage::of_only_writer(backend),
        None => Storage::new(backend),
    };
    let (read_wait, write_wait) = (config.read_wait, config.write_wait);
    let repositories = Repositories::new(storage.clone(), metrics.clone(), read_wait);
    let referrers = Referrers::new(storage.clone(), repositories.clone());
    let writes = matches!(writer, Writer::Here);
    let tags = Tags::new(storage.clone(), metrics.clone(), read_wait, process, writes);
    let names = Names::new(
        storage.clone(),
        repositories.clone(),
        tags.clone(),
        read_wait / 2,
    );
    let kept = config.manifest_cache.as_u64();
    let manifests = Manifests::new(Parts {
        storage,
        repositories: repositories.clone(),
        referrers: referrers.clone(),
        tags,
        names: names.clone(),
        metrics: metrics.clone(),
        kept_bytes: usize::try_from(kept).unwrap_or(usize::MAX),
    });
    Doors {
        manifests,
        repositories,
        referrers,
        names,
        metrics,
        writer,
        changes: Arc::new(Semaphore::new(MAX_CHANGES)),
        read_wait,
        write_wait,
    }
}

fn random() -> Result<u128, StartError> {
    let mut bytes = [0; 16];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| StartError::System {
            what: "randomness",
            source: io::Error::other(error),
        })?;
    Ok(u128::from_le_bytes(bytes))
}

/// What a build-index tells of itself.
#[derive(Debug)]
struct IndexReport {
    storage: Storage,
    metrics: Metrics,
    http_addr: String,
    tag_writer: Option<Name>,
}

#[async_trait]
impl Report for IndexReport {
    async fn status(&self) -> Value {
        json!({
            "http_addr": self.http_addr,
            "tag_writer": self.tag_writer,
            "resolves": self.metrics.resolves.get(),
            "stale_blobs": self.metrics.stale_blobs.get(),
            "manifests_stored": self.metrics.manifests_stored.get(),
            "tags_written": self.metrics.tags_written.get(),
            "tag_conflicts": self.metrics.tag_conflicts.get(),
            "tags_changed_outside": self.metrics.tags_changed_outside.get(),
        })
    }

    async fn not_ready(&self) -> Vec<String> {
        let list = List::folders(layout::repositories(), 1);
        let probe = self.storage.list(&list);
        match tokio::time::timeout(PROBE_WAIT, probe).await {
            Ok(Ok(_)) => Vec::new(),
            Ok(Err(error)) => vec![format!("storage: {error}")],
            Err(_) => vec!["storage does not answer".into()],
        }
    }
}
