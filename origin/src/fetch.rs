//! What storage says about a blob; a blob that nobody hashed yet is hashed while it is served.
//!
//! An origin reads such a source once, in order. Each piece is signed as it comes, under a
//! generation that is derived from the source's validator, so that two origins which read the same
//! bytes sign the same values. At the end the digest decides: right, and the metainfo is kept;
//! wrong, and the generation is revoked, nothing is kept, and the source is not tried again until
//! its validator changes.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use lru::LruCache;
use oci::{Digest, DigestHasher};
use parking_lot::Mutex;
use peer::Found;
use tokio::sync::{Semaphore, mpsc};
use torrent::tree::{self, Tree};
use torrent::{
    Cv, Description, Generation, Geometry, GeometryError, GrowingMetaInfo, MetaInfo, PieceIndex,
    SignedCv, SwarmName, TreeHasher, piece::BLOCK_BYTES,
};

use crate::blobs::{BlobError, Blobs, Content, blocking};
use crate::source::{Source, SourceError};

/// Blobs up to this length are hashed before anything is said about them: it takes no longer than
/// saying that they grow.
const AT_ONCE_BYTES: u64 = 4 << 20;
/// Sources remembered as wrong.
const KEPT_FAILURES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Questions to storage that may be open at a time.
const MAX_RESOLVING: usize = 4096;

/// How many sources are read at a time, and wait to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sources read at the same time.
    pub reading: usize,
    /// Sources being read or waiting for their turn.
    pub growing: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reading: 4,
            growing: 256,
        }
    }
}

/// What happens to a blob that is being hashed.
#[derive(Clone, Debug)]
pub enum Event {
    /// It is known how long it is; nothing was hashed yet.
    Begun { description: Description },
    /// The next piece was hashed.
    Hashed { name: SwarmName, signed: SignedCv },
    /// The digest was right.
    Grown { description: Description },
    /// The source is not what it should be: everything of this generation must go.
    Revoked {
        name: SwarmName,
        generation: Generation,
        reason: Arc<str>,
    },
}

/// Looks blobs up, and hashes those that nobody hashed.
#[derive(Debug)]
pub struct Fetcher {
    blobs: Arc<Blobs>,
    limits: Limits,
    reading: Semaphore,
    events: mpsc::Sender<Event>,
    state: Mutex<State>,
}

struct State {
    resolving: HashMap<Digest, Shared<BoxFuture<'static, Found>>>,
    growing: HashMap<Digest, Arc<Growing>>,
    wrong: LruCache<Digest, Wrong>,
}

/// A source that did not match its digest.
#[derive(Clone, Debug)]
struct Wrong {
    generation: Generation,
    reason: Arc<str>,
}

/// A blob that is being hashed.
#[derive(Debug)]
pub struct Growing {
    head: GrowingMetaInfo,
    content: Content,
    /// Values of the pieces hashed so far, in order.
    signed: Mutex<Vec<SignedCv>>,
}

/// Why a blob did not grow to its end.
#[derive(Debug, thiserror::Error)]
enum GrowError {
    #[error("its bytes have the digest {0}")]
    Digest(Digest),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Length(#[from] GeometryError),
}

impl Growing {
    #[must_use]
    pub const fn head(&self) -> &GrowingMetaInfo {
        &self.head
    }

    /// Returns how many pieces, from the first, are hashed.
    #[must_use]
    pub fn hashed(&self) -> usize {
        self.signed.lock().len()
    }

    /// Returns the values known of at most `count` pieces from `first`.
    #[must_use]
    pub fn signed_cvs(&self, first: u32, count: u32) -> Vec<SignedCv> {
        let signed = self.signed.lock();
        let from = signed.iter().skip(first as usize);
        from.take(count as usize).copied().collect()
    }

    /// Returns the value of a piece, where it is hashed.
    #[must_use]
    pub fn signed_cv(&self, piece: PieceIndex) -> Option<SignedCv> {
        self.signed.lock().get(piece.as_usize()).copied()
    }
}

impl Fetcher {
    /// Makes a fetcher, and the queue of what happens to the blobs it hashes. Hashing waits while
    /// the queue is full.
    #[must_use]
    pub fn new(blobs: Arc<Blobs>, limits: Limits) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(64);
        let fetcher = Self {
            blobs,
            limits,
            reading: Semaphore::new(limits.reading.max(1)),
            events,
            state: Mutex::new(State {
                resolving: HashMap::new(),
                growing: HashMap::new(),
                wrong: LruCache::new(KEPT_FAILURES),
            }),
        };
        (Arc::new(fetcher), receiver)
    }

    /// Returns the blob that is being hashed under this digest.
    #[must_use]
    pub fn growing(&self, digest: &Digest) -> Option<Arc<Growing>> {
        self.state.lock().growing.get(digest).cloned()
    }

    /// Returns how many blobs are being hashed, or wait for it.
    #[must_use]
    pub fn count_growing(&self) -> usize {
        self.state.lock().growing.len()
    }

    /// Returns what storage says about a blob, and begins to hash it where nobody has. Questions
    /// about one blob at the same time are one question; but an absence is told only to those who
    /// asked before it was found, so that what was pushed before the question is never absent.
    pub async fn resolve(self: &Arc<Self>, digest: &Digest) -> Found {
        loop {
            let Some((answer, joined)) = self.begin(digest) else {
                return Found::Failed("too many blobs are being looked up".into());
            };
            let answer = answer.await;
            if !(joined && matches!(answer, Found::Absent)) {
                return answer;
            }
        }
    }

    /// Joins a question, or asks it in a task of its own: it does not end with who asked first.
    fn begin(
        self: &Arc<Self>,
        digest: &Digest,
    ) -> Option<(Shared<BoxFuture<'static, Found>>, bool)> {
        let mut state = self.state.lock();
        if let Some(answer) = state.resolving.get(digest) {
            return Some((answer.clone(), true));
        }
        if state.resolving.len() >= MAX_RESOLVING {
            return None;
        }
        let (this, digest) = (Arc::clone(self), *digest);
        let task = tokio::spawn(async move {
            let answer = this.look_up(&digest).await;
            this.state.lock().resolving.remove(&digest);
            answer
        });
        let answer = task.map(|ended| match ended {
            Ok(answer) => answer,
            Err(_) => Found::Failed("this origin is stopping".into()),
        });
        let answer = answer.boxed().shared();
        state.resolving.insert(digest, answer.clone());
        Some((answer, false))
    }

    async fn look_up(self: &Arc<Self>, digest: &Digest) -> Found {
        if let Some(growing) = self.growing(digest) {
            return Found::Here(Description::Growing(growing.head));
        }
        match self.look_into_storage(digest).await {
            Ok(resolution) => resolution,
            Err(error) => {
                tracing::warn!(%digest, %error, "cannot look a blob up");
                Found::Failed(error.to_string().into())
            }
        }
    }

    async fn look_into_storage(self: &Arc<Self>, digest: &Digest) -> Result<Found, BlobError> {
        if let Some(metainfo) = self.blobs.metainfo(digest).await? {
            return Ok(Found::Here(Description::Complete(*metainfo.summary())));
        }
        let Some(content) = self.blobs.find(digest).await? else {
            return Ok(Found::Absent);
        };
        let generation = generation_of(&content);
        if let Some(wrong) = self.state.lock().wrong.get(digest)
            && wrong.generation == generation
        {
            return Ok(Found::Failed(Arc::clone(&wrong.reason)));
        }
        if content.stat.length <= AT_ONCE_BYTES {
            return self.hash_at_once(digest, content, generation).await;
        }
        let name = SwarmName::Blob(*digest);
        let key = self.blobs.key();
        let head = GrowingMetaInfo::sign(key, name, content.stat.length, generation)?;
        let growing = Arc::new(Growing {
            head,
            content,
            signed: Mutex::default(),
        });
        {
            let mut state = self.state.lock();
            if state.growing.len() >= self.limits.growing {
                return Ok(Found::Failed("too many blobs are being hashed".into()));
            }
            state.growing.insert(*digest, Arc::clone(&growing));
        }
        tokio::spawn(Arc::clone(self).grow(*digest, growing));
        Ok(Found::Here(Description::Growing(head)))
    }

    async fn hash_at_once(
        &self,
        digest: &Digest,
        content: Content,
        generation: Generation,
    ) -> Result<Found, BlobError> {
        let length = content.stat.length;
        let key = content.key.clone();
        let read = Source::starting_at(0, Arc::clone(&self.blobs), content)
            .next(0..length)
            .await;
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                return Ok(Found::Failed(reason(digest, &key, &GrowError::from(error))));
            }
        };
        let algorithm = digest.algorithm();
        let (actual, tree) = blocking(move || {
            let mut hasher = TreeHasher::new();
            hasher.update(&bytes);
            (Digest::of(algorithm, &bytes), hasher.finish())
        })
        .await;
        if actual != *digest {
            let reason = self.is_wrong(digest, generation, &key, &GrowError::Digest(actual));
            return Ok(Found::Failed(reason));
        }
        let metainfo = self.blobs.describe(digest, key, &tree?).await?;
        let summary = *metainfo.summary();
        Ok(Found::Here(Description::Complete(summary)))
    }

    /// Reads and hashes a source to its end, and tells how it went.
    async fn grow(self: Arc<Self>, digest: Digest, growing: Arc<Growing>) {
        let description = Description::Growing(growing.head);
        self.tell(Event::Begun { description }).await;
        // Nobody closes the semaphore.
        let _turn = self.reading.acquire().await;
        let name = SwarmName::Blob(digest);
        let generation = growing.head.generation();
        tracing::info!(%digest, key = %growing.content.key, "hashing a blob for the first time");
        let grown = self.read_and_hash(&digest, &growing).await;
        match grown {
            Ok(metainfo) => {
                // First: whoever hears of it finds the metainfo, not what grew.
                self.state.lock().growing.remove(&digest);
                let description = Description::Complete(*metainfo.summary());
                self.tell(Event::Grown { description }).await;
            }
            Err(error) => {
                let key = &growing.content.key;
                let reason = self.is_wrong(&digest, generation, key, &error);
                tracing::error!(%digest, reason = %reason, "a source was revoked");
                let event = Event::Revoked {
                    name,
                    generation,
                    reason,
                };
                self.tell(event).await;
                // Last: no other generation begins before the end of this one is told.
                self.state.lock().growing.remove(&digest);
            }
        }
    }

    async fn read_and_hash(
        &self,
        digest: &Digest,
        growing: &Growing,
    ) -> Result<Arc<MetaInfo>, GrowError> {
        let geometry = *growing.head.geometry();
        let mut source = Source::starting_at(0, Arc::clone(&self.blobs), growing.content.clone());
        let mut hashes = Hashes {
            digest: DigestHasher::new(digest.algorithm()),
            pieces: Vec::new(),
            blocks: Vec::new(),
        };
        for piece in geometry.indexes() {
            let bytes = source.next(geometry.range(piece)).await?;
            let (head, key) = (growing.head, self.blobs.key().clone());
            let (state, signed) = blocking(move || {
                let cv = hashes.update(&geometry, piece, &bytes);
                (hashes, head.sign_cv(&key, piece, cv))
            })
            .await;
            hashes = state;
            growing.signed.lock().push(signed);
            let name = SwarmName::Blob(*digest);
            self.tell(Event::Hashed { name, signed }).await;
        }
        let actual = hashes.digest.finish();
        if actual != *digest {
            return Err(GrowError::Digest(actual));
        }
        let length = geometry.length();
        let tree = Tree {
            length,
            root: tree::merge_root(&hashes.blocks, BLOCK_BYTES, length),
            pieces: hashes.pieces,
            blocks: hashes.blocks,
        };
        let content = growing.content.key.clone();
        Ok(self.blobs.describe(digest, content, &tree).await?)
    }

    /// Remembers a source that is wrong; one that could not be read, or of which bytes were kept on
    /// this side of storage, is tried again.
    fn is_wrong(
        &self,
        digest: &Digest,
        generation: Generation,
        key: &backend::Key,
        error: &GrowError,
    ) -> Arc<str> {
        let reason = reason(digest, key, error);
        if matches!(error, GrowError::Digest(_)) && !self.blobs.doubt(key, None) {
            let wrong = Wrong {
                generation,
                reason: Arc::clone(&reason),
            };
            self.state.lock().wrong.put(*digest, wrong);
        }
        reason
    }

    async fn tell(&self, event: Event) {
        // Without a listener the origin is stopping.
        let _ = self.events.send(event).await;
    }
}

/// What was hashed of a blob of more than one piece.
struct Hashes {
    digest: DigestHasher,
    pieces: Vec<Cv>,
    blocks: Vec<Cv>,
}

impl Hashes {
    fn update(&mut self, geometry: &Geometry, piece: PieceIndex, bytes: &[u8]) -> Cv {
        self.digest.update(bytes);
        let blocks = tree::block_cvs(geometry, piece, bytes);
        let cv = tree::merge(&blocks, BLOCK_BYTES, bytes.len() as u64);
        self.blocks.extend(blocks);
        self.pieces.push(cv);
        cv
    }
}

fn reason(digest: &Digest, key: &backend::Key, error: &GrowError) -> Arc<str> {
    format!("{digest} cannot be served from {key} in storage: {error}").into()
}

/// Derives the generation of a source from its validator.
fn generation_of(content: &Content) -> Generation {
    // The length first: it has a fixed width.
    let mut validator = content.stat.length.to_be_bytes().to_vec();
    validator.extend_from_slice(content.stat.etag.as_str().as_bytes());
    let digest = Digest::sha256(&validator);
    let first = digest.as_bytes().first_chunk().copied();
    Generation(u64::from_be_bytes(first.unwrap_or_default()))
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("resolving", &self.resolving.len())
            .field("growing", &self.growing)
            .field("wrong", &self.wrong.len())
            .finish()
    }
}

#[cfg(test)]
mod tests;
