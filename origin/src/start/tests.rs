use std::path::Path;

use api::{Cluster, ErrorCode, Http, Limits, OriginClient};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci::Digest;

use super::*;

mod several;

struct Started {
    running: Running,
    stop: CancellationToken,
    client: OriginClient,
}

async fn listeners() -> Listeners {
    Listeners {
        http: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        peer: TcpListener::bind("127.0.0.1:0").await.unwrap(),
    }
}

fn config(folder: &Path, listeners: &Listeners) -> Config {
    let addr = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let gone = "127.0.0.1:1";
    let cluster = serde_json::json!({
        "origins": [
            {"name": "origin-1", "http": addr(&listeners.http), "peer": addr(&listeners.peer)},
            {"name": "origin-2", "http": gone, "peer": gone},
        ],
        "trackers": [{"name": "tracker-1", "peer": gone}],
    });
    let root = folder.join("backend");
    std::fs::create_dir_all(&root).unwrap();
    Config {
        backend: backend::Config::Fs { root },
        cluster_key_file: folder.join("cluster.key"),
        cluster: serde_json::from_value(cluster).unwrap(),
        ..Config::default()
    }
}

async fn started(folder: &Path) -> Started {
    let listeners = listeners().await;
    let config = config(folder, &listeners);
    let stop = CancellationToken::new();
    let cluster: Cluster = config.cluster.clone();
    let running = start(config, listeners, stop.clone()).await.unwrap();
    let client = OriginClient::new(Http::new(Limits::default()), Arc::new(cluster));
    Started {
        running,
        stop,
        client,
    }
}

fn bytes(length: usize) -> Bytes {
    (0..length)
        .map(|i| u8::try_from(i * 7 % 251).unwrap())
        .collect()
}

fn body(bytes: &Bytes) -> api::BlobStream {
    let parts: Vec<_> = bytes
        .chunks(100_000)
        .map(|part| Ok(Bytes::copy_from_slice(part)))
        .collect();
    stream::iter(parts).boxed()
}

async fn read(client: &OriginClient, digest: &Digest, range: std::ops::Range<u64>) -> Vec<u8> {
    let first = client
        .order(digest)
        .into_iter()
        .find(|at| *at == 0)
        .unwrap();
    let stream = client.read(first, digest, range).await.unwrap();
    let parts: Vec<Bytes> = stream.try_collect().await.unwrap();
    parts.concat()
}

#[tokio::test]
async fn what_a_client_pushes_it_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let origin = started(folder.path()).await;
    let client = &origin.client;
    let bytes = bytes(2_500_000);
    let digest = Digest::sha256(&bytes);
    // The other origin cannot be reached; the first call may go there.
    let (member, id) = client.begin_upload().await.unwrap();
    let member = member.name.as_str();
    assert_eq!(member, "origin-1");
    let first = body(&bytes.slice(..1_000_000));
    assert_eq!(
        client.append(member, &id, Some(0), first).await.unwrap(),
        1_000_000
    );
    let wrong = client
        .append(member, &id, Some(5), body(&bytes))
        .await
        .unwrap_err();
    assert_eq!(wrong.code(), Some(ErrorCode::Offset));
    let rest = body(&bytes.slice(1_000_000..));
    client.append(member, &id, None, rest).await.unwrap();
    assert_eq!(client.upload_offset(member, &id).await.unwrap(), 2_500_000);
    for _ in 0..2 {
        let committed = client.commit(member, &id, &digest).await.unwrap();
        assert_eq!((committed.digest, committed.length), (digest, 2_500_000));
    }
    let gone = client.cancel(member, &id).await.unwrap_err();
    assert_eq!(gone.code(), Some(ErrorCode::UploadUnknown));

    assert!(read(client, &digest, 0..2_500_000).await == bytes);
    assert!(read(client, &digest, 1_048_570..1_048_580).await == bytes[1_048_570..1_048_580]);
    assert_eq!(client.length(&digest).await.unwrap(), 2_500_000);
    let beyond = client.read(0, &digest, 2_500_000..2_500_001).await.err();
    assert_eq!(beyond.unwrap().code(), Some(ErrorCode::Range));
    let unknown = Digest::sha256(b"unknown");
    let absent = client.length(&unknown).await.unwrap_err();
    assert_eq!(absent.code(), Some(ErrorCode::BlobUnknown));

    let status = origin.running.admin.status().await;
    assert_eq!(status["blobs"], 1, "the swarm was told");
    let key = key::load_or_create(&folder.path().join("cluster.key")).unwrap();
    assert_eq!(status["cluster_key"], key.public().to_string());
    let metrics = origin.running.admin.metrics();
    for line in [
        "origin_uploads_total 1",
        "origin_committed_bytes_total 2500000",
    ] {
        assert!(metrics.contains(line), "{line}:\n{metrics}");
    }

    // One origin could not be told, the others were.
    assert!(client.delete(&digest).await.is_err());
    let absent = client.length(&digest).await.unwrap_err();
    assert_eq!(absent.code(), Some(ErrorCode::BlobUnknown));
    assert_eq!(origin.running.admin.status().await["blobs"], 0);
    origin.stop.cancel();
    origin.running.wait().await.unwrap();
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = bytes(300_000);
    let first = started(folder.path()).await;
    let (member, id) = first.client.begin_upload().await.unwrap();
    let part = body(&bytes.slice(..200_000));
    let appended = first.client.append(member.name.as_str(), &id, None, part);
    appended.await.unwrap();
    first.stop.cancel();
    first.running.wait().await.unwrap();

    let second = started(folder.path()).await;
    let (client, member) = (&second.client, member.name.as_str());
    let rest = body(&bytes.slice(200_000..));
    client
        .append(member, &id, Some(200_000), rest)
        .await
        .unwrap();
    let digest = Digest::sha256(&bytes);
    client.commit(member, &id, &digest).await.unwrap();
    assert!(read(client, &digest, 0..300_000).await == bytes);
    second.stop.cancel();
    second.running.wait().await.unwrap();
}

#[tokio::test]
async fn who_cannot_start_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let listeners_of_good = listeners().await;
    let good = config(folder.path(), &listeners_of_good);
    let refused = async |config: Config| {
        let started = start(config, listeners().await, CancellationToken::new()).await;
        started.unwrap_err().to_string()
    };
    let other = Config {
        name: "origin-9".parse().unwrap(),
        ..good.clone()
    };
    let text = refused(other).await;
    assert!(
        text.contains("\"origin-9\" is not in `cluster.origins`"),
        "{text}"
    );
    let memory = Config {
        backend: backend::Config::Memory,
        ..good.clone()
    };
    assert!(refused(memory).await.contains("set `staging`"));
    let missing = Config {
        backend: backend::Config::Fs {
            root: folder.path().join("missing"),
        },
        ..good.clone()
    };
    assert!(refused(missing).await.contains("create it"));
    std::fs::write(folder.path().join("a-file"), "no key").unwrap();
    let key = Config {
        cluster_key_file: folder.path().join("a-file"),
        ..good.clone()
    };
    assert!(refused(key).await.contains("no cluster key"));

    let stop = CancellationToken::new();
    let running = start(good.clone(), listeners_of_good, stop.clone()).await;
    let text = refused(good).await;
    assert!(text.contains("in use by another process"), "{text}");
    stop.cancel();
    running.unwrap().wait().await.unwrap();
}
