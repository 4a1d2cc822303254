//! Where the cluster under measurement keeps its blobs.

use std::path::Path;

use serde_json::{Value, json};

/// Storage of the origins and build-indexes.
#[derive(Clone, Debug)]
pub enum Storage {
    /// A folder beside those of the roles.
    Folder,
    /// A bucket of an S3-compatible store. Keys are looked for where the roles look: in the
    /// environment first.
    Bucket { endpoint: String, bucket: String },
}

impl Storage {
    /// Returns the key `backend` of a configuration. Each run has a prefix of its own in a bucket,
    /// so that none finds what another one left.
    pub(crate) fn config(&self, folder: &Path) -> Value {
        match self {
            Self::Folder => json!({"fs": {"root": folder.join("backend")}}),
            Self::Bucket { endpoint, bucket } => {
                let run = folder.file_name().unwrap_or_default();
                json!({"s3": {
                    "endpoint": endpoint,
                    "bucket": bucket,
                    "prefix": format!("shoal-bench/{}", run.to_string_lossy().trim_matches('.')),
                }})
            }
        }
    }

    pub(crate) const fn is_folder(&self) -> bool {
        match self {
            Self::Folder => true,
            Self::Bucket { .. } => false,
        }
    }
}
