//! The routes between origins. Whoever is asked here asks no other origin for it, but for what
//! somebody holds.

use api::ring::RunQuery;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use backend::{ETag, Error, Key, Object, Stat};
use futures_util::TryStreamExt as _;
use oci::ByteRange;
use peer::Found;
use std::time::SystemTime;

use super::error::Failure;
use super::{OCTETS, Shared, asked_range, metainfo_of, parse_digest};
use crate::metrics::{Outcome, RingRead, Way};
use crate::runs::Asker;
use crate::tier::Tier;

/// HEAD and GET of an object that this origin holds.
pub(super) async fn held(
    State(doors): Shared,
    Path(key): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    let key = parse_key(key)?;
    let tier = doors.tier.as_deref().ok_or_else(|| absent(&key))?;
    let stat = tier.held().stat(&key).await.map_err(failed)?;
    let stat = stat.ok_or_else(|| absent(&key))?;
    let range = asked_range(request.headers(), stat.length)?;
    if request.method() == Method::HEAD {
        return answer(&stat, None, Body::empty());
    }
    let bytes = range.map(|range| range.bytes());
    let object = tier.held().get(&key, bytes).await.map_err(failed)?;
    let object = object.ok_or_else(|| absent(&key))?;
    answer(&stat, range, body(object))
}

/// HEAD of an object in the store, or held here.
pub(super) async fn stat(
    State(doors): Shared,
    Path(key): Path<String>,
) -> Result<Response, Failure> {
    let key = parse_key(key)?;
    let tier = doors.tier.as_deref().ok_or_else(|| absent(&key))?;
    let stat = match tier.held().stat(&key).await {
        Ok(Some(stat)) => Ok(stat),
        Ok(None) => tier.reads().stat(&key, Asker::Origin).await,
        Err(error) => Err(error),
    };
    answer(&served(&doors, stat)?, None, Body::empty())
}

/// GET of a part of an object, out of the cache of runs.
pub(super) async fn run(
    State(doors): Shared,
    Path(key): Path<String>,
    query: Result<Query<RunQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| Failure::Query(error.body_text()))?;
    let key = parse_key(key)?;
    let tier = doors.tier.as_deref().ok_or_else(|| absent(&key))?;
    let stat = Stat {
        length: query.length,
        etag: ETag::new(query.etag),
        modified: SystemTime::UNIX_EPOCH,
    };
    let Some(range) = asked_range(&headers, stat.length)? else {
        return Err(Failure::Query("name the part with Range".into()));
    };
    let object = read(tier, &key, &stat, &range).await;
    let object = served(&doors, object)?;
    answer(&object.stat.clone(), Some(range), body(object))
}

async fn read(tier: &Tier, key: &Key, stat: &Stat, range: &ByteRange) -> Result<Object, Error> {
    match tier.held().get(key, Some(range.bytes())).await? {
        Some(object) => Ok(object),
        None => tier.reads().get_for_origin(key, stat, range.bytes()),
    }
}

/// The metainfo of a blob as its first owner knows it, which hashes the blob where nobody did.
pub(super) async fn described(
    State(doors): Shared,
    Path(digest): Path<String>,
) -> Result<Response, Failure> {
    let digest = parse_digest(&digest)?;
    let tier = doors.tier.as_deref();
    let tier = tier.ok_or(Failure::BlobUnknown(digest))?;
    if tier.reads().ring().first(&digest).is_some() {
        // It would ask another one.
        let text = format!("another origin is the first owner of {digest}");
        return Err(Failure::Unavailable(text.into()));
    }
    let found = doors.fetcher.resolve(&digest).await;
    let outcome = match &found {
        Found::Here(_) => Outcome::Done,
        Found::Absent => Outcome::Absent,
        Found::Failed(_) => Outcome::Failed,
    };
    count(&doors, outcome);
    metainfo_of(&doors, digest, found).await
}

/// Counts what another origin asked for.
fn served<T>(doors: &super::Doors, result: Result<T, Error>) -> Result<T, Failure> {
    let outcome = match &result {
        Ok(_) => Outcome::Done,
        Err(error) if error.is_not_found() => Outcome::Absent,
        Err(_) => Outcome::Failed,
    };
    count(doors, outcome);
    result.map_err(failed)
}

fn count(doors: &super::Doors, outcome: Outcome) {
    let read = RingRead {
        way: Way::Served,
        outcome,
    };
    doors.metrics.ring_reads.get_or_create(&read).inc();
}

fn parse_key(text: String) -> Result<Key, Failure> {
    Key::new(text).map_err(|error| Failure::Query(error.to_string()))
}

fn absent(key: &Key) -> Failure {
    Failure::ObjectUnknown(key.clone())
}

fn failed(error: Error) -> Failure {
    if let Error::NotFound { key } = error {
        return Failure::ObjectUnknown(key);
    }
    Failure::Blob(error.into())
}

fn body(object: Object) -> Body {
    Body::from_stream(object.body.inspect_err(|error| {
        tracing::debug!(%error, "a body for another origin was cut");
    }))
}

fn answer(stat: &Stat, range: Option<ByteRange>, body: Body) -> Result<Response, Failure> {
    let mut response = Response::new(body);
    let whole = 0..stat.length;
    let bytes = range.map_or(whole, |range| range.bytes());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, OCTETS);
    headers.insert(header::CONTENT_LENGTH, (bytes.end - bytes.start).into());
    let etag = HeaderValue::from_str(stat.etag.as_str());
    headers.insert(header::ETAG, etag.map_err(Failure::internal)?);
    if let Some(range) = range {
        let value = range.content_range().parse();
        headers.insert(header::CONTENT_RANGE, value.map_err(Failure::internal)?);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}
