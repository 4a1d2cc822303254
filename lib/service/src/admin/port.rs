//! The admin port of what may not have started yet.

use std::fmt;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{Request, StatusCode};
use tower::ServiceExt as _;

use super::readiness;

/// Answers on an admin port from the first moment on. A start may take long: a large cache is
/// looked through, storage is slow. Who probes meanwhile shall see a process that lives and is not
/// ready, not one to be killed. Clones are the same.
#[derive(Clone, Default)]
pub struct Port {
    started: Arc<OnceLock<Router>>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let started = self.started.get().is_some();
        f.debug_struct("Port").field("started", &started).finish()
    }
}

impl Port {
    /// Lets these routes answer from now on. Only the first call counts.
    pub fn started(&self, router: Router) {
        let _ = self.started.set(router);
    }

    /// Returns the routes of the port.
    pub fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }
}

async fn answer(State(port): State<Port>, request: Request<Body>) -> Response {
    let router = port.started.get().cloned().unwrap_or_else(starting);
    router.oneshot(request).await.into_response()
}

fn starting() -> Router {
    let not_ready = || async { readiness(&["it is starting".into()]) };
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .fallback(move |request: Request<Body>| async move {
            match request.uri().path() {
                "/" | "/readyz" | "/startupz" | "/metrics" | "/status" => not_ready().await,
                _ => StatusCode::NOT_FOUND.into_response(),
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(port: &Port, path: &str) -> u16 {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = port.router().oneshot(request).await.unwrap();
        response.status().as_u16()
    }

    #[tokio::test]
    async fn what_starts_lives_and_is_not_ready() {
        let port = Port::default();
        for (path, status) in [
            ("/livez", 200),
            ("/readyz", 503),
            ("/startupz", 503),
            ("/metrics", 503),
            ("/nothing", 404),
        ] {
            assert_eq!(ask(&port, path).await, status, "{path}");
        }
        let router = port.router();
        port.started(Router::new().route("/readyz", get(|| async { "ready" })));
        assert_eq!(ask(&port, "/readyz").await, 200);
        assert_eq!(ask(&port, "/livez").await, 404, "the role's own routes");
        let request = Request::get("/readyz").body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200, "a router that was served before");
    }
}
