//! What a person who makes a mistake is told: one line that says what to do, and an exit code.

use std::net::TcpListener;

use serde_json::{Value, json};
use tests::folder;
use tests::process::{attempt, both, run};
use tests::roles::{Cluster, Size};
use tests::shoal::command;

const ROLES: [&str; 5] = ["agent", "origin", "tracker", "build-index", "proxy"];

/// Runs a command that must fail at once, and returns the one line it wrote.
fn complaint(args: &[&str], env: &[(&str, &str)]) -> String {
    let mut command = command(args);
    command.envs(env.iter().copied()).env("RUST_LOG", "off");
    let output = attempt(&mut command);
    let text = both(&output);
    assert!(!output.status.success(), "{args:?} did not fail:\n{text}");
    assert_eq!(text.trim().lines().count(), 1, "{args:?}:\n{text}");
    text
}

#[test]
fn a_port_in_use() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = listener.local_addr().expect("it is bound").to_string();
    let folder = folder();
    let data = folder.path().join("data");
    let data = data.to_str().expect("a plain name");
    for flag in ["--agent-addr", "--proxy-addr", "--admin-addr"] {
        let mut args = vec!["up", "--data", data];
        for other in ["--agent-addr", "--proxy-addr", "--admin-addr"] {
            args.extend([
                other,
                if other == flag {
                    &*taken
                } else {
                    "127.0.0.1:0"
                },
            ]);
        }
        let text = complaint(&args, &[]);
        assert!(text.contains(&taken) && text.contains("in use"), "{text}");
        assert!(text.contains(flag), "it names the flag to change: {text}");
    }
}

#[test]
fn a_folder_that_cannot_be_written() {
    let folder = folder();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "").expect("the folder is ours");
    // Root may write everywhere but below a file.
    let data = file.join("data");
    let data = data.to_str().expect("a plain name");
    let text = complaint(&["up", "--data", data], &[]);
    assert!(text.contains(data) && text.contains("--data"), "{text}");
}

#[test]
fn a_folder_that_somebody_else_uses() {
    let up = tests::shoal::Up::start();
    let data = up.data();
    let data = data.to_str().expect("a plain name");
    let any = "127.0.0.1:0";
    let args = [
        "--agent-addr",
        any,
        "--proxy-addr",
        any,
        "--admin-addr",
        any,
    ];
    let text = complaint(&[&["up", "--data", data][..], &args].concat(), &[]);
    assert!(text.contains(data), "{text}");
}

/// Runs each role as a process of its own, with one key of a configuration that is right set to
/// something it cannot use.
fn role_complains(part: &str, change: impl FnOnce(&mut Value)) -> String {
    let cluster = Cluster::new(Size::default());
    cluster.configure(part, change);
    let (role, _) = part.rsplit_once('-').expect("it has a number");
    let config = cluster.part(part).config();
    complaint(
        &[role, "--config", config.to_str().expect("a plain name")],
        &[],
    )
}

#[test]
fn a_port_in_use_of_each_role() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = listener.local_addr().expect("it is bound").to_string();
    for (part, keys) in [
        ("agent-1", &["registry_addr", "peer_addr", "admin_addr"][..]),
        ("origin-1", &["http_addr", "peer_addr", "admin_addr"]),
        ("tracker-1", &["peer_addr", "admin_addr"]),
        ("build-index-1", &["http_addr", "admin_addr"]),
        ("proxy-1", &["http_addr", "admin_addr"]),
    ] {
        for key in keys {
            let text = role_complains(part, |config| config[*key] = json!(taken));
            for word in [&*taken, "in use", key] {
                assert!(text.contains(word), "{part}: {word}: {text}");
            }
        }
    }
}

#[test]
fn a_folder_that_a_role_cannot_use() {
    let folder = folder();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "").expect("the folder is ours");
    // Root may write everywhere but below a file.
    let below = file.join("below");
    for (part, pointer) in [
        ("agent-1", "/cache/folder"),
        ("origin-1", "/backend/fs/root"),
        ("origin-1", "/staging"),
        ("origin-1", "/cluster_key_file"),
        ("build-index-1", "/backend/fs/root"),
        ("proxy-1", "/upload_secret_file"),
    ] {
        let text = role_complains(part, |config| {
            if part == "proxy-1" {
                config["upload_secret"] = Value::Null;
            }
            match config.pointer_mut(pointer) {
                Some(value) => *value = json!(below),
                None => config[&pointer[1..]] = json!(below),
            }
        });
        let below = below.to_str().expect("a plain name");
        assert!(text.contains(below), "{part}: {text}");
        let key = pointer.rsplit('/').find(|part| text.contains(*part));
        assert!(key.is_some(), "{part} names no part of {pointer}: {text}");
    }
}

#[test]
fn a_flag_that_is_not_known() {
    for role in ROLES {
        let output = attempt(&mut command(&[role, "--confg", "x"]));
        let text = both(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("--confg"), "{text}");
        assert!(
            text.contains("--config"),
            "it names the nearest flag: {text}"
        );
    }
}

/// A part, a word that the complaint has, and what is changed in a configuration that is right.
type Mistake = (&'static str, &'static str, fn(&mut Value));

/// What a start would refuse is found without one.
#[test]
fn check_config_finds_what_a_start_refuses() {
    let cluster = Cluster::new(Size::default());
    let changes: [Mistake; 7] = [
        ("agent-1", "cluster_key", |config| {
            config["cluster_key"] = Value::Null;
        }),
        ("agent-1", "cluster.trackers", |config| {
            config["cluster"]["trackers"] = json!([]);
        }),
        ("agent-1", "proxies", |config| config["proxies"] = json!([])),
        ("origin-1", "cluster.origins", |config| {
            config["name"] = json!("origin-9");
        }),
        ("tracker-1", "cluster.trackers", |config| {
            config["name"] = json!("tracker-9");
        }),
        ("proxy-1", "upload_secret_file", |config| {
            config["upload_secret_file"] = json!("/run/secret");
        }),
        ("build-index-1", "log.filter", |config| {
            config["log"] = json!({"filter": "peer=loud"});
        }),
    ];
    for (part, word, change) in changes {
        let (role, _) = part.rsplit_once('-').expect("it has a number");
        let config = cluster.part(part).config();
        let path = config.to_str().expect("a plain name");
        run(&mut command(&["check-config", role, path]));
        cluster.configure(part, change);
        for args in [
            vec!["check-config", role, path],
            vec![role, "--config", path],
        ] {
            let text = complaint(&args, &[]);
            assert!(text.contains(word), "{args:?}: {word}: {text}");
        }
        cluster.configure(part, |_| {});
    }
}

#[test]
fn keys_that_are_not_known() {
    let folder = folder();
    let config = folder.path().join("config.yaml");
    let path = config.to_str().expect("a plain name");
    for role in ROLES {
        std::fs::write(&config, "admin_adr: 127.0.0.1:0\n").expect("the folder is ours");
        for args in [
            vec![role, "--config", path],
            vec!["check-config", role, path],
        ] {
            let text = complaint(&args, &[]);
            assert!(text.contains("admin_adr"), "it names the key: {text}");
            assert!(
                text.contains("admin_addr"),
                "it names the nearest key: {text}"
            );
        }
        std::fs::write(&config, ": :\n  - [\n").expect("the folder is ours");
        assert!(complaint(&[role, "--config", path], &[]).contains(path));
        assert!(complaint(&[role, "--config", "/no/such/file"], &[]).contains("/no/such/file"));
        let env = [("SHOAL_ADMIN_ADR", "127.0.0.1:0")];
        let text = complaint(&[role, "--print-config"], &env);
        assert!(text.contains("SHOAL_ADMIN_ADR"), "{text}");
    }
}

#[test]
fn settings_come_from_the_environment_too() {
    for role in ROLES {
        let mut print = command(&[role, "--print-config"]);
        let text = run(print.env("SHOAL_ADMIN_ADDR", "127.0.0.1:54321"));
        assert!(text.contains("127.0.0.1:54321"), "{role}: {text}");
    }
}

#[test]
fn help_and_version() {
    let help = run(&mut command(&["--help"]));
    for word in [
        "up",
        "agent",
        "origin",
        "tracker",
        "build-index",
        "proxy",
        "pull",
        "check-config",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(run(&mut command(&["version"])).starts_with("shoal "));
    let scenarios = run(&mut command(&["sim", "list"]));
    assert!(scenarios.contains("share "), "{scenarios}");
    let report = run(&mut command(&[
        "sim", "run", "lone", "--seed", "5", "--json",
    ]));
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["seed"], 5);
    assert!(complaint(&["sim", "run", "nonsense"], &[]).contains("sim list"));
}
