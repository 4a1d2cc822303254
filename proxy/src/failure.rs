//! What went wrong elsewhere, as the registry tells it.

use api::{CallError, ErrorBody, ErrorCode};
use oci::{Digest, Reference, RepositoryName};
use registry::Error;

/// What a call was about: what is missing, or wrong, when the answer says so.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About<'a> {
    Repository(&'a RepositoryName),
    Manifest(&'a RepositoryName, &'a Reference),
    Blob(&'a RepositoryName, &'a Digest),
    /// An upload that is under way. It is where its origin is: one that cannot be reached is gone.
    Upload,
    /// The end of an upload, as this blob.
    Commit(&'a Digest),
    /// None of these: an upload that shall begin, a list of all repositories.
    Nothing,
}

/// Returns what a client is told when a call came to nothing. The only place that decides.
pub(crate) fn of_call(error: &CallError, about: About<'_>) -> Error {
    let unavailable = || Error::Unavailable(error.to_string());
    match error {
        CallError::Answer { body, .. } => of_answer(body, error, about),
        CallError::Unreachable { .. } => match about {
            About::Upload | About::Commit(..) => Error::UploadUnknown,
            About::Repository(_) | About::Manifest(..) | About::Blob(..) | About::Nothing => {
                unavailable()
            }
        },
        // A member that was taken out of the configuration, or a state that was made up.
        CallError::UnknownMember { .. } => Error::UploadUnknown,
        CallError::Timeout { .. }
        | CallError::Malformed { .. }
        | CallError::Status { .. }
        | CallError::Body { .. }
        | CallError::NoMember(_) => unavailable(),
    }
}

fn of_answer(body: &ErrorBody, error: &CallError, about: About<'_>) -> Error {
    let unexpected = || Error::Internal(error.to_string());
    match body.code {
        ErrorCode::NameUnknown
        | ErrorCode::ManifestUnknown
        | ErrorCode::BlobUnknown
        | ErrorCode::UploadUnknown => absent(body.code, about).unwrap_or_else(unexpected),
        ErrorCode::DigestInvalid => match about {
            About::Commit(digest) | About::Blob(_, digest) => Error::DigestMismatch(*digest),
            About::Manifest(_, Reference::Digest(digest)) => Error::DigestMismatch(*digest),
            About::Manifest(_, Reference::Tag(_))
            | About::Repository(_)
            | About::Upload
            | About::Nothing => unexpected(),
        },
        ErrorCode::Offset => match body.offset {
            Some(offset) => Error::UploadOffset { offset },
            None => unexpected(),
        },
        ErrorCode::ManifestBlobUnknown => Error::ManifestBlobUnknown {
            missing: body.missing.clone(),
        },
        ErrorCode::ManifestInvalid => Error::ManifestInvalid(body.message.clone()),
        ErrorCode::TooLarge => match about {
            About::Upload | About::Commit(..) => Error::UploadInvalid(body.message.clone()),
            About::Manifest(..) => Error::ManifestTooLarge {
                limit_bytes: oci::MAX_MANIFEST_BYTES,
            },
            About::Repository(_) | About::Blob(..) | About::Nothing => unexpected(),
        },
        // What was asked was understood here: the other side is of another release, or wrong.
        ErrorCode::BadRequest
        | ErrorCode::Forbidden
        | ErrorCode::NameInvalid
        | ErrorCode::TagInvalid
        | ErrorCode::Range => unexpected(),
        // Clients repeat what is not available. 429 is not: docker gives up at that.
        ErrorCode::Body
        | ErrorCode::DiskFull
        | ErrorCode::Internal
        | ErrorCode::Storage
        | ErrorCode::TooManyUploads
        | ErrorCode::Unavailable
        | ErrorCode::Unknown => Error::Unavailable(error.to_string()),
    }
}

/// Returns which error says that what a call was about is not there.
fn absent(code: ErrorCode, about: About<'_>) -> Option<Error> {
    Some(match about {
        About::Repository(repository) => Error::NameUnknown(repository.clone()),
        About::Manifest(repository, reference) => {
            if code == ErrorCode::NameUnknown {
                Error::NameUnknown(repository.clone())
            } else {
                Error::ManifestUnknown {
                    repository: repository.clone(),
                    reference: reference.clone(),
                }
            }
        }
        About::Blob(repository, digest) => Error::BlobUnknown {
            repository: repository.clone(),
            digest: *digest,
        },
        About::Upload | About::Commit(..) => Error::UploadUnknown,
        About::Nothing => return None,
    })
}

#[cfg(test)]
mod tests {
    use api::Addr;

    use super::*;

    fn answer(code: ErrorCode) -> CallError {
        CallError::Answer {
            member: "host:1".parse::<Addr>().unwrap(),
            body: ErrorBody::new(code, "why"),
        }
    }

    /// Whatever comes from elsewhere is a failure of this side, or something that the client can
    /// do something about.
    #[test]
    fn every_code_becomes_what_clients_know() {
        let repository = "team/app".parse().unwrap();
        let digest = Digest::sha256(b"x");
        let by_digest = Reference::Digest(digest);
        let abouts = [
            About::Repository(&repository),
            About::Manifest(&repository, &by_digest),
            About::Blob(&repository, &digest),
            About::Upload,
            About::Commit(&digest),
            About::Nothing,
        ];
        let status = |code, about| of_call(&answer(code), about).status().as_u16();
        for code in ErrorCode::ALL {
            for about in abouts {
                let status = status(code, about);
                assert!((400..=503).contains(&status), "{code:?} {about:?}");
                assert_ne!(status, 429, "docker gives up at 429");
                if !code.is_permanent() {
                    assert_eq!(status, 503, "{code:?} {about:?}");
                }
            }
        }
        let commit = About::Commit(&digest);
        assert_eq!(status(ErrorCode::DigestInvalid, commit), 400);
        assert_eq!(status(ErrorCode::UploadUnknown, commit), 404);
        assert_eq!(status(ErrorCode::UploadUnknown, About::Upload), 404);
        let manifest = About::Manifest(&repository, &by_digest);
        assert_eq!(status(ErrorCode::ManifestBlobUnknown, manifest), 400);
        assert_eq!(status(ErrorCode::TooLarge, manifest), 413);
    }

    #[test]
    fn an_upload_is_gone_with_its_origin() {
        let gone = CallError::Unreachable {
            member: "host:1".parse().unwrap(),
            reason: "refused".into(),
        };
        assert!(matches!(
            of_call(&gone, About::Upload),
            Error::UploadUnknown
        ));
        assert!(matches!(
            of_call(&gone, About::Nothing),
            Error::Unavailable(_)
        ));
    }

    #[test]
    fn an_offset_is_passed_on() {
        let mut error = answer(ErrorCode::Offset);
        assert!(matches!(of_call(&error, About::Upload), Error::Internal(_)));
        if let CallError::Answer { body, .. } = &mut error {
            body.offset = Some(7);
        }
        let offset = of_call(&error, About::Upload);
        assert!(matches!(offset, Error::UploadOffset { offset: 7 }));
    }
}
