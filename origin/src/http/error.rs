//! What went wrong, in the words of the contract.

use std::io;
use std::sync::Arc;

use api::{ErrorBody, ErrorCode};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use oci::{Digest, DigestError, RangeError};
use store::{DiskError, UploadError};

use crate::blobs::BlobError;
use crate::copies::TakeError;
use crate::ingest::IngestError;

/// A request that failed.
#[derive(Debug)]
pub(super) enum Failure {
    Digest(DigestError),
    Query(String),
    BlobUnknown(Digest),
    ObjectUnknown(backend::Key),
    Range(RangeError),
    Ingest(IngestError),
    Blob(BlobError),
    Unavailable(Arc<str>),
    Internal(String),
}

impl Failure {
    pub(super) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::Digest(_) => ErrorCode::DigestInvalid,
            Self::Query(_) => ErrorCode::BadRequest,
            Self::BlobUnknown(_) | Self::ObjectUnknown(_) => ErrorCode::BlobUnknown,
            Self::Range(RangeError::Several) => ErrorCode::BadRequest,
            Self::Range(RangeError::Unsatisfiable { .. }) => ErrorCode::Range,
            Self::Ingest(error) => of_ingest(error),
            Self::Blob(error) => of_blob(error),
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Digest(error) => error.to_string(),
            Self::Query(message) | Self::Internal(message) => message.clone(),
            Self::BlobUnknown(digest) => format!("{digest} is not in storage"),
            Self::ObjectUnknown(key) => format!("{key} is not here"),
            Self::Range(error) => error.to_string(),
            Self::Ingest(error) => error.to_string(),
            Self::Blob(error) => error.to_string(),
            Self::Unavailable(reason) => reason.to_string(),
        }
    }

    const fn offset(&self) -> Option<u64> {
        if let Self::Ingest(IngestError::Upload(UploadError::Offset { offset })) = self {
            return Some(*offset);
        }
        None
    }
}

fn of_ingest(error: &IngestError) -> ErrorCode {
    match error {
        IngestError::Upload(error) => of_upload(error),
        IngestError::Blob(error) => of_blob(error),
        IngestError::Body(_) => ErrorCode::Body,
        IngestError::Take(TakeError::Folder(error)) => of_backend(error),
        IngestError::Take(TakeError::Queue(_)) | IngestError::NotSafe(_) => ErrorCode::Unavailable,
    }
}

const fn of_upload(error: &UploadError) -> ErrorCode {
    match error {
        UploadError::Unknown => ErrorCode::UploadUnknown,
        UploadError::Offset { .. } => ErrorCode::Offset,
        UploadError::TooMany => ErrorCode::TooManyUploads,
        UploadError::Digest(_) => ErrorCode::DigestInvalid,
        UploadError::TooLong { .. } | UploadError::Length(_) => ErrorCode::TooLarge,
        UploadError::Disk(DiskError::Full(_)) => ErrorCode::DiskFull,
        UploadError::Disk(
            DiskError::Io { .. } | DiskError::Folder { .. } | DiskError::InUse(_),
        ) => ErrorCode::Internal,
    }
}

fn of_blob(error: &BlobError) -> ErrorCode {
    match error {
        BlobError::Backend(error) => of_backend(error),
        BlobError::Length(_) => ErrorCode::Storage,
    }
}

fn of_backend(error: &backend::Error) -> ErrorCode {
    if let backend::Error::Io { source, .. } = error
        && source.kind() == io::ErrorKind::StorageFull
    {
        return ErrorCode::DiskFull;
    }
    if error.is_permanent() {
        ErrorCode::Storage
    } else {
        // An answer that may be another soon: clients ask another origin, or again.
        ErrorCode::Unavailable
    }
}

impl From<RangeError> for Failure {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Self {
        Self::Ingest(error)
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (code, message) = (self.code(), self.message());
        let status = StatusCode::from_u16(code.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(%status, ?code, message, "a request failed");
        }
        let body = ErrorBody {
            offset: self.offset(),
            ..ErrorBody::new(code, message)
        };
        let mut response = (status, Json(body)).into_response();
        if let Self::Range(RangeError::Unsatisfiable { length }) = self
            && let Ok(value) = HeaderValue::try_from(format!("bytes */{length}"))
        {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
        response
    }
}
