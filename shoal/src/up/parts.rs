//! The parts of `shoal up`: their sockets, then their configurations.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use service::{Role, Running};
use tokio_util::sync::CancellationToken;

use crate::cli::Up;
use crate::role::{Part as _, Sockets, bind};
use crate::up::folder::Folder;

/// A part that listens, but does not run yet.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) role: Role,
    sockets: Sockets,
}

/// Listens on all addresses. The order of the parts is that in which they start: each after those
/// it needs.
///
/// # Errors
/// An address is taken; the text names the flag to change.
pub(super) async fn bind_all(flags: &Up) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (role, count) in [
        (Role::Tracker, 1),
        (Role::BuildIndex, 1),
        (Role::Origin, flags.origins),
        (Role::Proxy, 1),
        (Role::Agent, flags.agents),
    ] {
        for number in 1..=count {
            parts.push(Part::bind(role, number, flags).await?);
        }
    }
    Ok(parts)
}

/// Returns the names of all parts of a role, with the address of one of their sockets.
pub(super) fn addrs_of(parts: &[Part], role: Role, key: &str) -> Vec<(String, SocketAddr)> {
    let parts = parts.iter().filter(|part| part.role == role);
    parts
        .filter_map(|part| Some((part.name.clone(), part.addr(key)?)))
        .collect()
}

/// Returns the section that all configurations share.
pub(super) fn cluster(parts: &[Part]) -> Value {
    let members = |role, keys: &[&str]| -> Vec<Value> {
        let parts = parts.iter().filter(|part| part.role == role);
        let member = |part: &Part| {
            let mut member = json!({"name": part.name});
            for key in keys {
                member[key.trim_end_matches("_addr")] = json!(part.addr(key));
            }
            member
        };
        parts.map(member).collect()
    };
    json!({
        "trackers": members(Role::Tracker, &["peer_addr"]),
        "build_indexes": members(Role::BuildIndex, &["http_addr"]),
        "origins": members(Role::Origin, &["http_addr", "peer_addr"]),
    })
}

/// What the configurations of all parts have in common.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) folder: &'a Folder,
    pub(super) cluster: Value,
    /// Public half of the cluster key.
    pub(super) key: String,
    /// Where agents pass writes on to.
    pub(super) proxies: Vec<SocketAddr>,
}

impl Part {
    async fn bind(role: Role, number: u16, flags: &Up) -> anyhow::Result<Self> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut wanted = vec![("peer_addr", "a free port", local)];
        let http = ("http_addr", "a free port", local);
        match role {
            Role::Tracker => {}
            Role::BuildIndex => wanted = vec![http],
            Role::Origin => wanted.push(http),
            Role::Proxy => wanted = vec![("http_addr", "--proxy-addr", flags.proxy_addr)],
            Role::Agent => {
                let mut addr = flags.agent_addr;
                if number > 1 {
                    addr.set_port(0);
                }
                wanted.push(("registry_addr", "--agent-addr", addr));
            }
        }
        let mut sockets = Sockets::new();
        for (key, flag, addr) in wanted {
            sockets.insert(key, bind(flag, addr).await?);
        }
        let name = format!("{role}-{number}");
        Ok(Self {
            name,
            role,
            sockets,
        })
    }

    fn addr(&self, key: &str) -> Option<SocketAddr> {
        self.sockets.get(key)?.local_addr().ok()
    }

    /// Starts it.
    ///
    /// # Errors
    /// What it lacks.
    pub(super) async fn start(
        self,
        shared: &Shared<'_>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Running> {
        let config = self.config(shared)?;
        let sockets = self.sockets;
        match self.role {
            Role::Agent => {
                let config: agent::Config = serde_json::from_value(config)?;
                config.start(sockets, shutdown).await
            }
            Role::Origin => {
                let config: origin::Config = serde_json::from_value(config)?;
                config.start(sockets, shutdown).await
            }
            Role::Tracker => {
                let config: tracker::Config = serde_json::from_value(config)?;
                config.start(sockets, shutdown).await
            }
            Role::BuildIndex => {
                let config: build_index::Config = serde_json::from_value(config)?;
                config.start(sockets, shutdown).await
            }
            Role::Proxy => {
                let config: proxy::Config = serde_json::from_value(config)?;
                config.start(sockets, shutdown).await
            }
        }
    }

    /// Returns its configuration, as a file would have it.
    fn config(&self, shared: &Shared<'_>) -> anyhow::Result<Value> {
        let Shared { folder, .. } = shared;
        let mut config = match self.role {
            Role::Agent => json!({
                "cluster": shared.cluster,
                "cluster_key": shared.key,
                "proxies": shared.proxies,
                "cache": {"folder": serde_json::to_value(folder.of(&self.name))?},
            }),
            Role::Origin => json!({
                "cluster": shared.cluster,
                "cluster_key_file": serde_json::to_value(folder.key())?,
                "backend": {"fs": {"root": serde_json::to_value(folder.backend())?}},
            }),
            Role::Tracker => json!({"cluster": shared.cluster, "cluster_key": shared.key}),
            Role::BuildIndex => json!({
                "backend": {"fs": {"root": serde_json::to_value(folder.backend())?}},
            }),
            Role::Proxy => json!({
                "cluster": shared.cluster,
                "upload_secret_file": serde_json::to_value(folder.secret())?,
            }),
        };
        config["name"] = json!(self.name);
        for (key, socket) in &self.sockets {
            config[*key] = json!(socket.local_addr()?);
        }
        Ok(config)
    }
}
