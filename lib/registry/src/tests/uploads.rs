use axum::body::Body;
use futures_util::stream;
use http::{Method, Request};
use oci::{Algorithm, Digest, ErrorCode};

use crate::tests::{Answer, Registry};
use crate::{Options, UploadSecret, Writes};

impl Registry {
    /// Starts an upload and returns its location.
    pub(super) async fn start(&self, repository: &str) -> String {
        let uri = format!("/v2/{repository}/blobs/uploads/");
        let answer = self.ask(Method::POST, &uri, &[]).await.is(202);
        assert_eq!(answer.header("range"), "0-0");
        assert!(!answer.header("docker-upload-uuid").is_empty());
        answer.header("location").to_owned()
    }

    async fn patch(&self, location: &str, range: &str, bytes: &'static [u8]) -> Answer {
        let headers = [("content-range", range)];
        self.send_bytes(Method::PATCH, location, &headers, bytes)
            .await
    }

    async fn finish(&self, location: &str, digest: &Digest, bytes: &'static [u8]) -> Answer {
        let uri = format!("{location}&digest={digest}");
        self.send_bytes(Method::PUT, &uri, &[], bytes).await
    }
}

/// A body whose length is not known before, as `Transfer-Encoding: chunked` has it.
fn streamed(parts: Vec<std::io::Result<&'static [u8]>>) -> Body {
    Body::from_stream(stream::iter(parts))
}

#[tokio::test]
async fn uploads_in_one_request() {
    let registry = Registry::new();
    let digest = Digest::sha256(b"layer");
    let uri = format!("/v2/team/app/blobs/uploads/?digest={digest}");
    let answer = registry
        .send_bytes(Method::POST, &uri, &[], "layer")
        .await
        .is(201);
    assert_eq!(
        answer.header("location"),
        format!("/v2/team/app/blobs/{digest}")
    );
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    assert_eq!(
        registry
            .get(answer.header("location"))
            .await
            .is(200)
            .bytes(),
        b"layer"
    );
    assert_eq!(registry.fake.uploads(), 0);
}

#[tokio::test]
async fn uploads_in_two_requests() {
    let registry = Registry::new();
    let location = registry.start("team/app").await;
    let answer = registry
        .finish(&location, &Digest::sha256(b"layer"), b"layer")
        .await
        .is(201);
    assert_eq!(
        registry
            .get(answer.header("location"))
            .await
            .is(200)
            .bytes(),
        b"layer"
    );
}

#[tokio::test]
async fn uploads_in_chunks() {
    let registry = Registry::new();
    let mut location = registry.start("team/app").await;
    let parts: [(&str, &'static [u8], &str); 2] = [("0-4", b"first", "0-4"), ("5-6", b"ly", "0-6")];
    for (range, bytes, progress) in parts {
        let answer = registry.patch(&location, range, bytes).await.is(202);
        assert_eq!(answer.header("range"), progress);
        location = answer.header("location").to_owned();
    }
    let asked = registry.get(&location).await.is(204);
    assert_eq!(asked.header("range"), "0-6");
    assert!(!asked.header("location").is_empty());
    // The last chunk comes with the PUT.
    let uri = format!("{location}&digest={}", Digest::sha256(b"firstly, this"));
    let headers = [("content-range", "7-12")];
    let answer = registry
        .send_bytes(Method::PUT, &uri, &headers, ", this")
        .await
        .is(201);
    let blob = registry.get(answer.header("location")).await.is(200);
    assert_eq!(blob.bytes(), b"firstly, this");
}

#[tokio::test]
async fn uploads_as_streams() {
    let registry = Registry::new();
    let location = registry.start("team/app").await;
    // As docker does it: no length, no type, no range; then an empty PUT.
    let request = Request::patch(&location)
        .body(streamed(vec![Ok(b"first"), Ok(b"ly")]))
        .unwrap();
    let answer = registry.send(request).await.is(202);
    assert_eq!(answer.header("range"), "0-6");
    let location = answer.header("location").to_owned();
    registry
        .finish(&location, &Digest::sha256(b"firstly"), b"")
        .await
        .is(201);
}

#[tokio::test]
async fn chunks_out_of_order_leave_the_upload_as_it_is() {
    let registry = Registry::new();
    let location = registry.start("team/app").await;
    registry.patch(&location, "0-4", b"first").await.is(202);
    for (method, range) in [
        (Method::PATCH, "6-7"),
        (Method::PATCH, "0-1"),
        (Method::PUT, "6-7"),
        (Method::PUT, "0-1"),
    ] {
        let uri = format!("{location}&digest={}", Digest::sha256(b"firstly"));
        let headers = [("content-range", range)];
        let answer = registry
            .send_bytes(method, &uri, &headers, "ly")
            .await
            .is(416);
        assert_eq!(answer.code(), ErrorCode::RangeInvalid);
        assert_eq!(answer.header("range"), "0-4");
        assert_eq!(answer.header("location"), location);
    }
    assert_eq!(registry.get(&location).await.is(204).header("range"), "0-4");
    registry.patch(&location, "5-6", b"ly").await.is(202);
    registry
        .finish(&location, &Digest::sha256(b"firstly"), b"")
        .await
        .is(201);
}

#[tokio::test]
async fn chunks_have_the_bytes_they_say() {
    let registry = Registry::new();
    let location = registry.start("team/app").await;
    let answer = registry.patch(&location, "0-9", b"short").await.is(400);
    assert_eq!(answer.code(), ErrorCode::SizeInvalid);
    let answer = registry.patch(&location, "x", b"short").await.is(400);
    assert_eq!(answer.code(), ErrorCode::BlobUploadInvalid);
    // Too many bytes are not taken; too few are, and the upload goes on from there.
    for (range, progress) in [("0-1", "0-0"), ("0-9", "0-4")] {
        let request = Request::patch(&location)
            .header("content-range", range)
            .body(streamed(vec![Ok(b"short")]))
            .unwrap();
        let answer = registry.send(request).await.is(400);
        assert_eq!(answer.code(), ErrorCode::SizeInvalid);
        let asked = registry.get(&location).await.is(204);
        assert_eq!(asked.header("range"), progress);
    }
    registry.patch(&location, "5-6", b"er").await.is(202);
    registry
        .finish(&location, &Digest::sha256(b"shorter"), b"")
        .await
        .is(201);
}

#[tokio::test]
async fn an_interrupted_body_leaves_what_came() {
    let registry = Registry::new();
    let location = registry.start("team/app").await;
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let request = Request::patch(&location)
        .body(streamed(vec![Ok(b"first"), Err(broken)]))
        .unwrap();
    registry.send(request).await.is(400);
    assert_eq!(registry.get(&location).await.is(204).header("range"), "0-4");
    registry.patch(&location, "5-6", b"ly").await.is(202);
    registry
        .finish(&location, &Digest::sha256(b"firstly"), b"")
        .await
        .is(201);
}

#[tokio::test]
async fn uploads_are_given_up_or_unknown() {
    let registry = Registry::new();
    let location = registry.start("team/app").await;
    registry.ask(Method::DELETE, &location, &[]).await.is(204);
    let elsewhere = location.replace("team/app", "team/other");
    let (without_state, _) = location.split_once('?').unwrap();
    for uri in [&location, &elsewhere, without_state] {
        for method in [Method::GET, Method::PATCH, Method::DELETE] {
            let answer = registry.ask(method, uri, &[]).await.is(404);
            assert_eq!(answer.code(), ErrorCode::BlobUploadUnknown);
        }
    }
}

#[tokio::test]
async fn any_proxy_goes_on_with_an_upload() {
    let one = Registry::new();
    let secret = UploadSecret::new(b"secret");
    let writes = Writes::Here(one.fake.clone(), secret);
    let other = Registry {
        router: crate::router(one.fake.clone(), writes, Options::default()),
        fake: one.fake.clone(),
    };
    let location = one.start("team/app").await;
    other.patch(&location, "0-4", b"first").await.is(202);
    one.patch(&location, "5-6", b"ly").await.is(202);
    other
        .finish(&location, &Digest::sha256(b"firstly"), b"")
        .await
        .is(201);
}

#[tokio::test]
async fn wrong_content_is_refused_in_every_way() {
    let registry = Registry::new();
    for digest in [
        Digest::sha256(b"right"),
        Digest::of(Algorithm::Sha512, b"right"),
    ] {
        let wrong = |answer: Answer| assert_eq!(answer.is(400).code(), ErrorCode::DigestInvalid);
        let uri = format!("/v2/a/blobs/uploads/?digest={digest}");
        wrong(registry.send_bytes(Method::POST, &uri, &[], "wrong").await);

        let location = registry.start("a").await;
        wrong(registry.finish(&location, &digest, b"wrong").await);

        let location = registry.start("a").await;
        registry.patch(&location, "0-4", b"wrong").await.is(202);
        wrong(registry.finish(&location, &digest, b"").await);

        let location = registry.start("a").await;
        registry.patch(&location, "0-1", b"wr").await.is(202);
        wrong(registry.finish(&location, &digest, b"ong").await);

        let location = registry.start("a").await;
        let request = Request::patch(&location)
            .body(streamed(vec![Ok(b"wrong")]))
            .unwrap();
        registry.send(request).await.is(202);
        wrong(registry.finish(&location, &digest, b"").await);
    }
    assert_eq!((registry.fake.blobs(), registry.fake.uploads()), (0, 0));
    let location = registry.start("a").await;
    for query in ["", "&digest=", "&digest=sha256:baddigeststring"] {
        let uri = format!("{location}{query}");
        let answer = registry
            .send_bytes(Method::PUT, &uri, &[], "x")
            .await
            .is(400);
        assert_eq!(answer.code(), ErrorCode::DigestInvalid);
    }
}

#[tokio::test]
async fn a_whole_blob_that_breaks_off_leaves_nothing() {
    let registry = Registry::new();
    let uri = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(b"right"));
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let request = Request::post(&uri)
        .body(streamed(vec![Ok(b"ri"), Err(broken)]))
        .unwrap();
    registry.send(request).await.is(400);
    assert_eq!((registry.fake.blobs(), registry.fake.uploads()), (0, 0));
}

#[tokio::test]
async fn mounts() {
    let registry = Registry::new();
    let digest = registry.push_blob("team/app", b"layer").await;
    let mount = |digest: Digest, from: &str| format!("/v2/b/blobs/uploads/?mount={digest}{from}");
    let answer = registry
        .ask(Method::POST, &mount(digest, "&from=team/app"), &[])
        .await
        .is(201);
    assert_eq!(answer.header("location"), format!("/v2/b/blobs/{digest}"));
    assert_eq!(
        registry
            .get(answer.header("location"))
            .await
            .is(200)
            .bytes(),
        b"layer"
    );

    let unknown = Digest::sha256(b"unknown");
    for uri in [
        mount(unknown, "&from=team/app"),
        mount(digest, "&from=team/none"),
        mount(digest, "&from=NONE"),
        mount(unknown, ""),
    ] {
        let answer = registry.ask(Method::POST, &uri, &[]).await.is(202);
        let location = answer.header("location");
        registry
            .finish(location, &Digest::sha256(b"usable"), b"usable")
            .await
            .is(201);
    }
}
