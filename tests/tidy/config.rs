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

#[test]
fn examples_are_right() {
    for role in ROLES {
        let path = root().join(format!("config/{role}.yaml"));
        run(&mut command(&[
            "check-config",
            role,
            path.to_str().expect("a plain name"),
        ]));
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
        let printed = run(&mut command(&[role, "--print-config"]));
        let path = folder.path().join("printed.yaml");
        std::fs::write(&path, &printed).expect("the folder is ours");
        let path = path.to_str().expect("a plain name");
        run(&mut command(&["check-config", role, path]));
        assert_eq!(
            run(&mut command(&[role, "--config", path, "--print-config"])),
            printed
        );
    }
}
