//! One read for many who ask the same at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Reads that are under way, by what they read.
///
/// Whoever asks gets the result of a read that began after the question: one that is under way
/// already may have seen what was true before. So there is one read at a time for each key, and
/// those who come meanwhile share the next one.
#[derive(Debug)]
pub(crate) struct Flights<K, V>(Arc<Mutex<HashMap<K, Waiting<V>>>>);

/// Those who wait for a read that has not begun.
type Waiting<V> = Vec<oneshot::Sender<V>>;

/// The task that read ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + 'static,
{
    /// Returns what a read of `key` finds. `read` must end: others wait for it.
    ///
    /// # Errors
    /// [`Lost`] where a read panicked.
    pub(crate) async fn ask<F>(
        &self,
        key: &K,
        read: impl Fn() -> F + Send + 'static,
    ) -> Result<V, Lost>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let is_first = {
            let mut keys = self.0.lock();
            let is_first = !keys.contains_key(key);
            keys.entry(key.clone()).or_default().push(sender);
            is_first
        };
        if is_first {
            let turn = Turn {
                keys: Arc::clone(&self.0),
                key: key.clone(),
            };
            // A task of its own: those who asked may leave, others wait for the same read.
            tokio::spawn(async move {
                while let Some(waiting) = turn.next() {
                    let value = read().await;
                    for sender in waiting {
                        // Who has left does not need it.
                        let _ = sender.send(value.clone());
                    }
                }
            });
        }
        receiver.await.map_err(|_| Lost)
    }

    #[cfg(test)]
    fn waiting(&self, key: &K) -> Option<usize> {
        self.0.lock().get(key).map(Vec::len)
    }
}

/// The right to read a key. Where it is dropped nobody waits any more, even after a panic.
struct Turn<K: Eq + Hash, V> {
    keys: Arc<Mutex<HashMap<K, Waiting<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Turn<K, V> {
    /// Returns those whom the read that begins now answers; `None` at the end.
    fn next(&self) -> Option<Waiting<V>> {
        let mut keys = self.keys.lock();
        let waiting = std::mem::take(keys.get_mut(&self.key)?);
        if waiting.is_empty() {
            keys.remove(&self.key);
            return None;
        }
        Some(waiting)
    }
}

impl<K: Eq + Hash, V> Drop for Turn<K, V> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keys.lock().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Something to read that changes, and reads that end when they are let.
    #[derive(Debug, Default)]
    struct Source {
        value: AtomicU32,
        reads: AtomicU32,
    }

    /// Lets every other task come to its next wait.
    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_shared_answer_comes_from_a_read_that_began_after_the_question() {
        let flights = Arc::new(Flights::<u8, u32>::default());
        let source = Arc::new(Source::default());
        let gate = Arc::new(Semaphore::new(0));
        let ask = || {
            let (flights, source) = (Arc::clone(&flights), Arc::clone(&source));
            let gate = Arc::clone(&gate);
            tokio::spawn(async move {
                let read = move || {
                    let (source, gate) = (Arc::clone(&source), Arc::clone(&gate));
                    async move {
                        source.reads.fetch_add(1, Ordering::SeqCst);
                        let value = source.value.load(Ordering::SeqCst);
                        gate.acquire().await.unwrap().forget();
                        value
                    }
                };
                flights.ask(&1, read).await.unwrap()
            })
        };
        let first = ask();
        settle().await;
        // The first read has seen the old value. Who asks from now on must not get it.
        source.value.store(7, Ordering::SeqCst);
        let later: Vec<_> = (0..20).map(|_| ask()).collect();
        settle().await;
        assert_eq!(source.reads.load(Ordering::SeqCst), 1);
        assert_eq!(flights.waiting(&1), Some(20));
        gate.add_permits(1);
        assert_eq!(first.await.unwrap(), 0);
        settle().await;
        gate.add_permits(1);
        for asked in later {
            assert_eq!(asked.await.unwrap(), 7);
        }
        assert_eq!(source.reads.load(Ordering::SeqCst), 2, "20 shared one read");
        settle().await;
        assert_eq!(flights.waiting(&1), None, "nothing is left behind");
    }

    #[tokio::test]
    async fn those_who_leave_stop_nobody() {
        let flights = Arc::new(Flights::<u8, u32>::default());
        let gate = Arc::new(Semaphore::new(0));
        let read = {
            let gate = Arc::clone(&gate);
            move || {
                let gate = Arc::clone(&gate);
                async move {
                    gate.acquire().await.unwrap().forget();
                    3
                }
            }
        };
        let leaves = {
            let (flights, read) = (Arc::clone(&flights), read.clone());
            tokio::spawn(async move { flights.ask(&1, read).await })
        };
        settle().await;
        leaves.abort();
        let stays = {
            let flights = Arc::clone(&flights);
            tokio::spawn(async move { flights.ask(&1, read).await })
        };
        settle().await;
        gate.add_permits(2);
        assert_eq!(stays.await.unwrap(), Ok(3));
    }

    #[tokio::test]
    async fn a_panic_leaves_nobody_waiting() {
        let flights = Flights::<u8, u32>::default();
        let panics = || async { panic!("on purpose") };
        assert_eq!(flights.ask(&1, panics).await, Err(Lost));
        assert_eq!(flights.ask(&1, || async { 4 }).await, Ok(4));
    }
}
