//! What went wrong, as a status and a body.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use oci::{Digest, DigestError, RangeError};
use store::{DiskError, UploadError};

use super::contract::ErrorBody;
use crate::blobs::BlobError;
use crate::ingest::IngestError;

/// A request that failed.
#[derive(Debug)]
pub(super) enum Failure {
    Digest(DigestError),
    Query(String),
    BlobUnknown(Digest),
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

    fn describe(&self) -> (StatusCode, &'static str, String) {
        match self {
            Self::Digest(error) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID", error.to_string()),
            Self::Query(message) => (StatusCode::BAD_REQUEST, "BAD_REQUEST", message.clone()),
            Self::BlobUnknown(digest) => (
                StatusCode::NOT_FOUND,
                "BLOB_UNKNOWN",
                format!("{digest} is not in storage"),
            ),
            Self::Range(error) => {
                let status = match error {
                    RangeError::Several => StatusCode::BAD_REQUEST,
                    RangeError::Unsatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
                };
                (status, "RANGE", error.to_string())
            }
            Self::Ingest(error) => of_ingest(error),
            Self::Blob(error) => of_blob(error),
            Self::Unavailable(reason) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                reason.to_string(),
            ),
            Self::Internal(message) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "INTERNAL",
                message.clone(),
            ),
        }
    }

    const fn offset(&self) -> Option<u64> {
        if let Self::Ingest(IngestError::Upload(UploadError::Offset { offset })) = self {
            return Some(*offset);
        }
        None
    }
}

fn of_ingest(error: &IngestError) -> (StatusCode, &'static str, String) {
    let message = error.to_string();
    match error {
        IngestError::Upload(error) => of_upload(error),
        IngestError::Blob(error) => of_blob(error),
        IngestError::Body(_) => (StatusCode::BAD_REQUEST, "BODY", message),
    }
}

fn of_upload(error: &UploadError) -> (StatusCode, &'static str, String) {
    let (status, code) = match error {
        UploadError::Unknown => (StatusCode::NOT_FOUND, "UPLOAD_UNKNOWN"),
        UploadError::Offset { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "OFFSET"),
        UploadError::TooMany => (StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_UPLOADS"),
        UploadError::Digest(_) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        UploadError::TooLong { .. } | UploadError::Length(_) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE")
        }
        UploadError::Disk(DiskError::Full(_)) => (StatusCode::INSUFFICIENT_STORAGE, "DISK_FULL"),
        UploadError::Disk(_) => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
    };
    (status, code, error.to_string())
}

fn of_blob(error: &BlobError) -> (StatusCode, &'static str, String) {
    let status = match error {
        // An answer that may be another soon: clients ask another origin, or again.
        BlobError::Backend(error) if !error.is_permanent() => StatusCode::SERVICE_UNAVAILABLE,
        BlobError::Backend(_) | BlobError::Length(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, "STORAGE", error.to_string())
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
        let (status, code, message) = self.describe();
        if status.is_server_error() {
            tracing::warn!(%status, code, message, "a request failed");
        }
        let body = ErrorBody {
            code: code.to_owned(),
            message,
            offset: self.offset(),
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
