//! Several origins over one store, on sockets, so that the routes between them are tried too.

use api::{Cluster, Http, RingClient};
use async_trait::async_trait;
use axum::Router;
use backend::Condition;
use backend::flaky::{Faults, FlakyBackend};
use backend::memory::MemoryBackend;
use oci::Digest;
use peer::Found;
use store::Uploads;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use torrent::{ClusterKey, Description, MetaInfo, SwarmName, TreeHasher};

use super::*;
use crate::blobs::Blobs;
use crate::counted::Counted;
use crate::fetch::{Event, Fetcher, Limits};
use crate::held::Held;
use crate::http::{self, Doors};
use crate::ingest::Ingest;
use crate::metrics::{Operation, Outcome, Request, RingRead, Way};
use crate::pieces::Pieces;
use crate::recent::Recent;
use crate::serve;
use crate::tier::Tier;

const MIB: u64 = 1 << 20;

struct Origin {
    tier: Arc<Tier>,
    blobs: Arc<Blobs>,
    fetcher: Arc<Fetcher>,
    pieces: Pieces,
    events: mpsc::Receiver<Event>,
    metrics: Metrics,
    serving: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

struct Bench {
    memory: Arc<MemoryBackend>,
    store: Arc<FlakyBackend>,
    key: ClusterKey,
    cluster: Arc<Cluster>,
    origins: Vec<Origin>,
}

struct Nobody;

#[async_trait]
impl http::Seeder for Nobody {
    async fn seed(&self, _: Description) {}
    async fn remove(&self, _: SwarmName) {}
}

async fn bench(count: usize) -> Bench {
    let memory = Arc::new(MemoryBackend::new());
    let store = Arc::new(FlakyBackend::new(memory.clone(), 1, Faults::default()));
    let key = ClusterKey::from_seed([3; 32]);
    let mut listeners = Vec::new();
    let mut members = Vec::new();
    for number in 0..count {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let addr = addr.to_string();
        members.push(serde_json::json!({"name": format!("o{number}"), "http": addr, "peer": addr}));
        listeners.push(listener);
    }
    let cluster = serde_json::json!({"origins": members});
    let cluster: Arc<Cluster> = Arc::new(serde_json::from_value(cluster).unwrap());
    let mut origins = Vec::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        origins.push(origin(number, listener, &store, &key, &cluster).await);
    }
    Bench {
        memory,
        store,
        key,
        cluster,
        origins,
    }
}

async fn origin(
    number: usize,
    listener: TcpListener,
    store: &Arc<FlakyBackend>,
    key: &ClusterKey,
    cluster: &Arc<Cluster>,
) -> Origin {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::default();
    let store: Arc<dyn Backend> = Arc::new(Counted::new(store.clone(), metrics.clone()));
    let client = RingClient::new(
        Http::new(Ring::limits()),
        Arc::clone(cluster),
        &format!("o{number}"),
    );
    let reads = Reads::open(Setup {
        store: Arc::clone(&store),
        ring: Ring::new(client.unwrap(), metrics.clone()),
        folder: folder.path().join("runs"),
        limit_bytes: 1 << 30,
        metrics: metrics.clone(),
    });
    let held = Held::open(folder.path().join("held")).await.unwrap();
    let tier = Arc::new(Tier::new(Arc::new(held), store, reads.await.unwrap()));
    let blobs = Arc::new(Blobs::new(tier.clone(), key.clone()));
    let (fetcher, events) = Fetcher::new(Arc::clone(&blobs), Limits::default());
    let uploads = Uploads::open(folder.path().join("uploads"), store::Limits::default());
    let doors = Doors {
        ingest: Ingest::new(
            Arc::new(uploads.unwrap()),
            Arc::clone(&blobs),
            metrics.clone(),
        ),
        blobs: Arc::clone(&blobs),
        fetcher: Arc::clone(&fetcher),
        seeder: Box::new(Nobody),
        tier: Some(Arc::clone(&tier)),
        write_back: None,
        metrics: metrics.clone(),
    };
    let router: Router = http::router(Arc::new(doors));
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Origin {
        tier,
        pieces: Pieces::new(
            Arc::clone(&blobs),
            Arc::clone(&fetcher),
            Arc::<Recent>::default(),
        ),
        blobs,
        fetcher,
        events,
        metrics,
        serving,
        _folder: folder,
    }
}

impl Origin {
    fn requests(&self, operation: Operation) -> u64 {
        let outcomes = [Outcome::Done, Outcome::Absent, Outcome::Failed];
        let of = |outcome| {
            let request = Request { operation, outcome };
            self.metrics.backend_requests.get_or_create(&request).get()
        };
        outcomes.into_iter().map(of).sum()
    }

    fn ring_reads(&self, way: Way, outcome: Outcome) -> u64 {
        let read = RingRead { way, outcome };
        self.metrics.ring_reads.get_or_create(&read).get()
    }

    /// Reads a blob piece by piece, as the swarm does, and checks it.
    async fn pull(&self, digest: &Digest, expected: &Bytes) {
        let Found::Here(description) = self.fetcher.resolve(digest).await else {
            panic!("it is there")
        };
        let name = SwarmName::Blob(*digest);
        for piece in description.geometry().indexes() {
            let bytes = peer::Pieces::read(&self.pieces, &name, piece)
                .await
                .unwrap();
            let range = description.geometry().range(piece);
            assert!(bytes == slice(expected, range), "{piece}");
        }
    }

    /// Hashes a blob that nobody hashed.
    async fn hash(&mut self, digest: &Digest) {
        let found = self.fetcher.resolve(digest).await;
        if matches!(found, Found::Here(Description::Complete(_))) {
            return;
        }
        loop {
            match self.events.recv().await.unwrap() {
                Event::Grown { .. } => return,
                Event::Begun { .. } | Event::Hashed { .. } => {}
                revoked @ Event::Revoked { .. } => panic!("{revoked:?}"),
            }
        }
    }
}

impl Bench {
    async fn put(&self, bytes: &Bytes) -> Digest {
        let digest = Digest::sha256(bytes);
        let key = layout::blob(&digest);
        let put = self.memory.put(&key, bytes.clone(), Condition::Any).await;
        put.unwrap();
        digest
    }

    async fn put_metainfo(&self, digest: &Digest, bytes: &Bytes) -> u64 {
        let mut hasher = TreeHasher::new();
        hasher.update(bytes);
        let tree = hasher.finish().unwrap();
        let metainfo = MetaInfo::sign(&self.key, (*digest).into(), &tree).unwrap();
        let metainfo: Bytes = metainfo.to_bytes().into();
        let key = layout::metainfo(digest);
        let length = metainfo.len() as u64;
        self.memory
            .put(&key, metainfo, Condition::Any)
            .await
            .unwrap();
        length
    }

    /// Fills the first origin's cache with a blob of which a bit in each run is wrong.
    async fn spoil_runs(&self, digest: &Digest) {
        let wrong_bytes = 1.0;
        self.store.set(Faults {
            wrong_bytes,
            ..Faults::default()
        });
        let key = layout::blob(digest);
        let stat = self.memory.stat(&key).await.unwrap();
        let runs = self.origins[0].tier.reads().runs();
        let spoiled = runs.get(&key, &stat, None, Asker::Here).unwrap();
        let spoiled = spoiled.into_bytes(&key).await.unwrap();
        assert!(Digest::sha256(&spoiled) != *digest);
        self.store.set(Faults::default());
    }

    fn requests(&self, operation: Operation) -> u64 {
        self.origins.iter().map(|one| one.requests(operation)).sum()
    }

    /// Bytes that came out of the store.
    fn read_bytes(&self) -> u64 {
        let of = |origin: &Origin| origin.metrics.backend_read_bytes.get();
        self.origins.iter().map(of).sum()
    }

    /// Returns the origins in the order in which they own a blob.
    fn order(&self, digest: &Digest) -> Vec<usize> {
        self.cluster.origin_order(&SwarmName::Blob(*digest))
    }
}

fn bytes(length: u64, seed: u64) -> Bytes {
    (0..length)
        .map(|at| u8::try_from((at * 31 + at / 251 + seed) % 251).unwrap())
        .collect()
}

fn slice(bytes: &Bytes, range: Range<u64>) -> Bytes {
    let index = |offset| usize::try_from(offset).unwrap();
    bytes.slice(index(range.start)..index(range.end))
}

/// All origins read all of it, and the store gives each byte once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_blob_is_read_once_by_all_origins_together() {
    let bench = bench(3).await;
    let length = 20 * MIB + 3;
    let content = bytes(length, 0);
    let digest = bench.put(&content).await;
    let described = bench.put_metainfo(&digest, &content).await;
    let pulls = bench.origins.iter();
    let pulls = pulls.map(|origin| origin.pull(&digest, &content));
    futures_util::future::join_all(pulls).await;
    assert_eq!(bench.read_bytes(), length + described);
    // Three runs, and the metainfo.
    assert_eq!(bench.requests(Operation::Get), 4);
    assert_eq!(bench.requests(Operation::Stat), 1);

    let order = bench.order(&digest);
    let third = &bench.origins[order[2]];
    assert_eq!(third.requests(Operation::Get), 0, "it is not its to read");
    assert!(third.ring_reads(Way::Asked, Outcome::Done) >= 5);
    let served = |at: usize| bench.origins[order[at]].ring_reads(Way::Served, Outcome::Done);
    assert!(served(0) > 0 && served(1) > 0, "the owners share the work");
    assert_eq!(served(2), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_nobody_hashed_is_read_once_by_all_who_hash_it() {
    let mut bench = bench(3).await;
    let length = 40 * MIB;
    let content = bytes(length, 1);
    let digest = bench.put(&content).await;
    let hashing = bench.origins.iter_mut().map(|origin| origin.hash(&digest));
    futures_util::future::join_all(hashing).await;
    assert_eq!(bench.read_bytes(), length);
    let reads = bench.requests(Operation::Get) + bench.requests(Operation::Stat);
    assert!(reads <= 7, "{reads} requests for 5 runs");
    for origin in &bench.origins {
        origin.pull(&digest, &content).await;
    }
    assert_eq!(bench.read_bytes(), length);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_blobs_cost_a_request_each_and_what_is_known_of_them() {
    let bench = bench(3).await;
    let mut blobs = Vec::new();
    let mut sum = 0;
    for number in 0..64 {
        let content = bytes(64 << 10, number);
        let digest = bench.put(&content).await;
        sum += content.len() as u64 + bench.put_metainfo(&digest, &content).await;
        blobs.push((digest, content));
    }
    let pulls = bench.origins.iter().map(|origin| async {
        for (digest, content) in &blobs {
            origin.pull(digest, content).await;
        }
    });
    futures_util::future::join_all(pulls).await;
    assert_eq!(bench.read_bytes(), sum);
    assert_eq!(bench.requests(Operation::Get), 2 * 64);
    assert_eq!(bench.requests(Operation::Stat), 64);
}

/// What the swarm asks again and again costs the store nothing.
#[tokio::test]
async fn what_is_remembered_is_not_asked_for() {
    let bench = bench(1).await;
    let content = bytes(2 * MIB, 2);
    let digest = bench.put(&content).await;
    bench.put_metainfo(&digest, &content).await;
    let origin = &bench.origins[0];
    origin.pull(&digest, &content).await;
    let before = (
        bench.requests(Operation::Get),
        bench.requests(Operation::Stat),
    );
    let Found::Here(description) = origin.fetcher.resolve(&digest).await else {
        panic!("it is there")
    };
    for _ in 0..10 {
        let opened = peer::Pieces::open(&origin.pieces, &description).await;
        assert!(opened.unwrap().proven);
        let values = peer::Pieces::values(&origin.pieces, description.name(), 0, 2).await;
        assert!(values.is_some());
        origin.pull(&digest, &content).await;
        assert!(origin.blobs.find(&digest).await.unwrap().is_some());
    }
    let after = (
        bench.requests(Operation::Get),
        bench.requests(Operation::Stat),
    );
    assert_eq!(after, before);
}

/// What one origin took is found at all, and read from there, before the store has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_origin_holds_is_everywhere() {
    let bench = bench(3).await;
    let content = bytes(10 * MIB, 3);
    let digest = Digest::sha256(&content);
    for holder in &bench.origins {
        let absent = holder.blobs.find(&digest).await.unwrap();
        assert!(absent.is_none());
    }
    let order = bench.order(&digest);
    // Not one of its owners.
    let holder = &bench.origins[order[2]];
    let held = holder.tier.held();
    let key = layout::blob(&digest);
    let folder = held.folder();
    folder
        .put(&key, content.clone(), Condition::Any)
        .await
        .unwrap();
    let mut hasher = TreeHasher::new();
    hasher.update(&content);
    let tree = hasher.finish().unwrap();
    let metainfo = MetaInfo::sign(&bench.key, digest.into(), &tree).unwrap();
    let at = layout::metainfo(&digest);
    let metainfo = metainfo.to_bytes().into();
    folder.put(&at, metainfo, Condition::Any).await.unwrap();
    held.hold(&digest, None).await.unwrap();
    for origin in &bench.origins {
        // No absence was remembered.
        assert!(origin.blobs.find(&digest).await.unwrap().is_some());
        origin.pull(&digest, &content).await;
    }
    assert_eq!(bench.read_bytes(), 0);

    // Then the store has it, and nobody holds it any more: who reads goes on.
    let found = bench.origins[order[0]].blobs.find(&digest).await.unwrap();
    bench.put(&content).await;
    held.release(&digest).await.unwrap();
    bench.origins[order[0]].tier.reads().runs().forget(&key);
    let content_there = found.unwrap();
    let body = bench.origins[order[0]]
        .blobs
        .read(&content_there, None)
        .await;
    let body = body.unwrap().into_bytes(&key).await.unwrap();
    assert!(body == content);
}

/// Origins that are gone cost time, not blobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_read_for_origins_that_are_gone() {
    let bench = bench(3).await;
    let content = bytes(24 * MIB, 4);
    let digest = bench.put(&content).await;
    bench.put_metainfo(&digest, &content).await;
    let order = bench.order(&digest);
    for gone in &order[..2] {
        bench.origins[*gone].serving.abort();
    }
    let third = &bench.origins[order[2]];
    third.pull(&digest, &content).await;
    assert_eq!(third.requests(Operation::Get), 4);
    assert!(third.ring_reads(Way::Asked, Outcome::Failed) > 0);
}

/// Damage on this side of the store is mended out of it, and damage in it is told.
#[tokio::test]
async fn a_damaged_run_is_mended_once() {
    let bench = bench(1).await;
    let content = bytes(9 * MIB, 5);
    let digest = bench.put(&content).await;
    bench.put_metainfo(&digest, &content).await;
    let origin = &bench.origins[0];
    bench.spoil_runs(&digest).await;
    origin.pull(&digest, &content).await;

    // The same of another blob, over HTTP.
    let other = bytes(9 * MIB, 7);
    let named = bench.put(&other).await;
    bench.put_metainfo(&named, &other).await;
    bench.spoil_runs(&named).await;
    let metainfo = origin.blobs.metainfo(&named).await.unwrap().unwrap();
    let found = origin.blobs.find(&named).await.unwrap().unwrap();
    let body = serve::hashed(Arc::clone(&origin.blobs), found, metainfo, 0..9 * MIB);
    let parts: Vec<_> = body.map(Result::unwrap).collect().await;
    assert!(parts.concat() == other);

    // Now for good.
    let key = layout::blob(&digest);
    let mut damaged = content.to_vec();
    damaged[100] ^= 1;
    bench
        .memory
        .put(&key, damaged.into(), Condition::Any)
        .await
        .unwrap();
    origin.tier.reads().forget(&key);
    let name = SwarmName::Blob(digest);
    let first = torrent::Geometry::new(9 * MIB).unwrap().index(0).unwrap();
    let requests = bench.requests(Operation::Get);
    for _ in 0..3 {
        let read = peer::Pieces::read(&origin.pieces, &name, first).await;
        assert_eq!(read, Err(peer::PieceError::Lost));
    }
    let requests = bench.requests(Operation::Get) - requests;
    assert!(requests <= 2, "it was read {requests} times");
}

/// Who is not the first owner sends nobody on, whoever believes that it is.
#[tokio::test]
async fn what_another_origin_owns_is_not_asked_on() {
    let bench = bench(3).await;
    let content = bytes(MIB, 8);
    let digest = bench.put(&content).await;
    let order = bench.order(&digest);
    let http = Http::new(Ring::limits());
    let me = format!("o{}", order[2]);
    let client = RingClient::new(http, Arc::clone(&bench.cluster), &me).unwrap();
    let second = client.described(order[1], &digest).await.unwrap_err();
    assert_eq!(second.code(), Some(api::ErrorCode::Unavailable));
    let requests = bench.requests(Operation::Get) + bench.requests(Operation::Stat);
    assert_eq!(requests, 0);
    assert!(client.described(order[0], &digest).await.unwrap().is_some());
}

#[tokio::test]
async fn what_was_removed_is_gone_at_once() {
    let bench = bench(1).await;
    let content = bytes(MIB, 6);
    let digest = bench.put(&content).await;
    let origin = &bench.origins[0];
    origin.pull(&digest, &content).await;
    origin.blobs.delete(&digest).await.unwrap();
    assert!(origin.blobs.find(&digest).await.unwrap().is_none());
    assert!(matches!(
        origin.fetcher.resolve(&digest).await,
        Found::Absent
    ));
    assert_eq!(origin.tier.reads().runs().charged_bytes(), 0);
}
