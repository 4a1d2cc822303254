//! Agents on machines of their own: what moves over which wire.

use oci::Digest;
use tests::process::{both, run};
use tests::roles::{Cluster, Part, Size};
use tests::{curl, push, random};

const MIB: usize = 1 << 20;

/// Returns a command that downloads a path from the agent on its own machine.
fn download(agent: &Part, path: &str, to: &std::path::Path) -> std::process::Command {
    let mut curl = curl::command();
    curl.args(["--fail", "--output"])
        .arg(to)
        .arg(format!("{}{path}", agent.url()));
    agent.command(curl)
}

/// Two origins and eight agents, each in its own network namespace.
#[test]
fn eight_machines_share_a_blob() {
    let cluster = Cluster::start(Size {
        origins: 2,
        agents: 8,
        apart: true,
        ..Size::default()
    });
    let bytes = random::bytes(1, 96 * MIB);
    let folder = tests::folder();
    let digest = push_from(cluster.part("proxy-1"), folder.path(), &bytes);
    let path = format!("/v2/team/big/blobs/{digest}");
    let wires = || -> Vec<(u64, u64)> {
        let parts = cluster.parts("origin").chain(cluster.parts("agent"));
        parts
            .map(|part| (part.host().sent_bytes(), sent(part)))
            .collect()
    };
    let before = wires();

    everybody_downloads(&cluster, &path, folder.path(), &digest);
    // What was sent and not asked for any more arrives, or not; the wires become silent.
    let after = tests::wait::until("the wires are silent", || {
        let first = wires();
        std::thread::sleep(std::time::Duration::from_millis(500));
        let then = wires();
        let moved: u64 = first.iter().zip(&then).map(|(a, b)| b.0 - a.0).sum();
        (moved < 100_000).then_some(then)
    });

    let mut wire = 0;
    let mut told = 0;
    let parts = cluster.parts("origin").chain(cluster.parts("agent"));
    for ((part, before), after) in parts.zip(&before).zip(&after) {
        let (on_wire, reported) = (after.0 - before.0, after.1 - before.1);
        eprintln!(
            "{}: {on_wire} bytes on the wire, {reported} reported",
            part.name
        );
        assert!(
            on_wire >= reported,
            "{}: less was sent than reported",
            part.name
        );
        wire += on_wire;
        told += reported;
    }
    let off = (wire as f64 - told as f64) / wire as f64;
    assert!(
        off.abs() < 0.03,
        "wires and reports differ by {:.2} %",
        off * 100.0
    );

    let origins: u64 = before
        .iter()
        .zip(&after)
        .take(2)
        .map(|(a, b)| b.0 - a.0)
        .sum();
    let most = 2 * bytes.len() as u64;
    assert!(
        origins <= most,
        "origins sent {origins} bytes of a blob of {}",
        bytes.len()
    );
    assert!(
        told >= 8 * bytes.len() as u64,
        "every agent got the whole over the wire"
    );
}

/// Downloads the blob at all agents at once and checks what came.
fn everybody_downloads(cluster: &Cluster, path: &str, folder: &std::path::Path, digest: &Digest) {
    let downloads: Vec<_> = cluster
        .parts("agent")
        .map(|agent| {
            let to = folder.join(&agent.name);
            let child = download(agent, path, &to).spawn().expect("curl starts");
            (agent, to, child)
        })
        .collect();
    for (agent, to, mut child) in downloads {
        let status = child.wait().expect("it is our child");
        assert!(status.success(), "{}: {status}", agent.name);
        let got = std::fs::read(&to).expect("curl wrote it");
        assert!(
            Digest::sha256(&got) == *digest,
            "{}: other bytes",
            agent.name
        );
    }
}

/// Payload that a part says it has sent to peers.
fn sent(part: &Part) -> u64 {
    part.metric("peer_sent_bytes_total", &[])
}

/// Pushes a blob from the proxy's own machine.
fn push_from(proxy: &Part, folder: &std::path::Path, bytes: &[u8]) -> Digest {
    let file = folder.join("blob");
    std::fs::write(&file, bytes).expect("the folder is ours");
    let digest = Digest::sha256(bytes);
    let mut curl = curl::command();
    curl.args([
        "--fail",
        "--request",
        "POST",
        "--header",
        "Content-Length: 0",
    ])
    .args(["--output", "/dev/null", "--dump-header", "-"])
    .arg(format!("{}/v2/team/big/blobs/uploads/", proxy.url()));
    let head = run(&mut proxy.command(curl));
    let location = head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case("location")
            .then(|| value.trim().to_owned())
    });
    let location = location.unwrap_or_else(|| panic!("no Location: {head}"));
    let joint = if location.contains('?') { '&' } else { '?' };
    let mut curl = curl::command();
    curl.args([
        "--fail",
        "--request",
        "PUT",
        "--header",
        "Expect:",
        "--data-binary",
    ])
    .arg(format!("@{}", file.display()))
    .arg(format!("{}{location}{joint}digest={digest}", proxy.url()));
    let output = tests::process::attempt(&mut proxy.command(curl));
    assert!(output.status.success(), "{}", both(&output));
    digest
}

/// The client of an agent that has nothing gets the first piece as soon as the agent has it.
#[test]
fn the_first_piece_is_not_held_back() {
    let mut cluster = Cluster::new(Size {
        agents: 1,
        ..Size::default()
    });
    // Slow enough that the origin can be stopped while it sends.
    cluster.configure("origin-1", |config| {
        config["peer"]["upload_rate"] = "4MiB".into()
    });
    cluster.start_all();
    let bytes = random::bytes(2, 64 * MIB);
    let digest = push::blob(&cluster.proxy(), "team/big", &bytes);
    let agent = cluster.part("agent-1");
    let mut body = tests::http::Body::get(agent.http, &format!("/v2/team/big/blobs/{digest}"));
    assert_eq!((body.status, body.length), (200, Some(bytes.len() as u64)));
    // Piece 0 is here; the origin sends no more from now on.
    tests::roles::until_metric(agent, "peer_pieces_total", 1);
    cluster.signal("origin-1", "STOP");
    let pieces = agent.metric("peer_pieces_total", &[]);
    assert!(
        pieces < 32,
        "the origin was stopped too late: {pieces} pieces"
    );
    let first = body.take(MIB);
    assert!(first == bytes[..MIB], "other bytes");
    // And it goes on when the origin does.
    cluster.signal("origin-1", "CONT");
    assert!(body.take(2 * MIB) == bytes[MIB..3 * MIB]);
}
