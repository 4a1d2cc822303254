//! What the tests of this crate share: a build-index and a swarm of one, on sockets of their own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use api::build_index::{self, BlobStat, Names, Referrers};
use api::{Cluster, ErrorBody, ErrorCode};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use oci::{Digest, media_type};
use parking_lot::Mutex;
use store::Cache;
use tokio::net::TcpListener;
use torrent::{ClusterKey, Description, MetaInfo, SwarmName, TreeHasher};

/// A build-index of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By `repository/reference`.
    manifests: Mutex<HashMap<String, Bytes>>,
    /// Lengths by `repository/digest`.
    blobs: Mutex<HashMap<String, u64>>,
    /// Answers nothing but 503.
    pub(crate) is_down: AtomicBool,
    /// Sends other bytes than it says.
    pub(crate) lies: AtomicBool,
    asked: AtomicUsize,
}

type Shared = State<Arc<Index>>;

impl Index {
    pub(crate) async fn start() -> (Arc<Self>, SocketAddr) {
        let index = Arc::new(Self::default());
        let router = Router::new()
            .route(build_index::MANIFEST, get(manifest))
            .route(build_index::BLOB, get(blob))
            .route(build_index::TAGS, get(tags))
            .route(build_index::REPOSITORIES, get(repositories))
            .route(build_index::REFERRERS, get(referrers))
            .with_state(Arc::clone(&index));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (index, addr)
    }

    /// Stores an image of these blobs as `tag`, and returns its digest.
    pub(crate) fn push(&self, repository: &str, tag: &str, blobs: &[(Digest, u64)]) -> Digest {
        let descriptor = |(digest, size): &(Digest, u64)| {
            let media_type = "application/vnd.oci.image.layer.v1.tar";
            serde_json::json!({"mediaType": media_type, "digest": digest, "size": size})
        };
        let layers: Vec<_> = blobs.iter().map(descriptor).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": layers[0], "layers": layers[1..],
        });
        let bytes = Bytes::from(manifest.to_string());
        let digest = Digest::sha256(&bytes);
        let mut manifests = self.manifests.lock();
        manifests.insert(format!("{repository}/{tag}"), bytes.clone());
        manifests.insert(format!("{repository}/{digest}"), bytes);
        for (digest, length) in blobs {
            let key = format!("{repository}/{digest}");
            self.blobs.lock().insert(key, *length);
        }
        digest
    }

    pub(crate) fn delete(&self, repository: &str, reference: &str) {
        let key = format!("{repository}/{reference}");
        self.manifests.lock().remove(&key);
        self.blobs.lock().remove(&key);
    }

    /// Returns how often it was asked since the last call.
    pub(crate) fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    fn ask(&self) -> Result<(), Failure> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.is_down.load(Ordering::Relaxed) {
            return Err(Failure(ErrorCode::Unavailable));
        }
        Ok(())
    }
}

struct Failure(ErrorCode);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status()).unwrap();
        (status, Json(ErrorBody::new(self.0, "as told"))).into_response()
    }
}

async fn manifest(
    State(index): Shared,
    Path((repository, reference)): Path<(String, String)>,
) -> Result<Response, Failure> {
    index.ask()?;
    let key = format!("{repository}/{reference}");
    let bytes = index.manifests.lock().get(&key).cloned();
    let bytes = bytes.ok_or(Failure(ErrorCode::ManifestUnknown))?;
    let digest = Digest::sha256(&bytes).to_string();
    let bytes = if index.lies.load(Ordering::Relaxed) {
        Bytes::from_static(b"{}")
    } else {
        bytes
    };
    let headers = [
        (header::CONTENT_TYPE, media_type::OCI_MANIFEST.to_owned()),
        (build_index::DIGEST_HEADER, digest),
    ];
    Ok((headers, bytes).into_response())
}

async fn blob(
    State(index): Shared,
    Path((repository, digest)): Path<(String, String)>,
) -> Result<Json<BlobStat>, Failure> {
    index.ask()?;
    let length = index
        .blobs
        .lock()
        .get(&format!("{repository}/{digest}"))
        .copied();
    let length = length.ok_or(Failure(ErrorCode::BlobUnknown))?;
    let length = Some(length);
    Ok(Json(BlobStat::new(length)))
}

async fn tags(
    State(index): Shared,
    Path(repository): Path<String>,
) -> Result<Json<Names>, Failure> {
    index.ask()?;
    if repository == "team/none" {
        return Err(Failure(ErrorCode::NameUnknown));
    }
    let names = vec!["v1".into(), "v2".into()];
    let next = Some("v2".into());
    Ok(Json(Names { names, next }))
}

async fn repositories(State(index): Shared) -> Result<Json<Names>, Failure> {
    index.ask()?;
    let names = vec!["team/app".into()];
    Ok(Json(Names { names, next: None }))
}

async fn referrers(State(index): Shared) -> Result<Json<Referrers>, Failure> {
    index.ask()?;
    Err(Failure(ErrorCode::NameUnknown))
}

/// Returns a cluster of this build-index, whose other members nobody can reach.
pub(crate) fn cluster(index: SocketAddr) -> Cluster {
    let gone = "127.0.0.1:1";
    let cluster = serde_json::json!({
        "origins": [{"name": "origin-1", "http": gone, "peer": gone}],
        "trackers": [{"name": "tracker-1", "peer": gone}],
        "build_indexes": [{"name": "build-index-1", "http": index.to_string()}],
    });
    serde_json::from_value(cluster).unwrap()
}

pub(crate) fn key() -> ClusterKey {
    ClusterKey::from_seed([3; 32])
}

pub(crate) fn bytes(length: usize, seed: usize) -> Bytes {
    (0..length)
        .map(|i| u8::try_from((i * 7 + seed) % 251).unwrap())
        .collect()
}

/// Puts a whole blob into a cache.
pub(crate) fn put(cache: &Cache, bytes: &Bytes) -> (Digest, Description) {
    let mut hasher = TreeHasher::new();
    hasher.update(bytes);
    let digest = Digest::sha256(bytes);
    let name = SwarmName::Blob(digest);
    let metainfo = MetaInfo::sign(&key(), name, &hasher.finish().unwrap()).unwrap();
    let description = Description::Complete(*metainfo.summary());
    let blob = cache.open_blob(&description).unwrap();
    blob.prove(Arc::clone(metainfo.cvs())).unwrap();
    for piece in metainfo.geometry().indexes() {
        let range = metainfo.geometry().range(piece);
        let (from, to) = (usize::try_from(range.start), usize::try_from(range.end));
        let piece = blob.verify(piece, bytes.slice(from.unwrap()..to.unwrap()));
        cache.write(&blob, &piece.unwrap()).unwrap();
    }
    (digest, description)
}
