//! Configurations of the parts of a cluster.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::roles::Part;

/// Seed of [`key`].
const SEED: [u8; 32] = [7; 32];

/// Returns the configuration of a part, and makes the file of the key beside it.
pub(super) fn of(part: &Part, parts: &[Part], backend: &Value, folder: &Path) -> Value {
    let cluster = cluster(parts);
    let public = key().public().to_string();
    let mut config = match part.role {
        "tracker" => json!({
            "peer_addr": part.peer,
            "cluster": cluster,
            "cluster_key": public,
        }),
        "build-index" => json!({
            "http_addr": part.http,
            "backend": backend,
            "cluster": cluster,
        }),
        "origin" => json!({
            "http_addr": part.http,
            "peer_addr": part.peer,
            "backend": backend,
            "cluster": cluster,
            "cluster_key_file": key_file(folder),
        }),
        "proxy" => json!({
            "http_addr": part.http,
            "cluster": cluster,
            "upload_secret": hex(&SEED),
        }),
        "agent" => json!({
            "registry_addr": part.http,
            "peer_addr": part.peer,
            "cache": {"folder": part.folder},
            "cluster": cluster,
            "cluster_key": public,
            "proxies": of_role(parts, "proxy").map(|part| part.http).collect::<Vec<_>>(),
        }),
        other => panic!("there is no role {other}"),
    };
    if tls(folder).exists() {
        config["tls"] = crate::tls::section(&tls(folder), part.role);
    }
    if part.role == "origin" && backend.get("s3").is_some() {
        config["staging"] = json!(staging(part));
    }
    config["name"] = json!(part.name);
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    config["log"] = json!({"filter": filter});
    config["admin_addr"] = json!(part.admin);
    config
}

/// Returns the folder with the certificates of a cluster.
pub(super) fn tls(folder: &Path) -> PathBuf {
    folder.join("tls")
}

/// Returns the folder in which an origin keeps what is not in its store yet.
fn staging(part: &Part) -> PathBuf {
    let folder = part.folder.join("staging");
    std::fs::create_dir_all(&folder).expect("the folder is ours");
    folder
}

/// Every cluster of the tests has this key.
pub(super) fn key() -> torrent::ClusterKey {
    torrent::ClusterKey::from_seed(SEED)
}

fn cluster(parts: &[Part]) -> Value {
    let trackers =
        of_role(parts, "tracker").map(|part| json!({"name": part.name, "peer": part.peer}));
    let indexes =
        of_role(parts, "build-index").map(|part| json!({"name": part.name, "http": part.http}));
    let origins = of_role(parts, "origin")
        .map(|part| json!({"name": part.name, "http": part.http, "peer": part.peer}));
    json!({
        "trackers": trackers.collect::<Vec<_>>(),
        "build_indexes": indexes.collect::<Vec<_>>(),
        "origins": origins.collect::<Vec<_>>(),
    })
}

fn of_role<'a>(parts: &'a [Part], role: &'a str) -> impl Iterator<Item = &'a Part> {
    parts.iter().filter(move |part| part.role == role)
}

/// Returns the file of the key, which all origins of a cluster share.
fn key_file(folder: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("cluster.key");
    if !path.exists() {
        std::fs::write(&path, hex(&SEED)).expect("the folder is ours");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).expect("the file is ours");
    }
    path
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
