//! Members that a DNS name stands for.

use std::net::TcpStream;
use std::path::Path;

use serde_json::json;
use tests::curl::get;
use tests::names::with_hosts;
use tests::process::{Process, attempt, both, run};
use tests::push;
use tests::roles::{Cluster, Part, Size};
use tests::shoal;

/// Starts a part for which this is the machine's file of hosts, and waits until it is ready.
fn start(part: &Part, hosts: &Path) -> Process {
    let config = part.config();
    let config = config.to_str().expect("a plain name");
    let command = shoal::command(&[part.role(), "--config", config]);
    let log = part.folder.with_extension("log");
    let mut process = Process::start(part.role(), &with_hosts(hosts, &command), &log);
    process.until("answers", |_| {
        let ready = TcpStream::connect(part.admin).is_ok();
        (ready && get(&format!("http://{}/readyz", part.admin)).status == 200).then_some(())
    });
    process
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
    let url = part.url();

    for name in ["tracker-1", "origin-1", "build-index-1", "build-index-2"] {
        cluster.start_part(name);
    }
    let part = cluster.part("proxy-1");
    let _proxy = start(part, &hosts);
    let status = get(&format!("http://{}/status", part.admin)).json();
    let ring = &status["cluster_names"]["build_indexes"];
    assert_eq!(
        ring["in_use"],
        json!(["127.0.0.1", "127.0.0.2"]),
        "{status}"
    );
    assert_eq!(ring["restart_needed"], json!(false), "{status}");
    assert_eq!(part.metric("cluster_rings_outdated", &[]), 0);

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
        processes.push(start(part, &hosts));
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
