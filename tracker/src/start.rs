//! From a configuration to a tracker that runs.

use std::io;
use std::sync::Arc;

use api::key_text::{self, PublicKeyError};
use prometheus_client::registry::Registry;
use rand::TryRng as _;
use rand::rngs::SysRng;
use service::tls::{Tls, TlsError};
use service::{Admin, Running};
use swarm::Tracker;
use swarm::tracker::Policy;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torrent::{Peer, PeerId, Role};

use crate::announce::Announcer;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::report::State;
use crate::session::{self, Limits};

/// Events of all sessions that wait for the announcer. Who sends faster waits.
const MAX_EVENTS: usize = 1024;

/// Sockets that a tracker listens on; who starts it binds them.
#[derive(Debug)]
pub struct Listeners {
    /// Agents and origins.
    pub peer: TcpListener,
}

/// Why a tracker does not start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cluster.origins names nobody; write there the origins of the cluster, the same as in the \
         configuration of every other part"
    )]
    NoOrigins,
    #[error(
        "name is {0:?}, which is none of cluster.trackers ({1}); write the name there under which \
         agents know this tracker"
    )]
    NotAMember(String, String),
    #[error("cannot use the listener of peer_addr: {0}")]
    Listener(io::Error),
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Key(#[from] PublicKeyError),
}

/// Starts a tracker. It ends some time after shutdown was asked for.
///
/// # Errors
/// The configuration does not fit together, or the system lacks something.
pub async fn start(
    mut config: Config,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<Running, StartError> {
    config.peer_addr = listeners.peer.local_addr().map_err(StartError::Listener)?;
    config.validate()?;
    let advertised = config.member()?.peer.to_shared();
    let tls = Tls::open(&config.tls, service::Role::Tracker, &shutdown).await?;
    let key = key_text::load(
        config.cluster_key,
        config.cluster_public_key_file.as_deref(),
    )
    .await?;
    if key.is_none() {
        tracing::warn!(
            "there is neither cluster_key nor cluster_public_key_file: what peers say about blobs \
             is passed on unchecked; write the public key there that the origins print"
        );
    }
    let mut id = [0; 20];
    let mut seed = [0; 8];
    SysRng
        .try_fill_bytes(&mut id)
        .and_then(|()| SysRng.try_fill_bytes(&mut seed))
        .map_err(|error| StartError::Random(error.to_string()))?;
    let decisions = swarm::tracker::Config {
        me: Peer {
            id: PeerId::new(id),
            role: Role::Tracker,
            zone: "".into(),
            addr: advertised,
        },
        key,
        policy: Policy::default(),
    };
    let cluster = config.cluster.clone();
    let owners = Box::new(move |name: &_| cluster.owner_ids(name));
    let tracker = Tracker::new(decisions, u64::from_le_bytes(seed), owners);

    let mut registry = Registry::default();
    service::telemetry::build_info(&mut registry);
    tls.register(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let limits = Limits {
        max_sessions: config.max_sessions,
        max_queued_messages: config.max_queued_messages,
        write_timeout: config.write_timeout,
    };
    let name = config.name.to_string();
    let addr = config.peer_addr;
    let state = State {
        config,
        metrics: metrics.clone(),
    };
    let admin = Admin::new(name, registry, Arc::new(state), shutdown.clone());
    let (events, incoming) = mpsc::channel(MAX_EVENTS);
    let announcer = Announcer::new(tracker, metrics.clone());
    tracing::info!(%addr, "the tracker listens");
    Ok(Running::new(admin, async move {
        let sessions = session::accept(listeners.peer, tls, limits, events, metrics, shutdown);
        // The announcer ends when no session can send to it any more.
        tokio::join!(sessions, announcer.run(incoming));
        Ok(())
    }))
}
