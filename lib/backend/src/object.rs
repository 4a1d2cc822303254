//! What goes into a backend and comes out of it.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use crate::{Error, Key, Prefix};

/// The bytes of an object, in order.
pub type ByteStream = BoxStream<'static, Result<Bytes, Error>>;

/// Bytes to store, in order.
pub type PutStream = BoxStream<'static, io::Result<Bytes>>;

/// Opaque name of one version of an object: equal tags mean equal bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ETag(Arc<str>);

impl ETag {
    /// Makes the tag of a text that a backend returned earlier.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What must hold for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Write whatever is there.
    Any,
    /// Only where there is no object yet.
    IfAbsent,
    /// Only where the object still has this tag.
    IfMatch(ETag),
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub length: u64,
    pub etag: ETag,
    pub modified: SystemTime,
}

/// An object, or a part of it, that is being read.
pub struct Object {
    pub stat: Stat,
    /// The bytes of the object that come.
    pub range: Range<u64>,
    pub body: ByteStream,
}

impl Object {
    /// Reads all bytes that come.
    ///
    /// # Errors
    /// A failure of the store, or [`Error::Truncated`] where fewer bytes came than promised.
    pub async fn into_bytes(mut self, key: &Key) -> Result<Bytes, Error> {
        let expected = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let first = self.body.next().await.transpose()?.unwrap_or_default();
        if first.len() == expected {
            return Ok(first);
        }
        // A length that a broken store made up must not be allocated at once.
        let mut bytes = BytesMut::with_capacity(expected.min(16 << 20));
        bytes.extend_from_slice(&first);
        while bytes.len() <= expected
            && let Some(part) = self.body.next().await
        {
            bytes.extend_from_slice(&part?);
        }
        if bytes.len() == expected {
            Ok(bytes.freeze())
        } else {
            Err(Error::Truncated { key: key.clone() })
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("stat", &self.stat)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Which part of the store to list.
#[derive(Clone, Debug)]
pub struct List {
    pub prefix: Prefix,
    /// Whether to stop at the next `/` and name folders instead of what is in them.
    pub folders: bool,
    /// Only what sorts after this text.
    pub after: Option<String>,
    /// Most entries to return; at least 1 is meant.
    pub limit: usize,
}

impl List {
    /// Lists the objects and folders directly under `prefix`.
    #[must_use]
    pub fn folders(prefix: Prefix, limit: usize) -> Self {
        Self {
            prefix,
            folders: true,
            after: None,
            limit,
        }
    }

    /// Lists all objects under `prefix`, however deep.
    #[must_use]
    pub fn objects(prefix: Prefix, limit: usize) -> Self {
        Self {
            prefix,
            folders: false,
            after: None,
            limit,
        }
    }

    /// Starts after this text, which need not exist.
    #[must_use]
    pub fn after(mut self, after: impl Into<String>) -> Self {
        self.after = Some(after.into());
        self
    }
}

/// One thing listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Object(Key),
    /// A folder with something in it.
    Folder(Prefix),
}

impl Entry {
    /// Returns the text that entries are ordered by; a folder's ends with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Object(key) => key.as_str(),
            Self::Folder(prefix) => prefix.as_str(),
        }
    }

    /// Returns the last segment, without a slash.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Object(key) => key.name(),
            Self::Folder(prefix) => prefix.name(),
        }
    }
}

/// A page of entries, in byte order of their text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
    /// Whether there is more after the last entry.
    pub more: bool,
}

/// Returns the part of an object of `length` bytes that a request for `range` means: all of it where
/// none is named, and never more than there is.
///
/// # Errors
/// [`Error::Range`]: it begins behind the end of the object, or its own.
pub fn clip_range(key: &Key, range: Option<Range<u64>>, length: u64) -> Result<Range<u64>, Error> {
    let Some(range) = range else {
        return Ok(0..length);
    };
    if range.start > range.end || range.start > length {
        return Err(Error::Range {
            key: key.clone(),
            start: range.start,
            end: range.end,
            length,
        });
    }
    Ok(range.start..range.end.min(length))
}
