//! Tags, written and read by many at once: whatever was seen could have happened one after another.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fake_s3::Conditions;
use oci::Digest;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tests::http::{Request, Response};
use tests::linearizable::{Action, Operation, check};
use tests::push;
use tests::roles::{Backend, Cluster, Size};
use tests::s3::S3Options;

const REPOSITORY: &str = "team/app";
const TAGS: [&str; 2] = ["v1", "v2"];
/// Longest wait of a client for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long clients work before and after a build-index is killed.
const WHILE: Duration = Duration::from_secs(3);
/// Most operations of one client.
const MOST: usize = 600;

/// What a tag names: the number of a manifest, or nothing.
type Named = Option<u32>;

/// What clients share.
struct Shared {
    began: Instant,
    stop: AtomicBool,
    /// Number of the next manifest.
    next: AtomicU32,
    config: serde_json::Value,
}

/// A client of one proxy or agent.
struct Client<'a> {
    addr: SocketAddr,
    random: ChaCha8Rng,
    /// Of a hundred operations, those that write.
    writes: u32,
    shared: &'a Shared,
    /// Operations by tag; what was read is a digest yet.
    seen: Vec<(usize, Operation<Option<Digest>>)>,
    /// Numbers of the manifests it has made.
    made: HashMap<Digest, u32>,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a test is short")
    }

    /// Returns a manifest that nobody else has.
    fn manifest(&self) -> (u32, Vec<u8>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": push::MANIFEST,
            "config": self.config,
            "layers": [],
            "annotations": {"number": number.to_string()},
        });
        (number, manifest.to_string().into_bytes())
    }
}

impl Client<'_> {
    fn run(mut self) -> Self {
        for _ in 0..MOST {
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            let tag = self.random.random_range(0..TAGS.len());
            let choice = self.random.random_range(0..100);
            if choice >= self.writes {
                self.get(tag);
            } else if choice % 5 == 0 {
                self.delete(tag);
            } else {
                self.put(tag);
            }
        }
        self
    }

    fn put(&mut self, tag: usize) {
        let (number, bytes) = self.shared.manifest();
        let digest = Digest::sha256(&bytes);
        self.made.insert(digest, number);
        let action = Action::Write(Some(digest));
        self.ask(tag, "PUT", &bytes, action, |response| {
            match response.status {
                201 => Some(action),
                _ => None,
            }
        });
    }

    fn delete(&mut self, tag: usize) {
        let action = Action::Write(None);
        self.ask(tag, "DELETE", &[], action, |response| {
            match response.status {
                202 => Some(action),
                404 => Some(Action::Read(None)),
                _ => None,
            }
        });
    }

    fn get(&mut self, tag: usize) {
        let unknown = Action::Read(None);
        self.ask(tag, "GET", &[], unknown, |response| match response.status {
            200 => {
                let digest = response.header("docker-content-digest");
                let digest = digest.expect("a manifest has a digest").parse();
                Some(Action::Read(Some(digest.expect("it is a digest"))))
            }
            404 => Some(Action::Read(None)),
            _ => None,
        });
    }

    /// Asks, and notes what came of it: `unless` where that is not known.
    fn ask(
        &mut self,
        tag: usize,
        method: &str,
        body: &[u8],
        unless: Action<Option<Digest>>,
        meaning: impl FnOnce(&Response) -> Option<Action<Option<Digest>>>,
    ) {
        let called = self.shared.now();
        let response = self.send(tag, method, body);
        let answered = self.shared.now();
        let known = response.ok().and_then(|response| {
            let refused = (400..500).contains(&response.status) && response.status != 404;
            assert!(
                !refused,
                "{method}: {} {}",
                response.status,
                response.text()
            );
            meaning(&response)
        });
        let operation = Operation {
            action: known.unwrap_or(unless),
            called,
            answered: known.map(|_| answered),
        };
        if known.is_none() {
            // Nobody asks again at once where something is away.
            std::thread::sleep(Duration::from_millis(20));
        }
        self.seen.push((tag, operation));
    }

    fn send(&self, tag: usize, method: &str, body: &[u8]) -> io::Result<Response> {
        let path = format!("/v2/{REPOSITORY}/manifests/{}", TAGS[tag]);
        let request = Request {
            method,
            path: &path,
            media_type: push::MANIFEST,
            body,
        };
        request.send(self.addr, PATIENCE)
    }
}

/// Lets clients work through two proxies and an agent, kills a build-index meanwhile, and checks
/// what they saw.
fn check_tags(backend: Backend, seed: u64) {
    let mut cluster = Cluster::new(Size {
        agents: 1,
        build_indexes: 2,
        proxies: 2,
        backend,
        ..Size::default()
    });
    cluster.start_all();
    let layer = push::blob(&cluster.proxy(), REPOSITORY, b"{}");
    let shared = Shared {
        began: Instant::now(),
        stop: AtomicBool::new(false),
        next: AtomicU32::new(1),
        config: json!({
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": layer,
            "size": 2,
        }),
    };
    let addr = |name: &str| cluster.part(name).http;
    let (first, second, agent) = (addr("proxy-1"), addr("proxy-2"), addr("agent-1"));
    // Where each client asks, and how much of it writes.
    let kinds = [
        (first, 80),
        (second, 80),
        (agent, 60),
        (first, 0),
        (second, 0),
        (agent, 0),
    ];
    let ended: Vec<Client<'_>> = std::thread::scope(|scope| {
        let client = |(number, (addr, writes))| {
            let client = Client {
                addr,
                random: ChaCha8Rng::seed_from_u64(seed + number),
                writes,
                shared: &shared,
                seen: Vec::new(),
                made: HashMap::new(),
            };
            scope.spawn(move || client.run())
        };
        let clients: Vec<_> = (0..).zip(kinds).map(client).collect();
        std::thread::sleep(WHILE);
        cluster.kill("build-index-1");
        std::thread::sleep(WHILE / 3);
        cluster.start_part("build-index-1");
        std::thread::sleep(WHILE);
        shared.stop.store(true, Ordering::Relaxed);
        let joined = clients.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined
            .map(|client| client.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    judge(&ended, seed);
}

fn judge(clients: &[Client<'_>], seed: u64) {
    let made: HashMap<_, _> = clients.iter().flat_map(|client| &client.made).collect();
    let named = |digest: Option<Digest>| -> Named {
        digest.map(|digest| **made.get(&digest).expect("somebody made what was read"))
    };
    for (index, tag) in TAGS.iter().enumerate() {
        let operations = clients.iter().flat_map(|client| &client.seen);
        let history: Vec<Operation<Named>> = operations
            .filter(|(of, _)| *of == index)
            .map(|(_, operation)| Operation {
                action: match operation.action {
                    Action::Write(digest) => Action::Write(named(digest)),
                    Action::Read(digest) => Action::Read(named(digest)),
                },
                called: operation.called,
                answered: operation.answered,
            })
            .collect();
        let known = history.iter().filter(|one| one.answered.is_some());
        let (mut writes, mut reads) = (0, 0);
        for operation in known {
            match operation.action {
                Action::Write(_) => writes += 1,
                Action::Read(_) => reads += 1,
            }
        }
        assert!(
            writes >= 20 && reads >= 20,
            "{tag}: {writes} writes, {reads} reads"
        );
        if let Err(impossible) = check(None, &history) {
            let tail = impossible.order.len().saturating_sub(12);
            panic!(
                "tag {tag} with seed {seed}: of {} operations {} can be put in an order; it ends \
                 with\n{:#?}\nafter which none of these can come:\n{:#?}",
                history.len(),
                impossible.order.len(),
                &impossible.order[tail..],
                &impossible.open[..impossible.open.len().min(12)],
            );
        }
    }
}

#[test]
fn tags_in_a_folder_are_linearizable() {
    check_tags(Backend::Fs, 1);
}

#[test]
fn tags_in_a_bucket_are_linearizable() {
    check_tags(Backend::S3(S3Options::default()), 2);
}

/// The store looks at conditions and then writes; the build-index that is killed is the writer.
#[test]
fn tags_in_a_bucket_without_conditions_are_linearizable() {
    let racy = S3Options {
        conditions: Conditions::Racy,
    };
    check_tags(Backend::S3(racy), 3);
}
