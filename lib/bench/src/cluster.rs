//! A cluster of processes on this machine, each with a folder and ports of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde_json::{Value, json};
use service::Role;
use tempfile::TempDir;
use tokio::time::Instant;
use torrent::ClusterKey;

use crate::client;
use crate::counters::Counters;
use crate::process::{Process, Usage};
use crate::storage::{Asked, Storage, Store};

/// How long a role may take to become ready.
const START: Duration = Duration::from_secs(60);
/// Pause between two questions whether something is so far.
pub(crate) const LOOK: Duration = Duration::from_millis(10);
/// Ports that roles listen on: outside of those that outgoing connections take theirs from.
const PORTS: std::ops::Range<u16> = 12_000..30_000;

/// Where a cluster is made.
#[derive(Clone, Debug)]
pub struct Place {
    /// The binary with the roles.
    pub binary: PathBuf,
    /// Folder that the cluster's folder is made in, and removed from at the end.
    pub folder: PathBuf,
    pub storage: Storage,
}

/// How many of the roles there are several of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) agents: u16,
    pub(crate) origins: u16,
    /// Bytes per second that each agent and origin may send to peers.
    pub(crate) rate: Option<u64>,
}

/// A role with its addresses.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) role: Role,
    name: String,
    folder: PathBuf,
    /// Where clients or services find it.
    pub(crate) http: SocketAddr,
    peer: SocketAddr,
    admin: SocketAddr,
    process: Option<Process>,
}

/// Processes that make a cluster. Dropping it ends them and removes their folders.
#[derive(Debug)]
pub(crate) struct Cluster {
    parts: Vec<Part>,
    place: Place,
    size: Size,
    key: ClusterKey,
    secret: [u8; 32],
    store: Option<Store>,
    folder: TempDir,
}

/// What all processes used, and counted, until a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    roles: Vec<(Role, Usage, Counters)>,
    /// Where a store counts.
    asked: Option<Asked>,
}

impl Cluster {
    /// Starts everything and waits until it is ready.
    pub(crate) async fn start(place: &Place, size: Size) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("shoal-bench-")
            .tempdir_in(&place.folder)
            .with_context(|| format!("cannot make a folder in {}", place.folder.display()))?;
        let mut ports = Ports::new()?;
        let mut parts = Vec::new();
        for (role, count) in [
            (Role::BuildIndex, 1),
            (Role::Tracker, 1),
            (Role::Origin, size.origins),
            (Role::Proxy, 1),
            (Role::Agent, size.agents),
        ] {
            for number in 1..=count {
                let name = format!("{role}-{number}");
                parts.push(Part {
                    role,
                    folder: folder.path().join(&name),
                    name,
                    http: ports.next()?,
                    peer: ports.next()?,
                    admin: ports.next()?,
                    process: None,
                });
            }
        }
        let mut cluster = Self {
            parts,
            place: place.clone(),
            size,
            key: ClusterKey::from_seed(random()?),
            secret: random()?,
            store: place
                .storage
                .start(folder.path(), [ports.next()?, ports.next()?])
                .await?,
            folder,
        };
        cluster.configure()?;
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// Starts what does not run, and waits until it is ready.
    async fn start_all(&mut self) -> anyhow::Result<()> {
        for part in &mut self.parts {
            if part.process.is_none() {
                part.start(&self.place.binary)?;
            }
        }
        for part in &mut self.parts {
            part.until_ready().await?;
        }
        Ok(())
    }

    /// Makes the origins forget: they are started again with nothing but what storage has, and the
    /// system forgets what it read of it.
    pub(crate) async fn cool_origins(&mut self) -> anyhow::Result<()> {
        for part in self
            .parts
            .iter_mut()
            .filter(|part| part.role == Role::Origin)
        {
            part.kill()?;
            fs::remove_dir_all(&part.folder)?;
            fs::create_dir(&part.folder)?;
        }
        if self.place.storage.is_folder() {
            forget_pages(&self.folder.path().join("backend"))?;
        }
        self.start_all().await
    }

    /// Kills a role as a power cut would.
    pub(crate) fn kill(&mut self, role: Role) -> anyhow::Result<()> {
        for part in self.parts.iter_mut().filter(|part| part.role == role) {
            part.kill()?;
        }
        Ok(())
    }

    /// Lets the peaks of memory begin anew.
    pub(crate) fn forget_peaks(&self) -> anyhow::Result<()> {
        let mut processes = self.parts.iter().filter_map(|part| part.process.as_ref());
        processes.try_for_each(Process::forget_peak)
    }

    /// Reads all accounts and counters of the processes that run.
    pub(crate) async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let mut taken = Vec::new();
        // The accounts first: answering about counters costs something too.
        for part in &self.parts {
            if let Some(process) = &part.process {
                taken.push((part, process.usage()?));
            }
        }
        let mut snapshot = Snapshot::default();
        for (part, usage) in taken {
            let counters = part.counters().await?;
            snapshot.roles.push((part.role, usage, counters));
        }
        if let Some(store) = &self.store {
            snapshot.asked = Some(store.asked().await?);
        }
        Ok(snapshot)
    }

    /// Returns where clients find the parts of a role.
    pub(crate) fn addrs(&self, role: Role) -> Vec<SocketAddr> {
        let parts = self.parts.iter().filter(|part| part.role == role);
        parts.map(|part| part.http).collect()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) const fn storage(&self) -> &Storage {
        &self.place.storage
    }

    fn configure(&self) -> anyhow::Result<()> {
        let root = self.folder.path();
        fs::create_dir(root.join("backend"))?;
        for part in &self.parts {
            fs::create_dir(&part.folder)?;
            if part.role == Role::Origin {
                write_private(&part.key_file(), &hex::encode(self.key.seed()))?;
            }
            // JSON is YAML.
            fs::write(part.config(), self.config(part).to_string())?;
        }
        Ok(())
    }

    fn config(&self, part: &Part) -> Value {
        let cluster = self.members();
        let backend = self
            .place
            .storage
            .config(self.folder.path(), self.store.as_ref());
        let public = self.key.public().to_string();
        let peer = json!({"upload_rate": self.size.rate});
        let mut config = match part.role {
            Role::Tracker => json!({
                "peer_addr": part.peer,
                "cluster": cluster,
                "cluster_key": public,
            }),
            Role::BuildIndex => json!({"http_addr": part.http, "backend": backend}),
            Role::Origin => json!({
                "http_addr": part.http,
                "peer_addr": part.peer,
                "backend": backend,
                "staging": (!self.place.storage.is_folder()).then_some(&part.folder),
                "cluster": cluster,
                "cluster_key_file": part.key_file(),
                "peer": peer,
            }),
            Role::Proxy => json!({
                "http_addr": part.http,
                "cluster": cluster,
                "upload_secret": hex::encode(self.secret),
            }),
            Role::Agent => json!({
                "registry_addr": part.http,
                "peer_addr": part.peer,
                "cache": {"folder": part.folder},
                "cluster": cluster,
                "cluster_key": public,
                "proxies": self.addrs(Role::Proxy),
                "peer": peer,
            }),
        };
        config["name"] = json!(part.name);
        config["admin_addr"] = json!(part.admin);
        config
    }

    fn members(&self) -> Value {
        let of = |role, member: fn(&Part) -> Value| -> Vec<Value> {
            let parts = self.parts.iter().filter(|part| part.role == role);
            parts.map(member).collect()
        };
        json!({
            "trackers": of(Role::Tracker, |part| json!({"name": part.name, "peer": part.peer})),
            "build_indexes": of(Role::BuildIndex, |part| json!({"name": part.name, "http": part.http})),
            "origins": of(
                Role::Origin,
                |part| json!({"name": part.name, "http": part.http, "peer": part.peer}),
            ),
        })
    }
}

impl Part {
    fn config(&self) -> PathBuf {
        self.folder.with_extension("yaml")
    }

    fn key_file(&self) -> PathBuf {
        self.folder.with_extension("key")
    }

    fn start(&mut self, binary: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(binary);
        command.arg(self.role.as_str()).arg("--config");
        command.arg(self.config());
        let log = self.folder.with_extension("log");
        self.process = Some(Process::start(&self.name, command, &log)?);
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        let url = format!("http://{}/readyz", self.admin);
        while client::text(&url).await.is_err() {
            if let Some(process) = &mut self.process {
                process.check()?;
            }
            if Instant::now() > deadline {
                bail!("{} was not ready within {} s", self.name, START.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn counters(&self) -> anyhow::Result<Counters> {
        let text = client::text(&format!("http://{}/metrics", self.admin)).await;
        Ok(Counters::parse(&text.context("no counters")?))
    }
}

impl Snapshot {
    /// Returns the sum of the counters of a role.
    pub(crate) fn counters(&self, role: Role) -> Counters {
        let mut sum = Counters::default();
        for (_, _, counters) in self.of(role) {
            sum.add(counters);
        }
        sum
    }

    /// Returns what storage was asked for since `before`: as it counted itself, or as the origins
    /// did.
    pub(crate) fn asked_since(&self, before: &Self) -> Asked {
        if let (Some(now), Some(before)) = (self.asked, before.asked) {
            return now.since(before);
        }
        let origins = self.counters(Role::Origin);
        let origins = origins.since(&before.counters(Role::Origin));
        Asked {
            requests: origins.sum("origin_backend_requests_total", &[]),
            read_bytes: origins.sum("origin_backend_read_bytes_total", &[]),
        }
    }

    /// Returns the CPU time of a role since `before`.
    pub(crate) fn cpu_s_since(&self, before: &Self, role: Role) -> f64 {
        let sum = |snapshot: &Self| -> f64 {
            let usages = snapshot.of(role);
            usages.map(|(_, usage, _)| usage.cpu_s).sum()
        };
        (sum(self) - sum(before)).max(0.0)
    }

    /// Returns the largest peak of memory among the processes of a role.
    pub(crate) fn peak_bytes(&self, role: Role) -> u64 {
        let peaks = self.of(role).map(|(_, usage, _)| usage.peak_bytes);
        peaks.max().unwrap_or_default()
    }

    /// Returns the largest resident memory among the processes of a role.
    pub(crate) fn rss_bytes(&self, role: Role) -> u64 {
        let sizes = self.of(role).map(|(_, usage, _)| usage.rss_bytes);
        sizes.max().unwrap_or_default()
    }

    fn of(&self, role: Role) -> impl Iterator<Item = &(Role, Usage, Counters)> {
        self.roles.iter().filter(move |(of, _, _)| *of == role)
    }
}

/// Ports that nobody listens on.
struct Ports {
    next: u16,
    left: u16,
}

impl Ports {
    fn new() -> anyhow::Result<Self> {
        let [high, low, ..] = random()?;
        let count = PORTS.end - PORTS.start;
        Ok(Self {
            // Two runs at a time rarely ask for the same.
            next: u16::from_be_bytes([high, low]) % count,
            left: count,
        })
    }

    fn next(&mut self) -> anyhow::Result<SocketAddr> {
        while self.left > 0 {
            let port = PORTS.start + self.next;
            self.next = (self.next + 1) % (PORTS.end - PORTS.start);
            self.left -= 1;
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(addr).is_ok() {
                return Ok(addr);
            }
        }
        bail!(
            "no port of 127.0.0.1 between {} and {} is free",
            PORTS.start,
            PORTS.end
        )
    }
}

/// Tells the system to drop the pages that it keeps of the files below a folder.
fn forget_pages(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            forget_pages(&path)?;
        } else if path.is_file() {
            let file = fs::File::open(&path)?;
            // Pages that are not on the disk yet stay.
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes)?;
    Ok(bytes)
}
