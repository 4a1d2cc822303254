//! Configurations of the parts of a cluster.

use std::path::Path;

use serde_json::{Value, json};

use crate::roles::Part;

pub(super) fn of(part: &Part, parts: &[Part], folder: &Path) -> Value {
    let _ = (part, parts, folder);
    json!({})
}

/// Every cluster of the tests has this key.
pub(super) fn key() -> torrent::ClusterKey {
    torrent::ClusterKey::from_seed([7; 32])
}
