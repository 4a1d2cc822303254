//! A manifest whose blobs are still on their way to storage waits for them.
//!
//! A build-index says which blobs it does not find. Origins know better: they hold what was pushed
//! until storage has it. As long as they bring more of it there, the manifest waits; what none of
//! them has is missing.

use std::collections::HashMap;
use std::time::Duration;

use api::build_index::Taken;
use api::origin::{MAX_STORED_WAIT_S, Stored};
use futures_util::{StreamExt as _, stream};
use oci::{Digest, RepositoryName};
use registry::Error;
use tokio::time::Instant;

use crate::failure::{About, of_call};
use crate::push::ClusterPush;

/// Blobs asked about at a time.
const ASKED: usize = 16;
/// Least time from one question to the next.
const PAUSE: Duration = Duration::from_millis(500);

/// How far the blobs of one manifest have come.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    push: &'a ClusterPush,
    repository: &'a RepositoryName,
    moved: Instant,
    written: HashMap<Digest, u64>,
    /// Whether storage had all blobs when the build-index was asked last.
    all_stored: bool,
}

/// What origins say about all blobs that a build-index does not find.
#[derive(Default)]
struct Answers {
    /// Nobody has one of them.
    is_unknown: bool,
    /// Blobs that storage has, or will have.
    known: Vec<(Digest, Stored)>,
    failed: Option<Error>,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(push: &'a ClusterPush, repository: &'a RepositoryName) -> Self {
        Self {
            push,
            repository,
            moved: Instant::now(),
            written: HashMap::new(),
            all_stored: false,
        }
    }

    /// Returns when it is worth to ask the build-index again that answered `missing`.
    ///
    /// # Errors
    /// `missing` itself, where the blobs are nowhere; [`Error::Unavailable`] where those that are
    /// somewhere get no further.
    pub(crate) async fn wait(&mut self, missing: Error) -> Result<(), Error> {
        let Error::ManifestBlobUnknown { missing: blobs } = &missing else {
            return Err(missing);
        };
        // Storage has them, and yet they are missing: the repository does not have them.
        if self.all_stored {
            return Err(missing);
        }
        loop {
            let asked = Instant::now();
            let answers = self.ask(blobs).await;
            if answers.is_unknown {
                return Err(missing);
            }
            if answers.failed.is_none() && answers.known.iter().all(|(_, stored)| stored.stored) {
                self.all_stored = true;
                while let Err(error) = self.link(&answers.known).await {
                    self.pause(error).await?;
                }
                return Ok(());
            }
            self.note(&answers.known);
            if self.left().is_zero() {
                return Err(self.stalled(answers));
            }
            let rest = PAUSE.saturating_sub(asked.elapsed());
            tokio::time::sleep(rest.min(self.left())).await;
        }
    }

    /// Waits a little, where storage does not answer.
    ///
    /// # Errors
    /// The failure itself, where that was so for too long.
    pub(crate) async fn pause(&self, failure: Error) -> Result<(), Error> {
        if self.left().is_zero() {
            return Err(failure);
        }
        tokio::time::sleep(PAUSE.min(self.left())).await;
        Ok(())
    }

    /// Brings blobs into the repository that could not be when they were pushed to it.
    async fn link(&self, known: &[(Digest, Stored)]) -> Result<(), Error> {
        for (digest, stored) in known.iter().filter(|(_, stored)| stored.is_pushed) {
            let taken = Taken {
                sha256: stored.sha256,
                length: stored.length,
            };
            self.push.link_late(self.repository, digest, &taken).await?;
        }
        Ok(())
    }

    fn left(&self) -> Duration {
        self.push.stall().saturating_sub(self.moved.elapsed())
    }

    fn note(&mut self, known: &[(Digest, Stored)]) {
        for (digest, stored) in known {
            let written = if stored.stored {
                u64::MAX
            } else {
                stored.written_bytes
            };
            let before = self.written.entry(*digest).or_insert(0);
            if written > *before {
                *before = written;
                self.moved = Instant::now();
            }
        }
    }

    fn stalled(&self, answers: Answers) -> Error {
        if let Some(error) = answers.failed {
            return error;
        }
        let waiting = answers.known.iter().filter(|(_, stored)| !stored.stored);
        let text = format!(
            "{} blobs of the manifest are not in storage yet, and none got further for {} s; push \
             again when storage works",
            waiting.count(),
            self.push.stall().as_secs()
        );
        Error::Unavailable(text)
    }

    /// Asks about all blobs; waits a while for those that are on their way.
    async fn ask(&self, blobs: &[Digest]) -> Answers {
        let wait = self.left().min(Duration::from_secs(MAX_STORED_WAIT_S));
        // A second is the least that can be waited for; what is left may be less.
        let wait = wait.max(Duration::from_secs(1));
        let asked = stream::iter(blobs.to_vec()).map(|digest| async move {
            let origins = self.push.origins();
            (digest, origins.stored(&digest, self.repository, wait).await)
        });
        let mut asked = std::pin::pin!(asked.buffer_unordered(ASKED));
        let mut answers = Answers::default();
        while let Some((digest, stored)) = asked.next().await {
            match stored {
                Ok(Some(stored)) => answers.known.push((digest, stored)),
                Ok(None) => {
                    answers.is_unknown = true;
                    break;
                }
                Err(error) => answers.failed = Some(of_call(&error, About::Nothing)),
            }
        }
        answers
    }
}
