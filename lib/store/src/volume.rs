//! What the volume of a folder can hold at all.

use std::path::Path;

/// Returns the bytes of the volume that a folder lies on, where that is less than `limit_bytes`:
/// eviction by that limit would begin when nothing can be written any more. `None` where it is
/// enough, or the system does not tell.
#[must_use]
pub fn smaller_than(folder: &Path, limit_bytes: u64) -> Option<u64> {
    let volume = rustix::fs::statvfs(folder).ok()?;
    let bytes = volume.f_blocks.saturating_mul(volume.f_frsize);
    (bytes < limit_bytes).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_beyond_the_volume_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = smaller_than(folder.path(), u64::MAX).unwrap();
        assert!(bytes > 0);
        assert_eq!(smaller_than(folder.path(), bytes), None);
        assert_eq!(smaller_than(folder.path(), bytes + 1), Some(bytes));
        let nowhere = folder.path().join("nowhere");
        assert_eq!(smaller_than(&nowhere, u64::MAX), None);
    }
}
