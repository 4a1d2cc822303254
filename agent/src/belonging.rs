//! Which blobs belong to which repository, as manifests and answers of lately tell.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use oci::{Descriptor, Digest, Manifest, RepositoryName, Role};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Blobs of repositories that are remembered.
const MAX_ENTRIES: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// A bounded memory of (repository, digest) → length. Each entry is believed for a short while
/// only, so that what was deleted elsewhere stops here too.
#[derive(Debug)]
pub struct Belonging {
    believed: Duration,
    entries: Mutex<LruCache<(RepositoryName, Digest), Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    length: u64,
    until: Instant,
}

impl Belonging {
    /// Makes an empty memory whose entries are believed for so long.
    #[must_use]
    pub fn new(believed: Duration) -> Self {
        Self {
            believed,
            entries: Mutex::new(LruCache::new(MAX_ENTRIES)),
        }
    }

    /// Notes that the repository has this blob.
    pub fn note(&self, repository: &RepositoryName, digest: Digest, length: u64) {
        let entry = Entry {
            length,
            until: Instant::now() + self.believed,
        };
        self.entries.lock().put((repository.clone(), digest), entry);
    }

    /// Notes the blobs of a manifest of the repository.
    pub fn note_manifest(&self, repository: &RepositoryName, manifest: &Manifest) {
        for blob in blobs_of(manifest) {
            self.note(repository, blob.digest, blob.size);
        }
    }

    /// Returns the length of a blob, where it is known to belong to the repository.
    #[must_use]
    pub fn length(&self, repository: &RepositoryName, digest: &Digest) -> Option<u64> {
        let key = (repository.clone(), *digest);
        let mut entries = self.entries.lock();
        let entry = *entries.get(&key)?;
        if entry.until <= Instant::now() {
            entries.pop(&key);
            return None;
        }
        Some(entry.length)
    }
}

/// Returns the blobs that a manifest needs from its repository.
pub fn blobs_of(manifest: &Manifest) -> impl Iterator<Item = &Descriptor> {
    manifest.references().filter_map(|of| match of.role {
        Role::Config | Role::Layer | Role::Blob => Some(of.descriptor),
        Role::ForeignLayer | Role::Manifest | Role::Subject => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_forgotten_in_time_and_per_repository() {
        let belonging = Belonging::new(Duration::from_secs(5));
        let (one, two) = ("team/one".parse().unwrap(), "team/two".parse().unwrap());
        let digest = Digest::sha256(b"a");
        belonging.note(&one, digest, 7);
        assert_eq!(belonging.length(&one, &digest), Some(7));
        assert_eq!(belonging.length(&two, &digest), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(belonging.length(&one, &digest), None);
    }

    #[test]
    fn blobs_are_what_the_repository_must_have() {
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":1}},
            "layers":[
            {{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":2}},
            {{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip","digest":"{}","size":3}}],
            "subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":4}}}}"#,
            digest("config"),
            digest("layer"),
            digest("foreign"),
            digest("subject"),
        );
        let manifest = Manifest::parse(None, text.as_bytes()).unwrap();
        let blobs: Vec<_> = blobs_of(&manifest).map(|blob| blob.digest).collect();
        assert_eq!(blobs, [digest("config"), digest("layer")]);
    }
}
