//! Nodes on real sockets in one process, with storage in memory and a tracker of their own.

mod memory;
mod tracker;
mod visitor;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use oci::Digest;
use service::tls::Tls;
use swarm::{Found, Priority};
use tokio::net::TcpListener;
use torrent::{
    ClusterKey, Description, Generation, GrowingMetaInfo, MetaInfo, Peer, PeerId, Role, SwarmName,
    TreeHasher,
};

use self::memory::{MemoryPieces, slice};
use self::tracker::Lists;
use self::visitor::visit;
use crate::{Blob, Config, Metrics, Node, OpenError, ReadError, Setup, Want};

const MIB: usize = 1 << 20;

/// A bound for what must happen at all; never a measure.
const PATIENCE: Duration = Duration::from_secs(60);

fn key() -> ClusterKey {
    ClusterKey::from_seed([5; 32])
}

struct Content {
    bytes: Bytes,
    metainfo: MetaInfo,
    name: SwarmName,
}

fn content(length: usize, seed: usize) -> Content {
    let bytes: Bytes = (0..length)
        .map(|i| u8::try_from((i * 31 + i / 4099 + seed) % 251).unwrap())
        .collect();
    let mut hasher = TreeHasher::new();
    hasher.update(&bytes);
    let name = SwarmName::Blob(Digest::sha256(&bytes));
    let metainfo = MetaInfo::sign(&key(), name, &hasher.finish().unwrap()).unwrap();
    Content {
        bytes,
        metainfo,
        name,
    }
}

struct Member {
    node: Node,
    pieces: Arc<MemoryPieces>,
}

/// A tracker and an origin; agents come as they are started.
struct Bench {
    cluster: Lists,
    tracker: Option<tokio::task::JoinHandle<()>>,
    origin: Member,
    agents: u64,
}

impl Bench {
    async fn new() -> Self {
        Self::with(true).await
    }

    async fn with(has_tracker: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let me = peer(&listener, PeerId::of_origin("origin-1"), Role::Origin);
        let at = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = Lists {
            trackers: vec![at.local_addr().unwrap().to_string().into()],
            origins: vec![me.clone()],
        };
        let tracker =
            has_tracker.then(|| tokio::spawn(tracker::run(at, key().public(), vec![me.id])));
        let origin = start(me, listener, &cluster, Config::default(), 1);
        Self {
            cluster,
            tracker,
            origin,
            agents: 0,
        }
    }

    async fn agent(&mut self) -> Member {
        self.agent_with(Config::default()).await
    }

    async fn agent_with(&mut self, config: Config) -> Member {
        self.agents += 1;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut id = [0; 20];
        id[12..].copy_from_slice(&self.agents.to_be_bytes());
        let id = PeerId::new(id);
        let me = peer(&listener, id, Role::Agent);
        start(me, listener, &self.cluster, config, self.agents + 1)
    }
}

fn peer(listener: &TcpListener, id: PeerId, role: Role) -> Peer {
    Peer {
        id,
        role,
        zone: "".into(),
        addr: listener.local_addr().unwrap().to_string().into(),
    }
}

fn start(me: Peer, listener: TcpListener, cluster: &Lists, config: Config, seed: u64) -> Member {
    let pieces = MemoryPieces::new(key().public());
    let node = Node::start(Setup {
        config,
        me,
        listener,
        pieces: pieces.clone(),
        cluster: Arc::new(cluster.clone()),
        tls: Tls::plain(),
        metrics: Metrics::default(),
        key: Some(key().public()),
        seed,
    });
    Member { node, pieces }
}

/// Settings of a node that remembers nothing: what it reads comes out of storage.
fn forgetful() -> Config {
    Config {
        kept_pieces: api::Size::b(0),
        ..Config::default()
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {PATIENCE:?}"))
}

async fn open(member: &Member, name: SwarmName) -> Blob {
    let opened = member.node.open(name, Priority::Stream);
    within("open", opened).await.unwrap()
}

async fn read(blob: &Blob, range: Range<u64>) -> Result<Bytes, ReadError> {
    let mut stream = blob.read(range);
    let mut bytes = BytesMut::new();
    while let Some(part) = within("the next part", stream.next()).await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes.freeze())
}

async fn fetch(member: &Member, content: &Content) {
    let blob = open(member, content.name).await;
    let bytes = read(&blob, 0..u64::MAX).await.unwrap();
    assert!(bytes == content.bytes, "other bytes");
}

/// Waits until the swarm of a node sees the blob complete.
async fn complete(member: &Member, name: SwarmName) {
    let done = async {
        while !member.node.blob(&name).is_some_and(|blob| blob.is_complete) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the whole blob", done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_goes_from_origin_to_agent_to_agent() {
    let mut bench = Bench::new().await;
    let content = content(9 * MIB + 12_345, 1);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    let one = bench.agent().await;
    fetch(&one, &content).await;
    let status = one.node.blob(&content.name).unwrap();
    assert_eq!(status.from_origins_bytes, content.bytes.len() as u64);
    // Without any origin: agents have it all.
    bench.origin.node.shutdown().await;
    let (two, three) = (bench.agent().await, bench.agent().await);
    tokio::join!(fetch(&two, &content), fetch(&three, &content));
    for member in [&two, &three] {
        let status = member.node.blob(&content.name).unwrap();
        assert_eq!(status.from_origins_bytes, 0);
        assert!(status.from_agents_bytes >= content.bytes.len() as u64);
        assert_eq!(member.node.metrics().corrupt_pieces.get(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_exact_and_come_from_memory_or_storage() {
    let mut bench = Bench::new().await;
    let content = content(3 * MIB + 700_000, 2);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    let length = content.bytes.len() as u64;
    for config in [Config::default(), forgetful()] {
        let agent = bench.agent_with(config).await;
        let blob = open(&agent, content.name).await;
        assert_eq!(blob.length(), length);
        for range in [
            0..length,
            1_048_575..1_048_577,
            3_000_000..length + 5,
            length..length + 5,
            7..7,
            5..6,
        ] {
            let expected = range.start.min(length)..range.end.min(length);
            let index = |offset| usize::try_from(offset).unwrap();
            let expected = &content.bytes[index(expected.start)..index(expected.end)];
            let bytes = read(&blob, range.clone()).await.unwrap();
            assert!(bytes == expected, "{range:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_piece_comes_before_the_others_are_there() {
    let mut bench = Bench::new().await;
    let content = content(4 * MIB, 3);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    bench.origin.pieces.gate.send_replace(1);
    let agent = bench.agent().await;
    let blob = open(&agent, content.name).await;
    let mut stream = blob.read(0..u64::MAX);
    let mut seen = BytesMut::new();
    while seen.len() < MIB {
        let part = within("piece 0", stream.next()).await.unwrap().unwrap();
        assert!(part.len() <= 256 * 1024, "{} bytes at a time", part.len());
        seen.extend_from_slice(&part);
    }
    assert_eq!(agent.node.blob(&content.name).unwrap().have, 1);
    bench.origin.pieces.gate.send_replace(u32::MAX);
    while let Some(part) = within("the rest", stream.next()).await {
        seen.extend_from_slice(&part.unwrap());
    }
    assert!(seen == content.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_wrong_bytes_is_found_out_and_left() {
    let mut bench = Bench::new().await;
    let content = content(4 * MIB, 4);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    let liar = bench.agent_with(forgetful()).await;
    fetch(&liar, &content).await;
    liar.pieces.lies.store(true, Ordering::Relaxed);
    let agent = bench.agent().await;
    fetch(&agent, &content).await;
    assert!(
        agent.node.metrics().corrupt_pieces.get() > 0,
        "it did not lie"
    );
    let status = agent.node.blob(&content.name).unwrap();
    assert!(status.from_origins_bytes >= content.bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_the_death_of_its_peer() {
    let mut bench = Bench::new().await;
    let content = content(6 * MIB, 5);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    let first = bench.agent_with(forgetful()).await;
    fetch(&first, &content).await;
    // It gives two pieces and holds the others back.
    first.pieces.gate.send_replace(2);
    bench.origin.pieces.gate.send_replace(0);
    let second = bench.agent().await;
    let blob = open(&second, content.name).await;
    let mut stream = blob.read(0..u64::MAX);
    let part = within("the first part", stream.next()).await;
    let mut seen = BytesMut::from(&part.unwrap().unwrap()[..]);
    first.node.shutdown().await;
    bench.origin.pieces.gate.send_replace(u32::MAX);
    while let Some(part) = within("the rest", stream.next()).await {
        seen.extend_from_slice(&part.unwrap());
    }
    assert!(seen == content.bytes);
}

/// On one thread: what a peer says and that it is gone are told together.
#[tokio::test]
async fn who_leaves_as_soon_as_it_is_asked_does_no_harm() {
    const VISITS: u8 = 20;
    let mut bench = Bench::new().await;
    let content = content(6 * MIB, 14);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    bench.origin.pieces.gate.send_replace(0);
    let agent = bench.agent().await;
    let blob = open(&agent, content.name).await;
    let requests = async || agent.node.overview().await.stats.requests;
    let asks = async {
        while requests().await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("its first request", asks).await;
    let asked_of_origin = 2 * u64::from(content.metainfo.geometry().pieces());
    let visits = async {
        let mut visits = 0;
        while visits < VISITS || requests().await < asked_of_origin + u64::from(VISITS) {
            visits += 1;
            visit(&agent, &content, visits).await;
        }
    };
    within("requests to who left", visits).await;
    bench.origin.pieces.gate.send_replace(u32::MAX);
    let bytes = read(&blob, 0..u64::MAX).await.unwrap();
    assert!(bytes == content.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_storage_is_fetched_again() {
    let mut bench = Bench::new().await;
    let content = content(3 * MIB, 6);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    let agent = bench.agent_with(forgetful()).await;
    fetch(&agent, &content).await;
    agent.pieces.damage(&content.name, 1);
    fetch(&agent, &content).await;
    assert_eq!(agent.node.metrics().pieces_lost.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_reading_does_not_stop_the_download() {
    let mut bench = Bench::new().await;
    let content = content(5 * MIB, 7);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    bench.origin.pieces.gate.send_replace(1);
    let agent = bench.agent().await;
    let blob = open(&agent, content.name).await;
    let mut stream = blob.read(0..u64::MAX);
    within("piece 0", stream.next()).await.unwrap().unwrap();
    drop((stream, blob));
    bench.origin.pieces.gate.send_replace(u32::MAX);
    complete(&agent, content.name).await;
    assert_eq!(agent.node.blob(&content.name).unwrap().readers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_announced_and_is_not_read_is_let_go() {
    let mut bench = Bench::new().await;
    let (unread, whole) = (content(3 * MIB, 11), content(2 * MIB, 12));
    for content in [&unread, &whole] {
        bench.origin.pieces.put(&content.metainfo, &content.bytes);
    }
    let config = Config {
        lazy_idle: Duration::from_millis(100),
        ..Config::default()
    };
    let agent = bench.agent_with(config).await;
    let want = |content: &Content, whole| Want {
        name: content.name,
        priority: Priority::Prefetch,
        whole,
    };
    let wants = vec![want(&unread, false), want(&whole, true)];
    agent.node.prefetch(wants).await;
    let joined = async {
        while !agent.pieces.has(&unread.name) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within("joining", joined).await;
    complete(&agent, whole.name).await;
    let released = async {
        while agent.pieces.has(&unread.name) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("releasing", released).await;
    fetch(&agent, &unread).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_growing_blob_is_read_while_it_grows() {
    let mut bench = Bench::new().await;
    let content = content(4 * MIB, 8);
    let length = content.bytes.len() as u64;
    let growing = GrowingMetaInfo::sign(&key(), content.name, length, Generation(1)).unwrap();
    let description = Description::Growing(growing);
    bench.origin.pieces.begin(growing);
    let agent = bench.agent().await;
    let blob = open(&agent, content.name).await;
    let reading = tokio::spawn(async move { read(&blob, 0..u64::MAX).await });
    for piece in growing.geometry().indexes() {
        let bytes = slice(&description, &content.bytes, piece);
        let signed = growing.sign_cv(&key(), piece, growing.cv_of(piece, &bytes));
        bench.origin.pieces.hashed(&content.name, signed, bytes);
        bench.origin.node.hashed(content.name, signed).await;
    }
    bench.origin.pieces.grown(&content.metainfo);
    let summary = *content.metainfo.summary();
    let grown = Description::Complete(summary);
    bench.origin.node.grown(grown).await;
    let bytes = within("the growing blob", reading).await.unwrap().unwrap();
    assert!(bytes == content.bytes);
    complete(&agent, content.name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_blob_is_cut_and_dropped() {
    let mut bench = Bench::new().await;
    let content = content(4 * MIB, 9);
    let length = content.bytes.len() as u64;
    let growing = GrowingMetaInfo::sign(&key(), content.name, length, Generation(1)).unwrap();
    bench.origin.pieces.begin(growing);
    let agent = bench.agent().await;
    let blob = open(&agent, content.name).await;
    let mut stream = blob.read(0..u64::MAX);
    let piece = growing.geometry().index(0).unwrap();
    let bytes = slice(&Description::Growing(growing), &content.bytes, piece);
    let signed = growing.sign_cv(&key(), piece, growing.cv_of(piece, &bytes));
    bench.origin.pieces.hashed(&content.name, signed, bytes);
    bench.origin.node.hashed(content.name, signed).await;
    within("piece 0", stream.next()).await.unwrap().unwrap();
    let reason: Arc<str> = "another digest".into();
    bench
        .origin
        .node
        .revoke(content.name, Some(Generation(1)), Arc::clone(&reason))
        .await;
    let error = loop {
        match within("the cut", stream.next()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error, ReadError::Revoked(reason));
    let dropped = async {
        while agent.pieces.has(&content.name) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("dropping it", dropped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absence_is_told_from_trouble() {
    let mut bench = Bench::new().await;
    let agent = bench.agent().await;
    let missing = SwarmName::Blob(Digest::sha256(b"nowhere"));
    let opened = within("open", agent.node.open(missing, Priority::Stream)).await;
    assert_eq!(opened.unwrap_err(), OpenError::Absent);
    let broken = SwarmName::Blob(Digest::sha256(b"broken"));
    let failed = Found::Failed("storage answers 500".into());
    bench.origin.pieces.found.lock().insert(broken, failed);
    let opened = within("open", agent.node.open(broken, Priority::Stream)).await;
    let error = opened.unwrap_err();
    assert!(matches!(error, OpenError::Unavailable(_)), "{error}");
    // It can be asked again, and may be there then.
    let content = content(MIB, 10);
    let opened = agent.node.open(content.name, Priority::Stream);
    assert_eq!(within("open", opened).await.unwrap_err(), OpenError::Absent);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    fetch(&agent, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_an_error_in_time() {
    let mut bench = Bench::with(false).await;
    bench.origin.node.shutdown().await;
    let config = Config {
        open_timeout: Duration::from_millis(500),
        ..Config::default()
    };
    let agent = bench.agent_with(config).await;
    let name = SwarmName::Blob(Digest::sha256(b"unknown"));
    let opened = within("open", agent.node.open(name, Priority::Stream)).await;
    let error = opened.unwrap_err();
    let expected = matches!(error, OpenError::Timeout(_) | OpenError::Unavailable(_));
    assert!(expected, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_trackers_origins_are_asked() {
    let mut bench = Bench::with(false).await;
    let content = content(3 * MIB, 11);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    let description = Description::Complete(*content.metainfo.summary());
    bench.origin.node.seed(vec![description]).await;
    let agent = bench.agent().await;
    fetch(&agent, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_when_the_tracker_dies() {
    let mut bench = Bench::new().await;
    let content = content(6 * MIB, 12);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    bench.origin.pieces.gate.send_replace(1);
    let agent = bench.agent().await;
    let blob = open(&agent, content.name).await;
    let mut stream = blob.read(0..u64::MAX);
    within("piece 0", stream.next()).await.unwrap().unwrap();
    let tracker = bench.tracker.take().unwrap();
    tracker.abort();
    assert!(tracker.await.unwrap_err().is_cancelled());
    bench.origin.pieces.gate.send_replace(u32::MAX);
    let mut length = 256 * 1024;
    while let Some(part) = within("the rest", stream.next()).await {
        length += part.unwrap().len();
    }
    assert_eq!(length, content.bytes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blob_of_zero_bytes_needs_nobody() {
    let mut bench = Bench::with(false).await;
    let agent = bench.agent().await;
    let name = SwarmName::Blob(Digest::sha256(b""));
    let blob = open(&agent, name).await;
    assert_eq!((blob.length(), blob.is_complete()), (0, true));
    assert!(read(&blob, 0..u64::MAX).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_does_not_keep_bytes_from_a_reader() {
    let mut bench = Bench::new().await;
    let content = content(MIB / 2, 13);
    bench.origin.pieces.put(&content.metainfo, &content.bytes);
    let agent = bench.agent().await;
    agent.pieces.is_full.store(true, Ordering::Relaxed);
    fetch(&agent, &content).await;
    assert!(agent.node.metrics().pieces_not_stored.get() > 0);
}
