//! One role in this process: from its configuration to its end.

use std::io;
use std::time::Duration;

use anyhow::bail;
use api::dns;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use service::admin::Port;
use service::http::Options;
use service::{More, Role};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::Service;
use crate::output;
use crate::role::{Part, Sockets, bind};

/// How long the process waits at its end for threads that wait for a disk.
const BLOCKED: Duration = Duration::from_secs(5);
/// Threads that hash, and wait for disks. More wait for a thread: each has a stack, and memory of
/// its own from the allocator.
const BLOCKING_THREADS: usize = 32;
/// How long requests to the admin port may go on when everything else has ended.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);

/// Runs a role until it is told to end.
///
/// # Errors
/// What is wrong with the configuration, what is in the way of the start, or why it ended.
pub(crate) fn run(role: Role, flags: &Service) -> anyhow::Result<()> {
    match role {
        Role::Agent => configured::<agent::Config>(flags),
        Role::Origin => configured::<origin::Config>(flags),
        Role::Tracker => configured::<tracker::Config>(flags),
        Role::BuildIndex => configured::<build_index::Config>(flags),
        Role::Proxy => configured::<proxy::Config>(flags),
    }
}

/// Runs a future on the threads of a new runtime.
///
/// # Errors
/// Those of the future, or there are no threads.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(BLOCKED);
    result
}

/// Lets the process open as many files and sockets as it may. Where that fails, it has as many as
/// before.
pub(crate) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the number of files that may be open");
    }
}

/// Returns the environment. What is no text can be no setting.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    let variables = std::env::vars_os();
    variables.filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

/// An admin port that answers before anything else does, and ends after everything else: somebody
/// may want to know how the rest does.
#[derive(Debug)]
pub(crate) struct AdminPort {
    pub(crate) port: Port,
    end: CancellationToken,
    task: JoinHandle<io::Result<()>>,
}

impl AdminPort {
    /// Serves it in a task.
    pub(crate) fn serve(listener: TcpListener, server: &Options) -> Self {
        let port = Port::default();
        let end = CancellationToken::new();
        let options = Options {
            drain_timeout: ADMIN_DRAIN,
            ..server.clone()
        };
        let serving = service::http::serve(listener, port.router(), options, end.clone());
        Self {
            port,
            end,
            task: tokio::spawn(serving),
        }
    }

    /// Ends it.
    pub(crate) async fn end(self) {
        self.end.cancel();
        let _ = self.task.await;
    }
}

fn configured<P: Part>(flags: &Service) -> anyhow::Result<()> {
    let config: P = service::config::load(flags.config.as_deref(), variables())?;
    if flags.print_config {
        return output::line(service::config::to_yaml(&config)?.trim_end());
    }
    config.check()?;
    service::telemetry::init(config.log())?;
    raise_file_limit();
    block_on(serve(config))
}

async fn serve<P: Part>(mut config: P) -> anyhow::Result<()> {
    let shutdown = service::shutdown::on_signals()?;
    let mut sockets = Sockets::new();
    for (key, addr) in config.addrs() {
        sockets.insert(key, bind(&setting(key), addr).await?);
    }
    let admin = bind(&setting("admin_addr"), config.admin_addr()).await?;
    let addr = admin.local_addr()?;
    let admin = AdminPort::serve(admin, config.server());
    let starting = async {
        let lookup = dns::system();
        config.cluster().resolve(&lookup).await?;
        let watch = dns::Watch::new(config.cluster());
        let running = config.start(sockets, shutdown.clone()).await?;
        if let Some(watch) = watch {
            // It ends with the process.
            tokio::spawn(watch.clone().run(lookup));
            running.admin.tell(Names::new(watch));
        }
        anyhow::Ok(running)
    };
    let running = tokio::select! {
        running = starting => running?,
        () = shutdown.cancelled() => {
            tracing::info!("ended before it had started");
            return Ok(());
        }
    };
    tracing::info!(name = running.admin.name(), admin = %addr, "started");
    admin.port.started(running.admin.router());
    let ended = running.wait().await;
    admin.end().await;
    ended?;
    if !shutdown.is_cancelled() {
        bail!("it ended by itself; this is a bug, please report it");
    }
    tracing::info!("ended");
    Ok(())
}

/// What the names of members have come to, on the admin port.
struct Names {
    watch: dns::Watch,
    outdated: Gauge,
    registry: Registry,
}

impl Names {
    fn new(watch: dns::Watch) -> Self {
        let outdated = Gauge::default();
        let mut registry = Registry::default();
        registry.register(
            "cluster_rings_outdated",
            "Rings whose DNS name has other addresses than this process uses",
            outdated.clone(),
        );
        Self {
            watch,
            outdated,
            registry,
        }
    }
}

impl More for Names {
    fn status(&self) -> (&'static str, Value) {
        ("cluster_names", self.watch.status())
    }

    fn metrics(&self) -> &Registry {
        let outdated = i64::try_from(self.watch.outdated());
        self.outdated.set(outdated.unwrap_or(i64::MAX));
        &self.registry
    }
}

fn setting(key: &str) -> String {
    format!("`{key}` (or SHOAL_{})", key.to_uppercase())
}
