//! The tasks in memory: which of them is due next.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::journal::{Journal, QueueError, Written};

/// Most tasks; each takes some hundred bytes of memory.
const MAX_TASKS: usize = 1 << 20;

/// Tasks that survive the process.
#[derive(Debug)]
pub struct Queue {
    journal: Journal,
    state: Mutex<State>,
    /// Something may be due earlier than the worker knows.
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    tasks: HashMap<Bytes, Entry>,
    /// When those that nobody works on are due.
    due: BTreeSet<(Instant, Bytes)>,
    last_error: Option<String>,
    /// Counts what is put.
    version: u64,
}

#[derive(Debug)]
struct Entry {
    value: Bytes,
    since: SystemTime,
    failures: u32,
    due: Instant,
    /// Whether somebody works on it; then it is not in `State::due`.
    is_running: bool,
    /// A task that is put again while somebody works on it is not done with that work.
    version: u64,
}

/// A task that somebody shall work on.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    version: u64,
}

/// What waits, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    pub tasks: usize,
    /// How long the oldest has waited.
    pub oldest: Option<Duration>,
    /// What the last failure was, until a task is done again.
    pub last_error: Option<String>,
}

impl Queue {
    /// Opens a queue, and makes it where it is missing. Blocking. What an earlier process left is
    /// due at once.
    ///
    /// # Errors
    /// [`QueueError::Open`], which says what to do.
    pub fn open(path: &Path) -> Result<Self, QueueError> {
        let (journal, written) = Journal::open(path)?;
        let mut state = State::default();
        let now = Instant::now();
        for task in written {
            state.insert(task, now);
        }
        Ok(Self {
            journal,
            state: Mutex::new(state),
            woken: Notify::new(),
        })
    }

    /// Adds a task that is due after a pause, or replaces the one of this key. When this returns,
    /// the task is on the disk.
    ///
    /// # Errors
    /// [`QueueError`]; the task may or may not be there.
    pub async fn put(&self, key: Bytes, value: Bytes, after: Duration) -> Result<(), QueueError> {
        let since = {
            let state = self.state.lock();
            let before = state.tasks.get(&key);
            if before.is_none() && state.tasks.len() >= MAX_TASKS {
                return Err(QueueError::Full(MAX_TASKS));
            }
            before.map_or_else(SystemTime::now, |before| before.since)
        };
        let written = || Written {
            key: key.clone(),
            value: value.clone(),
            since,
        };
        self.journal.put(written()).await?;
        self.state.lock().insert(written(), Instant::now() + after);
        self.woken.notify_one();
        Ok(())
    }

    /// Returns the value of a task; `None` where there is none of this key.
    #[must_use]
    pub fn value(&self, key: &[u8]) -> Option<Bytes> {
        let state = self.state.lock();
        state.tasks.get(key).map(|task| task.value.clone())
    }

    #[must_use]
    pub fn pending(&self) -> Pending {
        let now = SystemTime::now();
        let state = self.state.lock();
        let oldest = state.tasks.values().map(|task| task.since).min();
        Pending {
            tasks: state.tasks.len(),
            oldest: oldest.map(|since| now.duration_since(since).unwrap_or_default()),
            last_error: state.last_error.clone(),
        }
    }

    /// Returns a task that is due.
    pub(crate) fn take(&self, now: Instant) -> Option<Task> {
        let mut state = self.state.lock();
        let first = state.due.first()?;
        if first.0 > now {
            return None;
        }
        let (_, key) = state.due.pop_first()?;
        let entry = state.tasks.get_mut(&key)?;
        entry.is_running = true;
        Some(Task {
            value: entry.value.clone(),
            version: entry.version,
            key,
        })
    }

    /// Returns when the next task is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.state.lock().due.first().map(|first| first.0)
    }

    /// Returns when a task may be due that was not there before.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Takes a task off that is done. Returns whether those before it had failed.
    pub(crate) async fn done(&self, task: &Task) -> bool {
        let (is_over, had_failed) = {
            let mut state = self.state.lock();
            let had_failed = state.last_error.take().is_some();
            (state.end(task), had_failed)
        };
        if is_over && let Err(error) = self.journal.remove(task.key.clone()).await {
            // After a restart it is done once more, which does no harm.
            tracing::warn!(%error, "a task that is done cannot be taken off the queue");
        }
        had_failed
    }

    /// Puts a task back that is not to be done yet.
    pub(crate) fn again(&self, task: &Task, due: Instant) {
        self.state.lock().put_back(task, due, 0);
    }

    /// Puts a task back that failed, after the pause for so many failures in a row. Returns whether
    /// it is the first failure since a task was done.
    pub(crate) fn failed(
        &self,
        task: &Task,
        error: String,
        pause: impl FnOnce(u32) -> Duration,
    ) -> bool {
        let mut state = self.state.lock();
        let failures = state.tasks.get(&task.key).map_or(0, |entry| entry.failures);
        let failures = failures.saturating_add(1);
        state.put_back(task, Instant::now() + pause(failures), failures);
        state.last_error.replace(error).is_none()
    }
}

impl State {
    fn insert(&mut self, task: Written, due: Instant) {
        self.version += 1;
        let mut entry = Entry {
            value: task.value,
            since: task.since,
            failures: 0,
            due,
            is_running: false,
            version: self.version,
        };
        if let Some(before) = self.tasks.get(&task.key) {
            self.due.remove(&(before.due, task.key.clone()));
            // Nobody works on a task beside somebody else: it is due when that has ended.
            entry.is_running = before.is_running;
        }
        if !entry.is_running {
            self.due.insert((due, task.key.clone()));
        }
        self.tasks.insert(task.key, entry);
    }

    /// Ends the work on a task. Returns whether the task is over: it was not put again meanwhile.
    fn end(&mut self, task: &Task) -> bool {
        let Some(entry) = self.tasks.get_mut(&task.key) else {
            return false;
        };
        if entry.version == task.version {
            self.tasks.remove(&task.key);
            return true;
        }
        entry.is_running = false;
        self.due.insert((entry.due, task.key.clone()));
        false
    }

    fn put_back(&mut self, task: &Task, due: Instant, failures: u32) {
        let Some(entry) = self.tasks.get_mut(&task.key) else {
            return;
        };
        entry.is_running = false;
        if entry.version == task.version {
            entry.failures = failures;
            entry.due = due;
        }
        self.due.insert((entry.due, task.key.clone()));
    }
}
