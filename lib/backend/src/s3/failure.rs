//! What answers of the store mean.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::{Error, Key, Prefix};

/// An answer that was no success.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such object.
    NotFound,
    /// A condition of the request does not hold.
    Precondition,
    /// Somebody else writes at this moment.
    Conflict,
    /// The range starts past the end.
    Range,
    /// It will be the same the next time.
    Refused(String),
    /// It may be another the next time.
    Unavailable(String),
}

impl Failure {
    pub(super) fn of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Self {
        let Some(response) = error.raw_response() else {
            return Self::Unavailable(reason(error));
        };
        let status = response.status().as_u16();
        let code = error.code().unwrap_or_default();
        match (status, code) {
            (404, "NoSuchBucket") => Self::Refused(reason(error)),
            // Somebody tidied up: the object itself may be there or not.
            (404, "NoSuchUpload") => Self::Unavailable(reason(error)),
            (404, _) => Self::NotFound,
            (412, _) => Self::Precondition,
            (409, _) => Self::Conflict,
            (416, _) => Self::Range,
            // A clock that is wrong, or a token that ran out, mends itself or is mended.
            (400 | 403, "RequestTimeTooSkewed" | "ExpiredToken" | "RequestTimeout") => {
                Self::Unavailable(reason(error))
            }
            (400..=407 | 410..=428 | 501, _) => Self::Refused(reason(error)),
            _ => Self::Unavailable(reason(error)),
        }
    }

    pub(super) fn into_list_error(self, prefix: &Prefix) -> Error {
        match self {
            Self::Refused(reason) => Error::Refused {
                operation: "list",
                key: prefix.to_string(),
                reason,
            },
            Self::Unavailable(reason) => {
                Error::Unavailable(format!("cannot list {prefix}: {reason}"))
            }
            Self::NotFound | Self::Precondition | Self::Conflict | Self::Range => {
                Error::Unavailable(format!("cannot list {prefix}: the answer makes no sense"))
            }
        }
    }

    pub(super) fn into_error(self, operation: &'static str, key: &Key) -> Error {
        let key = key.clone();
        match self {
            Self::NotFound => Error::NotFound { key },
            Self::Precondition => Error::Precondition { key },
            Self::Conflict => {
                Error::Unavailable(format!("others keep writing {key} at the same time"))
            }
            Self::Range => Error::Truncated { key },
            Self::Refused(reason) => Error::Refused {
                operation,
                key: key.to_string(),
                reason,
            },
            Self::Unavailable(reason) => {
                Error::Unavailable(format!("cannot {operation} {key}: {reason}"))
            }
        }
    }
}

/// Returns what went wrong, with the store's own code where it said one.
pub(super) fn reason<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> String {
    let status = error.raw_response().map(|response| response.status());
    // Stores say how far apart the clocks are, not what to do about it.
    let skewed = error.code() == Some("RequestTimeTooSkewed");
    let advice = if skewed {
        "; set the clock of this machine"
    } else {
        ""
    };
    match (error.code(), error.message(), status) {
        (Some(code), Some(message), _) => format!("{code}: {message}{advice}"),
        (Some(code), None, _) => format!("{code}{advice}"),
        (None, _, Some(status)) => format!("status {}", status.as_u16()),
        (None, _, None) => match error {
            SdkError::TimeoutError(_) => "no answer in time".to_owned(),
            SdkError::DispatchFailure(failure) => failure
                .as_connector_error()
                .map_or_else(|| "no connection".to_owned(), |error| deepest(error)),
            SdkError::ConstructionFailure(_)
            | SdkError::ResponseError(_)
            | SdkError::ServiceError(_)
            | _ => error.to_string(),
        },
    }
}

/// Returns what is at the bottom of an error; the layers above it say nothing to people.
pub(super) fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
