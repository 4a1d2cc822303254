//! Descriptors: a digest, what it is and how long.
//!
//! Source: OCI image-spec, `descriptor.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;

/// Reference to content, as manifests and lists of referrers hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    /// Length of the content in bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Where else the content lies.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Returns a descriptor with nothing optional.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            artifact_type: None,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
            platform: None,
        }
    }
}

/// What a manifest of an index runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
}

/// Takes `null` for absent, as encoders in Go write it.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_survives_its_json() {
        let digest = Digest::sha256(b"shoal");
        let text = format!(
            r#"{{"mediaType":"a/b","digest":"{digest}","size":5,"artifactType":"x/y","annotations":{{"k":"v"}},"platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}"#
        );
        let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(descriptor.size, 5);
        assert_eq!(serde_json::to_string(&descriptor).unwrap(), text);
    }

    #[test]
    fn null_is_absent_and_unknown_fields_are_taken() {
        let digest = Digest::sha256(b"shoal");
        let text = format!(
            r#"{{"mediaType":"a/b","digest":"{digest}","size":0,"urls":null,"annotations":null,"data":"e30=","new":1}}"#
        );
        let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(descriptor, Descriptor::new("a/b", digest, 0));
    }

    #[test]
    fn negative_sizes_and_bad_digests_are_refused() {
        let digest = Digest::sha256(b"shoal");
        for text in [
            format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":-1}}"#),
            r#"{"mediaType":"a/b","digest":"sha256:1","size":1}"#.to_owned(),
            format!(r#"{{"mediaType":"a/b","digest":"{digest}"}}"#),
        ] {
            assert!(serde_json::from_str::<Descriptor>(&text).is_err(), "{text}");
        }
    }
}
