//! Who may use whom.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::root;

/// Arrows of the crate graph, lowest first. A crate may use what stands here after its colon, and
/// the values `oci` and `torrent` where those can be reached anyway.
const ARROWS: &str = "
    oci:
    torrent: oci
    swarm: torrent
    hashring:
    disk:
    sim: swarm
    store: torrent disk
    backend: oci disk
    service:
    api: torrent hashring oci service
    peer: swarm api torrent service disk
    registry: oci
    retry:
    fake-s3:
    bench: torrent service
    agent: peer registry api store service
    origin: peer disk store backend retry api service
    tracker: swarm api service
    build-index: backend api service
    proxy: registry api service
    shoal: agent origin tracker build-index proxy sim api store service bench
";

/// Values that everybody above them may use.
const VALUES: [&str; 2] = ["oci", "torrent"];

/// The package of the tests uses whatever it tests.
const TESTS: &str = "tests";

type Graph = BTreeMap<String, BTreeSet<String>>;

fn table() -> Graph {
    let mut graph = Graph::new();
    for line in ARROWS.lines().filter(|line| !line.trim().is_empty()) {
        let (name, uses) = line.split_once(':').expect("a line has a colon");
        let uses: BTreeSet<_> = uses.split_whitespace().map(str::to_owned).collect();
        for used in &uses {
            assert!(graph.contains_key(used), "{used} is not below {name}");
        }
        assert!(graph.insert(name.trim().to_owned(), uses).is_none());
    }
    graph
}

/// Adds everything that what is used uses.
fn reachable(graph: &Graph, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        for used in &graph[&name] {
            if found.insert(used.clone()) {
                open.push(used.clone());
            }
        }
    }
    found
}

/// Returns what each crate of the workspace uses of the workspace.
fn actual(kinds: &[DependencyKind]) -> Graph {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".into(), "--locked".into()])
        .exec()
        .expect("cargo knows the workspace");
    let ours: BTreeSet<_> = metadata
        .packages
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    let mut graph = Graph::new();
    for package in &metadata.packages {
        let uses = package.dependencies.iter();
        let uses = uses.filter(|used| kinds.contains(&used.kind) && ours.contains(&used.name));
        graph.insert(
            package.name.to_string(),
            uses.map(|used| used.name.clone()).collect(),
        );
    }
    graph.remove(TESTS);
    graph
}

#[test]
fn crates_use_what_is_below_them() {
    let table = table();
    let actual = actual(&[DependencyKind::Normal, DependencyKind::Build]);
    let mut wrong = Vec::new();
    for (name, uses) in &actual {
        let Some(allowed) = table.get(name) else {
            wrong.push(format!("{name} is not in the table of arrows"));
            continue;
        };
        let reachable = reachable(&table, name);
        for used in uses.difference(allowed) {
            let value = VALUES.contains(&used.as_str()) && reachable.contains(used);
            if !value {
                wrong.push(format!("{name} must not use {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_arrow_too_many() {
    let actual = actual(&[DependencyKind::Normal]);
    let mut wrong = Vec::new();
    for (name, allowed) in table() {
        let Some(uses) = actual.get(&name) else {
            wrong.push(format!(
                "{name} is in the table of arrows, but not in the workspace"
            ));
            continue;
        };
        for unused in allowed.difference(uses) {
            wrong.push(format!(
                "{name} does not use {unused}; take it off the table of arrows"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn not_even_tests_point_up() {
    let table = table();
    let mut wrong = Vec::new();
    for (name, uses) in actual(&[DependencyKind::Development]) {
        for used in uses {
            // Equal crates may be used by tests beside the code, those above may not.
            if reachable(&table, &used).contains(&name) {
                wrong.push(format!("{name} must not use {used}, which uses it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
