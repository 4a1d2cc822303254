//! Configuration of a build-index.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use api::{Cluster, Name, Size};
use serde::{Deserialize, Serialize};

use crate::start::StartError;

/// How a build-index is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What logs and the status call it: its name in `cluster.build_indexes`.
    pub name: Name,
    /// Where agents and proxies find it.
    pub http_addr: SocketAddr,
    /// Health, metrics, status.
    pub admin_addr: SocketAddr,
    /// The storage of the cluster. The same at all build-indexes and origins.
    pub backend: backend::Config,
    /// The parts of the cluster: only `build_indexes` counts, and only for `tag_writer`.
    pub cluster: Cluster,
    /// The member of `cluster.build_indexes` that makes all changes of tags, over a storage that
    /// cannot decide between writers. The same at all build-indexes.
    pub tag_writer: Option<Name>,
    /// Most bytes of manifests kept in memory. They are kept by digest, so none can be outdated.
    pub manifest_cache: Size,
    /// How long a question may wait for storage.
    #[serde(with = "humantime_serde")]
    pub read_wait: Duration,
    /// How long a change may wait for its bytes, and then for storage.
    #[serde(with = "humantime_serde")]
    pub write_wait: Duration,
    /// Certificates towards the other parts of the cluster.
    pub tls: service::tls::Config,
    pub server: service::http::Options,
    pub log: service::telemetry::Log,
}

impl Config {
    /// Checks what can be known without touching disk or network.
    ///
    /// # Errors
    /// What a start would refuse.
    pub fn validate(&self) -> Result<(), StartError> {
        for (name, wait) in [
            ("read_wait", self.read_wait),
            ("write_wait", self.write_wait),
        ] {
            if wait.is_zero() {
                return Err(StartError::NoWait(name));
            }
        }
        // Names of members are resolved at the start, which checks again.
        if let Some(writer) = &self.tag_writer
            && self.cluster.build_indexes.are_known()
            && self.cluster.build_indexes.get(writer.as_str()).is_none()
        {
            return Err(StartError::NoSuchWriter(writer.clone()));
        }
        self.tls.validate()?;
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            name: "build-index-1".parse().expect("it is a name"),
            http_addr: local(5004),
            admin_addr: local(5084),
            backend: backend::Config::default(),
            cluster: Cluster::default(),
            tag_writer: None,
            manifest_cache: Size::mib(64),
            read_wait: Duration::from_secs(8),
            // Less than the minute that a proxy waits, so that it hears the cause.
            write_wait: Duration::from_secs(45),
            tls: service::tls::Config::default(),
            server: service::http::Options::default(),
            log: service::telemetry::Log::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_is_a_member_as_soon_as_members_are_known() {
        let parse = |build_indexes: &str| -> Config {
            let cluster = format!(r#"{{"build_indexes": {build_indexes}}}"#);
            let text = format!(r#"{{"tag_writer": "10.0.0.1", "cluster": {cluster}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        parse(r#"{"dns": "b:5004"}"#).validate().unwrap();
        let refused = parse(r#"[{"name": "b1", "http": "b:5004"}]"#).validate();
        assert!(matches!(refused, Err(StartError::NoSuchWriter(_))));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut config = Config::default();
        let again = |config: &Config| {
            let json = serde_json::to_string(config).unwrap();
            serde_json::from_str::<Config>(&json).unwrap()
        };
        assert_eq!(again(&config), config);
        config.backend = backend::Config::Memory;
        config.read_wait = Duration::from_millis(1500);
        assert_eq!(again(&config), config);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for json in [
            r#"{"http_adr": "127.0.0.1:1"}"#,
            r#"{"manifest_cache": "much"}"#,
            r#"{"backend": {"fs": {"folder": "/x"}}}"#,
            r#"{"write_wait": 5}"#,
        ] {
            assert!(serde_json::from_str::<Config>(json).is_err(), "{json}");
        }
    }
}
