//! Blobs that are in a bucket and nowhere else: what the bucket is asked for, and what happens
//! when it, or who reads it, fails in the middle.

use std::time::{Duration, Instant};

use fake_s3::{Fault, Operation};
use oci::Digest;
use tests::http::Body;
use tests::roles::{Backend, Cluster, Size, until_metric};
use tests::s3::S3Options;
use tests::{curl, push, random};
use torrent::{MetaInfo, TreeHasher};

const MIB: usize = 1 << 20;
/// What a request to the bucket asks for, in bulk.
const RUN_BYTES: u64 = 8 << 20;
/// Bytes of a link from a repository to a blob, at most.
const MAX_LINK_BYTES: u64 = 137;
/// How long a client may wait for the end of what cannot be ended well.
const BOUND: Duration = Duration::from_secs(60);

fn size(origins: u8, agents: u8) -> Size {
    Size {
        origins,
        agents,
        backend: Backend::S3(S3Options::default()),
        ..Size::default()
    }
}

/// Puts an object into the bucket behind everybody's back.
fn put_object(cluster: &Cluster, key: &str, bytes: &[u8]) {
    let path = cluster.backend().join(key);
    let folder = path.parent().expect("a key has folders");
    std::fs::create_dir_all(folder).expect("the folder is ours");
    std::fs::write(path, bytes).expect("the folder is ours");
}

fn spread(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("sha256/{}/{hex}", &hex[..2])
}

/// Puts a blob into the bucket, and into a repository, that nobody hashed.
fn put_blob(cluster: &Cluster, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    put_object(cluster, &key_of(&digest), bytes);
    let hex = digest.hex();
    let link = format!("docker/registry/v2/repositories/team/big/_layers/sha256/{hex}/link");
    put_object(cluster, &link, digest.to_string().as_bytes());
    digest
}

fn key_of(digest: &Digest) -> String {
    format!("docker/registry/v2/blobs/{}/data", spread(digest))
}

/// Puts what hashing a blob yields into the bucket; returns how long it is.
fn put_metainfo(cluster: &Cluster, bytes: &[u8]) -> u64 {
    let digest = Digest::sha256(bytes);
    let mut hasher = TreeHasher::new();
    hasher.update(bytes);
    let tree = hasher.finish().expect("a blob may be so long");
    let metainfo = MetaInfo::sign(&cluster.key(), digest.into(), &tree);
    let metainfo = metainfo.expect("a blob may be so long").to_bytes();
    let key = format!("shoal/v1/metainfo/{}/pieces", spread(&digest));
    put_object(cluster, &key, &metainfo);
    metainfo.len() as u64
}

fn path_of(digest: &Digest) -> String {
    format!("/v2/team/big/blobs/{digest}")
}

/// Reads blobs at all agents at once, and checks what came.
fn everybody_pulls(cluster: &Cluster, blobs: &[(Digest, Vec<u8>)]) {
    std::thread::scope(|scope| {
        for agent in cluster.parts("agent") {
            scope.spawn(move || {
                for (digest, bytes) in blobs {
                    let answer = curl::get(&format!("{}{}", agent.url(), path_of(digest)));
                    assert_eq!(answer.status, 200, "{}: {}", agent.name, answer.text());
                    assert!(answer.body == *bytes, "{} gives other bytes", agent.name);
                }
            });
        }
    });
}

/// Checks that the origins asked the bucket for each byte once, in as few requests as there may be.
/// What a build-index asks for is another matter: it looks whether the repository has the blob.
fn check_reads(cluster: &Cluster, bytes: u64, most_requests: u64) {
    let sum = |name: &str, labels: &[&str]| -> u64 {
        let origins = cluster.parts("origin");
        origins.map(|origin| origin.metric(name, labels)).sum()
    };
    let asked = |operation: &str| sum("origin_backend_requests_total", &[operation]);
    let requests = asked("operation=\"get\"") + asked("operation=\"stat\"");
    let read = sum("origin_backend_read_bytes_total", &[]);
    eprintln!("{requests} requests, {read} bytes of {bytes}");
    assert_eq!(read, bytes);
    assert!(requests <= most_requests, "{requests} requests");
    // The bucket says so too.
    let counts = cluster.s3().counts();
    let links = counts.of(Operation::Get) * MAX_LINK_BYTES;
    assert!(
        (bytes..=bytes + links).contains(&counts.read_bytes),
        "{counts:?}"
    );
}

#[test]
fn a_cold_blob_is_read_once_however_many_pull_it() {
    let cluster = Cluster::start(size(3, 4));
    let bytes = random::bytes(1, 64 * MIB);
    let digest = put_blob(&cluster, &bytes);
    let described = put_metainfo(&cluster, &bytes);
    let length = bytes.len() as u64;
    cluster.s3().reset_counts();
    everybody_pulls(&cluster, &[(digest, bytes)]);
    check_reads(&cluster, length + described, length.div_ceil(RUN_BYTES) + 2);
}

#[test]
fn a_blob_that_nobody_hashed_is_read_once() {
    let cluster = Cluster::start(size(3, 4));
    let bytes = random::bytes(2, 64 * MIB);
    let digest = put_blob(&cluster, &bytes);
    let length = bytes.len() as u64;
    cluster.s3().reset_counts();
    everybody_pulls(&cluster, &[(digest, bytes)]);
    check_reads(&cluster, length, length.div_ceil(RUN_BYTES) + 2);
}

#[test]
fn small_cold_blobs_are_read_once_each() {
    let cluster = Cluster::start(size(3, 4));
    let mut blobs = Vec::new();
    let mut sum = 0;
    for number in 0..64 {
        let bytes = random::bytes(100 + number, 64 << 10);
        let digest = put_blob(&cluster, &bytes);
        sum += bytes.len() as u64 + put_metainfo(&cluster, &bytes);
        blobs.push((digest, bytes));
    }
    cluster.s3().reset_counts();
    everybody_pulls(&cluster, &blobs);
    check_reads(&cluster, sum, 3 * 64);
}

/// A pull that the bucket fails in waits for it and goes on; what a peer has needs no bucket, also
/// where the image is new to the agent.
#[test]
fn a_bucket_that_is_gone_for_a_while_is_waited_for() {
    let mut cluster = Cluster::new(size(1, 3));
    cluster.configure("origin-1", |config| {
        config["peer"]["upload_rate"] = "16MiB".into();
    });
    cluster.start_all();
    let warm = random::bytes(3, 5 * MIB);
    let image = push::image(
        &cluster.proxy(),
        "team/big",
        "v1",
        std::slice::from_ref(&warm),
    );
    let agent = |number: u8| cluster.part(&format!("agent-{number}"));
    let get = |number: u8, path: &str| {
        let answer = curl::get(&format!("{}{path}", agent(number).url()));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.body
    };
    // The first one has all of it, the third one has begun: clients ask for the manifest first.
    let (manifest, layer) = ("/v2/team/big/manifests/v1", path_of(&image.layers[0]));
    for number in [1, 3] {
        let bytes = get(number, manifest);
        assert_eq!(Digest::sha256(&bytes), image.manifest);
    }
    assert!(get(1, &layer) == warm);
    let bytes = random::bytes(4, 64 * MIB);
    let digest = put_blob(&cluster, &bytes);
    put_metainfo(&cluster, &bytes);
    let mut body = Body::get(agent(2).http, &path_of(&digest));
    assert_eq!((body.status, body.length), (200, Some(bytes.len() as u64)));
    let first = body.take(MIB);
    cluster.s3().set_fault(Fault::Unreachable);
    let counts = || agent(2).metric("peer_pieces_total", &[]);
    assert!(counts() < 60, "the bucket was cut off too late");
    assert!(get(3, &layer) == warm, "peers have it");
    let _ = get(3, &path_of(&image.config));
    std::thread::sleep(Duration::from_secs(3));
    cluster.s3().set_faults(&[]);
    let rest = body.rest();
    assert!(first == bytes[..MIB] && rest == bytes[MIB..], "other bytes");
}

/// Nobody waits for ever for an origin that does not come back.
#[test]
fn clients_get_an_answer_when_the_only_origin_is_gone_for_good() {
    let mut cluster = Cluster::new(size(1, 2));
    cluster.configure("origin-1", |config| {
        config["peer"]["upload_rate"] = "8MiB".into();
    });
    cluster.start_all();
    let bytes = random::bytes(5, 64 * MIB);
    let digest = put_blob(&cluster, &bytes);
    put_metainfo(&cluster, &bytes);
    let mut bodies: Vec<_> = cluster
        .parts("agent")
        .map(|agent| Body::get(agent.http, &path_of(&digest)))
        .collect();
    let firsts: Vec<_> = bodies.iter_mut().map(|body| body.take(MIB)).collect();
    until_metric(cluster.part("agent-1"), "peer_pieces_total", 2);
    cluster.kill("origin-1");
    let start = Instant::now();
    let rests: Vec<_> = bodies
        .into_iter()
        .map(|body| std::thread::spawn(move || body.rest()))
        .collect();
    for (first, rest) in firsts.iter().zip(rests) {
        let rest = rest.join().expect("it reads");
        let whole = [&first[..], &rest[..]].concat();
        assert!(whole.len() < bytes.len(), "the origin was killed too late");
        assert!(whole[..] == bytes[..whole.len()], "other bytes");
    }
    let took = start.elapsed();
    eprintln!("cut after {took:?}");
    assert!(took < BOUND, "{took:?}");
    // Who comes now is told so at once, or soon.
    let other = random::bytes(6, MIB);
    let other = put_blob(&cluster, &other);
    let start = Instant::now();
    let url = format!("{}{}", cluster.part("agent-1").url(), path_of(&other));
    let answer = curl::get(&url);
    assert!(answer.status >= 400, "{}", answer.status);
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
}

/// Bytes that are wrong in the bucket stay there, whether anybody hashed them before or not.
#[test]
fn what_is_damaged_in_the_bucket_never_reaches_a_client() {
    let cluster = Cluster::start(size(2, 2));
    for (number, hashed) in [(7, true), (8, false)] {
        let bytes = random::bytes(number, 20 * MIB);
        let digest = put_blob(&cluster, &bytes);
        if hashed {
            put_metainfo(&cluster, &bytes);
        }
        let mut damaged = bytes.clone();
        damaged[13 * MIB] ^= 1;
        put_object(&cluster, &key_of(&digest), &damaged);
        for agent in cluster.parts("agent") {
            let url = format!("{}{}", agent.url(), path_of(&digest));
            let start = Instant::now();
            let (code, came, output) = curl::get_cut(&url);
            let took = start.elapsed();
            eprintln!("hashed: {hashed}, {}: cut after {took:?}", agent.name);
            let is_answer = came.starts_with(b"{");
            let is_start = came.len() < bytes.len() && bytes.starts_with(&came);
            // Of what nobody hashed it is known only at the end that it is wrong.
            let unknown = !hashed && came.len() < bytes.len();
            assert!(is_answer || is_start || unknown, "wrong bytes: {output}");
            assert!(is_answer || code != 0, "it looks whole: {output}");
            assert!(took < BOUND, "{took:?}");
        }
    }
}

#[test]
fn a_cache_that_is_too_small_is_a_slow_one() {
    let mut cluster = Cluster::new(size(2, 4));
    for origin in ["origin-1", "origin-2"] {
        cluster.configure(origin, |config| {
            config["cache"] = serde_json::json!({"limit": "16MiB"});
        });
    }
    cluster.start_all();
    let bytes = random::bytes(9, 64 * MIB);
    let digest = put_blob(&cluster, &bytes);
    put_metainfo(&cluster, &bytes);
    everybody_pulls(&cluster, &[(digest, bytes)]);
    let evicted: u64 = cluster
        .parts("origin")
        .map(|origin| origin.metric("origin_run_evicted_bytes_total", &[]))
        .sum();
    assert!(evicted >= RUN_BYTES, "{evicted} bytes were evicted");
}
