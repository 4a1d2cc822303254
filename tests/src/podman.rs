//! Podman with its own images and settings.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::names::Names;
use crate::netns::Host;

const PODMAN: &str = "/usr/bin/podman";

/// Images and settings of podman. It has no daemon.
#[derive(Debug)]
pub struct Podman<'a> {
    folder: TempDir,
    host: &'a Host,
    names: Option<&'a Names>,
}

impl<'a> Podman<'a> {
    /// Makes podman of a host, with this `registries.conf`.
    ///
    /// # Panics
    /// Where a folder cannot be made, or the test does not run as root.
    #[must_use]
    pub fn new(host: &'a Host, names: Option<&'a Names>, registries: &str) -> Self {
        crate::netns::require_root("podman");
        let folder = crate::folder();
        let file = folder.path().join("registries.conf");
        std::fs::write(file, registries).expect("the folder is ours");
        Self {
            folder,
            host,
            names,
        }
    }

    /// Returns the podman command with these arguments.
    ///
    /// # Panics
    /// Where it is not installed.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.folder.path().join(name);
        let mut podman = Command::new(crate::program(PODMAN, "podman"));
        podman
            .env("CONTAINERS_REGISTRIES_CONF", self.registries())
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"))
            .arg("--tmpdir")
            .arg(at("tmp"))
            // What needs nothing of the kernel, and no service of the machine.
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "none"])
            .args(args);
        match self.names {
            Some(names) => self.host.enter(&names.known_to(&podman)),
            None => self.host.enter(&podman),
        }
    }

    /// Returns the file of its `registries.conf`.
    #[must_use]
    pub fn registries(&self) -> PathBuf {
        self.folder.path().join("registries.conf")
    }
}
