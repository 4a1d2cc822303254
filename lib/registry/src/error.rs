//! Failures of registry requests, and the one place where they become HTTP answers.

use std::time::Duration;

use axum::body::Body;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use oci::{
    Digest, ErrorBody, ErrorCode, ErrorEntry, RangeError, Reference, ReferenceError, RepositoryName,
};

/// When to try again where somebody does not answer, in seconds.
const RETRY_AFTER_S: u64 = 5;

/// A request that was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("repository {0} is not known")]
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
        "the upload is not known: it has ended, or the origin that had it is gone; start again"
    )]
    UploadUnknown,
    #[error("the upload request is not valid: {0}")]
    UploadInvalid(String),
    #[error("the upload has {offset} bytes; go on from there")]
    UploadOffset { offset: u64 },
    #[error("the content does not have the digest {0}")]
    DigestMismatch(Digest),
    #[error("a digest is needed: add ?digest=<algorithm>:<hex>")]
    NoDigest,
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("{0}")]
    ManifestInvalid(String),
    #[error("the manifest has more than {limit_bytes} bytes")]
    ManifestTooLarge { limit_bytes: usize },
    #[error("the manifest refers to {} blobs or manifests that are not in the repository; push them first", missing.len())]
    ManifestBlobUnknown { missing: Vec<Digest> },
    #[error("more than {limit} tags in one request")]
    TooManyTags { limit: usize },
    #[error("the body has another number of bytes than was announced")]
    SizeInvalid,
    #[error(transparent)]
    Range(#[from] RangeError),
    #[error("{0:?} is no page: n must be a number, last a name")]
    Page(String),
    #[error("authentication is required")]
    Unauthorized {
        /// Value of `WWW-Authenticate`.
        challenge: String,
    },
    #[error("access is denied: {0}")]
    Denied(String),
    #[error("too many requests; try again later")]
    TooManyRequests { retry_after: Duration },
    #[error("this registry does not take such requests here; push to a proxy of the cluster")]
    Unsupported {
        /// Methods that are taken, for `Allow`.
        allow: &'static str,
    },
    #[error("registries have nothing at this path")]
    NoRoute,
    #[error("this registry does not serve images of {0:?}; add it to `namespaces` if it shall")]
    Namespace(String),
    /// Somebody else is needed and does not answer. A retry may help.
    #[error("not available at the moment: {0}")]
    Unavailable(String),
    #[error("internal error: {0}")]
    Internal(String),
    /// A failure of a mirror, which clients shall take for absence and ask elsewhere.
    #[error("cannot be had from this mirror: {error}")]
    Mirror { code: ErrorCode, error: Box<Error> },
}

impl Error {
    /// Returns the code of the OCI specification.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NameUnknown(_) | Self::Namespace(_) => ErrorCode::NameUnknown,
            Self::ManifestUnknown { .. } => ErrorCode::ManifestUnknown,
            Self::BlobUnknown { .. } => ErrorCode::BlobUnknown,
            Self::UploadUnknown => ErrorCode::BlobUploadUnknown,
            Self::UploadInvalid(_) => ErrorCode::BlobUploadInvalid,
            Self::UploadOffset { .. } => ErrorCode::RangeInvalid,
            Self::DigestMismatch(_) | Self::NoDigest => ErrorCode::DigestInvalid,
            Self::Reference(error) => match error {
                ReferenceError::Name(_)
                | ReferenceError::NameTooLong(_)
                | ReferenceError::Host(_) => ErrorCode::NameInvalid,
                ReferenceError::Tag(_) => ErrorCode::TagInvalid,
                ReferenceError::Digest(_) => ErrorCode::DigestInvalid,
            },
            Self::ManifestInvalid(_) => ErrorCode::ManifestInvalid,
            Self::ManifestTooLarge { .. } | Self::SizeInvalid => ErrorCode::SizeInvalid,
            Self::ManifestBlobUnknown { .. } => ErrorCode::ManifestBlobUnknown,
            Self::TooManyTags { .. } => ErrorCode::TagInvalid,
            Self::Range(_) => ErrorCode::RangeInvalid,
            Self::Page(_) => ErrorCode::PaginationNumberInvalid,
            Self::Unauthorized { .. } => ErrorCode::Unauthorized,
            Self::Denied(_) => ErrorCode::Denied,
            Self::TooManyRequests { .. } => ErrorCode::TooManyRequests,
            Self::Unsupported { .. } | Self::NoRoute => ErrorCode::Unsupported,
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::Internal(_) => ErrorCode::Unknown,
            Self::Mirror { code, .. } => *code,
        }
    }

    /// Returns the status of the answer: that of the code, but where HTTP has a better one.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::ManifestTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyTags { .. } => StatusCode::URI_TOO_LONG,
            Self::Range(RangeError::Several) => StatusCode::BAD_REQUEST,
            Self::NameUnknown(_)
            | Self::ManifestUnknown { .. }
            | Self::BlobUnknown { .. }
            | Self::UploadUnknown
            | Self::UploadInvalid(_)
            | Self::UploadOffset { .. }
            | Self::DigestMismatch(_)
            | Self::NoDigest
            | Self::Reference(_)
            | Self::ManifestInvalid(_)
            | Self::ManifestBlobUnknown { .. }
            | Self::SizeInvalid
            | Self::Range(RangeError::Unsatisfiable { .. })
            | Self::Page(_)
            | Self::Unauthorized { .. }
            | Self::Denied(_)
            | Self::TooManyRequests { .. }
            | Self::Unsupported { .. }
            | Self::Namespace(_)
            | Self::Unavailable(_)
            | Self::Internal(_)
            | Self::Mirror { .. } => StatusCode::from_u16(self.code().status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// Returns whether the fault is on this side, so that a mirror should send clients elsewhere.
    pub(crate) fn is_failure(&self) -> bool {
        self.status().is_server_error()
    }

    /// Returns the answer, with a body as clients of registries expect it.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let body = self.body();
        let mut response = Response::new(Body::from(body.to_json()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some((name, value)) = self.header() {
            headers.insert(name, value);
        }
        response
    }

    fn body(&self) -> ErrorBody {
        let code = self.code();
        if let Self::ManifestBlobUnknown { missing } = self
            && !missing.is_empty()
        {
            let entry = |digest| ErrorEntry {
                code,
                message: format!("{digest} is not in the repository; push it first"),
                detail: serde_json::json!({ "digest": digest }),
            };
            return ErrorBody {
                errors: missing.iter().map(entry).collect(),
            };
        }
        ErrorBody::new(code, self.to_string())
    }

    /// Returns what the answer says besides its body.
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        if let Self::Unsupported { allow } = self {
            Some((header::ALLOW, HeaderValue::from_static(allow)))
        } else if let Self::Unauthorized { challenge } = self {
            let challenge = HeaderValue::from_str(challenge).ok()?;
            Some((header::WWW_AUTHENTICATE, challenge))
        } else if let Self::TooManyRequests { retry_after } = self {
            Some((header::RETRY_AFTER, retry_after.as_secs().max(1).into()))
        } else if let Self::Unavailable(_) = self {
            Some((header::RETRY_AFTER, RETRY_AFTER_S.into()))
        } else if let Self::Range(RangeError::Unsatisfiable { length }) = self {
            let range = HeaderValue::try_from(format!("bytes */{length}")).ok()?;
            Some((header::CONTENT_RANGE, range))
        } else {
            None
        }
    }
}
