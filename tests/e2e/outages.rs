//! Parts that are gone, or silent, in the middle of a push or a pull.

use std::time::{Duration, Instant};

use fake_s3::Fault;
use oci::Digest;
use serde_json::json;
use tests::http::{Body, Request, SlowPatch};
use tests::roles::{Backend, Cluster, Size};
use tests::s3::{S3Options, no_writes};
use tests::{curl, files, files_with, push, random, wait};

const MIB: usize = 1 << 20;
const REPOSITORY: &str = "team/app";
const OCTETS: &str = "application/octet-stream";

fn size(origins: u8) -> Size {
    Size {
        origins,
        proxies: 2,
        backend: Backend::S3(S3Options::default()),
        ..Size::default()
    }
}

/// An upload that has begun, and the origin that has it.
struct Session {
    location: String,
    origin: String,
}

impl Session {
    fn start(cluster: &Cluster) -> Self {
        let count = |name: &str| files(&cluster.part(name).folder).len();
        let names: Vec<_> = cluster
            .parts("origin")
            .map(|origin| origin.name.clone())
            .collect();
        let before: Vec<_> = names.iter().map(|name| count(name)).collect();
        let location = push::start(&cluster.proxy(), REPOSITORY);
        let mut grew = names
            .iter()
            .zip(before)
            .filter(|(name, n)| count(name) > *n);
        let (origin, _) = grew.next().expect("an origin has the upload");
        Self {
            location,
            origin: origin.clone(),
        }
    }

    /// Sends the beginning of a part of so many bytes.
    fn patch(&self, cluster: &Cluster, promised: usize, first: &[u8]) -> SlowPatch {
        let registry = cluster.proxy();
        let path = self.location.strip_prefix(&registry);
        let proxy = cluster.part("proxy-1").http;
        let mut patch = SlowPatch::start(proxy, path.expect("it is there"), promised);
        patch.send(first).expect("the proxy takes it");
        patch
    }

    /// Waits until another origin has the beginning on its disk too; returns which.
    fn mirror(&self, cluster: &Cluster, first: &[u8]) -> String {
        wait::until("there is a second copy", || {
            let mut others = cluster.parts("origin");
            let has = |folder| !files_with(folder, &first[..64]).is_empty();
            let found = others.find(|part| part.name != self.origin && has(&part.folder))?;
            Some(found.name.clone())
        })
    }
}

/// The origin that has an upload dies for good in the middle of it. Its client hears that the upload
/// is gone, and pushes once more; what was acknowledged before is there.
#[test]
fn an_upload_dies_with_its_origin_and_is_repeated() {
    let mut cluster = Cluster::start(size(2));
    // The store does not have it yet when the origin goes.
    cluster.s3().set_faults(&no_writes());
    let taken = random::bytes(1, 3 * MIB);
    let taken_digest = push::blob(&cluster.proxy(), REPOSITORY, &taken);
    let bytes = random::bytes(2, 24 * MIB);
    let session = Session::start(&cluster);
    let mut patch = session.patch(&cluster, bytes.len(), &bytes[..8 * MIB]);
    session.mirror(&cluster, &bytes);
    cluster.kill(&session.origin);
    let rest = patch.send(&bytes[8 * MIB..]);
    let status = patch.finish();
    assert!(
        rest.is_err() || status.is_none_or(|status| status >= 400),
        "{status:?}"
    );
    // Whatever is asked next, and of whom: it is gone, and nobody hangs.
    let digest = Digest::sha256(&bytes).to_string();
    let of_first = session.location.strip_prefix(&cluster.proxy());
    let path = of_first.expect("it is at the first proxy").to_owned();
    for proxy in ["proxy-1", "proxy-2"] {
        let location = format!("{}{path}", cluster.part(proxy).url());
        let start = Instant::now();
        let shown = curl::get(&location);
        let patched = push::send_bytes(&location, "PATCH", OCTETS, &bytes[..MIB], &[]);
        let ended = push::finish(&location, &digest, &bytes);
        for answer in [shown, patched, ended] {
            assert_eq!(
                (answer.status, &*answer.code()),
                (404, "BLOB_UPLOAD_UNKNOWN"),
                "{}",
                answer.head
            );
        }
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    // The store works again: the one origin that is left takes the push, and has what was taken.
    cluster.s3().set_faults(&[]);
    let image = push::image(
        &cluster.proxy(),
        REPOSITORY,
        "v1",
        &[bytes.clone(), taken.clone()],
    );
    assert_eq!(image.layers[1], taken_digest);
    let agent = cluster.part("agent-1").url();
    for (layer, content) in image.layers.iter().zip([&bytes, &taken]) {
        let answer = curl::get(&format!("{agent}/v2/{REPOSITORY}/blobs/{layer}"));
        assert!(
            answer.status == 200 && answer.body == *content,
            "{}",
            answer.head
        );
    }
    // The one that died comes back and does no harm: what it has of the upload can be given up.
    cluster.start_part(&session.origin);
    let shown = curl::get(&session.location);
    assert!([204, 404].contains(&shown.status), "{}", shown.head);
    let answer = curl::get(&format!("{agent}/v2/{REPOSITORY}/manifests/v1"));
    assert_eq!(answer.status, 200, "{}", answer.head);
}

/// The origin with the second copy dies instead: the client does not notice.
#[test]
fn an_upload_goes_on_without_its_second_copy() {
    let mut cluster = Cluster::start(size(2));
    let bytes = random::bytes(3, 24 * MIB);
    let session = Session::start(&cluster);
    let mut patch = session.patch(&cluster, bytes.len(), &bytes[..8 * MIB]);
    let mirror = session.mirror(&cluster, &bytes);
    cluster.kill(&mirror);
    patch.send(&bytes[8 * MIB..]).expect("it goes on");
    assert_eq!(patch.finish(), Some(202));
    let digest = Digest::sha256(&bytes);
    let answer = push::finish(&session.location, &digest.to_string(), b"");
    assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
    let agent = cluster.part("agent-1").url();
    let answer = curl::get(&format!("{agent}/v2/{REPOSITORY}/blobs/{digest}"));
    assert!(answer.body == bytes, "other bytes");
}

/// An origin with a second copy is silent: it is dropped, and another one gets the whole.
#[test]
fn a_silent_origin_is_dropped_from_an_upload() {
    let cluster = Cluster::start(size(3));
    // Only another origin can make the blob safe.
    cluster.s3().set_faults(&no_writes());
    // One that is full of parts that nobody takes, and one that fits into what is on its way.
    for (seed, length) in [(4, 48 * MIB), (5, 3 * MIB)] {
        let bytes = random::bytes(seed, length);
        let session = Session::start(&cluster);
        let first = &bytes[..MIB + MIB / 2];
        let mut patch = session.patch(&cluster, bytes.len(), first);
        let mirror = session.mirror(&cluster, first);
        let origin = cluster.part(&session.origin);
        let dropped = origin.metric("origin_mirrors_dropped_total", &[]);
        cluster.signal(&mirror, "STOP");
        let start = Instant::now();
        patch.send(&bytes[first.len()..]).expect("it goes on");
        assert_eq!(patch.finish(), Some(202));
        let digest = Digest::sha256(&bytes);
        let answer = push::finish(&session.location, &digest.to_string(), b"");
        let took = start.elapsed();
        eprintln!("{length} bytes: {took:?}");
        assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
        // Two seconds for each time that it is silent, and not the minutes that a commit may take.
        assert!(took < Duration::from_secs(30), "{took:?}");
        let end = &bytes[length - 64..];
        let holders: Vec<_> = cluster
            .parts("origin")
            .filter(|part| !files_with(&part.folder, end).is_empty())
            .map(|part| part.name.clone())
            .collect();
        assert!(holders.contains(&session.origin), "{holders:?}");
        assert!(
            holders
                .iter()
                .any(|name| *name != mirror && *name != session.origin)
        );
        assert!(origin.metric("origin_mirrors_dropped_total", &[]) > dropped);
        let log = origin.log();
        assert!(log.contains("is dropped"), "{log}");

        // It wakes up, and takes part again.
        cluster.signal(&mirror, "CONT");
        wait::until_true("it answers", || {
            let url = format!("http://{}/readyz", cluster.part(&mirror).admin);
            curl::get(&url).status == 200
        });
    }
    cluster.s3().set_faults(&[]);
    let layers = [random::bytes(6, 5 * MIB)];
    let image = push::image(&cluster.proxy(), REPOSITORY, "v1", &layers);
    let agent = cluster.part("agent-1").url();
    let answer = curl::get(&format!(
        "{agent}/v2/{REPOSITORY}/blobs/{}",
        image.layers[0]
    ));
    assert!(answer.body == layers[0], "other bytes");
}

/// An agent that is a mirror sends clients on where its cluster is gone; one that is the registry
/// lets them try again. Neither lets them wait.
#[test]
fn an_agent_without_its_cluster_answers() {
    let mut cluster = Cluster::new(Size::default());
    cluster.configure("agent-1", |config| config["fallback"] = json!("mirror"));
    cluster.start_all();
    let layers = [random::bytes(10, 3 * MIB)];
    let image = push::image(&cluster.proxy(), REPOSITORY, "v1", &layers);
    for part in ["build-index-1", "origin-1", "tracker-1", "proxy-1"] {
        cluster.kill(part);
    }
    for (agent, expected) in [("agent-1", 404), ("agent-2", 503)] {
        let agent = cluster.part(agent);
        let paths = [
            "manifests/v1".to_owned(),
            format!("manifests/{}", image.manifest),
            format!("blobs/{}", image.layers[0]),
        ];
        for path in paths {
            let url = format!("{}/v2/{REPOSITORY}/{path}", agent.url());
            let start = Instant::now();
            let (head, get) = (curl::head(&url), curl::get(&url));
            let took = start.elapsed();
            eprintln!("{}: {path} after {took:?}", agent.name);
            let found = (head.status, get.status);
            let text = get.text();
            assert_eq!(
                found,
                (expected, expected),
                "{}: {path}: {text}",
                agent.name
            );
            assert!(took < Duration::from_secs(20), "{took:?}");
            if get.status == 503 {
                assert!(get.header("retry-after").is_some(), "{}", get.head);
            } else {
                let unknown = ["MANIFEST_UNKNOWN", "BLOB_UNKNOWN"];
                assert!(unknown.contains(&&*get.code()), "{}", get.text());
            }
        }
        // docker takes any answer to this but silence.
        assert_eq!(curl::get(&format!("{}/v2/", agent.url())).status, 200);
    }
}

/// How long the store is gone: a real minute.
const OUTAGE: Duration = Duration::from_secs(60);

/// The store fails for a minute in the middle of a push and of a pull.
#[test]
fn a_minute_without_the_store() {
    let mut cluster = Cluster::new(size(2));
    cluster.configure("origin-1", |config| {
        config["peer"]["upload_rate"] = json!("16MiB")
    });
    cluster.start_all();
    let proxy = cluster.proxy();
    let shared = random::bytes(7, 20 * MIB);
    let image = push::image(&proxy, REPOSITORY, "v1", std::slice::from_ref(&shared));
    let agents: Vec<_> = cluster.parts("agent").map(|agent| agent.url()).collect();
    let layer = format!("/v2/{REPOSITORY}/blobs/{}", image.layers[0]);
    let manifest = format!("/v2/{REPOSITORY}/manifests/v1");
    // The first agent has it all, the second one knows what to ask for.
    for agent in &agents {
        assert_eq!(curl::get(&format!("{agent}{manifest}")).status, 200);
    }
    assert!(curl::get(&format!("{}{layer}", agents[0])).body == shared);
    // A push has its first layer where it belongs, and one more that the store will not get.
    let pushed = [random::bytes(8, 6 * MIB), random::bytes(9, 6 * MIB)];
    let _ = push::blob(&proxy, REPOSITORY, &pushed[0]);
    let mut body = Body::get(cluster.part("agent-2").http, &layer);
    let first = body.take(MIB);

    cluster.s3().set_fault(Fault::Unreachable);
    let start = Instant::now();
    let pushing = {
        let (proxy, pushed) = (proxy.clone(), pushed.clone());
        std::thread::spawn(move || push_patiently(&proxy, &pushed))
    };
    let rest = body.rest();
    assert!(
        first == shared[..MIB] && rest == shared[MIB..],
        "other bytes"
    );
    let mut is_new = false;
    while start.elapsed() < OUTAGE {
        if !is_new && start.elapsed() > OUTAGE / 3 {
            // An agent that begins anew is told by the build-index what it served before.
            cluster.kill("agent-2");
            cluster.start_part("agent-2");
            is_new = true;
        }
        for agent in &agents {
            let answer = curl::get(&format!("{agent}{layer}"));
            assert!(
                answer.status == 200 && answer.body == shared,
                "{:?}: {}\n{}",
                start.elapsed(),
                answer.head,
                answer.text()
            );
        }
        assert!(!pushing.is_finished(), "a push without a store was taken");
        std::thread::sleep(Duration::from_secs(2));
    }
    cluster.s3().set_faults(&[]);
    let refusals = pushing.join().expect("it ends");
    eprintln!(
        "pushed after {:?}, and {refusals} refusals",
        start.elapsed()
    );
    for agent in &agents {
        let answer = curl::get(&format!("{agent}/v2/{REPOSITORY}/manifests/v2"));
        assert_eq!(answer.status, 200, "{}", answer.head);
        for layer in &pushed {
            let digest = Digest::sha256(layer);
            let answer = curl::get(&format!("{agent}/v2/{REPOSITORY}/blobs/{digest}"));
            assert!(answer.body == *layer, "other bytes");
        }
    }
    // Nobody has anything left to write, so nothing hangs on one disk.
    for origin in cluster.parts("origin") {
        wait::until_true("nothing waits", || {
            origin.metric("origin_write_back_pending", &[]) == 0
        });
    }
}

/// Pushes as a client does that repeats what it is told to repeat; returns how often it was.
fn push_patiently(proxy: &str, layers: &[Vec<u8>]) -> u32 {
    let manifest = push::unnamed(proxy, REPOSITORY, layers).manifest;
    let addr = proxy.trim_start_matches("http://");
    let addr = addr.parse().expect("it is an address");
    let path = format!("/v2/{REPOSITORY}/manifests/v2");
    let mut refusals = 0;
    loop {
        let put = Request {
            method: "PUT",
            path: &path,
            media_type: push::MANIFEST,
            body: &manifest,
        };
        let answer = put.send(addr, OUTAGE * 3).expect("there is an answer");
        match answer.status {
            201 => return refusals,
            503 => assert!(answer.header("retry-after").is_some(), "{}", answer.text()),
            other => panic!("{other}: {}", answer.text()),
        }
        refusals += 1;
        assert!(refusals < 100, "{}", answer.text());
    }
}
