//! The public half of the cluster key in configurations: 64 hex digits, or nothing. For
//! `#[serde(with = "api::key_text")]`. It may be in a file instead.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
use tokio::io::AsyncReadExt as _;
use torrent::{ClusterPublicKey, KeyError};

/// Most bytes of a file.
const MAX_FILE_BYTES: u64 = 1024;

/// A public key that cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PublicKeyError {
    #[error("give `cluster_key` or `cluster_public_key_file`, not both")]
    Two,
    #[error(
        "cannot read `cluster_public_key_file` {}: {source}; `shoal key new` makes it beside the \
         secret of the origins", path.display()
    )]
    Read { path: PathBuf, source: io::Error },
    #[error("`cluster_public_key_file` {}: {source}", path.display())]
    Malformed { path: PathBuf, source: KeyError },
}

/// Checks what can be known without reading the file.
///
/// # Errors
/// Both are given.
pub const fn check(
    key: Option<ClusterPublicKey>,
    file: Option<&Path>,
) -> Result<(), PublicKeyError> {
    if key.is_some() && file.is_some() {
        return Err(PublicKeyError::Two);
    }
    Ok(())
}

/// Returns the key that is given, by itself or in a file.
///
/// # Errors
/// [`PublicKeyError`].
pub async fn load(
    key: Option<ClusterPublicKey>,
    file: Option<&Path>,
) -> Result<Option<ClusterPublicKey>, PublicKeyError> {
    check(key, file)?;
    let Some(path) = file else {
        return Ok(key);
    };
    let failed = |source| PublicKeyError::Read {
        path: path.to_owned(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut text = String::new();
    let mut file = file.take(MAX_FILE_BYTES);
    file.read_to_string(&mut text).await.map_err(failed)?;
    let key = text
        .trim()
        .parse()
        .map_err(|source| PublicKeyError::Malformed {
            path: path.to_owned(),
            source,
        });
    key.map(Some)
}

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

#[cfg(test)]
mod tests {
    use torrent::ClusterKey;

    use super::*;

    #[tokio::test]
    async fn a_key_is_text_or_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.pub");
        let key = ClusterKey::from_seed([1; 32]).public();
        assert_eq!(load(None, None).await.unwrap(), None);
        assert_eq!(load(Some(key), None).await.unwrap(), Some(key));
        let error = load(None, Some(&path)).await.unwrap_err().to_string();
        assert!(error.contains("shoal key new"), "{error}");
        std::fs::write(&path, format!("{key}\n")).unwrap();
        assert_eq!(load(None, Some(&path)).await.unwrap(), Some(key));
        assert!(load(Some(key), Some(&path)).await.is_err());
        std::fs::write(&path, "half").unwrap();
        let error = load(None, Some(&path)).await.unwrap_err().to_string();
        assert!(error.contains("64 hex digits"), "{error}");
    }
}
