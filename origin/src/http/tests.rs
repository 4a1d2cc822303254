use axum::http;
use backend::fs::FsBackend;
use backend::{Backend as _, Condition, layout};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::Uploads;
use tower::ServiceExt as _;

use super::*;
use crate::fetch::Limits;

/// Remembers what the swarm was told.
#[derive(Default)]
struct Told(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Seeder for Told {
    async fn seed(&self, description: Description) {
        self.0.lock().push(format!("seed {}", description.name()));
    }

    async fn remove(&self, name: SwarmName) {
        self.0.lock().push(format!("remove {name}"));
    }
}

struct Bench {
    root: tempfile::TempDir,
    backend: FsBackend,
    router: Router,
    told: Arc<Mutex<Vec<String>>>,
}

fn bench() -> Bench {
    start(tempfile::tempdir().unwrap())
}

/// Starts an origin over a folder that may have had one before.
fn start(root: tempfile::TempDir) -> Bench {
    let backend = FsBackend::open(root.path()).unwrap();
    let key = crate::key::load_or_create(&root.path().join(".key")).unwrap();
    let blobs = Arc::new(Blobs::new(Arc::new(backend.clone()), key));
    let (fetcher, mut events) = Fetcher::new(Arc::clone(&blobs), Limits::default());
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let area = backend.staging().unwrap().join("origin-1");
    let uploads = Uploads::open(area, store::Limits::default()).unwrap();
    let seeder = Told::default();
    let told = Arc::clone(&seeder.0);
    let doors = Doors {
        ingest: Ingest::new(Arc::new(uploads), Arc::clone(&blobs), Metrics::default()),
        seeder: Box::new(seeder),
        blobs,
        fetcher,
        tier: None,
        write_back: None,
        metrics: Metrics::default(),
    };
    Bench {
        router: router(Arc::new(doors)),
        root,
        backend,
        told,
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> (u16, String) {
        let code = self.json()["code"].as_str().unwrap().to_owned();
        (self.status.as_u16(), code)
    }

    fn header(&self, name: http::HeaderName) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

impl Bench {
    async fn send(&self, method: &str, uri: &str, body: impl Into<Body>) -> Answer {
        self.send_with(method, uri, None, body).await
    }

    async fn send_with(
        &self,
        method: &str,
        uri: &str,
        range: Option<&str>,
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.into_body().collect().await.unwrap().to_bytes(),
        }
    }

    async fn begin(&self) -> String {
        let answer = self.send("POST", "/v1/uploads", "").await;
        assert_eq!(answer.status, StatusCode::CREATED);
        format!("/v1/uploads/{}", answer.json()["id"].as_str().unwrap())
    }

    async fn push(&self, bytes: &Bytes) -> String {
        let upload = self.begin().await;
        self.send("PATCH", &upload, bytes.clone()).await;
        let digest = Digest::sha256(bytes);
        let answer = self
            .send("PUT", &format!("{upload}?digest={digest}"), "")
            .await;
        assert_eq!(answer.status, StatusCode::CREATED);
        format!("/v1/blobs/{digest}")
    }
}

fn bytes(length: usize) -> Bytes {
    (0..length)
        .map(|i| u8::try_from(i * 13 % 251).unwrap())
        .collect()
}

#[tokio::test]
async fn a_blob_is_pushed_in_parts_and_read_back() {
    let bench = bench();
    let bytes = bytes(2_500_000);
    let digest = Digest::sha256(&bytes);
    let upload = bench.begin().await;
    let first = bench
        .send(
            "PATCH",
            &format!("{upload}?offset=0"),
            bytes.slice(..1_000_000),
        )
        .await;
    assert_eq!(
        (first.status, first.json()),
        (StatusCode::OK, json!({"offset": 1_000_000}))
    );
    let wrong = bench
        .send("PATCH", &format!("{upload}?offset=5"), "x")
        .await;
    assert_eq!(wrong.code(), (416, "OFFSET".to_owned()));
    assert_eq!(wrong.json()["offset"], 1_000_000);
    bench.send("PATCH", &upload, bytes.slice(1_000_000..)).await;
    let offset = bench.send("GET", &upload, "").await;
    assert_eq!(offset.json(), json!({"offset": 2_500_000}));
    for _ in 0..2 {
        let stored = bench
            .send("PUT", &format!("{upload}?digest={digest}"), "")
            .await;
        assert_eq!(stored.status, StatusCode::CREATED, "also when asked again");
        assert_eq!(
            stored.json(),
            json!({"digest": digest, "length": 2_500_000, "sha256": digest, "is_held": false})
        );
    }
    assert_eq!(
        bench.send("GET", &upload, "").await.code(),
        (404, "UPLOAD_UNKNOWN".to_owned())
    );
    assert_eq!(bench.told.lock()[0], format!("seed {digest}"));

    let blob = format!("/v1/blobs/{digest}");
    let whole = bench.send("GET", &blob, "").await;
    assert!(whole.status == StatusCode::OK && whole.body == bytes);
    let head = bench.send("HEAD", &blob, "").await;
    assert_eq!(head.header(header::CONTENT_LENGTH), "2500000");
    assert!(head.body.is_empty());
    let metainfo = bench.send("GET", &format!("{blob}/metainfo"), "").await;
    let key = crate::key::load_or_create(&bench.root.path().join(".key")).unwrap();
    let metainfo = torrent::MetaInfo::from_bytes(&key.public(), &metainfo.body).unwrap();
    assert_eq!(metainfo.summary().length(), 2_500_000);
    let verified = bench.send("POST", &format!("{blob}/verify"), "").await;
    assert_eq!(verified.status, StatusCode::OK);
}

#[tokio::test]
async fn one_range_at_a_time() {
    let bench = bench();
    let bytes = bytes(1_500_000);
    let blob = bench.push(&bytes).await;
    let get = |range| bench.send_with("GET", &blob, Some(range), "");
    let part = get("bytes=1048570-1048580").await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(
        part.header(header::CONTENT_RANGE),
        "bytes 1048570-1048580/1500000"
    );
    assert!(part.body == bytes[1_048_570..=1_048_580]);
    let past = get("bytes=1500000-").await;
    assert_eq!(past.code(), (416, "RANGE".to_owned()));
    assert_eq!(past.header(header::CONTENT_RANGE), "bytes */1500000");
    assert_eq!(get("bytes=0-1,5-6").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(get("pages=1-2").await.body.len(), 1_500_000);
}

#[tokio::test]
async fn what_is_wrong_is_said_and_nothing_is_stored() {
    let bench = bench();
    let upload = bench.begin().await;
    bench.send("PATCH", &upload, "some bytes").await;
    let bad = bench
        .send("PUT", &format!("{upload}?digest=sha256:zz"), "")
        .await;
    assert_eq!(bad.code(), (400, "DIGEST_INVALID".to_owned()));
    let digest = Digest::sha256(b"other bytes");
    let wrong = bench
        .send("PUT", &format!("{upload}?digest={digest}"), "")
        .await;
    assert_eq!(wrong.code(), (400, "DIGEST_INVALID".to_owned()));
    assert_eq!(
        bench.send("GET", &upload, "").await.status,
        StatusCode::NOT_FOUND
    );
    let blob = format!("/v1/blobs/{digest}");
    for (method, uri) in [("GET", blob.clone()), ("GET", format!("{blob}/metainfo"))] {
        assert_eq!(
            bench.send(method, &uri, "").await.code(),
            (404, "BLOB_UNKNOWN".to_owned())
        );
    }
    let verify = bench.send("POST", &format!("{blob}/verify"), "").await;
    assert_eq!(verify.status, StatusCode::SERVICE_UNAVAILABLE);
    for uri in [
        "/v1/uploads/nonsense",
        "/v1/uploads/00000000000000000000000000000000",
    ] {
        assert_eq!(
            bench.send("GET", uri, "").await.code(),
            (404, "UPLOAD_UNKNOWN".to_owned())
        );
    }
    assert!(bench.told.lock().is_empty());
}

#[tokio::test]
async fn an_upload_goes_on_after_the_origin_died() {
    let first = bench();
    let bytes = bytes(3_000_000);
    let upload = first.begin().await;
    first.send("PATCH", &upload, bytes.slice(..1_234_567)).await;
    // Nothing is closed or flushed on purpose: the files are all that is left.
    let Bench { root, router, .. } = first;
    drop(router);
    let second = start(root);
    let offset = second.send("GET", &upload, "").await;
    assert_eq!(offset.json(), json!({"offset": 1_234_567}));
    second
        .send(
            "PATCH",
            &format!("{upload}?offset=1234567"),
            bytes.slice(1_234_567..),
        )
        .await;
    let digest = Digest::sha256(&bytes);
    let stored = second
        .send("PUT", &format!("{upload}?digest={digest}"), "")
        .await;
    assert_eq!(stored.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_deleted_blob_is_gone() {
    let bench = bench();
    let blob = bench.push(&bytes(100_000)).await;
    assert_eq!(
        bench.send("DELETE", &blob, "").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        bench.send("GET", &blob, "").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(bench.told.lock().len(), 2);
    let upload = bench.begin().await;
    assert_eq!(
        bench.send("DELETE", &upload, "").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        bench.send("DELETE", &upload, "").await.status,
        StatusCode::NOT_FOUND
    );
}

/// A folder that docker-registry filled, and one whose content is not what it is named.
#[tokio::test]
async fn what_others_stored_is_served_or_cut() {
    let bench = bench();
    for length in [100, 5_000_000] {
        let right = bytes(length);
        let digest = Digest::sha256(&right);
        let at = layout::blob(&digest);
        bench
            .backend
            .put(&at, right.clone(), Condition::Any)
            .await
            .unwrap();
        let answer = bench.send("GET", &format!("/v1/blobs/{digest}"), "").await;
        assert!(answer.status == StatusCode::OK && answer.body == right);

        let digest = Digest::sha256(format!("other {length}").as_bytes());
        let at = layout::blob(&digest);
        bench.backend.put(&at, right, Condition::Any).await.unwrap();
        let request = Request::builder().uri(format!("/v1/blobs/{digest}"));
        let request = request.body(Body::empty()).unwrap();
        let response = bench.router.clone().oneshot(request).await.unwrap();
        if response.status() == StatusCode::OK {
            assert!(
                response.into_body().collect().await.is_err(),
                "the body is cut"
            );
        } else {
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}
