//! A role that takes long to start.

use std::path::PathBuf;

use serde_json::json;
use tests::curl::{get, send};
use tests::process::{Process, attempt, both, command, run};
use tests::roles::{Cluster, Size};
use tests::shoal;

/// Starts an origin whose key is a pipe: it waits for whoever writes to that.
fn starting(cluster: &Cluster) -> (Process, PathBuf) {
    let pipe = cluster.backend().with_file_name("pipe");
    run(&mut command("/usr/bin/mkfifo", [&pipe]));
    cluster.configure("origin-1", |config| {
        config["cluster_key_file"] = json!(pipe);
    });
    let part = cluster.part("origin-1");
    let config = part.config();
    let config = config.to_str().expect("a plain name");
    let log = part.folder.with_extension("log");
    let start = shoal::command(&["origin", "--config", config]);
    let mut process = Process::start("origin-1", &start, &log);
    process.until("opens its admin port", |_| {
        std::net::TcpStream::connect(part.admin).ok()
    });
    (process, pipe)
}

#[test]
fn probes_are_answered_meanwhile() {
    let mut cluster = Cluster::new(Size::default());
    cluster.start_part("tracker-1");
    let (mut process, pipe) = starting(&cluster);
    let admin = cluster.part("origin-1").admin;
    assert_eq!(get(&format!("http://{admin}/livez")).status, 200);
    for path in ["readyz", "startupz", "status", "metrics"] {
        let answer = get(&format!("http://{admin}/{path}"));
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.text().contains("starting"), "{}", answer.text());
    }
    let admin = admin.to_string();
    for ask in ["status", "healthcheck"] {
        let output = attempt(&mut shoal::command(&[ask, &admin]));
        assert!(!output.status.success());
        assert!(both(&output).contains("starting"), "{}", both(&output));
    }

    std::fs::write(&pipe, "07".repeat(32)).expect("the origin reads it");
    let ready = format!("http://{admin}/readyz");
    process.until("is ready", |_| {
        (send(&ready, &[]).status == 200).then_some(())
    });
    assert_eq!(get(&format!("http://{admin}/metrics")).status, 200);
}

#[test]
fn it_can_be_told_to_end() {
    let cluster = Cluster::new(Size::default());
    let (mut process, _) = starting(&cluster);
    let status = process.stop();
    assert!(status.success(), "{status}: {}", process.output());
}
