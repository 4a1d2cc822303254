//! GET and HEAD of manifests, blobs, tags, repositories and referrers.

use std::collections::HashMap;

use axum::body::Body;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use oci::{
    Descriptor, Digest, ErrorCode, RangeRequest, Reference, RepositoryName, Tag, media_type,
};
use serde::Serialize;
use tokio::time::Instant;

use crate::body::Exactly;
use crate::error::Error;
use crate::names::{Catalog, Listing, Page, TagList};
use crate::pull::{Extent, ManifestBytes, ManifestInfo};
use crate::route::{Route, parameters};
use crate::router::{Registry, bounded, value};

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

impl Registry {
    pub(crate) async fn read(&self, route: &Route, parts: &Parts) -> Result<Response<Body>, Error> {
        let head = parts.method == Method::HEAD;
        match route {
            Route::Base => json(&serde_json::json!({}), JSON),
            Route::Catalog => self.read_catalog(parts).await,
            Route::Manifest(repository, reference) => {
                let response = self.read_manifest(repository, reference, parts, head).await;
                response.map_err(|error| self.soften(ErrorCode::ManifestUnknown, error))
            }
            Route::Blob(repository, digest) => {
                let response = if head {
                    self.head_blob(repository, digest, parts).await
                } else {
                    self.read_blob(repository, digest, parts).await
                };
                response.map_err(|error| self.soften(ErrorCode::BlobUnknown, error))
            }
            Route::Tags(repository) => {
                let response = self.read_tags(repository, parts).await;
                response.map_err(|error| self.soften(ErrorCode::NameUnknown, error))
            }
            Route::Referrers(repository, digest) => {
                let response = self.read_referrers(repository, digest, parts).await;
                response.map_err(|error| self.soften(ErrorCode::ManifestUnknown, error))
            }
            Route::Uploads(_) | Route::Upload(..) => Err(Error::Unsupported {
                allow: route.allow(true),
            }),
        }
    }

    async fn read_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        parts: &Parts,
        head: bool,
    ) -> Result<Response<Body>, Error> {
        let wait = self.options.manifest_wait;
        let (info, body) = if head {
            let info = self.pull.manifest_info(repository, reference);
            (bounded(wait, info).await?, Body::empty())
        } else {
            let manifest = bounded(wait, self.pull.manifest(repository, reference)).await?;
            check(&manifest)?;
            (manifest.info(), Body::from(manifest.bytes))
        };
        if reference
            .digest()
            .is_some_and(|asked| *asked != info.digest)
        {
            let text = format!("asked for {reference}, storage has {}", info.digest);
            return Err(Error::Internal(text));
        }
        manifest_response(&info, body, &parts.headers)
    }

    async fn head_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        parts: &Parts,
    ) -> Result<Response<Body>, Error> {
        let length = self.pull.blob_length(repository, digest);
        let length = bounded(self.options.part_wait, length).await?;
        let mut response = blob_response(digest, length, Body::empty())?;
        if is_known(&parts.headers, digest) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        Ok(response)
    }

    async fn read_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        parts: &Parts,
    ) -> Result<Response<Body>, Error> {
        let range = requested_range(&parts.headers, digest)?;
        let (extent, wait) = match range {
            Some(RangeRequest::FromTo(..) | RangeRequest::Suffix(_)) => {
                (Extent::Part, self.options.part_wait)
            }
            Some(RangeRequest::From(_)) | None => (Extent::Rest, self.options.blob_wait),
        };
        let began = Instant::now();
        let blob = bounded(wait, self.pull.blob(repository, digest)).await?;
        let length = blob.length();
        if is_known(&parts.headers, digest) {
            let mut response = blob_response(digest, length, Body::empty())?;
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        let range = match range {
            Some(range) => range.resolve(length)?,
            None => None,
        };
        let (bytes, count) = match &range {
            Some(range) => (range.bytes(), range.count()),
            None => (0..length, length),
        };
        let body = if count == 0 {
            Body::empty()
        } else {
            let left = wait.saturating_sub(began.elapsed());
            let stream = bounded(left, blob.read(bytes, extent)).await?;
            Body::new(Exactly::new(stream, count, *digest, &self.options))
        };
        let mut response = blob_response(digest, count, body)?;
        if let Some(range) = range {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let content_range = value(range.content_range())?;
            response
                .headers_mut()
                .insert(header::CONTENT_RANGE, content_range);
        }
        Ok(response)
    }

    async fn read_tags(
        &self,
        repository: &RepositoryName,
        parts: &Parts,
    ) -> Result<Response<Body>, Error> {
        let page = Page::from_query(&query(parts))?;
        let found: Listing<Tag> = match &page {
            Some(page) => {
                bounded(self.options.manifest_wait, self.pull.tags(repository, page)).await?
            }
            None => Listing::EMPTY,
        };
        let list = TagList {
            name: repository.as_str(),
            tags: found.names.iter().map(Tag::as_str).collect(),
        };
        let path = format!("/v2/{repository}/tags/list");
        linked(
            json(&list, JSON)?,
            &path,
            page.as_ref(),
            found.next.as_deref(),
        )
    }

    async fn read_catalog(&self, parts: &Parts) -> Result<Response<Body>, Error> {
        let page = Page::from_query(&query(parts))?;
        let found: Listing<RepositoryName> = match &page {
            Some(page) => bounded(self.options.manifest_wait, self.pull.repositories(page)).await?,
            None => Listing::EMPTY,
        };
        let list = Catalog {
            repositories: found.names.iter().map(RepositoryName::as_str).collect(),
        };
        linked(
            json(&list, JSON)?,
            "/v2/_catalog",
            page.as_ref(),
            found.next.as_deref(),
        )
    }

    async fn read_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        parts: &Parts,
    ) -> Result<Response<Body>, Error> {
        let query = query(parts);
        let filter = query.get("artifactType").map(String::as_str);
        let referrers = self.pull.referrers(repository, digest, filter);
        let manifests: Vec<Descriptor> = bounded(self.options.manifest_wait, referrers).await?;
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_INDEX,
            "manifests": manifests,
        });
        let mut response = json(&index, HeaderValue::from_static(media_type::OCI_INDEX))?;
        if filter.is_some() {
            let applied = HeaderValue::from_static("artifactType");
            response.headers_mut().insert(FILTERS_APPLIED, applied);
        }
        Ok(response)
    }
}

impl<T> Listing<T> {
    const EMPTY: Self = Self {
        names: Vec::new(),
        next: None,
    };
}

/// Hashes a manifest before any of it is sent.
fn check(manifest: &ManifestBytes) -> Result<(), Error> {
    let found = Digest::of(manifest.digest.algorithm(), &manifest.bytes);
    if found == manifest.digest {
        return Ok(());
    }
    let text = format!(
        "manifest {} has the wrong bytes in storage",
        manifest.digest
    );
    Err(Error::Internal(text))
}

fn manifest_response(
    info: &ManifestInfo,
    body: Body,
    request: &HeaderMap,
) -> Result<Response<Body>, Error> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value(&info.media_type)?);
    headers.insert(header::CONTENT_LENGTH, info.length.into());
    headers.insert(CONTENT_DIGEST, value(info.digest)?);
    headers.insert(header::ETAG, etag(&info.digest)?);
    if is_known(request, &info.digest) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
    }
    Ok(response)
}

fn blob_response(digest: &Digest, count: u64, body: Body) -> Result<Response<Body>, Error> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, BYTES);
    headers.insert(header::CONTENT_LENGTH, count.into());
    headers.insert(CONTENT_DIGEST, value(digest)?);
    headers.insert(header::ETAG, etag(digest)?);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let for_ever = HeaderValue::from_static("max-age=31536000");
    headers.insert(header::CACHE_CONTROL, for_ever);
    Ok(response)
}

fn etag(digest: &Digest) -> Result<HeaderValue, Error> {
    value(format_args!("\"{digest}\""))
}

/// Returns whether the client has the content already, by `If-None-Match`.
fn is_known(request: &HeaderMap, digest: &Digest) -> bool {
    let etag = format!("\"{digest}\"");
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tag == etag)
}

/// Returns the range that is asked for, unless `If-Range` says that of another content.
fn requested_range(request: &HeaderMap, digest: &Digest) -> Result<Option<RangeRequest>, Error> {
    let text = |name| {
        request
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    if text(header::IF_RANGE).is_some_and(|tag| tag != format!("\"{digest}\"")) {
        return Ok(None);
    }
    match text(header::RANGE) {
        Some(range) => Ok(RangeRequest::parse(range)?),
        None => Ok(None),
    }
}

fn query(parts: &Parts) -> HashMap<String, String> {
    parameters(parts.uri.query()).collect()
}

fn json(body: &impl Serialize, content_type: HeaderValue) -> Result<Response<Body>, Error> {
    let text = serde_json::to_string(body).map_err(|error| Error::Internal(error.to_string()))?;
    let mut response = Response::new(Body::from(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

/// Adds the link to the next page.
fn linked(
    mut response: Response<Body>,
    path: &str,
    page: Option<&Page>,
    next: Option<&str>,
) -> Result<Response<Body>, Error> {
    if let (Some(page), Some(last)) = (page, next) {
        let link = format!("<{path}?n={}&last={last}>; rel=\"next\"", page.limit);
        response.headers_mut().insert(header::LINK, value(link)?);
    }
    Ok(response)
}
