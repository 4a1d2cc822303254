//! Storage in a folder: a local disk, or a mount that several processes of **one host** share.
//!
//! ```text
//! <root>/
//!   docker/…  shoal/…      objects, each a file whose path is its key
//!   .shoal/                this backend's own; no key starts with a dot
//!     staging/             files to be adopted
//!     tmp/                 objects being written
//!     locks/00 … ff        a write holds the lock of its key
//! ```
//!
//! An object appears by the rename of a file whose bytes are on disk, so that a reader or a crash
//! never sees half of it. Conditional writes compare and rename under `flock`. Tags are the hash
//! of the content up to 64 KiB, beyond that inode, time of change and length: what others do to
//! the files shows in them.
//!
//! Renames and fsyncs of everything above storage belong to `store::durable`; this crate lies
//! below it and has its own in `fs::durable`.

mod durable;
mod walk;

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use disk::{DataFile, Pool};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::object::clip_range;
use crate::{
    Backend, ByteStream, Condition, ETag, Error, Key, List, Listing, Object, PutStream, Stat,
};
use durable::{Source, Volume};

/// Bytes per part of a streamed body, and per write of a streamed object.
const PART_BYTES: u64 = 1 << 20;

/// Bytes of buffers that are kept for the next reads while nobody uses them.
const SPARE_BYTES: usize = 4 << 20;

/// Objects up to this length are tagged by their content.
const HASHED_BYTES: u64 = 64 << 10;

/// A [`Backend`] in a folder.
#[derive(Clone, Debug)]
pub struct FsBackend {
    volume: Arc<Volume>,
    /// What objects are read into.
    pool: Pool,
}

impl FsBackend {
    /// Opens the storage in `root`, a folder that exists and may be written to.
    ///
    /// Blocking; sweeps what writers that died left behind more than an hour ago.
    ///
    /// # Errors
    /// [`Error::Folder`], which says what to do.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        Volume::open(root.into()).map(|volume| Self {
            volume: Arc::new(volume),
            pool: Pool::new(SPARE_BYTES),
        })
    }

    /// Runs blocking file work off the async threads.
    async fn blocking<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Volume) -> Result<T, Error> + Send + 'static,
    {
        let volume = Arc::clone(&self.volume);
        blocking(move || work(&volume)).await
    }
}

#[async_trait]
impl Backend for FsBackend {
    async fn stat(&self, key: &Key) -> Result<Stat, Error> {
        let key = key.clone();
        self.blocking(move |volume| Ok(Opened::open(volume, key)?.stat))
            .await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object, Error> {
        let (key, pool) = (key.clone(), self.pool.clone());
        self.blocking(move |volume| {
            let opened = Opened::open(volume, key)?;
            let range = clip_range(&opened.key, range, opened.stat.length)?;
            let stat = opened.stat.clone();
            let content = opened.content(&pool);
            let body = if range.end - range.start <= PART_BYTES {
                // What peers ask for, all day: nobody waits for another thread.
                stream::once(std::future::ready(content.part(range.clone()))).boxed()
            } else {
                content.stream(range.clone())
            };
            Ok(Object { stat, range, body })
        })
        .await
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Stat), Error> {
        let (key, pool) = (key.clone(), self.pool.clone());
        self.blocking(move |volume| {
            let opened = Opened::open(volume, key)?;
            let length = opened.stat.length;
            if length > limit_bytes {
                return Err(Error::TooLarge {
                    key: opened.key,
                    length,
                    limit_bytes,
                });
            }
            let stat = opened.stat.clone();
            let bytes = opened.content(&pool).part(0..length)?;
            Ok((bytes, stat))
        })
        .await
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<ETag, Error> {
        let key = key.clone();
        self.blocking(move |volume| {
            let mut temp = volume.temp()?;
            temp.write(&bytes)?;
            volume.commit(&key, &Source::Temp(temp), &condition)
        })
        .await
    }

    async fn put_stream(
        &self,
        key: &Key,
        body: PutStream,
        condition: Condition,
    ) -> Result<ETag, Error> {
        let key = key.clone();
        let mut temp = self.blocking(|volume| volume.temp()).await?;
        let failed = |source| Error::Body {
            key: key.clone(),
            source,
        };
        // Few large writes instead of one per network read.
        let mut body = body.map_err(failed);
        let mut buffer = BytesMut::new();
        loop {
            let part = body.try_next().await?;
            let ended = part.is_none();
            if let Some(part) = part {
                buffer.extend_from_slice(&part);
            }
            if buffer.len() as u64 >= PART_BYTES || ended {
                let full = buffer.split().freeze();
                temp = blocking(move || temp.write(&full).map(|()| temp)).await?;
            }
            if ended {
                break;
            }
        }
        let key = key.clone();
        self.blocking(move |volume| volume.commit(&key, &Source::Temp(temp), &condition))
            .await
    }

    async fn adopt(&self, key: &Key, file: &Path) -> Result<ETag, Error> {
        let (key, file) = (key.clone(), file.to_owned());
        self.blocking(move |volume| volume.adopt(&key, &file)).await
    }

    fn staging(&self) -> Option<PathBuf> {
        Some(self.volume.staging())
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        let key = key.clone();
        self.blocking(move |volume| volume.delete(&key)).await
    }

    async fn list(&self, list: List) -> Result<Listing, Error> {
        self.blocking(move |volume| walk::page(volume.root(), &list))
            .await
    }
}

/// An object's file, open: it stays this version whatever is renamed over it.
struct Opened {
    key: Key,
    path: PathBuf,
    file: File,
    stat: Stat,
    /// All bytes, where they had to be read for the tag.
    small: Option<Bytes>,
}

/// The bytes of an object.
struct Content {
    key: Key,
    path: PathBuf,
    held: Held,
}

/// Where the bytes of an object are.
enum Held {
    /// At most [`HASHED_BYTES`].
    Memory(Bytes),
    File(DataFile),
}

impl Opened {
    fn open(volume: &Volume, key: Key) -> Result<Self, Error> {
        let path = volume.path(&key);
        let (file, stat, small) = match open_tagged(&path) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Err(Error::NotFound { key }),
            Err(source) => {
                return Err(Error::Io {
                    operation: "read",
                    path,
                    source,
                });
            }
        };
        Ok(Self {
            key,
            path,
            file,
            stat,
            small,
        })
    }

    fn content(self, pool: &Pool) -> Content {
        let held = match self.small {
            Some(bytes) => Held::Memory(bytes),
            None => Held::File(DataFile::of(self.file, &self.path, pool)),
        };
        Content {
            key: self.key,
            path: self.path,
            held,
        }
    }
}

impl Content {
    fn part(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let file = match &self.held {
            Held::Memory(bytes) => return Ok(bytes.slice(size(range.start)..size(range.end))),
            Held::File(file) => file,
        };
        let read = file.read_exact_at(size(range.end - range.start), range.start);
        let read = read.map_err(|source| Error::Io {
            operation: "read",
            path: self.path.clone(),
            source,
        })?;
        read.ok_or_else(|| Error::Truncated {
            key: self.key.clone(),
        })
    }

    fn stream(self, range: Range<u64>) -> ByteStream {
        let this = Arc::new(self);
        stream::try_unfold((this, range.start), move |(this, start)| async move {
            if start == range.end {
                return Ok(None);
            }
            let end = range.end.min(start + PART_BYTES);
            let file = Arc::clone(&this);
            let part = blocking(move || file.part(start..end)).await?;
            Ok(Some((part, (this, end))))
        })
        .boxed()
    }
}

/// Opens a file and tags it; `None` where there is no file.
fn open_tagged(path: &Path) -> io::Result<Option<(File, Stat, Option<Bytes>)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let content = if metadata.len() <= HASHED_BYTES {
        Some(read_small(&file)?)
    } else {
        None
    };
    let stat = Stat {
        length: content
            .as_ref()
            .map_or(metadata.len(), |bytes| bytes.len() as u64),
        etag: match &content {
            Some(bytes) => ETag::new(blake3::hash(bytes).to_hex().as_str()),
            None => tag_of_large(&metadata),
        },
        modified: metadata.modified()?,
    };
    Ok(Some((file, stat, content)))
}

/// Reads a file that was short a moment ago; not more of it than that.
fn read_small(file: &File) -> io::Result<Bytes> {
    use io::Read as _;
    let mut bytes = Vec::new();
    file.take(HASHED_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

fn tag_of_large(metadata: &Metadata) -> ETag {
    ETag::new(format!(
        "{:x}-{:x}.{:09}-{:x}",
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.len()
    ))
}

/// Returns whether the error means that no file is there: no entry, or a file where a folder
/// would have to be.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

pub(crate) async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Unavailable(format!(
            "file work was cut off: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests;
