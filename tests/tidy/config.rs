//! The examples in `config/` are right and complete.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::process::run;
use tests::shoal::command;

use crate::{read, root};

const ROLES: [&str; 5] = ["agent", "origin", "tracker", "build-index", "proxy"];

/// Collects the paths of all keys, such as `peer.max_connections`. What is in lists is the
/// cluster's own business.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let Value::Object(map) = value else {
        return;
    };
    for (key, value) in map {
        let path = format!("{path}{key}");
        keys(value, &format!("{path}."), found);
        found.insert(path);
    }
}

fn keys_of(text: &str) -> BTreeSet<String> {
    let value: Value = serde_saphyr::from_str(text).expect("it is YAML");
    let mut found = BTreeSet::new();
    keys(&value, "", &mut found);
    found
}

/// Checks a file as a role would. The key is each cluster's own, so no example can have it.
fn check(role: &str, path: &str) {
    let mut check = command(&["check-config", role, path]);
    if role == "agent" {
        let key = torrent::ClusterKey::from_seed([1; 32]).public();
        check.env("SHOAL_CLUSTER_KEY", key.to_string());
    }
    run(&mut check);
}

fn example(role: &str) -> String {
    let path = root().join(format!("config/{role}.yaml"));
    path.to_str().expect("a plain name").to_owned()
}

#[test]
fn examples_are_right() {
    for role in ROLES {
        check(role, &example(role));
    }
}

#[test]
fn examples_name_every_key() {
    for role in ROLES {
        let printed = run(&mut command(&[role, "--print-config"]));
        let example = read(format!("config/{role}.yaml"));
        let (printed, example) = (keys_of(&printed), keys_of(&example));
        let missing: Vec<_> = printed.difference(&example).collect();
        assert!(missing.is_empty(), "config/{role}.yaml lacks {missing:?}");
    }
}

#[test]
fn what_is_printed_can_be_read_again() {
    let folder = tests::folder();
    for role in ROLES {
        let mut print = command(&[role, "--config", &example(role), "--print-config"]);
        // Sizes that no unit divides.
        let odd = [
            ("agent", "SHOAL_CACHE__LIMIT"),
            ("origin", "SHOAL_UPLOADS__MAX_BLOB"),
            ("build-index", "SHOAL_MANIFEST_CACHE"),
        ];
        let odd = odd.iter().filter(|(of, _)| *of == role);
        let odd: Vec<_> = odd.map(|(_, key)| (*key, "1000001")).collect();
        let printed = run(print.envs(odd.iter().copied()));
        assert!(odd.is_empty() || printed.contains("1000001B"), "{printed}");
        let path = folder.path().join("printed.yaml");
        std::fs::write(&path, &printed).expect("the folder is ours");
        let path = path.to_str().expect("a plain name");
        check(role, path);
        assert_eq!(
            run(&mut command(&[role, "--config", path, "--print-config"])),
            printed
        );
    }
}

#[test]
fn secrets_are_not_printed() {
    let secret = "5ec2e7".repeat(8);
    let mut print = command(&["proxy", "--print-config"]);
    let printed = run(print.env("SHOAL_UPLOAD_SECRET", &secret));
    assert!(printed.contains("<hidden>"), "{printed}");
    assert!(!printed.contains("5ec2e7"), "{printed}");
}
