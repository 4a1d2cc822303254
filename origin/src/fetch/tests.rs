use std::time::Duration;

use backend::flaky::{Faults, FlakyBackend};
use backend::memory::MemoryBackend;
use backend::{Backend, Condition, layout};
use bytes::Bytes;
use oci::Algorithm;
use torrent::{ClusterKey, MetaInfo};

use super::*;

const MIB: usize = 1 << 20;

struct Bench {
    backend: Arc<FlakyBackend>,
    fetcher: Arc<Fetcher>,
    events: mpsc::Receiver<Event>,
}

fn bench(seed: u64, faults: Faults) -> Bench {
    let backend = Arc::new(FlakyBackend::new(
        Arc::new(MemoryBackend::new()),
        seed,
        faults,
    ));
    let blobs = Blobs::new(
        Arc::clone(&backend) as Arc<dyn Backend>,
        ClusterKey::from_seed([3; 32]),
    );
    let (fetcher, events) = Fetcher::new(Arc::new(blobs), Limits::default());
    Bench {
        backend,
        fetcher,
        events,
    }
}

fn bytes(length: usize) -> Bytes {
    (0..length)
        .map(|i| u8::try_from(i * 11 % 251).unwrap())
        .collect()
}

impl Bench {
    /// Stores content as docker-registry does: nothing beside it.
    async fn store(&self, digest: &Digest, bytes: Bytes) {
        let key = layout::blob(digest);
        self.backend.put(&key, bytes, Condition::Any).await.unwrap();
    }

    /// Follows a growing blob to its end; returns its pieces' values and how it ended.
    async fn follow(&mut self) -> (Vec<SignedCv>, Event) {
        let mut values = Vec::new();
        loop {
            match self.events.recv().await.unwrap() {
                Event::Begun { .. } => assert!(values.is_empty()),
                Event::Hashed { signed, .. } => values.push(signed),
                end @ (Event::Grown { .. } | Event::Revoked { .. }) => return (values, end),
            }
        }
    }
}

fn growing(resolution: &Found) -> GrowingMetaInfo {
    let Found::Here(Description::Growing(head)) = resolution else {
        panic!("{resolution:?}")
    };
    *head
}

fn complete(resolution: &Found) -> torrent::Summary {
    let Found::Here(Description::Complete(summary)) = resolution else {
        panic!("{resolution:?}")
    };
    *summary
}

fn tree(bytes: &[u8]) -> Tree {
    let mut hasher = TreeHasher::new();
    hasher.update(bytes);
    hasher.finish().unwrap()
}

#[tokio::test]
async fn what_storage_lacks_is_absent() {
    let bench = bench(1, Faults::default());
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let resolution = bench.fetcher.resolve(&Digest::of(algorithm, b"x")).await;
        assert!(matches!(resolution, Found::Absent), "{resolution:?}");
    }
}

#[tokio::test]
async fn a_blob_nobody_hashed_grows_and_is_read_once() {
    let mut bench = bench(2, Faults::default());
    let bytes = bytes(6 * MIB + 12_345);
    let digest = Digest::sha256(&bytes);
    bench.store(&digest, bytes.clone()).await;
    let fetcher = Arc::clone(&bench.fetcher);
    let asked = futures_util::future::join_all((0..16).map(|_| fetcher.resolve(&digest))).await;
    let head = growing(&asked[0]);
    assert!(asked.iter().all(|answer| growing(answer) == head));
    let public = ClusterKey::from_seed([3; 32]).public();
    head.verify(&public).unwrap();

    let (values, end) = bench.follow().await;
    let tree = tree(&bytes);
    let geometry = *head.geometry();
    assert_eq!(values.len(), 7);
    for (piece, signed) in geometry.indexes().zip(&values) {
        assert_eq!(head.check_cv(&public, signed), Ok(piece));
        assert_eq!(signed.cv, tree.pieces[piece.as_usize()]);
    }
    let Event::Grown {
        description: Description::Complete(summary),
    } = end
    else {
        panic!("{end:?}")
    };
    let expected = MetaInfo::sign(&ClusterKey::from_seed([3; 32]), digest.into(), &tree).unwrap();
    assert_eq!(summary, *expected.summary());
    assert_eq!(
        bench.backend.read_bytes(),
        bytes.len() as u64,
        "read exactly once"
    );

    // Another origin finds what this one learned.
    let blobs = Blobs::new(bench.backend.clone(), ClusterKey::from_seed([3; 32]));
    let (other, _events) = Fetcher::new(Arc::new(blobs), Limits::default());
    assert_eq!(complete(&other.resolve(&digest).await), summary);
    assert_eq!(bench.backend.read_bytes(), bytes.len() as u64);
}

#[tokio::test]
async fn a_short_blob_is_hashed_at_once() {
    let bench = bench(3, Faults::default());
    for length in [0, 1, 70_000, 2 * MIB + 1] {
        let bytes = bytes(length);
        let digest = Digest::sha256(&bytes);
        bench.store(&digest, bytes.clone()).await;
        let summary = complete(&bench.fetcher.resolve(&digest).await);
        assert_eq!(*summary.root(), tree(&bytes).root);
    }
    let digest = Digest::sha256(b"expected");
    bench.store(&digest, "found".into()).await;
    let resolution = bench.fetcher.resolve(&digest).await;
    let Found::Failed(reason) = resolution else {
        panic!("{resolution:?}")
    };
    assert!(
        reason.contains(&digest.to_string()) && reason.contains("docker/registry/v2/blobs"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_source_that_lies_is_revoked_and_left_alone() {
    let mut bench = bench(4, Faults::default());
    let (right, wrong) = (bytes(5 * MIB), Bytes::from(vec![7; 5 * MIB]));
    let digest = Digest::sha256(&right);
    bench.store(&digest, wrong).await;
    let head = growing(&bench.fetcher.resolve(&digest).await);
    let (values, end) = bench.follow().await;
    assert_eq!(values.len(), 5);
    let Event::Revoked {
        name,
        generation,
        reason,
    } = end
    else {
        panic!("{end:?}")
    };
    assert_eq!((name, generation), (digest.into(), head.generation()));
    assert!(
        reason.contains(&digest.to_string()) && reason.contains(layout::blob(&digest).as_str()),
        "{reason}"
    );
    assert!(
        bench
            .backend
            .stat(&layout::metainfo(&digest))
            .await
            .unwrap_err()
            .is_not_found()
    );

    let read = bench.backend.read_bytes();
    for _ in 0..10 {
        // The job may not have taken its leave yet.
        while bench.fetcher.growing(&digest).is_some() {
            tokio::task::yield_now().await;
        }
        let again = bench.fetcher.resolve(&digest).await;
        assert!(
            matches!(&again, Found::Failed(text) if *text == reason),
            "{again:?}"
        );
    }
    assert_eq!(
        bench.backend.read_bytes(),
        read,
        "the source is not read again"
    );

    // Its validator changes: it is worth another try.
    bench.store(&digest, right).await;
    let second = growing(&bench.fetcher.resolve(&digest).await);
    assert_ne!(second.generation(), head.generation());
    let (_, end) = bench.follow().await;
    assert!(matches!(end, Event::Grown { .. }), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn failures_on_the_way_cost_only_time() {
    for seed in 0..8 {
        let faults = Faults {
            error: 0.2,
            truncated: 0.4,
            slow_first_byte: Some(Duration::from_secs(1)),
            ..Faults::default()
        };
        let mut bench = bench(seed, Faults::default());
        let bytes = bytes(5 * MIB + 1);
        let digest = Digest::sha256(&bytes);
        bench.store(&digest, bytes.clone()).await;
        bench.backend.set(faults);
        while let Found::Failed(_) = bench.fetcher.resolve(&digest).await {}
        let (values, end) = bench.follow().await;
        assert!(matches!(end, Event::Grown { .. }), "seed {seed}: {end:?}");
        assert_eq!(values.len(), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_under_way_is_revoked() {
    let mut bench = bench(5, Faults::default());
    let bytes = bytes(6 * MIB);
    let digest = Digest::sha256(&bytes);
    bench.store(&digest, bytes.clone()).await;
    // The first body breaks off; before the next one somebody writes something else.
    bench.backend.set(Faults {
        truncated: 1.0,
        ..Faults::default()
    });
    growing(&bench.fetcher.resolve(&digest).await);
    while bench.backend.read_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    bench.backend.set(Faults::default());
    bench.store(&digest, vec![1; 6 * MIB].into()).await;
    let (_, end) = bench.follow().await;
    let Event::Revoked { reason, .. } = end else {
        panic!("{end:?}")
    };
    assert!(reason.contains("changed while it was read"), "{reason}");
    // That is no reason to distrust what is there now, which is what the digest says again.
    bench.store(&digest, bytes).await;
    while bench.fetcher.growing(&digest).is_some() {
        tokio::task::yield_now().await;
    }
    growing(&bench.fetcher.resolve(&digest).await);
    let (_, end) = bench.follow().await;
    assert!(matches!(end, Event::Grown { .. }), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_stays_silent_is_given_up() {
    let mut bench = bench(6, Faults::default());
    let bytes = bytes(5 * MIB);
    let digest = Digest::sha256(&bytes);
    bench.store(&digest, bytes).await;
    bench.backend.set(Faults {
        slow_first_byte: Some(Duration::from_secs(3600)),
        ..Faults::default()
    });
    growing(&bench.fetcher.resolve(&digest).await);
    let (_, end) = bench.follow().await;
    let Event::Revoked { reason, .. } = end else {
        panic!("{end:?}")
    };
    assert!(reason.contains("no byte for 30 s"), "{reason}");
}

#[tokio::test]
async fn storage_that_fails_is_a_failure_not_an_absence() {
    let bench = bench(
        7,
        Faults {
            error: 1.0,
            ..Faults::default()
        },
    );
    let resolution = bench.fetcher.resolve(&Digest::sha256(b"x")).await;
    assert!(matches!(resolution, Found::Failed(_)), "{resolution:?}");
}

#[tokio::test(start_paused = true)]
async fn metainfo_that_does_not_hold_is_made_again() {
    let bench = bench(8, Faults::default());
    let bytes = bytes(2 * MIB);
    let digest = Digest::sha256(&bytes);
    bench.store(&digest, bytes.clone()).await;
    let other = ClusterKey::from_seed([9; 32]);
    let foreign = MetaInfo::sign(&other, digest.into(), &tree(&bytes)).unwrap();
    for damaged in [Bytes::from_static(b"junk"), foreign.to_bytes().into()] {
        let key = layout::metainfo(&digest);
        bench
            .backend
            .put(&key, damaged, Condition::Any)
            .await
            .unwrap();
        let (fresh, _events) = Fetcher::new(
            Arc::new(Blobs::new(
                bench.backend.clone(),
                ClusterKey::from_seed([3; 32]),
            )),
            Limits::default(),
        );
        let summary = complete(&fresh.resolve(&digest).await);
        summary
            .verify(&ClusterKey::from_seed([3; 32]).public())
            .unwrap();
    }
    // Content that is gone takes its metainfo with it, also where it is remembered.
    assert!(matches!(
        bench.fetcher.resolve(&digest).await,
        Found::Here(_)
    ));
    bench.backend.delete(&layout::blob(&digest)).await.unwrap();
    tokio::time::advance(crate::blobs::KNOWN_FOR).await;
    assert!(matches!(
        bench.fetcher.resolve(&digest).await,
        Found::Absent
    ));
}
