//! The router before an honest registry in memory, driven request by request. The names of cases
//! follow the order of the specification: pull, push, discovery, management.

mod fake;
mod reads;
mod sockets;
mod uploads;
mod writes;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use oci::{Digest, ErrorBody, ErrorCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::tests::fake::Fake;
use crate::{Options, UploadSecret, Writes, router};

/// An answer, read whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// `None` where the body broke off.
    body: Option<Bytes>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    fn bytes(&self) -> &[u8] {
        self.body.as_ref().expect("the body came whole")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(self.bytes()).unwrap()
    }

    fn code(&self) -> ErrorCode {
        let body: ErrorBody = serde_json::from_slice(self.bytes()).unwrap();
        body.errors[0].code
    }

    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(
            self.status.as_u16(),
            status,
            "{:?} {:?}",
            self.headers,
            self.body
        );
        self
    }
}

struct Registry {
    fake: Arc<Fake>,
    router: Router,
}

impl Registry {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let fake = Arc::new(Fake::default());
        let secret = UploadSecret::new(b"secret");
        let router = router(fake.clone(), Writes::Here(fake.clone(), secret), options);
        Self { fake, router }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.ok();
        assert_eq!(
            parts
                .headers
                .get("docker-distribution-api-version")
                .unwrap(),
            "registry/2.0"
        );
        assert!(!parts.headers.contains_key("content-encoding"));
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn ask(&self, method: Method, uri: &str, headers: &[(&str, &str)]) -> Answer {
        self.send_bytes(method, uri, headers, Bytes::new()).await
    }

    async fn get(&self, uri: &str) -> Answer {
        self.ask(Method::GET, uri, &[]).await
    }

    async fn head(&self, uri: &str) -> Answer {
        let answer = self.ask(Method::HEAD, uri, &[]).await;
        assert!(answer.bytes().is_empty());
        answer
    }

    /// Sends a body as hyper hands it on: its length is known.
    async fn send_bytes(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let body = body.into();
        let mut request = Request::builder().method(method).uri(uri);
        request = request.header("content-length", body.len());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    /// Pushes a blob in one request.
    async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let uri = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let answer = self
            .send_bytes(Method::POST, &uri, &[], bytes.to_vec())
            .await;
        answer.is(201);
        digest
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Returns an image manifest whose config and layer are `{}`.
fn image() -> Value {
    let empty = json!({
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": Digest::sha256(b"{}"),
        "size": 2,
    });
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": empty,
        "layers": [empty],
    })
}
