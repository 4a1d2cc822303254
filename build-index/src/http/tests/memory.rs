//! What is remembered of the blobs of repositories, and for how long.

use backend::flaky::{Faults, FlakyBackend};
use futures_util::future::join_all;

use super::*;

/// Longer than storage is believed, and shorter than what is remembered.
const LATER: Duration = Duration::from_secs(6);

struct Bench {
    index: Index,
    storage: Arc<FlakyBackend>,
    blob: Digest,
    path: String,
}

async fn bench() -> Bench {
    let memory = Arc::new(MemoryBackend::new());
    let storage = Arc::new(FlakyBackend::new(memory, 1, Faults::default()));
    let index = Index::new(Arc::clone(&storage) as _);
    let blob = index.push_blob("a", "layer").await;
    let path = format!("/a/blobs/{blob}");
    Bench {
        index,
        storage,
        blob,
        path,
    }
}

impl Bench {
    async fn stat(&self) -> BlobStat {
        self.index.get(&self.path).await.json(200)
    }

    fn cut(&self) {
        self.storage.set(Faults {
            error: 1.0,
            ..Faults::default()
        });
    }

    /// Another build-index over the same storage.
    fn other(&self) -> Index {
        Index::new(Arc::clone(&self.index.backend))
    }
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_for_a_blob_cost_one_look() {
    let bench = bench().await;
    let looks = || bench.index.metrics.blob_looks.get();
    let slow = Some(Duration::from_millis(100));
    bench.storage.set(Faults {
        slow_first_byte: slow,
        ..Faults::default()
    });
    let all = || join_all((0..8).map(|_| bench.stat()));
    let later = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        all().await
    };
    let (first, later) = tokio::join!(all(), later);
    for stat in first.into_iter().chain(later) {
        assert_eq!(stat.length, Some(5));
    }
    assert_eq!(looks(), 1, "they asked before it was answered");
    // Who believes it counts on from when it was seen.
    tokio::time::advance(Duration::from_secs(4)).await;
    let stat = bench.stat().await;
    assert!((4100..5000).contains(&stat.age_ms), "{stat:?}");
    assert_eq!(looks(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    all().await;
    assert_eq!(looks(), 2, "it was too old");
}

/// Through this build-index at once, through another one within seconds.
#[tokio::test(start_paused = true)]
async fn a_blob_that_was_removed_is_not_remembered() {
    let bench = bench().await;
    let unknown = async || {
        let answer = bench.index.get(&bench.path).await;
        answer.is(404, ErrorCode::BlobUnknown);
    };
    bench.stat().await;
    assert_eq!(bench.index.delete(&bench.path).await.status, 204);
    unknown().await;
    bench.index.push_blob("a", "layer").await;
    bench.stat().await;
    assert_eq!(bench.other().delete(&bench.path).await.status, 204);
    tokio::time::advance(LATER).await;
    unknown().await;
    // Nor when storage cannot be asked any more.
    bench.cut();
    let answer = bench.index.get(&bench.path).await;
    answer.is(503, ErrorCode::Unavailable);
}

/// What is written rests on storage alone.
#[tokio::test]
async fn a_manifest_needs_its_blobs_in_storage() {
    let bench = bench().await;
    bench.stat().await;
    assert_eq!(bench.other().delete(&bench.path).await.status, 204);
    let value = manifest(&bench.blob, &[]);
    let refused = bench.index.put("/a/manifests/v1", None, &value).await;
    refused.is(400, ErrorCode::ManifestBlobUnknown);
    let mount = format!("/b/blobs/{}?from=a", bench.blob);
    let put = bench.index.send(Method::PUT, &mount, None, Body::empty());
    put.await.is(404, ErrorCode::BlobUnknown);
}

#[tokio::test(start_paused = true)]
async fn what_a_manifest_names_is_known_while_storage_is_away() {
    let bench = bench().await;
    let value = manifest(&bench.blob, &[]);
    let _: ManifestStored = bench
        .index
        .put("/a/manifests/v1", None, &value)
        .await
        .json(201);
    // One that stored it, one that gave it, one that did neither.
    let reader = bench.other();
    assert_eq!(reader.get("/a/manifests/v1").await.status, 200);
    bench.cut();
    for index in [&bench.index, &reader] {
        let stat: BlobStat = index.get(&bench.path).await.json(200);
        assert_eq!(stat.length, Some(5));
        assert_eq!(index.metrics.stale_blobs.get(), 1);
        // Another repository need not have it.
        let elsewhere = index.get(&format!("/b/blobs/{}", bench.blob)).await;
        elsewhere.is(503, ErrorCode::Unavailable);
    }
    let stranger = bench.other().get(&bench.path).await;
    stranger.is(503, ErrorCode::Unavailable);
    tokio::time::advance(Duration::from_secs(3600)).await;
    let forgotten = bench.index.get(&bench.path).await;
    forgotten.is(503, ErrorCode::Unavailable);
    // Storage is asked first, and is right.
    bench.storage.set(Faults::default());
    assert_eq!(bench.other().delete(&bench.path).await.status, 204);
    let gone = reader.get(&bench.path).await;
    gone.is(404, ErrorCode::BlobUnknown);
}

/// Storage that hangs is not waited for as long where the answer is remembered.
#[tokio::test(start_paused = true)]
async fn storage_that_hangs_delays_what_is_known_a_little() {
    let bench = bench().await;
    bench.stat().await;
    tokio::time::advance(LATER).await;
    bench.storage.set(Faults {
        slow_first_byte: Some(Duration::from_secs(3600)),
        ..Faults::default()
    });
    let start = tokio::time::Instant::now();
    assert_eq!(bench.stat().await.length, Some(5));
    let config = Config::default();
    let took = start.elapsed();
    assert!(took < config.read_wait / 2, "{took:?}");
}
