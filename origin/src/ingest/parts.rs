//! Parts of an upload: put together as the disk likes them, written one after the other.

use std::sync::Arc;

use bytes::Bytes;
use disk::{Buffer, Pool};
use store::{UploadError, UploadId, Uploads};
use tokio::task::JoinHandle;

use super::{IngestError, PART_BYTES, joined};

/// Cuts what comes into parts that end at multiples of [`PART_BYTES`] in the upload.
pub(super) struct Parts {
    pool: Pool,
    buffer: Option<Buffer>,
    /// Bytes that lack to the next multiple.
    room: usize,
}

impl Parts {
    /// Begins where an upload stands.
    pub(super) fn new(pool: &Pool, offset: u64) -> Self {
        let past = usize::try_from(offset % PART_BYTES as u64).unwrap_or_default();
        Self {
            pool: pool.clone(),
            buffer: None,
            room: PART_BYTES - past,
        }
    }

    /// Takes bytes, and returns a part where that ends one: call it again then for the rest.
    pub(super) fn add(&mut self, bytes: &mut Bytes) -> Option<Bytes> {
        if bytes.is_empty() {
            return None;
        }
        let taken = bytes.split_to(bytes.len().min(self.room));
        let buffer = self.buffer.take();
        let mut buffer = buffer.unwrap_or_else(|| self.pool.take(self.room));
        buffer.extend_from_slice(&taken);
        self.room -= taken.len();
        if self.room > 0 {
            self.buffer = Some(buffer);
            return None;
        }
        self.room = PART_BYTES;
        Some(buffer.freeze())
    }

    /// Returns what came since the last part.
    pub(super) fn rest(self) -> Bytes {
        self.buffer.map(Buffer::freeze).unwrap_or_default()
    }
}

/// Writes parts while the next ones come in. A part that was begun is written to its end even where
/// this is dropped.
pub(super) struct Writer {
    uploads: Arc<Uploads>,
    id: UploadId,
    /// Where the next part goes, once the one that is being written is.
    offset: u64,
    writing: Option<JoinHandle<Result<u64, UploadError>>>,
}

impl Writer {
    pub(super) const fn new(uploads: Arc<Uploads>, id: UploadId, offset: u64) -> Self {
        Self {
            uploads,
            id,
            offset,
            writing: None,
        }
    }

    /// Waits for the part before, and begins to write this one.
    pub(super) async fn write(&mut self, part: Bytes) -> Result<(), IngestError> {
        let offset = self.end().await?;
        let (uploads, id) = (Arc::clone(&self.uploads), self.id);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            uploads.append(id, Some(offset), &part)
        }));
        Ok(())
    }

    /// Waits until all is written; returns the bytes received so far.
    pub(super) async fn end(&mut self) -> Result<u64, IngestError> {
        if let Some(writing) = self.writing.take() {
            self.offset = joined(writing).await?;
        }
        Ok(self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_at_multiples_whatever_comes() {
        let all: Bytes = (0..3 * PART_BYTES + 5)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        for (start, chunk) in [(0, 7777), (1, PART_BYTES), (PART_BYTES - 1, all.len())] {
            let mut parts = Parts::new(&Pool::new(0), start as u64);
            let mut cut = Vec::new();
            for bytes in all[start..].chunks(chunk) {
                let mut bytes = Bytes::copy_from_slice(bytes);
                while let Some(part) = parts.add(&mut bytes) {
                    cut.push(part);
                }
                assert!(bytes.is_empty());
            }
            cut.push(parts.rest());
            let lengths: Vec<_> = cut.iter().map(Bytes::len).collect();
            let expected = [PART_BYTES - start, PART_BYTES, PART_BYTES, 5];
            assert_eq!(lengths, expected, "{start} {chunk}");
            assert!(cut.concat() == all[start..]);
            let aligned = |part: &Bytes| part.as_ptr().addr().is_multiple_of(disk::ALIGNMENT);
            assert!(cut.iter().all(aligned));
        }
        assert!(Parts::new(&Pool::new(0), 0).rest().is_empty());
    }
}
