//! Configuration of a tracker.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use api::{Cluster, Name, Tracker};
use serde::{Deserialize, Serialize};
use torrent::ClusterPublicKey;

use crate::start::StartError;

/// How a tracker is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Its name in `cluster.trackers`.
    pub name: Name,
    /// Where agents and origins find it.
    pub peer_addr: SocketAddr,
    /// Health, metrics, status.
    pub admin_addr: SocketAddr,
    /// Where the other parts are. The same on every machine.
    pub cluster: Cluster,
    /// Public half of the key that signs what blobs must hash to, as the origins print it. Where
    /// absent, what peers say about blobs is passed on unchecked; they check it themselves.
    #[serde(with = "api::key_text")]
    pub cluster_key: Option<ClusterPublicKey>,
    /// A file with it instead, as `shoal key new` makes it.
    pub cluster_public_key_file: Option<PathBuf>,
    /// Certificates towards agents and origins.
    pub tls: service::tls::Config,
    /// Most sessions; more are refused.
    pub max_sessions: usize,
    /// Most messages that wait for one session. One that lets more pile up is closed. One announce
    /// may be about 4096 blobs, each of which is answered.
    pub max_queued_messages: usize,
    /// How long one write to a session may take.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    pub server: service::http::Options,
    pub log: service::telemetry::Log,
}

impl Config {
    /// Checks what can be known without touching the network.
    ///
    /// # Errors
    /// What a start would refuse.
    pub fn validate(&self) -> Result<(), StartError> {
        if self.cluster.origins.is_empty() {
            return Err(StartError::NoOrigins);
        }
        // Names of members are resolved at the start, which checks again.
        if self.cluster.trackers.are_known() {
            self.member()?;
        }
        api::key_text::check(self.cluster_key, self.cluster_public_key_file.as_deref())?;
        self.tls.validate()?;
        Ok(())
    }

    /// Returns the tracker's own entry in the ring.
    ///
    /// # Errors
    /// There is none of its name.
    pub(crate) fn member(&self) -> Result<&Tracker, StartError> {
        let trackers = &self.cluster.trackers;
        trackers.get(self.name.as_str()).ok_or_else(|| {
            let there: Vec<_> = trackers.iter().map(AsRef::as_ref).collect();
            StartError::NotAMember(self.name.to_string(), there.join(", "))
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            name: "tracker-1".parse().expect("it is a name"),
            peer_addr: local(5003),
            admin_addr: local(5083),
            cluster: Cluster::default(),
            cluster_key: None,
            cluster_public_key_file: None,
            tls: service::tls::Config::default(),
            max_sessions: 32_768,
            max_queued_messages: 16_384,
            write_timeout: Duration::from_secs(30),
            server: service::http::Options::default(),
            log: service::telemetry::Log::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use torrent::ClusterKey;

    use super::*;

    #[test]
    fn it_is_a_member_as_soon_as_members_are_known() {
        let parse = |trackers: &str| -> Config {
            let origins = r#"{"dns": "o:5002", "peer_port": 5012}"#;
            let cluster = format!(r#"{{"origins": {origins}, "trackers": {trackers}}}"#);
            serde_json::from_str(&format!(r#"{{"cluster": {cluster}}}"#)).unwrap()
        };
        parse(r#"{"dns": "t:5003"}"#).validate().unwrap();
        let listed = parse(r#"[{"name": "tracker-2", "peer": "t:5003"}]"#);
        let refused = listed.validate().unwrap_err();
        assert!(matches!(refused, StartError::NotAMember(..)), "{refused}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut config = Config::default();
        for key in [None, Some(ClusterKey::from_seed([1; 32]).public())] {
            config.cluster_key = key;
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
        }
        for json in [r#"{"cluster_key": "abc"}"#, r#"{"adress": 1}"#] {
            assert!(serde_json::from_str::<Config>(json).is_err(), "{json}");
        }
    }
}
