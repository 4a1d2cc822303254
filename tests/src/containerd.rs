//! A containerd of the test's own, the `ctr` that speaks to it, and what Kubernetes asks of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::curl;
use crate::names::Names;
use crate::netns::Host;
use crate::process::{Process, attempt, run};

const CTR: &str = "/usr/bin/ctr";
const CONTAINERD: &str = "/usr/bin/containerd";
/// Where Kubernetes keeps its images.
const KUBERNETES: &str = "k8s.io";

/// A running daemon with its own content.
#[derive(Debug)]
pub struct Containerd {
    folder: tempfile::TempDir,
    socket: PathBuf,
    host: Option<Host>,
    _process: Process,
}

/// How a daemon is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// The machine it is on; where absent that of the test.
    pub host: Option<&'a Host>,
    /// Hosts that it knows besides.
    pub names: Option<&'a Names>,
    /// What its configuration has for Kubernetes, with `/etc/containerd/certs.d` for the folder of
    /// [`Containerd::hosts`]. It does not serve Kubernetes where that is absent.
    pub cri: Option<&'a str>,
}

impl Containerd {
    /// Starts a daemon and waits until it answers.
    ///
    /// # Panics
    /// Where it is not installed, does not start, or the test does not run as root.
    #[must_use]
    pub fn start() -> Self {
        Self::start_as(Setup::default())
    }

    /// Starts a daemon as told and waits until it answers.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[must_use]
    pub fn start_as(setup: Setup<'_>) -> Self {
        let program = crate::program(CONTAINERD, "containerd");
        crate::netns::require_root("containerd");
        // The path of a socket has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("shc-")
            .tempdir_in("/tmp")
            .expect("/tmp");
        let at = |name: &str| folder.path().join(name);
        let socket = at("sock");
        let cri = match setup.cri {
            // The one snapshotter that needs nothing of the kernel.
            Some(text) => format!(
                "{}\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  \
                 snapshotter = \"native\"\n",
                text.replace("/etc/containerd/certs.d", &at("hosts").to_string_lossy()),
            ),
            None => String::new(),
        };
        let disabled = match setup.cri {
            Some(_) => "[]",
            None => "[\"io.containerd.grpc.v1.cri\"]",
        };
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {disabled}\n\
             [grpc]\n  address = {socket:?}\n[ttrpc]\n  address = {:?}\n{cri}",
            at("root"),
            at("state"),
            at("ttrpc"),
        );
        std::fs::write(at("config.toml"), text).expect("the folder is ours");
        let mut command = Command::new(program);
        command.arg("--config").arg(at("config.toml"));
        if let Some(names) = setup.names {
            command = names.known_to(&command);
        }
        if let Some(host) = setup.host {
            command = host.enter(&command);
        }
        let mut process = Process::start("containerd", &command, &at("log"));
        process.until("answers", |_| {
            let version = attempt(Command::new(CTR).arg("-a").arg(&socket).arg("version"));
            version.status.success().then_some(())
        });
        Self {
            folder,
            socket,
            host: setup.host.cloned(),
            _process: process,
        }
    }

    /// Lets images of a host come from a mirror, as `/etc/containerd/certs.d` would.
    ///
    /// # Panics
    /// Where the folder cannot be written.
    pub fn mirror(&self, host: &str, mirror: SocketAddr) {
        let text =
            format!("[host.\"http://{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
        self.configure_host(host, &text);
    }

    /// Writes the `hosts.toml` of a host.
    ///
    /// # Panics
    /// Where the folder cannot be written.
    pub fn configure_host(&self, host: &str, text: &str) {
        let folder = self.hosts().join(host);
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        std::fs::write(folder.join("hosts.toml"), text).expect("the folder is ours");
    }

    /// Pulls an image, unpacking it.
    ///
    /// # Panics
    /// Where that fails.
    pub fn pull(&self, image: &str) {
        run(&mut self.pull_command(image));
    }

    /// Returns the command that pulls an image. It is `ctr` that speaks to registries, not the
    /// daemon.
    ///
    /// # Panics
    /// Where it is not installed.
    #[must_use]
    pub fn pull_command(&self, image: &str) -> Command {
        let hosts = self.hosts();
        let hosts = hosts.to_str().expect("a plain name");
        let ctr = self.ctr(&[
            "images",
            "pull",
            // The one snapshotter that needs nothing of the kernel.
            "--snapshotter",
            "native",
            "--hosts-dir",
            hosts,
            image,
        ]);
        match &self.host {
            Some(host) => host.enter(&ctr),
            None => ctr,
        }
    }

    /// Pulls an image as Kubernetes does: by a call of the container runtime interface.
    ///
    /// # Panics
    /// Where that fails.
    pub fn pull_for_kubernetes(&self, image: &str) {
        // PullImageRequest { image: ImageSpec { image } }, both in field 1.
        let request = message(&message(image.as_bytes()));
        let length = u32::try_from(request.len()).expect("a name is short");
        // Not compressed, length, message: as gRPC frames it.
        let frame = [&[0][..], &length.to_be_bytes(), &request].concat();
        let body = self.folder.path().join("request");
        std::fs::write(&body, frame).expect("the folder is ours");
        let mut curl = curl::command();
        curl.args(["--http2-prior-knowledge", "--unix-socket"])
            .arg(&self.socket)
            .args(["--header", "Content-Type: application/grpc"])
            .args(["--header", "TE: trailers", "--data-binary"])
            .arg(format!("@{}", body.display()))
            .args(["--dump-header", "-", "--output", "/dev/null"])
            .arg("http://localhost/runtime.v1.ImageService/PullImage");
        let answer = run(&mut curl);
        assert!(answer.contains("grpc-status: 0"), "{image}: {answer}");
    }

    /// Returns the digests of all content that is there.
    ///
    /// # Panics
    /// Where containerd does not tell.
    #[must_use]
    pub fn content(&self) -> Vec<String> {
        lines(&run(&mut self.ctr(&["content", "ls", "--quiet"])))
    }

    /// Returns the digests of all content that Kubernetes has.
    ///
    /// # Panics
    /// Where containerd does not tell.
    #[must_use]
    pub fn content_for_kubernetes(&self) -> Vec<String> {
        let all = ["--namespace", KUBERNETES, "content", "ls", "--quiet"];
        lines(&run(&mut self.ctr(&all)))
    }

    /// Returns the `ctr` that speaks to this daemon, with these arguments.
    ///
    /// # Panics
    /// Where it is not installed.
    #[must_use]
    pub fn ctr(&self, args: &[&str]) -> Command {
        let mut ctr = Command::new(crate::program(CTR, "containerd"));
        ctr.arg("-a").arg(&self.socket).args(args);
        ctr
    }

    /// Returns the folder that stands for `/etc/containerd/certs.d`.
    #[must_use]
    pub fn hosts(&self) -> PathBuf {
        self.folder.path().join("hosts")
    }
}

/// Returns a protobuf message that has these bytes as its field 1.
fn message(field: &[u8]) -> Vec<u8> {
    let length = u8::try_from(field.len()).expect("a name is short");
    assert!(length < 0x80, "a longer length has several bytes");
    [&[0x0a, length][..], field].concat()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
