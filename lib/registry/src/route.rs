//! Paths of the registry API.

use std::borrow::Cow;

use http::Method;
use oci::{Digest, Reference, RepositoryName};

use crate::error::Error;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/manifests/<reference>`
    Manifest(RepositoryName, Reference),
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepositoryName, Digest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(RepositoryName),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(RepositoryName, String),
    /// `/v2/<name>/tags/list`
    Tags(RepositoryName),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepositoryName, Digest),
}

impl Route {
    /// Parses a path, percent-encoded or not. A name may contain the words of the API, so a path is
    /// read from its end.
    pub(crate) fn parse(path: &str) -> Result<Self, Error> {
        let path = percent_encoding::percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| Error::NoRoute)?;
        Self::parse_decoded(&path)
    }

    fn parse_decoded(path: &str) -> Result<Self, Error> {
        let path = match path {
            "/v2" | "/v2/" => return Ok(Self::Base),
            "/v2/_catalog" => return Ok(Self::Catalog),
            _ => path.strip_prefix("/v2/").ok_or(Error::NoRoute)?,
        };
        if let Some(name) = path.strip_suffix("/blobs/uploads") {
            return Ok(Self::Uploads(name.parse()?));
        }
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Ok(Self::Tags(name.parse()?));
        }
        let (rest, last) = path.rsplit_once('/').ok_or(Error::NoRoute)?;
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            let name = name.parse()?;
            return match last {
                "" => Ok(Self::Uploads(name)),
                id if is_upload_id(id) => Ok(Self::Upload(name, id.to_owned())),
                _ => Err(Error::UploadUnknown),
            };
        }
        let (name, kind) = rest.rsplit_once('/').ok_or(Error::NoRoute)?;
        match kind {
            "manifests" => Ok(Self::Manifest(name.parse()?, last.parse()?)),
            "blobs" => Ok(Self::Blob(name.parse()?, parse_digest(last)?)),
            "referrers" => Ok(Self::Referrers(name.parse()?, parse_digest(last)?)),
            _ => Err(Error::NoRoute),
        }
    }

    /// Returns whether a request is about writing, which includes asking how far an upload is.
    pub(crate) fn is_write(&self, method: &Method) -> bool {
        match self {
            Self::Uploads(_) | Self::Upload(..) => true,
            Self::Base
            | Self::Catalog
            | Self::Manifest(..)
            | Self::Blob(..)
            | Self::Tags(_)
            | Self::Referrers(..) => method != Method::GET && method != Method::HEAD,
        }
    }

    /// Returns the methods that the path has.
    pub(crate) fn allow(&self, takes_writes: bool) -> &'static str {
        match (self, takes_writes) {
            (Self::Manifest(..), true) => "GET, HEAD, PUT, DELETE",
            (Self::Blob(..), true) => "GET, HEAD, DELETE",
            (Self::Uploads(_), true) => "POST",
            (Self::Upload(..), true) => "GET, HEAD, PATCH, PUT, DELETE",
            (Self::Uploads(_) | Self::Upload(..), false) => "",
            (
                Self::Base
                | Self::Catalog
                | Self::Tags(_)
                | Self::Referrers(..)
                | Self::Manifest(..)
                | Self::Blob(..),
                _,
            ) => "GET, HEAD",
        }
    }
}

fn parse_digest(text: &str) -> Result<Digest, Error> {
    text.parse()
        .map_err(|error| Error::Reference(oci::ReferenceError::Digest(error)))
}

fn is_upload_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Decodes the parameters of a query in their order. `+` stays itself: media types have it, and
/// no value that is asked for has a space.
pub(crate) fn parameters(query: Option<&str>) -> impl Iterator<Item = (String, String)> {
    let decode = |text: &str| -> String {
        let bytes: Cow<'_, [u8]> = percent_encoding::percent_decode_str(text).into();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
}

#[cfg(test)]
mod tests {
    use oci::ErrorCode;

    use super::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = Digest::sha256(b"shoal");
        let cases = [
            ("/v2/".to_owned(), Route::Base),
            ("/v2".to_owned(), Route::Base),
            ("/v2/_catalog".to_owned(), Route::Catalog),
            (
                "/v2/a/b/c/manifests/v1".to_owned(),
                Route::Manifest(name("a/b/c"), "v1".parse().unwrap()),
            ),
            (
                format!("/v2/a/manifests/{digest}"),
                Route::Manifest(name("a"), digest.into()),
            ),
            (
                format!("/v2/a/manifests/sha256%3A{}", digest.hex()),
                Route::Manifest(name("a"), digest.into()),
            ),
            (
                "/v2/manifests/manifests/manifests".to_owned(),
                Route::Manifest(name("manifests"), "manifests".parse().unwrap()),
            ),
            (
                "/v2/a/blobs/uploads/manifests/list".to_owned(),
                Route::Manifest(name("a/blobs/uploads"), "list".parse().unwrap()),
            ),
            (
                format!("/v2/a/blobs/{digest}"),
                Route::Blob(name("a"), digest),
            ),
            (
                "/v2/a/b/blobs/uploads/".to_owned(),
                Route::Uploads(name("a/b")),
            ),
            (
                "/v2/a/b/blobs/uploads".to_owned(),
                Route::Uploads(name("a/b")),
            ),
            (
                "/v2/a/blobs/uploads/0f-3_a".to_owned(),
                Route::Upload(name("a"), "0f-3_a".to_owned()),
            ),
            ("/v2/tags/tags/list".to_owned(), Route::Tags(name("tags"))),
            (
                format!("/v2/a/referrers/{digest}"),
                Route::Referrers(name("a"), digest),
            ),
        ];
        for (path, route) in cases {
            assert_eq!(Route::parse(&path).unwrap(), route, "{path}");
        }
    }

    #[test]
    fn bad_paths_say_what_is_wrong() {
        use ErrorCode::{BlobUploadUnknown, DigestInvalid, NameInvalid, TagInvalid, Unsupported};
        let long = format!("/v2/{}/tags/list", "a".repeat(256));
        let cases = [
            ("/", Unsupported),
            ("/v1/_ping", Unsupported),
            ("/v2/a", Unsupported),
            ("/v2/a/tags", Unsupported),
            ("/v2/a/other/b", Unsupported),
            ("/v2/%ff/tags/list", Unsupported),
            ("/v2/A/tags/list", NameInvalid),
            ("/v2//tags/list", NameInvalid),
            ("/v2/a/../b/tags/list", NameInvalid),
            ("/v2/a%2f..%2fb/blobs/uploads/", NameInvalid),
            (&long, NameInvalid),
            ("/v2/a/manifests/sha256:baddigeststring", DigestInvalid),
            ("/v2/a/manifests/.v1", TagInvalid),
            ("/v2/a/blobs/latest", DigestInvalid),
            ("/v2/a/referrers/x", DigestInvalid),
            ("/v2/a/blobs/uploads/a.b", BlobUploadUnknown),
        ];
        for (path, code) in cases {
            assert_eq!(Route::parse(path).unwrap_err().code(), code, "{path}");
        }
    }

    #[test]
    fn parameters_keep_plus_signs() {
        let found: Vec<_> =
            parameters(Some("tag=a&tag=b&artifactType=a/b%2Bc+d&x&&y=%zz")).collect();
        let expected = [
            ("tag", "a"),
            ("tag", "b"),
            ("artifactType", "a/b+c+d"),
            ("x", ""),
            ("y", "%zz"),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(parameters(None).count(), 0);
    }
}
