//! A containerd of the test's own, and the `ctr` that speaks to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::process::{Process, attempt, run};

const CTR: &str = "/usr/bin/ctr";
const CONTAINERD: &str = "/usr/bin/containerd";

/// A running daemon with its own content.
#[derive(Debug)]
pub struct Containerd {
    folder: tempfile::TempDir,
    socket: PathBuf,
    _process: Process,
}

impl Containerd {
    /// Starts a daemon and waits until it answers.
    ///
    /// # Panics
    /// Where it is not installed, does not start, or the test does not run as root.
    #[must_use]
    pub fn start() -> Self {
        let program = crate::program(CONTAINERD, "containerd");
        crate::netns::require_root("containerd");
        // The path of a socket has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("shc-")
            .tempdir_in("/tmp")
            .expect("/tmp");
        let at = |name: &str| folder.path().join(name);
        let socket = at("sock");
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = {socket:?}\n[ttrpc]\n  address = {:?}\n",
            at("root"),
            at("state"),
            at("ttrpc"),
        );
        std::fs::write(at("config.toml"), text).expect("the folder is ours");
        let mut command = Command::new(program);
        command.arg("--config").arg(at("config.toml"));
        let mut process = Process::start("containerd", &command, &at("log"));
        process.until("answers", |_| {
            let version = attempt(Command::new(CTR).arg("-a").arg(&socket).arg("version"));
            version.status.success().then_some(())
        });
        Self {
            folder,
            socket,
            _process: process,
        }
    }

    /// Lets images of a host come from a mirror, as `/etc/containerd/certs.d` would.
    ///
    /// # Panics
    /// Where the folder cannot be written.
    pub fn mirror(&self, host: &str, mirror: SocketAddr) {
        let folder = self.hosts().join(host);
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        let text =
            format!("[host.\"http://{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
        std::fs::write(folder.join("hosts.toml"), text).expect("the folder is ours");
    }

    /// Pulls an image, unpacking it.
    ///
    /// # Panics
    /// Where that fails.
    pub fn pull(&self, image: &str) {
        let hosts = self.hosts();
        let hosts = hosts.to_str().expect("a plain name");
        // The one snapshotter that needs nothing of the kernel.
        let native = ["--snapshotter", "native"];
        self.ctr(
            &[
                &["images", "pull"][..],
                &native,
                &["--hosts-dir", hosts, image],
            ]
            .concat(),
        );
    }

    /// Returns the digests of all content that is there.
    ///
    /// # Panics
    /// Where containerd does not tell.
    #[must_use]
    pub fn content(&self) -> Vec<String> {
        let listed = self.ctr(&["content", "ls", "--quiet"]);
        listed.lines().map(str::to_owned).collect()
    }

    fn ctr(&self, args: &[&str]) -> String {
        let mut ctr = Command::new(crate::program(CTR, "containerd"));
        run(ctr.arg("-a").arg(&self.socket).args(args))
    }

    fn hosts(&self) -> PathBuf {
        self.folder.path().join("hosts")
    }
}
