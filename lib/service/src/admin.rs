//! The admin port: health, metrics, status.

mod merge;
mod port;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::response::{Html, IntoResponse as _, Json, Response};
use axum::routing::get;
use http::{StatusCode, header};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

pub use merge::merged_metrics;
pub use port::Port;

/// Type of a text of metrics.
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long a role may take to tell of itself.
const PATIENCE: Duration = Duration::from_secs(5);

const PAGE: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
<title>Shoal</title>\n<ul>\n\
<li><a href=\"/status\">/status</a>: what it does, as JSON\n\
<li><a href=\"/metrics\">/metrics</a>: counters for Prometheus\n\
<li><a href=\"/readyz\">/readyz</a>: 200 when it is ready, or why it is not\n\
<li><a href=\"/startupz\">/startupz</a>: 200 once it was ready\n\
<li><a href=\"/livez\">/livez</a>: 200 while it runs\n\
</ul>\n";

/// What a role tells of itself.
#[async_trait]
pub trait Report: Send + Sync + 'static {
    /// Returns the state of the role, as an object.
    async fn status(&self) -> Value;

    /// Returns why this role is not ready; none means ready.
    async fn not_ready(&self) -> Vec<String>;
}

/// What the process tells besides, of what the role does not know.
pub trait More: Send + Sync + 'static {
    /// Returns a key of the status, and its value.
    fn status(&self) -> (&'static str, Value);

    /// Returns metrics, up to date.
    fn metrics(&self) -> &Registry;
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
    more: OnceLock<Box<dyn More>>,
    shutdown: CancellationToken,
    started: Instant,
    was_ready: AtomicBool,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Admin").field(&self.inner.name).finish()
    }
}

impl Admin {
    /// Makes the admin port of a role that is named like a member, such as `agent-1`. After
    /// shutdown the role is not ready, whatever it reports.
    pub fn new(
        name: impl Into<String>,
        metrics: Registry,
        report: Arc<dyn Report>,
        shutdown: CancellationToken,
    ) -> Self {
        let inner = Inner {
            name: name.into(),
            metrics,
            report,
            more: OnceLock::new(),
            shutdown,
            started: Instant::now(),
            was_ready: AtomicBool::new(false),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Tells something besides from now on. Only the first call has an effect.
    pub fn tell(&self, more: impl More) {
        let _ = self.inner.more.set(Box::new(more));
    }

    /// Returns the name of the role, such as `agent-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Returns the routes of the admin port.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(|| async { Html(PAGE) }))
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(readyz))
            .route("/startupz", get(startupz))
            .route("/metrics", get(metrics))
            .route("/status", get(status))
            .with_state(self.clone())
    }

    /// Returns why the role is not ready; none means ready.
    pub async fn not_ready(&self) -> Vec<String> {
        if self.inner.shutdown.is_cancelled() {
            return vec!["it is shutting down".into()];
        }
        let reasons = tokio::time::timeout(PATIENCE, self.inner.report.not_ready()).await;
        let reasons = reasons.unwrap_or_else(|_| vec![no_answer()]);
        if reasons.is_empty() {
            self.inner.was_ready.store(true, Ordering::Relaxed);
        }
        reasons
    }

    /// Returns the state of the role, with its name, version and age.
    pub async fn status(&self) -> Value {
        let reported = tokio::time::timeout(PATIENCE, self.inner.report.status()).await;
        let mut status = Map::new();
        status.insert("name".into(), self.name().into());
        status.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        let age = self.inner.started.elapsed().as_secs();
        status.insert("uptime_seconds".into(), age.into());
        if let Some(more) = self.inner.more.get() {
            let (key, value) = more.status();
            status.insert(key.into(), value);
        }
        match reported {
            Ok(Value::Object(reported)) => status.extend(reported),
            Ok(other) => {
                status.insert("status".into(), other);
            }
            Err(_) => {
                status.insert("error".into(), no_answer().into());
            }
        }
        status.into()
    }

    /// Returns all metrics as OpenMetrics text.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        let more = self.inner.more.get().map(|more| more.metrics());
        // Writing to a string does not fail.
        for registry in std::iter::once(&self.inner.metrics).chain(more) {
            let _ = encode_registry(&mut text, registry);
        }
        let _ = encode_eof(&mut text);
        text
    }
}

/// Answers whether something is ready: 200, or 503 with the reasons.
#[must_use]
pub fn readiness(reasons: &[String]) -> Response {
    let code = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({"ready": reasons.is_empty(), "reasons": reasons});
    (code, Json(body)).into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    readiness(&admin.not_ready().await)
}

async fn startupz(State(admin): State<Admin>) -> Response {
    if admin.inner.was_ready.load(Ordering::Relaxed) {
        return readiness(&[]);
    }
    readyz(State(admin)).await
}

async fn metrics(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], admin.metrics()).into_response()
}

async fn status(State(admin): State<Admin>) -> Json<Value> {
    Json(admin.status().await)
}

fn no_answer() -> String {
    format!("it did not answer within {} s", PATIENCE.as_secs())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use parking_lot::Mutex;
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt as _;

    use super::*;

    #[derive(Default)]
    struct Role {
        reasons: Mutex<Vec<String>>,
        hangs: bool,
    }

    #[async_trait]
    impl Report for Role {
        async fn status(&self) -> Value {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            json!({"blobs": 3})
        }

        async fn not_ready(&self) -> Vec<String> {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            self.reasons.lock().clone()
        }
    }

    fn admin(role: &Arc<Role>) -> (Admin, CancellationToken) {
        let mut registry = Registry::default();
        registry.register("pieces", "Pieces", Counter::<u64>::default());
        let shutdown = CancellationToken::new();
        let report = Arc::clone(role) as Arc<dyn Report>;
        let admin = Admin::new("agent-1", registry, report, shutdown.clone());
        (admin, shutdown)
    }

    async fn ask(admin: &Admin, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = admin.router().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        (status, String::from_utf8(body.unwrap().into()).unwrap())
    }

    #[tokio::test]
    async fn readiness_has_reasons() {
        let role = Arc::new(Role::default());
        let (admin, shutdown) = admin(&role);
        role.reasons.lock().push("no tracker answers".into());
        for path in ["/readyz", "/startupz"] {
            let (status, body) = ask(&admin, path).await;
            assert_eq!(status, 503, "{path}");
            assert!(body.contains("no tracker answers"), "{body}");
        }
        assert_eq!(ask(&admin, "/livez").await.0, 200);
        role.reasons.lock().clear();
        assert_eq!(ask(&admin, "/readyz").await.0, 200);
        role.reasons.lock().push("again".into());
        assert_eq!(ask(&admin, "/readyz").await.0, 503);
        assert_eq!(ask(&admin, "/startupz").await.0, 200, "it has started once");
        role.reasons.lock().clear();
        shutdown.cancel();
        assert_eq!(ask(&admin, "/readyz").await.0, 503);
    }

    #[tokio::test]
    async fn a_role_tells_of_itself() {
        let (admin, _) = admin(&Arc::new(Role::default()));
        let (status, body) = ask(&admin, "/status").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &body["name"], &body["blobs"]),
            (200, &json!("agent-1"), &json!(3))
        );
        let (_, metrics) = ask(&admin, "/metrics").await;
        assert!(
            metrics.contains("pieces_total 0\n") && metrics.ends_with("# EOF\n"),
            "{metrics}"
        );
        let (_, page) = ask(&admin, "/").await;
        for path in page
            .split("href=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
        {
            assert_eq!(ask(&admin, path).await.0, 200, "{path}");
        }
        assert_eq!(ask(&admin, "/nothing").await.0, 404);
    }

    struct Besides(Registry);

    impl More for Besides {
        fn status(&self) -> (&'static str, Value) {
            ("names", json!(["a"]))
        }

        fn metrics(&self) -> &Registry {
            &self.0
        }
    }

    #[tokio::test]
    async fn a_process_tells_besides_what_the_role_does_not_know() {
        let (admin, _) = admin(&Arc::new(Role::default()));
        let mut registry = Registry::default();
        registry.register("names", "Names", Counter::<u64>::default());
        admin.tell(Besides(registry));
        let status = admin.status().await;
        assert_eq!(
            (&status["names"], &status["blobs"]),
            (&json!(["a"]), &json!(3))
        );
        let metrics = admin.metrics();
        for line in ["pieces_total 0\n", "names_total 0\n"] {
            assert!(metrics.contains(line), "{metrics}");
        }
        assert!(metrics.ends_with("# EOF\n") && metrics.matches("# EOF").count() == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_that_hangs_is_not_waited_for() {
        let role = Role {
            hangs: true,
            ..Role::default()
        };
        let (admin, _) = admin(&Arc::new(role));
        let (status, body) = ask(&admin, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("did not answer"), "{body}");
        let (_, body) = ask(&admin, "/status").await;
        assert!(body.contains("did not answer"), "{body}");
    }
}
