//! Reading a run to its end, through the failures of a network.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use backend::{Error, Object};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::run::{Failure, Progress, Run};
use super::{RunId, Runs, same_bytes};
use crate::blobs::blocking;

/// Times in a row that the store may fail without a byte of progress.
const MAX_ATTEMPTS: u32 = 5;
/// Wait before the second attempt; doubled for each further one.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Parts that are written at once where they came at once.
const MAX_PARTS: usize = 64;
/// How long a source may be silent before its connection is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// Reads a run and tells how far it is; from another origin where `from` names one, as far as that
/// one gives it, and the rest from the store.
pub(super) async fn fill(
    runs: Arc<Runs>,
    id: RunId,
    run: Arc<Run>,
    progress: watch::Sender<Progress>,
    from: Option<usize>,
) {
    let mut filling = Filling {
        runs: Arc::clone(&runs),
        id: id.clone(),
        run: Arc::clone(&run),
        progress,
        file: None,
        start: run.range.start,
    };
    let mut end = filling.whole(from).await;
    if let Err(failure) = &end {
        tracing::debug!(key = %id.key, run = id.number, ?failure, "a run was not read");
        runs.give_up(&id, &run);
    } else if filling.start != run.range.end {
        let key = id.key.clone();
        end = Err(Failure::Store(Arc::new(Error::Truncated { key })));
    }
    filling.progress.send_modify(|progress| {
        progress.waits_for_origin = false;
        progress.end = Some(end);
    });
}

struct Filling {
    runs: Arc<Runs>,
    id: RunId,
    run: Arc<Run>,
    progress: watch::Sender<Progress>,
    file: Option<Arc<File>>,
    /// Offset in the object of the next byte.
    start: u64,
}

/// Why a body was not read to its end.
enum Broken {
    /// Its source failed: the rest may come from elsewhere.
    Source(Error),
    /// This run fails.
    Run(Failure),
}

impl Filling {
    async fn whole(&mut self, from: Option<usize>) -> Result<(), Failure> {
        if let Some(origin) = from {
            match self.read_origin(origin).await {
                Ok(()) => return Ok(()),
                Err(Broken::Run(failure)) => return Err(failure),
                Err(Broken::Source(error)) => {
                    let key = &self.id.key;
                    tracing::debug!(%key, %error, "reading what another origin should have read");
                }
            }
            self.progress
                .send_modify(|progress| progress.waits_for_origin = false);
        }
        self.read_store().await
    }

    async fn read_origin(&mut self, origin: usize) -> Result<(), Broken> {
        let runs = Arc::clone(&self.runs);
        let _turn = runs.from_origins.acquire().await;
        let rest = self.start..self.run.range.end;
        let asked = runs
            .others
            .run(origin, &self.id.key, &self.run.stat, rest)
            .await;
        self.take(asked.map_err(Broken::Source)?).await
    }

    async fn read_store(&mut self) -> Result<(), Failure> {
        let runs = Arc::clone(&self.runs);
        let _turn = runs.from_store.acquire().await;
        let mut attempts = 0;
        loop {
            let before = self.start;
            let error = match self.read_store_once().await {
                Ok(()) => return Ok(()),
                Err(Broken::Run(failure)) => return Err(failure),
                Err(Broken::Source(error)) => error,
            };
            if error.is_not_found() {
                return self.read_holder(error).await;
            }
            attempts = if self.start > before { 1 } else { attempts + 1 };
            if error.is_permanent() || attempts == MAX_ATTEMPTS {
                return Err(Failure::Store(Arc::new(error)));
            }
            tracing::debug!(key = %self.id.key, %error, attempts, "reading a run again");
            tokio::time::sleep(FIRST_DELAY * (1 << (attempts - 1))).await;
        }
    }

    async fn read_store_once(&mut self) -> Result<(), Broken> {
        let rest = self.start..self.run.range.end;
        let got = self.runs.store.get(&self.id.key, Some(rest)).await;
        self.take(got.map_err(Broken::Source)?).await
    }

    /// Takes what is not in the store yet from an origin that holds it.
    async fn read_holder(&mut self, absent: Error) -> Result<(), Failure> {
        let rest = self.start..self.run.range.end;
        let Ok(object) = self.runs.others.held(&self.id.key, rest).await else {
            return Err(Failure::Store(Arc::new(absent)));
        };
        match self.take(object).await {
            Ok(()) => Ok(()),
            Err(Broken::Run(failure)) => Err(failure),
            Err(Broken::Source(error)) => Err(Failure::Store(Arc::new(error))),
        }
    }

    /// Writes a body to the file.
    async fn take(&mut self, object: Object) -> Result<(), Broken> {
        if !same_bytes(&object.stat, &self.run.stat) {
            let key = self.id.key.clone();
            return Err(Broken::Source(Error::Precondition { key }));
        }
        let mut body = object.body.ready_chunks(MAX_PARTS);
        while self.start < self.run.range.end {
            let Ok(parts) = tokio::time::timeout(SILENCE, body.next()).await else {
                let text = format!("nothing came for {} s", SILENCE.as_secs());
                return Err(Broken::Source(Error::Unavailable(text)));
            };
            let truncated = || Error::Truncated {
                key: self.id.key.clone(),
            };
            let parts = parts.ok_or_else(truncated).map_err(Broken::Source)?;
            for part in joined(parts) {
                let part = part.map_err(Broken::Source)?;
                self.write(part).await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self, part: Bytes) -> Result<(), Broken> {
        let most = self.run.range.end - self.start;
        if part.len() as u64 > most {
            let text = format!("more bytes of {} came than it has", self.id.key);
            return Err(Broken::Source(Error::Unavailable(text)));
        }
        let written = match self.write_once(part.clone()).await {
            Err(error) if is_full(&error) => {
                self.runs.make_room();
                self.write_once(part.clone()).await
            }
            written => written,
        };
        if let Err(error) = written {
            let folder = self.runs.folder.display();
            tracing::warn!(%folder, %error, "the cache takes no bytes; reading around it");
            return Err(Broken::Run(Failure::Disk));
        }
        self.start += part.len() as u64;
        let written = self.start - self.run.range.start;
        self.progress.send_modify(|progress| {
            progress.written = written;
            progress.waits_for_origin = false;
        });
        Ok(())
    }

    async fn write_once(&mut self, part: Bytes) -> io::Result<()> {
        let (file, run, at) = (
            self.file.take(),
            Arc::clone(&self.run),
            self.start - self.run.range.start,
        );
        let file = blocking(move || {
            let file = match file {
                Some(file) => file,
                None => run.create()?,
            };
            file.write_all_at(&part, at)?;
            Ok::<_, io::Error>(file)
        });
        self.file = Some(file.await?);
        Ok(())
    }
}

/// Joins parts that came at once into one, up to a failure.
fn joined(parts: Vec<Result<Bytes, Error>>) -> Vec<Result<Bytes, Error>> {
    if parts.len() == 1 {
        return parts;
    }
    let mut all = bytes::BytesMut::new();
    let mut failed = None;
    for part in parts {
        match part {
            Ok(part) => all.extend_from_slice(&part),
            Err(error) => {
                failed = Some(Err(error));
                break;
            }
        }
    }
    let all = (!all.is_empty()).then(|| Ok(all.freeze()));
    all.into_iter().chain(failed).collect()
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
