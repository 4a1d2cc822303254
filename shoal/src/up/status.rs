//! The admin port of `shoal up`: what all parts tell of themselves, as one.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse as _, Json, Response};
use axum::routing::get;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use service::Admin;
use service::admin::{METRICS_TYPE, readiness};

use crate::up::folder::Folder;
use crate::up::{Addrs, page};

/// All parts together.
#[derive(Debug)]
pub(super) struct Whole {
    admins: Vec<Admin>,
    addresses: Value,
    data: String,
}

impl Whole {
    pub(super) fn new(admins: Vec<Admin>, addrs: &Addrs, folder: &Folder) -> Self {
        let mut addresses = Map::new();
        for (name, addr) in addrs.agents.iter().chain(&addrs.proxy) {
            addresses.insert(name.clone(), json!(addr));
        }
        addresses.insert("status".into(), json!(format!("http://{}/", addrs.admin)));
        Self {
            admins,
            addresses: addresses.into(),
            data: folder.path().display().to_string(),
        }
    }

    /// Returns why it is not ready, each reason with its part.
    pub(super) async fn not_ready(&self) -> Vec<String> {
        let reasons = join_all(self.admins.iter().map(|admin| async move {
            let reasons = admin.not_ready().await.into_iter();
            let named = reasons.map(|reason| format!("{}: {reason}", admin.name()));
            named.collect::<Vec<_>>()
        }));
        reasons.await.concat()
    }

    async fn status(&self) -> Value {
        let parts = join_all(self.admins.iter().map(|admin| async move {
            let status = admin.status().await;
            (admin.name().to_owned(), status)
        }));
        let parts: Map<_, _> = parts.await.into_iter().collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "data": self.data,
            "addresses": self.addresses,
            "parts": parts,
        })
    }
}

/// Returns the routes of the admin port.
pub(super) fn router(whole: Arc<Whole>) -> Router {
    Router::new()
        .route("/", get(show))
        .route("/status", get(status))
        .route("/status.json", get(status))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(whole)
}

async fn show(State(whole): State<Arc<Whole>>) -> Html<String> {
    Html(page::render(&whole.status().await))
}

async fn status(State(whole): State<Arc<Whole>>) -> Json<Value> {
    Json(whole.status().await)
}

async fn readyz(State(whole): State<Arc<Whole>>) -> Response {
    readiness(&whole.not_ready().await)
}

async fn metrics(State(whole): State<Arc<Whole>>) -> Response {
    let text = service::merged_metrics(&whole.admins);
    ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}
