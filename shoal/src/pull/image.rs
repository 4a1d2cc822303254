//! Images: what their names mean to a client, and what their manifests name.

use std::path::PathBuf;

use anyhow::Context as _;
use oci::{Descriptor, Digest, ImageReference, Manifest, Platform, Role};

/// Returns the folder an image goes to unless told otherwise: its last name and its tag.
pub(crate) fn default_folder(image: &ImageReference) -> PathBuf {
    let name = image.repository.as_str();
    let last = name.rsplit('/').next().unwrap_or(name);
    let reference = image.reference().to_string().replace(':', "-");
    format!("{last}-{reference}").into()
}

/// A manifest, or an index of manifests, whose bytes were checked.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
    manifest: Manifest,
}

impl Fetched {
    /// Reads a manifest.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn parse(
        digest: Digest,
        media_type: Option<&str>,
        bytes: Vec<u8>,
    ) -> anyhow::Result<Self> {
        let manifest = Manifest::parse(media_type, &bytes)
            .with_context(|| format!("{digest} is no manifest that an image can have"))?;
        Ok(Self {
            digest,
            bytes,
            manifest,
        })
    }

    /// Returns how a layout describes it.
    pub(crate) fn descriptor(&self) -> Descriptor {
        let size = self.bytes.len() as u64;
        Descriptor::new(self.manifest.kind.media_type(), self.digest, size)
    }

    /// Returns the blobs that the manifest itself names, but for layers that no registry shall
    /// have.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.of_role(|role| matches!(role, Role::Config | Role::Layer | Role::Blob))
    }

    /// Returns the manifests that an index names.
    pub(crate) fn children(&self) -> impl Iterator<Item = &Descriptor> {
        self.of_role(|role| role == Role::Manifest)
    }

    /// Returns the manifest for a platform, named `os/architecture[/variant]`.
    pub(crate) fn child_of(&self, platform: &str) -> Option<&Descriptor> {
        self.children().find(|child| {
            let of = child.platform.as_ref();
            of.is_some_and(|of| text_of(of) == platform || text_without_variant(of) == platform)
        })
    }

    /// Returns the platforms that an index has.
    pub(crate) fn platforms(&self) -> Vec<String> {
        let platforms = self.children().filter_map(|child| child.platform.as_ref());
        platforms.map(text_of).collect()
    }

    fn of_role(&self, wanted: impl Fn(Role) -> bool) -> impl Iterator<Item = &Descriptor> {
        let references = self.manifest.references();
        references
            .filter(move |there| wanted(there.role))
            .map(|there| there.descriptor)
    }
}

fn text_of(platform: &Platform) -> String {
    let mut text = text_without_variant(platform);
    if let Some(variant) = &platform.variant {
        text.push('/');
        text.push_str(variant);
    }
    text
}

fn text_without_variant(platform: &Platform) -> String {
    format!("{}/{}", platform.os, platform.architecture)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fetched(text: &serde_json::Value) -> Fetched {
        let digest = Digest::sha256(b"x");
        Fetched::parse(digest, None, text.to_string().into()).unwrap()
    }

    #[test]
    fn folders_are_named_for_images() {
        let digest = Digest::sha256(b"x");
        for (image, folder) in [
            ("127.0.0.1:5000/team/app:v1", "app-v1".to_owned()),
            ("app", "app-latest".to_owned()),
            (
                &format!("a/b@{digest}"),
                format!("b-sha256-{}", digest.hex()),
            ),
        ] {
            assert_eq!(
                default_folder(&image.parse().unwrap()),
                PathBuf::from(folder)
            );
        }
    }

    #[test]
    fn a_manifest_names_blobs() {
        let digest = Digest::sha256(b"x");
        let layer =
            |kind: &str, size: u64| json!({"mediaType": kind, "digest": digest, "size": size});
        let manifest = fetched(&json!({
            "schemaVersion": 2,
            "mediaType": oci::media_type::DOCKER_MANIFEST,
            "config": layer("application/vnd.docker.container.image.v1+json", 1),
            "layers": [
                layer("application/vnd.docker.image.rootfs.diff.tar.gzip", 2),
                layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 3),
            ],
        }));
        let sizes: Vec<_> = manifest.blobs().map(|blob| blob.size).collect();
        assert_eq!(sizes, [1, 2], "foreign layers are nobody's to fetch");
        assert_eq!(manifest.children().count(), 0);
    }

    #[test]
    fn an_index_names_manifests_of_platforms() {
        let child = |arch: &str, size: u64| {
            json!({
                "mediaType": oci::media_type::OCI_MANIFEST,
                "digest": Digest::sha256(b"x"),
                "size": size,
                "platform": {"os": "linux", "architecture": arch, "variant": "v8"},
            })
        };
        let index = fetched(&json!({
            "schemaVersion": 2,
            "mediaType": oci::media_type::OCI_INDEX,
            "manifests": [child("amd64", 1), child("arm64", 2)],
        }));
        assert_eq!(index.child_of("linux/arm64").unwrap().size, 2);
        assert_eq!(index.child_of("linux/amd64/v8").unwrap().size, 1);
        assert!(index.child_of("linux/riscv64").is_none());
        assert_eq!(index.platforms(), ["linux/amd64/v8", "linux/arm64/v8"]);
        assert_eq!(index.blobs().count(), 0);
    }
}
