//! Nydus: `nydus-image`, which makes images that are mounted, and `nydusd`, which mounts them and
//! fetches what is read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use oci::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::documents::block;
use crate::process::{Process, attempt, run};
use crate::{curl, push, random};

/// The release that is known to build with `cargo install`, see the Makefile.
const RELEASE: &str = "nydus-2.2.0";
const BLOB: &str = "application/vnd.oci.image.layer.nydus.blob.v1";
const BOOTSTRAP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CLIENTS: &str = "docs/clients.md";
/// Folders of the tree that is made, and files in each.
const FOLDERS: u64 = 40;
const FILES: u64 = 60;

/// Returns the path of a program of Nydus.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let root = std::env::var_os("NYDUS_ROOT").map_or_else(
        || {
            let home = std::env::var_os("HOME").unwrap_or_default();
            Path::new(&home).join(".cache/shoal").join(RELEASE)
        },
        PathBuf::from,
    );
    let program = root.join("bin").join(name);
    assert!(
        program.is_file(),
        "{} is missing; build it once (some minutes): make nydus",
        program.display()
    );
    program
}

/// An image that is mounted: the tree it was made of, its metadata and its data.
#[derive(Debug)]
pub struct Image {
    folder: TempDir,
    pub digest: Digest,
    /// Length of the data in bytes.
    pub length: u64,
}

impl Image {
    /// Makes a tree of some thousand files and links, and an image of it.
    ///
    /// # Panics
    /// Where the tools are missing or fail.
    #[must_use]
    pub fn make(seed: u64) -> Self {
        let folder = crate::folder();
        let at = |name: &str| folder.path().join(name);
        make_tree(&at("tree"), seed);
        let mut create = Command::new(program("nydus-image"));
        create.args(["create", "--type", "dir-rafs", "--fs-version", "6"]);
        create.arg("--bootstrap").arg(at("image.boot"));
        create.arg("--blob").arg(at("blob")).arg(at("tree"));
        run(&mut create);
        let bytes = fs::read(at("blob")).expect("nydus-image wrote it");
        Self {
            digest: Digest::sha256(&bytes),
            length: bytes.len() as u64,
            folder,
        }
    }

    /// Returns the tree that a mount must look like.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    /// Pushes the image as converters do: the data as it is, the metadata as a layer.
    ///
    /// # Panics
    /// Where the registry does not take it.
    pub fn push(&self, registry: &str, repository: &str, tag: &str) {
        let data = fs::read(self.folder.path().join("blob")).expect("it was written");
        let data = push::blob(registry, repository, &data);
        let (bootstrap, size) = self.push_bootstrap(registry, repository);
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [data, bootstrap]},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": push::MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": push::blob(registry, repository, &config),
                "size": config.len(),
            },
            "layers": [
                {
                    "mediaType": BLOB,
                    "digest": data,
                    "size": self.length,
                    "annotations": {
                        "containerd.io/snapshot/nydus-blob": "true",
                        "containerd.io/uncompressed": data,
                    },
                },
                {
                    "mediaType": BOOTSTRAP,
                    "digest": bootstrap,
                    "size": size,
                    "annotations": {
                        "containerd.io/snapshot/nydus-bootstrap": "true",
                        "containerd.io/snapshot/nydus-fs-version": "6",
                    },
                },
            ],
        });
        let answer = push::manifest(registry, repository, tag, manifest.to_string().as_bytes());
        assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
    }

    fn push_bootstrap(&self, registry: &str, repository: &str) -> (Digest, usize) {
        let root = self.folder.path().join("bootstrap/image");
        fs::create_dir_all(&root).expect("the folder is ours");
        let from = self.folder.path().join("image.boot");
        fs::copy(from, root.join("image.boot")).expect("the folder is ours");
        let archive = self.folder.path().join("bootstrap.tar.gz");
        let mut tar = Command::new(crate::program("/bin/tar", "tar"));
        tar.arg("-czf").arg(&archive).arg("-C");
        run(tar.arg(self.folder.path().join("bootstrap")).arg("image"));
        let bytes = fs::read(archive).expect("tar wrote it");
        (push::blob(registry, repository, &bytes), bytes.len())
    }

    /// Takes the metadata out of an image in a registry, as a client does that mounts it.
    ///
    /// # Panics
    /// Where the registry does not have it.
    fn pull_bootstrap(registry: &str, repository: &str, tag: &str, to: &Path) {
        let url = format!("{registry}/v2/{repository}");
        let manifest = curl::get(&format!("{url}/manifests/{tag}"));
        assert_eq!(manifest.status, 200, "{}", manifest.head);
        let manifest: Value = serde_json::from_slice(&manifest.body).expect("it is JSON");
        let digest = manifest["layers"][1]["digest"].as_str().expect("a digest");
        let layer = curl::get(&format!("{url}/blobs/{digest}"));
        assert_eq!(layer.status, 200, "{}", layer.head);
        let archive = to.join("bootstrap.tar.gz");
        fs::write(&archive, layer.body).expect("the folder is ours");
        let mut tar = Command::new(crate::program("/bin/tar", "tar"));
        tar.arg("-xzf").arg(archive).arg("-C").arg(to);
        run(tar.args(["--strip-components=1", "image/image.boot"]));
    }
}

/// Makes small files in folders, large ones, one that is mostly a hole, and links.
fn make_tree(root: &Path, seed: u64) {
    let write = |path: PathBuf, bytes: &[u8]| {
        fs::create_dir_all(path.parent().expect("it is below the root")).expect("it is ours");
        fs::write(path, bytes).expect("the folder is ours");
    };
    for folder in 0..FOLDERS {
        for file in 0..FILES {
            let number = folder * FILES + file;
            // From nothing to 5 KiB.
            let size = usize::try_from(number * 769 % 5_121).expect("it is small");
            let path = root.join(format!("lib/{folder:02}/{file:03}"));
            write(path, &random::bytes(seed + number, size));
        }
    }
    for number in 0..3 {
        let bytes = random::bytes(seed + 1_000_000 + number, 9_000_000);
        write(root.join(format!("large-{number}")), &bytes);
    }
    let hole = root.join("hole");
    write(hole.clone(), b"begin");
    let file = fs::File::options().append(true).open(&hole);
    let file = file.expect("the file is ours");
    file.set_len(24 << 20).expect("the file is ours");
    symlink("large-0", root.join("link")).expect("the folder is ours");
    symlink("nowhere/at/all", root.join("broken")).expect("the folder is ours");
    fs::hard_link(root.join("large-1"), root.join("same")).expect("the folder is ours");
}

/// Returns the configuration that the documents show under this name, with a cache of its own.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn config(name: &str, repository: &str) -> Value {
    let mut config: Value = serde_json::from_str(&block(CLIENTS, name)).expect("it is JSON");
    config["device"]["backend"]["config"]["repo"] = json!(repository);
    config["device"]["cache"]["config"]["work_dir"] = json!("cache");
    config["fs_prefetch"]["enable"] = json!(false);
    config
}

/// A running `nydusd` with an image that is mounted. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    process: Process,
    folder: TempDir,
}

impl Mount {
    /// Mounts an image of a registry.
    ///
    /// # Panics
    /// Where that is not possible.
    #[must_use]
    pub fn start(registry: &str, repository: &str, tag: &str, config: &Value) -> Self {
        crate::netns::require_root("a mount by nydusd");
        assert!(
            Path::new("/dev/fuse").exists(),
            "this kernel has no FUSE, which nydusd needs: modprobe fuse"
        );
        let folder = crate::folder();
        for name in ["root", "cache"] {
            fs::create_dir(folder.path().join(name)).expect("the folder is ours");
        }
        Image::pull_bootstrap(registry, repository, tag, folder.path());
        let text = config.to_string();
        fs::write(folder.path().join("nydusd.json"), text).expect("the folder is ours");
        // As the documents have it, but for where it is mounted.
        let line = block(CLIENTS, "nydusd-mount");
        let words = line.split_whitespace().filter(|word| *word != "\\");
        let mut command = Command::new(program("nydusd"));
        for word in words.skip(1) {
            match word {
                "/mnt/app" => command.arg(folder.path().join("root")),
                word => command.arg(word),
            };
        }
        command.current_dir(folder.path());
        let process = Process::start("nydusd", &command, &folder.path().join("log"));
        let mut mount = Self { process, folder };
        let (root, device) = (mount.root(), device(mount.folder.path()));
        let is_mounted = |_: &str| (self::device(&root) != device).then_some(());
        mount.process.until("mounts", is_mounted);
        mount
    }

    /// Returns where the image is mounted.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Returns a counter of what it asked of the registry, such as `read_errors`.
    ///
    /// # Panics
    /// Where it does not tell.
    #[must_use]
    pub fn asked(&self, counter: &str) -> u64 {
        let mut ask = curl::command();
        ask.arg("--unix-socket")
            .arg(self.folder.path().join("nydusd.sock"));
        let text = run(ask.arg("http://nydusd/api/v1/metrics/backend"));
        let counters: Value = serde_json::from_str(&text).expect("it is JSON");
        let found = counters[counter].as_u64();
        found.unwrap_or_else(|| panic!("there is no {counter} in {text}"))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = attempt(Command::new("/bin/umount").arg(self.root()));
        if !unmounted.status.success() {
            // Somebody has a file open. The process that serves it ends next.
            let _ = attempt(Command::new("/bin/umount").arg("--lazy").arg(self.root()));
        }
    }
}

fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).ok().map(|found| found.dev())
}

/// What a path below a root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Folder,
    Link(PathBuf),
    /// With its length in bytes.
    File(u64),
}

/// Returns everything below a root, by its path from there.
///
/// # Panics
/// Where it cannot be read.
#[must_use]
pub fn entries(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            let about = fs::symlink_metadata(&path).expect("it is there");
            let entry = if about.is_dir() {
                folders.push(path.clone());
                Entry::Folder
            } else if about.is_symlink() {
                Entry::Link(fs::read_link(&path).expect("it is a link"))
            } else {
                Entry::File(about.len())
            };
            let below = path.strip_prefix(root).expect("it is below");
            found.insert(below.to_owned(), entry);
        }
    }
    found
}

/// Reads everything below both roots, four files at a time, and compares it.
///
/// # Panics
/// Where anything differs or cannot be read.
pub fn compare(expected: &Path, found: &Path) {
    let entries = entries(expected);
    assert!(entries == self::entries(found), "other files are there");
    let is_file = |entry: &Entry| matches!(entry, Entry::File(_));
    let files = entries.iter().filter(|(_, entry)| is_file(entry));
    let files: Vec<_> = files.map(|(path, _)| path).collect();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let files = files.iter().skip(part).step_by(4);
            scope.spawn(move || {
                for path in files {
                    let read = |root: &Path| fs::read(root.join(path));
                    let bytes = read(found).unwrap_or_else(|error| {
                        panic!("{} cannot be read: {error}", path.display())
                    });
                    let right = read(expected).expect("it was written");
                    assert!(bytes == right, "{} has other bytes", path.display());
                }
            });
        }
    });
}

/// Returns whether something is mounted at this path.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = path.display().to_string();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(&path))
}
