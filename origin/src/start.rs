//! From a configuration to an origin that runs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::{Http, Origin, RingClient};
use backend::Backend;
use peer::Node;
use prometheus_client::registry::Registry;
use rand::TryRng as _;
use rand::rngs::SysRng;
use service::http::Door;
use service::tls::{Role, Tls, TlsError};
use service::{Admin, RunError, Running};
use store::Uploads;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use torrent::{ClusterKey, Peer};

use crate::blobs::{Blobs, blocking};
use crate::config::Config;
use crate::counted::Counted;
use crate::fetch::Fetcher;
use crate::held::Held;
use crate::http::{self, Doors};
use crate::ingest::Ingest;
use crate::key::{self, KeyFileError};
use crate::metrics::Metrics;
use crate::pieces::Pieces;
use crate::reads::{self, Reads};
use crate::recent::Recent;
use crate::report::OriginReport;
use crate::ring::Ring;
use crate::seeder::{self, Seeder};
use crate::tier::Tier;

/// How often uploads that stand still are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// Where an origin listens.
#[derive(Debug)]
pub struct Listeners {
    /// For services.
    pub http: TcpListener,
    /// For agents and origins.
    pub peer: TcpListener,
}

/// An origin that cannot start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{name:?} is not in `cluster.origins`, which has {known:?}; set `name` to one of them, or \
         add it on every machine"
    )]
    NotAMember { name: String, known: Vec<String> },
    #[error("`cluster.trackers` is empty; name its members, as on every machine of the cluster")]
    NoTrackers,
    #[error("this storage has no folder of its own; set `staging` to a folder for uploads")]
    NoStaging,
    #[error(transparent)]
    Backend(#[from] backend::Error),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("staging: {0}")]
    Staging(#[from] store::DiskError),
    #[error(transparent)]
    Ring(#[from] api::CallError),
    #[error("the system does not give {what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}

/// Starts an origin; it runs until `shutdown`, and then ends the requests that are open.
///
/// # Errors
/// [`StartError`].
pub async fn start(
    config: Config,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<Running, StartError> {
    config.validate()?;
    let me = config.member()?.clone();
    let tls = Tls::open(&config.tls, Role::Origin, &shutdown).await?;
    let mut registry = Registry::default();
    service::telemetry::build_info(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let store = config.backend.open().await?;
    let store: Arc<dyn Backend> = Arc::new(Counted::new(store, metrics.clone()));
    // First: the folder that everything else of this origin lies in is then its own.
    let uploads = open_uploads(&config, &*store).await?;
    let tier = open_tier(&config, &store, &tls, &metrics).await?;
    let backend = tier
        .clone()
        .map_or(store, |tier| -> Arc<dyn Backend> { tier });
    let key = load_key(&config).await?;
    let public = key.public();
    tracing::info!(cluster_key = %public, "the public key for agents and trackers");

    let blobs = Arc::new(Blobs::new(backend, key));
    let (fetcher, events) = Fetcher::new(Arc::clone(&blobs), config.hashing.into());
    Metrics::watch(&mut registry, &fetcher);
    let recent = Arc::<Recent>::default();
    let pieces = Pieces::new(
        Arc::clone(&blobs),
        Arc::clone(&fetcher),
        Arc::clone(&recent),
    );
    let node = Node::start(peer::Setup {
        config: config.peer.clone(),
        me: me.as_peer(),
        listener: listeners.peer,
        pieces: Arc::new(pieces),
        cluster: Arc::new(config.cluster.clone()),
        tls: tls.clone(),
        metrics: peer::Metrics::register(&mut registry),
        key: Some(public),
        seed: SysRng
            .try_next_u64()
            .map_err(|error| system("randomness")(io::Error::other(error)))?,
    });
    node.set_partners(partners(&config, &me)).await;

    let http_addr = listeners.http.local_addr().map_err(system("an address"))?;
    let doors = Doors {
        ingest: Ingest::new(Arc::clone(&uploads), Arc::clone(&blobs), metrics.clone()),
        blobs,
        fetcher: Arc::clone(&fetcher),
        seeder: Box::new(Seeder::new(node.clone(), Arc::clone(&recent))),
        tier,
        metrics: metrics.clone(),
    };
    let router = http::router(Arc::new(doors));
    let door = Door::of_cluster(listeners.http, &tls, &api::access::ORIGIN);
    let serving = service::http::serve(door, router, config.server, shutdown.clone());
    let report = OriginReport {
        node: node.clone(),
        fetcher,
        key: public,
        http_addr: http_addr.to_string(),
    };
    let name = config.name.to_string();
    let admin = Admin::new(name, registry, Arc::new(report), shutdown);
    let telling = seeder::tell(node.clone(), events, metrics);
    let trimming = seeder::trim(node.clone(), recent);
    let beside = async move {
        tokio::join!(telling, sweep(uploads), trimming);
    };
    Ok(Running::new(admin, run(node, serving, beside)))
}

/// Serves until the end, and only then leaves the swarm: what was committed last is told first.
async fn run(
    node: Node,
    serving: impl Future<Output = io::Result<()>> + Send,
    beside: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    let result = tokio::select! {
        served = serving => {
            served.map_err(|error| RunError(format!("requests cannot be served: {error}")))
        }
        () = node.ended() => {
            Err(RunError("the swarm broke off; this is a bug, please report it".into()))
        }
        () = beside => {
            Err(RunError("a part of the origin ended; this is a bug, please report it".into()))
        }
    };
    node.shutdown().await;
    result
}

fn partners(config: &Config, me: &Origin) -> Vec<Peer> {
    let others = config.cluster.origins.iter().filter(|one| *one != me);
    others.map(Origin::as_peer).collect()
}

/// Opens the area for uploads of this origin alone: a second process of the same name is refused.
async fn open_uploads(config: &Config, backend: &dyn Backend) -> Result<Arc<Uploads>, StartError> {
    let staging: Option<PathBuf> = config.staging.clone().or_else(|| backend.staging());
    let area = staging
        .ok_or(StartError::NoStaging)?
        .join(config.name.as_str());
    let limits = config.uploads.into();
    let uploads = blocking(move || Uploads::open(area, limits)).await?;
    Ok(Arc::new(uploads))
}

/// Opens what lies between blobs and an object store; nothing does where storage is a folder.
async fn open_tier(
    config: &Config,
    store: &Arc<dyn Backend>,
    tls: &Tls,
    metrics: &Metrics,
) -> Result<Option<Arc<Tier>>, StartError> {
    let area = match (&config.backend, &config.staging) {
        (backend::Config::Fs { .. }, _) | (_, None) => return Ok(None),
        (_, Some(staging)) => staging.join(config.name.as_str()),
    };
    let held = Held::open(area.join("held")).await?;
    let cluster = Arc::new(config.cluster.clone());
    let http = Http::to(Role::Origin, tls, Ring::limits());
    let client = RingClient::new(http, cluster, config.name.as_str());
    let reads = Reads::open(reads::Setup {
        store: Arc::clone(store),
        ring: Ring::new(client?, metrics.clone()),
        folder: area.join("runs"),
        limit_bytes: config.cache.limit.as_u64(),
        metrics: metrics.clone(),
    });
    let tier = Tier::new(Arc::new(held), Arc::clone(store), reads.await?);
    Ok(Some(Arc::new(tier)))
}

async fn load_key(config: &Config) -> Result<ClusterKey, StartError> {
    let path = config.cluster_key_file.clone();
    Ok(blocking(move || key::load_or_create(&path)).await?)
}

fn system(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// Drops uploads that stand still.
async fn sweep(uploads: Arc<Uploads>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        let uploads = Arc::clone(&uploads);
        let swept = blocking(move || uploads.sweep(SystemTime::now())).await;
        if swept > 0 {
            tracing::info!(swept, "dropped uploads that nobody went on with");
        }
    }
}

#[cfg(test)]
mod tests;
