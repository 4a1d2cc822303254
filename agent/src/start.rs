//! From a configuration to an agent that runs.

use std::io;
use std::sync::Arc;

use api::key_text::{self, PublicKeyError};
use api::{Addr, BuildIndexClient, Http, Limits};
use axum::Router;
use peer::Node;
use prometheus_client::registry::Registry;
use rand::TryRng as _;
use rand::rngs::SysRng;
use registry::Pull;
use service::http::Door;
use service::tls::{self, Tls, TlsError};
use service::{Admin, RunError, Running};
use store::Cache;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use torrent::{ClusterPublicKey, Peer, PeerId, Role};

use crate::cache::{CachedPieces, blocking};
use crate::config::{Config, Writes};
use crate::forward::{Forwarder, Forwarding};
use crate::forward_proxy;
use crate::pull::SwarmPull;
use crate::report::{self, AgentReport};

/// Where an agent listens.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub registry: TcpListener,
    /// For agents and origins.
    pub peer: TcpListener,
    /// For clients that take a forward proxy.
    pub forward_proxy: Option<TcpListener>,
}

/// An agent that cannot start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "`cluster_key` is missing; copy the public key that the origins print when they start and \
         show in their status, or name the file of `shoal key new` as `cluster_public_key_file`"
    )]
    NoKey,
    #[error(transparent)]
    Key(#[from] PublicKeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("`cluster.{0}` is empty; name its members, as on every machine of the cluster")]
    NoMembers(&'static str),
    #[error("`proxies` is empty; name at least one, or set `writes: refuse`")]
    NoProxy,
    #[error(
        "peers cannot be told to connect to {0}; set `advertised_peer_addr` to an address of this \
         machine"
    )]
    NoAdvertised(std::net::SocketAddr),
    #[error(
        "`forward_proxy_hosts` is empty; name the hosts that mean this cluster's registry, such as \
         its proxies' host:port, or leave `forward_proxy_addr` out"
    )]
    NoProxiedHost,
    #[error("the cache: {0}")]
    Cache(#[from] store::DiskError),
    #[error("the system does not give {what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}

/// Starts an agent; it runs until `shutdown`, and then ends what clients are being sent.
///
/// # Errors
/// [`StartError`].
pub async fn start(
    config: Config,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<Running, StartError> {
    config.validate()?;
    let key = key_text::load(
        config.cluster_key,
        config.cluster_public_key_file.as_deref(),
    )
    .await?;
    let key = key.ok_or(StartError::NoKey)?;
    let tls = Tls::open(&config.tls, service::Role::Agent, &shutdown).await?;
    let registry_tls = tls::Registry::open(&config.registry_tls, &Tls::plain(), &shutdown).await?;
    let me = me(&config, &listeners.peer)?;
    let registry_addr = listeners
        .registry
        .local_addr()
        .map_err(system("an address"))?;
    let cache = open_cache(&config, key).await?;

    let mut metrics = Registry::default();
    service::telemetry::build_info(&mut metrics);
    tls.register(&mut metrics);
    registry_tls.register(&mut metrics);
    let registry_metrics = registry::Metrics::register(&mut metrics);
    let stale = report::register(&mut metrics, &cache);
    let node = Node::start(peer::Setup {
        config: config.peer.clone(),
        me,
        listener: listeners.peer,
        pieces: Arc::new(CachedPieces::new(Arc::clone(&cache))),
        cluster: Arc::new(config.cluster.clone()),
        tls: tls.clone(),
        metrics: peer::Metrics::register(&mut metrics),
        key: Some(key),
        seed: SysRng
            .try_next_u64()
            .map_err(|error| system("randomness")(io::Error::other(error)))?,
    });
    seed(&node, &cache).await;

    let http = Http::to(service::Role::BuildIndex, &tls, limits(&config));
    let index = BuildIndexClient::new(http, Arc::new(config.cluster.clone()));
    let prefetch_bytes = config.prefetch_bytes.as_u64();
    let pull = Arc::new(SwarmPull::new(node.clone(), index, prefetch_bytes, stale));
    let options = options(&config, registry_metrics);
    let router = registry::router(
        Arc::clone(&pull) as Arc<dyn Pull>,
        writes(&config, tls, Arc::clone(&pull)),
        options.clone(),
    );
    let name = config.name.to_string();
    let server = config.server.clone();
    let door = Door::of_registry(listeners.registry, registry_tls);
    let registry = service::http::serve(door, router, server, shutdown.clone());
    let forward_proxy = serve_proxy(
        listeners.forward_proxy,
        forward_proxy::router(pull, options, config.forward_proxy_hosts),
        config.server,
        shutdown.clone(),
    );
    let serving = async move { tokio::try_join!(registry, forward_proxy).map(drop) };
    let report = AgentReport::new(node.clone(), cache, registry_addr);
    let admin = Admin::new(name, metrics, Arc::new(report), shutdown);
    Ok(Running::new(admin, run(node, serving)))
}

async fn serve_proxy(
    listener: Option<TcpListener>,
    router: Router,
    server: service::http::Options,
    shutdown: CancellationToken,
) -> io::Result<()> {
    match listener {
        Some(listener) => service::http::serve(listener, router, server, shutdown).await,
        None => Ok(()),
    }
}

/// Serves clients until the end, and only then leaves the swarm: open bodies need it.
async fn run(
    node: Node,
    serving: impl Future<Output = io::Result<()>> + Send,
) -> Result<(), RunError> {
    let result = tokio::select! {
        served = serving => {
            served.map_err(|error| RunError(format!("the registry cannot be served: {error}")))
        }
        () = node.ended() => {
            Err(RunError("the swarm broke off; this is a bug, please report it".into()))
        }
    };
    node.shutdown().await;
    result
}

fn me(config: &Config, listener: &TcpListener) -> Result<Peer, StartError> {
    let listens = listener.local_addr().map_err(system("an address"))?;
    let addr = config.advertised(listens)?;
    let mut id = [0; 20];
    SysRng
        .try_fill_bytes(&mut id)
        .map_err(|error| system("randomness")(io::Error::other(error)))?;
    Ok(Peer {
        id: PeerId::new(id),
        role: Role::Agent,
        zone: config.zone.to_shared(),
        addr: addr.to_shared(),
    })
}

fn system(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

async fn open_cache(config: &Config, key: ClusterPublicKey) -> Result<Arc<Cache>, StartError> {
    let (folder, limit) = (config.cache.folder.clone(), config.cache.limit.as_u64());
    let cache = blocking(move || {
        let cache = Cache::open(store::Config::new(&folder, limit), key)?;
        if let Some(volume) = store::volume::smaller_than(&folder, limit) {
            tracing::warn!(
                folder = %folder.display(), limit, volume,
                "`cache.limit` is more than the volume of the cache has; lower it, so that room is \
                 made before the volume is full"
            );
        }
        Ok::<_, store::DiskError>(cache)
    })
    .await?;
    Ok(Arc::new(cache))
}

/// Gives the swarm what is complete here. The rest goes on when somebody asks for it.
async fn seed(node: &Node, cache: &Arc<Cache>) {
    let cache = Arc::clone(cache);
    let known = blocking(move || cache.known()).await;
    let complete = known.iter().filter(|known| known.complete);
    let complete: Vec<_> = complete.map(|known| known.description).collect();
    tracing::info!(
        blobs = known.len(),
        complete = complete.len(),
        "found in the cache"
    );
    node.seed(complete).await;
}

/// A build-index that does not answer leaves time to ask another one.
fn limits(config: &Config) -> Limits {
    Limits {
        answer: config.manifest_wait / 3,
        ..Limits::default()
    }
}

fn options(config: &Config, metrics: registry::Metrics) -> registry::Options {
    registry::Options {
        fallback: config.fallback,
        namespaces: config.namespaces.clone(),
        manifest_wait: config.manifest_wait,
        blob_wait: config.blob_wait,
        part_wait: config.part_wait,
        body_wait: config.body_wait,
        metrics,
    }
}

fn writes(config: &Config, tls: Tls, pull: Arc<SwarmPull>) -> registry::Writes {
    match config.writes {
        Writes::Refuse => registry::Writes::Refuse,
        Writes::Forward => {
            let proxies = config.proxies.iter().map(Addr::to_shared).collect();
            let forwarder = Forwarder::new(proxies, tls);
            registry::Writes::Forward(Arc::new(Forwarding { forwarder, pull }))
        }
    }
}

#[cfg(test)]
mod tests;
