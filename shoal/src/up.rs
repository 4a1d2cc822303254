//! `shoal up`: all five services in one process, each as it would run on a machine of its own.
//! They talk to each other over sockets and share nothing but the process.

mod folder;
mod live;
mod page;
mod parts;
mod status;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use service::Role;
use service::http::Options;
use service::telemetry::{Log, LogFormat};

use crate::cli::Up;
use crate::role::bind;
use crate::{output, serve};
use folder::Folder;
use live::Live;
use status::Whole;

/// How long everything together may take to become ready.
const START: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Runs everything until it is told to end.
///
/// # Errors
/// What is in the way of the start, and what to do about it; or which part ended by itself.
pub(crate) async fn run(flags: Up) -> anyhow::Result<()> {
    service::telemetry::init(&Log {
        format: LogFormat::Text,
        // What people need to know is printed.
        filter: "warn".into(),
    })?;
    serve::raise_file_limit();
    let folder = Folder::open(&flags.data)?;
    let shutdown = service::shutdown::on_signals()?;
    let parts = parts::bind_all(&flags).await?;
    let admin = bind("--admin-addr", flags.admin_addr).await?;
    let addrs = Addrs {
        agents: parts::addrs_of(&parts, Role::Agent, "registry_addr"),
        proxy: parts::addrs_of(&parts, Role::Proxy, "http_addr"),
        admin: admin.local_addr()?,
    };

    let admin = serve::AdminPort::serve(admin, &Options::default());
    let mut live = Live::default();
    let started = tokio::select! {
        started = live.start(parts, &folder) => started,
        () = shutdown.cancelled() => Ok(()),
    };
    let whole = Arc::new(Whole::new(live.admins(), &addrs, &folder));
    admin.port.started(status::router(Arc::clone(&whole)));
    let result = match started {
        Ok(()) => tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            error = live.broken() => Err(error),
            error = greet_when_ready(&whole, &addrs, &folder) => Err(error),
        },
        Err(error) => Err(error),
    };
    let ended = live.end().await;
    admin.end().await;
    result.and(ended)
}

/// Where clients and people find what.
#[derive(Clone, Debug)]
struct Addrs {
    agents: Vec<(String, SocketAddr)>,
    proxy: Vec<(String, SocketAddr)>,
    admin: SocketAddr,
}

/// Says where everything is once it is ready. Returns only where that fails.
async fn greet_when_ready(whole: &Whole, addrs: &Addrs, folder: &Folder) -> anyhow::Error {
    let ready = async {
        while !whole.not_ready().await.is_empty() {
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    let said = if tokio::time::timeout(START, ready).await.is_ok() {
        greet(addrs, folder)
    } else {
        let reasons = whole.not_ready().await.join("; ");
        Err(anyhow::anyhow!(
            "not ready after {} s: {reasons}",
            START.as_secs()
        ))
    };
    match said {
        Ok(()) => std::future::pending().await,
        Err(error) => error,
    }
}

fn greet(addrs: &Addrs, folder: &Folder) -> anyhow::Result<()> {
    let (Some((_, first)), Some((_, last))) = (addrs.agents.first(), addrs.agents.last()) else {
        bail!("there is no agent; use --agents 1 or more");
    };
    let (first, last) = (for_clients(*first), for_clients(*last));
    let version = env!("CARGO_PKG_VERSION");
    output::line(format_args!(
        "Shoal {version}: everything runs in this process, its data is in {}\n",
        folder.path().display()
    ))?;
    for (name, addr) in &addrs.agents {
        output::line(format_args!("  {name:10} {addr}"))?;
    }
    for (_, addr) in &addrs.proxy {
        output::line(format_args!("  {:10} {addr}", "proxy"))?;
    }
    output::line(format_args!("  {:10} http://{}/", "status", addrs.admin))?;
    output::line(format_args!(
        "\nPush an image through one agent, and pull it through another:\n\n  \
           docker tag alpine {first}/team/app:v1\n  \
           docker push {first}/team/app:v1\n  \
           docker pull {last}/team/app:v1\n\n\
         Or pull it into a folder, without docker:\n\n  \
           shoal pull {last}/team/app:v1 --output app-v1\n\n\
         Ctrl-C ends it; what was pushed stays."
    ))
}

/// Returns what a client on this machine connects to.
fn for_clients(addr: SocketAddr) -> SocketAddr {
    let local: IpAddr = match addr {
        _ if !addr.ip().is_unspecified() => addr.ip(),
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(local, addr.port())
}
