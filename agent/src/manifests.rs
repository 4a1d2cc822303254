//! Manifests that were served lately: their bytes, by digest. Whether a repository still has one
//! is not asked here.

use std::sync::Arc;

use lru::LruCache;
use oci::{Digest, Manifest, Role};
use parking_lot::Mutex;
use registry::ManifestBytes;

/// Bytes of manifests that are kept.
const MAX_BYTES: usize = 32 << 20;
/// What an entry takes besides the manifest's own bytes, about.
const ENTRY_BYTES: usize = 512;

/// A manifest whose bytes have its digest, and the blobs it needs.
#[derive(Clone, Debug)]
pub struct Checked {
    pub manifest: ManifestBytes,
    /// Digest and length of each, in the order of the manifest.
    pub blobs: Arc<[(Digest, u64)]>,
}

impl Checked {
    /// Hashes a manifest; `None` where its bytes have another digest. One that cannot be
    /// understood is served as it is, and needs nothing.
    #[must_use]
    pub fn new(manifest: ManifestBytes) -> Option<Self> {
        if Digest::of(manifest.digest.algorithm(), &manifest.bytes) != manifest.digest {
            return None;
        }
        let blobs = match Manifest::parse(Some(&manifest.media_type), &manifest.bytes) {
            Ok(parsed) => blobs_of(&parsed),
            Err(error) => {
                tracing::debug!(digest = %manifest.digest, %error, "a manifest of another kind");
                Arc::default()
            }
        };
        Some(Self { manifest, blobs })
    }
}

/// Returns the blobs that a manifest needs from its repository.
fn blobs_of(manifest: &Manifest) -> Arc<[(Digest, u64)]> {
    let needed = manifest.references().filter_map(|of| match of.role {
        Role::Config | Role::Layer | Role::Blob => Some((of.descriptor.digest, of.descriptor.size)),
        Role::ForeignLayer | Role::Manifest | Role::Subject => None,
    });
    needed.collect()
}

/// Manifests by digest, bounded by their bytes.
#[derive(Debug)]
pub struct Manifests(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    by_use: LruCache<Digest, Checked>,
    total_bytes: usize,
}

impl Default for Manifests {
    fn default() -> Self {
        Self(Mutex::new(Kept {
            by_use: LruCache::unbounded(),
            total_bytes: 0,
        }))
    }
}

impl Manifests {
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<Checked> {
        self.0.lock().by_use.get(digest).cloned()
    }

    pub fn put(&self, checked: &Checked) {
        let mut kept = self.0.lock();
        kept.total_bytes += size(checked);
        let before = kept.by_use.put(checked.manifest.digest, checked.clone());
        if let Some(before) = before {
            kept.total_bytes -= size(&before);
        }
        while kept.total_bytes > MAX_BYTES
            && let Some((_, oldest)) = kept.by_use.pop_lru()
        {
            kept.total_bytes -= size(&oldest);
        }
    }
}

fn size(checked: &Checked) -> usize {
    let blobs = size_of_val(&*checked.blobs);
    checked.manifest.bytes.len() + blobs + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use oci::media_type;

    use super::*;

    fn manifest(bytes: impl Into<Bytes>) -> ManifestBytes {
        let bytes = bytes.into();
        ManifestBytes {
            media_type: media_type::OCI_MANIFEST.into(),
            digest: Digest::sha256(&bytes),
            bytes,
        }
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
        let checked = Checked::new(manifest(text)).unwrap();
        assert_eq!(
            *checked.blobs,
            [(digest("config"), 1), (digest("layer"), 2)]
        );
        let mut wrong = manifest("{}");
        wrong.digest = digest("another");
        assert!(Checked::new(wrong).is_none());
        let strange = Checked::new(manifest("no JSON")).unwrap();
        assert!(strange.blobs.is_empty());
    }

    #[test]
    fn their_bytes_are_bounded() {
        let manifests = Manifests::default();
        let of = |fill: u8| Checked::new(manifest(vec![fill; MAX_BYTES / 3])).unwrap();
        let (first, second, third) = (of(1), of(2), of(3));
        for checked in [&first, &second, &second] {
            manifests.put(checked);
        }
        assert!(manifests.get(&first.manifest.digest).is_some());
        manifests.put(&third);
        assert!(
            manifests.get(&second.manifest.digest).is_none(),
            "used least"
        );
        assert!(manifests.get(&first.manifest.digest).is_some());
        assert!(manifests.0.lock().total_bytes <= MAX_BYTES);
    }
}
