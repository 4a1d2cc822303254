//! Storage that others keep, an object store, as this origin sees it: what the origin holds itself
//! comes first, and what storage has comes after it.
//!
//! Blobs that were pushed are held until storage has them ([`Held`]); they are served meanwhile.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use backend::{Backend, Condition, ETag, Error, Key, List, Listing, Object, PutStream, Stat};
use bytes::Bytes;

use crate::held::Held;
use crate::reads::Reads;
use crate::runs::Asker;

/// An object store, and what is on its way there.
#[derive(Debug)]
pub struct Tier {
    held: Arc<Held>,
    store: Arc<dyn Backend>,
    reads: Arc<Reads>,
}

impl Tier {
    #[must_use]
    pub const fn new(held: Arc<Held>, store: Arc<dyn Backend>, reads: Arc<Reads>) -> Self {
        Self { held, store, reads }
    }

    /// Returns how this origin reads storage.
    #[must_use]
    pub const fn reads(&self) -> &Arc<Reads> {
        &self.reads
    }

    /// Returns what is on its way to storage.
    #[must_use]
    pub const fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Returns storage itself.
    #[must_use]
    pub const fn store(&self) -> &Arc<dyn Backend> {
        &self.store
    }
}

#[async_trait]
impl Backend for Tier {
    async fn stat(&self, key: &Key) -> Result<Stat, Error> {
        match self.held.stat(key).await? {
            Some(stat) => Ok(stat),
            None => self.reads.stat(key, Asker::Here).await,
        }
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object, Error> {
        match self.held.get(key, range.clone()).await? {
            Some(object) => Ok(object),
            None => self.reads.get(key, range).await,
        }
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Stat), Error> {
        match self.held.read(key, limit_bytes).await? {
            Some(read) => Ok(read),
            None => self.reads.read(key, limit_bytes).await,
        }
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<ETag, Error> {
        self.store.put(key, bytes, condition).await
    }

    async fn put_stream(
        &self,
        key: &Key,
        body: PutStream,
        condition: Condition,
    ) -> Result<ETag, Error> {
        self.store.put_stream(key, body, condition).await
    }

    async fn adopt(&self, key: &Key, file: &Path) -> Result<ETag, Error> {
        self.store.adopt(key, file).await
    }

    fn staging(&self) -> Option<PathBuf> {
        self.store.staging()
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.held.delete(key).await?;
        let deleted = self.store.delete(key).await;
        self.reads.forget(key);
        deleted
    }

    async fn list(&self, list: List) -> Result<Listing, Error> {
        self.store.list(list).await
    }

    fn doubt(&self, key: &Key, offset: Option<u64>) -> bool {
        self.reads.doubt(key, offset)
    }
}
