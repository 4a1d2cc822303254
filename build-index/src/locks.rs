//! Turns of writers in this process. Storage decides who wins; this only saves them from getting
//! in each other's way.

use std::hash::{BuildHasher as _, Hash, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// How many can write at a time; those whose keys fall together wait for each other.
const STRIPES: u64 = 256;

/// Locks by key; their number does not grow with the keys.
#[derive(Debug)]
pub(crate) struct Locks {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Locks {
    /// Waits for the turn of a key. Nobody may wait for a second one of the same locks meanwhile.
    pub(crate) async fn turn(&self, key: impl Hash) -> MutexGuard<'_, ()> {
        let stripe = self.hasher.hash_one(key) % STRIPES;
        let stripe = usize::try_from(stripe).unwrap_or(0);
        self.stripes[stripe].lock().await
    }
}
