//! A backend that fails on purpose: what a network and a broken store do to their users.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::{
    Backend, ByteStream, Condition, ETag, Error, Key, List, Listing, Object, PutStream, Stat,
};

/// Most old listings kept to be shown again.
const MAX_STALE: usize = 64;

/// How often what goes wrong: probabilities from 0 to 1.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// A call fails before it did anything.
    pub error: f64,
    /// A write fails although it was done: the answer was lost.
    pub lost_answer: f64,
    /// A body ends early as if it were whole.
    pub truncated: f64,
    /// A bit of a body is not what was stored.
    pub wrong_bytes: f64,
    /// A list shows what was there earlier.
    pub stale_list: f64,
    /// The first byte of a body takes this long.
    pub slow_first_byte: Option<Duration>,
}

/// Passes everything on to another backend, or fails: the same way for the same seed and the same
/// calls in the same order.
#[derive(Debug)]
pub struct FlakyBackend {
    inner: Arc<dyn Backend>,
    state: Mutex<State>,
    reads: AtomicU64,
    read_bytes: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    faults: Faults,
    lists: BTreeMap<String, Listing>,
}

impl FlakyBackend {
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>, seed: u64, faults: Faults) -> Self {
        Self {
            inner,
            state: Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                faults,
                lists: BTreeMap::new(),
            }),
            reads: AtomicU64::new(0),
            read_bytes: Arc::default(),
        }
    }

    /// Changes what goes wrong from now on.
    pub fn set(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Returns the calls of [`Backend::get`] and [`Backend::read`] so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Returns the bytes of bodies handed out so far.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    fn happens(&self, which: impl Fn(&Faults) -> f64) -> bool {
        let mut state = self.state.lock();
        let probability = which(&state.faults);
        state.rng.random::<f64>() < probability
    }

    fn may_fail(&self) -> Result<(), Error> {
        if self.happens(|faults| faults.error) {
            return Err(Error::Unavailable("a fault was injected".into()));
        }
        Ok(())
    }

    fn may_lose(&self, etag: ETag) -> Result<ETag, Error> {
        if self.happens(|faults| faults.lost_answer) {
            return Err(Error::Unavailable("the answer was lost on purpose".into()));
        }
        Ok(etag)
    }

    /// Returns a position in a body, where something goes wrong with it at this probability.
    fn place(&self, length: u64, which: impl Fn(&Faults) -> f64) -> Option<u64> {
        if length == 0 || !self.happens(which) {
            return None;
        }
        Some(self.state.lock().rng.random_range(0..length))
    }

    fn spoil(&self, body: ByteStream, length: u64) -> ByteStream {
        let cut = self.place(length, |faults| faults.truncated);
        let wrong = self.place(length, |faults| faults.wrong_bytes);
        let slow = self.state.lock().faults.slow_first_byte;
        let read_bytes = Arc::clone(&self.read_bytes);
        let wait = async move {
            if let Some(delay) = slow {
                tokio::time::sleep(delay).await;
            }
        };
        let mut at = 0;
        let spoiled = body.scan((), move |(), part| {
            std::future::ready(match part {
                Ok(part) => {
                    let part = spoil_part(part, at, cut, wrong);
                    at += part.len() as u64;
                    read_bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
                    (!part.is_empty()).then_some(Ok(part))
                }
                Err(error) => Some(Err(error)),
            })
        });
        stream::once(wait)
            .flat_map(|()| stream::empty())
            .chain(spoiled)
            .boxed()
    }
}

/// Returns the part that stands at offset `at` of its body, cut at `cut` and with a bit turned at
/// `wrong`.
fn spoil_part(part: Bytes, at: u64, cut: Option<u64>, wrong: Option<u64>) -> Bytes {
    let index = |place: Option<u64>| {
        let place = usize::try_from(place?.checked_sub(at)?).ok()?;
        (place < part.len()).then_some(place)
    };
    let (cut, wrong) = (index(cut), index(wrong));
    let mut part = part;
    if let Some(wrong) = wrong {
        let mut bytes = part.to_vec();
        bytes[wrong] ^= 1;
        part = bytes.into();
    }
    match cut {
        Some(cut) => part.slice(..cut),
        None => part,
    }
}

#[async_trait]
impl Backend for FlakyBackend {
    async fn stat(&self, key: &Key) -> Result<Stat, Error> {
        self.may_fail()?;
        self.inner.stat(key).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object, Error> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.may_fail()?;
        let object = self.inner.get(key, range).await?;
        let length = object.range.end - object.range.start;
        Ok(Object {
            body: self.spoil(object.body, length),
            stat: object.stat,
            range: object.range,
        })
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Stat), Error> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.may_fail()?;
        let slow = self.state.lock().faults.slow_first_byte;
        if let Some(delay) = slow {
            tokio::time::sleep(delay).await;
        }
        let (bytes, stat) = self.inner.read(key, limit_bytes).await?;
        let length = bytes.len() as u64;
        if self.place(length, |faults| faults.truncated).is_some() {
            // The length was announced: whoever reads it whole can tell.
            return Err(Error::Truncated { key: key.clone() });
        }
        let wrong = self.place(length, |faults| faults.wrong_bytes);
        Ok((spoil_part(bytes, 0, None, wrong), stat))
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<ETag, Error> {
        self.may_fail()?;
        let etag = self.inner.put(key, bytes, condition).await?;
        self.may_lose(etag)
    }

    async fn put_stream(
        &self,
        key: &Key,
        body: PutStream,
        condition: Condition,
    ) -> Result<ETag, Error> {
        self.may_fail()?;
        let etag = self.inner.put_stream(key, body, condition).await?;
        self.may_lose(etag)
    }

    async fn adopt(&self, key: &Key, file: &Path) -> Result<ETag, Error> {
        self.may_fail()?;
        self.inner.adopt(key, file).await
    }

    fn staging(&self) -> Option<PathBuf> {
        self.inner.staging()
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.may_fail()?;
        self.inner.delete(key).await
    }

    async fn list(&self, list: List) -> Result<Listing, Error> {
        self.may_fail()?;
        let request = format!("{list:?}");
        let stale = self.happens(|faults| faults.stale_list);
        if stale && let Some(old) = self.state.lock().lists.get(&request) {
            return Ok(old.clone());
        }
        let listing = self.inner.list(list).await?;
        let mut state = self.state.lock();
        if state.lists.len() < MAX_STALE {
            state.lists.insert(request, listing.clone());
        }
        Ok(listing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBackend;
    use crate::{Prefix, conformance};

    async fn with(faults: Faults, seed: u64) -> (FlakyBackend, Key) {
        let memory = Arc::new(MemoryBackend::new());
        let key = Key::new("folder/object").unwrap();
        memory
            .put(&key, vec![0; 3 << 20].into(), Condition::Any)
            .await
            .unwrap();
        (FlakyBackend::new(memory, seed, faults), key)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn without_faults_it_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let backend = FlakyBackend::new(Arc::new(MemoryBackend::new()), 1, Faults::default());
        conformance::check(Arc::new(backend), folder.path()).await;
    }

    #[tokio::test]
    async fn each_fault_shows_as_what_it_is() {
        let always = |fault: fn(&mut Faults)| {
            let mut faults = Faults::default();
            fault(&mut faults);
            with(faults, 7)
        };
        let (backend, key) = always(|faults| faults.error = 1.0).await;
        let error = backend.stat(&key).await.unwrap_err();
        assert!(!error.is_permanent());

        let (backend, key) = always(|faults| faults.truncated = 1.0).await;
        let error = backend
            .get(&key, None)
            .await
            .unwrap()
            .into_bytes(&key)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }));

        let (backend, key) = always(|faults| faults.wrong_bytes = 1.0).await;
        let bytes = backend
            .get(&key, None)
            .await
            .unwrap()
            .into_bytes(&key)
            .await
            .unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 1);

        let (backend, key) = always(|faults| faults.lost_answer = 1.0).await;
        assert!(
            backend
                .put(&key, "new".into(), Condition::Any)
                .await
                .is_err()
        );
        assert_eq!(backend.read(&key, 9).await.unwrap().0, "new");

        let (backend, key) = always(|faults| faults.stale_list = 1.0).await;
        let list = || List::objects(Prefix::new("folder/").unwrap(), 10);
        assert_eq!(backend.list(list()).await.unwrap().entries.len(), 1);
        backend.delete(&key).await.unwrap();
        assert_eq!(backend.list(list()).await.unwrap().entries.len(), 1);
        backend.set(Faults::default());
        assert_eq!(backend.list(list()).await.unwrap().entries.len(), 0);
    }

    #[tokio::test]
    async fn the_same_seed_fails_the_same_way() {
        let half = || Faults {
            error: 0.5,
            ..Faults::default()
        };
        let mut runs = Vec::new();
        for seed in [3, 3, 4] {
            let (backend, key) = with(half(), seed).await;
            let mut run = Vec::new();
            for _ in 0..64 {
                run.push(backend.stat(&key).await.is_ok());
            }
            runs.push(run);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
    }
}
