//! What went wrong elsewhere, as the registry tells it. Whether clients see a failure as such or
//! as absence is the router's business.

use std::io;

use api::{CallError, ErrorCode};
use oci::{Digest, RepositoryName};
use peer::{OpenError, ReadError};
use registry::Error;

/// Returns what a client is told when a build-index did not give what was asked for. `absent` is
/// the error for what is simply not there.
pub(crate) fn of_call(
    error: &CallError,
    repository: Option<&RepositoryName>,
    absent: impl FnOnce() -> Error,
) -> Error {
    match error {
        CallError::Answer { body, .. } => match body.code {
            ErrorCode::BlobUnknown | ErrorCode::ManifestUnknown => absent(),
            ErrorCode::NameUnknown => match repository {
                Some(repository) => Error::NameUnknown(repository.clone()),
                None => absent(),
            },
            ErrorCode::BadRequest
            | ErrorCode::Body
            | ErrorCode::DigestInvalid
            | ErrorCode::Forbidden
            | ErrorCode::ManifestBlobUnknown
            | ErrorCode::ManifestInvalid
            | ErrorCode::NameInvalid
            | ErrorCode::Offset
            | ErrorCode::Range
            | ErrorCode::TagInvalid
            | ErrorCode::TooLarge
            | ErrorCode::UploadUnknown => Error::Internal(error.to_string()),
            ErrorCode::DiskFull
            | ErrorCode::Internal
            | ErrorCode::Storage
            | ErrorCode::TooManyUploads
            | ErrorCode::Unavailable
            | ErrorCode::Unknown => Error::Unavailable(error.to_string()),
        },
        CallError::Unreachable { .. }
        | CallError::Timeout { .. }
        | CallError::Malformed { .. }
        | CallError::Status { .. }
        | CallError::Body { .. } => Error::Unavailable(error.to_string()),
        CallError::NoMember(_) | CallError::UnknownMember { .. } => {
            Error::Internal(error.to_string())
        }
    }
}

/// Returns what a client is told when a blob cannot be opened.
pub(crate) fn of_open(error: &OpenError, repository: &RepositoryName, digest: &Digest) -> Error {
    match error {
        OpenError::Absent => Error::BlobUnknown {
            repository: repository.clone(),
            digest: *digest,
        },
        OpenError::Unavailable(_)
        | OpenError::Revoked(_)
        | OpenError::Timeout(_)
        | OpenError::Stopped => Error::Unavailable(format!("blob {digest}: {error}")),
    }
}

/// Returns what a client is told when the first byte of a blob does not come.
pub(crate) fn of_first_read(error: &ReadError, digest: &Digest) -> Error {
    Error::Unavailable(format!("blob {digest}: {error}"))
}

/// Returns how a body ends that has begun.
pub(crate) fn of_read(error: ReadError) -> io::Error {
    let kind = match &error {
        ReadError::Timeout(_) => io::ErrorKind::TimedOut,
        ReadError::Revoked(_) => io::ErrorKind::InvalidData,
        ReadError::Unavailable(_) | ReadError::Busy | ReadError::Stopped => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
