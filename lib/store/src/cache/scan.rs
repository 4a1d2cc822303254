//! What the folder of a cache holds when a process begins.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Cache, Known};
use crate::blob::stored_bytes;
use crate::durable::{self, DiskError, failed};
use crate::layout::parse_folder_name;
use crate::piece_log::PieceLog;
use crate::proof::read_description;

/// Returns what is there, least recently used first. Removes what is no blob of this cluster.
pub(super) fn scan(cache: &Cache) -> Result<Vec<Known>, DiskError> {
    let mut found: Vec<(SystemTime, Known)> = Vec::new();
    for folder in subfolders(&cache.tree.blobs())? {
        for folder in subfolders(&folder)? {
            match find(cache, &folder)? {
                // Nothing of it was stored: it takes a place and saves nobody anything.
                Some(known) if known.bytes == 0 => {
                    durable::remove_folder(&folder, &cache.next_trash())?;
                }
                Some(known) => found.push((modified(&folder), known)),
                None => {
                    tracing::warn!(
                        folder = %folder.display(),
                        "removing what is no blob of this cluster"
                    );
                    durable::remove_folder(&folder, &cache.next_trash())?;
                }
            }
        }
    }
    found.sort_by_key(|(modified, _)| *modified);
    Ok(found.into_iter().map(|(_, known)| known).collect())
}

/// Returns what a folder claims to hold.
fn find(cache: &Cache, folder: &Path) -> Result<Option<Known>, DiskError> {
    let name = folder.file_name().and_then(|name| name.to_str());
    let Some(name) = name.and_then(parse_folder_name) else {
        return Ok(None);
    };
    let tree = cache.tree.blob(&name);
    let description = read_description(&tree, &cache.key)?;
    let described = description.filter(|description| *description.name() == name);
    let Some(description) = described.filter(|_| tree.folder() == folder) else {
        return Ok(None);
    };
    let geometry = description.geometry();
    let claims = PieceLog::claims(&tree.pieces(), geometry)?;
    Ok(Some(Known {
        description,
        complete: claims.is_full() && tree.complete().exists(),
        bytes: stored_bytes(geometry, &claims),
    }))
}

/// Notes a use where the next process finds it.
pub(super) fn touch(folder: &Path) {
    // Only the order of evictions after a restart depends on it.
    let _ = File::open(folder).and_then(|folder| folder.set_modified(SystemTime::now()));
}

fn modified(folder: &Path) -> SystemTime {
    fs::metadata(folder)
        .and_then(|metadata| metadata.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let path = entry.map_err(failed("read", folder))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    Ok(folders)
}
