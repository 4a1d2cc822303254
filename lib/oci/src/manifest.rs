//! Manifests and indexes: what of them Shoal must understand.
//!
//! The bytes of a manifest are stored and served as they came; a [`Manifest`] is a reading of
//! them, never written back.
//!
//! Source: OCI image-spec, `manifest.md` and `image-index.md`; Docker image manifest version 2,
//! schema 2.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::descriptor::{Descriptor, null_as_default};
use crate::digest::{Digest, clip};
use crate::media_type::{ManifestKind, essence, is_foreign_layer};

/// Most bytes of a manifest.
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that are no manifest Shoal takes.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest has {0} bytes; at most {MAX_MANIFEST_BYTES} are taken")]
    TooLarge(usize),
    #[error("the manifest is not valid: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "manifests of schema version {0} are not supported; push the image with a newer client"
    )]
    SchemaVersion(u64),
    #[error(
        "media type {0:?} is not that of a manifest; use an OCI manifest or index or a Docker \
         schema 2 manifest or list"
    )]
    MediaType(String),
    #[error("the manifest says its media type is {0:?}, the request says {1:?}")]
    MediaTypesDiffer(String, String),
    #[error("the manifest says no media type and has neither a config nor a list of manifests")]
    NoMediaType,
    #[error("a manifest of media type {0} cannot have the field {1:?}")]
    Field(&'static str, &'static str),
    #[error("a manifest of media type {0} must have the field \"config\"")]
    NoConfig(&'static str),
}

/// A manifest or index, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub kind: ManifestKind,
    /// Present unless this is an index.
    pub config: Option<Descriptor>,
    pub layers: Vec<Descriptor>,
    /// What an index lists.
    pub manifests: Vec<Descriptor>,
    pub subject: Option<Descriptor>,
    pub artifact_type: Option<String>,
    pub annotations: BTreeMap<String, String>,
}

/// What one descriptor is to the manifest that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Config,
    Layer,
    /// A layer that may lie elsewhere, at one of the descriptor's URLs.
    ForeignLayer,
    /// A manifest or index that an index lists.
    Manifest,
    /// A blob that an index lists, as build caches do.
    Blob,
    /// The manifest that this one is about.
    Subject,
}

impl Role {
    /// Returns whether the content must be in the repository before the manifest is taken.
    #[must_use]
    pub const fn must_exist(self) -> bool {
        match self {
            Self::Config | Self::Layer | Self::Manifest | Self::Blob => true,
            Self::ForeignLayer | Self::Subject => false,
        }
    }

    /// Returns whether the content is a manifest, not a blob.
    #[must_use]
    pub const fn is_manifest(self) -> bool {
        match self {
            Self::Manifest | Self::Subject => true,
            Self::Config | Self::Layer | Self::ForeignLayer | Self::Blob => false,
        }
    }
}

/// What a manifest refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Referenced<'a> {
    pub role: Role,
    pub descriptor: &'a Descriptor,
}

impl Manifest {
    /// Reads the bytes of a manifest. `media_type` is the `Content-Type` that came with them; where
    /// it says nothing of manifests (absent or `application/json`), the field `mediaType` decides,
    /// then what fields there are.
    ///
    /// # Errors
    /// Too many bytes, bytes that are no manifest, or fields and media types that contradict each
    /// other, so that two readers could take the same bytes for different things.
    pub fn parse(media_type: Option<&str>, bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let fields: Fields = serde_json::from_slice(bytes)?;
        if fields.schema_version != 2 {
            return Err(ManifestError::SchemaVersion(fields.schema_version));
        }
        let kind = fields.kind(media_type)?;
        fields.check(kind)?;
        Ok(Self {
            kind,
            config: fields.config,
            layers: fields.layers.unwrap_or_default(),
            manifests: fields.manifests.unwrap_or_default(),
            subject: fields.subject,
            artifact_type: fields.artifact_type.filter(|text| !text.is_empty()),
            annotations: fields.annotations,
        })
    }

    /// Iterates over everything the manifest refers to, in its order.
    pub fn references(&self) -> impl Iterator<Item = Referenced<'_>> {
        let config = self
            .config
            .iter()
            .map(|descriptor| (Role::Config, descriptor));
        let layers = self.layers.iter().map(|descriptor| {
            let role = if is_foreign_layer(&descriptor.media_type) {
                Role::ForeignLayer
            } else {
                Role::Layer
            };
            (role, descriptor)
        });
        let manifests = self.manifests.iter().map(|descriptor| {
            let role = match ManifestKind::of_media_type(&descriptor.media_type) {
                Some(_) => Role::Manifest,
                None => Role::Blob,
            };
            (role, descriptor)
        });
        let subject = self
            .subject
            .iter()
            .map(|descriptor| (Role::Subject, descriptor));
        config
            .chain(layers)
            .chain(manifests)
            .chain(subject)
            .map(|(role, descriptor)| Referenced { role, descriptor })
    }

    /// Returns the descriptor by which this manifest, of this digest and length, is listed among
    /// the referrers of its subject.
    #[must_use]
    pub fn as_referrer(&self, digest: Digest, size: u64) -> Descriptor {
        let of_config = || self.config.as_ref().map(|config| config.media_type.clone());
        Descriptor {
            artifact_type: self.artifact_type.clone().or_else(of_config),
            annotations: self.annotations.clone(),
            ..Descriptor::new(self.kind.media_type(), digest, size)
        }
    }
}

/// The fields of all kinds together. A field that is twice in the text is an error of serde's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: BTreeMap<String, String>,
}

impl Fields {
    fn kind(&self, content_type: Option<&str>) -> Result<ManifestKind, ManifestError> {
        let said = self.media_type.as_deref().filter(|text| !text.is_empty());
        let asked = content_type
            .map(essence)
            .filter(|text| !matches!(*text, "" | "application/json" | "application/octet-stream"));
        let known = |text: &str| {
            ManifestKind::of_media_type(text).ok_or_else(|| ManifestError::MediaType(clip(text)))
        };
        match (said, asked) {
            (Some(said), Some(asked)) if said != asked => {
                Err(ManifestError::MediaTypesDiffer(clip(said), clip(asked)))
            }
            (Some(text), _) | (None, Some(text)) => known(text),
            (None, None) if self.config.is_some() => Ok(ManifestKind::OciManifest),
            (None, None) if self.manifests.is_some() => Ok(ManifestKind::OciIndex),
            (None, None) => Err(ManifestError::NoMediaType),
        }
    }

    fn check(&self, kind: ManifestKind) -> Result<(), ManifestError> {
        let media_type = kind.media_type();
        let field = |present: bool, field| {
            if present {
                Err(ManifestError::Field(media_type, field))
            } else {
                Ok(())
            }
        };
        if kind.is_index() {
            field(self.config.is_some(), "config")?;
            field(self.layers.is_some(), "layers")
        } else if self.config.is_none() {
            Err(ManifestError::NoConfig(media_type))
        } else {
            field(self.manifests.is_some(), "manifests")
        }
    }
}

#[cfg(test)]
mod tests;
