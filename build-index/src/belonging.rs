//! Which blobs repositories have, as storage and manifests told lately.
//!
//! A repository has a blob by its link in storage. What storage said of one is believed for five
//! seconds, so that many agents that ask for the same blob cost one look; the answer says how old it
//! is, and whoever believes it counts those five seconds on. What is removed through this
//! build-index is forgotten at once. Nothing is remembered of what is absent, for a push may bring it
//! at any moment, and nothing that is written (manifests, mounts) rests on memory.
//!
//! What a manifest names that was stored or given is in its repository too: nothing is stored before
//! all it names has its link. That is used only while storage cannot be asked.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use oci::{Digest, RepositoryName};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Blobs of repositories that are remembered.
const MAX_ENTRIES: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
/// How long storage need not be asked again. What was deleted through another build-index is
/// believed to be there for so long, by everybody together.
const BELIEVED: Duration = Duration::from_secs(5);
/// How long an entry may be used while storage cannot be asked. The same as at agents.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// A bounded memory of the blobs that repositories have.
#[derive(Debug)]
pub(crate) struct Belonging(Mutex<Entries>);

#[derive(Debug)]
struct Entries {
    by_use: LruCache<(RepositoryName, Digest), Entry>,
    /// Counts what is removed: a look that was under way then may have seen what is gone.
    removals: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    length: u64,
    noted: Instant,
    /// When storage was asked for it.
    seen: Option<Instant>,
}

/// A blob that a repository had a while ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Had {
    /// Bytes.
    pub(crate) length: u64,
    pub(crate) age: Duration,
}

/// A look into storage that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    began: Instant,
    removals: u64,
}

impl Default for Belonging {
    fn default() -> Self {
        Self(Mutex::new(Entries {
            by_use: LruCache::new(MAX_ENTRIES),
            removals: 0,
        }))
    }
}

impl Belonging {
    /// Begins a look whose result [`Self::saw`] may take.
    pub(crate) fn look(&self) -> Look {
        Look {
            began: Instant::now(),
            removals: self.0.lock().removals,
        }
    }

    /// Takes what a look found: the length of a blob that the repository and storage have, or
    /// `None`. Something was removed meanwhile, and it is not believed.
    pub(crate) fn saw(
        &self,
        look: Look,
        repository: &RepositoryName,
        digest: &Digest,
        length: Option<u64>,
    ) {
        let mut entries = self.0.lock();
        let key = (repository.clone(), *digest);
        match length {
            Some(length) if entries.removals == look.removals => {
                let entry = Entry {
                    length,
                    noted: look.began,
                    seen: Some(look.began),
                };
                entries.by_use.put(key, entry);
            }
            Some(_) => {}
            None => {
                entries.by_use.pop(&key);
            }
        }
    }

    /// Notes what a manifest of the repository names, with its length in bytes.
    pub(crate) fn named(&self, repository: &RepositoryName, digest: Digest, length: u64) {
        let mut entries = self.0.lock();
        let key = (repository.clone(), digest);
        let seen = entries.by_use.peek(&key).and_then(|entry| entry.seen);
        let entry = Entry {
            length,
            noted: Instant::now(),
            seen,
        };
        entries.by_use.put(key, entry);
    }

    /// Forgets a blob. To be called before and after it is removed from storage.
    pub(crate) fn removed(&self, repository: &RepositoryName, digest: &Digest) {
        let mut entries = self.0.lock();
        entries.removals += 1;
        entries.by_use.pop(&(repository.clone(), *digest));
    }

    /// Returns a blob for which storage need not be asked just now.
    pub(crate) fn believed(&self, repository: &RepositoryName, digest: &Digest) -> Option<Had> {
        let entry = self.entry(repository, digest)?;
        let age = entry.seen?.elapsed();
        let length = entry.length;
        (age < BELIEVED).then_some(Had { length, age })
    }

    /// Returns a blob that the repository had within the last hour: for when storage cannot be
    /// asked.
    pub(crate) fn remembered(&self, repository: &RepositoryName, digest: &Digest) -> Option<Had> {
        let entry = self.entry(repository, digest)?;
        let age = entry.noted.elapsed();
        let length = entry.length;
        (age < REMEMBERED).then_some(Had { length, age })
    }

    fn entry(&self, repository: &RepositoryName, digest: &Digest) -> Option<Entry> {
        let key = (repository.clone(), *digest);
        self.0.lock().by_use.get(&key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (RepositoryName, Digest) {
        ("team/app".parse().unwrap(), Digest::sha256(b"a"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_storage_said_is_believed_for_a_while() {
        let belonging = Belonging::default();
        let (name, digest) = place();
        let look = belonging.look();
        // From when it was asked, and not from when it answered.
        tokio::time::advance(BELIEVED / 2).await;
        belonging.saw(look, &name, &digest, Some(7));
        let age = BELIEVED / 2;
        let had = Had { length: 7, age };
        assert_eq!(belonging.believed(&name, &digest), Some(had));
        let other = "team/other".parse().unwrap();
        assert_eq!(belonging.believed(&other, &digest), None);
        tokio::time::advance(age).await;
        assert_eq!(belonging.believed(&name, &digest), None);
        let age = BELIEVED;
        let had = Had { length: 7, age };
        assert_eq!(belonging.remembered(&name, &digest), Some(had));
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(belonging.remembered(&name, &digest), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_manifest_is_remembered_and_not_believed() {
        let belonging = Belonging::default();
        let (name, digest) = place();
        belonging.named(&name, digest, 7);
        assert_eq!(belonging.believed(&name, &digest), None);
        let age = Duration::ZERO;
        let had = Some(Had { length: 7, age });
        assert_eq!(belonging.remembered(&name, &digest), had);
        // What storage said of it counts on.
        belonging.saw(belonging.look(), &name, &digest, Some(7));
        belonging.named(&name, digest, 7);
        assert_eq!(belonging.believed(&name, &digest), had);
        belonging.saw(belonging.look(), &name, &digest, None);
        assert_eq!(belonging.remembered(&name, &digest), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_a_removal_overtook_is_not_believed() {
        let belonging = Belonging::default();
        let (name, digest) = place();
        let look = belonging.look();
        belonging.saw(look, &name, &digest, Some(7));
        belonging.removed(&name, &digest);
        assert_eq!(belonging.remembered(&name, &digest), None);
        belonging.saw(look, &name, &digest, Some(7));
        assert_eq!(belonging.remembered(&name, &digest), None);
        belonging.saw(belonging.look(), &name, &digest, Some(7));
        assert!(belonging.believed(&name, &digest).is_some());
    }
}
