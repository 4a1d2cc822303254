//! Images made here: OCI image layouts with layers of known bytes.

use std::path::{Path, PathBuf};
use std::process::Command;

use oci::Digest;
use serde_json::{Value, json};

use crate::process::run;

/// An OCI image layout in a folder.
#[derive(Debug)]
pub struct Image {
    pub folder: PathBuf,
    pub manifest: Digest,
    pub config: Digest,
    pub layers: Vec<Layer>,
}

/// A layer: a blob of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

impl Image {
    /// Writes an image whose layers are these tar archives, as `latest`.
    ///
    /// # Panics
    /// Where the folder cannot be written.
    #[must_use]
    pub fn write(folder: &Path, layers: Vec<Vec<u8>>) -> Self {
        let layers: Vec<_> = layers
            .into_iter()
            .map(|bytes| Layer {
                digest: Digest::sha256(&bytes),
                bytes,
            })
            .collect();
        for layer in &layers {
            put(folder, &layer.bytes);
        }
        let ids: Vec<_> = layers
            .iter()
            .map(|layer| layer.digest.to_string())
            .collect();
        let config = put_json(
            folder,
            &json!({
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/busybox", "sh"]},
                "rootfs": {"type": "layers", "diff_ids": ids},
            }),
        );
        let described: Vec<_> = layers
            .iter()
            .map(|layer| json!({"mediaType": LAYER, "digest": layer.digest, "size": layer.bytes.len()}))
            .collect();
        let manifest = put_json(
            folder,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": config.0, "size": config.1},
                "layers": described,
            }),
        );
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": MANIFEST,
                "digest": manifest.0,
                "size": manifest.1,
                "annotations": {"org.opencontainers.image.ref.name": "latest"},
            }],
        });
        write(&folder.join("index.json"), index.to_string().as_bytes());
        write(
            &folder.join("oci-layout"),
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        );
        Self {
            folder: folder.to_owned(),
            manifest: manifest.0,
            config: config.0,
            layers,
        }
    }

    /// Writes an image of one layer per number: a tar archive of a file of about so many bytes.
    ///
    /// # Panics
    /// As [`Image::write`].
    #[must_use]
    pub fn of_sizes(folder: &Path, seed: u64, sizes: &[usize]) -> Self {
        let layers = sizes.iter().zip(seed..);
        Self::write(
            folder,
            layers.map(|(&size, seed)| layer(seed, size)).collect(),
        )
    }

    /// Returns how skopeo names the layout.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("oci:{}:latest", self.folder.display())
    }
}

/// Reads every blob of a layout and checks it against its name.
///
/// # Panics
/// Where one is not what its name says, or cannot be read.
#[must_use]
pub fn blobs_of(folder: &Path) -> Vec<Digest> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.join("blobs/sha256")).expect("a layout has blobs") {
        let path = entry.expect("the folder can be read").path();
        let bytes = std::fs::read(&path).expect("a blob can be read");
        let digest = Digest::sha256(&bytes);
        assert_eq!(
            path.file_name().and_then(|name| name.to_str()),
            Some(&*digest.hex())
        );
        found.push(digest);
    }
    found.sort();
    found
}

/// Returns a tar archive with one file of random bytes.
///
/// # Panics
/// Where tar fails.
#[must_use]
pub fn layer(seed: u64, size: usize) -> Vec<u8> {
    let folder = crate::folder();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).expect("the folder is ours");
    write(
        &root.join(format!("file-{seed}")),
        &crate::random::bytes(seed, size),
    );
    let archive = folder.path().join("layer.tar");
    tar(&root, &archive);
    std::fs::read(archive).expect("tar wrote it")
}

/// Writes a tar archive of a root with busybox and returns its path.
///
/// # Panics
/// Where busybox is missing or tar fails.
#[must_use]
pub fn busybox_tar(folder: &Path) -> PathBuf {
    let busybox = crate::program("/bin/busybox", "busybox-static");
    let root = folder.join("busybox");
    std::fs::create_dir_all(root.join("bin")).expect("the folder is ours");
    std::fs::copy(busybox, root.join("bin/busybox")).expect("busybox can be copied");
    let archive = folder.join("busybox.tar");
    tar(&root, &archive);
    archive
}

/// Archives a folder, the same bytes in every run.
fn tar(root: &Path, archive: &Path) {
    run(Command::new(crate::program("/bin/tar", "tar"))
        .args([
            "--sort=name",
            "--mtime=@0",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
        ])
        .arg("--format=ustar")
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(root)
        .arg("."));
}

fn put(folder: &Path, bytes: &[u8]) -> (Digest, usize) {
    let digest = Digest::sha256(bytes);
    write(&folder.join("blobs/sha256").join(digest.hex()), bytes);
    (digest, bytes.len())
}

fn put_json(folder: &Path, value: &Value) -> (Digest, usize) {
    put(folder, value.to_string().as_bytes())
}

fn write(path: &Path, bytes: &[u8]) {
    let folder = path.parent().expect("it is in a folder");
    std::fs::create_dir_all(folder).expect("the folder is ours");
    std::fs::write(path, bytes).expect("the folder is ours");
}
