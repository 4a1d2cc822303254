//! The routes of uploads.

use std::io;
use std::time::Duration;

use api::origin::{AppendQuery, CommitQuery, Committed, UploadBegun, UploadOffset};
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use store::{UploadError, UploadId};

use super::error::Failure;
use super::{Shared, parse_digest};
use crate::ingest::IngestError;
use crate::write_back::Task;

/// How long the sender of an upload may be silent.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) async fn create(
    State(doors): Shared,
) -> Result<(StatusCode, Json<UploadBegun>), Failure> {
    let id = doors.ingest.create().await?.to_string();
    Ok((StatusCode::CREATED, Json(UploadBegun { id })))
}

pub(super) async fn offset(
    State(doors): Shared,
    Path(id): Path<String>,
) -> Result<Json<UploadOffset>, Failure> {
    let offset = doors.ingest.offset(parse(&id)?).await?;
    Ok(Json(UploadOffset { offset }))
}

pub(super) async fn append(
    State(doors): Shared,
    Path(id): Path<String>,
    query: Result<Query<AppendQuery>, QueryRejection>,
    body: Body,
) -> Result<Json<UploadOffset>, Failure> {
    let Query(query) = query.map_err(|error| Failure::Query(error.body_text()))?;
    let body = not_silent(body.into_data_stream());
    let (at, is_mirror) = (query.offset, query.mirror);
    let offset = doors
        .ingest
        .append(parse(&id)?, at, is_mirror, body)
        .await?;
    Ok(Json(UploadOffset { offset }))
}

pub(super) async fn commit(
    State(doors): Shared,
    Path(id): Path<String>,
    query: Result<Query<CommitQuery>, QueryRejection>,
) -> Result<(StatusCode, Json<Committed>), Failure> {
    let Query(query) = query.map_err(|error| Failure::Query(error.body_text()))?;
    let (id, digest) = (parse(&id)?, parse_digest(&query.digest)?);
    // In a task of its own: a client that leaves now shall find the blob when it comes back.
    let committing = tokio::spawn(async move {
        let (mirror_of, repository) = (query.mirror_of, query.repository);
        let task = Task {
            mirror_of,
            repositories: repository.into_iter().collect(),
        };
        let committed = doors.ingest.commit(id, digest, task).await?;
        let summary = *committed.metainfo.summary();
        let description = torrent::Description::Complete(summary);
        doors.seeder.seed(description).await;
        Ok::<_, IngestError>(Committed {
            digest,
            length: summary.length(),
            sha256: committed.sha256,
            is_held: doors.tier.is_some(),
        })
    });
    let committed = committing.await.map_err(Failure::internal)??;
    Ok((StatusCode::CREATED, Json(committed)))
}

pub(super) async fn cancel(
    State(doors): Shared,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    doors.ingest.cancel(parse(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(id: &str) -> Result<UploadId, Failure> {
    id.parse()
        .map_err(|error: UploadError| Failure::Ingest(error.into()))
}

/// Ends a body with an error where its sender is silent for too long.
fn not_silent(
    body: impl Stream<Item = Result<Bytes, axum::Error>> + Send + Unpin + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        match tokio::time::timeout(SILENCE, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    })
}
