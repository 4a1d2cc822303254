//! One body out of the cache: it follows the files behind those who fill them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use backend::{ByteStream, Error, Key, Stat};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};

use super::run::{Failure, Run, repeated};
use super::{Asker, Runs};
use crate::blobs::blocking;

/// Bytes passed on at a time: at most, and at least unless the body or its run ends.
const PART_BYTES: u64 = 1 << 20;
const LEAST_PART_BYTES: u64 = 128 << 10;
/// How long no byte of a run may come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Times that a run may be gone again before it was opened.
const MAX_EVICTIONS: u32 = 8;

/// Bytes of an object, in order.
pub(super) struct Reader {
    runs: Arc<Runs>,
    key: Key,
    stat: Stat,
    asker: Asker,
    left: Range<u64>,
    current: Option<Current>,
    /// The run after the current one, which is read ahead.
    next: Option<Arc<Run>>,
    evictions: u32,
    /// Bytes straight from the store: this host's disk does not take them.
    direct: Option<ByteStream>,
}

struct Current {
    run: Arc<Run>,
    file: Option<Arc<File>>,
}

impl Reader {
    pub(super) fn new(
        runs: Arc<Runs>,
        key: &Key,
        stat: &Stat,
        left: Range<u64>,
        asker: Asker,
    ) -> Self {
        Self {
            runs,
            key: key.clone(),
            stat: stat.clone(),
            asker,
            left,
            current: None,
            next: None,
            evictions: 0,
            direct: None,
        }
    }

    /// Begins to read the run in which the next byte is, where no run is being read.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        if self.left.is_empty() || self.current.is_some() {
            return Ok(());
        }
        let run = match self.next.take() {
            Some(run) if run.range.contains(&self.left.start) => run,
            Some(_) | None => self.begin_at(self.left.start)?,
        };
        if self.left.end > run.range.end {
            // Where that fails it shows when its turn comes.
            self.next = self.begin_at(run.range.end).ok();
        }
        self.current = Some(Current { run, file: None });
        Ok(())
    }

    fn begin_at(&self, offset: u64) -> Result<Arc<Run>, Error> {
        self.runs.run(&self.key, &self.stat, offset, self.asker)
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        stream::try_unfold(self, |mut reader| async move {
            let bytes = reader.part().await?;
            Ok(bytes.map(|bytes| (bytes, reader)))
        })
    }

    async fn part(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.left.is_empty() {
            if self.direct.is_some() {
                return self.direct_part().await;
            }
            self.begin()?;
            let Some(current) = &self.current else { break };
            let run = Arc::clone(&current.run);
            let Some(end) = available(&run, &self.key, &self.left).await? else {
                // This run cannot be kept here.
                let rest = Some(self.left.clone());
                let object = self.runs.store.get(&self.key, rest).await?;
                self.direct = Some(object.body);
                continue;
            };
            if let Some(bytes) = self.read(self.left.start..end).await? {
                self.left.start = end;
                if self.left.start >= run.range.end {
                    self.current = None;
                }
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Reads from the file of the current run; `None` where that is gone.
    async fn read(&mut self, range: Range<u64>) -> Result<Option<Bytes>, Error> {
        let Some(Current { run, file }) = self.current.take() else {
            return Ok(None);
        };
        let read = blocking(move || {
            let read = run.read(file, &range);
            (run, read)
        });
        match read.await {
            (run, Ok((bytes, file))) => {
                let file = Some(file);
                self.current = Some(Current { run, file });
                Ok(Some(bytes))
            }
            // It was evicted before it was opened: it is read again.
            (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.evictions += 1;
                if self.evictions < MAX_EVICTIONS {
                    return Ok(None);
                }
                let text = "the origin's cache is too small for what is read; raise `cache.limit`";
                Err(Error::Unavailable(text.into()))
            }
            (_, Err(error)) => {
                tracing::warn!(key = %self.key, %error, "a cached run cannot be read; dropping it");
                self.runs.doubt(&self.key, self.left.start);
                Err(Error::Unavailable(format!("the origin's cache: {error}")))
            }
        }
    }

    async fn direct_part(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(body) = &mut self.direct else {
            return Ok(None);
        };
        match body.next().await.transpose()? {
            Some(bytes) => {
                self.left.start += bytes.len() as u64;
                Ok(Some(bytes))
            }
            None => Err(Error::Truncated {
                key: self.key.clone(),
            }),
        }
    }
}

/// Waits until there is enough of a run; returns where the next part of `left` ends, or `None`
/// where the disk does not take the run.
async fn available(run: &Run, key: &Key, left: &Range<u64>) -> Result<Option<u64>, Error> {
    let most = left.end.min(run.range.end).min(left.start + PART_BYTES);
    let enough = most.min(left.start + LEAST_PART_BYTES);
    let mut watch = run.watch();
    let written = |written: u64| run.range.start + written;
    let waited = watch.wait_for(|now| written(now.written) >= enough || now.is_over());
    let progress = match tokio::time::timeout(PATIENCE, waited).await {
        Ok(Ok(progress)) => progress.clone(),
        Ok(Err(_)) => return Err(Error::Unavailable("this origin is stopping".into())),
        Err(_) => {
            let text = format!("no byte of {key} for {} s", PATIENCE.as_secs());
            return Err(Error::Unavailable(text));
        }
    };
    let end = written(progress.written).min(most);
    match progress.end {
        // What came before the failure is as good as the rest.
        _ if end > left.start => Ok(Some(end)),
        Some(Err(Failure::Store(error))) => Err(repeated(&error, key)),
        Some(Err(Failure::Disk) | Ok(())) | None => Ok(None),
    }
}
