//! Who writes tags, where storage cannot decide between several writers.
//!
//! Such a storage has one writer, which `tag_writer` names. What changes manifests and tags is made
//! there, one change of a tag after another; other build-indexes pass it on, and answer questions
//! themselves. So the same change is never made by two processes, unless two have the same name: a
//! writer that hangs must be ended before another one of its name is started.

use std::time::Duration;

use api::build_index::{ManifestStored, PASSED_ON_HEADER, WriteId};
use api::{BuildIndexClient, CallError, Cluster, Http, Limits, Members, Name};
use axum::http::HeaderMap;
use oci::{Reference, RepositoryName};
use service::Role;
use service::tls::Tls;

use crate::config::Config;
use crate::error::Failure;
use crate::manifests::Put;
use crate::start::StartError;

/// How long a store may take to make a write whose sender is gone: that of a writer which was
/// ended a moment ago.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);

/// Where changes are made.
#[derive(Debug)]
pub(crate) enum Writer {
    /// Here: by everybody, or by nobody else.
    Here,
    There(Box<Elsewhere>),
}

/// Another build-index, which makes all changes.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    name: Name,
    client: BuildIndexClient,
}

impl Writer {
    /// # Errors
    /// The writer is no member of the cluster.
    pub(crate) fn new(config: &Config, tls: &Tls) -> Result<Self, StartError> {
        let Some(name) = &config.tag_writer else {
            return Ok(Self::Here);
        };
        let member = config.cluster.build_indexes.get(name.as_str());
        let member = member.ok_or_else(|| StartError::NoSuchWriter(name.clone()))?;
        if config.name == *name {
            return Ok(Self::Here);
        }
        let build_indexes = Members::new(vec![member.clone()]).expect("one is not too many");
        let only = Cluster {
            build_indexes,
            ..Cluster::default()
        };
        let limits = Limits {
            // The one that passes on hears of it before its own time is up, and can say whose it was.
            commit: config.write_wait / 4 * 3,
            ..Limits::default()
        };
        let http = Http::to(Role::BuildIndex, tls, limits);
        let client = BuildIndexClient::new(http, only.into()).passing_on_for(&config.name);
        Ok(Self::There(Box::new(Elsewhere {
            name: name.clone(),
            client,
        })))
    }

    /// Returns who makes the change that a request with these headers wants; `None` where it is to
    /// be made here.
    ///
    /// # Errors
    /// Somebody takes this one for the writer, which it is not.
    pub(crate) fn elsewhere(&self, headers: &HeaderMap) -> Result<Option<&Elsewhere>, Failure> {
        let Self::There(elsewhere) = self else {
            return Ok(None);
        };
        match headers.get(PASSED_ON_HEADER) {
            Some(from) => Err(Failure::NotTheWriter {
                from: String::from_utf8_lossy(from.as_bytes()).into_owned(),
                writer: elsewhere.name.clone(),
            }),
            None => Ok(Some(elsewhere)),
        }
    }
}

/// Returns how long a change may take: half as long where another build-index passes it on, so that
/// the cause comes back in the time of that one.
pub(crate) fn wait_of(headers: &HeaderMap, write_wait: Duration) -> Duration {
    if headers.contains_key(PASSED_ON_HEADER) {
        write_wait / 2
    } else {
        write_wait
    }
}

impl Elsewhere {
    pub(crate) async fn put(&self, put: Put) -> Result<ManifestStored, Failure> {
        let (media_type, bytes) = (put.media_type.as_deref(), put.bytes);
        let (repository, reference) = (&put.repository, &put.reference);
        let id = put.write.unwrap_or_else(WriteId::random);
        let stored = self
            .client
            .put_manifest_as(id, repository, reference, &put.tags, media_type, bytes);
        stored.await.map_err(|error| self.failed(error))
    }

    pub(crate) async fn delete(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        write: Option<WriteId>,
    ) -> Result<(), Failure> {
        let id = write.unwrap_or_else(WriteId::random);
        let deleted = self.client.delete_manifest_as(id, repository, reference);
        deleted.await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: CallError) -> Failure {
        match error {
            CallError::Answer { body, .. } => Failure::Elsewhere(Box::new(body)),
            CallError::Unreachable { .. }
            | CallError::Timeout { .. }
            | CallError::Malformed { .. }
            | CallError::Status { .. }
            | CallError::Body { .. }
            | CallError::NoMember(_)
            | CallError::UnknownMember { .. } => Failure::WriterAway {
                writer: self.name.clone(),
                reason: error.to_string(),
            },
        }
    }
}
