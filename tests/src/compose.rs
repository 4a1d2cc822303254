//! The cluster of `docker-compose.yml`, in a Docker daemon of the test's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::dockerd::{Dockerd, Setup};
use crate::netns::{Host, Network};
use crate::process::{attempt, both, run};
use crate::wait;

/// The tool of 2021, which Debian has. Compose v2 is a plugin of docker.
const COMPOSE: &str = "/usr/bin/docker-compose";
/// Where the file is that users have.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// What Debian's authorities are in.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Name of the image with the S3 server of the tests.
const S3_IMAGE: &str = "shoal.test/s3:latest";
/// Every service that says whether it is healthy.
pub const SERVICES: [&str; 12] = [
    "origin-1",
    "origin-2",
    "origin-3",
    "tracker-1",
    "tracker-2",
    "build-index-1",
    "build-index-2",
    "proxy-1",
    "proxy-2",
    "agent-1",
    "agent-2",
    "agent-3",
];

/// The containers of a project on a machine of their own.
#[derive(Debug)]
pub struct Compose {
    pub docker: Dockerd,
    environment: BTreeMap<String, String>,
    /// A file of variables without any, so that nobody's own is read.
    no_variables: tempfile::NamedTempFile,
    /// Dropped last: the daemon is in it.
    network: Network,
}

impl Compose {
    /// Starts a daemon that has the images; nothing of the project runs yet.
    ///
    /// # Panics
    /// Where something is not installed, or the test does not run as root.
    #[must_use]
    pub fn new() -> Self {
        let _ = crate::program(COMPOSE, "docker-compose");
        let network = Network::new(1);
        let docker = Dockerd::start_as(Setup {
            host: network.hosts().first(),
            networks: true,
            ..Setup::default()
        });
        make_image(&docker);
        make_s3_image(&docker);
        let mut compose = Self {
            docker,
            environment: BTreeMap::new(),
            no_variables: tempfile::NamedTempFile::new().expect("a file can be made"),
            network,
        };
        compose.set("SHOAL_S3_IMAGE", S3_IMAGE);
        compose.set("SHOAL_HEALTH_INTERVAL", "2s");
        compose
    }

    /// Returns the machine on whose loopback the ports are published.
    ///
    /// # Panics
    /// Never: it is made with the project.
    #[must_use]
    pub fn host(&self) -> &Host {
        self.network.hosts().first().expect("there is one")
    }

    /// Sets a variable of the environment that the file is read with.
    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.insert(key.to_owned(), value.to_owned());
    }

    /// Starts what does not run or was changed, and waits until all of it is healthy.
    ///
    /// # Panics
    /// Where that fails; the text has what the containers wrote.
    pub fn up(&self) {
        let output = attempt(&mut self.command(&["up", "-d", "--no-build"]));
        assert!(
            output.status.success(),
            "{}\n{}",
            both(&output),
            self.logs()
        );
        for service in SERVICES {
            self.until_healthy(service);
        }
    }

    /// Waits until a service is healthy.
    ///
    /// # Panics
    /// Where it does not become so.
    pub fn until_healthy(&self, service: &str) {
        let what = format!("{service} becomes healthy");
        wait::until_true(&what, || {
            self.state(service, "{{.State.Status}} {{.State.Health.Status}}") == "running healthy"
                && self.is_ready(service)
        });
    }

    /// Returns the process of a service, so that killing it takes no time.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn aim(&self, service: &str) -> Victim {
        let pid = self.state(service, "{{.State.Pid}}");
        assert_ne!(pid, "0", "{service} does not run");
        Victim(pid)
    }

    /// Returns the same command, on the machine whose ports are published.
    #[must_use]
    pub fn enter(&self, command: &Command) -> Command {
        self.host().enter(command)
    }

    /// Returns docker-compose with these arguments.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(COMPOSE);
        command
            .current_dir(ROOT)
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("DOCKER_HOST", self.docker.socket())
            .envs(&self.environment)
            .args(["--project-name", "shoal", "--env-file"])
            .arg(self.no_variables.path())
            .args(args);
        command
    }

    /// Returns what the containers have written last.
    #[must_use]
    pub fn logs(&self) -> String {
        both(&attempt(&mut self.command(&[
            "logs",
            "--no-color",
            "--tail=20",
        ])))
    }

    /// Asks the service itself: docker asks only now and then.
    fn is_ready(&self, service: &str) -> bool {
        let id = self.container(service);
        let ask = ["exec", &*id, "/shoal", "healthcheck"];
        attempt(&mut self.docker.command(&ask)).status.success()
    }

    fn state(&self, service: &str, format: &str) -> String {
        let id = self.container(service);
        let state = self.docker.docker(&["inspect", "--format", format, &id]);
        state.trim().to_owned()
    }

    fn container(&self, service: &str) -> String {
        let filters = [
            "label=com.docker.compose.project=shoal",
            &*format!("label=com.docker.compose.service={service}"),
        ];
        let [project, service_is] = filters;
        let list = ["ps", "-aq", "--filter", project, "--filter", service_is];
        let id = self.docker.docker(&list);
        let id = id.trim();
        assert!(!id.is_empty(), "there is no {service}:\n{}", self.logs());
        id.to_owned()
    }
}

/// A process of a container.
#[derive(Debug)]
pub struct Victim(String);

impl Victim {
    /// Ends the process at once, as a power cut would; docker starts it anew.
    ///
    /// # Panics
    /// Where it is gone already.
    pub fn kill(self) {
        run(Command::new("/bin/kill").args(["-s", "KILL", &self.0]));
        let alive = format!("/proc/{}/root/shoal", self.0);
        wait::until_true("the process is gone", || !Path::new(&alive).exists());
    }
}

impl Default for Compose {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            use std::io::Write as _;
            let _ = std::io::stderr().write_all(self.logs().as_bytes());
        }
        // Else the daemon, asked to end, waits until each of them has ended by itself.
        let _ = attempt(&mut self.command(&["kill"]));
        let _ = attempt(&mut self.command(&["down", "--volumes", "--timeout", "0"]));
    }
}

/// Makes the image that the Dockerfile makes, with the tests' own binary instead of its build.
fn make_image(docker: &Dockerd) {
    let folder = crate::folder();
    let at = |path: &str| folder.path().join(path);
    let owned = ["owned/data", "owned/keys", "owned/public", "owned/tls"];
    for folder in ["root/etc/ssl/certs"].iter().chain(&owned) {
        std::fs::create_dir_all(at("out").join(folder)).expect("the folder is ours");
    }
    copy(crate::shoal::binary(), &at("out/root/shoal"));
    copy(
        Path::new(AUTHORITIES),
        &at("out/root/etc/ssl/certs/ca-certificates.crt"),
    );
    let dockerfile = std::fs::read_to_string(format!("{ROOT}/Dockerfile")).expect("it is there");
    let (_, last) = dockerfile
        .split_once("\nFROM ${FINAL_IMAGE}\n")
        .expect("the Dockerfile has a last stage");
    let text = format!("FROM scratch AS build\nCOPY out /out\nFROM scratch\n{last}");
    build(docker, folder.path(), &text, "shoal:local");
}

/// Makes an image of the S3 server.
fn make_s3_image(docker: &Dockerd) {
    let folder = crate::folder();
    std::fs::create_dir(folder.path().join("data")).expect("the folder is ours");
    copy(crate::shoal::built("tests-s3"), &folder.path().join("s3"));
    let text = "FROM scratch\nCOPY s3 /s3\nCOPY data /data\nENTRYPOINT [\"/s3\"]\n";
    build(docker, folder.path(), text, S3_IMAGE);
}

fn build(docker: &Dockerd, context: &Path, dockerfile: &str, name: &str) {
    std::fs::write(context.join("Dockerfile"), dockerfile).expect("the folder is ours");
    let context = context.to_str().expect("a plain name");
    docker.docker(&["build", "--network=none", "-t", name, context]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}
