//! A Docker daemon of the test's own, and the docker command that speaks to it.

use std::path::Path;
use std::process::Command;

use crate::names::Names;
use crate::netns::Host;
use crate::process::{Process, attempt, both, run};

/// Debian's client. Another docker in PATH may be of another version, or no docker.
const DOCKER: &str = "/usr/bin/docker";
const DOCKERD: &str = "/usr/sbin/dockerd";

/// A running daemon with its own images.
#[derive(Debug)]
pub struct Dockerd {
    process: Process,
    folder: tempfile::TempDir,
    socket: String,
    /// The machine it is on; where absent that of the test.
    host: Option<Host>,
}

/// How a daemon is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// The machine it is on; where absent that of the test.
    pub host: Option<&'a Host>,
    /// Hosts that it knows besides.
    pub names: Option<&'a Names>,
    /// Its `daemon.json`.
    pub settings: Option<&'a str>,
    /// Whether containers have networks. They belong to the host's, which therefore must be one of
    /// the test's own.
    pub networks: bool,
}

impl Dockerd {
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
    /// As [`Self::start`], or networks were asked for without a host.
    #[must_use]
    pub fn start_as(setup: Setup<'_>) -> Self {
        let dockerd = crate::program(DOCKERD, "docker.io");
        let _ = crate::program("/usr/bin/containerd", "containerd");
        crate::netns::require_root("dockerd");
        // The path of a socket has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("shd-")
            .tempdir_in("/tmp")
            .expect("/tmp");
        let at = |name: &str| format!("{}/{name}", folder.path().display());
        let socket = format!("unix://{}", at("sock"));
        let name = folder
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .expect("it is ASCII");
        let mut command = Command::new(dockerd);
        command
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args([
                "--pidfile",
                &at("pid"),
                "--host",
                &socket,
                "--config-file",
                &at("config.json"),
            ])
            .arg("--ip6tables=false")
            .args(["--containerd-namespace", name])
            .args(["--containerd-plugins-namespace", &format!("{name}-plugins")])
            .args(["--max-concurrent-downloads", "3"]);
        if setup.networks {
            assert!(setup.host.is_some(), "networks need a host of the test");
        } else {
            command.args(["--bridge=none", "--iptables=false"]);
        }
        let settings = setup.settings.unwrap_or("{}");
        std::fs::write(at("config.json"), settings).expect("the folder is ours");
        if let Some(names) = setup.names {
            command = names.known_to(&command);
        }
        if let Some(host) = setup.host {
            command = host.enter(&command);
        }
        let mut process = Process::start("dockerd", &command, Path::new(&at("log")));
        process.until("answers", |_| {
            let info = attempt(Command::new(DOCKER).args(["-H", &socket, "info"]));
            let up = info.status.success() && both(&info).contains("Server Version");
            up.then_some(())
        });
        Self {
            process,
            folder,
            socket,
            host: setup.host.cloned(),
        }
    }

    /// Runs docker with these arguments and returns what it printed.
    ///
    /// # Panics
    /// Where it fails.
    pub fn docker(&self, args: &[&str]) -> String {
        run(&mut self.command(args))
    }

    /// Returns the address that clients find it at.
    #[must_use]
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Returns the machine it is on, if that is one of the test's own.
    #[must_use]
    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// Returns the docker command with these arguments.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(crate::program(DOCKER, "docker.io"));
        command
            .env("DOCKER_CONFIG", self.folder.path().join("client"))
            .env("DOCKER_BUILDKIT", "0")
            .args(["-H", &self.socket])
            .args(args);
        command
    }

    /// Builds an image of several layers: busybox, then a file a layer. Returns nothing; the image
    /// is known to the daemon by `name`.
    ///
    /// # Panics
    /// Where docker fails.
    pub fn build(&self, name: &str, files: &[(&str, Vec<u8>)]) {
        let folder = crate::folder();
        let base = crate::image::busybox_tar(folder.path());
        let base_name = "shoal.test/base:latest";
        self.docker(&["import", base.to_str().expect("a plain name"), base_name]);
        let context = folder.path().join("context");
        std::fs::create_dir(&context).expect("the folder is ours");
        let mut dockerfile = format!("FROM {base_name}\nENV PATH=/bin\n");
        for (index, (path, bytes)) in files.iter().enumerate() {
            std::fs::write(context.join(format!("f{index}")), bytes).expect("the folder is ours");
            dockerfile.push_str(&format!("COPY f{index} {path}\n"));
        }
        dockerfile.push_str("CMD [\"/bin/busybox\", \"sh\"]\n");
        std::fs::write(context.join("Dockerfile"), dockerfile).expect("the folder is ours");
        let context = context.to_str().expect("a plain name");
        self.docker(&["build", "--network=none", "-t", name, context]);
    }

    /// Runs a command in a container of the image and returns what it printed.
    ///
    /// # Panics
    /// Where it fails.
    pub fn run(&self, image: &str, command: &[&str]) -> String {
        let mut args = vec!["run", "--rm", "--network=none", "--pull=never", image];
        args.extend(command);
        self.docker(&args)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // Asked nicely it unmounts its layers; killed it would leave them.
        if self.process.ended().is_none() {
            let _ = attempt(&mut crate::process::command(
                "/bin/kill",
                ["-s", "TERM", &self.process.pid().to_string()],
            ));
            for _ in 0..500 {
                if self.process.ended().is_some() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = self.folder.path().display().to_string();
        for mount in mounts
            .lines()
            .rev()
            .filter_map(|line| line.split(' ').nth(1))
        {
            if mount.starts_with(&ours) {
                let _ = attempt(&mut crate::process::command(
                    "/bin/umount",
                    ["--lazy", mount],
                ));
            }
        }
    }
}
