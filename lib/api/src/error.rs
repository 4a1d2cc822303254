//! Why a call failed, as its answer says.

use oci::Digest;
use serde::{Deserialize, Serialize};

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// The query or a header cannot be understood.
    BadRequest,
    /// The blob is not in storage, or not in the repository.
    BlobUnknown,
    /// The body of the request ended early or was too slow.
    Body,
    /// The bytes are not what their digest says, or the digest is none.
    DigestInvalid,
    /// No space is left for it.
    DiskFull,
    /// The caller's certificate is of a role that may not do this.
    Forbidden,
    /// A mistake of the service.
    Internal,
    /// The manifest names blobs that are not in the repository: [`ErrorBody::missing`].
    ManifestBlobUnknown,
    /// The bytes are no manifest.
    ManifestInvalid,
    /// There is no such tag or manifest in the repository.
    ManifestUnknown,
    /// This cannot be the name of a repository.
    NameInvalid,
    /// There is no such repository.
    NameUnknown,
    /// The upload goes on elsewhere: [`ErrorBody::offset`].
    Offset,
    /// The range does not lie in the blob.
    Range,
    /// Storage failed in a way that will not mend itself.
    Storage,
    /// This cannot be a tag.
    TagInvalid,
    /// More bytes than are taken.
    TooLarge,
    /// Too many uploads are open.
    TooManyUploads,
    /// Not now; another member may know, or the same one later.
    Unavailable,
    /// There is no such upload.
    UploadUnknown,
    /// A code that this release does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// All codes.
    pub const ALL: [Self; 21] = [
        Self::BadRequest,
        Self::BlobUnknown,
        Self::Body,
        Self::DigestInvalid,
        Self::DiskFull,
        Self::Forbidden,
        Self::Internal,
        Self::ManifestBlobUnknown,
        Self::ManifestInvalid,
        Self::ManifestUnknown,
        Self::NameInvalid,
        Self::NameUnknown,
        Self::Offset,
        Self::Range,
        Self::Storage,
        Self::TagInvalid,
        Self::TooLarge,
        Self::TooManyUploads,
        Self::Unavailable,
        Self::UploadUnknown,
        Self::Unknown,
    ];

    /// Returns the HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest
            | Self::Body
            | Self::DigestInvalid
            | Self::ManifestBlobUnknown
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::TagInvalid => 400,
            Self::BlobUnknown | Self::ManifestUnknown | Self::NameUnknown | Self::UploadUnknown => {
                404
            }
            Self::Forbidden => 403,
            Self::TooLarge => 413,
            Self::Offset | Self::Range => 416,
            Self::TooManyUploads => 429,
            Self::Internal | Self::Storage | Self::Unknown => 500,
            Self::Unavailable => 503,
            Self::DiskFull => 507,
        }
    }

    /// Returns whether the same call would fail the same way at every member, now and later.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        match self {
            Self::BadRequest
            | Self::BlobUnknown
            | Self::DigestInvalid
            | Self::Forbidden
            | Self::ManifestBlobUnknown
            | Self::ManifestInvalid
            | Self::ManifestUnknown
            | Self::NameInvalid
            | Self::NameUnknown
            | Self::Offset
            | Self::Range
            | Self::TagInvalid
            | Self::TooLarge
            | Self::UploadUnknown => true,
            Self::Body
            | Self::DiskFull
            | Self::Internal
            | Self::Storage
            | Self::TooManyUploads
            | Self::Unavailable
            | Self::Unknown => false,
        }
    }
}

/// Body of an answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub code: ErrorCode,
    /// What a person shall know.
    pub message: String,
    /// With [`ErrorCode::Offset`]: where to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// With [`ErrorCode::ManifestBlobUnknown`]: what is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Digest>,
}

impl ErrorBody {
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            offset: None,
            missing: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_their_json() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), code);
            assert!(seen.insert(json));
            let status = code.status();
            assert!((400..=599).contains(&status), "{code:?}");
            assert!(!code.is_permanent() || status < 500, "{code:?}");
        }
        assert!(seen.contains("\"MANIFEST_BLOB_UNKNOWN\""));
    }

    #[test]
    fn what_newer_releases_say_is_understood_as_far_as_possible() {
        let text = r#"{"code":"NEWER","message":"m","more":1}"#;
        let body: ErrorBody = serde_json::from_str(text).unwrap();
        assert_eq!(body, ErrorBody::new(ErrorCode::Unknown, "m"));
    }

    #[test]
    fn what_is_absent_is_not_written() {
        let mut body = ErrorBody::new(ErrorCode::Offset, "m");
        let json = serde_json::to_string(&body).unwrap();
        assert_eq!(json, r#"{"code":"OFFSET","message":"m"}"#);
        body.offset = Some(7);
        let json = serde_json::to_string(&body).unwrap();
        assert_eq!(json, r#"{"code":"OFFSET","message":"m","offset":7}"#);
    }
}
