//! Media types that decide how Shoal treats content.
//!
//! Source: OCI image-spec, `media-types.md`; Docker image manifest version 2, schema 2.

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What a manifest is, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ManifestKind {
    OciManifest,
    OciIndex,
    DockerManifest,
    DockerList,
}

impl ManifestKind {
    /// Returns the kind that a media type names, whatever its parameters.
    #[must_use]
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match essence(media_type) {
            OCI_MANIFEST => Some(Self::OciManifest),
            OCI_INDEX => Some(Self::OciIndex),
            DOCKER_MANIFEST => Some(Self::DockerManifest),
            DOCKER_LIST => Some(Self::DockerList),
            _ => None,
        }
    }

    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::OciManifest => OCI_MANIFEST,
            Self::OciIndex => OCI_INDEX,
            Self::DockerManifest => DOCKER_MANIFEST,
            Self::DockerList => DOCKER_LIST,
        }
    }

    /// Returns whether it lists manifests instead of a config and layers.
    #[must_use]
    pub const fn is_index(self) -> bool {
        match self {
            Self::OciIndex | Self::DockerList => true,
            Self::OciManifest | Self::DockerManifest => false,
        }
    }
}

/// Returns whether layers of this media type may lie elsewhere, for reasons of their licence.
#[must_use]
pub fn is_foreign_layer(media_type: &str) -> bool {
    let media_type = essence(media_type);
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// Returns a media type without its parameters.
pub(crate) fn essence(media_type: &str) -> &str {
    let end = media_type.find(';').unwrap_or(media_type.len());
    media_type[..end].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_media_types_are_one_to_one() {
        for media_type in [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST] {
            let kind = ManifestKind::of_media_type(media_type).unwrap();
            assert_eq!(kind.media_type(), media_type);
            let with_parameter = format!("{media_type} ; charset=utf-8");
            assert_eq!(ManifestKind::of_media_type(&with_parameter), Some(kind));
        }
        assert_eq!(ManifestKind::of_media_type("application/json"), None);
    }

    #[test]
    fn foreign_layers_are_known() {
        for foreign in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        ] {
            assert!(is_foreign_layer(foreign), "{foreign}");
        }
        assert!(!is_foreign_layer(
            "application/vnd.oci.image.layer.v1.tar+gzip"
        ));
    }
}
