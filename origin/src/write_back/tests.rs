use std::path::PathBuf;

use api::{Cluster, Http, Limits};
use backend::flaky::{Faults, FlakyBackend};
use backend::memory::MemoryBackend;

use super::*;

struct Bench {
    folder: tempfile::TempDir,
    store: Arc<FlakyBackend>,
    keep_bytes: u64,
}

/// One that runs.
struct Started {
    write_back: Arc<WriteBack>,
    running: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn new(keep_bytes: u64) -> Self {
        let store = FlakyBackend::new(Arc::new(MemoryBackend::new()), 1, Faults::default());
        Self {
            folder: tempfile::tempdir().unwrap(),
            store: Arc::new(store),
            keep_bytes,
        }
    }

    fn queue(&self) -> PathBuf {
        self.folder.path().join("queue")
    }

    async fn start(&self) -> Started {
        let held = Held::open(self.folder.path().join("held")).await.unwrap();
        let cluster =
            r#"{"origins": [{"name": "away", "http": "127.0.0.1:1", "peer": "127.0.0.1:1"}]}"#;
        let cluster: Cluster = serde_json::from_str(cluster).unwrap();
        let setup = Setup {
            held: Arc::new(held),
            store: Arc::clone(&self.store) as Arc<dyn Backend>,
            origins: OriginClient::new(Http::new(Limits::default()), Arc::new(cluster)),
            options: Options {
                parallel: NonZeroUsize::new(2).unwrap(),
                mirror_wait: Duration::from_millis(100),
                keep_bytes: self.keep_bytes,
            },
        };
        let write_back = WriteBack::open(&self.queue(), setup).await.unwrap();
        let running = tokio::spawn(Arc::clone(&write_back).run(1));
        Started {
            write_back,
            running,
        }
    }

    fn fail(&self, error: f64) {
        self.store.set(Faults {
            error,
            ..Faults::default()
        });
    }

    async fn is_stored(&self, content: &Digest) -> bool {
        self.store.stat(&layout::blob(content)).await.is_ok()
    }
}

impl Started {
    /// Holds a blob as an upload does.
    async fn push(&self, bytes: &'static [u8], task: &Task) -> Digest {
        let (content, held) = (Digest::sha256(bytes), self.write_back.held());
        let put = async |key: &Key, bytes: Bytes| {
            held.folder().put(key, bytes, Condition::Any).await.unwrap();
        };
        put(&layout::blob(&content), bytes.into()).await;
        put(&layout::metainfo(&content), "metainfo".into()).await;
        let sha512 = Digest::of(Algorithm::Sha512, bytes);
        put(&layout::alias(&sha512), layout::link_to(&content)).await;
        held.hold(&content, Some(&sha512)).await.unwrap();
        self.write_back.add(&content, task).await.unwrap();
        content
    }

    async fn until_stored(&self, content: &Digest) {
        let stored = self.write_back.held().until(content, |blob| blob.is_stored);
        tokio::time::timeout(Duration::from_secs(20), stored)
            .await
            .unwrap();
    }

    async fn until_failed(&self) {
        let failed = async {
            while self.write_back.pending().last_error.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), failed)
            .await
            .unwrap();
    }

    async fn stop(self) {
        self.running.abort();
        let _ = self.running.await;
    }
}

#[tokio::test]
async fn all_of_a_blob_gets_to_storage_and_is_kept() {
    let bench = Bench::new(100);
    let started = bench.start().await;
    let bytes: &[u8] = b"some bytes";
    let content = started.push(bytes, &Task::default()).await;
    started.until_stored(&content).await;
    let sha512 = Digest::of(Algorithm::Sha512, bytes);
    for (key, expected) in [
        (layout::blob(&content), bytes.to_vec()),
        (layout::metainfo(&content), b"metainfo".to_vec()),
        (layout::alias(&sha512), layout::link_to(&content).to_vec()),
    ] {
        assert_eq!(bench.store.read(&key, 1000).await.unwrap().0, expected);
    }
    let held = started.write_back.held();
    let object = held.get(&layout::blob(&content), None).await.unwrap();
    assert!(object.is_some(), "it can still be read here");
    assert_eq!(held.total(), crate::held::Total::default());
    // Nobody is told that it is there because of the copy.
    assert!(held.stat(&layout::blob(&content)).await.unwrap().is_none());
    for digest in [content, sha512] {
        let stored = started.write_back.stored(&digest, None, Duration::ZERO);
        let stored = stored.await.unwrap().unwrap();
        assert!(stored.stored && stored.sha256 == content && stored.length == 10);
    }
    let unknown = Digest::sha256(b"unknown");
    let stored = started.write_back.stored(&unknown, None, Duration::ZERO);
    assert_eq!(stored.await.unwrap(), None);
}

#[tokio::test]
async fn what_is_kept_is_bounded() {
    let bench = Bench::new(15);
    let started = bench.start().await;
    let mut pushed = Vec::new();
    for bytes in [b"aaaaaaaa", b"bbbbbbbb", b"cccccccc"] {
        let content = started.push(bytes, &Task::default()).await;
        started.until_stored(&content).await;
        pushed.push(content);
    }
    let held = started.write_back.held();
    let is_held = |content: &Digest| held.progress(content).is_some();
    let waiting = held.until(&pushed[1], |_| false);
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap();
    assert_eq!(
        pushed.iter().map(is_held).collect::<Vec<_>>(),
        [false, false, true]
    );
    for content in &pushed {
        assert!(bench.is_stored(content).await);
    }
}

#[tokio::test]
async fn a_store_that_fails_is_waited_for_through_restarts() {
    let bench = Bench::new(100);
    bench.fail(1.0);
    let first = bench.start().await;
    let name: RepositoryName = "team/app".parse().unwrap();
    let task = Task {
        repositories: vec![name.clone()],
        ..Task::default()
    };
    let content = first.push(b"some bytes", &task).await;
    first.until_failed().await;
    let stored = first
        .write_back
        .stored(&content, Some(&name), Duration::ZERO);
    let stored = stored.await.unwrap().unwrap();
    assert!(!stored.stored && stored.is_pushed && stored.length == 10);
    first.stop().await;

    let second = bench.start().await;
    assert_eq!(second.write_back.held().total().bytes, 10);
    assert!(second.write_back.held().is_pushed(&content, &name));
    second.until_failed().await;
    second.stop().await;
    // Without the queue the folder says what is to be done.
    std::fs::remove_file(bench.queue()).unwrap();
    bench.fail(0.0);
    let third = bench.start().await;
    let wait = Duration::from_secs(20);
    let stored = third.write_back.stored(&content, None, wait).await.unwrap();
    assert!(stored.unwrap().stored);
    assert!(bench.is_stored(&content).await);
    assert!(bench.store.stat(&layout::metainfo(&content)).await.is_ok());
}

#[tokio::test]
async fn a_flaky_store_gets_it_whole() {
    let bench = Bench::new(100);
    bench.store.set(Faults {
        error: 0.3,
        lost_answer: 0.3,
        ..Faults::default()
    });
    let started = bench.start().await;
    for bytes in [&b"one"[..], b"two", b"three", b"four"] {
        let content = started.push(bytes, &Task::default()).await;
        started.until_stored(&content).await;
        bench.fail(0.0);
        let read = bench.store.read(&layout::blob(&content), 100).await;
        assert_eq!(read.unwrap().0, bytes);
    }
}

#[tokio::test]
async fn a_second_copy_is_written_where_the_first_origin_is_away() {
    let bench = Bench::new(100);
    let started = bench.start().await;
    let name: RepositoryName = "team/app".parse().unwrap();
    let task = Task {
        mirror_of: Some("away".parse().unwrap()),
        repositories: vec![name.clone()],
    };
    let content = started.push(b"some bytes", &task).await;
    assert!(!bench.is_stored(&content).await, "it waits at first");
    started.until_stored(&content).await;
    assert!(bench.is_stored(&content).await);
    let held = started.write_back.held();
    assert!(held.is_pushed(&content, &name), "its manifest may come yet");
}

#[tokio::test]
async fn what_is_removed_meanwhile_does_not_come_back() {
    let bench = Bench::new(100);
    bench.fail(1.0);
    let started = bench.start().await;
    let content = started.push(b"some bytes", &Task::default()).await;
    started.until_failed().await;
    started.write_back.held().release(&content).await.unwrap();
    bench.fail(0.0);
    let done = async {
        while started.write_back.pending().tasks > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), done)
        .await
        .unwrap();
    assert!(!bench.is_stored(&content).await);
    started.stop().await;
    let again = bench.start().await;
    assert_eq!(again.write_back.held().total().blobs, 0);
}
