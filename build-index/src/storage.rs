//! Storage as the rest of this crate uses it: what may help is tried again, what is absent is
//! `None`.

use std::sync::Arc;
use std::time::Duration;

use backend::{Backend, Condition, ETag, Error, Key, List, Listing, Stat, layout};
use bytes::Bytes;
use oci::Digest;

/// How often a call is made that fails in a way which may pass.
const TRIES: u32 = 4;
/// Pause before the second one; each next is four times as long.
const PAUSE: Duration = Duration::from_millis(20);

/// Storage, tried again where that may help. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Storage(Arc<dyn Backend>);

impl Storage {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }

    /// Returns the backend, for writes that must not simply be repeated.
    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.0
    }

    /// Returns a small object.
    pub(crate) async fn read(&self, key: &Key, limit: u64) -> Result<Option<(Bytes, Stat)>, Error> {
        absent(again(|| self.0.read(key, limit)).await)
    }

    pub(crate) async fn stat(&self, key: &Key) -> Result<Option<Stat>, Error> {
        absent(again(|| self.0.stat(key)).await)
    }

    /// Returns what a link holds; `None` also where that is no digest.
    pub(crate) async fn link(&self, key: &Key) -> Result<Option<Digest>, Error> {
        again(|| layout::read_link(&*self.0, key)).await
    }

    /// Returns the sha256 under which the content of `digest` stands.
    pub(crate) async fn content(&self, digest: &Digest) -> Result<Option<Digest>, Error> {
        again(|| layout::content_digest(&*self.0, digest)).await
    }

    /// Writes what everybody who writes this object would write.
    pub(crate) async fn put(&self, key: &Key, bytes: Bytes) -> Result<ETag, Error> {
        again(|| self.0.put(key, bytes.clone(), Condition::Any)).await
    }

    pub(crate) async fn delete(&self, key: &Key) -> Result<(), Error> {
        again(|| self.0.delete(key)).await
    }

    pub(crate) async fn list(&self, list: &List) -> Result<Listing, Error> {
        again(|| self.0.list(list.clone())).await
    }
}

async fn again<T, F>(call: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut pause = PAUSE;
    let mut tries = 1;
    loop {
        match call().await {
            Err(error) if !error.is_permanent() && tries < TRIES => {
                tracing::debug!(%error, tries, "asking storage again");
                tokio::time::sleep(pause).await;
                pause *= 4;
                tries += 1;
            }
            result => return result,
        }
    }
}

fn absent<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
