//! Turns of writers in this process. Where storage decides who wins, this only saves them from
//! getting in each other's way; where one process writes for all, it is what keeps them apart.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// How many can write at a time; those whose keys fall together wait for each other.
const STRIPES: u64 = 256;

/// Locks by key; their number does not grow with the keys.
#[derive(Debug)]
pub(crate) struct Locks {
    stripes: Vec<Arc<Mutex<()>>>,
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Arc::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Locks {
    /// Waits for the turn of a key. Nobody may wait for a second one of the same locks meanwhile.
    pub(crate) async fn turn(&self, key: impl Hash) -> OwnedMutexGuard<()> {
        self.stripe(key).lock_owned().await
    }

    /// Returns the turn of a key where nobody has it.
    pub(crate) fn try_turn(&self, key: impl Hash) -> Option<OwnedMutexGuard<()>> {
        self.stripe(key).try_lock_owned().ok()
    }

    fn stripe(&self, key: impl Hash) -> Arc<Mutex<()>> {
        let stripe = self.hasher.hash_one(key) % STRIPES;
        let stripe = usize::try_from(stripe).unwrap_or(0);
        Arc::clone(&self.stripes[stripe])
    }
}
