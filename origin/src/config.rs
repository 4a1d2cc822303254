//! Configuration of an origin.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use api::{Cluster, Name, Origin, Size};
use serde::{Deserialize, Serialize};

use crate::fetch;
use crate::start::StartError;

/// How an origin is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Its name in `cluster.origins`, where its zone and the addresses that others find it at
    /// stand too. The name decides which blobs it owns.
    pub name: Name,
    /// Where services find it.
    pub http_addr: SocketAddr,
    /// Where peers find it.
    pub peer_addr: SocketAddr,
    /// Health, metrics, status.
    pub admin_addr: SocketAddr,
    /// Storage. All parts of a cluster name the same.
    pub backend: backend::Config,
    /// Folder for uploads until they are whole. Absent: one of its own in the backend's folder, so
    /// that what is whole need not be copied.
    pub staging: Option<PathBuf>,
    /// The key that everything about blobs is signed with, made at the first start. The same for
    /// all origins of a cluster: copy it to the others, or share it.
    pub cluster_key_file: PathBuf,
    pub uploads: Uploads,
    pub hashing: Hashing,
    pub cache: Cache,
    pub write_back: WriteBack,
    /// Where the other parts are. The same on every machine.
    pub cluster: Cluster,
    /// Certificates towards the other parts of the cluster.
    pub tls: service::tls::Config,
    pub peer: peer::Config,
    pub server: service::http::Options,
    pub log: service::telemetry::Log,
}

/// Limits of uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uploads {
    /// Most at a time.
    pub max_open: usize,
    /// Longest blob that is taken.
    pub max_blob: Size,
    /// How long one may stand still before it is dropped.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
}

/// Limits of hashing what others put into storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hashing {
    /// Blobs read at the same time.
    pub reading: usize,
    /// Blobs being read or waiting for their turn.
    pub waiting: usize,
}

/// How what was pushed gets to storage where that is no folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WriteBack {
    /// Blobs written at the same time.
    pub parallel: NonZeroUsize,
    /// How long the end of an upload may wait for a second origin, or for storage, to have the blob.
    #[serde(with = "humantime_serde")]
    pub commit_wait: Duration,
    /// How often an origin that has the second copy of a blob looks whether the first one wrote it.
    #[serde(with = "humantime_serde")]
    pub mirror_wait: Duration,
}

/// What is kept of storage where that is no folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Most bytes of what was read or pushed lately, in `staging`. What is not in storage yet comes
    /// on top.
    pub limit: Size,
}

impl Config {
    /// Checks what can be known without touching disk or network.
    ///
    /// # Errors
    /// What a start would refuse.
    pub fn validate(&self) -> Result<(), StartError> {
        // Names of members are resolved at the start, which checks again.
        if self.cluster.origins.are_known() {
            self.member()?;
        }
        if self.cluster.trackers.is_empty() {
            return Err(StartError::NoTrackers);
        }
        self.tls.validate()?;
        match (&self.backend, &self.staging) {
            (backend::Config::Memory | backend::Config::S3(_), None) => Err(StartError::NoStaging),
            (backend::Config::Memory | backend::Config::S3(_), Some(_))
            | (backend::Config::Fs { .. }, _) => Ok(()),
        }
    }

    /// Returns the origin's own entry in the ring.
    ///
    /// # Errors
    /// There is none of its name.
    pub(crate) fn member(&self) -> Result<&Origin, StartError> {
        let origins = &self.cluster.origins;
        let me = origins.get(self.name.as_str());
        me.ok_or_else(|| StartError::NotAMember {
            name: self.name.to_string(),
            known: origins.iter().map(|one| one.name.to_string()).collect(),
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            name: "origin-1".parse().expect("it is a name"),
            http_addr: local(5002),
            peer_addr: local(5012),
            admin_addr: local(5082),
            backend: backend::Config::default(),
            staging: None,
            cluster_key_file: PathBuf::from("./data/cluster.key"),
            uploads: Uploads::default(),
            hashing: Hashing::default(),
            cache: Cache::default(),
            write_back: WriteBack::default(),
            cluster: Cluster::default(),
            tls: service::tls::Config::default(),
            peer: peer::Config::default(),
            server: service::http::Options::default(),
            log: service::telemetry::Log::default(),
        }
    }
}

impl Default for Uploads {
    fn default() -> Self {
        let limits = store::Limits::default();
        Self {
            max_open: limits.sessions,
            max_blob: Size::b(limits.blob_bytes),
            idle: limits.idle,
        }
    }
}

impl From<Uploads> for store::Limits {
    fn from(uploads: Uploads) -> Self {
        Self {
            sessions: uploads.max_open,
            blob_bytes: uploads.max_blob.as_u64(),
            idle: uploads.idle,
        }
    }
}

impl Default for Hashing {
    fn default() -> Self {
        let limits = fetch::Limits::default();
        Self {
            reading: limits.reading,
            waiting: limits.growing,
        }
    }
}

impl Default for WriteBack {
    fn default() -> Self {
        Self {
            parallel: NonZeroUsize::new(4).expect("not zero"),
            // Less than a proxy waits.
            commit_wait: Duration::from_secs(100),
            mirror_wait: Duration::from_secs(15),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            limit: Size::b(16 << 30),
        }
    }
}

impl From<Hashing> for fetch::Limits {
    fn from(hashing: Hashing) -> Self {
        Self {
            reading: hashing.reading,
            growing: hashing.waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_member_as_soon_as_members_are_known() {
        let parse = |origins: &str| -> Config {
            let cluster = format!(r#"{{"origins": {origins}, "trackers": {{"dns": "t:5003"}}}}"#);
            serde_json::from_str(&format!(r#"{{"cluster": {cluster}}}"#)).unwrap()
        };
        let named = parse(r#"{"dns": "o:5002", "peer_port": 5012}"#);
        named.validate().unwrap();
        let listed = parse(r#"[{"name": "origin-2", "http": "o:5002", "peer": "o:5012"}]"#);
        let refused = listed.validate().unwrap_err();
        assert!(
            matches!(refused, StartError::NotAMember { .. }),
            "{refused}"
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut config = Config::default();
        let again = |config: &Config| {
            let json = serde_json::to_string(config).unwrap();
            serde_json::from_str::<Config>(&json).unwrap()
        };
        assert_eq!(again(&config), config);
        config.staging = Some("/staging".into());
        config.backend = backend::Config::Memory;
        config.uploads.max_open = 1;
        assert_eq!(again(&config), config);
        assert!(serde_json::from_str::<Config>(r#"{"nam": "a"}"#).is_err());
    }
}
