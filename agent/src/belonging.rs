//! What belongs to which repository, as manifests and answers of lately tell.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use oci::{Digest, RepositoryName};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Blobs or manifests of repositories that are remembered.
const MAX_ENTRIES: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// How long an entry is believed without asking again.
const BELIEVED: Duration = Duration::from_secs(5);
/// How long an entry may still be used when nobody can be asked.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// A bounded memory of (repository, digest) → length. Each entry is believed for a short while
/// only, so that what was deleted elsewhere stops here too.
#[derive(Debug)]
pub struct Belonging {
    entries: Mutex<LruCache<(RepositoryName, Digest), Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    length: u64,
    noted: Instant,
}

impl Default for Belonging {
    fn default() -> Self {
        Self {
            entries: Mutex::new(LruCache::new(MAX_ENTRIES)),
        }
    }
}

impl Belonging {
    /// Notes that the repository has this, with its length in bytes.
    pub fn note(&self, repository: &RepositoryName, digest: Digest, length: u64) {
        self.note_of(Duration::ZERO, repository, digest, length);
    }

    /// Notes what was so a while ago: that counts as time for which it was believed.
    pub fn note_of(&self, age: Duration, repository: &RepositoryName, digest: Digest, length: u64) {
        let Some(noted) = Instant::now().checked_sub(age) else {
            return;
        };
        let entry = Entry { length, noted };
        self.entries.lock().put((repository.clone(), digest), entry);
    }

    /// Returns the length of what is known to belong to the repository just now.
    #[must_use]
    pub fn length(&self, repository: &RepositoryName, digest: &Digest) -> Option<u64> {
        self.within(BELIEVED, repository, digest)
    }

    /// Returns the length of what belonged to the repository within the last hour: for when nobody
    /// can be asked.
    #[must_use]
    pub fn remembered(&self, repository: &RepositoryName, digest: &Digest) -> Option<u64> {
        self.within(REMEMBERED, repository, digest)
    }

    fn within(&self, time: Duration, repository: &RepositoryName, digest: &Digest) -> Option<u64> {
        let key = (repository.clone(), *digest);
        let entry = *self.entries.lock().get(&key)?;
        (entry.noted.elapsed() < time).then_some(entry.length)
    }

    /// Forgets one entry: it was asked for, and is not there any more.
    pub fn forget(&self, repository: &RepositoryName, digest: &Digest) {
        self.entries.lock().pop(&(repository.clone(), *digest));
    }

    /// Forgets everything: something was deleted.
    pub fn clear(&self) {
        self.entries.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_forgotten_in_time_and_per_repository() {
        let belonging = Belonging::default();
        let (one, two) = ("team/one".parse().unwrap(), "team/two".parse().unwrap());
        let digest = Digest::sha256(b"a");
        belonging.note(&one, digest, 7);
        assert_eq!(belonging.length(&one, &digest), Some(7));
        assert_eq!(belonging.length(&two, &digest), None);
        tokio::time::advance(BELIEVED).await;
        assert_eq!(belonging.length(&one, &digest), None);
        assert_eq!(belonging.remembered(&one, &digest), Some(7));
        belonging.note_of(BELIEVED / 2, &one, digest, 7);
        assert_eq!(belonging.length(&one, &digest), Some(7));
        tokio::time::advance(BELIEVED / 2).await;
        assert_eq!(belonging.length(&one, &digest), None);
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(belonging.remembered(&one, &digest), None);
        belonging.note(&one, digest, 7);
        belonging.note(&two, digest, 7);
        belonging.forget(&one, &digest);
        assert_eq!(belonging.remembered(&one, &digest), None);
        assert_eq!(belonging.length(&two, &digest), Some(7));
        belonging.clear();
        assert_eq!(belonging.remembered(&two, &digest), None);
    }
}
