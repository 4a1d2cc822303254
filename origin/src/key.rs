//! The cluster key's files: the secret half, made at the first start and readable by its owner only,
//! and the public half for everybody else.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use oci::Digest;
use rand::TryRng as _;
use rand::rngs::SysRng;
use torrent::{ClusterKey, ClusterPublicKey};

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("cannot {operation} the cluster key {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{} holds no cluster key (64 hex digits); restore it from another origin, or remove it to \
         start a new cluster",
        .0.display()
    )]
    Malformed(PathBuf),
    #[error(
        "the cluster key {} is there already; use it (--if-missing), or remove it to start a new \
         cluster",
        .0.display()
    )]
    Exists(PathBuf),
    #[error(
        "{} is there already, and not the public half of this cluster key; remove it, or name \
         another file",
        .0.display()
    )]
    OtherPublic(PathBuf),
}

/// Reads the cluster key, and makes it where there is none. Origins that start at the same time
/// with the same path get the same key.
///
/// # Errors
/// [`KeyFileError`], which says what to do.
pub fn load_or_create(path: &Path) -> Result<ClusterKey, KeyFileError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            warn_if_open(path);
            parse(path, &text)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match create(path) {
            Err(KeyFileError::Exists(_)) => load_or_create(path),
            created => created,
        },
        Err(source) => Err(failed("read", path, source)),
    }
}

/// Writes the public half of a key, for whom `cluster_public_key_file` is set. A file with the same
/// key stays as it is.
///
/// # Errors
/// [`KeyFileError`], also where the file has another key.
pub fn write_public(path: &Path, key: &ClusterPublicKey) -> Result<(), KeyFileError> {
    let text = format!("{key}\n");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| failed("make a folder for", path, error))?;
    }
    let unique = random(path).map(|seed| Digest::Sha256(seed).hex())?;
    let temp = path.with_extension(format!("new-{unique}"));
    match link_new(&temp, path, &text, 0o644) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = fs::read_to_string(path).map_err(|error| failed("read", path, error))?;
            if there.trim() == text.trim() {
                return Ok(());
            }
            Err(KeyFileError::OtherPublic(path.to_owned()))
        }
        Err(source) => Err(failed("write the public half of", path, source)),
    }
}

/// Makes a cluster key.
///
/// # Errors
/// [`KeyFileError::Exists`] where there is a file already; else why it cannot be made.
pub fn create(path: &Path) -> Result<ClusterKey, KeyFileError> {
    let seed = random(path)?;
    let key = ClusterKey::from_seed(seed);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| failed("make a folder for", path, error))?;
    }
    let temp = path.with_extension(format!("new-{}", key.public()));
    match link_new(&temp, path, &format!("{}\n", hex(&seed)), 0o600) {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(KeyFileError::Exists(path.to_owned()))
        }
        Err(source) => Err(failed("make", path, source)),
    }
}

fn random(path: &Path) -> Result<[u8; 32], KeyFileError> {
    let mut seed = [0; 32];
    let drawn = SysRng.try_fill_bytes(&mut seed);
    drawn.map_err(|error| failed("draw", path, io::Error::other(error)))?;
    Ok(seed)
}

/// Makes a file: whole before it is seen, and never over one that somebody else made meanwhile.
fn link_new(temp: &Path, path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let made = write(temp, text, mode)
        .and_then(|()| fs::hard_link(temp, path))
        .and_then(|()| sync_parent(path));
    let _ = fs::remove_file(temp);
    made
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn parse(path: &Path, text: &str) -> Result<ClusterKey, KeyFileError> {
    // 32 bytes in hex, as a sha256 is.
    match format!("sha256:{}", text.trim()).parse() {
        Ok(Digest::Sha256(seed)) => Ok(ClusterKey::from_seed(seed)),
        Ok(Digest::Sha512(_)) | Err(_) => Err(KeyFileError::Malformed(path.to_owned())),
    }
}

fn hex(seed: &[u8; 32]) -> String {
    Digest::Sha256(*seed).hex()
}

fn warn_if_open(path: &Path) {
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        tracing::warn!(
            path = %path.display(),
            "others may read the cluster key, and so sign metainfo; chmod it to 600"
        );
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> KeyFileError {
    KeyFileError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inner/cluster.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let start = |_| scope.spawn(|| load_or_create(&path).unwrap().public());
            let starts: Vec<_> = (0..8).map(start).collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(load_or_create(&path).unwrap().public(), keys[0]);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "only the key is left");
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, public) = (folder.path().join("key"), folder.path().join("pub"));
        let key = create(&secret).unwrap();
        let error = create(&secret).unwrap_err().to_string();
        assert!(error.contains("--if-missing"), "{error}");
        assert_eq!(load_or_create(&secret).unwrap().public(), key.public());
        for _ in 0..2 {
            write_public(&public, &key.public()).unwrap();
        }
        let text = fs::read_to_string(&public).unwrap();
        assert_eq!(text, format!("{}\n", key.public()));
        let other = ClusterKey::from_seed([9; 32]).public();
        let error = write_public(&public, &other).unwrap_err().to_string();
        assert!(error.contains("name another file"), "{error}");
        assert_eq!(fs::read_to_string(&public).unwrap(), text);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.key");
        fs::write(&path, "half").unwrap();
        let message = load_or_create(&path).unwrap_err().to_string();
        assert!(
            message.contains("restore it from another origin"),
            "{message}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "half");
    }
}
