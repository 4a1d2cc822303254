//! Processes that die, and a peer that lies.

use oci::Digest;
use tests::hostile::Hostile;
use tests::http::{Body, SlowPatch};
use tests::roles::{Cluster, Size};
use tests::{curl, push, random};

const MIB: usize = 1 << 20;

/// A cluster whose origins send slowly enough to be interrupted, with one blob; returns its path.
fn slow(size: Size, bytes: &[u8], rate: &str) -> (Cluster, String) {
    let mut cluster = Cluster::new(size);
    for number in 1..=size.origins {
        let name = format!("origin-{number}");
        cluster.configure(&name, |config| config["peer"]["upload_rate"] = rate.into());
    }
    cluster.start_all();
    let pushed = push::image(&cluster.proxy(), "team/big", "v1", &[bytes.to_vec()]);
    (cluster, format!("/v2/team/big/blobs/{}", pushed.layers[0]))
}

#[test]
fn an_origin_dies_during_a_push() {
    let mut cluster = Cluster::start(Size {
        origins: 2,
        ..Size::default()
    });
    let bytes = random::bytes(1, 24 * MIB);
    let registry = cluster.proxy();
    let proxy = cluster.part("proxy-1").http;
    let location = push::start(&registry, "team/big");
    let path = location
        .strip_prefix(&registry)
        .expect("it is at the proxy")
        .to_owned();
    let mut patch = SlowPatch::start(proxy, &path, bytes.len());
    patch.send(&bytes[..8 * MIB]).expect("the proxy takes it");
    for name in ["origin-1", "origin-2"] {
        cluster.kill(name);
    }
    // The client is told, one way or the other; nothing hangs.
    let rest = patch.send(&bytes[8 * MIB..]);
    let status = patch.finish();
    assert!(
        rest.is_err() || status.is_none_or(|status| status >= 400),
        "{status:?}"
    );
    for name in ["origin-1", "origin-2"] {
        cluster.start_part(name);
    }

    // What a client does then: ask what is there, and go on, or start again.
    let shown = curl::get(&location);
    assert!(
        [204, 404].contains(&shown.status),
        "{}\n{}",
        shown.head,
        shown.text()
    );
    let digest = Digest::sha256(&bytes);
    if shown.status == 204 {
        let range = shown.header("range").expect("it says what is there");
        let last = range
            .strip_prefix("0-")
            .and_then(|last| last.parse::<usize>().ok());
        // "0-0" says that nothing is there: one byte was never sent alone.
        let from = last.filter(|last| *last > 0).map_or(0, |last| last + 1);
        assert!(
            from <= 8 * MIB + 64 * 1024,
            "more is there than was sent: {range}"
        );
        let header = format!("Content-Range: {from}-{}", bytes.len() - 1);
        let location = push::location(&registry, &shown);
        let kind = "application/octet-stream";
        let more = ["--header", &*header];
        let answer = push::send_bytes(&location, "PATCH", kind, &bytes[from..], &more);
        assert_eq!(answer.status, 202, "{}\n{}", answer.head, answer.text());
        let location = push::location(&registry, &answer);
        let answer = push::finish(&location, &digest.to_string(), b"");
        assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
    } else {
        assert_eq!(push::blob(&registry, "team/big", &bytes), digest);
    }
    let got = curl::get(&format!(
        "{}/v2/team/big/blobs/{digest}",
        cluster.part("agent-1").url()
    ));
    assert!(got.body == bytes, "other bytes");
}

#[test]
fn an_agent_dies_during_a_pull_and_goes_on() {
    let bytes = random::bytes(2, 48 * MIB);
    let (mut cluster, path) = slow(
        Size {
            agents: 1,
            ..Size::default()
        },
        &bytes,
        "16MiB",
    );
    let body = Body::get(cluster.part("agent-1").http, &path);
    tests::roles::until_metric(cluster.part("agent-1"), "peer_pieces_total", 16);
    cluster.kill("agent-1");
    let got = body.rest();
    assert!(
        got.len() < bytes.len() && got[..] == bytes[..got.len()],
        "wrong bytes were sent"
    );

    // One of the pieces that it kept is damaged meanwhile.
    let marker = &bytes[3 * MIB + 1000..3 * MIB + 1064];
    let files = tests::files_with(&cluster.part("agent-1").folder, marker);
    assert_eq!(files.len(), 1, "the agent keeps what it has: {files:?}");
    let mut content = std::fs::read(&files[0]).expect("it can be read");
    content[3 * MIB + 1010] ^= 1;
    std::fs::write(&files[0], content).expect("it can be written");

    cluster.start_part("agent-1");
    let agent = cluster.part("agent-1");
    let whole = curl::get(&format!("{}{path}", agent.url()));
    assert!(whole.body == bytes, "other bytes");
    let fetched = agent.metric("peer_received_bytes_total", &[]);
    let most = (bytes.len() - 8 * MIB) as u64;
    assert!(
        fetched <= most,
        "it fetched {fetched} bytes again of {}",
        bytes.len()
    );
    assert!(fetched >= MIB as u64, "the damaged piece was fetched again");
}

#[test]
fn the_tracker_dies_during_a_pull() {
    let bytes = random::bytes(3, 48 * MIB);
    let size = Size {
        origins: 2,
        agents: 3,
        ..Size::default()
    };
    let (mut cluster, path) = slow(size, &bytes, "12MiB");
    let bodies: Vec<_> = cluster
        .parts("agent")
        .map(|agent| Body::get(agent.http, &path))
        .collect();
    tests::roles::until_metric(cluster.part("agent-1"), "peer_pieces_total", 4);
    cluster.kill("tracker-1");
    let readers: Vec<_> = bodies
        .into_iter()
        .map(|body| std::thread::spawn(move || body.rest()))
        .collect();
    for reader in readers {
        assert!(
            reader.join().expect("it reads") == bytes,
            "the pull did not complete"
        );
    }
    // And the next one works with a tracker that knows nothing yet.
    cluster.start_part("tracker-1");
    let other = random::bytes(4, 9 * MIB);
    let digest = push::blob(&cluster.proxy(), "team/big", &other);
    let url = format!(
        "{}/v2/team/big/blobs/{digest}",
        cluster.part("agent-3").url()
    );
    assert!(curl::get(&url).body == other);
}

#[test]
fn an_origin_dies_during_a_pull() {
    let bytes = random::bytes(5, 48 * MIB);
    let size = Size {
        origins: 2,
        agents: 2,
        ..Size::default()
    };
    let (mut cluster, path) = slow(size, &bytes, "12MiB");
    let bodies: Vec<_> = cluster
        .parts("agent")
        .map(|agent| Body::get(agent.http, &path))
        .collect();
    tests::roles::until_metric(cluster.part("agent-1"), "peer_pieces_total", 4);
    cluster.kill("origin-1");
    let readers: Vec<_> = bodies
        .into_iter()
        .map(|body| std::thread::spawn(move || body.rest()))
        .collect();
    for reader in readers {
        assert!(
            reader.join().expect("it reads") == bytes,
            "the pull did not complete"
        );
    }
}

#[test]
fn a_peer_that_damages_is_found_out() {
    let bytes = random::bytes(6, 48 * MIB);
    let (cluster, path) = slow(Size::default(), &bytes, "16MiB");
    let digest: Digest = path
        .rsplit('/')
        .next()
        .and_then(|hex| hex.parse().ok())
        .expect("digest");
    let url = format!(
        "{}/v1/blobs/{digest}/metainfo",
        cluster.part("origin-1").url()
    );
    let metainfo = curl::get(&url);
    assert_eq!(metainfo.status, 200, "{}", metainfo.head);
    let metainfo = torrent::MetaInfo::from_bytes(&cluster.key().public(), &metainfo.body)
        .expect("it is signed by the cluster's key");
    let hostile = Hostile::start(cluster.part("tracker-1").peer, vec![metainfo]);
    for agent in cluster.parts("agent") {
        assert!(
            curl::get(&format!("{}{path}", agent.url())).body == bytes,
            "{}",
            agent.name
        );
    }
    assert!(
        hostile.sent() > 0,
        "nobody asked the hostile peer; the test shows nothing"
    );
    let found: u64 = cluster
        .parts("agent")
        .map(|agent| agent.metric("peer_corrupt_pieces_total", &[]))
        .sum();
    assert!(found > 0, "it was not counted");
    // It was sent away at its first damaged piece, and not asked again.
    assert!(
        hostile.sent() <= 8,
        "it could send {} damaged pieces",
        hostile.sent()
    );
}
