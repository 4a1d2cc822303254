//! Where the cluster under measurement keeps its blobs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::client;
use crate::process::Process;

/// The bucket of a store that is started for a run, and its keys, which open nothing else.
const BUCKET: &str = "bench";
const KEY_ID: &str = "bench";
const SECRET: &str = "bench-secret";
/// How long a store may take to start.
const START: Duration = Duration::from_secs(10);

/// Storage of the origins and build-indexes.
#[derive(Clone, Debug)]
pub enum Storage {
    /// A folder beside those of the roles.
    Folder,
    /// A bucket of an S3-compatible store. Keys are looked for where the roles look: in the
    /// environment first.
    Bucket { endpoint: String, bucket: String },
    /// A program with the flags of `tests-s3`, which is started for each run. It counts what it is
    /// asked for.
    Server(PathBuf),
}

/// A store that was started for a run.
#[derive(Debug)]
pub(crate) struct Store {
    _process: Process,
    addr: SocketAddr,
    control: SocketAddr,
}

/// What a store was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) requests: u64,
    pub(crate) read_bytes: u64,
}

impl Storage {
    /// Returns the key `backend` of a configuration. Each run has a prefix of its own in a bucket
    /// that is there, so that none finds what another one left.
    pub(crate) fn config(&self, folder: &Path, store: Option<&Store>) -> Value {
        match (self, store) {
            (Self::Bucket { endpoint, bucket }, _) => {
                let run = folder.file_name().unwrap_or_default();
                json!({"s3": {
                    "endpoint": endpoint,
                    "bucket": bucket,
                    "prefix": format!("shoal-bench/{}", run.to_string_lossy()),
                }})
            }
            (Self::Server(_), Some(store)) => json!({"s3": {
                "endpoint": format!("http://{}", store.addr),
                "bucket": BUCKET,
                "access_key_id": KEY_ID,
                "secret_access_key": SECRET,
            }}),
            (Self::Folder | Self::Server(_), _) => json!({"fs": {"root": folder.join("backend")}}),
        }
    }

    pub(crate) const fn is_folder(&self) -> bool {
        match self {
            Self::Folder => true,
            Self::Bucket { .. } | Self::Server(_) => false,
        }
    }

    /// Starts the store, where there is one to start.
    pub(crate) async fn start(
        &self,
        folder: &Path,
        [addr, control]: [SocketAddr; 2],
    ) -> anyhow::Result<Option<Store>> {
        let Self::Server(program) = self else {
            return Ok(None);
        };
        let objects = folder.join("objects");
        std::fs::create_dir(&objects)?;
        let mut command = Command::new(program);
        command
            .arg("--folder")
            .arg(&objects)
            .args(["--addr", &addr.to_string()])
            .args(["--control", &control.to_string()])
            .args(["--bucket", BUCKET])
            .args(["--access-key-id", KEY_ID])
            .args(["--secret-access-key", SECRET]);
        let mut process = Process::start("the store", command, &folder.join("store.log"))?;
        let deadline = Instant::now() + START;
        while TcpStream::connect(addr).await.is_err() {
            process.check()?;
            if Instant::now() > deadline {
                bail!("the store did not start within {} s", START.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Some(Store {
            _process: process,
            addr,
            control,
        }))
    }
}

impl Store {
    pub(crate) async fn asked(&self) -> anyhow::Result<Asked> {
        let text = client::text(&format!("http://{}/counts", self.control)).await?;
        Asked::parse(&text).context("the store does not say what it was asked for")
    }
}

impl Asked {
    fn parse(text: &str) -> Option<Self> {
        let counts: Value = serde_json::from_str(text).ok()?;
        let requests = counts["requests"].as_object()?.values();
        Some(Self {
            requests: requests.filter_map(Value::as_u64).sum(),
            read_bytes: counts["read_bytes"].as_u64()?,
        })
    }

    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            read_bytes: self.read_bytes - before.read_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_store_are_read() {
        let text = r#"{"requests":{"get":3,"put_part":4},"read_bytes":9,"written_bytes":8}"#;
        let asked = Asked::parse(text).unwrap();
        assert_eq!((asked.requests, asked.read_bytes), (7, 9));
        assert!(Asked::parse("{}").is_none());
    }
}
