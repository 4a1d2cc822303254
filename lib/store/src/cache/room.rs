//! Room on the volume, which others fill too.
//!
//! Pieces leave a reserve free. A blob whose pieces do not fit is served through memory; but one
//! that cannot even be named on the disk is not served at all, and the pieces of one blob must not
//! do that to all others.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Cache;
use crate::durable::DiskError;
use crate::evict::Watermarks;

/// Bytes that pieces leave free for names, descriptions and logs of blobs: a few hundred of them.
const RESERVE_BYTES: u64 = 4 << 20;
/// On a small volume the reserve is this part of it.
const RESERVE_PART: u64 = 16;

/// Room of a piece that is being written.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    writing: &'a AtomicU64,
    bytes: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.writing.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Cache {
    /// Takes room for bytes of a piece that is about to be written, the reserve not counted.
    ///
    /// # Errors
    /// [`DiskError::Full`].
    pub(super) fn take_room(&self, bytes: u64) -> Result<Taken<'_>, DiskError> {
        // Several are written at once: what the others take counts before the volume shows it.
        let all = self.writing.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let taken = Taken {
            writing: &self.writing,
            bytes,
        };
        match room(&self.config.folder) {
            Some(room) if room < all => Err(DiskError::Full(self.config.folder.clone())),
            // Who cannot be asked is found out by writing.
            Some(_) | None => Ok(taken),
        }
    }

    /// Evicts idle blobs, so that these bytes fit at least, and what a new blob needs.
    pub(super) fn make_room(&self, bytes: u64) {
        let low = self.used_bytes().saturating_sub(bytes.max(RESERVE_BYTES));
        self.evict_to(&Watermarks {
            high_bytes: 0,
            low_bytes: low.min(self.config.marks.low_bytes),
        });
    }
}

/// Returns the bytes that pieces may take on the volume of a folder.
fn room(folder: &Path) -> Option<u64> {
    let volume = rustix::fs::statvfs(folder).ok()?;
    let total = volume.f_blocks.saturating_mul(volume.f_frsize);
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    Some(free.saturating_sub(RESERVE_BYTES.min(total / RESERVE_PART)))
}
