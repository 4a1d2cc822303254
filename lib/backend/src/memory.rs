//! Storage in memory, for tests and for trying things out: nothing survives the process.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;

use crate::object::clip_range;
use crate::{Backend, Condition, ETag, Entry, Error, Key, List, Listing, Object, PutStream, Stat};

/// Bytes per part of a streamed body.
const PART_BYTES: usize = 1 << 20;

/// Most bytes of one object; memory is no place for more.
const MAX_OBJECT_BYTES: u64 = 8 << 30;

/// A [`Backend`] in memory.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    objects: Mutex<BTreeMap<Key, Stored>>,
}

#[derive(Clone, Debug)]
struct Stored {
    bytes: Bytes,
    stat: Stat,
}

impl MemoryBackend {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn stored(&self, key: &Key) -> Result<Stored, Error> {
        self.objects
            .lock()
            .get(key)
            .cloned()
            .ok_or_else(|| Error::NotFound { key: key.clone() })
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    async fn stat(&self, key: &Key) -> Result<Stat, Error> {
        self.stored(key).map(|stored| stored.stat)
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object, Error> {
        let Stored { bytes, stat } = self.stored(key)?;
        let range = clip_range(key, range, stat.length)?;
        let part = bytes.slice(to_index(range.start)..to_index(range.end));
        let body = stream::unfold(part, |mut rest| async move {
            if rest.is_empty() {
                return None;
            }
            let now = rest.split_to(rest.len().min(PART_BYTES));
            Some((Ok(now), rest))
        });
        Ok(Object {
            stat,
            range,
            body: body.boxed(),
        })
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Stat), Error> {
        let Stored { bytes, stat } = self.stored(key)?;
        if stat.length > limit_bytes {
            return Err(Error::TooLarge {
                key: key.clone(),
                length: stat.length,
                limit_bytes,
            });
        }
        Ok((bytes, stat))
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<ETag, Error> {
        let etag = ETag::new(blake3::hash(&bytes).to_hex().as_str());
        let mut objects = self.objects.lock();
        let holds = match (&condition, objects.get(key)) {
            (Condition::Any, _) | (Condition::IfAbsent, None) => true,
            (Condition::IfMatch(etag), Some(stored)) => stored.stat.etag == *etag,
            (Condition::IfAbsent, Some(_)) | (Condition::IfMatch(_), None) => false,
        };
        if !holds {
            return Err(Error::Precondition { key: key.clone() });
        }
        let stat = Stat {
            length: bytes.len() as u64,
            etag: etag.clone(),
            modified: SystemTime::now(),
        };
        objects.insert(key.clone(), Stored { bytes, stat });
        Ok(etag)
    }

    async fn put_stream(
        &self,
        key: &Key,
        mut body: PutStream,
        condition: Condition,
    ) -> Result<ETag, Error> {
        let mut bytes = BytesMut::new();
        while let Some(part) = body.next().await {
            let part = part.map_err(|source| Error::Body {
                key: key.clone(),
                source,
            })?;
            let length = (bytes.len() + part.len()) as u64;
            if length > MAX_OBJECT_BYTES {
                return Err(Error::TooLarge {
                    key: key.clone(),
                    length,
                    limit_bytes: MAX_OBJECT_BYTES,
                });
            }
            bytes.extend_from_slice(&part);
        }
        self.put(key, bytes.freeze(), condition).await
    }

    async fn adopt(&self, key: &Key, file: &Path) -> Result<ETag, Error> {
        let io = |operation| {
            let path = file.to_owned();
            move |source| Error::Io {
                operation,
                path,
                source,
            }
        };
        let bytes = tokio::fs::read(file).await.map_err(io("read"))?;
        let etag = self.put(key, bytes.into(), Condition::Any).await?;
        tokio::fs::remove_file(file).await.map_err(io("remove"))?;
        Ok(etag)
    }

    fn staging(&self) -> Option<PathBuf> {
        None
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.objects.lock().remove(key);
        Ok(())
    }

    async fn list(&self, list: List) -> Result<Listing, Error> {
        let objects = self.objects.lock();
        let after = list.after.as_deref().unwrap_or_default();
        let limit = list.limit.max(1);
        let mut entries: Vec<Entry> = Vec::new();
        for key in objects.keys() {
            if key.strip(&list.prefix).is_none() {
                continue;
            }
            let entry = match key.folder_under(&list.prefix) {
                Some(folder) if list.folders => Entry::Folder(folder),
                Some(_) | None => Entry::Object(key.clone()),
            };
            if entry.as_str() <= after || entries.last() == Some(&entry) {
                continue;
            }
            if entries.len() == limit {
                return Ok(Listing {
                    entries,
                    more: true,
                });
            }
            entries.push(entry);
        }
        Ok(Listing {
            entries,
            more: false,
        })
    }
}

/// Offsets into bytes in memory fit.
fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        conformance::check(Arc::new(MemoryBackend::new()), folder.path()).await;
    }
}
