use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::routing::{get, patch, put};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use oci::Digest;
use service::http::{Door, Options, serve};
use service::tls::{Authority, Config};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fake;
use crate::{Addr, BuildIndexClient, CallError, ErrorCode, Http, OriginClient, access, origin};

/// Certificates of a cluster, and what runs with them.
struct Cluster {
    folder: TempDir,
    authority: Authority,
    shutdown: CancellationToken,
}

fn valid() -> std::ops::Range<SystemTime> {
    let now = SystemTime::now();
    now - Duration::from_secs(60)..now + Duration::from_secs(3600)
}

impl Cluster {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (authority, made) = Authority::new(valid()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), made.certificate).unwrap();
        Self {
            folder,
            authority,
            shutdown: CancellationToken::new(),
        }
    }

    async fn open(&self, role: Role) -> Tls {
        let issued = self.authority.issue(&[role], None, valid()).unwrap();
        let path = |ending: &str| self.folder.path().join(format!("{role}.{ending}"));
        std::fs::write(path("pem"), issued.certificate).unwrap();
        std::fs::write(path("key"), issued.key).unwrap();
        let config = Config {
            certificate: Some(path("pem")),
            key: Some(path("key")),
            ca: Some(self.folder.path().join("ca.pem")),
        };
        Tls::open(&config, role, &self.shutdown).await.unwrap()
    }

    /// Serves as an origin does, and returns where.
    async fn serve(&self, router: Router) -> Addr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = Addr::from(listener.local_addr().unwrap());
        let tls = self.open(Role::Origin).await;
        let door = Door::of_cluster(listener, &tls, &access::ORIGIN);
        let shutdown = self.shutdown.clone();
        tokio::spawn(serve(door, router, Options::default(), shutdown));
        addr
    }

    async fn client(&self, role: Role, origin: &Addr) -> OriginClient {
        let tls = self.open(role).await;
        let http = Http::to(Role::Origin, &tls, Limits::default());
        OriginClient::new(http, fake::cluster(&[origin], &[]))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

const PART: usize = 100_000;

/// An origin that counts what it is sent, and breaks off in the middle of one blob when it is told.
fn routes(go: &Arc<Notify>) -> Router {
    let go = Arc::clone(go);
    let append = async |body: AxumBody| {
        let body = axum::body::to_bytes(body, 1 << 30).await.unwrap();
        axum::Json(origin::UploadOffset {
            offset: body.len() as u64,
        })
    };
    let read = move || async move {
        let first = stream::iter([Ok(Bytes::from(vec![1; PART]))]);
        let parts = first.chain(stream::once(async move {
            go.notified().await;
            Err(io::Error::other("the disk broke"))
        }));
        http::Response::builder()
            .status(206)
            .header("content-range", format!("bytes 0-{}/*", 2 * PART - 1))
            .header("content-length", 2 * PART)
            .body(AxumBody::from_stream(parts))
            .unwrap()
    };
    Router::new()
        .route(origin::UPLOAD, patch(append))
        .route(origin::BLOB, get(read))
        .route(origin::METAINFO, put(async || ()))
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let (cluster, go) = (Cluster::new(), Arc::default());
    let addr = cluster.serve(routes(&go)).await;
    let client = cluster.client(Role::Proxy, &addr).await;
    let parts = (0..50_u8).map(|number| Ok(Bytes::from(vec![number; PART])));
    let body = stream::iter(parts.collect::<Vec<_>>()).boxed();
    let sent = client.append("o0", "1", Some(0), body).await.unwrap();
    assert_eq!(sent, 50 * PART as u64);

    // What breaks off is an error, and no end.
    let digest = Digest::sha256(b"a");
    let mut body = client.read(0, &digest, 0..2 * PART as u64).await.unwrap();
    let mut came = 0;
    let end = loop {
        match body.next().await {
            Some(Ok(bytes)) => {
                came += bytes.len();
                if came == PART {
                    go.notify_one();
                }
            }
            other => break other,
        }
    };
    assert_eq!(came, PART);
    assert!(matches!(end, Some(Err(_))), "{end:?}");
}

#[tokio::test]
async fn a_role_that_may_not_is_refused() {
    let cluster = Cluster::new();
    let addr = cluster.serve(routes(&Arc::default())).await;
    let client = cluster.client(Role::Agent, &addr).await;
    let error = client.begin_upload().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Forbidden));
    assert!(error.is_permanent());
    let text = error.to_string();
    assert!(text.contains("role agent does not allow POST"), "{text}");
}

#[tokio::test]
async fn whoever_is_not_who_should_be_there_is_told_from_its_words() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let addr = cluster.serve(routes(&Arc::default())).await;
    let plain = fake::Server::start(|_| fake::error(ErrorCode::Internal)).await;
    let tls = cluster.open(Role::Proxy).await;
    let index = BuildIndexClient::new(
        Http::to(Role::BuildIndex, &tls, Limits::default()),
        fake::cluster(&[], &[&addr]),
    );
    let repository = "a".parse().unwrap();
    let wrong_role = index.tags(&repository, &Default::default()).await;
    let begin = async |client: OriginClient| client.begin_upload().await.map(|_| ());
    let without = OriginClient::new(fake::http(), fake::cluster(&[&addr], &[]));
    for (error, part) in [
        (wrong_role.map(|_| ()).unwrap_err(), "another role"),
        (
            begin(other.client(Role::Proxy, &addr).await)
                .await
                .unwrap_err(),
            "another cluster",
        ),
        (
            begin(cluster.client(Role::Proxy, &plain.addr).await)
                .await
                .unwrap_err(),
            "does not speak TLS",
        ),
        (begin(without).await.unwrap_err(), "takes TLS only"),
    ] {
        let is_told = matches!(
            error,
            CallError::Unreachable { .. } | CallError::Answer { .. }
        );
        assert!(is_told, "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// Who accepts a connection and then does not go on costs no more than who does not accept it.
#[tokio::test]
async fn the_handshake_is_within_the_time_for_a_connection() {
    let cluster = Cluster::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = Addr::from(listener.local_addr().unwrap());
    let tls = cluster.open(Role::Proxy).await;
    let limits = Limits {
        connect: Duration::from_millis(50),
        ..Limits::default()
    };
    let client = OriginClient::new(
        Http::to(Role::Origin, &tls, limits),
        fake::cluster(&[&addr], &[]),
    );
    let error = client.begin_upload().await.map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("no connection within 0.05 s"), "{text}");
    drop(listener);
}
