//! Configuration of a proxy.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use api::{Cluster, Name};
use registry::Fallback;
use serde::{Deserialize, Serialize};

use crate::start::StartError;

/// Fewest bytes of a secret.
const MIN_SECRET_BYTES: usize = 16;
/// Most of them.
const MAX_SECRET_BYTES: usize = 1024;
/// What is printed instead of a secret.
const HIDDEN: &str = "<hidden>";

/// How a proxy is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What logs and the status call it.
    pub name: Name,
    /// Where clients find the registry.
    pub http_addr: SocketAddr,
    /// Health, metrics, status.
    pub admin_addr: SocketAddr,
    /// Where the other parts are. The same on every machine.
    pub cluster: Cluster,
    /// What seals the state of uploads, as hex digits of 16 to 1024 bytes: the same at all proxies,
    /// so that each goes on with the uploads of the others. Where neither this nor
    /// `upload_secret_file` is given, a random one is made at each start.
    pub upload_secret: Option<Secret>,
    /// A file with the hex digits instead.
    pub upload_secret_file: Option<PathBuf>,
    /// What clients shall do when something that exists cannot be served: `mirror` sends them to
    /// their other registry (404), `registry` lets them try again (503).
    pub fallback: Fallback,
    /// Hosts whose images are served when mirrors are asked for them (`?ns=`).
    pub namespaces: BTreeSet<String>,
    /// How long a manifest or a list may take.
    #[serde(with = "humantime_serde")]
    pub manifest_wait: Duration,
    /// How long the head of a blob's answer may take.
    #[serde(with = "humantime_serde")]
    pub blob_wait: Duration,
    /// How long a body in either direction may pause.
    #[serde(with = "humantime_serde")]
    pub body_wait: Duration,
    /// How long storage may take to take a manifest, or the end of an upload.
    #[serde(with = "humantime_serde")]
    pub commit_wait: Duration,
    /// How long the blobs of a manifest may make no progress on their way to storage.
    #[serde(with = "humantime_serde")]
    pub write_back_wait: Duration,
    /// Certificates towards the other parts of the cluster.
    pub tls: service::tls::Config,
    /// The certificate of the registry towards clients.
    pub registry_tls: service::tls::RegistryConfig,
    pub server: service::http::Options,
    pub log: service::telemetry::Log,
}

impl Config {
    /// Checks what can be known without touching disk or network.
    ///
    /// # Errors
    /// What a start would refuse.
    pub fn validate(&self) -> Result<(), StartError> {
        for (name, is_empty) in [
            ("origins", self.cluster.origins.is_empty()),
            ("build_indexes", self.cluster.build_indexes.is_empty()),
        ] {
            if is_empty {
                return Err(StartError::NoMembers(name));
            }
        }
        if self.upload_secret.is_some() && self.upload_secret_file.is_some() {
            return Err(StartError::TwoSecrets);
        }
        self.tls.validate()?;
        self.registry_tls.validate()?;
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        let options = registry::Options::default();
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            name: "proxy-1".parse().expect("it is a name"),
            http_addr: local(5001),
            admin_addr: local(5081),
            cluster: Cluster::default(),
            upload_secret: None,
            upload_secret_file: None,
            fallback: options.fallback,
            namespaces: options.namespaces,
            manifest_wait: options.manifest_wait,
            blob_wait: options.blob_wait,
            body_wait: options.body_wait,
            commit_wait: Duration::from_secs(120),
            write_back_wait: Duration::from_secs(60),
            tls: service::tls::Config::default(),
            registry_tls: service::tls::RegistryConfig::default(),
            server: service::http::Options::default(),
            log: service::telemetry::Log::default(),
        }
    }
}

/// Bytes that only the proxies of a cluster know.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Text that is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error(
        "a secret is {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes as hex digits; make one with \
         `openssl rand -hex 32`"
    )]
    Malformed,
    #[error("{HIDDEN} is what --print-config prints instead of a secret; write the secret itself")]
    Hidden,
}

impl Secret {
    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::str::FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if text == HIDDEN {
            return Err(SecretError::Hidden);
        }
        let bytes = hex::decode(text).map_err(|_| SecretError::Malformed)?;
        if (MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(SecretError::Malformed)
        }
    }
}

impl From<[u8; 32]> for Secret {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes.to_vec())
    }
}

/// Logs shall not have it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Nor shall `--print-config`, whose output people paste into tickets. A configuration with a
/// secret is the one thing that cannot be read back.
impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut config = Config::default();
        let again = |config: &Config| {
            let json = serde_json::to_string(config).unwrap();
            serde_json::from_str::<Config>(&json).unwrap()
        };
        assert_eq!(again(&config), config);
        config.upload_secret_file = Some("/run/secret".into());
        config.fallback = Fallback::Mirror;
        assert_eq!(again(&config), config);
    }

    #[test]
    fn a_secret_is_read_but_never_written() {
        let json = format!(r#"{{"upload_secret": "{}"}}"#, "07".repeat(32));
        let config = serde_json::from_str::<Config>(&json).unwrap();
        assert_eq!(config.upload_secret, Some(Secret::from([7; 32])));
        let printed = serde_json::to_string(&config).unwrap();
        for text in [&printed, &format!("{config:?}")] {
            assert!(!text.contains("0707"), "{text}");
        }
        let error = serde_json::from_str::<Config>(&printed).unwrap_err();
        assert!(
            error.to_string().contains("write the secret itself"),
            "{error}"
        );
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for json in [
            r#"{"http_adr": "127.0.0.1:1"}"#,
            r#"{"upload_secret": "0102"}"#,
            r#"{"upload_secret": "no hex at all, but long enough to be one"}"#,
            r#"{"commit_wait": 5}"#,
        ] {
            assert!(serde_json::from_str::<Config>(json).is_err(), "{json}");
        }
    }
}
