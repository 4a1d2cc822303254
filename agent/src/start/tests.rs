use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::bench::{self, Index};

async fn listeners() -> Listeners {
    Listeners {
        registry: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        peer: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        forward_proxy: None,
    }
}

async fn config(folder: &tempfile::TempDir) -> (Config, Arc<Index>) {
    let (index, addr) = Index::start().await;
    let config = Config {
        cluster: bench::cluster(addr),
        cluster_key: Some(bench::key().public()),
        cache: crate::config::Cache {
            folder: folder.path().join("cache"),
            ..Default::default()
        },
        proxies: vec!["127.0.0.1:1".parse().unwrap()],
        ..Config::default()
    };
    (config, index)
}

#[tokio::test]
async fn an_agent_serves_what_it_kept_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (config, index) = config(&folder).await;
    let bytes = bench::bytes(1_500_000, 1);
    let digest = {
        let cache = store::Config::new(&config.cache.folder, 1 << 30);
        let cache = Cache::open(cache, bench::key().public()).unwrap();
        bench::put(&cache, &bytes).0
    };
    index.push("team/app", "v1", &[(digest, bytes.len() as u64)]);

    // Twice: the folder is free again after the end.
    for _ in 0..2 {
        let listeners = listeners().await;
        let url = format!("http://{}/v2/", listeners.registry.local_addr().unwrap());
        let stop = CancellationToken::new();
        let running = start(config.clone(), listeners, stop.clone())
            .await
            .unwrap();
        let get = async |path: &str| {
            let answer = reqwest::get(format!("{url}{path}")).await.unwrap();
            (answer.status().as_u16(), answer.bytes().await.unwrap())
        };
        assert_eq!(get("").await.0, 200);
        assert_eq!(get("team/app/manifests/v1").await.0, 200);
        let (status, body) = get(&format!("team/app/blobs/{digest}")).await;
        assert!(status == 200 && body == bytes);
        let delete = reqwest::Client::new().delete(format!("{url}team/app/manifests/v1"));
        assert_eq!(
            delete.send().await.unwrap().status(),
            503,
            "no proxy is there"
        );

        let status = running.admin.status().await;
        let status: api::agent::Status = serde_json::from_value(status).unwrap();
        assert_eq!((status.cache.blobs, status.cache.bytes), (1, 1_500_000));
        assert_eq!(status.trackers.len(), 1);
        stop.cancel();
        running.wait().await.unwrap();
    }
}

/// Sends a request as it stands and returns the whole answer.
async fn ask(addr: std::net::SocketAddr, request: &str) -> Vec<u8> {
    let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("{request}host: a\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_forward_proxy_serves_what_the_registry_has() {
    let folder = tempfile::tempdir().unwrap();
    let (mut config, index) = config(&folder).await;
    config.forward_proxy_addr = Some("127.0.0.1:0".parse().unwrap());
    config.forward_proxy_hosts = ["registry.test".parse().unwrap()].into();
    // Of the registry's own port; behind the proxy an absence would be final.
    config.fallback = registry::Fallback::Mirror;
    config.part_wait = std::time::Duration::from_millis(200);
    let bytes = bench::bytes(1_500_000, 1);
    let digest = {
        let cache = store::Config::new(&config.cache.folder, 1 << 30);
        let cache = Cache::open(cache, bench::key().public()).unwrap();
        bench::put(&cache, &bytes).0
    };
    let gone = oci::Digest::sha256(b"in no cache, and no origin answers");
    let blobs = [(digest, bytes.len() as u64), (gone, 5_000_000)];
    index.push("team/app", "v1", &blobs);
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = proxy.local_addr().unwrap();
    let listeners = Listeners {
        forward_proxy: Some(proxy),
        ..listeners().await
    };
    let stop = CancellationToken::new();
    let running = start(config, listeners, stop.clone()).await.unwrap();

    let unknown = oci::Digest::sha256(b"no manifest has it");
    let (at, range) = ("http://registry.test/v2/team/app", "range: bytes=10-19\r\n");
    for (request, status) in [
        (
            format!("GET {at}/blobs/{digest} HTTP/1.1\r\n{range}content-length: 0\r\n"),
            206,
        ),
        (format!("HEAD {at}/blobs/{digest} HTTP/1.1\r\n"), 200),
        (format!("GET {at}/manifests/v1 HTTP/1.1\r\n"), 200),
        (format!("GET {at}/blobs/{unknown} HTTP/1.1\r\n{range}"), 404),
        (format!("GET {at}/blobs/{gone} HTTP/1.1\r\n{range}"), 503),
        ("GET /v2/ HTTP/1.1\r\n".to_owned(), 200),
        (format!("DELETE {at}/manifests/v1 HTTP/1.1\r\n"), 405),
        (
            format!("PUT {at}/manifests/v1 HTTP/1.1\r\ncontent-length: 2\r\n"),
            403,
        ),
        ("CONNECT registry.test:443 HTTP/1.1\r\n".to_owned(), 403),
        ("GET http://docker.io/v2/ HTTP/1.1\r\n".to_owned(), 403),
    ] {
        let answer = ask(addr, &request).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}{text}"
        );
        if status == 206 {
            let range = "content-range: bytes 10-19/1500000\r\n";
            assert!(text.contains(range), "{text}");
            let end = [b"\r\n\r\n", &bytes[10..20]].concat();
            assert!(answer.ends_with(&end), "{text}");
        }
    }
    stop.cancel();
    running.wait().await.unwrap();
}

#[tokio::test]
async fn who_cannot_start_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (good, _index) = config(&folder).await;
    let refused = async |config: Config, listeners: Listeners| {
        let started = start(config, listeners, CancellationToken::new()).await;
        started.unwrap_err().to_string()
    };
    let mut no_key = good.clone();
    no_key.cluster_key = None;
    assert!(
        refused(no_key, listeners().await)
            .await
            .contains("`cluster_key` is missing")
    );
    let mut no_members = good.clone();
    no_members.cluster.trackers = api::Members::default();
    assert!(
        refused(no_members, listeners().await)
            .await
            .contains("`cluster.trackers` is empty")
    );
    let mut no_proxy = good.clone();
    no_proxy.proxies.clear();
    assert!(
        refused(no_proxy.clone(), listeners().await)
            .await
            .contains("`writes: refuse`")
    );
    let mut no_host = good.clone();
    no_host.forward_proxy_addr = Some("127.0.0.1:0".parse().unwrap());
    assert!(
        refused(no_host, listeners().await)
            .await
            .contains("`forward_proxy_hosts` is empty")
    );
    let everywhere = Listeners {
        peer: TcpListener::bind("0.0.0.0:0").await.unwrap(),
        ..listeners().await
    };
    assert!(
        refused(good.clone(), everywhere)
            .await
            .contains("`advertised_peer_addr`")
    );

    no_proxy.writes = Writes::Refuse;
    let stop = CancellationToken::new();
    let running = start(no_proxy, listeners().await, stop.clone())
        .await
        .unwrap();
    let text = refused(good, listeners().await).await;
    assert!(text.contains("in use by another process"), "{text}");
    stop.cancel();
    running.wait().await.unwrap();
}
