//! Pushes to a cluster over an object store, and what becomes of them when something breaks.

use fake_s3::Fault;
use oci::Digest;
use serde_json::{Value, json};
use tests::roles::{Backend, Cluster, Size};
use tests::s3::{S3Options, no_writes};
use tests::volume::{FileSystem, Volume};
use tests::{curl, push, random, wait};

/// Bytes of one layer: several parts of an upload, and several pieces.
const LAYER_BYTES: usize = 3_500_000;

const REPOSITORY: &str = "team/app";

fn cluster(origins: u8) -> Cluster {
    let mut cluster = Cluster::new(Size {
        origins,
        proxies: 2,
        agents: 1,
        backend: Backend::S3(S3Options::default()),
        ..Size::default()
    });
    for number in 1..=origins {
        change(&cluster, &format!("origin-{number}"), |config| {
            config["write_back"] = json!({"mirror_wait": "1s"});
        });
    }
    change(&cluster, "build-index-1", |_| {});
    cluster.start_all();
    cluster
}

/// Configures a part anew. The store is asked once, so that its failures show at once.
fn change(cluster: &Cluster, name: &str, change: impl FnOnce(&mut Value)) {
    cluster.configure(name, |config| {
        config["backend"]["s3"]["attempts"] = json!(1);
        change(config);
    });
}

/// Pushes layers, and returns the manifest of an image of them.
fn manifest(registry: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    push::unnamed(registry, REPOSITORY, layers).manifest
}

fn layers(seed: u64, count: u64) -> Vec<Vec<u8>> {
    let layer = |at| random::bytes(seed * 100 + at, LAYER_BYTES);
    (0..count).map(layer).collect()
}

fn pending(cluster: &Cluster, origin: &str) -> u64 {
    let url = format!("http://{}/status", cluster.part(origin).admin);
    let status = curl::get(&url).json();
    let pending = status["write_back"]["pending"].as_u64();
    pending.unwrap_or_else(|| panic!("no write-back: {status}"))
}

/// Pulls layers through the agent, and compares them.
fn pull(cluster: &Cluster, tag: &str, layers: &[Vec<u8>]) {
    let agent = cluster.part("agent-1").url();
    let url = format!("{agent}/v2/{REPOSITORY}/manifests/{tag}");
    assert_eq!(curl::get(&url).status, 200, "{url}");
    for layer in layers {
        let digest = Digest::sha256(layer);
        let blob = curl::get(&format!("{agent}/v2/{REPOSITORY}/blobs/{digest}"));
        assert!(blob.status == 200 && blob.body == *layer, "{}", blob.head);
    }
}

#[test]
fn a_push_waits_for_a_store_that_fails() {
    let cluster = cluster(2);
    let proxy = cluster.proxy();
    let layers = layers(1, 3);
    // It begins while the store works, and goes on when it does not.
    let _ = push::blob(&proxy, REPOSITORY, &layers[0]);
    for (tag, rules) in [
        ("writes", no_writes()),
        ("all", vec![Fault::status(503, "SlowDown").into()]),
    ] {
        cluster.s3().set_faults(&rules);
        let mine: Vec<_> = layers
            .iter()
            .map(|layer| [layer, tag.as_bytes()].concat())
            .collect();
        let manifest = manifest(&proxy, &mine);
        assert!(pending(&cluster, "origin-1") >= 4 && pending(&cluster, "origin-2") >= 4);
        let index = cluster.part("build-index-1");
        let metrics = || index.metric("build_index_requests_total", &["manifest"]);
        let asked = metrics();
        let answer = std::thread::scope(|scope| {
            let putting = scope.spawn(|| push::manifest(&proxy, REPOSITORY, tag, &manifest));
            // As long as something must be waited for, nothing is answered.
            wait::until_true("the build-index has refused it", || metrics() > asked);
            assert!(!putting.is_finished());
            cluster.s3().set_faults(&[]);
            putting.join().expect("it ends")
        });
        assert_eq!(
            answer.status,
            201,
            "{tag}: {}\n{}",
            answer.head,
            answer.text()
        );
        pull(&cluster, tag, &mine);
    }
}

#[test]
fn a_push_that_gets_no_further_can_be_repeated() {
    let mut cluster = cluster(2);
    cluster.configure("proxy-1", |config| config["write_back_wait"] = json!("2s"));
    cluster.kill("proxy-1");
    cluster.start_part("proxy-1");
    cluster.s3().set_faults(&no_writes());
    let (proxy, layers) = (cluster.proxy(), layers(2, 1));
    let manifest = manifest(&proxy, &layers);
    let answer = push::manifest(&proxy, REPOSITORY, "v1", &manifest);
    assert_eq!(answer.status, 503, "{}\n{}", answer.head, answer.text());
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    cluster.s3().set_faults(&[]);
    let answer = push::manifest(&proxy, REPOSITORY, "v1", &manifest);
    assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
    pull(&cluster, "v1", &layers);
    // What nobody has is not waited for.
    let text = String::from_utf8(manifest).expect("it is JSON");
    let (known, unknown) = (Digest::sha256(&layers[0]), Digest::sha256(b"unknown"));
    let text = text.replacen(
        &format!(r#""layers":[{{"digest":"{known}""#),
        &format!(r#""layers":[{{"digest":"{unknown}""#),
        1,
    );
    assert!(text.contains(&unknown.to_string()), "{text}");
    let answer = push::manifest(&proxy, REPOSITORY, "v2", text.as_bytes());
    assert_eq!(
        (answer.status, &*answer.code()),
        (400, "MANIFEST_BLOB_UNKNOWN")
    );
}

#[test]
fn what_was_taken_survives_the_loss_of_an_origin() {
    // The one that took it, and the one that has the second copy.
    for (seed, killed) in [(3, "origin-1"), (4, "origin-2")] {
        let mut cluster = cluster(2);
        cluster.s3().set_faults(&no_writes());
        let (proxy, layers) = (cluster.proxy(), layers(seed, 2));
        let manifest = manifest(&proxy, &layers);
        cluster.kill(killed);
        cluster.s3().set_faults(&[]);
        let answer = push::manifest(&proxy, REPOSITORY, "v1", &manifest);
        assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
        pull(&cluster, "v1", &layers);

        // It comes back with a disk that has nothing on it.
        let folder = cluster.part(killed).folder.clone();
        std::fs::remove_dir_all(folder.join("staging")).expect("it was there");
        cluster.start_part(killed);
        assert_eq!(pending(&cluster, killed), 0);
        let more = vec![random::bytes(seed + 1000, LAYER_BYTES)];
        let proxy = cluster.part("proxy-2").url();
        let manifest = self::manifest(&proxy, &more);
        let answer = push::manifest(&proxy, REPOSITORY, "v2", &manifest);
        assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
        pull(&cluster, "v2", &more);
    }
}

#[test]
fn what_waits_is_written_after_a_crash() {
    let mut cluster = cluster(2);
    cluster.s3().set_faults(&no_writes());
    let (proxy, layers) = (cluster.proxy(), layers(5, 2));
    let manifest = manifest(&proxy, &layers);
    let origins = ["origin-1", "origin-2"];
    for origin in origins {
        assert_eq!(pending(&cluster, origin), 3);
        cluster.kill(origin);
    }
    for origin in origins {
        cluster.start_part(origin);
        assert_eq!(pending(&cluster, origin), 3);
    }
    cluster.s3().set_faults(&[]);
    for origin in origins {
        wait::until_true("nothing waits", || pending(&cluster, origin) == 0);
    }
    let answer = push::manifest(&proxy, REPOSITORY, "v1", &manifest);
    assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
    // The store alone has it now.
    for origin in origins {
        cluster.kill(origin);
        let folder = cluster.part(origin).folder.join("staging");
        std::fs::remove_dir_all(folder).expect("it was there");
        cluster.start_part(origin);
    }
    pull(&cluster, "v1", &layers);
}

#[test]
fn a_full_disk_fails_one_request() {
    let mut cluster = cluster(1);
    cluster.kill("origin-1");
    let staging = cluster.part("origin-1").folder.join("staging");
    let volume = Volume::new(FileSystem::Memory, &staging, 100 << 20);
    volume.fill(24_000_000);
    cluster.start_part("origin-1");
    let proxy = cluster.proxy();
    let bytes = random::bytes(6, 40_000_000);
    let digest = Digest::sha256(&bytes);
    let location = push::start(&proxy, REPOSITORY);
    let media_type = "application/octet-stream";
    let answer = push::send_bytes(&location, "PATCH", media_type, &bytes, &[]);
    assert!(answer.status >= 500, "{}\n{}", answer.head, answer.text());
    assert!(
        answer.text().contains("no space is left"),
        "{}",
        answer.text()
    );
    // Others are served, and the upload goes on when there is room.
    assert_eq!(curl::get(&format!("{proxy}/v2/")).status, 200);
    volume.make_room();
    let small = random::bytes(7, 100_000);
    let _ = push::blob(&proxy, REPOSITORY, &small);
    let status = curl::get(&location);
    assert_eq!(status.status, 204, "{}\n{}", status.head, status.text());
    let range = status
        .header("range")
        .and_then(|range| range.strip_prefix("0-"));
    let has = range
        .and_then(|end| end.parse::<usize>().ok())
        .expect("a range")
        + 1;
    assert!(has < bytes.len());
    let range = format!("Content-Range: {has}-{}", bytes.len() - 1);
    let more = ["--header", &*range];
    let answer = push::send_bytes(&location, "PATCH", media_type, &bytes[has..], &more);
    assert_eq!(answer.status, 202, "{}\n{}", answer.head, answer.text());
    let location = push::location(&proxy, &answer);
    let answer = push::finish(&location, &digest.to_string(), b"");
    assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
    let blob = curl::get(&format!("{proxy}/v2/{REPOSITORY}/blobs/{digest}"));
    assert!(blob.body == bytes, "other bytes");
}

#[test]
fn any_proxy_goes_on_with_an_upload() {
    let mut cluster = cluster(2);
    let (first, second) = (cluster.proxy(), cluster.part("proxy-2").url());
    let bytes = random::bytes(8, LAYER_BYTES);
    let digest = Digest::sha256(&bytes).to_string();
    let (head, rest) = bytes.split_at(LAYER_BYTES / 2);
    let media_type = "application/octet-stream";
    let location = push::start(&first, REPOSITORY);
    let answer = push::send_bytes(&location, "PATCH", media_type, head, &[]);
    assert_eq!(answer.status, 202, "{}\n{}", answer.head, answer.text());
    cluster.kill("proxy-1");
    let location = push::location(&second, &answer);
    let status = curl::get(&location);
    let last = format!("0-{}", head.len() - 1);
    assert_eq!((status.status, status.header("range")), (204, Some(&*last)));
    let range = format!("Content-Range: {}-{}", head.len(), bytes.len() - 1);
    let more = ["--header", &*range];
    let answer = push::send_bytes(&location, "PATCH", media_type, rest, &more);
    assert_eq!(answer.status, 202, "{}\n{}", answer.head, answer.text());
    let answer = push::finish(&push::location(&second, &answer), &digest, b"");
    assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
    for registry in [second, cluster.part("agent-1").url()] {
        let url = format!("{registry}/v2/{REPOSITORY}/blobs/{digest}");
        let head = curl::head(&url);
        let length = bytes.len().to_string();
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some(&*length))
        );
        assert!(curl::get(&url).body == bytes);
    }
}
