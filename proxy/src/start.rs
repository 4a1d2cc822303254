//! From a configuration to a proxy that runs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use api::{BuildIndexClient, Cluster, Http, Limits, OriginClient};
use async_trait::async_trait;
use prometheus_client::registry::Registry;
use rand::TryRng as _;
use rand::rngs::SysRng;
use registry::{Pull, Push, UploadSecret, Writes};
use serde_json::{Value, json};
use service::http::Door;
use service::tls::{self, Tls, TlsError};
use service::{Admin, Report, Role, RunError, Running};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Secret, SecretError};
use crate::pull::ClusterPull;
use crate::push::ClusterPush;

/// Most bytes of a file with a secret.
const MAX_SECRET_FILE_BYTES: u64 = 4096;

/// Where a proxy listens.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub http: TcpListener,
}

/// A proxy that cannot start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("`cluster.{0}` is empty; name its members, as on every machine of the cluster")]
    NoMembers(&'static str),
    #[error("give `upload_secret` or `upload_secret_file`, not both")]
    TwoSecrets,
    #[error("cannot read `upload_secret_file` {}: {source}", path.display())]
    SecretFile { path: PathBuf, source: io::Error },
    #[error("`upload_secret_file` {}: {source}", path.display())]
    Secret { path: PathBuf, source: SecretError },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the system does not give {what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}

/// Starts a proxy; it runs until `shutdown`, and then ends what clients were promised.
///
/// # Errors
/// [`StartError`].
pub async fn start(
    config: Config,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<Running, StartError> {
    let addr = listeners.http.local_addr();
    let addr = addr.map_err(|source| StartError::System {
        what: "an address",
        source,
    })?;
    config.validate()?;
    let tls = Tls::open(&config.tls, Role::Proxy, &shutdown).await?;
    let registry_tls = tls::Registry::open(&config.registry_tls, &tls, &shutdown).await?;
    let secret = secret(&config).await?;
    let cluster = Arc::new(config.cluster.clone());
    let mut metrics = Registry::default();
    service::telemetry::build_info(&mut metrics);
    tls.register(&mut metrics);
    registry_tls.register(&mut metrics);
    let options = registry::Options {
        fallback: config.fallback,
        namespaces: config.namespaces.clone(),
        manifest_wait: config.manifest_wait,
        blob_wait: config.blob_wait,
        part_wait: config.blob_wait,
        body_wait: config.body_wait,
        metrics: registry::Metrics::register(&mut metrics),
    };
    let report = ProxyReport {
        metrics: options.metrics.clone(),
        cluster: Arc::clone(&cluster),
        http_addr: addr.to_string(),
    };
    let (pull, push) = clients(&config, &cluster, &tls);
    let router = registry::router(
        Arc::new(pull) as Arc<dyn Pull>,
        Writes::Here(
            Arc::new(push) as Arc<dyn Push>,
            UploadSecret::new(secret.as_bytes()),
        ),
        options,
    );
    let door = Door::of_registry(listeners.http, registry_tls);
    let serving = service::http::serve(door, router, config.server, shutdown.clone());
    let name = config.name.to_string();
    let admin = Admin::new(name, metrics, Arc::new(report), shutdown);
    Ok(Running::new(admin, async move {
        let served = serving.await;
        served.map_err(|error| RunError(format!("the proxy cannot be served: {error}")))
    }))
}

fn clients(config: &Config, cluster: &Arc<Cluster>, tls: &Tls) -> (ClusterPull, ClusterPush) {
    let wait = config.commit_wait;
    let limits = Limits {
        commit: wait,
        ..Limits::default()
    };
    let origins = Http::to(Role::Origin, tls, limits);
    // One that does not answer leaves time to ask another one.
    let limits = Limits {
        answer: config.manifest_wait / 3,
        commit: wait / 2,
        ..Limits::default()
    };
    let index = Http::to(Role::BuildIndex, tls, limits);
    let origins = OriginClient::new(origins, Arc::clone(cluster));
    let index = BuildIndexClient::new(index, Arc::clone(cluster));
    let pull = ClusterPull::new(origins.clone(), index.clone());
    (
        pull,
        ClusterPush::new(origins, index, wait, config.write_back_wait),
    )
}

async fn secret(config: &Config) -> Result<Secret, StartError> {
    match (&config.upload_secret, &config.upload_secret_file) {
        (Some(secret), _) => Ok(secret.clone()),
        (None, Some(path)) => {
            let failed = |source| StartError::SecretFile {
                path: path.clone(),
                source,
            };
            let length = tokio::fs::metadata(path).await.map_err(failed)?.len();
            if length > MAX_SECRET_FILE_BYTES {
                return Err(failed(io::ErrorKind::FileTooLarge.into()));
            }
            let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
            text.parse().map_err(|source| StartError::Secret {
                path: path.clone(),
                source,
            })
        }
        (None, None) => {
            tracing::warn!(
                "no `upload_secret` is configured: uploads do not survive a restart of this proxy, \
                 and no other proxy goes on with them"
            );
            let mut bytes = [0; 32];
            SysRng
                .try_fill_bytes(&mut bytes)
                .map_err(|error| StartError::System {
                    what: "randomness",
                    source: io::Error::other(error),
                })?;
            Ok(Secret::from(bytes))
        }
    }
}

/// What a proxy tells of itself.
#[derive(Debug)]
struct ProxyReport {
    metrics: registry::Metrics,
    cluster: Arc<Cluster>,
    http_addr: String,
}

#[async_trait]
impl Report for ProxyReport {
    async fn status(&self) -> Value {
        let origins = self.cluster.origins.iter().map(|member| &member.http);
        let indexes = self.cluster.build_indexes.iter();
        let indexes = indexes.map(|member| &member.http);
        json!({
            "registry_addr": self.http_addr,
            "origins": origins.collect::<Vec<_>>(),
            "build_indexes": indexes.collect::<Vec<_>>(),
            "received_bytes": self.metrics.received_bytes.get(),
            "sent_bytes": self.metrics.sent_bytes.get(),
        })
    }

    /// It has nothing of its own that it would have to wait for.
    async fn not_ready(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
