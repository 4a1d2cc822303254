//! Configuration of an agent.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use api::{Addr, Cluster, Name, Size, Zone};
use registry::Fallback;
use serde::{Deserialize, Serialize};
use torrent::ClusterPublicKey;

use crate::forward_proxy::ProxiedHost;
use crate::start::StartError;

/// How an agent is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What logs and the status call it.
    pub name: Name,
    /// Part of the network (rack, availability zone); empty where there is only one.
    pub zone: Zone,
    /// Where clients find the registry.
    pub registry_addr: SocketAddr,
    /// Where clients find the forward proxy; none where absent. It has no authentication.
    pub forward_proxy_addr: Option<SocketAddr>,
    /// Hosts that mean the registry of this cluster, as clients of the forward proxy write them.
    pub forward_proxy_hosts: BTreeSet<ProxiedHost>,
    /// Where peers find this agent.
    pub peer_addr: SocketAddr,
    /// What peers are told instead of `peer_addr`: needed where that is 0.0.0.0 or `[::]`, and
    /// behind NAT.
    pub advertised_peer_addr: Option<Addr>,
    /// Health, metrics, status.
    pub admin_addr: SocketAddr,
    pub cache: Cache,
    /// Where the other parts are. The same on every machine.
    pub cluster: Cluster,
    /// Public half of the key that signs what blobs must hash to, as the origins print it. There
    /// is no agent without: a key believed at first sight would be whosever came first.
    #[serde(with = "api::key_text")]
    pub cluster_key: Option<ClusterPublicKey>,
    /// A file with it instead, as `shoal key new` makes it.
    pub cluster_public_key_file: Option<PathBuf>,
    /// Certificates towards the other parts of the cluster.
    pub tls: service::tls::Config,
    /// The certificate of the registry towards clients.
    pub registry_tls: service::tls::RegistryConfig,
    pub writes: Writes,
    /// Where writes are passed on to, in this order: `host:port` of each proxy.
    pub proxies: Vec<Addr>,
    /// What clients shall do when something that exists cannot be served: `mirror` sends them to
    /// their other registry (404), `registry` lets them try again (503).
    pub fallback: Fallback,
    /// Hosts whose images are served when mirrors are asked for them (`?ns=`).
    pub namespaces: BTreeSet<String>,
    /// Blobs up to this length are fetched as soon as a manifest that needs them is read.
    pub prefetch_bytes: Size,
    /// How long a manifest or a list may take.
    #[serde(with = "humantime_serde")]
    pub manifest_wait: Duration,
    /// How long the head of a blob's answer may take.
    #[serde(with = "humantime_serde")]
    pub blob_wait: Duration,
    /// How long the head of an answer may take that is about a part of a blob, or has no body.
    /// Clients that mount images give up after 5 s.
    #[serde(with = "humantime_serde")]
    pub part_wait: Duration,
    /// How long a body may pause.
    #[serde(with = "humantime_serde")]
    pub body_wait: Duration,
    pub peer: peer::Config,
    pub server: service::http::Options,
    pub log: service::telemetry::Log,
}

/// Where verified pieces are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Made where it is missing; used by one agent at a time. May be lost.
    pub folder: PathBuf,
    /// When nearly so much is there, the least recently used goes.
    pub limit: Size,
}

/// What becomes of pushes and deletions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writes {
    /// They are passed on to a proxy.
    #[default]
    Forward,
    /// They are answered with 405.
    Refuse,
}

impl Config {
    /// Checks what can be known without touching disk or network.
    ///
    /// # Errors
    /// What a start would refuse.
    pub fn validate(&self) -> Result<(), StartError> {
        let key_file = self.cluster_public_key_file.as_deref();
        if self.cluster_key.is_none() && key_file.is_none() {
            return Err(StartError::NoKey);
        }
        api::key_text::check(self.cluster_key, key_file)?;
        self.tls.validate()?;
        self.registry_tls.validate()?;
        let cluster = &self.cluster;
        for (name, is_empty) in [
            ("build_indexes", cluster.build_indexes.is_empty()),
            ("origins", cluster.origins.is_empty()),
            ("trackers", cluster.trackers.is_empty()),
        ] {
            if is_empty {
                return Err(StartError::NoMembers(name));
            }
        }
        if self.writes == Writes::Forward && self.proxies.is_empty() {
            return Err(StartError::NoProxy);
        }
        if self.forward_proxy_addr.is_some() && self.forward_proxy_hosts.is_empty() {
            return Err(StartError::NoProxiedHost);
        }
        self.advertised(self.peer_addr)?;
        Ok(())
    }

    /// Returns where peers are told to connect to, given where this agent listens.
    ///
    /// # Errors
    /// That is every address of this machine, of which others know none.
    pub(crate) fn advertised(&self, listens: SocketAddr) -> Result<Addr, StartError> {
        match &self.advertised_peer_addr {
            Some(addr) => Ok(addr.clone()),
            None if listens.ip().is_unspecified() => Err(StartError::NoAdvertised(listens)),
            None => Ok(Addr::from(listens)),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let options = registry::Options::default();
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            name: "agent".parse().expect("it is a name"),
            zone: Zone::default(),
            registry_addr: local(5000),
            forward_proxy_addr: None,
            forward_proxy_hosts: BTreeSet::new(),
            peer_addr: local(5010),
            advertised_peer_addr: None,
            admin_addr: local(5080),
            cache: Cache::default(),
            cluster: Cluster::default(),
            cluster_key: None,
            cluster_public_key_file: None,
            tls: service::tls::Config::default(),
            registry_tls: service::tls::RegistryConfig::default(),
            writes: Writes::default(),
            proxies: Vec::new(),
            fallback: options.fallback,
            namespaces: options.namespaces,
            prefetch_bytes: Size::mib(1),
            manifest_wait: options.manifest_wait,
            blob_wait: options.blob_wait,
            part_wait: options.part_wait,
            body_wait: options.body_wait,
            peer: peer::Config::default(),
            server: service::http::Options::default(),
            log: service::telemetry::Log::default(),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("./data/agent"),
            limit: Size::gib(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use torrent::ClusterKey;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut config = Config::default();
        let again = |config: &Config| {
            let json = serde_json::to_string(config).unwrap();
            serde_json::from_str::<Config>(&json).unwrap()
        };
        assert_eq!(again(&config), config);
        config.cluster_key = Some(ClusterKey::from_seed([1; 32]).public());
        config.advertised_peer_addr = Some("host:1".parse().unwrap());
        config.fallback = Fallback::Mirror;
        config.writes = Writes::Refuse;
        config.forward_proxy_addr = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 5057)));
        config.forward_proxy_hosts = ["proxy:5001".parse().unwrap()].into();
        assert_eq!(again(&config), config);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for json in [
            r#"{"registry_adr": "127.0.0.1:1"}"#,
            r#"{"cache": {"size": "1GiB"}}"#,
            r#"{"cluster_key": "abc"}"#,
            r#"{"writes": "drop"}"#,
            r#"{"proxies": ["http://proxy:5001"]}"#,
            r#"{"forward_proxy_hosts": ["http://proxy:5001"]}"#,
        ] {
            assert!(serde_json::from_str::<Config>(json).is_err(), "{json}");
        }
    }
}
