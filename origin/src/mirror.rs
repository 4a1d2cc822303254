//! The second copy of an upload, which another origin gets while this one receives it.
//!
//! The copy is a help, never a burden: an origin that takes nothing for a while, or fails, is
//! dropped, and what it lacks at the end of the upload is made good by a copy of the whole to
//! another one. Which uploads have one is known to the process alone.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::origin::CommitQuery;
use api::{BlobStream, CallError, Name, OriginClient};
use backend::{Backend as _, layout};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci::{Digest, RepositoryName};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use store::UploadId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::held::Held;

/// Parts of an upload, of 1 MiB, that may wait for the other origin.
const WINDOW: usize = 8;
/// How long the other origin may take nothing of an upload, or not answer, before it is dropped.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to make a blob durable: a slow disk syncs many bytes.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30);

/// Second copies of uploads.
#[derive(Debug)]
pub struct Mirrors {
    origins: OriginClient,
    me: Name,
    sessions: Mutex<HashMap<UploadId, Arc<Session>>>,
    /// Origins that were dropped because they did not keep up.
    dropped: Counter,
}

/// A second copy that was not made.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{origin} took nothing for {} s, and is dropped", .after.as_secs())]
    Stalled { origin: Name, after: Duration },
    #[error("no origin answered within {} s", .0.as_secs())]
    NoAnswer(Duration),
    #[error(transparent)]
    Folder(#[from] backend::Error),
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
    pub fn new(origins: OriginClient, me: Name, dropped: Counter) -> Self {
        Self {
            origins,
            me,
            sessions: Mutex::default(),
            dropped,
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
            match self.begin_elsewhere().await {
                Ok(upload) => remote.upload = Some(upload),
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
        match self.send_all(&origin, &id, offset, body.boxed()).await {
            Ok(offset) => {
                remote.offset = offset;
                remote.is_broken = false;
            }
            Err(error) => {
                tracing::warn!(%origin, %error, "the second copy of an upload broke off");
            }
        }
    }

    /// Begins an upload at another origin.
    async fn begin_elsewhere(&self) -> Result<(Name, String), CopyError> {
        let begun = tokio::time::timeout(PATIENCE, self.origins.begin_mirror(&self.me)).await;
        let (origin, id) = begun.map_err(|_| CopyError::NoAnswer(PATIENCE))??;
        Ok((origin.name, id))
    }

    /// Appends bytes to an upload of another origin, unless that takes none of them for a while;
    /// returns its offset then.
    async fn send_all(
        &self,
        origin: &Name,
        id: &str,
        offset: u64,
        body: BlobStream,
    ) -> Result<u64, CopyError> {
        let (body, pace) = paced(body);
        let sent = self
            .origins
            .append_mirror(origin.as_str(), id, offset, body);
        self.unless(stalled(pace), origin, PATIENCE, sent).await
    }

    /// Ends an upload of another origin, which is this blob.
    async fn end_elsewhere(
        &self,
        origin: &Name,
        id: &str,
        query: &CommitQuery,
    ) -> Result<(), CopyError> {
        let ended = self.origins.end_upload(origin.as_str(), id, query);
        let late = tokio::time::sleep(COMMIT_PATIENCE);
        self.unless(late, origin, COMMIT_PATIENCE, ended).await?;
        Ok(())
    }

    async fn unless<T>(
        &self,
        late: impl Future<Output = ()>,
        origin: &Name,
        after: Duration,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CopyError> {
        tokio::select! {
            called = call => Ok(called?),
            () = late => {
                self.dropped.inc();
                let origin = origin.clone();
                Err(CopyError::Stalled { origin, after })
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
            // Whoever did not keep up need not be heard.
            let (origins, origin, id) = (self.origins.clone(), origin.clone(), id.clone());
            tokio::spawn(async move { origins.cancel(origin.as_str(), &id).await });
            return false;
        }
        let query = self.query(digest, repositories);
        match self.end_elsewhere(origin, id, &query).await {
            Ok(()) => true,
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
            Err(error) => {
                tracing::warn!(digest = %copy.digest, %error, "a blob has no second copy yet");
                false
            }
        }
    }

    async fn try_to_copy(&self, held: &Held, copy: CopyOf<'_>) -> Result<(), CopyError> {
        let (origin, id) = self.begin_elsewhere().await?;
        let object = held.folder().get(&layout::blob(copy.content), None).await?;
        if object.stat.length > 0 {
            let body: BlobStream = object.body.map_err(io::Error::other).boxed();
            self.send_all(&origin, &id, 0, body).await?;
        }
        let query = self.query(copy.digest, copy.repositories);
        self.end_elsewhere(&origin, &id, &query).await
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

/// Since when the other origin has something to do; `None` while it waits for more.
type Pace = watch::Receiver<Option<Instant>>;

/// Returns the stream, and whose turn it is: that of who gives its parts, or of who takes them.
fn paced(body: BlobStream) -> (BlobStream, Pace) {
    let (busy, pace) = watch::channel(Some(Instant::now()));
    let paced = stream::unfold((body, busy), |(mut body, busy)| async move {
        busy.send_replace(None);
        let part = body.next().await;
        // Also at the end: the answer is waited for.
        busy.send_replace(Some(Instant::now()));
        Some((part?, (body, busy)))
    });
    (paced.boxed(), pace)
}

/// Returns when who takes the parts has taken none for [`PATIENCE`].
async fn stalled(mut pace: Pace) {
    loop {
        let since = *pace.borrow_and_update();
        let until = async {
            match since {
                Some(since) => tokio::time::sleep_until(since + PATIENCE).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = until => return,
            changed = pace.changed() => if changed.is_err() {
                // All parts were taken, or will not be: the answer is what is left to wait for.
                let since = pace.borrow().unwrap_or_else(Instant::now);
                return tokio::time::sleep_until(since + PATIENCE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(count: usize) -> (mpsc::Sender<io::Result<Bytes>>, BlobStream) {
        let (sender, parts) = mpsc::channel(count);
        (sender, receive(parts))
    }

    async fn is_stalled(pace: &Pace) -> bool {
        let almost = PATIENCE - Duration::from_millis(1);
        tokio::time::timeout(almost, stalled(pace.clone()))
            .await
            .is_ok()
    }

    /// Whoever waits for the client to send more is not slow.
    #[tokio::test(start_paused = true)]
    async fn only_who_does_not_take_what_is_there_is_dropped() {
        let (sender, body) = parts(2);
        let (mut body, pace) = paced(body);
        let mut next = Box::pin(async move {
            let part = body.next().await;
            (part, body)
        });
        assert!(futures_util::poll!(&mut next).is_pending());
        tokio::time::advance(PATIENCE * 3).await;
        assert!(!is_stalled(&pace).await, "the client sends nothing");
        sender.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
        let (part, mut body) = next.await;
        assert!(part.is_some());
        assert!(!is_stalled(&pace).await, "it has just taken one");
        tokio::time::advance(Duration::from_millis(2)).await;
        assert!(is_stalled(&pace).await, "it takes no more");
        drop(sender);
        assert!(body.next().await.is_none());
        assert!(!is_stalled(&pace).await, "it may answer now");
        tokio::time::advance(Duration::from_millis(2)).await;
        assert!(is_stalled(&pace).await, "it does not answer");
        drop(body);
        let start = Instant::now();
        stalled(pace).await;
        assert!(start.elapsed() <= PATIENCE, "that ends too");
    }
}
