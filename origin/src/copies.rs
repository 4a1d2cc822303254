//! A blob that was pushed survives the loss of the origin that took it: another origin has a copy
//! on its disk, or storage has the blob, before its sender is told that it is there.

use std::sync::Arc;
use std::time::Duration;

use backend::fs::FsBackend;
use oci::{Digest, RepositoryName};
use retry::QueueError;
use store::UploadId;

use crate::held::Held;
use crate::mirror::{CopyOf, Copying, Mirrors};
use crate::write_back::{Task, WriteBack};

/// Pause before a second copy is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A blob that is on the disk of this origin alone.
#[derive(Debug, thiserror::Error)]
#[error(
    "no other origin and not storage could take a copy within {} s; it is kept here, and goes to \
     storage when that works; push again",
    .0.as_secs()
)]
pub struct NotSafe(pub Duration);

/// Takes what was pushed, where storage is an object store.
#[derive(Debug)]
pub struct Copies {
    held: Arc<Held>,
    write_back: Arc<WriteBack>,
    /// `None` where no second copy is wanted, or there is nobody to have it.
    mirrors: Option<Arc<Mirrors>>,
    /// How long the end of an upload waits for a second copy.
    wait: Duration,
}

impl Copies {
    #[must_use]
    pub fn new(write_back: Arc<WriteBack>, mirrors: Option<Arc<Mirrors>>, wait: Duration) -> Self {
        Self {
            held: Arc::clone(write_back.held()),
            write_back,
            mirrors,
            wait,
        }
    }

    #[must_use]
    pub const fn write_back(&self) -> &Arc<WriteBack> {
        &self.write_back
    }

    /// Returns where the objects of a blob go that is about to be held.
    #[must_use]
    pub fn folder(&self) -> &FsBackend {
        self.held.folder()
    }

    /// Begins to copy a part of an upload that stands at `offset`.
    #[must_use]
    pub fn begin(&self, id: UploadId, offset: u64) -> Option<Copying> {
        self.mirrors.as_ref()?.begin(id, offset)
    }

    /// Ends the second copy of an upload; returns whether another origin has it now.
    pub async fn commit(
        &self,
        id: UploadId,
        digest: &Digest,
        length: u64,
        repositories: &[RepositoryName],
    ) -> bool {
        match &self.mirrors {
            Some(mirrors) => mirrors.commit(id, digest, length, repositories).await,
            None => false,
        }
    }

    /// Gives up the second copy of an upload.
    pub async fn cancel(&self, id: UploadId) {
        if let Some(mirrors) = &self.mirrors {
            mirrors.cancel(id).await;
        }
    }

    /// Forgets the second copies of uploads that are no more.
    pub fn retain(&self, is_there: impl Fn(UploadId) -> bool) {
        if let Some(mirrors) = &self.mirrors {
            mirrors.retain(is_there);
        }
    }

    /// Takes charge of a blob whose objects are in [`Self::folder`]: it is served from there, and
    /// brought to storage as the task says.
    ///
    /// # Errors
    /// The disk fails; the blob is there, and may be forgotten.
    pub async fn take(
        &self,
        content: &Digest,
        name: &Digest,
        task: &Task,
    ) -> Result<(), TakeError> {
        self.held.hold(content, Some(name)).await?;
        self.write_back.add(content, task).await?;
        Ok(())
    }

    /// Returns when a blob survives the loss of this origin. `copied` says whether another origin
    /// got it already.
    ///
    /// # Errors
    /// [`NotSafe`]: it is taken nevertheless, and the caller may ask again.
    pub async fn secure(
        &self,
        copy: CopyOf<'_>,
        copied: impl Future<Output = bool>,
    ) -> Result<(), NotSafe> {
        let content = copy.content;
        let Some(mirrors) = &self.mirrors else {
            return Ok(());
        };
        let copying = async {
            // Where somebody else makes a copy, what it comes to shows below.
            if let Some(turn) = self.held.begin_copy(content) {
                let mut is_there = copied.await;
                while !is_there {
                    is_there = mirrors.copy(&self.held, copy).await;
                    if !is_there {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                turn.is_there();
            }
            std::future::pending::<()>().await;
        };
        let safe = self
            .held
            .until(content, |blob| blob.is_safe || blob.is_stored);
        tokio::select! {
            () = safe => Ok(()),
            () = copying => Ok(()),
            () = tokio::time::sleep(self.wait) => Err(NotSafe(self.wait)),
        }
    }
}

/// A blob that could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error(transparent)]
    Folder(#[from] backend::Error),
    #[error(transparent)]
    Queue(#[from] QueueError),
}
