//! Images that are mounted by nydusd, which reads ranges of blobs from an agent when files are read.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::documents::block;
use tests::hostile::Hostile;
use tests::nydus::{self, Image, Mount};
use tests::roles::{Cluster, Part, Size};
use tests::{curl, push, random, shoal, wait};

const MIB: u64 = 1 << 20;
const REPOSITORY: &str = "team/app";
const TAG: &str = "v1";
/// nydusd gives a blob up for good whose first metadata it could not read for so long.
const NYDUSD_PATIENCE: Duration = Duration::from_millis(13_500);

/// A cluster with an image, and a forward proxy at each agent.
struct Bench {
    cluster: Cluster,
    image: Image,
    forward_proxies: Vec<SocketAddr>,
}

/// Lets the origin send so many bytes a second.
fn origin_at(rate: &str) -> impl Fn(&str, &mut Value) {
    move |name, config| {
        if name == "origin-1" {
            config["peer"]["upload_rate"] = json!(rate);
        }
    }
}

impl Bench {
    /// Starts everything; `change` sees the configuration of each agent and of the origin.
    fn start(agents: u8, seed: u64, change: impl Fn(&str, &mut Value)) -> Self {
        let mut cluster = Cluster::new(Size {
            agents,
            ..Size::default()
        });
        let settings: Value = serde_saphyr::from_str(&block("docs/clients.md", "agent-nydusd"))
            .expect("the block is YAML");
        let mut forward_proxies = Vec::new();
        let registry = cluster.part("proxy-1").http;
        for number in 1..=agents {
            let addr = shoal::free_addr();
            let name = format!("agent-{number}");
            cluster.configure(&name, |config| {
                for (key, value) in settings.as_object().expect("it has keys") {
                    config[key] = value.clone();
                }
                config["forward_proxy_addr"] = json!(addr);
                config["forward_proxy_hosts"] = json!([registry]);
                change(&name, config);
            });
            forward_proxies.push(addr);
        }
        cluster.configure("origin-1", |config| change("origin-1", config));
        cluster.start_all();
        let image = Image::make(seed);
        image.push(&cluster.proxy(), REPOSITORY, TAG);
        Self {
            cluster,
            image,
            forward_proxies,
        }
    }

    fn agent(&self, number: usize) -> &Part {
        self.cluster.part(&format!("agent-{number}"))
    }

    /// Returns the settings of a nydusd to which an agent is the registry.
    fn by_host(&self, number: usize) -> Value {
        let mut config = nydus::config("nydusd-host", REPOSITORY);
        config["device"]["backend"]["config"]["host"] = json!(self.agent(number).http);
        config
    }

    /// Returns the settings of a nydusd to which an agent is the proxy on the way to the registry.
    fn by_proxy(&self, number: usize) -> Value {
        let mut config = nydus::config("nydusd-proxy", REPOSITORY);
        let backend = &mut config["device"]["backend"]["config"];
        backend["host"] = json!(self.cluster.part("proxy-1").http);
        let addr = self.forward_proxies[number - 1];
        backend["proxy"]["url"] = json!(format!("http://{addr}"));
        backend["proxy"]["ping_url"] = json!(format!("http://{addr}/v2/"));
        config
    }

    fn mount(&self, number: usize, config: &Value) -> Mount {
        Mount::start(&self.agent(number).url(), REPOSITORY, TAG, config)
    }

    /// Returns the bytes that origins sent, and those that they read from the storage.
    fn origins(&self) -> (u64, u64) {
        let sum = |metric| {
            self.cluster
                .parts("origin")
                .map(|part| part.metric(metric, &[]))
                .sum()
        };
        (
            sum("peer_sent_bytes_total"),
            sum("origin_backend_read_bytes_total"),
        )
    }

    fn received(&self, number: usize) -> u64 {
        self.agent(number).metric("peer_received_bytes_total", &[])
    }

    /// Returns how many parts of blobs the registry itself was asked for.
    fn registry_reads(&self) -> u64 {
        let labels = ["endpoint=\"blob\"", "method=\"get\"", "code=\"206\""];
        self.cluster
            .part("proxy-1")
            .metric("registry_requests_total", &labels)
    }
}

#[test]
fn two_nodes_read_every_byte_and_one_copy_leaves_the_origin() {
    let bench = Bench::start(2, 10, |_, _| {});
    let (sent, read) = bench.origins();
    // One mounts by the agent's registry, the other by its forward proxy.
    let mounts = [
        bench.mount(1, &bench.by_host(1)),
        bench.mount(2, &bench.by_proxy(2)),
    ];
    let tree = bench.image.tree();
    std::thread::scope(|scope| {
        for mount in &mounts {
            let (tree, root) = (tree.clone(), mount.root());
            scope.spawn(move || nydus::compare(&tree, &root));
        }
    });
    for (mount, number) in mounts.iter().zip(1..) {
        assert_eq!(mount.asked("read_errors"), 0, "node {number}");
        assert!(
            mount.asked("read_count") > 0,
            "node {number} read something"
        );
    }
    let (sent_now, read_now) = bench.origins();
    let (sent, read) = (sent_now - sent, read_now - read);
    eprintln!(
        "blob {} bytes; origins sent {sent} and read {read}; agents received {} and {}",
        bench.image.length,
        bench.received(1),
        bench.received(2)
    );
    // Each piece once, the bootstrap layer and what goes with it included; and some a second time
    // where a busy machine made a reader wait so long that the origin was asked too.
    let most = bench.image.length + bench.image.length / 4 + 2 * MIB;
    assert!(
        sent <= most,
        "origins sent {sent} bytes, {most} were expected at most"
    );
    assert!(
        read <= most,
        "origins read {read} bytes, {most} were expected at most"
    );
    assert_eq!(bench.registry_reads(), 0, "all came through the agents");
}

#[test]
fn only_what_is_read_is_fetched() {
    let bench = Bench::start(1, 20, |_, _| {});
    let mount = bench.mount(1, &bench.by_host(1));
    let before = bench.received(1);
    let path = "lib/17/031";
    let bytes = std::fs::read(mount.root().join(path)).expect("it can be read");
    assert!(bytes == std::fs::read(bench.image.tree().join(path)).expect("it was written"));
    let fetched = bench.received(1) - before;
    // nydusd asks for up to 1 MiB around a small file, which touches two pieces.
    assert!(
        (1..=3 * MIB).contains(&fetched),
        "{fetched} bytes were fetched for one file"
    );

    // The same without nydusd: 1 MiB in the middle of a large blob, and its last bytes.
    let bytes = random::bytes(21, 256 * 1_048_576);
    let digest = push::blob(&bench.cluster.proxy(), REPOSITORY, &bytes);
    let url = format!("{}/v2/{REPOSITORY}/blobs/{digest}", bench.agent(1).url());
    let (middle, end) = (100 * 1_048_576 + 7, bytes.len() - 100_000);
    let before = bench.received(1);
    for (from, to, pieces) in [(middle, middle + 1_048_575, 2), (end, bytes.len() - 1, 3)] {
        let began = Instant::now();
        let range = format!("Range: bytes={from}-{to}");
        let answer = curl::send(&url, &["--header", &range]);
        assert_eq!(answer.status, 206, "{}", answer.head);
        assert!(answer.body == bytes[from..=to]);
        eprintln!("a cold range took {:?}", began.elapsed());
        let fetched = bench.received(1) - before;
        assert!(fetched <= pieces * MIB, "{fetched} bytes were fetched");
    }
}

#[test]
fn prefetch_of_everything_by_two_nodes() {
    let bench = Bench::start(2, 30, |_, _| {});
    let (before, _) = bench.origins();
    let mounts: Vec<_> = [bench.by_host(1), bench.by_proxy(2)]
        .into_iter()
        .zip(1..)
        .map(|(mut config, number)| {
            config["fs_prefetch"]["enable"] = json!(true);
            bench.mount(number, &config)
        })
        .collect();
    // Nobody reads a file yet.
    for number in 1..=2 {
        wait::until_true("the agent has it all", || {
            bench.received(number) >= bench.image.length
        });
    }
    for mount in &mounts {
        nydus::compare(&bench.image.tree(), &mount.root());
        assert_eq!(mount.asked("read_errors"), 0);
    }
    let sent = bench.origins().0 - before;
    eprintln!("origins sent {sent} of {}", bench.image.length);
    // Both ask for the same parts at the same moment; the tracker lets one of them ask.
    let most = bench.image.length + bench.image.length / 4 + 2 * MIB;
    assert!(
        sent <= most,
        "origins sent {sent} bytes, {most} were expected at most"
    );
}

#[test]
fn a_peer_that_damages_is_not_seen_by_who_reads_files() {
    // Slow enough that agents turn to the peer.
    let bench = Bench::start(2, 40, origin_at("16MiB"));
    let digest = bench.image.digest;
    let origin = bench.cluster.part("origin-1").url();
    let metainfo = curl::get(&format!("{origin}/v1/blobs/{digest}/metainfo"));
    assert_eq!(metainfo.status, 200, "{}", metainfo.head);
    let key = bench.cluster.key().public();
    let metainfo = torrent::MetaInfo::from_bytes(&key, &metainfo.body).expect("it is signed");
    let tracker = bench.cluster.part("tracker-1").peer;
    let hostile = Hostile::start(tracker, vec![metainfo]);
    for number in 1..=2 {
        let mount = bench.mount(number, &bench.by_host(number));
        nydus::compare(&bench.image.tree(), &mount.root());
        assert_eq!(mount.asked("read_errors"), 0, "node {number}");
    }
    assert!(
        hostile.sent() > 0,
        "nobody asked the hostile peer; the test shows nothing"
    );
    assert!(
        hostile.sent() <= 8,
        "it could send {} damaged pieces",
        hostile.sent()
    );
}

/// Reads the large files in order, again where that fails; returns the longest time that one took
/// from its first failure on.
fn read_stubbornly(tree: &Path, root: &Path, begun: &std::sync::mpsc::Sender<()>) -> Duration {
    let mut longest = Duration::ZERO;
    for name in ["large-0", "large-1", "large-2"] {
        let right = std::fs::read(tree.join(name)).expect("it was written");
        let mut failed: Option<Instant> = None;
        loop {
            match std::fs::read(root.join(name)) {
                Ok(bytes) => {
                    assert!(bytes == right, "{name} has other bytes");
                    break;
                }
                Err(error) => {
                    let since = *failed.get_or_insert_with(Instant::now);
                    assert!(since.elapsed() < 2 * NYDUSD_PATIENCE, "{name}: {error}");
                }
            }
        }
        longest = longest.max(failed.map_or(Duration::ZERO, |since| since.elapsed()));
        let _ = begun.send(());
    }
    longest
}

#[test]
fn an_agent_that_dies_while_files_are_read_is_back_in_time() {
    for by_proxy in [false, true] {
        let mut bench = Bench::start(1, 50, origin_at("8MiB"));
        let config = if by_proxy {
            bench.by_proxy(1)
        } else {
            bench.by_host(1)
        };
        let mount = bench.mount(1, &config);
        let (tree, root): (PathBuf, PathBuf) = (bench.image.tree(), mount.root());
        let (begun, has_begun) = std::sync::mpsc::channel();
        let reading = std::thread::spawn(move || read_stubbornly(&tree, &root, &begun));
        has_begun.recv().expect("the first file can be read");
        let killed = Instant::now();
        bench.cluster.kill("agent-1");
        bench.cluster.start_part("agent-1");
        let back = killed.elapsed();
        let longest = reading.join().expect("every file can be read in the end");
        eprintln!(
            "by proxy: {by_proxy}; the agent was back after {back:?}; reads failed for {longest:?}"
        );
        assert!(longest < NYDUSD_PATIENCE, "reads failed for {longest:?}");
        // And everything else is there.
        nydus::compare(&bench.image.tree(), &mount.root());
        if by_proxy {
            assert_eq!(
                longest,
                Duration::ZERO,
                "the registry is asked where the proxy is away"
            );
        }
    }
}

#[test]
fn the_forward_proxy_tells_no_secrets_and_serves_no_others() {
    let bench = Bench::start(1, 60, |name, config| {
        if name == "agent-1" {
            config["log"] = json!({"filter": "trace"});
        }
    });
    let proxy = format!("http://{}", bench.forward_proxies[0]);
    let registry = bench.cluster.proxy();
    let digest = bench.image.digest;
    let unknown = oci::Digest::sha256(b"unknown");
    let ask = |url: &str| {
        // Curl leaves its proxy out for the loopback unless it is told otherwise.
        let secret = "Authorization: Bearer hidden-token";
        let args = ["--noproxy", "", "--proxy", &proxy, "--header", secret];
        curl::send(&format!("{url}?account=hidden-name"), &args)
    };
    let began = Instant::now();
    assert_eq!(
        ask(&format!("{registry}/v2/{REPOSITORY}/blobs/{digest}")).status,
        200
    );
    assert_eq!(
        ask(&format!("{registry}/v2/{REPOSITORY}/manifests/{TAG}")).status,
        200
    );
    let absent = ask(&format!("{registry}/v2/{REPOSITORY}/blobs/{unknown}"));
    assert_eq!((absent.status, &*absent.code()), (404, "BLOB_UNKNOWN"));
    let other = ask("http://docker.io/v2/");
    assert_eq!((other.status, &*other.code()), (403, "DENIED"));
    assert!(
        other.text().contains("forward_proxy_hosts"),
        "{}",
        other.text()
    );
    assert_eq!(curl::get(&format!("{proxy}/v2/")).status, 200);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    let log = bench.agent(1).log();
    assert!(
        log.contains("forward_proxy_hosts"),
        "it is logged that it refused"
    );
    assert!(!log.contains("hidden-"), "a secret was logged");
}

#[test]
fn a_mount_ends_with_its_test() {
    let bench = Bench::start(1, 70, |_, _| {});
    let mount = bench.mount(1, &bench.by_host(1));
    let root = mount.root();
    assert!(nydus::is_mounted(&root));
    let ended = std::thread::spawn(move || {
        let _mount = mount;
        std::panic::resume_unwind(Box::new("as a test that fails"));
    });
    assert!(ended.join().is_err());
    assert!(!nydus::is_mounted(&root) && !root.exists());
}
