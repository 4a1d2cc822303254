//! Storage as the rest of this crate uses it: what may help is tried again, what is absent is
//! `None`.

use std::sync::Arc;
use std::time::Duration;

use backend::{Backend, Condition, ETag, Error, Key, List, Listing, Stat, layout};
use bytes::Bytes;
use oci::Digest;

use crate::writer::SETTLE;

/// How often a call is made that fails in a way which may pass.
const TRIES: u32 = 4;
/// Pause before the second one; each next is four times as long.
const PAUSE: Duration = Duration::from_millis(20);

/// Storage, tried again where that may help. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    backend: Arc<dyn Backend>,
    /// How long a write that failed may still be made.
    settle: Duration,
}

impl Storage {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        let settle = Duration::ZERO;
        Self { backend, settle }
    }

    /// For the only process that writes tags: whatever it writes next, a write that seemed to fail
    /// must not come after that.
    pub(crate) fn of_only_writer(backend: Arc<dyn Backend>) -> Self {
        let settle = SETTLE;
        Self { backend, settle }
    }

    /// Writes where the condition holds. Such a write cannot simply be repeated.
    pub(crate) async fn put_if(
        &self,
        key: &Key,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<ETag, Error> {
        let put = self.backend.put(key, bytes, condition).await;
        self.settled(put).await
    }

    /// Returns a small object.
    pub(crate) async fn read(&self, key: &Key, limit: u64) -> Result<Option<(Bytes, Stat)>, Error> {
        absent(again(|| self.backend.read(key, limit)).await)
    }

    pub(crate) async fn stat(&self, key: &Key) -> Result<Option<Stat>, Error> {
        absent(again(|| self.backend.stat(key)).await)
    }

    /// Returns what a link holds; `None` also where that is no digest.
    pub(crate) async fn link(&self, key: &Key) -> Result<Option<Digest>, Error> {
        again(|| layout::read_link(&*self.backend, key)).await
    }

    /// Returns the sha256 under which the content of `digest` stands.
    pub(crate) async fn content(&self, digest: &Digest) -> Result<Option<Digest>, Error> {
        again(|| layout::content_digest(&*self.backend, digest)).await
    }

    /// Writes what everybody who writes this object would write.
    pub(crate) async fn put(&self, key: &Key, bytes: Bytes) -> Result<ETag, Error> {
        again(|| self.backend.put(key, bytes.clone(), Condition::Any)).await
    }

    pub(crate) async fn delete(&self, key: &Key) -> Result<(), Error> {
        again(|| async {
            let deleted = self.backend.delete(key).await;
            self.settled(deleted).await
        })
        .await
    }

    pub(crate) async fn list(&self, list: &List) -> Result<Listing, Error> {
        again(|| self.backend.list(list.clone())).await
    }

    /// Waits after a failure until what failed has been made, or will not be made any more.
    async fn settled<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && !error.is_permanent()
        {
            tokio::time::sleep(self.settle).await;
        }
        result
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

#[cfg(test)]
mod tests {
    use backend::flaky::{Faults, FlakyBackend};
    use backend::memory::MemoryBackend;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_only_writer_goes_on_when_a_failure_is_over() {
        let memory: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let faults = Faults {
            lost_answer: 1.0,
            ..Faults::default()
        };
        let flaky: Arc<dyn Backend> = Arc::new(FlakyBackend::new(memory, 1, faults));
        let key: Key = "a/b".parse().unwrap();
        let several = Storage::new(Arc::clone(&flaky));
        let one = Storage::of_only_writer(flaky);
        let put = async |storage: &Storage| {
            let start = Instant::now();
            let put = storage.put_if(&key, "x".into(), Condition::Any).await;
            assert!(!put.unwrap_err().is_permanent());
            start.elapsed()
        };
        assert!(put(&several).await < SETTLE);
        assert!(put(&one).await >= SETTLE);
        // What is certain is not waited for.
        let start = Instant::now();
        let put = one.put_if(&key, "x".into(), Condition::IfAbsent).await;
        assert!(put.unwrap_err().is_precondition());
        assert!(start.elapsed() < SETTLE);
    }
}
