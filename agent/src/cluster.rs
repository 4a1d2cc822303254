//! Agents, origins, a tracker and a build-index in one process, over one folder: what the parts do
//! to each other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{BuildIndexClient, Cluster, Http, Limits, OriginClient};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream};
use oci::{Digest, RepositoryName};
use serde_json::json;
use service::Running;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const MIB: usize = 1 << 20;
/// Bound of everything that is waited for.
const PATIENCE: Duration = Duration::from_secs(90);

/// A part that runs.
struct Part {
    running: Running,
    stop: CancellationToken,
    http: SocketAddr,
}

impl Part {
    async fn stop(self) {
        self.stop.cancel();
        within("the end", self.running.wait()).await.unwrap();
    }

    /// Returns the sum of a counter over its labels.
    fn metric(&self, name: &str) -> u64 {
        let text = self.running.admin.metrics();
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        let values = lines.filter(|(key, _)| key.split('{').next() == Some(name));
        values.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
    }
}

struct Bench {
    folder: tempfile::TempDir,
    cluster: Cluster,
    origins: Vec<Part>,
    agents: Vec<Part>,
    _tracker: Part,
    index: Part,
    repository: RepositoryName,
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("{what} takes too long"))
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, waiting).await;
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn key(folder: &Path) -> (PathBuf, String) {
    let path = folder.join("cluster.key");
    let key = torrent::ClusterKey::from_seed([3; 32]).public().to_string();
    std::fs::write(&path, "03".repeat(32)).unwrap();
    (path, key)
}

/// Starts a part with this configuration.
macro_rules! part {
    ($part:ident, $config:expr, $http:expr, { $($listener:ident: $bound:expr),* }) => {{
        let config: $part::Config = serde_json::from_value($config).unwrap();
        let stop = CancellationToken::new();
        let listeners = $part::Listeners { $($listener: $bound),* };
        let running = $part::start(config, listeners, stop.clone()).await.unwrap();
        Part { running, stop, http: $http }
    }};
}

impl Bench {
    async fn start(origins: usize, agents: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("backend");
        std::fs::create_dir_all(&root).unwrap();
        let backend = json!({"fs": {"root": root}});
        let (key_file, key) = key(folder.path());
        let mut listeners = Vec::new();
        for _ in 0..origins {
            listeners.push((listen().await, listen().await));
        }
        let (tracker_peer, index_http) = (listen().await, listen().await);
        let members = listeners.iter().enumerate().map(|(at, (http, peer))| {
            let (http, peer) = (http.1.to_string(), peer.1.to_string());
            json!({"name": format!("origin-{at}"), "http": http, "peer": peer})
        });
        let cluster = json!({
            "origins": members.collect::<Vec<_>>(),
            "trackers": [{"name": "tracker-1", "peer": tracker_peer.1.to_string()}],
            "build_indexes": [{"name": "build-index-1", "http": index_http.1.to_string()}],
        });
        let config = json!({"name": "tracker-1", "cluster": cluster, "cluster_key": key});
        let tracker = part!(tracker, config, tracker_peer.1, { peer: tracker_peer.0 });
        let config = json!({"backend": backend});
        let index = part!(build_index, config, index_http.1, { http: index_http.0 });
        let mut bench = Self {
            cluster: serde_json::from_value(cluster.clone()).unwrap(),
            origins: Vec::new(),
            agents: Vec::new(),
            _tracker: tracker,
            index,
            repository: "team/app".parse().unwrap(),
            folder,
        };
        for (at, (http, peer)) in listeners.into_iter().enumerate() {
            let config = json!({
                "name": format!("origin-{at}"), "backend": backend, "cluster": cluster,
                "cluster_key_file": key_file,
            });
            let origin = part!(origin, config, http.1, { http: http.0, peer: peer.0 });
            bench.origins.push(origin);
        }
        for _ in 0..agents {
            bench.start_agent().await;
        }
        bench
    }

    async fn start_agent(&mut self) {
        let (_, key) = key(self.folder.path());
        let cache = self
            .folder
            .path()
            .join(format!("agent-{}", self.agents.len()));
        let config = json!({
            "cluster": self.cluster, "cluster_key": key, "writes": "refuse",
            "cache": {"folder": cache}, "peer": {"read_timeout": "10s"},
        });
        let (registry, peer) = (listen().await, listen().await);
        let agent = part!(crate, config, registry.1, {
            registry: registry.0, peer: peer.0, forward_proxy: None
        });
        until("the agent is ready", async || {
            agent.running.admin.not_ready().await.is_empty()
        })
        .await;
        self.agents.push(agent);
    }

    /// Pushes a blob as a proxy does.
    async fn push(&self, bytes: &Bytes) -> Digest {
        let cluster = Arc::new(self.cluster.clone());
        let client = OriginClient::new(Http::new(Limits::default()), Arc::clone(&cluster));
        let (member, id) = client.begin_upload().await.unwrap();
        let member = member.name.as_str();
        let body = stream::iter([Ok(bytes.clone())]).boxed();
        client.append(member, &id, Some(0), body).await.unwrap();
        let digest = Digest::sha256(bytes);
        client.commit(member, &id, &digest).await.unwrap();
        let index = BuildIndexClient::new(Http::new(Limits::default()), cluster);
        index
            .link_blob(&self.repository, &digest, None)
            .await
            .unwrap()
            .unwrap();
        digest
    }

    fn url(&self, agent: usize, digest: &Digest) -> String {
        let (http, repository) = (self.agents[agent].http, &self.repository);
        format!("http://{http}/v2/{repository}/blobs/{digest}")
    }

    async fn get(&self, agent: usize, digest: &Digest) -> Result<Bytes, String> {
        let pull = async {
            let answer = reqwest::get(self.url(agent, digest)).await;
            let answer = answer.map_err(|error| error.to_string())?;
            if !answer.status().is_success() {
                return Err(format!(
                    "{}: {}",
                    answer.status(),
                    answer.text().await.unwrap()
                ));
            }
            answer.bytes().await.map_err(|error| error.to_string())
        };
        within("a pull", pull).await
    }

    fn sent(&self) -> (u64, u64) {
        let sum = |parts: &[Part]| {
            parts
                .iter()
                .map(|one| one.metric("peer_sent_bytes_total"))
                .sum()
        };
        (sum(&self.origins), sum(&self.agents))
    }
}

/// Bytes of which no piece is like another.
fn bytes(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let all: Vec<u8> = (0..length.div_ceil(8)).flat_map(word).collect();
    Bytes::from(all).slice(..length)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_agents_pull_and_about_one_copy_leaves_the_origins() {
    let bench = Bench::start(2, 5).await;
    let bytes = bytes(40 * MIB + 77, 1);
    let digest = bench.push(&bytes).await;
    let pulls = join_all((0..5).map(|agent| bench.get(agent, &digest))).await;
    for pulled in pulls {
        assert!(pulled.unwrap() == bytes);
    }
    let (origins, agents) = bench.sent();
    let length = bytes.len() as u64;
    println!("origins sent {origins}, agents {agents} of {length}");
    assert!(origins <= 2 * length && origins + agents >= 5 * length);
    for agent in 0..5 {
        assert!(
            bench.get(agent, &digest).await.unwrap() == bytes,
            "out of the cache"
        );
    }
    let received: u64 = bench
        .agents
        .iter()
        .map(|one| one.metric("peer_received_bytes_total"))
        .sum();
    assert_eq!(
        bench.sent().0 + bench.sent().1,
        received,
        "what was sent was received"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_registry_stored_is_pulled_while_it_is_hashed() {
    let bench = Bench::start(2, 3).await;
    let bytes = bytes(24 * MIB + 5, 2);
    let digest = Digest::sha256(&bytes);
    store(&bench, &digest, &bytes);
    for pulled in join_all((0..3).map(|agent| bench.get(agent, &digest))).await {
        assert!(pulled.unwrap() == bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lies_never_reaches_a_client_whole() {
    for length in [3 * MIB, 40 * MIB] {
        let bench = Bench::start(1, 2).await;
        let right = bytes(length, 3);
        let digest = Digest::sha256(&right);
        let mut wrong = right.to_vec();
        wrong[length - 1000] ^= 1;
        store(&bench, &digest, &wrong);
        for agent in 0..2 {
            for _ in 0..2 {
                assert!(bench.get(agent, &digest).await.is_err());
            }
        }
        for agent in &bench.agents {
            until("it is dropped", async || {
                agent.running.admin.status().await["cache"]["bytes"] == 0
            })
            .await;
        }
        // Mended, it is served.
        store(&bench, &digest, &right);
        until("the right bytes are served", async || {
            bench
                .get(0, &digest)
                .await
                .is_ok_and(|bytes| bytes == right)
        })
        .await;
    }
}

/// Stores a blob as docker-registry does, in the repository.
fn store(bench: &Bench, digest: &Digest, bytes: &[u8]) {
    let root = bench.folder.path().join("backend/docker/registry/v2");
    let hex = digest.hex();
    let blob = root.join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]));
    let link = root.join(format!(
        "repositories/{}/_layers/sha256/{hex}/link",
        bench.repository
    ));
    for (path, content) in [(blob, bytes), (link, digest.to_string().as_bytes())] {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_after_a_restart_and_seeds() {
    let mut bench = Bench::start(1, 2).await;
    let bytes = bytes(9 * MIB, 4);
    let digest = bench.push(&bytes).await;
    assert!(bench.get(0, &digest).await.unwrap() == bytes);
    let last = bench.agents.pop().unwrap();
    let first = bench.agents.pop().unwrap();
    last.stop().await;
    first.stop().await;
    bench.start_agent().await;
    let before = bench.sent().0;
    assert!(bench.get(0, &digest).await.unwrap() == bytes);
    assert_eq!(bench.sent().0, before, "it is in the cache");
    assert_eq!(bench.agents[0].metric("peer_received_bytes_total"), 0);
    bench.start_agent().await;
    assert!(bench.get(1, &digest).await.unwrap() == bytes);
    let from_agent = bench.agents[0].metric("peer_sent_bytes_total");
    println!("the agent sent {from_agent}");
    assert!(from_agent > 0, "it seeds what it kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_cache_is_fetched_again() {
    let bench = Bench::start(1, 1).await;
    let bytes = bytes(5 * MIB, 5);
    let digest = bench.push(&bytes).await;
    assert!(bench.get(0, &digest).await.unwrap() == bytes);
    let file = find(&bench.folder.path().join("agent-0"), "data");
    let mut content = std::fs::read(&file).unwrap();
    content[3 * MIB + 7] ^= 1;
    std::fs::write(&file, content).unwrap();
    // What is in memory still is right: a restart reads the disk.
    let mut bench = bench;
    bench.agents.pop().unwrap().stop().await;
    bench.start_agent().await;
    assert!(bench.get(0, &digest).await.unwrap() == bytes);
    assert_eq!(bench.agents[0].metric("peer_pieces_lost_total"), 1);
    let received = bench.agents[0].metric("peer_received_bytes_total");
    assert_eq!(received, MIB as u64, "one piece came again");
    assert!(
        std::fs::read(&file).unwrap() == bytes,
        "it is right on the disk too"
    );
}

fn find(folder: &Path, name: &str) -> PathBuf {
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|found| found == name) {
                return path;
            }
        }
    }
    panic!("there is no {name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_the_death_of_everybody_else() {
    let mut bench = Bench::start(1, 2).await;
    let bytes = bytes(6 * MIB, 6);
    let digest = bench.push(&bytes).await;
    let url = bench.url(0, &digest);
    let client = reqwest::Client::new();
    let range = client
        .get(&url)
        .header("Range", "bytes=1000000-3000000")
        .send();
    let range = within("a range", async {
        range.await.unwrap().bytes().await.unwrap()
    })
    .await;
    assert!(range == bytes[1_000_000..=3_000_000]);
    assert!(bench.get(0, &digest).await.unwrap() == bytes);
    bench.index.stop.cancel();
    bench.origins.pop().unwrap().stop().await;
    // Agents have it, and remember that it belongs to the repository.
    assert!(bench.get(0, &digest).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_absent_is_told_soon_and_may_come_later() {
    let bench = Bench::start(1, 1).await;
    let bytes = bytes(2 * MIB, 7);
    let digest = Digest::sha256(&bytes);
    assert!(bench.get(0, &digest).await.unwrap_err().starts_with("404"));
    assert_eq!(bench.push(&bytes).await, digest);
    assert!(bench.get(0, &digest).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_large_blob_is_all_that_comes() {
    let bench = Bench::start(1, 1).await;
    let bytes = bytes(70 * MIB, 8);
    let digest = bench.push(&bytes).await;
    let client = reqwest::Client::new();
    let request = client
        .get(bench.url(0, &digest))
        .header("Range", "bytes=50000000-50100000");
    let range = within("a range", async {
        request.send().await.unwrap().bytes().await.unwrap()
    });
    assert!(range.await == bytes[50_000_000..=50_100_000]);
    let received = bench.agents[0].metric("peer_received_bytes_total");
    assert!(
        received <= 8 * MIB as u64,
        "{received} bytes came for a range of 100 kB"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn small_blobs_come_with_their_manifest() {
    let bench = Bench::start(2, 1).await;
    let mut layers = Vec::new();
    for seed in 0..40 {
        let bytes = bytes(10_000 + 1000 * usize::try_from(seed).unwrap(), 100 + seed);
        let digest = bench.push(&bytes).await;
        layers.push(json!({"mediaType": "text/plain", "digest": digest, "size": bytes.len()}));
    }
    let total: u64 = layers
        .iter()
        .map(|layer| layer["size"].as_u64().unwrap())
        .sum();
    let kind = oci::media_type::OCI_MANIFEST;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "config": layers[0], "layers": layers[1..],
    });
    let cluster = Arc::new(bench.cluster.clone());
    let index = BuildIndexClient::new(Http::new(Limits::default()), cluster);
    let (tag, manifest) = ("v1".parse().unwrap(), manifest.to_string().into());
    let stored = index.put_manifest(&bench.repository, &tag, &[], Some(kind), manifest);
    stored.await.unwrap();
    let (http, repository) = (bench.agents[0].http, &bench.repository);
    let url = format!("http://{http}/v2/{repository}/manifests/v1");
    let head = reqwest::Client::new().head(&url).send().await.unwrap();
    assert!(head.status().is_success());
    assert_eq!(
        bench.agents[0].running.admin.status().await["blobs"],
        0,
        "HEAD joins nothing"
    );
    assert!(reqwest::get(&url).await.unwrap().status().is_success());
    until("all of it is here", async || {
        bench.agents[0].running.admin.status().await["cache"]["bytes"] == total
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_survives_the_death_of_an_origin() {
    let mut bench = Bench::start(2, 2).await;
    let bytes = bytes(60 * MIB, 9);
    let digest = bench.push(&bytes).await;
    let mut answers = Vec::new();
    for agent in 0..2 {
        answers.push(reqwest::get(bench.url(agent, &digest)).await.unwrap());
    }
    bench.origins.pop().unwrap().stop().await;
    for answer in answers {
        let body = within("a pull", answer.bytes()).await.unwrap();
        assert!(body == bytes);
    }
}
