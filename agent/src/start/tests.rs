use std::sync::Arc;

use super::*;
use crate::bench::{self, Index};

async fn listeners() -> Listeners {
    Listeners {
        registry: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        peer: TcpListener::bind("127.0.0.1:0").await.unwrap(),
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
