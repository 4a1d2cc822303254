//! The public half of the cluster key in configurations: 64 hex digits, or nothing. For
//! `#[serde(with = "api::key_text")]`.

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
use torrent::ClusterPublicKey;

/// Writes a key.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(
    key: &Option<ClusterPublicKey>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    key.map(|key| key.to_string()).serialize(serializer)
}

/// Reads a key. Spaces around it are as good as none: keys are copied from logs and files.
///
/// # Errors
/// It is no key.
pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ClusterPublicKey>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let key = text.map(|text| text.trim().parse().map_err(D::Error::custom));
    key.transpose()
}
