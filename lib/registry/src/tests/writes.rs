use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response};
use oci::{Digest, ErrorCode};
use serde_json::json;

use crate::tests::fake::{Fake, Fault};
use crate::tests::{INDEX, MANIFEST, Registry, image};
use crate::{Error, Forward, Options, Writes};

#[tokio::test]
async fn manifests_are_stored() {
    let registry = Registry::new();
    registry.push_blob("a", b"{}").await;
    let bytes = image().to_string();
    let digest = Digest::sha256(bytes.as_bytes());
    for reference in ["v1".to_owned(), digest.to_string()] {
        let uri = format!("/v2/a/manifests/{reference}");
        let headers = [("content-type", MANIFEST)];
        let answer = registry
            .send_bytes(Method::PUT, &uri, &headers, bytes.clone())
            .await
            .is(201);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(answer.header("oci-subject"), "");
        let stored = registry.get(answer.header("location")).await.is(200);
        assert!(stored.bytes() == bytes.as_bytes());
    }
    let uri = format!("/v2/a/manifests/{digest}?tag=b&tag=c");
    let answer = registry
        .send_bytes(Method::PUT, &uri, &[], bytes.clone())
        .await
        .is(201);
    let tags: Vec<_> = answer.headers.get_all("oci-tag").iter().collect();
    assert_eq!(tags, ["b", "c"]);
    for tag in ["b", "c"] {
        registry
            .get(&format!("/v2/a/manifests/{tag}"))
            .await
            .is(200);
    }
    let many: String = (0..65).map(|number| format!("tag=t{number}&")).collect();
    let uri = format!("/v2/a/manifests/{digest}?{many}");
    registry
        .send_bytes(Method::PUT, &uri, &[], bytes)
        .await
        .is(414);
}

#[tokio::test]
async fn unusual_manifests_are_stored() {
    let registry = Registry::new();
    registry.push_blob("a", b"{}").await;
    let mut foreign = image();
    foreign["layers"][0] = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": Digest::sha256(b"elsewhere"),
        "size": 9,
        "urls": ["https://example.org/layer"],
    });
    let mut large = image();
    for number in 0..390 {
        large["annotations"][format!("key-{number}")] = "x".repeat(10_000).into();
    }
    let mut with_subject = image();
    let subject = Digest::sha256(b"not there");
    with_subject["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
    let mut no_layers = image();
    no_layers["layers"] = json!([]);
    let empty_index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
    for manifest in [foreign, large, with_subject, no_layers, empty_index] {
        let bytes = manifest.to_string();
        let answer = registry
            .send_bytes(Method::PUT, "/v2/a/manifests/v1", &[], bytes.clone())
            .await
            .is(201);
        if !manifest["subject"].is_null() {
            assert_eq!(answer.header("oci-subject"), subject.to_string());
        }
        let stored = registry.get("/v2/a/manifests/v1").await.is(200);
        assert!(stored.bytes() == bytes.as_bytes());
    }
}

#[tokio::test]
async fn manifests_that_are_not_stored() {
    let registry = Registry::new();
    let put = async |reference: &str, bytes: String| {
        let uri = format!("/v2/a/manifests/{reference}");
        registry.send_bytes(Method::PUT, &uri, &[], bytes).await
    };
    let answer = put("v1", image().to_string()).await.is(400);
    assert_eq!(answer.code(), ErrorCode::ManifestBlobUnknown);
    let missing = Digest::sha256(b"{}").to_string();
    assert_eq!(answer.json()["errors"][0]["detail"]["digest"], missing);

    registry.push_blob("a", b"{}").await;
    let answer = put("v1", "{\"layers\": 5}".to_owned()).await.is(400);
    assert_eq!(answer.code(), ErrorCode::ManifestInvalid);
    let other = Digest::sha256(b"other").to_string();
    let answer = put(&other, image().to_string()).await.is(400);
    assert_eq!(answer.code(), ErrorCode::DigestInvalid);
    put("sha256:baddigeststring", image().to_string())
        .await
        .is(400);
    put(".v1", image().to_string()).await.is(400);

    let too_large = "x".repeat(4 * 1024 * 1024 + 1);
    let answer = put("v1", too_large.clone()).await.is(413);
    assert_eq!(answer.code(), ErrorCode::SizeInvalid);
    let parts = vec![Ok(Bytes::from(too_large))];
    let body = Body::from_stream(stream::iter::<Vec<std::io::Result<Bytes>>>(parts));
    let request = Request::put("/v2/a/manifests/v1").body(body).unwrap();
    registry.send(request).await.is(413);
    registry.get("/v2/a/manifests/v1").await.is(404);
}

#[tokio::test]
async fn what_is_deleted_is_gone_at_once() {
    let registry = Registry::new();
    let blob = registry.push_blob("a", b"{}").await;
    let bytes = image().to_string();
    let digest = Digest::sha256(bytes.as_bytes());
    for tag in ["v1", "v2"] {
        let uri = format!("/v2/a/manifests/{tag}");
        registry
            .send_bytes(Method::PUT, &uri, &[], bytes.clone())
            .await
            .is(201);
    }
    let by_digest = format!("/v2/a/manifests/{digest}");
    let delete = async |uri: &str| registry.ask(Method::DELETE, uri, &[]).await;
    delete("/v2/a/manifests/v1").await.is(202);
    registry.head("/v2/a/manifests/v1").await.is(404);
    registry.head("/v2/a/manifests/v2").await.is(200);
    delete(&by_digest).await.is(202);
    registry.head(&by_digest).await.is(404);
    registry.head("/v2/a/manifests/v2").await.is(404);
    delete(&by_digest).await.is(404);
    let blob = format!("/v2/a/blobs/{blob}");
    delete(&blob).await.is(202);
    registry.head(&blob).await.is(404);
    delete(&blob).await.is(404);
}

#[tokio::test]
async fn failures_of_writes_are_never_softened() {
    let options = Options {
        fallback: crate::Fallback::Mirror,
        ..Options::default()
    };
    let registry = Registry::with(options);
    registry.fake.fail(Fault::Unavailable);
    registry
        .ask(Method::POST, "/v2/a/blobs/uploads/", &[])
        .await
        .is(503);
    let put = registry.send_bytes(Method::PUT, "/v2/a/manifests/v1", &[], "{}");
    put.await.is(503);
}

#[tokio::test]
async fn methods_that_a_path_does_not_have() {
    let registry = Registry::new();
    let location = registry.start("a").await;
    for (method, uri, allow) in [
        (Method::GET, "/v2/a/blobs/uploads/", "POST"),
        (Method::POST, "/v2/a/manifests/v1", "GET, HEAD, PUT, DELETE"),
        (Method::POST, &location, "GET, HEAD, PATCH, PUT, DELETE"),
        (Method::PUT, "/v2/a/tags/list", "GET, HEAD"),
    ] {
        let answer = registry.ask(method, uri, &[]).await.is(405);
        assert_eq!(answer.header("allow"), allow);
        assert_eq!(answer.code(), ErrorCode::Unsupported);
    }
}

#[derive(Debug)]
struct Echo;

#[async_trait]
impl Forward for Echo {
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let (parts, body) = request.into_parts();
        let text = format!("{} {} ", parts.method, parts.uri);
        let body = axum::body::to_bytes(body, 100).await.unwrap();
        Ok(Response::new(Body::from([text.as_bytes(), &body].concat())))
    }
}

#[tokio::test]
async fn writes_are_passed_on() {
    let fake = Arc::new(Fake::default());
    let writes = Writes::Forward(Arc::new(Echo));
    let registry = Registry {
        router: crate::router(fake.clone(), writes, Options::default()),
        fake,
    };
    for (method, uri) in [
        (Method::POST, "/v2/a/blobs/uploads/?mount=x"),
        (Method::PATCH, "/v2/a/blobs/uploads/x?_state=y"),
        (Method::GET, "/v2/a/blobs/uploads/x?_state=y"),
        (Method::PUT, "/v2/a/manifests/v1"),
        (Method::DELETE, "/v2/a/manifests/v1"),
    ] {
        let expected = format!("{method} {uri} body");
        let answer = registry.send_bytes(method, uri, &[], "body").await.is(200);
        assert_eq!(answer.bytes(), expected.as_bytes());
    }
    // Reads are not.
    registry.get("/v2/a/manifests/v1").await.is(404);
    registry
        .ask(Method::PUT, "/v2/A/manifests/v1", &[])
        .await
        .is(400);
}
