//! Harness of the end-to-end tests: the built binary in processes of its own, and real clients.
//!
//! Nothing here is shared between tests: every test has its own folder, its own ports and its own
//! processes, which end with it. A part that is missing on the machine fails the test and names
//! the package that has it.

pub mod compose;
pub mod containerd;
pub mod curl;
pub mod dockerd;
pub mod documents;
pub mod hostile;
pub mod http;
pub mod image;
pub mod linearizable;
pub mod names;
pub mod netns;
pub mod nydus;
pub mod podman;
pub mod process;
pub mod push;
pub mod random;
pub mod registry;
pub mod roles;
pub mod s3;
pub mod shoal;
pub mod skopeo;
pub mod tls;
pub mod volume;
pub mod wait;

use std::path::{Path, PathBuf};

/// Returns the path of a program of a Debian package.
///
/// # Panics
/// Where it is not installed; the text names the package.
#[must_use]
pub fn program(path: &str, package: &str) -> PathBuf {
    let program = PathBuf::from(path);
    assert!(
        program.is_file(),
        "{path} is missing; install it as root: apt-get install -y {package} (or run `make test`)"
    );
    program
}

/// Returns a fresh folder, removed when dropped.
///
/// # Panics
/// Where it cannot be made.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("shoal-e2e-")
        .tempdir()
        .expect("a folder for the test can be made")
}

/// Returns every file below a folder.
///
/// # Panics
/// Where the folder cannot be read.
#[must_use]
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // What a running process removes meanwhile is not there.
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Returns the files below a folder that contain these bytes.
///
/// # Panics
/// Where the folder cannot be read.
#[must_use]
pub fn files_with(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = files(folder);
    found.retain(|path| {
        let content = std::fs::read(path).unwrap_or_default();
        content.windows(bytes.len()).any(|window| window == bytes)
    });
    found
}
