//! What every process of Shoal needs: configuration, logs, shutdown, TLS, an HTTP server, the admin
//! port.

pub mod access;
pub mod admin;
pub mod config;
pub mod http;
mod role;
pub mod shutdown;
pub mod socket;
pub mod telemetry;
pub mod tls;

use tokio::task::JoinHandle;

pub use admin::{Admin, More, Report, merged_metrics};
pub use role::{Role, RoleError};

/// A role that runs: what it tells of itself, and its end.
#[derive(Debug)]
pub struct Running {
    pub admin: Admin,
    end: JoinHandle<Result<(), RunError>>,
}

/// Why a role ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunError(pub String);

impl Running {
    /// Lets the rest of a role run in a task of its own, whether or not somebody waits for it.
    ///
    /// # Panics
    /// Outside of an async runtime.
    pub fn new(
        admin: Admin,
        end: impl Future<Output = Result<(), RunError>> + Send + 'static,
    ) -> Self {
        let end = tokio::spawn(end);
        Self { admin, end }
    }

    /// Waits for the end of the role, after shutdown or a failure.
    ///
    /// # Errors
    /// It ended by itself: a part of it failed, or panicked.
    pub async fn wait(self) -> Result<(), RunError> {
        let name = self.admin.name().to_owned();
        self.end.await.unwrap_or_else(|error| {
            let text = format!("{name} broke off: {error}; this is a bug, please report it");
            Err(RunError(text))
        })
    }
}
