//! The tasks on the disk. One thread writes; changes that wait for it share a transaction.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::sync::{mpsc, oneshot};

/// Key to when the task was put, in milliseconds since 1970, and its value.
const TASKS: TableDefinition<'_, &[u8], (u64, &[u8])> = TableDefinition::new("tasks");

/// Changes that may wait for the disk.
const MAX_WAITING: usize = 1024;
/// Changes of one transaction.
const MAX_TOGETHER: usize = 256;
/// Memory for pages of the file.
const CACHE_BYTES: usize = 4 << 20;

/// A queue that cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error(
        "the queue {} cannot be opened: {reason}; where it is damaged, move it away: what it \
         leads to is found again",
        path.display()
    )]
    Open { path: PathBuf, reason: String },
    #[error("the queue {} cannot be written to: {reason}", path.display())]
    Write { path: PathBuf, reason: String },
    #[error("more than {0} tasks wait; more are taken when some of them are done")]
    Full(usize),
}

/// A task as it is on the disk.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) since: SystemTime,
}

#[derive(Debug)]
enum Act {
    Put(Written),
    Remove(Bytes),
}

#[derive(Debug)]
struct Change {
    act: Act,
    done: oneshot::Sender<Result<(), String>>,
}

/// The file, and the thread that writes it.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    changes: Option<mpsc::Sender<Change>>,
    writer: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the file, and makes it where it is missing. Returns what is in it. Blocking.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Written>), QueueError> {
        let failed = |reason: String| QueueError::Open {
            path: path.to_owned(),
            reason,
        };
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create(path);
        let database = database.map_err(|error| failed(error.to_string()))?;
        let written = read(&database).map_err(|error| failed(error.to_string()))?;
        let (changes, waiting) = mpsc::channel(MAX_WAITING);
        let writer = std::thread::Builder::new()
            .name("retry-journal".into())
            .spawn(move || write(&database, waiting))
            .map_err(|error| failed(error.to_string()))?;
        let journal = Self {
            path: path.to_owned(),
            changes: Some(changes),
            writer: Some(writer),
        };
        Ok((journal, written))
    }

    /// Returns when the task is on the disk.
    pub(crate) async fn put(&self, task: Written) -> Result<(), QueueError> {
        self.change(Act::Put(task)).await
    }

    /// Returns when the task is off the disk.
    pub(crate) async fn remove(&self, key: Bytes) -> Result<(), QueueError> {
        self.change(Act::Remove(key)).await
    }

    async fn change(&self, act: Act) -> Result<(), QueueError> {
        let (done, written) = oneshot::channel();
        let changes = self.changes.as_ref();
        let written = match changes {
            Some(changes) if changes.send(Change { act, done }).await.is_ok() => written.await,
            Some(_) | None => Ok(Err("its writer has ended".into())),
        };
        let written = written.unwrap_or_else(|_| Err("its writer has ended".into()));
        written.map_err(|reason| QueueError::Write {
            path: self.path.clone(),
            reason,
        })
    }
}

/// Who opens the file next shall not find it in use.
impl Drop for Journal {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn read(database: &Database) -> Result<Vec<Written>, redb::Error> {
    // Opening a table for writing makes it where it is missing.
    let transaction = database.begin_write()?;
    transaction.open_table(TASKS)?;
    transaction.commit()?;
    let table = database.begin_read()?.open_table(TASKS)?;
    let mut written = Vec::new();
    for entry in table.iter()? {
        let (key, task) = entry?;
        let (since_ms, value) = task.value();
        written.push(Written {
            key: Bytes::copy_from_slice(key.value()),
            value: Bytes::copy_from_slice(value),
            since: UNIX_EPOCH + Duration::from_millis(since_ms),
        });
    }
    Ok(written)
}

fn write(database: &Database, mut waiting: mpsc::Receiver<Change>) {
    let mut together = Vec::with_capacity(MAX_TOGETHER);
    while let Some(first) = waiting.blocking_recv() {
        together.push(first);
        while together.len() < MAX_TOGETHER
            && let Ok(next) = waiting.try_recv()
        {
            together.push(next);
        }
        let result = commit(database, &together).map_err(|error| error.to_string());
        for change in together.drain(..) {
            // Who asked may have left.
            let _ = change.done.send(result.clone());
        }
    }
}

fn commit(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut table = transaction.open_table(TASKS)?;
        for change in changes {
            match &change.act {
                Act::Put(task) => {
                    let since = task.since.duration_since(UNIX_EPOCH).unwrap_or_default();
                    let since_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                    table.insert(&*task.key, (since_ms, &*task.value))?;
                }
                Act::Remove(key) => {
                    table.remove(&**key)?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(key: &'static str) -> Written {
        Written {
            key: key.into(),
            value: "value".into(),
            since: UNIX_EPOCH + Duration::from_millis(7),
        }
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue");
        let (journal, written) = Journal::open(&path).unwrap();
        assert!(written.is_empty());
        for key in ["a", "b", "c"] {
            journal.put(task(key)).await.unwrap();
        }
        journal.remove("b".into()).await.unwrap();
        drop(journal);
        let (_journal, written) = Journal::open(&path).unwrap();
        let keys: Vec<_> = written.iter().map(|task| &task.key[..]).collect();
        assert_eq!(keys, [b"a", b"c"]);
        assert_eq!(written[0].value, "value");
        assert_eq!(written[0].since, task("a").since);
    }

    /// The bytes of the file at any moment are what a killed process leaves.
    #[tokio::test]
    async fn a_killed_process_leaves_all_that_was_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let (path, left) = (folder.path().join("queue"), folder.path().join("left"));
        let (journal, _) = Journal::open(&path).unwrap();
        for key in ["a", "b", "c", "d"] {
            journal.put(task(key)).await.unwrap();
        }
        std::fs::copy(&path, &left).unwrap();
        let (_journal, written) = Journal::open(&left).unwrap();
        assert_eq!(written.len(), 4);
    }

    #[test]
    fn a_damaged_file_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("move it away"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 100_000]);
    }

    #[tokio::test]
    async fn an_overwritten_file_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue");
        let (journal, _) = Journal::open(&path).unwrap();
        for at in 0..200_u32 {
            let key = Bytes::copy_from_slice(&at.to_be_bytes());
            journal.put(Written { key, ..task("") }).await.unwrap();
        }
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        let half = bytes.len() / 2;
        bytes[4096..half].fill(0xa5);
        std::fs::write(&path, &bytes).unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("move it away"), "{error}");
    }
}
