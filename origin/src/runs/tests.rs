use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use backend::Condition;
use backend::flaky::{Faults, FlakyBackend};
use backend::memory::MemoryBackend;
use bytes::Bytes;
use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

/// Another origin, as far as there is one.
#[derive(Debug, Default)]
struct Stub {
    /// Runs of which this origin is not the reader.
    others: AtomicBool,
    bytes: Mutex<Option<(Stat, Bytes)>>,
    /// Bytes after which a body of the other breaks off.
    breaks_at: Mutex<Option<u64>>,
    held: Mutex<Option<(Stat, Bytes)>>,
    asked: AtomicU64,
}

fn object((stat, bytes): (Stat, Bytes), range: Range<u64>, most: Option<u64>) -> Object {
    let end = most.map_or(range.end, |most| range.end.min(range.start + most));
    let part = bytes.slice(index(range.start)..index(end));
    Object {
        stat,
        range,
        body: futures_util::stream::iter([Ok(part)]).boxed(),
    }
}

/// Tag of an object that an origin holds.
fn held_etag(bytes: &[u8]) -> ETag {
    ETag::new(oci::Digest::sha256(bytes).to_string())
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

#[async_trait]
impl Others for Stub {
    fn reader(&self, _key: &Key, _run: u64) -> Option<usize> {
        self.others.load(Ordering::Relaxed).then_some(1)
    }

    async fn run(
        &self,
        _origin: usize,
        _key: &Key,
        _stat: &Stat,
        range: Range<u64>,
    ) -> Result<Object, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let Some(bytes) = self.bytes.lock().clone() else {
            return Err(Error::Unavailable("it is down".into()));
        };
        Ok(object(bytes, range, *self.breaks_at.lock()))
    }

    async fn held(&self, key: &Key, range: Range<u64>) -> Result<Object, Error> {
        let held = self.held.lock().clone();
        let held = held.ok_or_else(|| Error::NotFound { key: key.clone() })?;
        Ok(object(held, range, None))
    }
}

struct Bench {
    memory: Arc<MemoryBackend>,
    store: Arc<FlakyBackend>,
    others: Arc<Stub>,
    runs: Arc<Runs>,
    metrics: Metrics,
    key: Key,
    stat: Stat,
    bytes: Bytes,
    folder: TempDir,
}

async fn bench(length: u64, limit: u64) -> Bench {
    let memory = Arc::new(MemoryBackend::new());
    let store = Arc::new(FlakyBackend::new(memory.clone(), 1, Faults::default()));
    let others = Arc::<Stub>::default();
    let metrics = Metrics::default();
    let folder = tempfile::tempdir().unwrap();
    let runs = Runs::open(
        store.clone(),
        others.clone(),
        folder.path().join("runs"),
        limit,
        metrics.clone(),
    );
    let key: Key = "a/blob".parse().unwrap();
    let bytes: Bytes = (0..length)
        .map(|at| u8::try_from((at * 31 + at / 251) % 251).unwrap())
        .collect();
    memory
        .put(&key, bytes.clone(), Condition::Any)
        .await
        .unwrap();
    Bench {
        stat: memory.stat(&key).await.unwrap(),
        runs: runs.unwrap(),
        memory,
        store,
        others,
        metrics,
        key,
        bytes,
        folder,
    }
}

impl Bench {
    async fn read_as(&self, range: Range<u64>, asker: Asker) -> Result<Bytes, Error> {
        let object = self.runs.get(&self.key, &self.stat, Some(range), asker)?;
        object.into_bytes(&self.key).await
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, Error> {
        self.read_as(range, Asker::Here).await
    }

    fn slice(&self, range: Range<u64>) -> Bytes {
        self.bytes.slice(index(range.start)..index(range.end))
    }

    async fn check(&self, range: Range<u64>) {
        let read = self.read(range.clone()).await.unwrap();
        assert!(read == self.slice(range.clone()), "{range:?}");
    }

    /// Requests to the store, and bytes that came.
    fn asked(&self) -> (u64, u64) {
        (self.store.reads(), self.store.read_bytes())
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("runs"))
            .unwrap()
            .count()
    }
}

/// However many ask for whatever parts, each run is one request and each byte comes once.
#[tokio::test]
async fn each_byte_is_read_once_in_runs() {
    let length = 20 * MIB + 7;
    let bench = bench(length, 1 << 30).await;
    let ranges = [
        0..length,
        0..1,
        8 * MIB - 1..8 * MIB + 1,
        length - 1..length,
        3 * MIB..19 * MIB,
        5..5,
        length..length,
    ];
    let reads = ranges.iter().map(|range| bench.check(range.clone()));
    futures_util::future::join_all(reads).await;
    assert_eq!(bench.asked(), (3, length));
    for range in ranges {
        bench.check(range).await;
    }
    assert_eq!(bench.asked(), (3, length));
    assert_eq!(bench.metrics.run_misses.get(), 3);
    assert!(bench.metrics.run_hits.get() > 10);
    let past = bench.read(length + 1..length + 2).await;
    assert!(matches!(past, Err(Error::Range { .. })), "{past:?}");
}

/// What nobody asked for is not read, but for the rest of a run.
#[tokio::test]
async fn no_run_is_read_unasked() {
    let bench = bench(40 * MIB, 1 << 30).await;
    bench.check(17 * MIB..18 * MIB).await;
    let whole = 16 * MIB..24 * MIB;
    bench.check(whole).await;
    assert_eq!(bench.asked(), (1, 8 * MIB));
}

/// A reader that takes nothing does not keep a run from coming to its end.
#[tokio::test]
async fn a_slow_reader_holds_nobody_up() {
    let bench = bench(16 * MIB, 1 << 30).await;
    let mut slow = bench
        .runs
        .get(&bench.key, &bench.stat, None, Asker::Here)
        .unwrap();
    let first = slow.body.next().await.unwrap().unwrap();
    assert!(!first.is_empty());
    bench.check(0..16 * MIB).await;
    assert_eq!(bench.asked(), (2, 16 * MIB));
    let rest = slow.body.map(|part| part.unwrap().len() as u64);
    let rest: u64 = rest
        .fold(0, |sum, length| std::future::ready(sum + length))
        .await;
    assert_eq!(first.len() as u64 + rest, 16 * MIB);
}

/// A store whose bodies come in parts that a test sends.
#[derive(Debug)]
struct Trickle {
    stat: Stat,
    parts: Mutex<Option<tokio::sync::mpsc::Receiver<Bytes>>>,
}

#[async_trait]
impl Others for Trickle {
    fn reader(&self, _key: &Key, _run: u64) -> Option<usize> {
        Some(0)
    }

    async fn run(
        &self,
        _origin: usize,
        _key: &Key,
        _stat: &Stat,
        range: Range<u64>,
    ) -> Result<Object, Error> {
        let parts = self.parts.lock().take().unwrap();
        let body = futures_util::stream::unfold(parts, |mut parts| async move {
            let part = parts.recv().await?;
            Some((Ok(part), parts))
        });
        Ok(Object {
            stat: self.stat.clone(),
            range,
            body: body.boxed(),
        })
    }

    async fn held(&self, key: &Key, _range: Range<u64>) -> Result<Object, Error> {
        Err(Error::NotFound { key: key.clone() })
    }
}

#[tokio::test]
async fn the_first_bytes_of_a_run_do_not_wait_for_its_last() {
    let bench = bench(8 * MIB, 1 << 30).await;
    let (sender, parts) = tokio::sync::mpsc::channel(1);
    let others = Arc::new(Trickle {
        stat: bench.stat.clone(),
        parts: Mutex::new(Some(parts)),
    });
    let folder = bench.folder.path().join("other");
    let runs = Runs::open(
        bench.store.clone(),
        others,
        folder,
        1 << 30,
        Metrics::default(),
    );
    let runs = runs.unwrap();
    let read = |range| {
        let object = runs.get(&bench.key, &bench.stat, Some(range), Asker::Here);
        object.unwrap().into_bytes(&bench.key)
    };
    let refused = || {
        runs.get(&bench.key, &bench.stat, None, Asker::Origin)
            .is_err()
    };
    let first = read(0..MIB);
    assert!(refused(), "who asks for another origin never waits for one");
    sender.send(bench.slice(0..MIB)).await.unwrap();
    assert!(first.await.unwrap() == bench.slice(0..MIB));
    assert!(!refused(), "what came is for everybody");
    sender.send(bench.slice(MIB..8 * MIB)).await.unwrap();
    assert!(read(7 * MIB..8 * MIB).await.unwrap() == bench.slice(7 * MIB..8 * MIB));
    assert_eq!(bench.asked(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_after_a_failure() {
    let bench = bench(24 * MIB, 1 << 30).await;
    bench.store.set(Faults {
        truncated: 0.6,
        error: 0.2,
        ..Faults::default()
    });
    bench.check(0..24 * MIB).await;
    let (_, bytes) = bench.asked();
    assert_eq!(bytes, 24 * MIB, "no byte came twice");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_told_and_asked_again() {
    let bench = bench(MIB, 1 << 30).await;
    bench.store.set(Faults {
        error: 1.0,
        ..Faults::default()
    });
    let (one, other) = tokio::join!(bench.read(0..10), bench.read(0..MIB));
    for read in [one, other] {
        assert!(matches!(read, Err(Error::Unavailable(_))), "{read:?}");
    }
    assert_eq!(bench.asked(), (5, 0));
    assert_eq!(bench.runs.charged_bytes(), 0);
    bench.store.set(Faults::default());
    bench.check(0..MIB).await;
    assert_eq!(bench.asked(), (6, MIB));
}

#[tokio::test]
async fn another_version_is_an_error_and_not_mixed_in() {
    let bench = bench(9 * MIB, 1 << 30).await;
    bench.check(0..10).await;
    let other = Bytes::from(vec![1; index(9 * MIB)]);
    bench
        .memory
        .put(&bench.key, other.clone(), Condition::Any)
        .await
        .unwrap();
    let second = bench.read(8 * MIB..9 * MIB).await;
    assert!(
        matches!(second, Err(Error::Precondition { .. })),
        "{second:?}"
    );
    // Who knows the new version gets it, also of the run that was here.
    let stat = bench.memory.stat(&bench.key).await.unwrap();
    let object = bench
        .runs
        .get(&bench.key, &stat, None, Asker::Here)
        .unwrap();
    assert!(object.into_bytes(&bench.key).await.unwrap() == other);
    // And what an origin held may get its tag from the store later.
    let held = Stat {
        etag: held_etag(&other),
        ..stat
    };
    let object = bench
        .runs
        .get(&bench.key, &held, None, Asker::Here)
        .unwrap();
    assert!(object.into_bytes(&bench.key).await.unwrap() == other);
    bench.memory.delete(&bench.key).await.unwrap();
    bench.runs.forget(&bench.key);
    let gone = bench.read(0..1).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
}

#[tokio::test]
async fn the_least_recently_used_runs_go() {
    let bench = bench(64 * MIB, 32 * MIB).await;
    for run in 0..3 {
        bench.check(run * 8 * MIB..(run + 1) * 8 * MIB).await;
    }
    bench.check(0..1).await;
    bench.check(24 * MIB..32 * MIB).await;
    assert_eq!(bench.metrics.run_evicted_bytes.get(), 0);
    // One more is too much: the second run goes, and the third for the low mark.
    bench.check(32 * MIB..40 * MIB).await;
    assert_eq!(bench.metrics.run_evicted_bytes.get(), 16 * MIB);
    let (requests, _) = bench.asked();
    bench.check(0..8 * MIB).await;
    assert_eq!(bench.asked().0, requests, "it was used lately");
    bench.check(8 * MIB..16 * MIB).await;
    assert_eq!(bench.asked().0, requests + 1);
    for _ in 0..2 {
        bench.check(0..64 * MIB).await;
    }
    assert!(bench.runs.charged_bytes() <= 32 * MIB);
    // Files go in tasks of their own.
    while bench.files() > 4 {
        tokio::task::yield_now().await;
    }
}

/// Bodies go on though their runs are evicted under them.
#[tokio::test]
async fn a_cache_that_is_far_too_small_serves_all_the_same() {
    let bench = bench(48 * MIB, 4 * MIB).await;
    let reads = (0..6).map(|reader| bench.check(reader * MIB..48 * MIB));
    futures_util::future::join_all(reads).await;
    assert!(bench.metrics.run_evicted_bytes.get() > 0);
}

/// A damaged run is read anew once, from the store itself; what is damaged there stays so.
#[tokio::test(start_paused = true)]
async fn a_damaged_run_is_read_again_once() {
    let bench = bench(16 * MIB, 1 << 30).await;
    bench.others.others.store(true, Ordering::Relaxed);
    let mut damaged = bench.bytes.to_vec();
    damaged[9_000_000] ^= 1;
    let damaged = Bytes::from(damaged);
    *bench.others.bytes.lock() = Some((bench.stat.clone(), damaged.clone()));
    let piece = 9_000_000..9_000_001;
    let wrong = bench.read(piece.clone()).await.unwrap();
    assert!(wrong != bench.slice(piece.clone()));
    assert_eq!(bench.asked(), (0, 0));
    assert!(bench.runs.doubt(&bench.key, 9_000_000));
    bench.check(piece.clone()).await;
    assert_eq!(
        bench.asked(),
        (1, 8 * MIB),
        "past the origin that had it wrong"
    );

    // Now it is damaged in the store.
    let store = bench.memory.put(&bench.key, damaged, Condition::Any).await;
    let stat = Stat {
        etag: store.unwrap(),
        ..bench.stat.clone()
    };
    let bench = Bench { stat, ..bench };
    assert!(bench.read(piece.clone()).await.unwrap() != bench.slice(piece.clone()));
    assert!(
        !bench.runs.doubt(&bench.key, 9_000_000),
        "it was read anew just now"
    );
    assert!(bench.read(piece.clone()).await.unwrap() != bench.slice(piece));
    assert_eq!(
        bench.asked(),
        (2, 16 * MIB),
        "and is not read again and again"
    );
    tokio::time::advance(DOUBT).await;
    assert!(bench.runs.doubt(&bench.key, 9_000_000));

    // Where it is not known what is damaged, all is read anew.
    bench.check(0..MIB).await;
    let (requests, _) = bench.asked();
    assert!(bench.runs.doubt_all(&bench.key));
    bench.check(0..MIB).await;
    assert_eq!(bench.asked().0, requests + 1);
    assert!(!bench.runs.doubt_all(&bench.key));
}

#[tokio::test]
async fn an_origin_that_breaks_off_is_gone_on_for_by_the_store() {
    let bench = bench(8 * MIB, 1 << 30).await;
    bench.others.others.store(true, Ordering::Relaxed);
    *bench.others.bytes.lock() = Some((bench.stat.clone(), bench.bytes.clone()));
    *bench.others.breaks_at.lock() = Some(3 * MIB);
    bench.check(0..8 * MIB).await;
    assert_eq!(bench.asked(), (1, 5 * MIB));
    bench.runs.forget(&bench.key);
    *bench.others.bytes.lock() = None;
    bench.check(0..8 * MIB).await;
    assert_eq!(bench.asked(), (2, 13 * MIB));
    // An origin that is asked asks nobody.
    bench.runs.forget(&bench.key);
    bench.read_as(0..MIB, Asker::Origin).await.unwrap();
    assert_eq!(bench.others.asked.load(Ordering::Relaxed), 2);
    assert_eq!(bench.asked(), (3, 21 * MIB));
}

#[tokio::test]
async fn what_is_not_in_the_store_yet_comes_from_who_holds_it() {
    let bench = bench(9 * MIB, 1 << 30).await;
    bench.memory.delete(&bench.key).await.unwrap();
    let stat = Stat {
        etag: held_etag(&bench.bytes),
        ..bench.stat.clone()
    };
    *bench.others.held.lock() = Some((stat.clone(), bench.bytes.clone()));
    let bench = Bench { stat, ..bench };
    bench.check(0..9 * MIB).await;
}

/// A disk that takes nothing makes reading slower, not impossible.
#[tokio::test]
async fn a_cache_without_a_disk_is_read_around() {
    let bench = bench(12 * MIB, 1 << 30).await;
    std::fs::remove_dir_all(bench.folder.path().join("runs")).unwrap();
    bench.check(0..12 * MIB).await;
    bench.check(MIB..2 * MIB).await;
}

#[tokio::test]
async fn nothing_of_an_earlier_process_is_kept() {
    let bench = bench(MIB, 1 << 30).await;
    bench.check(0..MIB).await;
    assert_eq!(bench.files(), 1);
    let folder = bench.folder.path().join("runs");
    let runs = Runs::open(
        bench.store.clone(),
        bench.others.clone(),
        folder,
        1 << 30,
        Metrics::default(),
    );
    assert_eq!(bench.files(), 0);
    assert_eq!(runs.unwrap().charged_bytes(), 0);
}
