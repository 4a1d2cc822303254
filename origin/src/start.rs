//! From a configuration to an origin that runs.

mod storage;

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
use retry::QueueError;
use service::http::Door;
use service::tls::{Tls, TlsError};
use service::{Admin, Role, RunError, Running};
use store::Uploads;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use torrent::{ClusterKey, ClusterPublicKey, Peer};

use crate::blobs::{Blobs, blocking};
use crate::config::Config;
use crate::copies::Copies;
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
use storage::Storage;

/// How often uploads that stand still are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// The part of the cache that blobs may take which were pushed here, 1 in so many.
const KEPT_PART: u64 = 4;

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
    #[error(transparent)]
    Queue(#[from] QueueError),
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
    let store = config.backend.open().await?;
    start_over(store, config, listeners, shutdown).await
}

/// Starts an origin over storage that was opened before.
async fn start_over(
    store: Arc<dyn Backend>,
    config: Config,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<Running, StartError> {
    let me = config.member()?.clone();
    let tls = Tls::open(&config.tls, Role::Origin, &shutdown).await?;
    let mut registry = Registry::default();
    service::telemetry::build_info(&mut registry);
    tls.register(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let store: Arc<dyn Backend> = Arc::new(Counted::new(store, metrics.clone()));
    // First: the folder that everything else of this origin lies in is then its own.
    let uploads = open_uploads(&config, &*store).await?;
    let storage = Storage::open(&config, store, &tls, &metrics).await?;
    let write_back = storage.write_back();
    if let Some(write_back) = &write_back {
        Metrics::watch_pending(&mut registry, write_back);
    }
    let key = load_key(&config).await?;
    let public = key.public();
    tracing::info!(cluster_key = %public, "the public key for agents and trackers");

    let blobs = Arc::new(Blobs::new(Arc::clone(&storage.backend), key));
    let (fetcher, events) = Fetcher::new(Arc::clone(&blobs), config.hashing.into());
    Metrics::watch(&mut registry, &fetcher);
    let recent = Arc::<Recent>::default();
    let pieces = Pieces::new(
        Arc::clone(&blobs),
        Arc::clone(&fetcher),
        Arc::clone(&recent),
    );
    let listener = listeners.peer;
    let setup = peer_of(&config, listener, pieces, &tls, &mut registry, public)?;
    let node = Node::start(setup);
    node.set_partners(partners(&config, &me)).await;

    let http_addr = listeners.http.local_addr().map_err(system("an address"))?;
    let ingest = Ingest::new(Arc::clone(&uploads), Arc::clone(&blobs), metrics.clone());
    let doors = Doors {
        ingest: storage.holding(ingest),
        blobs,
        fetcher: Arc::clone(&fetcher),
        seeder: Box::new(Seeder::new(node.clone(), Arc::clone(&recent))),
        tier: storage.tier,
        write_back: write_back.clone(),
        metrics: metrics.clone(),
    };
    let router = http::router(Arc::new(doors));
    let door = Door::of_cluster(listeners.http, &tls, &api::access::ORIGIN);
    let serving = service::http::serve(door, router, config.server, shutdown.clone());
    let report = OriginReport {
        node: node.clone(),
        fetcher,
        write_back: write_back.clone(),
        key: public,
        http_addr: http_addr.to_string(),
    };
    let name = config.name.to_string();
    let admin = Admin::new(name, registry, Arc::new(report), shutdown);
    let telling = seeder::tell(node.clone(), events, metrics);
    let trimming = seeder::trim(node.clone(), recent);
    let writing = storage::write(write_back, seed()?);
    let beside = async move {
        tokio::join!(telling, sweep(uploads, storage.copies), trimming, writing);
    };
    Ok(Running::new(admin, run(node, serving, beside)))
}

fn peer_of(
    config: &Config,
    listener: TcpListener,
    pieces: Pieces,
    tls: &Tls,
    registry: &mut Registry,
    public: ClusterPublicKey,
) -> Result<peer::Setup, StartError> {
    Ok(peer::Setup {
        config: config.peer.clone(),
        me: config.member()?.as_peer(),
        listener,
        pieces: Arc::new(pieces),
        cluster: Arc::new(config.cluster.clone()),
        tls: tls.clone(),
        metrics: peer::Metrics::register(registry),
        key: Some(public),
        seed: seed()?,
    })
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
    let Some(area) = staging_of(config) else {
        return Ok(None);
    };
    let held = Held::open(area.join("held")).await?;
    warn_of_limit(area.clone(), config.cache.limit.as_u64()).await;
    let cluster = Arc::new(config.cluster.clone());
    let http = Http::to(Role::Origin, tls, Ring::limits());
    let client = RingClient::new(http, cluster, config.name.as_str());
    let reads = Reads::open(reads::Setup {
        store: Arc::clone(store),
        ring: Ring::new(client?, metrics.clone()),
        folder: area.join("runs"),
        limit_bytes: config.cache.limit.as_u64() / KEPT_PART * (KEPT_PART - 1),
        metrics: metrics.clone(),
    });
    let tier = Tier::new(Arc::new(held), Arc::clone(store), reads.await?);
    Ok(Some(Arc::new(tier)))
}

/// Says so where the limit of what is kept of an object store is no limit.
async fn warn_of_limit(area: PathBuf, limit: u64) {
    blocking(move || {
        if let Some(volume) = store::volume::smaller_than(&area, limit) {
            tracing::warn!(
                folder = %area.display(), limit, volume,
                "`cache.limit` is more than the volume of `staging` has; lower it, so that room is \
                 made before the volume is full, and what is pushed has some"
            );
        }
    })
    .await;
}

/// Returns where this origin alone keeps what goes to an object store; `None` where storage is a
/// folder.
fn staging_of(config: &Config) -> Option<PathBuf> {
    match (&config.backend, &config.staging) {
        (backend::Config::Fs { .. }, _) | (_, None) => None,
        (_, Some(staging)) => Some(staging.join(config.name.as_str())),
    }
}

fn seed() -> Result<u64, StartError> {
    let seed = SysRng.try_next_u64();
    seed.map_err(|error| system("randomness")(io::Error::other(error)))
}

async fn load_key(config: &Config) -> Result<ClusterKey, StartError> {
    let path = config.cluster_key_file.clone();
    Ok(blocking(move || key::load_or_create(&path)).await?)
}

fn system(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// Drops uploads that stand still.
async fn sweep(uploads: Arc<Uploads>, copies: Option<Arc<Copies>>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        let (uploads, copies) = (Arc::clone(&uploads), copies.clone());
        let sweep = move || {
            let swept = uploads.sweep(SystemTime::now());
            if let Some(copies) = copies {
                copies.retain(|id| uploads.offset(id).is_ok());
            }
            swept
        };
        let swept = blocking(sweep).await;
        if swept > 0 {
            tracing::info!(swept, "dropped uploads that nobody went on with");
        }
    }
}

#[cfg(test)]
mod tests;
