//! The routes of a build-index. Handlers translate; what they mean stands in the other modules.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::build_index::{
    self as contract, BlobStat, DIGEST_HEADER, LinkQuery, MAX_PAGE_NAMES, MAX_TAGS, ManifestStored,
    Names as NamesAnswer, PageQuery, Referrers as ReferrersAnswer, ReferrersQuery, WRITE_HEADER,
    WriteId,
};
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use oci::{Algorithm, Digest, MAX_MANIFEST_BYTES, Reference, RepositoryName, Tag};
use tokio::sync::Semaphore;

use crate::error::Failure;
use crate::manifests::{Manifests, Put};
use crate::metrics::{Endpoint, Metrics};
use crate::names::{Names, Page};
use crate::referrers::Referrers;
use crate::repositories::Repositories;
use crate::writer::{Writer, wait_of};

/// Changes under way at a time; others wait for their turn. One whose caller was told that it takes
/// too long is still under way.
pub(crate) const MAX_CHANGES: usize = 256;
/// Longest `last` or artifact type in bytes.
const MAX_TEXT_BYTES: usize = 512;

/// What the routes act on.
#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) manifests: Manifests,
    pub(crate) repositories: Repositories,
    pub(crate) referrers: Referrers,
    pub(crate) names: Names,
    pub(crate) metrics: Metrics,
    pub(crate) writer: Writer,
    /// Turns of changes.
    pub(crate) changes: Arc<Semaphore>,
    pub(crate) read_wait: Duration,
    pub(crate) write_wait: Duration,
}

type Shared = State<Arc<Doors>>;
type Asked<Q> = Result<Query<Q>, QueryRejection>;

/// Returns the routes for other parts of the cluster.
pub(crate) fn router(doors: Arc<Doors>) -> Router {
    let metrics = doors.metrics.clone();
    let counted = |routes: MethodRouter<Arc<Doors>>, endpoint| {
        let metrics = metrics.clone();
        routes.layer(middleware::from_fn(move |request: Request, next: Next| {
            count(metrics.clone(), endpoint, request, next)
        }))
    };
    let manifest = get(get_manifest).put(put_manifest).delete(delete_manifest);
    let blob = get(get_blob).put(put_blob).delete(delete_blob);
    Router::new()
        .route(
            contract::REPOSITORIES,
            counted(get(repositories), Endpoint::Repositories),
        )
        .route(contract::TAGS, counted(get(tags), Endpoint::Tags))
        .route(contract::MANIFEST, counted(manifest, Endpoint::Manifest))
        .route(contract::BLOB, counted(blob, Endpoint::Blob))
        .route(
            contract::REFERRERS,
            counted(get(referrers), Endpoint::Referrers),
        )
        .with_state(doors)
}

async fn count(metrics: Metrics, endpoint: Endpoint, request: Request, next: Next) -> Response {
    let (method, began) = (request.method().clone(), Instant::now());
    let response = next.run(request).await;
    metrics.answered(endpoint, &method, response.status(), began.elapsed());
    response
}

async fn repositories(
    State(doors): Shared,
    query: Asked<PageQuery>,
) -> Result<Json<NamesAnswer>, Failure> {
    let (last, limit) = page(query)?;
    let listed = doors.names.repositories(last.as_deref(), limit);
    Ok(Json(names(bounded(doors.read_wait, listed).await?)))
}

async fn tags(
    State(doors): Shared,
    Path(repository): Path<String>,
    query: Asked<PageQuery>,
) -> Result<Json<NamesAnswer>, Failure> {
    let repository = repository.parse::<RepositoryName>()?;
    let (last, limit) = page(query)?;
    let listed = doors.names.tags(&repository, last.as_deref(), limit);
    Ok(Json(names(bounded(doors.read_wait, listed).await?)))
}

async fn get_manifest(
    State(doors): Shared,
    Path((repository, reference)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let (repository, reference) = parse(&repository, &reference)?;
    let manifest = doors.manifests.get(&repository, &reference);
    let manifest = bounded(doors.read_wait, manifest).await?;
    let mut response = Response::new(Body::from(manifest.bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value(&manifest.media_type)?);
    headers.insert(DIGEST_HEADER, value(&manifest.digest.to_string())?);
    Ok(response)
}

async fn put_manifest(
    State(doors): Shared,
    Path((repository, reference)): Path<(String, String)>,
    query: Asked<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<ManifestStored>), Failure> {
    let (repository, reference) = parse(&repository, &reference)?;
    let tags = tags_of(query)?;
    let media_type = match headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str) {
        Some(Ok(text)) => Some(text.to_owned()),
        Some(Err(_)) => return Err(Failure::Query("Content-Type is no text".into())),
        None => None,
    };
    let put = Put {
        repository,
        reference,
        tags,
        media_type,
        bytes: collect(body, doors.write_wait).await?,
        write: write_of(&headers)?,
    };
    if let Some(writer) = doors.writer.elsewhere(&headers)? {
        let stored = bounded(doors.write_wait, writer.put(put)).await?;
        return Ok((StatusCode::CREATED, Json(stored)));
    }
    let wait = wait_of(&headers, doors.write_wait);
    let stored = to_the_end(doors, wait, async |doors| doors.manifests.put(put).await).await?;
    Ok((StatusCode::CREATED, Json(stored)))
}

async fn delete_manifest(
    State(doors): Shared,
    Path((repository, reference)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    let (repository, reference) = parse(&repository, &reference)?;
    let write = write_of(&headers)?;
    if let Some(writer) = doors.writer.elsewhere(&headers)? {
        let deleted = writer.delete(&repository, &reference, write);
        bounded(doors.write_wait, deleted).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let wait = wait_of(&headers, doors.write_wait);
    to_the_end(doors, wait, async move |doors| {
        doors.manifests.delete(&repository, &reference, write).await
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn get_blob(
    State(doors): Shared,
    Path((repository, digest)): Path<(String, String)>,
) -> Result<Json<BlobStat>, Failure> {
    let (repository, digest) = parse_blob(&repository, &digest)?;
    let found = doors.repositories.known(&repository, &digest);
    let found = bounded(doors.read_wait, found).await?;
    found
        .ok_or(Failure::BlobUnknown { repository, digest })
        .map(Json)
}

async fn put_blob(
    State(doors): Shared,
    Path((repository, digest)): Path<(String, String)>,
    query: Asked<LinkQuery>,
) -> Result<Json<BlobStat>, Failure> {
    let (repository, digest) = parse_blob(&repository, &digest)?;
    let Query(query) = query.map_err(refused)?;
    if query
        .sha256
        .is_some_and(|sha256| sha256.algorithm() != Algorithm::Sha256)
    {
        return Err(Failure::Query("sha256 is another digest".into()));
    }
    let wait = doors.write_wait;
    let length = to_the_end(doors, wait, async move |doors| {
        doors.repositories.link(&repository, &digest, &query).await
    })
    .await?;
    Ok(Json(BlobStat::new(Some(length))))
}

async fn delete_blob(
    State(doors): Shared,
    Path((repository, digest)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    let (repository, digest) = parse_blob(&repository, &digest)?;
    let wait = doors.write_wait;
    to_the_end(doors, wait, async move |doors| {
        doors.repositories.unlink(&repository, &digest).await
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn referrers(
    State(doors): Shared,
    Path((repository, digest)): Path<(String, String)>,
    query: Asked<ReferrersQuery>,
) -> Result<Json<ReferrersAnswer>, Failure> {
    let (repository, digest) = parse_blob(&repository, &digest)?;
    let Query(ReferrersQuery { artifact_type }) = query.map_err(refused)?;
    bounded_text(artifact_type.as_deref())?;
    let found = doors
        .referrers
        .of(&repository, &digest, artifact_type.as_deref());
    let descriptors = bounded(doors.read_wait, found).await?;
    Ok(Json(ReferrersAnswer { descriptors }))
}

/// Does a change to its end, even where whoever asked for it leaves, or is told that it takes too
/// long: a write that was let go could still arrive after the next one.
async fn to_the_end<T, F>(
    doors: Arc<Doors>,
    wait: Duration,
    change: impl FnOnce(Arc<Doors>) -> F,
) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let until = tokio::time::Instant::now() + wait;
    let turn = Arc::clone(&doors.changes).acquire_owned();
    let turn = tokio::time::timeout_at(until, turn).await;
    let turn = turn.map_err(|_| Failure::Busy(wait.as_secs()))?;
    let change = change(doors);
    let changing = tokio::spawn(async move {
        let changed = change.await;
        drop(turn);
        changed
    });
    match tokio::time::timeout_at(until, changing).await {
        Ok(changed) => changed.unwrap_or_else(|error| Err(Failure::Internal(error.to_string()))),
        Err(_) => Err(Failure::Unfinished(wait.as_secs())),
    }
}

async fn bounded<T>(
    wait: Duration,
    what: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let done = tokio::time::timeout(wait, what).await;
    done.unwrap_or(Err(Failure::Timeout(wait.as_secs())))
}

async fn collect(body: Body, wait: Duration) -> Result<Bytes, Failure> {
    let collecting = axum::body::to_bytes(body, MAX_MANIFEST_BYTES);
    let collected = tokio::time::timeout(wait, collecting).await;
    let collected = collected.map_err(|_| Failure::Body)?;
    collected.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.is::<LengthLimitError>()) {
            Failure::TooLarge {
                limit_bytes: MAX_MANIFEST_BYTES,
            }
        } else {
            Failure::Body
        }
    })
}

fn parse(repository: &str, reference: &str) -> Result<(RepositoryName, Reference), Failure> {
    Ok((repository.parse()?, reference.parse()?))
}

fn parse_blob(repository: &str, digest: &str) -> Result<(RepositoryName, Digest), Failure> {
    Ok((repository.parse()?, digest.parse::<Digest>()?))
}

fn write_of(headers: &HeaderMap) -> Result<Option<WriteId>, Failure> {
    let Some(value) = headers.get(WRITE_HEADER) else {
        return Ok(None);
    };
    let id = value.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = || Failure::Query(format!("{WRITE_HEADER} is 32 hex digits"));
    id.map(Some).ok_or_else(wrong)
}

fn tags_of(query: Asked<Vec<(String, String)>>) -> Result<Vec<Tag>, Failure> {
    let Query(pairs) = query.map_err(refused)?;
    if pairs.len() > MAX_TAGS {
        return Err(Failure::Query(format!("more than {MAX_TAGS} tags")));
    }
    let mut tags = Vec::new();
    for (key, tag) in pairs {
        if key != "tag" {
            return Err(Failure::Query("only `tag` is known".into()));
        }
        tags.push(tag.parse()?);
    }
    Ok(tags)
}

fn page(query: Asked<PageQuery>) -> Result<(Option<String>, usize), Failure> {
    let Query(PageQuery { n, last }) = query.map_err(refused)?;
    bounded_text(last.as_deref())?;
    let limit = n.unwrap_or(MAX_PAGE_NAMES);
    if limit == 0 || limit > MAX_PAGE_NAMES {
        return Err(Failure::Query(format!("n is 1 to {MAX_PAGE_NAMES}")));
    }
    Ok((last.filter(|last| !last.is_empty()), limit))
}

fn bounded_text(text: Option<&str>) -> Result<(), Failure> {
    if text.is_some_and(|text| text.len() > MAX_TEXT_BYTES || text.contains('\0')) {
        return Err(Failure::Query(format!(
            "text of more than {MAX_TEXT_BYTES} bytes"
        )));
    }
    Ok(())
}

fn names<T: ToString>(page: Page<T>) -> NamesAnswer {
    NamesAnswer {
        names: page.names.iter().map(T::to_string).collect(),
        next: page.next,
    }
}

fn refused(rejection: QueryRejection) -> Failure {
    Failure::Query(rejection.body_text())
}

fn value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::try_from(text).map_err(|error| Failure::Internal(error.to_string()))
}

#[cfg(test)]
mod tests;
