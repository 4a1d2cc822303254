//! What went wrong, and the one place where it becomes an answer.

use std::io;
use std::sync::Arc;

use api::{ErrorBody, ErrorCode, Name};
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use oci::{Digest, DigestError, ManifestError, Reference, ReferenceError, RepositoryName};

/// A request that was not done. Clones are cheap: one failure may answer many who asked the same.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the request cannot be understood: {0}")]
    Query(String),
    #[error("the body of the request broke off or was too slow")]
    Body,
    #[error("the manifest has more than {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("the bytes do not have the digest {0}")]
    DigestMismatch(Digest),
    #[error("there is no repository {0}")]
    NameUnknown(RepositoryName),
    #[error("there is no manifest {reference} in repository {repository}")]
    ManifestUnknown {
        repository: RepositoryName,
        reference: Reference,
    },
    #[error("there is no blob {digest} in repository {repository}")]
    BlobUnknown {
        repository: RepositoryName,
        digest: Digest,
    },
    #[error(
        "the manifest needs {} blobs or manifests that repository {repository} does not have; push \
         them first", missing.len()
    )]
    ManifestBlobUnknown {
        repository: RepositoryName,
        missing: Vec<Digest>,
    },
    #[error(transparent)]
    ManifestInvalid(#[from] Arc<ManifestError>),
    #[error("the manifest says that {digest} has {says} bytes; it has {has}")]
    SizeDiffers { digest: Digest, says: u64, has: u64 },
    #[error("storage has other bytes than {0}; push it again")]
    Damaged(Digest),
    #[error("storage: {0}")]
    Storage(#[from] Arc<backend::Error>),
    #[error("storage did not answer within {0} s")]
    Timeout(u64),
    #[error(
        "the change did not end within {0} s, and is gone on with; ask again for what became of it"
    )]
    Unfinished(u64),
    #[error("the changes before this one did not end within {0} s; try again when storage answers")]
    Busy(u64),
    /// What the build-index answered that writes tags.
    #[error("{}", .0.message)]
    Elsewhere(Box<ErrorBody>),
    #[error(
        "tags are written by {writer} (`tag_writer`), which cannot be reached: {reason}; try again \
         when it runs"
    )]
    WriterAway { writer: Name, reason: String },
    #[error(
        "{from} passed a change on to this build-index, whose own `tag_writer` is {writer}; give the \
         same in all configurations"
    )]
    NotTheWriter { from: String, writer: Name },
    #[error("{0} is changed too often; try again")]
    Contended(String),
    #[error("a mistake of the build-index: {0}")]
    Internal(String),
}

impl From<backend::Error> for Failure {
    fn from(error: backend::Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::TooLarge(_) => Self::TooLarge {
                limit_bytes: oci::MAX_MANIFEST_BYTES,
            },
            ManifestError::Json(_)
            | ManifestError::SchemaVersion(_)
            | ManifestError::MediaType(_)
            | ManifestError::MediaTypesDiffer(..)
            | ManifestError::NoMediaType
            | ManifestError::Field(..)
            | ManifestError::NoConfig(_) => Self::ManifestInvalid(Arc::new(error)),
        }
    }
}

impl Failure {
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Query(_) => ErrorCode::BadRequest,
            Self::Body => ErrorCode::Body,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Reference(error) => match error {
                ReferenceError::Name(_)
                | ReferenceError::NameTooLong(_)
                | ReferenceError::Host(_) => ErrorCode::NameInvalid,
                ReferenceError::Tag(_) => ErrorCode::TagInvalid,
                ReferenceError::Digest(_) => ErrorCode::DigestInvalid,
            },
            Self::Digest(_) | Self::DigestMismatch(_) => ErrorCode::DigestInvalid,
            Self::NameUnknown(_) => ErrorCode::NameUnknown,
            Self::ManifestUnknown { .. } => ErrorCode::ManifestUnknown,
            Self::BlobUnknown { .. } => ErrorCode::BlobUnknown,
            Self::ManifestBlobUnknown { .. } => ErrorCode::ManifestBlobUnknown,
            Self::ManifestInvalid(_) | Self::SizeDiffers { .. } => ErrorCode::ManifestInvalid,
            Self::Damaged(_) => ErrorCode::Storage,
            Self::Storage(error) => of_storage(error),
            Self::Elsewhere(body) => body.code,
            Self::Timeout(_)
            | Self::Unfinished(_)
            | Self::Busy(_)
            | Self::Contended(_)
            | Self::WriterAway { .. }
            | Self::NotTheWriter { .. } => ErrorCode::Unavailable,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }
}

fn of_storage(error: &backend::Error) -> ErrorCode {
    match error {
        backend::Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            ErrorCode::DiskFull
        }
        backend::Error::NotFound { .. }
        | backend::Error::Precondition { .. }
        | backend::Error::TooLarge { .. }
        | backend::Error::Range { .. }
        | backend::Error::Truncated { .. }
        | backend::Error::Body { .. }
        | backend::Error::Folder { .. }
        | backend::Error::Io { .. }
        | backend::Error::Refused { .. }
        | backend::Error::Config { .. }
        | backend::Error::Unavailable(_) => {
            if error.is_permanent() {
                ErrorCode::Storage
            } else {
                ErrorCode::Unavailable
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = self.code();
        let mut body = ErrorBody::new(code, self.to_string());
        if let Self::Elsewhere(said) = &self {
            body.clone_from(said);
        }
        if let Self::ManifestBlobUnknown { missing, .. } = &self {
            body.missing.clone_from(missing);
        }
        let status = StatusCode::from_u16(code.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(?code, error = %self, "a request failed");
        } else {
            tracing::debug!(?code, error = %self, "a request was refused");
        }
        (status, Json(body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_says_whether_a_retry_helps() {
        let io = |kind: io::ErrorKind| {
            Failure::from(backend::Error::Io {
                operation: "write",
                path: "/x".into(),
                source: kind.into(),
            })
        };
        assert_eq!(io(io::ErrorKind::StorageFull).code(), ErrorCode::DiskFull);
        assert_eq!(
            io(io::ErrorKind::PermissionDenied).code(),
            ErrorCode::Storage
        );
        assert_eq!(io(io::ErrorKind::Other).code(), ErrorCode::Unavailable);
        let away = backend::Error::Unavailable("away".into());
        assert_eq!(Failure::from(away).code(), ErrorCode::Unavailable);
    }

    #[test]
    fn answers_have_the_status_of_their_code() {
        let missing = vec![Digest::sha256(b"x")];
        let failure = Failure::ManifestBlobUnknown {
            repository: "a".parse().unwrap(),
            missing,
        };
        assert_eq!(failure.into_response().status(), StatusCode::BAD_REQUEST);
        assert_eq!(
            Failure::Timeout(1).into_response().status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
}
