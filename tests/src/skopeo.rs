//! `skopeo`, the client without a daemon.

use std::process::Command;

use crate::process::run;

/// Copies an image. Registries are spoken to without TLS.
///
/// # Panics
/// Where skopeo is missing or fails.
pub fn copy(from: &str, to: &str) {
    run(&mut command(from, to));
}

/// Returns the command that copies an image.
///
/// # Panics
/// Where skopeo is missing.
#[must_use]
pub fn command(from: &str, to: &str) -> Command {
    let mut command = Command::new(crate::program("/usr/bin/skopeo", "skopeo"));
    // Else it compresses what is not compressed yet, and names it anew.
    let same = "--preserve-digests";
    command.args(["--insecure-policy", "copy", "--all", same]);
    if from.starts_with("docker://") {
        command.arg("--src-tls-verify=false");
    }
    if to.starts_with("docker://") {
        command.arg("--dest-tls-verify=false");
    }
    command.args([from, to]);
    command
}
