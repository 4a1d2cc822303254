//! Origins and a build-index in memory, on sockets of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::build_index::{self, BlobStat, LinkQuery, ManifestStored};
use api::origin::{self, AppendQuery, CommitQuery, Committed, Stored, UploadBegun, UploadOffset};
use api::{Addr, ErrorBody, ErrorCode};
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, StatusCode, header};
use oci::{Digest, Manifest};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What all parts of the cluster see.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) blobs: Mutex<BTreeMap<Digest, Bytes>>,
    pub(super) links: Mutex<BTreeSet<(String, Digest)>>,
    manifests: Mutex<BTreeMap<(String, String), (String, Bytes)>>,
    /// Blobs that storage does not have yet, and the bytes of them that it has.
    pub(super) on_its_way: Mutex<BTreeMap<Digest, u64>>,
    /// How often origins were asked how much of a blob is in storage.
    pub(super) asked_stored: AtomicU64,
    /// Whether origins say that blobs were pushed to the repository asked about.
    pub(super) is_pushed: AtomicBool,
    /// Origins send another last byte.
    pub(super) damages: AtomicBool,
    /// Origins break off after so many bytes of each answer, where it is not zero.
    pub(super) breaks_after: AtomicU64,
}

/// A part of the cluster, which can be killed.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) addr: Addr,
    running: Mutex<CancellationToken>,
    router: Router,
    /// Bytes of its uploads.
    pub(super) uploads: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl Part {
    pub(super) async fn origin(world: &Arc<World>) -> Self {
        let uploads = Arc::default();
        let state = (Arc::clone(world), Arc::clone(&uploads));
        let upload = get(offset).patch(append).put(commit).delete(cancel);
        let router = Router::new()
            .route(origin::UPLOADS, post(begin))
            .route(origin::UPLOAD, upload)
            .route(origin::BLOB, get(read))
            .route(origin::STORED, get(stored))
            .with_state(state);
        Self::serve(router, uploads).await
    }

    pub(super) async fn index(world: &Arc<World>) -> Self {
        let router = Router::new()
            .route(build_index::BLOB, get(stat).put(link).delete(unlink))
            .route(build_index::MANIFEST, get(manifest).put(put_manifest))
            .with_state(Arc::clone(world));
        Self::serve(router, Arc::default()).await
    }

    async fn serve(router: Router, uploads: Arc<Mutex<BTreeMap<String, Vec<u8>>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = Addr::from(listener.local_addr().unwrap());
        let part = Self {
            addr,
            running: Mutex::default(),
            router,
            uploads,
        };
        part.run(listener);
        part
    }

    fn run(&self, listener: TcpListener) {
        let token = CancellationToken::new();
        *self.running.lock().unwrap() = token.clone();
        let options = service::http::Options {
            drain_timeout: Duration::ZERO,
            ..service::http::Options::default()
        };
        tokio::spawn(service::http::serve(
            listener,
            self.router.clone(),
            options,
            token,
        ));
    }

    /// Ends it, with all connections and uploads.
    pub(super) fn kill(&self) {
        self.running.lock().unwrap().cancel();
        self.uploads.lock().unwrap().clear();
    }

    /// Starts it again at the same address.
    pub(super) async fn revive(&self) {
        let listener = loop {
            match TcpListener::bind(self.addr.as_str()).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.run(listener);
    }
}

type Uploads = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;
type Origin = State<(Arc<World>, Uploads)>;

fn failed(code: ErrorCode) -> Response {
    let status = StatusCode::from_u16(code.status()).unwrap();
    (status, Json(ErrorBody::new(code, "why"))).into_response()
}

async fn begin(State((_, uploads)): Origin) -> Response {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = format!("u{}", NEXT.fetch_add(1, Ordering::Relaxed));
    uploads.lock().unwrap().insert(id.clone(), Vec::new());
    (StatusCode::CREATED, Json(UploadBegun { id })).into_response()
}

fn length_of(uploads: &Uploads, id: &str) -> Option<u64> {
    let uploads = uploads.lock().unwrap();
    uploads.get(id).map(|bytes| bytes.len() as u64)
}

async fn offset(State((_, uploads)): Origin, Path(id): Path<String>) -> Response {
    match length_of(&uploads, &id) {
        Some(offset) => Json(UploadOffset { offset }).into_response(),
        None => failed(ErrorCode::UploadUnknown),
    }
}

async fn append(
    State((_, uploads)): Origin,
    Path(id): Path<String>,
    Query(query): Query<AppendQuery>,
    body: Body,
) -> Response {
    let Some(has) = length_of(&uploads, &id) else {
        return failed(ErrorCode::UploadUnknown);
    };
    if query.offset.is_some_and(|offset| offset != has) {
        return failed(ErrorCode::Offset);
    }
    let mut body = body.into_data_stream();
    while let Some(part) = body.next().await {
        let Ok(part) = part else {
            return failed(ErrorCode::Body);
        };
        if let Some(upload) = uploads.lock().unwrap().get_mut(&id) {
            upload.extend_from_slice(&part);
        }
    }
    let offset = length_of(&uploads, &id).unwrap_or(0);
    Json(UploadOffset { offset }).into_response()
}

async fn commit(
    State((world, uploads)): Origin,
    Path(id): Path<String>,
    Query(query): Query<CommitQuery>,
) -> Response {
    let digest: Digest = query.digest.parse().unwrap();
    let mut blobs = world.blobs.lock().unwrap();
    let upload = uploads.lock().unwrap().remove(&id);
    match upload {
        Some(bytes) if Digest::of(digest.algorithm(), &bytes) == digest => {
            blobs.insert(digest, bytes.into());
        }
        Some(_) => return failed(ErrorCode::DigestInvalid),
        None if blobs.contains_key(&digest) => {}
        None => return failed(ErrorCode::UploadUnknown),
    }
    let length = blobs[&digest].len() as u64;
    let sha256 = Digest::sha256(&blobs[&digest]);
    let committed = Committed {
        digest,
        length,
        sha256,
        is_held: false,
    };
    (StatusCode::CREATED, Json(committed)).into_response()
}

async fn cancel(State((_, uploads)): Origin, Path(id): Path<String>) -> Response {
    match uploads.lock().unwrap().remove(&id) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => failed(ErrorCode::UploadUnknown),
    }
}

async fn read(State((world, _)): Origin, Path(digest): Path<String>, request: Request) -> Response {
    let digest: Digest = digest.parse().unwrap();
    let Some(bytes) = world.blobs.lock().unwrap().get(&digest).cloned() else {
        return failed(ErrorCode::BlobUnknown);
    };
    let range = request.headers()[header::RANGE].to_str().unwrap();
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let mut part = bytes[first..=last].to_vec();
    if world.damages.load(Ordering::Relaxed) {
        *part.last_mut().unwrap() ^= 1;
    }
    let whole = part.len();
    let after = world.breaks_after.load(Ordering::Relaxed);
    let after = usize::try_from(after).unwrap();
    let breaks = after != 0 && after < part.len();
    if breaks {
        part.truncate(after);
    }
    let end = futures_util::stream::once(async move {
        // What was sent before is on its way.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let end = breaks.then(|| Err(std::io::Error::other("breaks")));
        futures_util::stream::iter(end)
    });
    let part = futures_util::stream::iter([Ok(Bytes::from(part))]);
    let parts = part.chain(end.flatten());
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header(header::CONTENT_LENGTH, whole)
        .header(
            header::CONTENT_RANGE,
            format!("bytes {first}-{last}/{}", bytes.len()),
        )
        .body(Body::from_stream(parts))
        .unwrap()
}

async fn stored(State((world, _)): Origin, Path(digest): Path<String>) -> Response {
    let digest: Digest = digest.parse().unwrap();
    world.asked_stored.fetch_add(1, Ordering::Relaxed);
    let on_its_way = world.on_its_way.lock().unwrap().get(&digest).copied();
    let blobs = world.blobs.lock().unwrap();
    let Some(bytes) = blobs.get(&digest) else {
        return failed(ErrorCode::BlobUnknown);
    };
    let length = bytes.len() as u64;
    let stored = Stored {
        stored: on_its_way.is_none(),
        written_bytes: on_its_way.unwrap_or(length),
        length,
        sha256: digest,
        is_pushed: world.is_pushed.load(Ordering::Relaxed),
    };
    Json(stored).into_response()
}

impl World {
    fn blob(&self, repository: &str, digest: &Digest) -> Option<u64> {
        let key = (repository.to_owned(), *digest);
        let is_linked = self.links.lock().unwrap().contains(&key);
        let blobs = self.blobs.lock().unwrap();
        blobs
            .get(digest)
            .filter(|_| is_linked)
            .map(|bytes| bytes.len() as u64)
    }
}

async fn stat(
    State(world): State<Arc<World>>,
    Path((repository, digest)): Path<(String, String)>,
) -> Response {
    match world.blob(&repository, &digest.parse().unwrap()) {
        Some(length) => Json(BlobStat::new(Some(length))).into_response(),
        None => failed(ErrorCode::BlobUnknown),
    }
}

async fn link(
    State(world): State<Arc<World>>,
    Path((repository, digest)): Path<(String, String)>,
    Query(query): Query<LinkQuery>,
) -> Response {
    let digest = digest.parse().unwrap();
    let found = match &query.from {
        Some(from) => world.blob(from.as_str(), &digest),
        None => {
            let blobs = world.blobs.lock().unwrap();
            blobs.get(&digest).map(|bytes| bytes.len() as u64)
        }
    };
    let Some(length) = found else {
        return failed(ErrorCode::BlobUnknown);
    };
    world.links.lock().unwrap().insert((repository, digest));
    Json(BlobStat::new(Some(length))).into_response()
}

async fn unlink(
    State(world): State<Arc<World>>,
    Path((repository, digest)): Path<(String, String)>,
) -> Response {
    let key = (repository, digest.parse().unwrap());
    match world.links.lock().unwrap().remove(&key) {
        true => StatusCode::NO_CONTENT.into_response(),
        false => failed(ErrorCode::BlobUnknown),
    }
}

async fn manifest(
    State(world): State<Arc<World>>,
    Path((repository, reference)): Path<(String, String)>,
) -> Response {
    let manifests = world.manifests.lock().unwrap();
    match manifests.get(&(repository, reference)) {
        Some((media_type, bytes)) => Response::builder()
            .header(header::CONTENT_TYPE, media_type)
            .header(
                build_index::DIGEST_HEADER,
                Digest::sha256(bytes).to_string(),
            )
            .body(Body::from(bytes.clone()))
            .unwrap(),
        None => failed(ErrorCode::ManifestUnknown),
    }
}

async fn put_manifest(
    State(world): State<Arc<World>>,
    Path((repository, reference)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let media_type = headers[header::CONTENT_TYPE].to_str().unwrap();
    let Ok(parsed) = Manifest::parse(Some(media_type), &body) else {
        return failed(ErrorCode::ManifestInvalid);
    };
    let needed = parsed.references().map(|one| one.descriptor.digest);
    let missing: Vec<_> = needed
        .filter(|digest| {
            let on_its_way = world.on_its_way.lock().unwrap();
            world.blob(&repository, digest).is_none() || on_its_way.contains_key(digest)
        })
        .collect();
    if !missing.is_empty() {
        let mut body = ErrorBody::new(ErrorCode::ManifestBlobUnknown, "why");
        body.missing = missing;
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    }
    let digest = Digest::sha256(&body);
    let mut manifests = world.manifests.lock().unwrap();
    for reference in [reference, digest.to_string()] {
        let stored = (media_type.to_owned(), body.clone());
        manifests.insert((repository.clone(), reference), stored);
    }
    let stored = ManifestStored {
        digest,
        subject: None,
        tags: Vec::new(),
    };
    (StatusCode::CREATED, Json(stored)).into_response()
}
