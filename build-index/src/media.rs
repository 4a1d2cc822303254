//! Which media type a manifest has that is only there as bytes.

use oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST};
use oci::{Manifest, ManifestKind};
use serde::Deserialize;

/// Manifests of Docker's first schema, which registries of old hold.
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_SCHEMA_1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Start of all of Docker's own types.
const OF_DOCKER: &str = "application/vnd.docker.";
/// Longest media type that is believed.
const MAX_BYTES: usize = 255;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stated {
    schema_version: Option<u64>,
    media_type: Option<String>,
    signatures: Option<serde::de::IgnoredAny>,
}

/// Returns the media type that the manifest says it has.
pub(crate) fn stated(bytes: &[u8]) -> Option<String> {
    let stated: Stated = serde_json::from_slice(bytes).ok()?;
    stated.media_type.filter(|text| is_media_type(text))
}

/// Returns whether a text can be sent as a media type.
pub(crate) fn is_media_type(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns the media type of a manifest that does not say it, by what is in it.
pub(crate) fn by_shape(bytes: &[u8]) -> &'static str {
    if let Ok(manifest) = Manifest::parse(None, bytes) {
        let inner = manifest.config.iter().chain(&manifest.manifests);
        let of_docker = inner
            .take(1)
            .any(|inner| inner.media_type.starts_with(OF_DOCKER));
        return match manifest.kind {
            ManifestKind::OciManifest if of_docker => DOCKER_MANIFEST,
            ManifestKind::OciIndex if of_docker => DOCKER_LIST,
            kind @ (ManifestKind::OciManifest
            | ManifestKind::OciIndex
            | ManifestKind::DockerManifest
            | ManifestKind::DockerList) => kind.media_type(),
        };
    }
    match serde_json::from_slice::<Stated>(bytes) {
        Ok(Stated {
            schema_version: Some(1),
            signatures: Some(_),
            ..
        }) => DOCKER_SCHEMA_1_SIGNED,
        Ok(Stated {
            schema_version: Some(1),
            ..
        }) => DOCKER_SCHEMA_1,
        Ok(_) | Err(_) => "application/json",
    }
}

#[cfg(test)]
mod tests {
    use oci::Digest;
    use oci::media_type::{OCI_INDEX, OCI_MANIFEST};
    use serde_json::json;

    use super::*;

    #[test]
    fn shapes_are_told_apart() {
        let of = |media_type: &str| json!({"mediaType": media_type, "digest": Digest::sha256(b"x"), "size": 1});
        let manifest =
            |config: &str| json!({"schemaVersion": 2, "config": of(config), "layers": []});
        let index = |inner: &str| json!({"schemaVersion": 2, "manifests": [of(inner)]});
        for (value, expected) in [
            (
                manifest("application/vnd.oci.image.config.v1+json"),
                OCI_MANIFEST,
            ),
            (
                manifest("application/vnd.docker.container.image.v1+json"),
                DOCKER_MANIFEST,
            ),
            (index(OCI_MANIFEST), OCI_INDEX),
            (index(DOCKER_MANIFEST), DOCKER_LIST),
            (json!({"schemaVersion": 2, "manifests": []}), OCI_INDEX),
            (
                json!({"schemaVersion": 1, "signatures": []}),
                DOCKER_SCHEMA_1_SIGNED,
            ),
            (json!({"schemaVersion": 1, "fsLayers": []}), DOCKER_SCHEMA_1),
            (json!([]), "application/json"),
        ] {
            assert_eq!(by_shape(value.to_string().as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn what_is_stated_must_be_a_media_type() {
        let stated = |text: &str| stated(json!({"mediaType": text}).to_string().as_bytes());
        assert_eq!(stated("a/b+json").as_deref(), Some("a/b+json"));
        for wrong in ["", "a b", "a\r\nb", &"x".repeat(300)] {
            assert_eq!(stated(wrong), None);
        }
        assert_eq!(super::stated(b"no JSON"), None);
    }
}
