//! The binary `shoal`, and everything in one process of it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

use crate::process::{Process, run};

/// Returns the path of the binary, built as the tests were; the first call builds it.
///
/// # Panics
/// Where it does not compile.
#[must_use]
pub fn binary() -> &'static Path {
    built("shoal")
}

/// Returns the path of a binary of the workspace, as [`binary`] does.
///
/// # Panics
/// Where the workspace does not compile, or has no such binary.
#[must_use]
pub fn built(name: &str) -> &'static Path {
    static BINARIES: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    let binaries = BINARIES.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            // What `cargo test --workspace` has built: with other packages, or without the tests,
            // features of libraries differ, and all of them would be built once more.
            .args(["build", "--workspace", "--bins", "--tests", "--locked"])
            .arg("--message-format=json-render-diagnostics");
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let built = run(&mut command);
        let messages = cargo_metadata::Message::parse_stream(built.as_bytes());
        let executables = messages.filter_map(|message| match message {
            Ok(cargo_metadata::Message::CompilerArtifact(artifact)) if !artifact.profile.test => {
                Some((artifact.target.name, artifact.executable?.into()))
            }
            _ => None,
        });
        executables.collect()
    });
    let path = binaries.get(name);
    path.unwrap_or_else(|| panic!("{name} is no binary of the workspace"))
}

/// Returns the command with these arguments, with none of the caller's settings.
#[must_use]
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("SHOAL_") {
            command.env_remove(key);
        }
    }
    command.env("RUST_BACKTRACE", "1").args(args);
    command
}

/// Returns an address of this host that nobody listens on. Its port is outside the range that
/// outgoing connections take theirs from, and no other test of this process gets it.
///
/// # Panics
/// Where no port is free.
#[must_use]
pub fn free_addr() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    // Other processes of tests start elsewhere.
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
    for _ in 0..COUNT {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + offset));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no port is free");
}

/// `shoal up` with its data in a folder of its own.
#[derive(Debug)]
pub struct Up {
    pub process: Process,
    folder: TempDir,
    /// Addresses of the agents' registries.
    pub agents: Vec<SocketAddr>,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
}

impl Up {
    /// Starts everything.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_in(crate::folder(), &[])
    }

    /// Starts everything with its data in `data` below `folder`, which may be there already.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start_in(folder: TempDir, flags: &[&str]) -> Self {
        let mut command = command(&["up", "--agent-addr", "127.0.0.1:0"]);
        command
            .args([
                "--proxy-addr",
                "127.0.0.1:0",
                "--admin-addr",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(folder.path().join("data"))
            .args(flags);
        let log = folder.path().join("up.log");
        let _ = std::fs::remove_file(&log);
        let mut process = Process::start("shoal up", &command, &log);
        process.until("is ready", |output| output.contains("Ctrl-C").then_some(()));
        let output = process.output();
        let addr_of = |part: &str| {
            output.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                let addr = (words.next() == Some(part)).then(|| words.next())??;
                let addr = addr.trim_start_matches("http://").trim_end_matches('/');
                addr.parse().ok()
            })
        };
        let agents = (1..).map_while(|number| addr_of(&format!("agent-{number}")));
        Self {
            agents: agents.collect(),
            proxy: addr_of("proxy").expect("it prints the proxy's address"),
            admin: addr_of("status").expect("it prints the status page's address"),
            process,
            folder,
        }
    }

    /// Returns the folder with everything that is stored.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Stops everything, nicely, and returns the folder above the data.
    ///
    /// # Panics
    /// Where it does not end, or not with success.
    #[must_use]
    pub fn stop(mut self) -> TempDir {
        let status = self.process.stop();
        assert!(status.success(), "{status}:\n{}", self.process.output());
        self.folder
    }

    /// Returns the URL of an agent's registry.
    #[must_use]
    pub fn agent(&self, index: usize) -> String {
        format!("http://{}", self.agents[index])
    }

    /// Returns the URL of the proxy.
    #[must_use]
    pub fn proxy(&self) -> String {
        format!("http://{}", self.proxy)
    }
}
