//! Certificates: a cluster whose parts know each other, and nobody else.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use service::Role as TlsRole;
use swarm::Message;
use tests::process::{attempt, run};
use tests::roles::{Cluster, Part, Size};
use tests::tls::{self, Speaker};
use tests::{curl, push, random, shoal};
use torrent::{Peer, PeerId, Role, SwarmName};

const MIB: usize = 1 << 20;

fn cluster() -> Cluster {
    Cluster::new(Size {
        origins: 2,
        tls: true,
        ..Size::default()
    })
}

fn blob_path(digest: &oci::Digest) -> String {
    format!("/v2/team/app/blobs/{digest}")
}

fn pull(agent: &Part, digest: &oci::Digest) -> curl::Answer {
    curl::get(&format!("{}{}", agent.url(), blob_path(digest)))
}

#[test]
fn a_whole_cluster_over_tls() {
    let mut cluster = cluster();
    cluster.start_all();
    let layer = random::bytes(1, 20 * MIB);
    let (first, second) = (cluster.part("agent-1"), cluster.part("agent-2"));
    // Through an agent: it passes writes on to the proxy by TLS too.
    let pushed = push::image(&first.url(), "team/app", "v1", std::slice::from_ref(&layer));
    for agent in [first, second] {
        let manifest = curl::get(&format!("{}/v2/team/app/manifests/v1", agent.url()));
        assert_eq!(manifest.status, 200, "{}", manifest.text());
        assert!(pull(agent, &pushed.layers[0]).body == layer);
    }
    let sent: u64 = cluster
        .parts("origin")
        .chain(cluster.parts("agent"))
        .map(|part| part.metric("peer_sent_bytes_total", &[]))
        .sum();
    assert!(sent >= 2 * layer.len() as u64, "{sent}");

    // Whoever speaks plaintext is told what to do.
    for name in ["origin-1", "build-index-1"] {
        let part = cluster.part(name);
        let answer = curl::get(&format!("{}/v1/repositories", part.url()));
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(
            answer.text().contains("takes TLS only"),
            "{}",
            answer.text()
        );
    }
    // Clients of the proxy are not parts of the cluster: they may, as before.
    let answer = curl::get(&format!("{}/v2/", cluster.proxy()));
    assert_eq!(answer.status, 200);
}

#[test]
fn an_agent_of_another_cluster_gets_nothing() {
    let mut cluster = cluster();
    let other = tests::folder();
    tls::make(other.path());
    cluster.configure("agent-2", |config| {
        config["tls"] = tls::section(other.path(), "agent");
        config["peer"]["open_timeout"] = "2s".into();
        config["manifest_wait"] = "3s".into();
        config["blob_wait"] = "3s".into();
    });
    cluster.start_all();
    let bytes = random::bytes(2, 3 * MIB);
    let digest = push::blob(&cluster.proxy(), "team/app", &bytes);
    assert!(pull(cluster.part("agent-1"), &digest).body == bytes);

    let stranger = cluster.part("agent-2");
    let answer = pull(stranger, &digest);
    assert!(answer.status >= 400, "{}", answer.head);
    assert_eq!(stranger.metric("peer_received_bytes_total", &[]), 0);
    let log = stranger.log();
    assert!(log.contains("the authority of another cluster"), "{log}");
    let tracker = cluster.part("tracker-1");
    tests::wait::until_true("the tracker says so too", || {
        tracker.log().contains("refusing a session")
    });
}

#[test]
fn an_agent_cannot_do_what_origins_and_proxies_do() {
    let mut cluster = cluster();
    cluster.start_all();
    let folder = cluster.tls();
    let (origin, index) = (cluster.part("origin-1"), cluster.part("build-index-1"));
    let post = ["--request", "POST", "--header", "Content-Length: 0"];
    let refused = tls::send(&folder, "agent", origin, "/v1/uploads", &post);
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert_eq!(refused.json()["code"], "FORBIDDEN");
    assert!(
        refused.text().contains("role agent does not allow POST"),
        "{}",
        refused.text()
    );
    let taken = tls::send(&folder, "proxy", origin, "/v1/uploads", &post);
    assert_eq!(taken.status, 201, "{}", taken.text());

    let tag = "/v1/repositories/team%2Fapp/manifests/v1";
    let put = ["--request", "PUT", "--data-binary", "{}"];
    let refused = tls::send(&folder, "agent", index, tag, &put);
    assert_eq!(refused.status, 403, "{}", refused.text());
    let read = tls::send(&folder, "agent", index, tag, &[]);
    assert_eq!(read.status, 404, "{}", read.text());

    // No certificate, no answer.
    let mut curl = curl::command();
    curl.args(["--insecure", &format!("https://{}/v1/uploads", origin.http)]);
    assert!(!attempt(&mut curl).status.success());
    tests::wait::until_true("the origin says why", || {
        origin.log().contains("has no certificate")
    });
}

/// A HELLO of somebody.
fn peer(id: PeerId, role: Role) -> Peer {
    Peer {
        id,
        role,
        zone: "".into(),
        addr: "127.0.0.1:1".into(),
    }
}

#[test]
fn an_agent_cannot_claim_to_be_an_origin() {
    let mut cluster = cluster();
    cluster.start_all();
    let folder = cluster.tls();
    let bytes = random::bytes(3, 3 * MIB);
    let digest = push::blob(&cluster.proxy(), "team/app", &bytes);
    let agent = cluster.part("agent-1");
    assert!(pull(agent, &digest).body == bytes);

    let lie = peer(PeerId::of_origin("origin-2"), Role::Origin);
    let revoke = Message::Revoke {
        name: SwarmName::Blob(digest),
        generation: None,
        reason: "a lie".into(),
    };
    for name in ["agent-1", "origin-1", "tracker-1"] {
        let part = cluster.part(name);
        let mut speaker = Speaker::connect(&folder, TlsRole::Agent, part).expect("it may connect");
        speaker.hello(lie.clone());
        speaker.say(&revoke);
        assert!(!speaker.is_answered(), "{name} goes on with an impostor");
        tests::wait::until_true("it says why", || {
            part.log().contains("its certificate is of role agent")
        });
        // With its own role it cannot use the id of an origin, which would push that one off.
        let mut speaker = Speaker::connect(&folder, TlsRole::Agent, part).expect("it may connect");
        speaker.hello(peer(PeerId::of_origin("origin-1"), Role::Agent));
        assert!(!speaker.is_answered(), "{name} takes the id of an origin");
        // As what it is it may stay.
        let mut speaker = Speaker::connect(&folder, TlsRole::Agent, part).expect("it may connect");
        speaker.hello(peer(PeerId::new([8; 20]), Role::Agent));
        assert!(speaker.is_answered(), "{name} refuses an agent");
    }
    // A proxy is no peer at all.
    let mut speaker = Speaker::connect(&folder, TlsRole::Proxy, agent).expect("it may connect");
    speaker.hello(peer(PeerId::new([9; 20]), Role::Agent));
    assert!(!speaker.is_answered());

    // Nobody believed the lie: the blob is where it was.
    let received = agent.metric("peer_received_bytes_total", &[]);
    assert!(pull(agent, &digest).body == bytes);
    assert_eq!(agent.metric("peer_received_bytes_total", &[]), received);
}

/// In a cluster without certificates nothing keeps somebody from saying that it is an origin.
#[test]
fn an_origin_is_believed_where_there_are_certificates() {
    let mut cluster = cluster();
    cluster.start_all();
    let folder = cluster.tls();
    let bytes = random::bytes(4, 3 * MIB);
    let digest = push::blob(&cluster.proxy(), "team/app", &bytes);
    let agent = cluster.part("agent-1");
    assert!(pull(agent, &digest).body == bytes);
    let mut speaker = Speaker::connect(&folder, TlsRole::Origin, agent).expect("it may connect");
    speaker.hello(peer(PeerId::of_origin("origin-9"), Role::Origin));
    speaker.say(&Message::Revoke {
        name: SwarmName::Blob(digest),
        generation: None,
        reason: "of an origin".into(),
    });
    tests::wait::until_true("the blob is revoked", || {
        agent.log().contains("a blob was revoked")
    });
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("it is after 1970").as_secs()
}

fn copy(from: &Path, to: &Path) {
    for file in tests::files(from) {
        let name = file.file_name().expect("it is a file");
        std::fs::copy(&file, to.join(name)).expect("the folder is ours");
    }
}

/// Every certificate, and the authority, is another one from now on.
#[test]
fn certificates_change_without_a_restart() {
    let mut cluster = cluster();
    cluster.start_all();
    let folder = cluster.tls();
    let first = random::bytes(5, 3 * MIB);
    let digest = push::blob(&cluster.proxy(), "team/app", &first);
    assert!(pull(cluster.part("agent-1"), &digest).body == first);

    let before = tests::folder();
    copy(&folder, before.path());
    let next = tests::folder();
    tls::make(next.path());
    let out = next.path().to_str().expect("a plain name");
    let soon = ["cert", "new", "--out", out, "--renew", "--days", "20"];
    run(&mut shoal::command(&soon));

    // Something that cannot be used changes nothing.
    let origin = cluster.part("origin-1");
    std::fs::write(folder.join("origin.pem"), "half of a fi").expect("the folder is ours");
    cluster.signal("origin-1", "HUP");
    tests::wait::until_true("the origin says so", || {
        origin.log().contains("the new certificates cannot be used")
    });
    let uploads = ["--request", "POST", "--header", "Content-Length: 0"];
    let answer = tls::send(before.path(), "proxy", origin, "/v1/uploads", &uploads);
    assert_eq!(answer.status, 201, "{}", answer.text());

    copy(next.path(), &folder);
    let names: Vec<String> = ["origin", "agent", "tracker", "proxy", "build-index"]
        .iter()
        .flat_map(|role| cluster.parts(role))
        .map(|part| part.name.clone())
        .collect();
    for name in &names {
        cluster.signal(name, "HUP");
        let part = cluster.part(name);
        tests::wait::until_true("they are loaded", || {
            part.log().contains("certificates were loaded anew")
        });
        assert!(part.log().contains("expires soon"), "{name}");
        let expiry = part.metric("tls_certificate_expiry_timestamp_seconds", &[]);
        let days = expiry.saturating_sub(now_s()) / (24 * 3600);
        assert!((18..=20).contains(&days), "{name}: {days} days");
    }
    let answer = tls::send(next.path(), "proxy", origin, "/v1/uploads", &uploads);
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(
        is_refused(before.path(), origin),
        "the old ones are worth something"
    );

    // New connections between all parts.
    let second = random::bytes(6, 3 * MIB);
    let digest = push::blob(&cluster.proxy(), "team/app", &second);
    cluster.kill("agent-2");
    cluster.start_part("agent-2");
    for name in ["agent-1", "agent-2"] {
        assert!(pull(cluster.part(name), &digest).body == second, "{name}");
    }
}

fn is_refused(folder: &Path, origin: &Part) -> bool {
    let file = |name: &str| -> PathBuf { folder.join(name) };
    let mut curl = curl::command();
    curl.arg("--insecure")
        .arg("--cert")
        .arg(file("proxy.pem"))
        .arg("--key")
        .arg(file("proxy.key"))
        .arg(format!("https://{}/v1/blobs", origin.http));
    !attempt(&mut curl).status.success()
}

#[test]
fn the_registry_of_an_agent_may_speak_tls_to_clients() {
    let mut cluster = cluster();
    let folder = cluster.tls();
    let section = tls::section(&folder, "agent");
    cluster.configure("agent-1", |config| {
        for key in ["certificate", "key"] {
            config["registry_tls"][key] = section[key].clone();
        }
    });
    cluster.start_all();
    let agent = cluster.part("agent-1");
    let answer = tls::send(&folder, "agent", agent, "/v2/", &[]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let expiry = agent.metric("registry_tls_certificate_expiry_timestamp_seconds", &[]);
    assert!(expiry > now_s() + 300 * 24 * 3600, "{expiry}");
    let answer = curl::get(&format!("{}/v2/", agent.url()));
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("use https"), "{}", answer.text());
}
