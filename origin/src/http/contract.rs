//! What an origin and its clients say to each other.

use serde::{Deserialize, Serialize};

/// Answer to the beginning of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadBegun {
    pub id: String,
}

/// Bytes of an upload received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadOffset {
    pub offset: u64,
}

/// A blob that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    pub digest: oci::Digest,
    pub length: u64,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub code: String,
    pub message: String,
    /// With the code `OFFSET`: where to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// Query of a part of an upload.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendQuery {
    /// Where the sender believes the upload to be.
    pub offset: Option<u64>,
}

/// Query of the end of an upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitQuery {
    pub digest: String,
}
