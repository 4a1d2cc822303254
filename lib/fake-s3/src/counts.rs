//! What a store was asked for.

use std::collections::BTreeMap;

use http::{Method, Uri};
use serde::{Deserialize, Serialize};

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Get,
    Head,
    Put,
    Delete,
    List,
    /// Begins an upload in parts.
    CreateUpload,
    PutPart,
    CompleteUpload,
    AbortUpload,
    Other,
}

impl Operation {
    pub(crate) fn of(method: &Method, uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        let has = |wanted: &str| {
            let mut keys = query.split('&').map(|pair| pair.split('=').next());
            keys.any(|key| key == Some(wanted))
        };
        match *method {
            Method::GET if has("list-type") => Self::List,
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::PUT if has("partNumber") => Self::PutPart,
            Method::PUT => Self::Put,
            Method::POST if has("uploads") => Self::CreateUpload,
            Method::POST if has("uploadId") => Self::CompleteUpload,
            Method::DELETE if has("uploadId") => Self::AbortUpload,
            Method::DELETE => Self::Delete,
            _ => Self::Other,
        }
    }
}

/// What a store was asked for, what went wrong included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub requests: BTreeMap<Operation, u64>,
    /// Bytes of objects that were sent.
    pub read_bytes: u64,
    /// Bytes of objects and parts that came, signatures between them included.
    pub written_bytes: u64,
}

impl Counts {
    /// Returns how many requests of a kind came.
    #[must_use]
    pub fn of(&self, operation: Operation) -> u64 {
        self.requests.get(&operation).copied().unwrap_or_default()
    }

    /// Returns how many requests came.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }
}
