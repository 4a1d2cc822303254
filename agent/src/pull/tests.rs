use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::{Http, Limits};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use registry::Extent;
use store::Cache;
use tokio::net::TcpListener;
use torrent::{Description, Peer, PeerId, Role};

use super::*;
use crate::bench::{self, Index};
use crate::cache::CachedPieces;

struct Bench {
    _folder: tempfile::TempDir,
    index: Arc<Index>,
    cache: Arc<Cache>,
    node: Node,
    pull: SwarmPull,
    repository: RepositoryName,
}

async fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let (index, addr) = Index::start().await;
    let public = bench::key().public();
    let cache = store::Config::new(folder.path().join("cache"), 1 << 30);
    let cache = Arc::new(Cache::open(cache, public).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cluster = Arc::new(bench::cluster(addr));
    let node = Node::start(peer::Setup {
        config: peer::Config::default(),
        me: Peer {
            id: PeerId::new([1; 20]),
            role: Role::Agent,
            zone: "".into(),
            addr: listener.local_addr().unwrap().to_string().into(),
        },
        listener,
        pieces: Arc::new(CachedPieces::new(Arc::clone(&cache))),
        cluster: Arc::clone(&cluster) as _,
        tls: service::tls::Tls::plain(),
        metrics: peer::Metrics::default(),
        key: Some(public),
        seed: 1,
    });
    let client = BuildIndexClient::new(Http::new(Limits::default()), cluster);
    let pull = SwarmPull::new(node.clone(), client, 1 << 20, Counter::default());
    Bench {
        _folder: folder,
        index,
        cache,
        node,
        pull,
        repository: "team/app".parse().unwrap(),
    }
}

impl Bench {
    /// Puts a blob into the cache and the swarm.
    async fn seed(&self, bytes: &Bytes) -> (Digest, u64) {
        let (digest, description): (_, Description) = bench::put(&self.cache, bytes);
        self.node.seed(vec![description]).await;
        (digest, bytes.len() as u64)
    }

    async fn read(&self, digest: &Digest, range: std::ops::Range<u64>) -> Bytes {
        let blob = self.pull.blob(&self.repository, digest).await.unwrap();
        let mut stream = blob.read(range, Extent::Part).await.unwrap();
        let mut all = BytesMut::new();
        while let Some(part) = stream.next().await {
            all.extend_from_slice(&part.unwrap());
        }
        all.freeze()
    }

    async fn manifest(&self, reference: &str) -> Result<ManifestBytes, Error> {
        let reference = reference.parse().unwrap();
        self.pull.manifest(&self.repository, &reference).await
    }
}

#[tokio::test]
async fn an_image_is_resolved_and_read() {
    let bench = bench().await;
    let (config, layer) = (bench::bytes(100, 1), bench::bytes(2_500_000, 2));
    let blobs = [bench.seed(&config).await, bench.seed(&layer).await];
    let digest = bench.index.push("team/app", "v1", &blobs);
    let manifest = bench.manifest("v1").await.unwrap();
    assert_eq!(manifest.digest, digest);
    assert_eq!(Digest::sha256(&manifest.bytes), digest);
    assert_eq!(bench.index.asked(), 1);
    assert!(bench.read(&blobs[0].0, 0..100).await == config);
    let part = bench.read(&blobs[1].0, 1_000_000..1_100_000).await;
    assert!(part == layer[1_000_000..1_100_000]);
    let length = bench.pull.blob_length(&bench.repository, &blobs[1].0).await;
    assert_eq!(length.unwrap(), 2_500_000);
    assert_eq!(
        bench.index.asked(),
        0,
        "the manifest told what belongs to it"
    );
    let info = bench.manifest(&digest.to_string()).await.unwrap().info();
    assert_eq!(info.length, manifest.bytes.len() as u64);
    assert_eq!(bench.index.asked(), 0, "it was asked just now");
}

#[tokio::test]
async fn a_tag_is_asked_for_each_time() {
    let bench = bench().await;
    let blobs = [bench.seed(&bench::bytes(10, 1)).await];
    let other = [bench.seed(&bench::bytes(10, 2)).await];
    let first = bench.index.push("team/app", "v1", &blobs);
    assert_eq!(bench.manifest("v1").await.unwrap().digest, first);
    let second = bench.index.push("team/app", "v1", &other);
    assert_eq!(bench.manifest("v1").await.unwrap().digest, second);
    bench.index.delete("team/app", "v1");
    let gone = bench.manifest("v1").await;
    assert!(
        matches!(gone, Err(Error::ManifestUnknown { .. })),
        "{gone:?}"
    );
}

#[tokio::test]
async fn another_repository_does_not_get_it() {
    let bench = bench().await;
    let blobs = [bench.seed(&bench::bytes(10, 1)).await];
    let digest = bench.index.push("team/app", "v1", &blobs);
    bench.manifest("v1").await.unwrap();
    let other = "team/other".parse().unwrap();
    let manifest = bench
        .pull
        .manifest(&other, &Reference::Digest(digest))
        .await;
    assert!(matches!(manifest, Err(Error::ManifestUnknown { .. })));
    let blob = bench.pull.blob(&other, &blobs[0].0).await.err();
    assert!(matches!(blob, Some(Error::BlobUnknown { .. })), "{blob:?}");
    // The digest of a manifest names no blob of the repository.
    let blob = bench.pull.blob(&bench.repository, &digest).await.err();
    assert!(matches!(blob, Some(Error::BlobUnknown { .. })), "{blob:?}");
}

#[tokio::test]
async fn without_a_build_index_what_was_served_lately_still_is() {
    let bench = bench().await;
    let bytes = bench::bytes(10, 1);
    let blobs = [bench.seed(&bytes).await];
    let digest = bench.index.push("team/app", "v1", &blobs);
    bench.manifest("v1").await.unwrap();
    bench.index.is_down.store(true, Ordering::Relaxed);
    let tag = bench.manifest("v1").await;
    assert!(matches!(tag, Err(Error::Unavailable(_))), "no tag is stale");
    let unknown = Digest::sha256(b"unknown");
    let blob = bench.pull.blob_length(&bench.repository, &unknown).await;
    assert!(matches!(blob, Err(Error::Unavailable(_))), "{blob:?}");

    // Believed no more, and asked in vain.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    bench.index.asked();
    let stale = bench.manifest(&digest.to_string()).await.unwrap();
    assert_eq!(stale.digest, digest);
    assert!(bench.read(&blobs[0].0, 0..10).await == bytes);
    assert_eq!((bench.index.asked(), bench.pull.stale.get()), (2, 2));

    // Where one answers that it is gone, it is gone.
    bench.index.is_down.store(false, Ordering::Relaxed);
    bench.index.delete("team/app", &digest.to_string());
    for _ in 0..2 {
        let gone = bench.manifest(&digest.to_string()).await;
        assert!(
            matches!(gone, Err(Error::ManifestUnknown { .. })),
            "{gone:?}"
        );
        bench.index.is_down.store(true, Ordering::Relaxed);
        let gone = bench.manifest(&digest.to_string()).await;
        assert!(matches!(gone, Err(Error::Unavailable(_))), "{gone:?}");
        bench.index.is_down.store(false, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn what_was_deleted_here_is_gone_at_once() {
    let bench = bench().await;
    let blobs = [bench.seed(&bench::bytes(10, 1)).await];
    let digest = bench.index.push("team/app", "v1", &blobs);
    bench.manifest("v1").await.unwrap();
    bench.index.delete("team/app", &digest.to_string());
    bench.manifest(&digest.to_string()).await.unwrap();
    bench.pull.forget_all();
    let gone = bench.manifest(&digest.to_string()).await;
    assert!(
        matches!(gone, Err(Error::ManifestUnknown { .. })),
        "{gone:?}"
    );
}

#[tokio::test]
async fn wrong_bytes_of_a_build_index_are_refused() {
    let bench = bench().await;
    let blobs = [bench.seed(&bench::bytes(10, 1)).await];
    bench.index.push("team/app", "v1", &blobs);
    bench.index.lies.store(true, Ordering::Relaxed);
    let wrong = bench.manifest("v1").await;
    assert!(matches!(wrong, Err(Error::Unavailable(_))), "{wrong:?}");
}

#[tokio::test]
async fn blobs_of_no_bytes_and_of_the_wrong_length() {
    let bench = bench().await;
    let empty = (Digest::sha256(b""), 0);
    let lied = (bench.seed(&bench::bytes(10, 1)).await.0, 11);
    bench.index.push("team/app", "v1", &[empty, lied]);
    bench.manifest("v1").await.unwrap();
    assert_eq!(
        bench
            .pull
            .blob_length(&bench.repository, &empty.0)
            .await
            .unwrap(),
        0
    );
    let blob = bench.pull.blob(&bench.repository, &lied.0).await.unwrap();
    let read = blob.read(0..5, Extent::Part).await.err();
    assert!(matches!(&read, Some(Error::Unavailable(text)) if text.contains("10 bytes")));
}

#[tokio::test]
async fn lists_come_from_the_build_index() {
    let bench = bench().await;
    let page = Page {
        limit: 2,
        last: None,
    };
    let tags = bench.pull.tags(&bench.repository, &page).await.unwrap();
    assert_eq!((tags.names.len(), tags.next.as_deref()), (2, Some("v2")));
    let none = bench.pull.tags(&"team/none".parse().unwrap(), &page).await;
    assert!(matches!(none, Err(Error::NameUnknown(_))));
    let repositories = bench.pull.repositories(&page).await.unwrap();
    assert_eq!(repositories.names, ["team/app".parse().unwrap()]);
    let subject = Digest::sha256(b"a");
    let referrers = bench
        .pull
        .referrers(&bench.repository, &subject, None)
        .await;
    assert_eq!(referrers.unwrap(), []);
    bench.index.is_down.store(true, Ordering::Relaxed);
    let referrers = bench
        .pull
        .referrers(&bench.repository, &subject, None)
        .await;
    assert!(matches!(referrers, Err(Error::Unavailable(_))));
}
