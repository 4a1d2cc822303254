//! Servers for the tests of the clients: they answer as they are told, and note what was asked.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::{Addr, Cluster, ErrorBody, ErrorCode, Http, Limits};

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// A server that answers everything by one function.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) addr: Addr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) async fn start(
        answer: impl Fn(&Asked) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let noted = Arc::clone(&asked);
        let handle = move |request: Request| async move {
            let (parts, body) = request.into_parts();
            let content_type = parts.headers.get("content-type");
            let body = axum::body::to_bytes(body, 32 << 20).await;
            let asked = Asked {
                line: format!("{} {}", parts.method, parts.uri),
                content_type: content_type.map(|value| value.to_str().unwrap().into()),
                body: body.unwrap_or_default().to_vec(),
            };
            let response = answer(&asked);
            noted.lock().push(asked);
            response
        };
        let addr = serve(Router::new().fallback(handle)).await;
        Self { addr, asked }
    }

    /// Returns the lines of all requests since the last call.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.take().into_iter().map(|asked| asked.line).collect()
    }

    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock())
    }
}

pub(crate) async fn serve(router: Router) -> Addr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Addr::from(addr)
}

/// Returns an address where nobody listens.
pub(crate) async fn nobody() -> Addr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Addr::from(listener.local_addr().unwrap())
}

pub(crate) fn json(status: u16, body: &impl serde::Serialize) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(serde_json::to_vec(body).unwrap()))
        .unwrap()
}

pub(crate) fn error(code: ErrorCode) -> Response {
    json(code.status(), &ErrorBody::new(code, "why"))
}

/// Returns a cluster of origins and build-indexes at these addresses.
pub(crate) fn cluster(origins: &[&Addr], build_indexes: &[&Addr]) -> Arc<Cluster> {
    let origin = |(at, addr): (usize, &&Addr)| {
        format!("  - {{name: o{at}, http: '{addr}', peer: '{addr}'}}\n")
    };
    let index = |(at, addr): (usize, &&Addr)| format!("  - {{name: b{at}, http: '{addr}'}}\n");
    let mut text = String::new();
    if !origins.is_empty() {
        text += "origins:\n";
        text.extend(origins.iter().enumerate().map(origin));
    }
    if !build_indexes.is_empty() {
        text += "build_indexes:\n";
        text.extend(build_indexes.iter().enumerate().map(index));
    }
    Arc::new(serde_saphyr::from_str(&text).unwrap())
}

/// Returns connections with little patience.
pub(crate) fn http() -> Http {
    Http::new(Limits {
        connect: Duration::from_secs(2),
        answer: Duration::from_millis(300),
        commit: Duration::from_millis(500),
        pause: Duration::from_millis(300),
        answer_bytes: 10_000,
    })
}
