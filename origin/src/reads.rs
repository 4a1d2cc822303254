//! Reading an object store: what is there, and its bytes, each asked for once in the cluster.
//!
//! Content goes through the cache of runs. What is known of an object is remembered for some
//! seconds, and questions about it at the same time are one question; absence is never remembered,
//! and told only to those who asked before it was found, so that what was pushed before the
//! question is never absent.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backend::{Backend, Error, Key, Object, Stat, layout};
use bytes::Bytes;
use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use lru::LruCache;
use parking_lot::Mutex;
use store::DiskError;
use tokio::time::Instant;

use crate::blobs::blocking;
use crate::metrics::Metrics;
use crate::ring::Ring;
use crate::runs::{Asker, Runs, repeated};

/// How long it counts as there what was there.
const FRESH: Duration = Duration::from_secs(5);
/// Objects remembered, also beyond that: what their bytes are called in the cache of runs.
const KEPT: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
/// Questions that may be open at a time.
const MAX_ASKING: usize = 4096;

/// The read path of one origin.
pub struct Reads {
    store: Arc<dyn Backend>,
    runs: Arc<Runs>,
    ring: Arc<Ring>,
    state: Mutex<State>,
}

struct State {
    known: LruCache<Key, Known>,
    /// Questions that are open, by whom they are asked of: `None` is the store.
    asking: HashMap<(Key, Option<usize>), Asking>,
}

#[derive(Clone, Debug)]
struct Known {
    stat: Stat,
    at: Instant,
}

type Asking = Shared<BoxFuture<'static, Result<Option<Stat>, Arc<Error>>>>;

/// What a read path is made of.
#[derive(Debug)]
pub struct Setup {
    pub store: Arc<dyn Backend>,
    pub ring: Ring,
    /// Folder for the cache of runs, and for nothing else: it is emptied.
    pub folder: PathBuf,
    /// Most bytes in it.
    pub limit_bytes: u64,
    pub metrics: Metrics,
}

impl Reads {
    /// # Errors
    /// The folder cannot be used.
    pub async fn open(setup: Setup) -> Result<Arc<Self>, DiskError> {
        let Setup {
            store,
            ring,
            folder,
            limit_bytes,
            metrics,
        } = setup;
        let ring = Arc::new(ring);
        let (of, others) = (Arc::clone(&store), Arc::clone(&ring));
        let runs = blocking(move || Runs::open(of, others, folder, limit_bytes, metrics));
        Ok(Arc::new(Self {
            store,
            runs: runs.await?,
            ring,
            state: Mutex::new(State {
                known: LruCache::new(KEPT),
                asking: HashMap::new(),
            }),
        }))
    }

    #[must_use]
    pub const fn runs(&self) -> &Arc<Runs> {
        &self.runs
    }

    #[must_use]
    pub const fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Returns what is known of an object; that of content is remembered.
    ///
    /// # Errors
    /// As [`Backend::stat`].
    pub async fn stat(self: &Arc<Self>, key: &Key, asker: Asker) -> Result<Stat, Error> {
        if let Some(known) = self.known(key)
            && known.at.elapsed() < FRESH
        {
            return Ok(known.stat);
        }
        let first = layout::content_of(key).and_then(|content| self.ring.first(&content));
        let from = first.filter(|_| asker == Asker::Here);
        loop {
            let (answer, joined) = self.ask(key, from)?;
            match answer.await {
                Ok(Some(stat)) => return Ok(stat),
                Ok(None) if joined => {}
                Ok(None) => return Err(Error::NotFound { key: key.clone() }),
                Err(error) => return Err(repeated(&error, key)),
            }
        }
    }

    /// Starts to read an object, or a part of it; content through the cache of runs.
    ///
    /// # Errors
    /// As [`Backend::get`].
    pub async fn get(
        self: &Arc<Self>,
        key: &Key,
        range: Option<Range<u64>>,
    ) -> Result<Object, Error> {
        if layout::content_of(key).is_none() {
            return self.store.get(key, range).await;
        }
        // Bytes that are in the cache are as right as they were.
        let stat = match self.known(key) {
            Some(known) => known.stat,
            None => self.stat(key, Asker::Here).await?,
        };
        let object = self.runs.get(key, &stat, range, Asker::Here)?;
        let (this, of) = (Arc::clone(self), key.clone());
        let body = object.body.inspect_err(move |error| {
            if error.is_precondition() || error.is_not_found() {
                this.forget_stat(&of);
            }
        });
        Ok(Object {
            body: body.boxed(),
            ..object
        })
    }

    /// Starts to read a part of an object for another origin, which says what it is.
    ///
    /// # Errors
    /// As [`Runs::get`].
    pub fn get_for_origin(
        &self,
        key: &Key,
        stat: &Stat,
        range: Range<u64>,
    ) -> Result<Object, Error> {
        self.runs.get(key, stat, Some(range), Asker::Origin)
    }

    /// Reads a small object. Metainfo comes from the first owner of its blob, which has looked
    /// whether it can be made where it is not there.
    ///
    /// # Errors
    /// As [`Backend::read`].
    pub async fn read(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Stat), Error> {
        if let Some(digest) = layout::metainfo_of(key)
            && let Some(origin) = self.ring.first(&digest)
        {
            match self.ring.described(origin, &digest).await {
                Ok(Some(bytes)) => {
                    let stat = Stat {
                        length: bytes.len() as u64,
                        etag: backend::ETag::new(oci::Digest::sha256(&bytes).to_string()),
                        modified: std::time::SystemTime::UNIX_EPOCH,
                    };
                    return Ok((bytes, stat));
                }
                Ok(None) => return Err(Error::NotFound { key: key.clone() }),
                Err(error) => tracing::debug!(%digest, %error, "asking the store for metainfo"),
            }
        }
        match self.store.read(key, limit_bytes).await {
            Err(error) if error.is_not_found() => {
                let held = self.ring.held_bytes(key, limit_bytes).await?;
                held.ok_or(error)
            }
            read => read,
        }
    }

    /// Hears that content was found damaged; see [`Backend::doubt`].
    #[must_use]
    pub fn doubt(&self, key: &Key, offset: Option<u64>) -> bool {
        match offset {
            Some(offset) => self.runs.doubt(key, offset),
            None => self.runs.doubt_all(key),
        }
    }

    /// Forgets an object, because it was removed, or written.
    pub fn forget(&self, key: &Key) {
        self.forget_stat(key);
        self.runs.forget(key);
    }

    fn forget_stat(&self, key: &Key) {
        self.state.lock().known.pop(key);
    }

    fn known(&self, key: &Key) -> Option<Known> {
        self.state.lock().known.get(key).cloned()
    }

    /// Joins a question that is open, or asks it in a task of its own: it does not end with who
    /// asked first.
    fn ask(self: &Arc<Self>, key: &Key, from: Option<usize>) -> Result<(Asking, bool), Error> {
        let mut state = self.state.lock();
        let id = (key.clone(), from);
        if let Some(asking) = state.asking.get(&id) {
            return Ok((asking.clone(), true));
        }
        if state.asking.len() >= MAX_ASKING {
            let text = "too many questions to the store are open; ask again later";
            return Err(Error::Unavailable(text.into()));
        }
        let (this, key) = (Arc::clone(self), key.clone());
        let task = tokio::spawn(async move {
            let answer = this.look(&key, from).await;
            let mut state = this.state.lock();
            state.asking.remove(&(key.clone(), from));
            if let Ok(Some(stat)) = &answer {
                let known = Known {
                    stat: stat.clone(),
                    at: Instant::now(),
                };
                state.known.put(key, known);
            }
            answer.map_err(Arc::new)
        });
        let asking = task.map(|ended| match ended {
            Ok(answer) => answer,
            Err(_) => Err(Arc::new(Error::Unavailable(
                "this origin is stopping".into(),
            ))),
        });
        let asking = asking.boxed().shared();
        state.asking.insert(id, asking.clone());
        Ok((asking, false))
    }

    async fn look(&self, key: &Key, from: Option<usize>) -> Result<Option<Stat>, Error> {
        if let Some(origin) = from {
            match self.ring.stat(origin, key).await {
                Ok(found) => return Ok(found),
                Err(error) => tracing::debug!(%key, %error, "asking the store itself"),
            }
        }
        match self.store.stat(key).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.is_not_found() => Ok(self.ring.held_stat(key).await),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
