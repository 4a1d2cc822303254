//! Storage of whole blobs and small records: a folder, memory, later an object store.
//!
//! Speaks [`Key`]s and bytes, knows nothing of swarms. Everything durable that Shoal has is behind
//! [`Backend`]; [`layout`] names every key, so that a folder or bucket which docker-registry
//! filled is served as it is and can be handed back.
//!
//! All backends pass one suite (`conformance`), in which 16 writers race for one key and exactly
//! one of them wins.

mod config;
#[cfg(test)]
mod conformance;
mod error;
pub mod flaky;
pub mod fs;
mod key;
pub mod layout;
pub mod memory;
mod object;
pub mod probe;
pub mod s3;

use std::ops::Range;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;

pub use config::Config;
pub use error::Error;
pub use key::{Key, KeyError, MAX_KEY_BYTES, MAX_SEGMENT_BYTES, Prefix};
pub use object::{
    ByteStream, Condition, ETag, Entry, List, Listing, Object, PutStream, Stat, clip_range,
};

/// A store of objects by [`Key`].
///
/// Reads see the newest write that was acknowledged before they began, by whichever process. A
/// write that was acknowledged survives the loss of power.
#[async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug + 'static {
    /// Returns what is known of an object without its bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a failure of the store.
    async fn stat(&self, key: &Key) -> Result<Stat, Error>;

    /// Starts to read an object, or the part of it that `range` names. The range is cut at the
    /// object's end; [`Object::range`] is what will come. The bytes are those of one version of
    /// the object, the one that [`Object::stat`] describes.
    ///
    /// The stream ends early only with an error where the store can tell, but a network or a
    /// broken store may lie: count the bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Range`] where the range starts past the end or is reversed.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object, Error>;

    /// Returns the bytes of a small object, of at most `limit_bytes`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::TooLarge`] where it has more bytes.
    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Stat), Error>;

    /// Writes an object where `condition` holds; returns the tag of what was written.
    ///
    /// # Errors
    /// [`Error::Precondition`] where the condition does not hold; the object is as it was.
    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<ETag, Error>;

    /// Writes an object of any length. Nothing is visible before the stream ended well.
    ///
    /// # Errors
    /// As [`Self::put`]; [`Error::Body`] where the stream itself fails.
    async fn put_stream(
        &self,
        key: &Key,
        body: PutStream,
        condition: Condition,
    ) -> Result<ETag, Error>;

    /// Takes over a finished file as an object, whatever was there before. The file must not be
    /// written to any more. Where it lies under [`Self::staging`] it is renamed, not copied; in
    /// any case it is gone afterwards.
    ///
    /// # Errors
    /// [`Error::Io`]; the file is then still where it was.
    async fn adopt(&self, key: &Key, file: &Path) -> Result<ETag, Error>;

    /// Returns the folder on this backend's volume for files that shall be adopted, where the
    /// backend has a volume.
    fn staging(&self) -> Option<PathBuf>;

    /// Removes an object; one that is absent is no error.
    ///
    /// # Errors
    /// A failure of the store.
    async fn delete(&self, key: &Key) -> Result<(), Error>;

    /// Returns a page of what is stored, in byte order of the text.
    ///
    /// # Errors
    /// A failure of the store.
    async fn list(&self, list: List) -> Result<Listing, Error>;

    /// Hears that an object was found damaged around an offset, or somewhere. Returns whether it
    /// is worth reading again: `false` where nobody between the caller and the store kept bytes
    /// that could be other ones than the store has.
    fn doubt(&self, _key: &Key, _offset: Option<u64>) -> bool {
        false
    }
}
