//! Several build-indexes of which one writes.

use api::build_index::{PASSED_ON_HEADER, WRITE_HEADER, WriteId};
use service::tls::Tls;
use tokio::net::TcpListener;

use super::*;

/// Returns a configuration with two members, of which the first writes, at `addr`.
fn config(name: &str, addr: &str) -> Config {
    let cluster = json!({"build_indexes": [
        {"name": "b1", "http": addr},
        {"name": "b2", "http": "127.0.0.1:1"},
    ]});
    Config {
        name: name.parse().unwrap(),
        cluster: serde_json::from_value(cluster).unwrap(),
        tag_writer: Some("b1".parse().unwrap()),
        ..Config::default()
    }
}

impl Index {
    fn of(backend: &Arc<dyn Backend>, config: &Config) -> Self {
        let metrics = Metrics::new();
        let writer = Writer::new(config, &Tls::plain()).unwrap();
        let doors = doors(Arc::clone(backend), config, metrics.clone(), 7, writer);
        Self {
            backend: Arc::clone(backend),
            router: router(Arc::new(doors)),
            metrics,
        }
    }

    async fn change(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let uri = format!("/v1/repositories{path}");
        let mut request = Request::builder().method(method).uri(uri);
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: axum::body::to_bytes(body, 32 << 20).await.unwrap(),
        }
    }
}

/// Returns one that writes, behind a socket, and one that passes on to it.
async fn two() -> (Index, Index, tokio::task::JoinHandle<()>) {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let writer = Index::of(&backend, &config("b1", &addr));
    let other = Index::of(&backend, &config("b2", &addr));
    let router = writer.router.clone();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (writer, other, serving)
}

#[tokio::test]
async fn changes_are_passed_on_to_the_writer() {
    let (writer, other, _serving) = two().await;
    let config = other.push_blob("a", "{}").await;
    let value = manifest(&config, &[]);
    let path = "/a/manifests/v1?tag=latest";
    let stored: ManifestStored = other.put(path, Some(OCI_MANIFEST), &value).await.json(201);
    assert_eq!(stored.digest, digest_of(&value));
    assert_eq!(stored.tags, ["latest".parse().unwrap()]);
    assert_eq!(writer.metrics.tags_written.get(), 2);
    assert_eq!(other.metrics.tags_written.get(), 0);
    for index in [&writer, &other] {
        assert_eq!(index.get("/a/manifests/latest").await.status, 200);
    }
    assert_eq!(other.delete("/a/manifests/latest").await.status, 204);
    let gone = other.delete("/a/manifests/latest").await;
    gone.is(404, ErrorCode::ManifestUnknown);
    for index in [&writer, &other] {
        let gone = index.get("/a/manifests/latest").await;
        gone.is(404, ErrorCode::ManifestUnknown);
    }

    // What the writer answers is what the caller sees.
    let lost = Digest::sha256(b"lost");
    let value = manifest(&config, &[lost]);
    let answer = other.put("/a/manifests/v1", Some(OCI_MANIFEST), &value);
    let body: ErrorBody = answer.await.json(400);
    assert_eq!(body.code, ErrorCode::ManifestBlobUnknown);
    assert_eq!(body.missing, [lost]);
}

#[tokio::test]
async fn nothing_is_passed_on_twice() {
    let (writer, other, _serving) = two().await;
    let config = other.push_blob("a", "{}").await;
    let value = manifest(&config, &[]);
    let stored = other.put("/a/manifests/v1", Some(OCI_MANIFEST), &value);
    assert_eq!(stored.await.status, 201);
    let header = PASSED_ON_HEADER;
    let passed_on = [(header.as_str(), "b3")];
    let refused = other.change(Method::DELETE, "/a/manifests/v1", &passed_on);
    let body: ErrorBody = refused.await.json(503);
    assert!(body.message.contains("b3 passed"), "{}", body.message);
    let taken = writer.change(Method::DELETE, "/a/manifests/v1", &passed_on);
    assert_eq!(taken.await.status, 204);
}

/// Also where it comes by another build-index the second time.
#[tokio::test]
async fn a_change_that_is_asked_for_again_is_made_once() {
    let (writer, other, _serving) = two().await;
    let config = other.push_blob("a", "{}").await;
    let value = manifest(&config, &[]);
    let path = "/a/manifests/v1";
    let put = || other.put(path, Some(OCI_MANIFEST), &value);
    assert_eq!(put().await.status, 201);
    let id = WriteId::random().to_string();
    let header = WRITE_HEADER;
    let write = [(header.as_str(), &*id)];
    assert_eq!(
        writer.change(Method::DELETE, path, &write).await.status,
        204
    );
    assert_eq!(put().await.status, 201);
    assert_eq!(other.change(Method::DELETE, path, &write).await.status, 204);
    assert_eq!(other.get(path).await.status, 200, "it is not removed again");
    let wrong = [(header.as_str(), "no digits")];
    let refused = other.change(Method::DELETE, path, &wrong).await;
    refused.is(400, ErrorCode::BadRequest);
}

/// A removal that was cut off half-way is gone on with, whoever put the tag again meanwhile.
#[tokio::test]
async fn no_tag_is_left_without_its_manifest() {
    let (writer, other, _serving) = two().await;
    let config = other.push_blob("a", "{}").await;
    let value = manifest(&config, &[]);
    let put = || other.put("/a/manifests/v1", Some(OCI_MANIFEST), &value);
    assert_eq!(put().await.status, 201);
    let id = WriteId::random().to_string();
    let header = WRITE_HEADER;
    let write = [(header.as_str(), &*id)];
    // All that was done of it: its tag is gone.
    let untag = writer.change(Method::DELETE, "/a/manifests/v1", &write);
    assert_eq!(untag.await.status, 204);
    assert_eq!(put().await.status, 201);
    let by_digest = format!("/a/manifests/{}", digest_of(&value));
    let again = writer.change(Method::DELETE, &by_digest, &write).await;
    assert_eq!(again.status, 204);
    let tags: NamesAnswer = other.get("/a/tags").await.json(200);
    assert_eq!(tags.names, [""; 0]);

    // The answer was lost: it was made, and is not made again.
    let again = other.change(Method::DELETE, &by_digest, &write).await;
    assert_eq!(again.status, 204);
    assert_eq!(put().await.status, 201);
    let again = other.change(Method::DELETE, &by_digest, &write).await;
    assert_eq!(again.status, 204);
    assert_eq!(other.get("/a/manifests/v1").await.status, 200);
    assert_eq!(other.delete(&by_digest).await.status, 204);
    let gone = other.delete(&by_digest).await;
    gone.is(404, ErrorCode::ManifestUnknown);
}

#[tokio::test]
async fn a_writer_that_is_away_is_named() {
    let (_, other, serving) = two().await;
    let config = other.push_blob("a", "{}").await;
    let value = manifest(&config, &[]);
    let put = || other.put("/a/manifests/v1", Some(OCI_MANIFEST), &value);
    assert_eq!(put().await.status, 201);
    serving.abort();
    let _ = serving.await;
    let body: ErrorBody = put().await.json(503);
    assert_eq!(body.code, ErrorCode::Unavailable);
    assert!(
        body.message.contains("b1 (`tag_writer`)"),
        "{}",
        body.message
    );
    // Questions are answered without it.
    assert_eq!(other.get("/a/manifests/v1").await.status, 200);
}

#[test]
fn the_writer_is_a_member() {
    let mut config = config("b1", "127.0.0.1:2");
    config.validate().unwrap();
    config.tag_writer = Some("b9".parse().unwrap());
    let error = config.validate().unwrap_err().to_string();
    assert!(
        error.contains("b9") && error.contains("build_indexes"),
        "{error}"
    );
}
