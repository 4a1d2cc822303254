//! Names of hosts that are elsewhere than in the rest of the world, with certificates of their own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::run;

/// What some processes take for the whole truth about some hosts.
#[derive(Debug)]
pub struct Names {
    folder: TempDir,
}

impl Names {
    /// Lets these names stand for one address, and makes a certificate for all of them.
    ///
    /// # Panics
    /// Where openssl is missing or fails.
    #[must_use]
    pub fn new(names: &[&str], addr: IpAddr) -> Self {
        let folder = crate::folder();
        let lines: Vec<_> = names
            .iter()
            .map(|name| format!("{addr} {name}\n"))
            .collect();
        let hosts = format!("127.0.0.1 localhost\n{}", lines.concat());
        std::fs::write(folder.path().join("hosts"), hosts).expect("the folder is ours");
        let alternatives: Vec<_> = names.iter().map(|name| format!("DNS:{name}")).collect();
        let mut openssl = Command::new(crate::program("/usr/bin/openssl", "openssl"));
        openssl
            .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=shoal tests", "-addext"])
            .arg(format!("subjectAltName={}", alternatives.join(",")))
            .arg("-keyout")
            .arg(folder.path().join("key.pem"))
            .arg("-out")
            .arg(folder.path().join("certificate.pem"));
        run(&mut openssl);
        Self { folder }
    }

    /// Returns the same command, which finds the names and trusts their certificate.
    #[must_use]
    pub fn known_to(&self, inner: &Command) -> Command {
        let mut outer = with_hosts(&self.path().join("hosts"), inner);
        outer.env("SSL_CERT_FILE", self.certificate());
        outer
    }

    /// Returns the file of the certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path().join("certificate.pem")
    }

    /// Returns the file of the certificate's key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.path().join("key.pem")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Returns the same command, for which this is the machine's file of hosts.
///
/// # Panics
/// Where `unshare` is missing.
#[must_use]
pub fn with_hosts(hosts: &Path, inner: &Command) -> Command {
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let mut outer = Command::new(crate::program("/usr/bin/unshare", "util-linux"));
    outer
        .args(["--mount", "/bin/sh", "-c", script])
        .arg(hosts)
        .arg(inner.get_program())
        .args(inner.get_args());
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(key, value),
            None => outer.env_remove(key),
        };
    }
    outer
}
