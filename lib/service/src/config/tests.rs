use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    admin_addr: SocketAddr,
    name: String,
    key: Option<String>,
    hosts: Vec<String>,
    labels: BTreeMap<String, u8>,
    peer: Peer,
    storage: Storage,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Peer {
    max_connections: usize,
    buffer: ByteSize,
    #[serde(with = "humantime_serde")]
    timeout: Duration,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Storage {
    Folder {
        root: String,
    },
    Bucket {
        name: String,
        #[serde(default)]
        region: Option<String>,
    },
    Memory,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            admin_addr: "127.0.0.1:5080".parse().unwrap(),
            name: "a".into(),
            key: None,
            hosts: vec!["x".into(), "y".into()],
            labels: BTreeMap::new(),
            peer: Peer::default(),
            storage: Storage::Folder { root: "./d".into() },
        }
    }
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            max_connections: 10,
            buffer: ByteSize::mib(4),
            timeout: Duration::from_secs(30),
        }
    }
}

fn load_both(file: Option<&str>, env: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
    }
    let env = env.iter();
    let env = env.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let result = load(file.map(|_| &*path), env);
    let folder = format!("{}/", folder.path().display());
    result.map_err(|error| error.to_string().replace(&folder, ""))
}

/// Checks what a mistake is answered with.
fn check(file: Option<&str>, env: &[(&str, &str)], parts: &[&str]) {
    let error = load_both(file, env).unwrap_err();
    assert!(!error.contains('\n'), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    assert_eq!(load_both(None, &[]), Ok(Config::default()));
    assert_eq!(load_both(Some("# nothing\n"), &[]), Ok(Config::default()));
    let file = "name: f\npeer:\n  max_connections: 3\n  buffer: 1KiB\nhosts: [z]\n";
    let env = [
        ("SHOAL_PEER__MAX_CONNECTIONS", "4"),
        ("SHOAL_PEER__TIMEOUT", "2m"),
        ("SHOAL_LABELS__ZONE", "7"),
        ("SHOAL_CONFIG", "/x"),
        ("HOME", "/root"),
    ];
    let config = load_both(Some(file), &env).unwrap();
    assert_eq!(config.name, "f");
    assert_eq!(config.hosts, ["z"], "lists are replaced");
    assert_eq!(config.peer.max_connections, 4);
    assert_eq!(config.peer.buffer, ByteSize::kib(1));
    assert_eq!(config.peer.timeout, Duration::from_secs(120));
    assert_eq!(config.labels["zone"], 7);
}

#[test]
fn variables_have_values_as_yaml_has_them() {
    let env = [
        ("SHOAL_HOSTS", "[a, 'b:1']"),
        ("SHOAL_NAME", "123"),
        ("SHOAL_KEY", "1234567890123456789012345678901234567890"),
        ("SHOAL_ADMIN_ADDR", "[::1]:5"),
        ("SHOAL_PEER", "{max_connections: 1}"),
    ];
    let config = load_both(None, &env).unwrap();
    assert_eq!(config.hosts, ["a", "b:1"]);
    assert_eq!(config.name, "123", "text may look like a number");
    let key = config.key.unwrap();
    assert_eq!(key, "1234567890123456789012345678901234567890");
    assert_eq!(config.admin_addr, "[::1]:5".parse().unwrap());
    assert_eq!(config.peer.max_connections, 1);
    assert_eq!(config.peer.timeout, Duration::from_secs(30));
    let config = load_both(Some("key: x\n"), &[("SHOAL_KEY", "")]).unwrap();
    assert_eq!(config.key, None, "nothing is no value");
}

#[test]
fn a_choice_is_replaced_as_a_whole() {
    let bucket = Storage::Bucket {
        name: "b".into(),
        region: None,
    };
    let file = "storage: {bucket: {name: b}}\n";
    assert_eq!(load_both(Some(file), &[]).unwrap().storage, bucket);
    let env = [("SHOAL_STORAGE__BUCKET__NAME", "b")];
    assert_eq!(load_both(None, &env).unwrap().storage, bucket);
    let env = [("SHOAL_STORAGE", "memory")];
    assert_eq!(
        load_both(Some(file), &env).unwrap().storage,
        Storage::Memory
    );
}

#[test]
fn several_variables_of_one_section_all_count() {
    let env = [
        ("SHOAL_STORAGE__BUCKET__NAME", "b"),
        ("SHOAL_STORAGE__BUCKET__REGION", "r"),
        ("SHOAL_LABELS__A", "1"),
        ("SHOAL_LABELS__B", "2"),
    ];
    let bucket = Storage::Bucket {
        name: "b".into(),
        region: Some("r".into()),
    };
    let folder = "storage: {folder: {root: f}}\n";
    for file in [None, Some(folder), Some("storage: memory\n")] {
        let config = load_both(file, &env).unwrap();
        assert_eq!(config.storage, bucket, "{file:?}");
        assert_eq!(config.labels.len(), 2, "{file:?}");
    }
}

#[test]
fn variables_of_kubernetes_are_no_settings() {
    let env = [
        ("SHOAL_AGENT_SERVICE_HOST", "10.0.0.1"),
        ("SHOAL_AGENT_SERVICE_PORT", "5000"),
        ("SHOAL_AGENT_SERVICE_PORT_HTTP", "5000"),
        ("SHOAL_AGENT_PORT", "tcp://10.0.0.1:5000"),
        ("SHOAL_AGENT_PORT_5000_TCP", "tcp://10.0.0.1:5000"),
        ("SHOAL_AGENT_PORT_5000_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(load_both(None, &env), Ok(Config::default()));
}

#[test]
fn keys_that_are_not_known() {
    let file = "name: a\n# peer:\npeer:\n  # max_conections: 4\n  max_conections: 4\n";
    let parts = [
        "c.yaml, line 5",
        "peer.max_conections",
        "did you mean peer.max_connections",
    ];
    check(Some(file), &[], &parts);
    let parts = ["line 1", "key timeout;", "did you mean peer.timeout"];
    check(Some("timeout: 5s\n"), &[], &parts);
    check(
        Some("{\"zzzzzz\": 1}"),
        &[],
        &["line 1", "zzzzzz", "--print-config"],
    );
    let env = [("SHOAL_ADMIN_ADR", "x")];
    check(None, &env, &["SHOAL_ADMIN_ADR", "SHOAL_ADMIN_ADDR?"]);
    let env = [("SHOAL_PEER_MAX_CONNECTIONS", "1")];
    check(None, &env, &["SHOAL_PEER__MAX_CONNECTIONS?"]);
    let env = [("SHOAL_PEER__MAX", "1")];
    check(None, &env, &["SHOAL_PEER__MAX"]);
    let env = [("SHOAL_STORAGE__FOLDR__ROOT", "1")];
    check(
        None,
        &env,
        &["SHOAL_STORAGE__FOLDR__ROOT", "did you mean storage.folder"],
    );
}

#[test]
fn values_that_are_wrong() {
    let file = "peer:\n  max_connections: many\n";
    let parts = [
        "c.yaml, line 2",
        "peer.max_connections",
        "\"many\"",
        "write something like 10",
    ];
    check(Some(file), &[], &parts);
    let parts = ["SHOAL_PEER__TIMEOUT", "peer.timeout", "something like 30s"];
    check(None, &[("SHOAL_PEER__TIMEOUT", "soon")], &parts);
    let parts = ["admin_addr", "something like 127.0.0.1:5080"];
    check(Some("admin_addr: here\n"), &[], &parts);
    check(Some("peer: 5\n"), &[], &["line 1", "peer is wrong"]);
    check(
        Some("hosts: 5\n"),
        &[],
        &["hosts is wrong", "[\"x\",\"y\"]"],
    );
}

#[test]
fn files_that_are_none() {
    check(Some(": :\n  - [\n"), &[], &["c.yaml", "line ", "not YAML"]);
    check(Some("a: 1\na: 2\n"), &[], &["c.yaml", "line 2"]);
    check(Some("- a\n"), &[], &["c.yaml", "keys with values"]);
    let long = "#".repeat(usize::try_from(MAX_FILE_BYTES).unwrap() + 1);
    check(Some(&long), &[], &["c.yaml", "more than"]);
    let path = Path::new("/no/such/file");
    let error = load::<Config>(Some(path), []).unwrap_err().to_string();
    assert!(error.contains("/no/such/file"), "{error}");
}

#[test]
fn what_is_written_can_be_read() {
    let yaml = to_yaml(&Config::default()).unwrap();
    assert!(yaml.contains("max_connections: 10"), "{yaml}");
    assert_eq!(load_both(Some(&yaml), &[]), Ok(Config::default()));
}
