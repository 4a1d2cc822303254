//! Roles in processes of their own, as on machines of their own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use fake_s3::Conditions;
use serde_json::{Value, json};
use tempfile::TempDir;
use torrent::ClusterKey;

use crate::netns::{Host, Network};
use crate::process::Process;
use crate::s3::{S3, S3Options};
use crate::{curl, wait};

mod config;

/// Where a cluster keeps what it stores.
#[derive(Clone, Copy, Debug)]
pub enum Backend {
    /// A folder.
    Fs,
    /// A bucket.
    S3(S3Options),
}

/// How many of each role.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub trackers: u8,
    pub origins: u8,
    pub agents: u8,
    pub build_indexes: u8,
    pub proxies: u8,
    pub backend: Backend,
    /// Whether every process has a network namespace of its own.
    pub apart: bool,
    /// Whether the parts have certificates.
    pub tls: bool,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            trackers: 1,
            origins: 1,
            agents: 2,
            build_indexes: 1,
            proxies: 1,
            backend: Backend::Fs,
            apart: false,
            tls: false,
        }
    }
}

/// A role in a process, with a folder and addresses of its own.
#[derive(Debug)]
pub struct Part {
    pub name: String,
    role: &'static str,
    pub folder: PathBuf,
    host: Option<Host>,
    /// Where clients or other services find it, if they do.
    pub http: SocketAddr,
    /// Where peers find it, if they do.
    pub peer: SocketAddr,
    pub admin: SocketAddr,
    process: Option<Process>,
}

/// A cluster of processes over one folder or bucket as storage.
#[derive(Debug)]
pub struct Cluster {
    parts: Vec<Part>,
    s3: Option<S3>,
    folder: TempDir,
    /// Dropped last: the processes are in it.
    _network: Option<Network>,
}

impl Cluster {
    /// Makes a cluster; nothing runs yet.
    ///
    /// # Panics
    /// Where folders or namespaces cannot be made.
    #[must_use]
    pub fn new(size: Size) -> Self {
        Self::in_folder(size, crate::folder())
    }

    /// As [`Self::new`], with the storage in `backend` below a folder that is there.
    ///
    /// # Panics
    /// As [`Self::new`].
    #[must_use]
    pub fn in_folder(size: Size, folder: TempDir) -> Self {
        let roles = [
            ("build-index", size.build_indexes),
            ("tracker", size.trackers),
            ("proxy", size.proxies),
            ("origin", size.origins),
            ("agent", size.agents),
        ];
        let count: u8 = roles.iter().map(|(_, count)| count).sum();
        let store = u8::from(matches!(size.backend, Backend::S3(_)));
        let network = size.apart.then(|| Network::new(count + store));
        let mut hosts = network.iter().flat_map(Network::hosts);
        let mut parts = Vec::new();
        for (role, count) in roles {
            for number in 1..=count {
                parts.push(Part::new(
                    role,
                    number,
                    hosts.next().cloned(),
                    folder.path(),
                ));
            }
        }
        let path = folder.path().join("backend");
        let s3 = match size.backend {
            Backend::Fs => {
                std::fs::create_dir_all(path).expect("the folder is ours");
                None
            }
            Backend::S3(options) => Some(S3::start(options, &path, hosts.next().cloned())),
        };
        if size.tls {
            crate::tls::make(&config::tls(folder.path()));
        }
        let cluster = Self {
            parts,
            s3,
            folder,
            _network: network,
        };
        for part in &cluster.parts {
            std::fs::create_dir_all(&part.folder).expect("the folder is ours");
            cluster.configure(&part.name, |_| {});
        }
        cluster
    }

    /// Starts everything and waits until it is ready.
    ///
    /// # Panics
    /// Where a part does not start.
    #[must_use]
    pub fn start(size: Size) -> Self {
        let mut cluster = Self::new(size);
        cluster.start_all();
        cluster
    }

    /// Starts what does not run and waits until it is ready.
    ///
    /// # Panics
    /// Where a part does not start.
    pub fn start_all(&mut self) {
        for part in &mut self.parts {
            if part.process.is_none() {
                part.spawn();
            }
        }
        for part in &mut self.parts {
            part.until_ready();
        }
    }

    /// Writes a part's configuration anew, with some keys changed.
    ///
    /// # Panics
    /// Where there is no such part.
    pub fn configure(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let part = self.part(name);
        let backend = match &self.s3 {
            Some(s3) => s3.config(),
            None => json!({"fs": {"root": self.backend()}}),
        };
        let mut config = config::of(part, &self.parts, &backend, self.folder.path());
        // Such a store cannot decide between writers.
        let conditions = self.s3.as_ref().map(S3::conditions);
        if part.role == "build-index" && conditions.is_some_and(|kept| kept != Conditions::Atomic) {
            config["tag_writer"] = json!("build-index-1");
        }
        change(&mut config);
        // JSON is YAML.
        let text = serde_json::to_string_pretty(&config).expect("it is JSON");
        std::fs::write(part.config(), text).expect("the folder is ours");
    }

    /// Returns a part by its name, such as `agent-1`.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn part(&self, name: &str) -> &Part {
        let found = self.parts.iter().find(|part| part.name == name);
        found.unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// Returns all parts of a role.
    pub fn parts(&self, role: &str) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.role == role)
    }

    /// Ends a part at once, as a power cut would.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&mut self, name: &str) {
        let mut process = self.part_mut(name).process.take().expect("it runs");
        process.kill();
    }

    /// Starts one part that does not run, and waits until it is ready.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start_part(&mut self, name: &str) {
        let part = self.part_mut(name);
        part.spawn();
        part.until_ready();
    }

    /// Sends a signal to a part.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn signal(&self, name: &str, signal: &str) {
        self.part(name)
            .process
            .as_ref()
            .expect("it runs")
            .signal(signal);
    }

    /// Returns the folder with the storage: what a bucket has is in files too.
    #[must_use]
    pub fn backend(&self) -> PathBuf {
        match &self.s3 {
            Some(s3) => s3.objects(),
            None => self.folder.path().join("backend"),
        }
    }

    /// Returns the object store.
    ///
    /// # Panics
    /// Where the storage is a folder.
    #[must_use]
    pub fn s3(&self) -> &S3 {
        self.s3.as_ref().expect("the storage is a bucket")
    }

    /// As [`Self::s3`].
    ///
    /// # Panics
    /// As [`Self::s3`].
    pub fn s3_mut(&mut self) -> &mut S3 {
        self.s3.as_mut().expect("the storage is a bucket")
    }

    /// Returns the folder with the certificates of all roles, where there are any.
    #[must_use]
    pub fn tls(&self) -> PathBuf {
        config::tls(self.folder.path())
    }

    /// Returns the key that everything about blobs is signed with.
    #[must_use]
    pub fn key(&self) -> ClusterKey {
        config::key()
    }

    /// Returns the URL of the first proxy.
    #[must_use]
    pub fn proxy(&self) -> String {
        self.part("proxy-1").url()
    }

    fn part_mut(&mut self, name: &str) -> &mut Part {
        let found = self.parts.iter_mut().find(|part| part.name == name);
        found.unwrap_or_else(|| panic!("there is no {name}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Before their namespaces and folders go.
        for part in &mut self.parts {
            part.process = None;
        }
        self.s3 = None;
    }
}

impl Part {
    fn new(role: &'static str, number: u8, host: Option<Host>, folder: &Path) -> Self {
        let name = format!("{role}-{number}");
        let addr = |port| match &host {
            Some(host) => SocketAddr::new(host.ip, port),
            None => crate::shoal::free_addr(),
        };
        let (http, peer) = (addr(5000), addr(5001));
        let admin = match &host {
            Some(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5080),
            None => crate::shoal::free_addr(),
        };
        Self {
            folder: folder.join(&name),
            name,
            role,
            host,
            http,
            peer,
            admin,
            process: None,
        }
    }

    /// Returns its role, as the command line has it.
    #[must_use]
    pub const fn role(&self) -> &'static str {
        self.role
    }

    /// Returns the URL of its HTTP API.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Returns the namespace it is in.
    ///
    /// # Panics
    /// Where it is in none.
    #[must_use]
    pub fn host(&self) -> &Host {
        self.host.as_ref().expect("the cluster is apart")
    }

    /// Returns the same command, to be run on the part's machine.
    #[must_use]
    pub fn command(&self, command: Command) -> Command {
        match &self.host {
            Some(host) => host.enter(&command),
            None => command,
        }
    }

    /// Returns the sum of a counter over its labels, of which each of `labels` must be there.
    ///
    /// # Panics
    /// Where the part does not answer, or has no such counter.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let url = format!("http://{}/metrics", self.admin);
        let mut curl = curl::command();
        curl.arg("--fail").arg(url);
        let text = crate::process::run(&mut self.command(curl));
        let mut found = false;
        let mut sum = 0;
        for line in text.lines() {
            let Some((key, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (key, have) = key.split_once('{').unwrap_or((key, ""));
            if key == name {
                found = true;
                if labels.iter().all(|label| have.contains(label)) {
                    sum += value.parse::<u64>().unwrap_or_default();
                }
            }
        }
        // A family without any count yet is only announced.
        let announced = name.trim_end_matches("_total");
        assert!(
            found || text.contains(&format!("# TYPE {announced} ")),
            "{} has no {name}:\n{text}",
            self.name
        );
        sum
    }

    /// Returns everything it has written.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().expect("it runs").output()
    }

    /// Returns the file of its configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.with_extension("yaml")
    }

    fn spawn(&mut self) {
        let config = self.config();
        let config = config.to_str().expect("a plain name");
        let mut command = crate::shoal::command(&[self.role, "--config", config]);
        // It would win over the configuration, which has it.
        command.env_remove("RUST_LOG");
        let log = self.folder.with_extension("log");
        self.process = Some(Process::start(&self.name, &self.command(command), &log));
    }

    fn until_ready(&mut self) {
        let url = format!("http://{}/readyz", self.admin);
        let mut curl = curl::command();
        curl.args(["--fail", "--max-time", "5"]).arg(url);
        let mut ask = self.command(curl);
        let process = self.process.as_mut().expect("it was started");
        process.until("is ready", |_| {
            crate::process::attempt(&mut ask)
                .status
                .success()
                .then_some(())
        });
    }
}

/// Waits until a counter of a part is at least so much.
///
/// # Panics
/// Where it does not get there.
pub fn until_metric(part: &Part, name: &str, least: u64) {
    wait::until_true(&format!("{name} of {} reaches {least}", part.name), || {
        part.metric(name, &[]) >= least
    });
}
