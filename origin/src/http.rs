//! The routes of an origin. Handlers translate; what they mean stands in the other modules.

mod error;
mod ring;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use api::origin::{self as contract, Stored, StoredQuery};
use async_trait::async_trait;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use backend::layout;
use futures_util::StreamExt as _;
use oci::{ByteRange, Digest, RangeRequest};
use peer::Found;
use torrent::{Description, SwarmName};

use crate::blobs::{BlobError, Blobs};
use crate::fetch::Fetcher;
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::serve;
use crate::tier::Tier;
use crate::write_back::WriteBack;
use error::Failure;

/// What the routes tell the swarm.
#[async_trait]
pub trait Seeder: Send + Sync + 'static {
    /// A blob is in storage, whole and hashed.
    async fn seed(&self, description: Description);
    /// A blob is not in storage any more.
    async fn remove(&self, name: SwarmName);
}

/// What the routes act on.
pub struct Doors {
    pub blobs: Arc<Blobs>,
    pub fetcher: Arc<Fetcher>,
    pub ingest: Ingest,
    pub seeder: Box<dyn Seeder>,
    /// Where storage is an object store.
    pub tier: Option<Arc<Tier>>,
    pub write_back: Option<Arc<WriteBack>>,
    pub metrics: Metrics,
}

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doors").finish_non_exhaustive()
    }
}

type Shared = State<Arc<Doors>>;

/// Returns the routes for other parts of the cluster.
pub fn router(doors: Arc<Doors>) -> Router {
    let uploads = get(upload::offset)
        .patch(upload::append)
        .put(upload::commit)
        .delete(upload::cancel);
    Router::new()
        .route(contract::UPLOADS, post(upload::create))
        .route(contract::UPLOAD, uploads)
        .route(contract::BLOB, get(read).delete(delete))
        .route(contract::METAINFO, get(metainfo))
        .route(contract::VERIFY, post(verify))
        .route(contract::STORED, get(stored))
        .route(api::ring::HELD, get(ring::held))
        .route(api::ring::RUNS, get(ring::run).head(ring::stat))
        .route(api::ring::DESCRIBED, get(ring::described))
        .with_state(doors)
}

fn parse_digest(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(Failure::Digest)
}

/// GET and HEAD of a blob, or one range of it.
async fn read(
    State(doors): Shared,
    Path(digest): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    let digest = parse_digest(&digest)?;
    let content = doors.blobs.find(&digest).await?;
    let content = content.ok_or(Failure::BlobUnknown(digest))?;
    let length = content.stat.length;
    let asked = asked_range(request.headers(), length)?;
    let range = asked.map_or(0..length, |asked| asked.bytes());
    let blobs = Arc::clone(&doors.blobs);
    let body = if request.method() == Method::HEAD {
        Body::empty()
    } else {
        let body = match doors.fetcher.resolve(&digest).await {
            Found::Here(Description::Complete(_)) => {
                let metainfo = doors.blobs.metainfo(&digest).await?;
                let metainfo = metainfo.ok_or(Failure::BlobUnknown(digest))?;
                serve::hashed(blobs, content, metainfo, range.clone())
            }
            Found::Here(Description::Growing(_)) if range == (0..length) => {
                serve::unhashed(blobs, content, digest)
            }
            Found::Here(Description::Growing(_)) => serve::unchecked(blobs, content, range.clone()),
            Found::Absent => return Err(Failure::BlobUnknown(digest)),
            Found::Failed(reason) => return Err(Failure::Unavailable(reason)),
        };
        Body::from_stream(body.inspect(move |part| {
            if let Err(error) = part {
                tracing::error!(%digest, %error, "a body was cut");
            }
        }))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, OCTETS);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    if let Some(asked) = asked {
        let value = asked.content_range().parse();
        headers.insert(header::CONTENT_RANGE, value.map_err(Failure::internal)?);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

fn asked_range(headers: &HeaderMap, length: u64) -> Result<Option<ByteRange>, Failure> {
    let header = headers.get(header::RANGE);
    let Some(text) = header.and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    match RangeRequest::parse(text)? {
        Some(asked) => Ok(asked.resolve(length)?),
        None => Ok(None),
    }
}

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

async fn metainfo(State(doors): Shared, Path(digest): Path<String>) -> Result<Response, Failure> {
    let digest = parse_digest(&digest)?;
    let found = doors.fetcher.resolve(&digest).await;
    metainfo_of(&doors, digest, found).await
}

/// Answers with the metainfo of a blob, where it was found complete.
async fn metainfo_of(doors: &Doors, digest: Digest, found: Found) -> Result<Response, Failure> {
    match found {
        Found::Here(Description::Complete(_)) => {}
        Found::Here(Description::Growing(_)) | Found::Absent => {
            return Err(Failure::BlobUnknown(digest));
        }
        Found::Failed(reason) => return Err(Failure::Unavailable(reason)),
    }
    let metainfo = doors.blobs.metainfo(&digest).await?;
    let metainfo = metainfo.ok_or(Failure::BlobUnknown(digest))?;
    Ok(([(header::CONTENT_TYPE, OCTETS)], metainfo.to_bytes()).into_response())
}

/// A folder and memory are storage: what is committed is where it shall stay.
async fn verify(State(doors): Shared, Path(digest): Path<String>) -> Result<StatusCode, Failure> {
    let digest = parse_digest(&digest)?;
    match doors.blobs.find(&digest).await? {
        Some(_) => Ok(StatusCode::OK),
        None => Err(Failure::Unavailable(
            format!("{digest} is not in storage").into(),
        )),
    }
}

/// How much of a blob is in storage. Where that is a folder, what is there is there.
async fn stored(
    State(doors): Shared,
    Path(digest): Path<String>,
    query: Result<Query<StoredQuery>, QueryRejection>,
) -> Result<Json<Stored>, Failure> {
    let digest = parse_digest(&digest)?;
    let Query(query) = query.map_err(|error| Failure::Query(error.body_text()))?;
    let stored = match &doors.write_back {
        Some(write_back) => {
            let wait = Duration::from_secs(query.wait.min(contract::MAX_STORED_WAIT_S));
            let repository = query.repository.as_ref();
            let stored = write_back.stored(&digest, repository, wait).await;
            stored.map_err(BlobError::Backend)?
        }
        None => doors.blobs.find(&digest).await?.and_then(|content| {
            Some(Stored {
                stored: true,
                written_bytes: content.stat.length,
                length: content.stat.length,
                sha256: layout::content_of(&content.key)?,
                is_pushed: false,
            })
        }),
    };
    stored.ok_or(Failure::BlobUnknown(digest)).map(Json)
}

async fn delete(State(doors): Shared, Path(digest): Path<String>) -> Result<StatusCode, Failure> {
    let digest = parse_digest(&digest)?;
    doors.blobs.delete(&digest).await?;
    // Last: nobody finds it in storage again meanwhile.
    doors.seeder.remove(SwarmName::Blob(digest)).await;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests;
