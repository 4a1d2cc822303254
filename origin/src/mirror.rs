//! The second copy of an upload, which another origin gets while this one receives it.
//!
//! The copy is a help, never a burden: an origin that does not keep up, or fails, is dropped, and
//! what it lacks at the end of the upload is made good by a copy of the whole. Which uploads have
//! one is known to the process alone.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::origin::CommitQuery;
use api::{BlobStream, Name, OriginClient};
use backend::{Backend as _, layout};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci::{Digest, RepositoryName};
use parking_lot::Mutex;
use store::UploadId;
use tokio::sync::mpsc;

use crate::held::Held;

/// Parts of an upload, of 1 MiB, that may wait for the other origin.
const WINDOW: usize = 8;
/// How long an upload waits for the other origin once, before that is dropped.
const PATIENCE: Duration = Duration::from_secs(2);

/// Second copies of uploads.
#[derive(Debug)]
pub struct Mirrors {
    origins: OriginClient,
    me: Name,
    sessions: Mutex<HashMap<UploadId, Arc<Session>>>,
}

/// The copy of one upload.
#[derive(Debug, Default)]
struct Session {
    /// Held while a part is sent: the next one waits.
    remote: tokio::sync::Mutex<Remote>,
}

#[derive(Debug, Default)]
struct Remote {
    /// The origin and its name for the upload, from the first byte on.
    upload: Option<(Name, String)>,
    offset: u64,
    is_broken: bool,
}

/// A part of an upload that is being copied.
#[derive(Debug)]
pub struct Copying {
    /// `None` once the other origin was dropped.
    parts: Option<mpsc::Sender<io::Result<Bytes>>>,
}

/// A blob that is to be copied whole.
#[derive(Clone, Copy, Debug)]
pub struct CopyOf<'a> {
    /// The sha256 of the content.
    pub content: &'a Digest,
    /// What its sender calls it.
    pub digest: &'a Digest,
    /// Where it was pushed to.
    pub repositories: &'a [RepositoryName],
}

impl Copying {
    /// Passes bytes on, or drops the other origin where it does not keep up.
    pub async fn send(&mut self, part: &Bytes) {
        let Some(parts) = &self.parts else {
            return;
        };
        let sent = tokio::time::timeout(PATIENCE, parts.send(Ok(part.clone()))).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.give_up();
        }
    }

    /// Drops the other origin: it got bytes that are not part of the upload, or lacks some.
    pub fn give_up(&mut self) {
        if let Some(parts) = self.parts.take() {
            let broken = io::Error::from(io::ErrorKind::Interrupted);
            // Where there is no room for it, the body ends early: that shows in its offset.
            let _ = parts.try_send(Err(broken));
        }
    }
}

impl Mirrors {
    #[must_use]
    pub fn new(origins: OriginClient, me: Name) -> Self {
        Self {
            origins,
            me,
            sessions: Mutex::default(),
        }
    }

    /// Begins to copy a part of an upload that stands at `offset`. `None` where its beginning was
    /// not copied.
    #[must_use]
    pub fn begin(self: &Arc<Self>, id: UploadId, offset: u64) -> Option<Copying> {
        let session = {
            let mut sessions = self.sessions.lock();
            if offset == 0 {
                sessions.entry(id).or_default();
            }
            Arc::clone(sessions.get(&id)?)
        };
        let (parts, received) = mpsc::channel(WINDOW);
        let this = Arc::clone(self);
        tokio::spawn(async move { this.send(&session, offset, received).await });
        Some(Copying { parts: Some(parts) })
    }

    async fn send(
        &self,
        session: &Session,
        offset: u64,
        mut parts: mpsc::Receiver<io::Result<Bytes>>,
    ) {
        let mut remote = session.remote.lock().await;
        if remote.is_broken {
            return;
        }
        // What ends in the middle is broken.
        remote.is_broken = true;
        if remote.offset != offset {
            return;
        }
        // An upload of no bytes needs nobody.
        let Some(first) = parts.recv().await else {
            remote.is_broken = false;
            return;
        };
        if remote.upload.is_none() {
            match self.origins.begin_mirror(&self.me).await {
                Ok((origin, id)) => remote.upload = Some((origin.name, id)),
                Err(error) => {
                    tracing::warn!(%error, "no origin takes the second copy of an upload now");
                    return;
                }
            }
        }
        let Some((origin, id)) = remote.upload.clone() else {
            return;
        };
        let body = stream::once(std::future::ready(first)).chain(receive(parts));
        let sent = self
            .origins
            .append_mirror(origin.as_str(), &id, offset, body.boxed());
        match sent.await {
            Ok(offset) => {
                remote.offset = offset;
                remote.is_broken = false;
            }
            Err(error) => {
                tracing::warn!(%origin, %error, "the second copy of an upload broke off");
            }
        }
    }

    /// Ends the copy of an upload that is this blob; returns whether the other origin has it now.
    pub async fn commit(
        &self,
        id: UploadId,
        digest: &Digest,
        length: u64,
        repositories: &[RepositoryName],
    ) -> bool {
        let Some(session) = self.take(id) else {
            return false;
        };
        let remote = session.remote.lock().await;
        let Some((origin, id)) = &remote.upload else {
            return false;
        };
        if remote.is_broken || remote.offset != length {
            let _ = self.origins.cancel(origin.as_str(), id).await;
            return false;
        }
        let query = self.query(digest, repositories);
        let committed = self.origins.end_upload(origin.as_str(), id, &query);
        match committed.await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%origin, %digest, %error, "the second copy of a blob failed");
                false
            }
        }
    }

    /// Copies a blob that is held to another origin; returns whether one has it now.
    pub async fn copy(&self, held: &Held, copy: CopyOf<'_>) -> bool {
        match self.try_to_copy(held, copy).await {
            Ok(()) => true,
            Err(reason) => {
                tracing::warn!(digest = %copy.digest, reason, "a blob has no second copy");
                false
            }
        }
    }

    async fn try_to_copy(&self, held: &Held, copy: CopyOf<'_>) -> Result<(), String> {
        let text = |error: api::CallError| error.to_string();
        let (origin, id) = self.origins.begin_mirror(&self.me).await.map_err(text)?;
        let origin = origin.name.as_str();
        let object = held.folder().get(&layout::blob(copy.content), None).await;
        let object = object.map_err(|error| error.to_string())?;
        if object.stat.length > 0 {
            let body: BlobStream = object.body.map_err(io::Error::other).boxed();
            let appended = self.origins.append_mirror(origin, &id, 0, body);
            appended.await.map_err(text)?;
        }
        let query = self.query(copy.digest, copy.repositories);
        let committed = self.origins.end_upload(origin, &id, &query);
        committed.await.map(|_| ()).map_err(text)
    }

    fn query(&self, digest: &Digest, repositories: &[RepositoryName]) -> CommitQuery {
        CommitQuery {
            digest: digest.to_string(),
            mirror_of: Some(self.me.clone()),
            repository: repositories.first().cloned(),
        }
    }

    /// Gives up the copy of an upload, where there is one.
    pub async fn cancel(&self, id: UploadId) {
        let Some(session) = self.take(id) else {
            return;
        };
        let remote = session.remote.lock().await;
        if let Some((origin, id)) = &remote.upload
            && let Err(error) = self.origins.cancel(origin.as_str(), id).await
        {
            tracing::debug!(%origin, %error, "the second copy of an upload is left to be swept");
        }
    }

    fn take(&self, id: UploadId) -> Option<Arc<Session>> {
        self.sessions.lock().remove(&id)
    }

    /// Forgets the copies of uploads that are no more.
    pub fn retain(&self, is_there: impl Fn(UploadId) -> bool) {
        self.sessions.lock().retain(|id, _| is_there(*id));
    }
}

fn receive(parts: mpsc::Receiver<io::Result<Bytes>>) -> BlobStream {
    stream::unfold(parts, |mut parts| async move {
        let part = parts.recv().await?;
        Some((part, parts))
    })
    .boxed()
}
