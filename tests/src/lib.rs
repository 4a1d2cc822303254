//! Harness of the end-to-end tests: the built binary in processes of its own, and real clients.
//!
//! Nothing here is shared between tests: every test has its own folder, its own ports and its own
//! processes, which end with it. A part that is missing on the machine fails the test and names
//! the package that has it.

pub mod curl;
pub mod dockerd;
pub mod hostile;
pub mod http;
pub mod image;
pub mod netns;
pub mod process;
pub mod random;
pub mod registry;

pub mod shoal;
pub mod skopeo;
pub mod wait;

use std::path::PathBuf;

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
