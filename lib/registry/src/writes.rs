//! Uploads, and PUT and DELETE of manifests and blobs.

use std::sync::Arc;

use axum::body::Body;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use oci::{Digest, MAX_MANIFEST_BYTES, Reference, ReferenceError, RepositoryName, Tag};

use crate::body::Incoming;
use crate::error::Error;
use crate::push::{Push, Upload, Writes};
use crate::reads::CONTENT_DIGEST;
use crate::route::{Route, parameters};
use crate::router::{Registry, value};
use crate::upload::{UploadChunk, UploadSecret, progress};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Most `tag` parameters of one request.
const MAX_TAGS: usize = 64;

impl Registry {
    pub(crate) async fn write(
        &self,
        route: &Route,
        parts: &Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Error> {
        let Writes::Here(push, secret) = &self.writes else {
            let allow = route.allow(false);
            return Err(Error::Unsupported { allow });
        };
        let request = WriteRequest {
            push,
            secret,
            parts,
        };
        match (route, &parts.method) {
            (Route::Uploads(repository), &Method::POST) => request.start(repository, body).await,
            (Route::Upload(repository, id), method) => {
                let state = request.parameter("_state");
                let upload = secret.open(repository, id, state.as_deref())?;
                request
                    .go_on(route, method, repository, &upload, body)
                    .await
            }
            (Route::Manifest(repository, reference), &Method::PUT) => {
                request.put_manifest(repository, reference, body).await
            }
            (Route::Manifest(repository, reference), &Method::DELETE) => {
                push.delete_manifest(repository, reference).await?;
                Ok(empty(StatusCode::ACCEPTED))
            }
            (Route::Blob(repository, digest), &Method::DELETE) => {
                push.delete_blob(repository, digest).await?;
                Ok(empty(StatusCode::ACCEPTED))
            }
            _ => Err(Error::Unsupported {
                allow: route.allow(true),
            }),
        }
    }
}

struct WriteRequest<'a> {
    push: &'a Arc<dyn Push>,
    secret: &'a UploadSecret,
    parts: &'a Parts,
}

impl WriteRequest<'_> {
    /// POST: a new upload, a mount, or a whole blob at once.
    async fn start(
        &self,
        repository: &RepositoryName,
        body: Incoming,
    ) -> Result<Response<Body>, Error> {
        if let Some(digest) = self.parameter("mount") {
            let digest = parse_digest(&digest)?;
            // A name that no repository can have is not one that has the blob.
            let from = self.parameter("from").map(|from| from.parse());
            let mounted = match from {
                Some(Ok(from)) => self.push.mount(repository, &digest, Some(&from)).await?,
                Some(Err(_)) => false,
                None => self.push.mount(repository, &digest, None).await?,
            };
            if mounted {
                return created_blob(repository, &digest);
            }
        } else if let Some(digest) = self.parameter("digest") {
            let digest = parse_digest(&digest)?;
            self.take_whole(repository, &digest, body).await?;
            return created_blob(repository, &digest);
        }
        let upload = self.push.start_upload(repository).await?;
        self.progressed(StatusCode::ACCEPTED, repository, &upload, 0)
    }

    async fn take_whole(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        body: Incoming,
    ) -> Result<(), Error> {
        let upload = self.push.start_upload(repository).await?;
        let appended = self
            .push
            .append(repository, &upload, Some(0), Box::pin(body));
        if let Err(error) = appended.await {
            // The client does not know the upload, so nobody would go on with it.
            if let Err(error) = self.push.cancel(repository, &upload).await {
                tracing::debug!(upload = upload.id, %error, "cannot give up an upload");
            }
            return Err(error);
        }
        self.push.commit(repository, &upload, digest).await
    }

    /// What can be done with an upload that was started.
    async fn go_on(
        &self,
        route: &Route,
        method: &Method,
        repository: &RepositoryName,
        upload: &Upload,
        body: Incoming,
    ) -> Result<Response<Body>, Error> {
        match *method {
            Method::PATCH => self.append(repository, upload, body).await,
            Method::PUT => self.finish(repository, upload, body).await,
            Method::GET | Method::HEAD => {
                let offset = self.push.upload_offset(repository, upload).await?;
                self.progressed(StatusCode::NO_CONTENT, repository, upload, offset)
            }
            Method::DELETE => {
                self.push.cancel(repository, upload).await?;
                Ok(empty(StatusCode::NO_CONTENT))
            }
            _ => Err(Error::Unsupported {
                allow: route.allow(true),
            }),
        }
    }

    async fn append(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
        body: Incoming,
    ) -> Result<Response<Body>, Error> {
        match self.receive(repository, upload, body).await {
            Ok(offset) => self.progressed(StatusCode::ACCEPTED, repository, upload, offset),
            Err(error) => self.refused(repository, upload, error),
        }
    }

    /// PUT: the last bytes, if any, and then the digest decides.
    async fn finish(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
        body: Incoming,
    ) -> Result<Response<Body>, Error> {
        let digest = self.parameter("digest").ok_or(Error::NoDigest)?;
        let digest = parse_digest(&digest)?;
        if !body.is_empty()
            && let Err(error) = self.receive(repository, upload, body).await
        {
            return self.refused(repository, upload, error);
        }
        self.push.commit(repository, upload, &digest).await?;
        created_blob(repository, &digest)
    }

    /// Passes the body on, and returns how many bytes the upload has then.
    async fn receive(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
        body: Incoming,
    ) -> Result<u64, Error> {
        let chunk = chunk(&self.parts.headers)?;
        let body = match chunk {
            Some(chunk) => body.expect(chunk.count),
            None => body,
        };
        let offset = chunk.map(|chunk| chunk.offset);
        self.push
            .append(repository, upload, offset, Box::pin(body))
            .await
    }

    /// Answers a request that does not fit an upload, which goes on: the client is told from where.
    fn refused(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
        error: Error,
    ) -> Result<Response<Body>, Error> {
        let Error::UploadOffset { offset } = error else {
            return Err(error);
        };
        let mut response = error.into_response();
        self.add_progress(response.headers_mut(), repository, upload, offset)?;
        Ok(response)
    }

    fn progressed(
        &self,
        status: StatusCode,
        repository: &RepositoryName,
        upload: &Upload,
        offset: u64,
    ) -> Result<Response<Body>, Error> {
        let mut response = empty(status);
        self.add_progress(response.headers_mut(), repository, upload, offset)?;
        Ok(response)
    }

    fn add_progress(
        &self,
        headers: &mut HeaderMap,
        repository: &RepositoryName,
        upload: &Upload,
        offset: u64,
    ) -> Result<(), Error> {
        let location = self.secret.location(repository, upload);
        headers.insert(header::LOCATION, value(location)?);
        headers.insert(header::RANGE, value(progress(offset))?);
        headers.insert(UPLOAD_ID, value(&upload.id)?);
        Ok(())
    }

    async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        body: Incoming,
    ) -> Result<Response<Body>, Error> {
        let tags = self.tags()?;
        let too_large = || Error::ManifestTooLarge {
            limit_bytes: MAX_MANIFEST_BYTES,
        };
        if content_length(&self.parts.headers)
            .is_some_and(|length| length > MAX_MANIFEST_BYTES as u64)
        {
            return Err(too_large());
        }
        let bytes = body
            .collect(MAX_MANIFEST_BYTES)
            .await
            .map_err(|_| Error::SizeInvalid)?
            .ok_or_else(too_large)?;
        if let Some(digest) = reference.digest()
            && Digest::of(digest.algorithm(), &bytes) != *digest
        {
            return Err(Error::DigestMismatch(*digest));
        }
        let media_type = self.parts.headers.get(header::CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok());
        let pushed = self
            .push
            .put_manifest(repository, reference, &tags, media_type, bytes)
            .await?;
        let mut response = empty(StatusCode::CREATED);
        let headers = response.headers_mut();
        let location = format!("/v2/{repository}/manifests/{}", pushed.digest);
        headers.insert(header::LOCATION, value(location)?);
        headers.insert(CONTENT_DIGEST, value(pushed.digest)?);
        if let Some(subject) = pushed.subject {
            headers.insert(SUBJECT, value(subject)?);
        }
        for tag in &pushed.tags {
            headers.append(TAG, value(tag)?);
        }
        Ok(response)
    }

    fn tags(&self) -> Result<Vec<Tag>, Error> {
        let mut tags = Vec::new();
        for (key, tag) in parameters(self.parts.uri.query()) {
            if key != "tag" {
                continue;
            }
            if tags.len() == MAX_TAGS {
                return Err(Error::TooManyTags { limit: MAX_TAGS });
            }
            tags.push(tag.parse()?);
        }
        Ok(tags)
    }

    fn parameter(&self, name: &str) -> Option<String> {
        parameters(self.parts.uri.query()).find_map(|(key, value)| (key == name).then_some(value))
    }
}

/// Returns which bytes a request says to bring.
fn chunk(headers: &HeaderMap) -> Result<Option<UploadChunk>, Error> {
    let Some(range) = headers.get(header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let range = range.to_str().unwrap_or_default();
    let chunk = UploadChunk::parse(range)?;
    match content_length(headers) {
        Some(length) if length != chunk.count => Err(Error::SizeInvalid),
        Some(_) | None => Ok(Some(chunk)),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

fn parse_digest(text: &str) -> Result<Digest, Error> {
    text.parse()
        .map_err(|error| ReferenceError::Digest(error).into())
}

fn created_blob(repository: &RepositoryName, digest: &Digest) -> Result<Response<Body>, Error> {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    let location = format!("/v2/{repository}/blobs/{digest}");
    headers.insert(header::LOCATION, value(location)?);
    headers.insert(CONTENT_DIGEST, value(digest)?);
    Ok(response)
}

/// Returns an answer without a body, which says so.
fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        let zero = HeaderValue::from_static("0");
        response.headers_mut().insert(header::CONTENT_LENGTH, zero);
    }
    response
}
