//! Content of an object store as this origin read it lately: runs of 8 MiB in files.
//!
//! ```text
//! <folder>/          emptied at each start: what is in it is known to the process alone
//!   0, 1, 2 …        one file for each run
//! ```
//!
//! A run is read once, in one request, however many ask for it, and always to its end: who asks
//! reads the file behind the task that fills it, so that a slow client neither holds a request to
//! the store open nor holds anybody else up. Its first bytes can be read before its last came.
//! Nothing here is checked: whoever reads a piece checks it, and says where it is damaged
//! ([`Runs::doubt`]).

mod fill;
mod reader;
mod run;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backend::{Backend, ETag, Error, Key, Object, Stat, clip_range};
use futures_util::StreamExt as _;
use lru::LruCache;
use parking_lot::Mutex;
use store::{DiskError, Watermarks, durable};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::metrics::Metrics;
use reader::Reader;
use run::Run;
pub(crate) use run::repeated;

/// Bytes of a run, but for the last one of an object.
pub const RUN_BYTES: u64 = 8 << 20;
/// What a run counts at least against the limit: a file costs more than its bytes, and so the
/// number of runs has a bound too.
const LEAST_CHARGE: u64 = 64 << 10;
/// Most runs that are read at a time from the store, and as many again from other origins.
const MAX_FILLING: u64 = 32;
/// Runs remembered as damaged, and for how long.
const KEPT_DOUBTS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
const DOUBT: Duration = Duration::from_secs(60);

/// Returns whether two looks at an object saw the same bytes. What an origin holds was hashed when
/// it came, and is tagged by its digest: that goes with the tag which the store gives it later.
#[must_use]
pub fn same_bytes(one: &Stat, other: &Stat) -> bool {
    let was_hashed = |etag: &ETag| etag.as_str().starts_with("sha256:");
    let tags_agree = one.etag == other.etag || was_hashed(&one.etag) || was_hashed(&other.etag);
    tags_agree && one.length == other.length
}

/// Who wants bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// This origin.
    Here,
    /// Another origin. It is never answered out of what yet another one would have to be asked for.
    Origin,
}

/// The other origins, as those who read the same store.
#[async_trait]
pub trait Others: Send + Sync + fmt::Debug + 'static {
    /// Returns who reads this run from the store; `None` where that is this origin.
    fn reader(&self, key: &Key, run: u64) -> Option<usize>;

    /// Starts to read a part of a run out of the cache of the origin that reads it from the store.
    ///
    /// # Errors
    /// It does not answer soon, or does not have it either.
    async fn run(
        &self,
        origin: usize,
        key: &Key,
        stat: &Stat,
        range: Range<u64>,
    ) -> Result<Object, Error>;

    /// Starts to read what an origin holds that has not put it into the store yet.
    ///
    /// # Errors
    /// [`Error::NotFound`] where nobody does.
    async fn held(&self, key: &Key, range: Range<u64>) -> Result<Object, Error>;
}

/// The cache of runs.
pub struct Runs {
    store: Arc<dyn Backend>,
    others: Arc<dyn Others>,
    folder: PathBuf,
    marks: Watermarks,
    metrics: Metrics,
    /// Runs that are read from the store wait for nobody else: those that are read from another
    /// origin, which may wait for this one, must not keep them from beginning.
    from_store: Semaphore,
    from_origins: Semaphore,
    index: Mutex<Index>,
}

struct Index {
    /// By use.
    runs: LruCache<RunId, Arc<Run>>,
    charged_bytes: u64,
    /// Name of the next file.
    next: u64,
    /// When a run was found damaged that had been read anew since.
    doubts: LruCache<RunId, Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RunId {
    key: Key,
    number: u64,
}

impl Runs {
    /// Opens an empty cache of at most about `limit_bytes` in a folder of its own, which is
    /// emptied. Blocking.
    ///
    /// # Errors
    /// [`DiskError`], which says what to do.
    pub fn open(
        store: Arc<dyn Backend>,
        others: Arc<dyn Others>,
        folder: PathBuf,
        limit_bytes: u64,
        metrics: Metrics,
    ) -> Result<Arc<Self>, DiskError> {
        let unusable = |source| DiskError::Folder {
            path: folder.clone(),
            source,
        };
        std::fs::create_dir_all(&folder).map_err(unusable)?;
        durable::empty(&folder)?;
        let filling = (limit_bytes / RUN_BYTES / 2).clamp(1, MAX_FILLING);
        let filling = usize::try_from(filling).unwrap_or(1);
        Ok(Arc::new(Self {
            store,
            others,
            folder,
            marks: Watermarks {
                high_bytes: limit_bytes,
                low_bytes: limit_bytes / 10 * 9,
            },
            metrics,
            from_store: Semaphore::new(filling),
            from_origins: Semaphore::new(filling),
            index: Mutex::new(Index {
                runs: LruCache::unbounded(),
                charged_bytes: 0,
                next: 0,
                doubts: LruCache::new(KEPT_DOUBTS),
            }),
        }))
    }

    /// Starts to read a part of an object of which `stat` is known. The run it begins in is being
    /// read, or is here, when this returns; the next one is read ahead while there is more to come.
    ///
    /// # Errors
    /// [`Error::Range`]; [`Error::Unavailable`] to an origin that would wait for another one. The
    /// body fails with [`Error::Precondition`] where the object is another one than `stat` says.
    pub fn get(
        self: &Arc<Self>,
        key: &Key,
        stat: &Stat,
        range: Option<Range<u64>>,
        asker: Asker,
    ) -> Result<Object, Error> {
        let range = clip_range(key, range, stat.length)?;
        let mut reader = Reader::new(Arc::clone(self), key, stat, range.clone(), asker);
        reader.begin()?;
        Ok(Object {
            stat: stat.clone(),
            range,
            body: reader.into_stream().boxed(),
        })
    }

    /// Drops the run around `offset`, of which a piece was found damaged: the next reader gets it
    /// from the store itself. Returns whether that is worth a try: `false` where it was read anew
    /// just before, and so the store has it like that.
    pub fn doubt(&self, key: &Key, offset: u64) -> bool {
        let id = RunId::around(key, offset);
        let mut index = self.index.lock();
        let now = Instant::now();
        let last = index.doubts.get(&id);
        if last.is_some_and(|last| now.duration_since(*last) < DOUBT) {
            return false;
        }
        index.doubts.put(id.clone(), now);
        let dropped = index.remove(&id);
        drop(index);
        self.remove_files(dropped.into_iter().collect());
        true
    }

    /// As [`Self::doubt`], where it is not known which run of an object is damaged: all are read
    /// anew, once.
    pub fn doubt_all(&self, key: &Key) -> bool {
        let mut index = self.index.lock();
        let is_new = index.doubts.put(RunId::all(key), Instant::now()).is_none();
        drop(index);
        if is_new {
            self.forget(key);
        }
        is_new
    }

    /// Drops everything of an object.
    pub fn forget(&self, key: &Key) {
        let mut index = self.index.lock();
        let ids: Vec<_> = index
            .runs
            .iter()
            .filter(|(id, _)| id.key == *key)
            .map(|(id, _)| id.clone())
            .collect();
        let dropped = ids.iter().filter_map(|id| index.remove(id)).collect();
        drop(index);
        self.remove_files(dropped);
    }

    /// Returns the bytes of the runs that are here or being read, as they count against the limit.
    #[must_use]
    pub fn charged_bytes(&self) -> u64 {
        self.index.lock().charged_bytes
    }

    /// Returns a run that is here or being read, or begins to read it.
    fn run(
        self: &Arc<Self>,
        key: &Key,
        stat: &Stat,
        offset: u64,
        asker: Asker,
    ) -> Result<Arc<Run>, Error> {
        let id = RunId::around(key, offset);
        let mut index = self.index.lock();
        if let Some(run) = index.runs.get(&id)
            && same_bytes(&run.stat, stat)
        {
            if asker == Asker::Origin && run.progress().waits_for_origin {
                let text = format!("this origin itself waits for another one for {key}");
                return Err(Error::Unavailable(text));
            }
            self.metrics.run_hits.inc();
            return Ok(Arc::clone(run));
        }
        self.metrics.run_misses.inc();
        let replaced = index.remove(&id);
        let from = match asker {
            // What was damaged may be so there too.
            Asker::Here if !index.is_doubted(&id) => self.others.reader(key, id.number),
            Asker::Here | Asker::Origin => None,
        };
        let path = self.folder.join(index.next.to_string());
        index.next += 1;
        let (run, filling) = Run::new(path, id.range(stat.length), stat.clone(), from.is_some());
        index.charged_bytes += run.charge();
        index.runs.put(id.clone(), Arc::clone(&run));
        let mut dropped = index.evict(self.marks.high_bytes, self.marks.low_bytes);
        drop(index);
        self.note_evicted(&dropped);
        dropped.extend(replaced);
        self.remove_files(dropped);
        tokio::spawn(fill::fill(
            Arc::clone(self),
            id,
            Arc::clone(&run),
            filling,
            from,
        ));
        Ok(run)
    }

    /// Makes room on a disk that is full: half of what is here goes.
    fn make_room(&self) {
        let mut index = self.index.lock();
        let half = index.charged_bytes / 2;
        let dropped = index.evict(0, half);
        drop(index);
        self.note_evicted(&dropped);
        self.remove_files(dropped);
    }

    /// Takes a run that failed out of the index, where it is still in it.
    fn give_up(&self, id: &RunId, run: &Arc<Run>) {
        let mut index = self.index.lock();
        if index.runs.peek(id).is_some_and(|one| Arc::ptr_eq(one, run)) {
            index.remove(id);
        }
        drop(index);
        self.remove_files(vec![Arc::clone(run)]);
    }

    fn note_evicted(&self, runs: &[Arc<Run>]) {
        let bytes = runs.iter().map(|run| run.length()).sum();
        self.metrics.run_evicted_bytes.inc_by(bytes);
    }

    /// Removes files; who reads one of them goes on reading it.
    fn remove_files(&self, runs: Vec<Arc<Run>>) {
        if runs.is_empty() {
            return;
        }
        // A task of its own: nobody waits for it, and a file that stays is removed at the next
        // start.
        tokio::task::spawn_blocking(move || {
            for run in runs {
                run.remove_file();
            }
        });
    }
}

impl Index {
    fn is_doubted(&self, id: &RunId) -> bool {
        self.doubts.contains(id) || self.doubts.contains(&RunId::all(&id.key))
    }

    fn remove(&mut self, id: &RunId) -> Option<Arc<Run>> {
        let run = self.runs.pop(id)?;
        self.charged_bytes -= run.charge();
        Some(run)
    }

    /// Takes out the runs that were used least recently, down to `low_bytes` where there are more
    /// than `high_bytes`. Those that are being read stay.
    fn evict(&mut self, high_bytes: u64, low_bytes: u64) -> Vec<Arc<Run>> {
        let mut dropped = Vec::new();
        if self.charged_bytes <= high_bytes {
            return dropped;
        }
        let mut left = self.charged_bytes;
        let mut ids = Vec::new();
        for (id, run) in self.runs.iter().rev() {
            if left <= low_bytes {
                break;
            }
            if run.progress().is_over() {
                left -= run.charge();
                ids.push(id.clone());
            }
        }
        dropped.extend(ids.iter().filter_map(|id| self.remove(id)));
        dropped
    }
}

impl RunId {
    fn around(key: &Key, offset: u64) -> Self {
        Self {
            key: key.clone(),
            number: offset / RUN_BYTES,
        }
    }

    /// Returns the id under which a doubt about all runs of an object stands.
    fn all(key: &Key) -> Self {
        Self {
            key: key.clone(),
            number: u64::MAX,
        }
    }

    /// Returns the bytes of the object that are in the run.
    fn range(&self, length: u64) -> Range<u64> {
        let start = self.number * RUN_BYTES;
        start..length.min(start + RUN_BYTES)
    }
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runs")
            .field("folder", &self.folder)
            .field("marks", &self.marks)
            .finish_non_exhaustive()
    }
}
