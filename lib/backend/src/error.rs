//! Failures of a backend.

use std::io;
use std::path::PathBuf;

use crate::Key;

/// An operation on storage that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{key} is not in storage")]
    NotFound { key: Key },
    #[error("{key} was written by somebody else meanwhile; read it again and repeat")]
    Precondition { key: Key },
    #[error("{key} has {length} bytes where at most {limit_bytes} are expected")]
    TooLarge {
        key: Key,
        length: u64,
        limit_bytes: u64,
    },
    #[error("the range {start}..{end} does not lie in {key}, which has {length} bytes")]
    Range {
        key: Key,
        start: u64,
        end: u64,
        length: u64,
    },
    #[error("{key} ended before all of its bytes came")]
    Truncated { key: Key },
    #[error("the bytes to be stored as {key} did not come whole")]
    Body {
        key: Key,
        #[source]
        source: io::Error,
    },
    #[error("storage folder {} cannot be used: {reason}", path.display())]
    Folder {
        path: PathBuf,
        reason: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("storage does not answer: {0}")]
    Unavailable(String),
    /// The store will answer the same the next time.
    #[error("storage refuses to {operation} {key}: {reason}")]
    Refused {
        operation: &'static str,
        key: String,
        reason: String,
    },
    /// The store cannot be used as it is configured.
    #[error("{place} cannot be used as storage: {reason}")]
    Config { place: String, reason: String },
}

impl Error {
    /// Returns whether the same call would fail the same way again, so that a retry is no use.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::Precondition { .. }
            | Self::TooLarge { .. }
            | Self::Range { .. }
            | Self::Body { .. }
            | Self::Folder { .. }
            | Self::Refused { .. }
            | Self::Config { .. } => true,
            Self::Truncated { .. } | Self::Unavailable(_) => false,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::NotADirectory
            ),
        }
    }

    /// Returns whether the object is simply not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Returns whether a condition of a write did not hold.
    #[must_use]
    pub const fn is_precondition(&self) -> bool {
        matches!(self, Self::Precondition { .. })
    }
}
