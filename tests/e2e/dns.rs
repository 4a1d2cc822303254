//! Members that a DNS name stands for.

use std::process::Command;

use serde_json::json;
use tests::curl::get;
use tests::process::{Process, attempt, both, run};
use tests::push;
use tests::roles::{Cluster, Size};
use tests::shoal;

/// Returns the same command, for which the machine's file of hosts says this.
fn with_hosts(command: &Command, hosts: &std::path::Path) -> Command {
    let unshare = tests::program("/usr/bin/unshare", "util-linux");
    let mut inside = Command::new(unshare);
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    inside
        .args(["--mount", "/bin/sh", "-c", script])
        .arg(hosts)
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(key, value),
            None => inside.env_remove(key),
        };
    }
    inside
}

/// One name for two build-indexes: a proxy asks both.
#[test]
fn every_address_of_a_name_is_asked() {
    tests::netns::require_root("a mount namespace");
    let mut cluster = Cluster::new(Size {
        agents: 0,
        build_indexes: 2,
        ..Size::default()
    });
    let first = cluster.part("build-index-1").http;
    cluster.configure("build-index-2", |config| {
        config["http_addr"] = json!(format!("127.0.0.2:{}", first.port()));
    });
    cluster.configure("proxy-1", |config| {
        let name = format!("indexes.test:{}", first.port());
        config["cluster"]["build_indexes"] = json!({"dns": name});
    });
    let part = cluster.part("proxy-1");
    let hosts = part.folder.join("hosts");
    let lines = "127.0.0.1 localhost\n127.0.0.1 indexes.test\n127.0.0.2 indexes.test\n";
    std::fs::write(&hosts, lines).expect("the folder is ours");
    let config = part.config();
    let config = config.to_str().expect("a plain name");
    let command = with_hosts(&shoal::command(&["proxy", "--config", config]), &hosts);
    let (url, admin) = (part.url(), part.admin);
    let log = part.folder.with_extension("log");

    for name in ["tracker-1", "origin-1", "build-index-1", "build-index-2"] {
        cluster.start_part(name);
    }
    let mut proxy = Process::start("proxy-1", &command, &log);
    proxy.until("answers", |_| {
        let ready = std::net::TcpStream::connect(admin).is_ok();
        (ready && get(&format!("http://{admin}/readyz")).status == 200).then_some(())
    });
    let status = get(&format!("http://{admin}/status")).json();
    let ring = &status["cluster_names"]["build_indexes"];
    assert_eq!(
        ring["in_use"],
        json!(["127.0.0.1", "127.0.0.2"]),
        "{status}"
    );
    assert_eq!(ring["restart_needed"], json!(false), "{status}");
    let metrics = run(&mut tests::process::command(
        "/usr/bin/curl",
        [
            "-q",
            "--silent",
            "--fail",
            &format!("http://{admin}/metrics"),
        ],
    ));
    assert!(metrics.contains("cluster_rings_outdated 0"), "{metrics}");

    let _ = push::image(&url, "team/app", "v1", &[b"layer".to_vec()]);
    let tag = format!("{url}/v2/team/app/manifests/v1");
    // Whichever the ring asks first, the other one answers for it.
    for name in ["build-index-1", "build-index-2"] {
        cluster.kill(name);
        assert_eq!(get(&tag).status, 200, "without {name}");
        cluster.start_part(name);
    }
}

/// Origins and trackers are members of rings that names stand for, and find themselves there.
#[test]
fn members_find_themselves_behind_a_name() {
    tests::netns::require_root("a mount namespace");
    let cluster = Cluster::new(Size {
        agents: 0,
        ..Size::default()
    });
    let names = ["tracker-1", "origin-1", "build-index-1", "proxy-1"];
    let (tracker, origin) = (cluster.part("tracker-1").peer, cluster.part("origin-1"));
    let trackers = json!({"dns": format!("members.test:{}", tracker.port())});
    let origins = json!({
        "dns": format!("members.test:{}", origin.http.port()),
        "peer_port": origin.peer.port(),
    });
    let hosts = origin.folder.join("hosts");
    let lines = "127.0.0.1 localhost\n127.0.0.1 members.test\n";
    std::fs::write(&hosts, lines).expect("the folder is ours");
    let mut processes = Vec::new();
    for name in names {
        cluster.configure(name, |config| {
            if matches!(name, "tracker-1" | "origin-1") {
                config["name"] = "127.0.0.1".into();
            }
            for (ring, members) in [("origins", &origins), ("trackers", &trackers)] {
                if config["cluster"].get(ring).is_some() {
                    config["cluster"][ring] = members.clone();
                }
            }
        });
        let part = cluster.part(name);
        let config = part.config();
        let config = config.to_str().expect("a plain name");
        run(&mut shoal::command(&["check-config", part.role(), config]));
        let command = with_hosts(&shoal::command(&[part.role(), "--config", config]), &hosts);
        let log = part.folder.with_extension("log");
        let mut process = Process::start(name, &command, &log);
        let admin = part.admin;
        process.until("answers", |_| {
            let ready = std::net::TcpStream::connect(admin).is_ok();
            (ready && get(&format!("http://{admin}/readyz")).status == 200).then_some(())
        });
        processes.push(process);
    }
    let _ = push::image(&cluster.proxy(), "team/app", "v1", &[b"layer".to_vec()]);
    let status = get(&format!("http://{}/status", origin.admin)).json();
    let ring = &status["cluster_names"]["origins"];
    assert_eq!(ring["in_use"], json!(["127.0.0.1"]), "{status}");
}

/// A name that nobody knows is told after a bounded time.
#[test]
fn a_name_without_addresses_is_told() {
    let cluster = Cluster::new(Size::default());
    cluster.configure("proxy-1", |config| {
        config["cluster"]["build_indexes"] = json!({"dns": "nobody.invalid:5004"});
    });
    let config = cluster.part("proxy-1").config();
    let config = config.to_str().expect("a plain name");
    run(&mut shoal::command(&["check-config", "proxy", config]));
    let output = attempt(&mut shoal::command(&["proxy", "--config", config]));
    assert!(!output.status.success());
    let text = both(&output);
    for word in [
        "cluster.build_indexes",
        "nobody.invalid:5004",
        "check the name",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
