//! Which storage a process uses.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::fs::FsBackend;
use crate::memory::MemoryBackend;
use crate::s3::{S3Backend, S3Config};
use crate::{Backend, Error};

/// Where blobs, manifests and tags are kept. All parts of a cluster name the same storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Config {
    /// A folder, on a disk of this host.
    Fs {
        /// Must exist: a volume that is not mounted shall not be mistaken for an empty one.
        root: PathBuf,
    },
    /// A bucket of an S3-compatible store.
    S3(Box<S3Config>),
    /// Memory of this process: nobody else sees it, and it ends with the process.
    Memory,
}

impl Config {
    /// Opens the storage. Two calls for one folder see the same objects; two for memory do not.
    ///
    /// # Errors
    /// [`Error::Folder`] or [`Error::Config`], which say what to do.
    pub async fn open(&self) -> Result<Arc<dyn Backend>, Error> {
        match self {
            Self::Fs { root } => {
                let root = root.clone();
                let opened = crate::fs::blocking(move || FsBackend::open(root)).await?;
                Ok(Arc::new(opened))
            }
            Self::S3(config) => Ok(Arc::new(S3Backend::open(config).await?)),
            Self::Memory => Ok(Arc::new(MemoryBackend::new())),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::Fs {
            root: PathBuf::from("./data/backend"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn storage_is_opened_as_configured() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        let backend = Config::Fs { root: root.clone() }.open().await.unwrap();
        assert!(backend.staging().unwrap().starts_with(&root));
        assert!(Config::Memory.open().await.unwrap().staging().is_none());
        let missing = Config::Fs {
            root: root.join("missing"),
        };
        let error = missing.open().await.unwrap_err();
        assert!(error.to_string().contains("it is missing"), "{error}");
    }
}
