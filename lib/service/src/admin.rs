//! The admin port: health, metrics, status.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// What a role tells of itself.
#[async_trait]
pub trait Report: Send + Sync + 'static {
    /// Returns the state of the role, as an object.
    async fn status(&self) -> Value;

    /// Returns why this role is not ready; none means ready.
    async fn not_ready(&self) -> Vec<String>;
}

/// The admin port of a role. Clones are the same.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    metrics: Registry,
    report: Arc<dyn Report>,
    shutdown: CancellationToken,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Admin").field(&self.inner.name).finish()
    }
}

impl Admin {
    pub fn new(
        name: impl Into<String>,
        metrics: Registry,
        report: Arc<dyn Report>,
        shutdown: CancellationToken,
    ) -> Self {
        let name = name.into();
        Self {
            inner: Arc::new(Inner {
                name,
                metrics,
                report,
                shutdown,
            }),
        }
    }

    /// Returns the name of the role, such as `agent-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Returns the routes of the admin port.
    #[must_use]
    pub fn router(&self) -> Router {
        Router::new()
    }

    /// Returns why the role is not ready; none means ready.
    pub async fn not_ready(&self) -> Vec<String> {
        if self.inner.shutdown.is_cancelled() {
            return vec!["it is shutting down".into()];
        }
        self.inner.report.not_ready().await
    }

    /// Returns the state of the role.
    pub async fn status(&self) -> Value {
        self.inner.report.status().await
    }

    /// Returns all metrics as OpenMetrics text.
    #[must_use]
    pub fn metrics(&self) -> String {
        let _ = &self.inner.metrics;
        String::new()
    }
}

/// Returns the metrics of several parts of one process as one OpenMetrics text: a label says which
/// part each is of.
#[must_use]
pub fn merged_metrics(parts: &[Admin]) -> String {
    let _ = parts;
    String::new()
}
