use api::{ErrorBody, ErrorCode};
use axum::http::Method;
use backend::fs::FsBackend;
use backend::memory::MemoryBackend;
use backend::{Backend, Condition, Key, layout};
use oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use oci::{Algorithm, Descriptor};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::*;
use crate::config::Config;
use crate::start::doors;

mod manifests;
mod memory;
mod repositories;
mod writer;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A build-index without sockets.
struct Index {
    backend: Arc<dyn Backend>,
    router: Router,
    metrics: Metrics,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    #[track_caller]
    fn json<T: DeserializeOwned>(&self, status: u16) -> T {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    fn is(&self, status: u16, code: ErrorCode) {
        assert_eq!(self.json::<ErrorBody>(status).code, code);
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

impl Index {
    fn new(backend: Arc<dyn Backend>) -> Self {
        let metrics = Metrics::new();
        let config = Config::default();
        let doors = doors(
            Arc::clone(&backend),
            &config,
            metrics.clone(),
            7,
            Writer::Here,
        );
        Self {
            backend,
            router: router(Arc::new(doors)),
            metrics,
        }
    }

    /// One over memory and one over a folder.
    fn both() -> (TempDir, [Self; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let fs = FsBackend::open(folder.path()).unwrap();
        let memory = Self::new(Arc::new(MemoryBackend::new()));
        (folder, [memory, Self::new(Arc::new(fs))])
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        media_type: Option<&str>,
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/repositories{path}"));
        if let Some(media_type) = media_type {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: axum::body::to_bytes(body, 32 << 20).await.unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, Body::empty()).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, Body::empty()).await
    }

    async fn put(&self, path: &str, media_type: Option<&str>, body: &Value) -> Answer {
        self.send(Method::PUT, path, media_type, body.to_string())
            .await
    }

    /// Stores content as an origin does, and puts it into a repository.
    async fn push_blob(&self, repository: &str, bytes: &'static str) -> Digest {
        let digest = self.store(bytes).await;
        let path = format!("/{repository}/blobs/{digest}");
        let answer = self.send(Method::PUT, &path, None, Body::empty()).await;
        let stat: BlobStat = answer.json(200);
        assert_eq!(stat.length, Some(bytes.len() as u64));
        digest
    }

    async fn store(&self, bytes: &'static str) -> Digest {
        let digest = Digest::sha256(bytes.as_bytes());
        self.write(&layout::blob(&digest), bytes).await;
        digest
    }

    async fn write(&self, key: &Key, bytes: impl Into<Bytes>) {
        let put = self.backend.put(key, bytes.into(), Condition::Any);
        put.await.unwrap();
    }

    async fn remove(&self, key: &Key) {
        self.backend.delete(key).await.unwrap();
    }

    async fn link(&self, key: &Key) -> Option<Digest> {
        layout::read_link(&*self.backend, key).await.unwrap()
    }
}

/// Whoever asked is told in time; the change goes on, and counts as long as it does.
#[tokio::test(start_paused = true)]
async fn a_change_is_made_to_its_end() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (config, metrics) = (Config::default(), Metrics::new());
    let mut doors = doors(backend, &config, metrics, 7, Writer::Here);
    doors.changes = Arc::new(Semaphore::new(1));
    let doors = Arc::new(doors);
    let (go, may_go) = tokio::sync::oneshot::channel::<()>();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let wait = doors.write_wait;
    let slow = to_the_end(Arc::clone(&doors), wait, async move |_| {
        may_go.await.unwrap();
        end.send(()).unwrap();
        Ok(())
    });
    let told = slow.await.unwrap_err();
    assert!(matches!(told, Failure::Unfinished(_)), "{told}");
    let next = || to_the_end(Arc::clone(&doors), wait, async |_| Ok(()));
    let told = next().await.unwrap_err();
    assert!(matches!(told, Failure::Busy(_)), "{told}");
    assert_eq!(told.code(), ErrorCode::Unavailable);
    go.send(()).unwrap();
    ended.await.unwrap();
    next().await.unwrap();
}

/// Content of the blobs that manifests name.
const BLOBS: [&str; 6] = ["{}", "layer", "some bytes", "lost", "there", "elsewhere"];

/// Describes content with its size, or what is not of [`BLOBS`] with one that nobody checks.
fn descriptor(media_type: &str, digest: &Digest) -> Value {
    let is = |blob: &&&str| Digest::of(digest.algorithm(), blob.as_bytes()) == *digest;
    let size = BLOBS.iter().find(is).map_or(1, |blob| blob.len());
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

fn manifest(config: &Digest, layers: &[Digest]) -> Value {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| descriptor(LAYER, layer))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": layers,
    })
}

fn index_of(media_type: &str, inner: &str, manifests: &[Digest]) -> Value {
    let manifests: Vec<_> = manifests.iter().map(|one| descriptor(inner, one)).collect();
    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests})
}

fn digest_of(value: &Value) -> Digest {
    Digest::sha256(value.to_string().as_bytes())
}

/// A repository's name as one segment of a path.
fn encoded(repository: &str) -> String {
    repository.replace('/', "%2F")
}
