//! Whoever does the tasks.

use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::queue::{Queue, Task};
use crate::schedule::Schedule;

/// What came of working on a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It needs no more work.
    Done,
    /// Nothing is wrong, but it is too early.
    Later(Duration),
    /// It is to be tried again, after a pause that grows with each failure.
    Failed(String),
}

/// How tasks are done.
#[async_trait]
pub trait Work: Send + Sync + 'static {
    /// Works on a task. What was done may be asked for again: after a crash, or when the outcome
    /// could not be noted. A future that is dropped, at the end of the process, is no failure.
    async fn run(&self, key: Bytes, value: Bytes) -> Outcome;
}

/// How a worker goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tasks at a time.
    pub parallel: NonZeroUsize,
    pub schedule: Schedule,
    /// Of the random part of the pauses.
    pub seed: u64,
}

/// Works on the tasks of a queue as they become due. Ends when it is dropped.
pub async fn work(queue: Arc<Queue>, work: Arc<dyn Work>, options: Options) {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut running = JoinSet::new();
    loop {
        let has_room = running.len() < options.parallel.get();
        if has_room && let Some(task) = queue.take(Instant::now()) {
            running.spawn(run(Arc::clone(&work), task));
            continue;
        }
        let due = queue.next_due().filter(|_| has_room);
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = queue.woken() => {}
            Some(ended) = running.join_next() => {
                // A task that panicked was caught; nobody aborts one.
                if let Ok((task, outcome)) = ended {
                    note(&queue, &task, outcome, &options.schedule, rng.random()).await;
                }
            }
        }
    }
}

async fn run(work: Arc<dyn Work>, task: Task) -> (Task, Outcome) {
    let running = work.run(task.key.clone(), task.value.clone());
    let outcome = AssertUnwindSafe(running).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|_| Outcome::Failed("a bug ended it".into()));
    (task, outcome)
}

async fn note(queue: &Queue, task: &Task, outcome: Outcome, schedule: &Schedule, random: u64) {
    match outcome {
        Outcome::Done => {
            if queue.done(task).await {
                tracing::info!("the tasks of the queue succeed again");
            }
        }
        Outcome::Later(pause) => queue.again(task, Instant::now() + pause),
        Outcome::Failed(error) => {
            let text = error.clone();
            if queue.failed(task, text, |failures| schedule.pause(failures, random)) {
                tracing::warn!(error, "a task failed; it is tried again until it succeeds");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use parking_lot::Mutex;

    use super::*;

    /// Fails as often as it is told, and remembers when it was asked.
    #[derive(Debug, Default)]
    struct Script {
        failures: Mutex<HashMap<Bytes, usize>>,
        asked: Mutex<Vec<(Bytes, Bytes)>>,
        at_a_time: Mutex<(usize, usize)>,
    }

    #[async_trait]
    impl Work for Script {
        async fn run(&self, key: Bytes, value: Bytes) -> Outcome {
            {
                let mut at_a_time = self.at_a_time.lock();
                at_a_time.0 += 1;
                at_a_time.1 = at_a_time.1.max(at_a_time.0);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.at_a_time.lock().0 -= 1;
            self.asked.lock().push((key.clone(), value.clone()));
            assert_ne!(value, "panic", "on purpose");
            match self.failures.lock().get_mut(&key) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    Outcome::Failed(format!("{left} more"))
                }
                Some(_) | None => Outcome::Done,
            }
        }
    }

    fn options() -> Options {
        Options {
            parallel: NonZeroUsize::new(3).unwrap(),
            schedule: Schedule::default(),
            seed: 1,
        }
    }

    fn start(path: &Path, script: &Arc<Script>) -> (Arc<Queue>, tokio::task::JoinHandle<()>) {
        let queue = Arc::new(Queue::open(path).unwrap());
        let script = Arc::clone(script) as Arc<dyn Work>;
        let working = tokio::spawn(work(Arc::clone(&queue), script, options()));
        (queue, working)
    }

    async fn until(what: impl Fn() -> bool) {
        let waiting = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn every_task_is_done_however_often_it_fails() {
        let folder = tempfile::tempdir().unwrap();
        let script = Arc::<Script>::default();
        script.failures.lock().insert("2".into(), 3);
        let (queue, _working) = start(&folder.path().join("queue"), &script);
        for at in 0..8 {
            let key = Bytes::from(at.to_string());
            queue
                .put(key, "value".into(), Duration::ZERO)
                .await
                .unwrap();
        }
        until(|| queue.pending().last_error.is_some()).await;
        until(|| queue.pending().tasks == 0).await;
        assert_eq!(queue.pending(), crate::Pending::default());
        assert_eq!(script.asked.lock().len(), 8 + 3);
        assert_eq!(script.at_a_time.lock().1, 3, "as many at a time as allowed");
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_done_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue");
        let script = Arc::<Script>::default();
        script.failures.lock().insert("a".into(), usize::MAX);
        let (queue, working) = start(&path, &script);
        queue
            .put("a".into(), "v".into(), Duration::ZERO)
            .await
            .unwrap();
        let hour = Duration::from_secs(3600);
        queue.put("b".into(), "later".into(), hour).await.unwrap();
        until(|| queue.pending().last_error.is_some()).await;
        working.abort();
        assert!(working.await.unwrap_err().is_cancelled());
        drop(queue);

        script.failures.lock().clear();
        let (queue, _working) = start(&path, &script);
        assert_eq!(queue.pending().tasks, 2);
        until(|| queue.pending().tasks == 0).await;
        assert!(script.asked.lock().contains(&("b".into(), "later".into())));
    }

    #[tokio::test]
    async fn a_task_put_again_while_it_runs_is_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let script = Arc::<Script>::default();
        let (queue, _working) = start(&folder.path().join("queue"), &script);
        queue
            .put("a".into(), "one".into(), Duration::ZERO)
            .await
            .unwrap();
        until(|| script.at_a_time.lock().0 == 1).await;
        queue
            .put("a".into(), "two".into(), Duration::ZERO)
            .await
            .unwrap();
        until(|| queue.pending().tasks == 0).await;
        let values: Vec<_> = script
            .asked
            .lock()
            .iter()
            .map(|asked| asked.1.clone())
            .collect();
        assert_eq!(values, ["one", "two"]);
        assert_eq!(script.at_a_time.lock().1, 1, "never twice at a time");
    }

    #[tokio::test]
    async fn work_that_panics_does_not_end_the_worker() {
        let folder = tempfile::tempdir().unwrap();
        let script = Arc::<Script>::default();
        let (queue, working) = start(&folder.path().join("queue"), &script);
        queue
            .put("a".into(), "panic".into(), Duration::ZERO)
            .await
            .unwrap();
        until(|| queue.pending().last_error.is_some()).await;
        queue
            .put("a".into(), "good".into(), Duration::ZERO)
            .await
            .unwrap();
        until(|| queue.pending().tasks == 0).await;
        assert!(!working.is_finished());
    }

    #[tokio::test]
    async fn a_task_waits_until_it_is_due() {
        let folder = tempfile::tempdir().unwrap();
        let script = Arc::<Script>::default();
        let (queue, _working) = start(&folder.path().join("queue"), &script);
        let hour = Duration::from_secs(3600);
        queue.put("late".into(), "v".into(), hour).await.unwrap();
        queue
            .put("now".into(), "v".into(), Duration::ZERO)
            .await
            .unwrap();
        until(|| !script.asked.lock().is_empty() && queue.value(b"now").is_none()).await;
        assert_eq!(queue.value(b"late").unwrap(), "v");
        assert_eq!(queue.pending().tasks, 1);
        // Put again, it is due at the new time.
        queue
            .put("late".into(), "v".into(), Duration::ZERO)
            .await
            .unwrap();
        until(|| queue.pending().tasks == 0).await;
    }
}
