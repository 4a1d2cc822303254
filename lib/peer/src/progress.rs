//! How far a blob is, as everybody sees it who does not own the swarm: who opens it, readers, the
//! status page.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use swarm::Failure;
use tokio::sync::watch;
use tokio::time::Instant;
use torrent::{Bitfield, Description, Geometry, PieceIndex, Role, SwarmName};

use crate::turns::Turns;

/// A blob of this process. A new one is made when a blob that failed or was removed is asked for
/// again.
#[derive(Debug)]
pub(crate) struct Torrent {
    pub(crate) name: SwarmName,
    progress: watch::Sender<Progress>,
    /// Of the jobs that change what pieces are checked against. The swarm asks for them in an
    /// order, and means it.
    pub(crate) proofs: Mutex<Turns>,
    /// Changes when there may be more that pieces can be checked against.
    pub(crate) values: watch::Sender<()>,
    bytes: [AtomicU64; 2],
    readers: AtomicUsize,
    /// Where the reader is that came last for more.
    position: AtomicU64,
    /// Whether somebody asked for parts of it, and for all.
    wanted: [AtomicBool; 2],
    /// When it was last asked for or read.
    used_at: Mutex<Instant>,
}

/// What can be watched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) description: Option<Description>,
    /// Pieces in storage, once it is ready.
    pub(crate) have: Option<Bitfield>,
    pub(crate) failure: Option<Failure>,
}

impl Progress {
    pub(crate) fn has(&self, piece: PieceIndex) -> bool {
        self.have.as_ref().is_some_and(|have| have.contains(piece))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.have.as_ref().is_some_and(Bitfield::is_full)
    }
}

impl Torrent {
    pub(crate) fn new(name: SwarmName) -> Arc<Self> {
        Arc::new(Self {
            name,
            progress: watch::Sender::new(Progress::default()),
            proofs: Mutex::default(),
            values: watch::Sender::new(()),
            bytes: Default::default(),
            readers: AtomicUsize::new(0),
            position: AtomicU64::new(0),
            wanted: Default::default(),
            used_at: Mutex::new(Instant::now()),
        })
    }

    /// Waits until the length is known.
    ///
    /// # Errors
    /// The failure of the blob.
    pub(crate) async fn described(&self) -> Result<(), Failure> {
        let mut watched = self.watch();
        let is_known =
            |progress: &Progress| progress.description.is_some() || progress.failure.is_some();
        let known = watched.wait_for(is_known).await;
        // The sender is in `self`: it is there.
        let failure = known.ok().and_then(|progress| progress.failure.clone());
        failure.map_or(Ok(()), Err)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Returns whether nobody waits for it.
    pub(crate) fn is_unwatched(&self) -> bool {
        self.progress.receiver_count() == 0
    }

    /// Returns what is known of it. Do not hold it: those who change it wait.
    pub(crate) fn now(&self) -> watch::Ref<'_, Progress> {
        self.progress.borrow()
    }

    pub(crate) fn geometry(&self) -> Option<Geometry> {
        let progress = self.now();
        progress.description.map(|known| *known.geometry())
    }

    pub(crate) fn describe(&self, description: Description) {
        self.progress.send_modify(|progress| {
            progress.description = Some(description);
        });
    }

    pub(crate) fn opened(&self, description: Description, have: Bitfield) {
        self.progress.send_modify(|progress| {
            progress.description.get_or_insert(description);
            progress.have = Some(have);
        });
    }

    /// Notes that a piece is in storage; returns whether it was not before.
    pub(crate) fn gained(&self, piece: PieceIndex) -> bool {
        let mut new = false;
        self.progress.send_modify(|progress| {
            if let Some(have) = &mut progress.have {
                new = have.insert(piece);
            }
        });
        new
    }

    pub(crate) fn lost(&self, piece: PieceIndex) {
        self.progress.send_modify(|progress| {
            if let Some(have) = &mut progress.have {
                have.remove(piece);
            }
        });
    }

    /// Wakes who waits: a piece is in memory only.
    pub(crate) fn nudge(&self) {
        self.progress.send_modify(|_| ());
    }

    pub(crate) fn fail(&self, failure: Failure) {
        self.progress.send_modify(|progress| {
            progress.failure.get_or_insert(failure);
        });
    }

    /// Counts payload that came from a peer of this role.
    pub(crate) fn count(&self, source: Role, bytes: u64) {
        let of = usize::from(source == Role::Origin);
        self.bytes[of].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that it is asked for.
    pub(crate) fn want(&self, whole: bool) {
        self.wanted[usize::from(whole)].store(true, Ordering::Relaxed);
        *self.used_at.lock() = Instant::now();
    }

    /// Returns whether only parts of it were wanted, and none for this long.
    pub(crate) fn is_left_alone(&self, idle: Duration) -> bool {
        let [parts, all] = &self.wanted;
        parts.load(Ordering::Relaxed)
            && !all.load(Ordering::Relaxed)
            && self.readers.load(Ordering::Relaxed) == 0
            && self.used_at.lock().elapsed() >= idle
            && !self.now().is_complete()
    }

    pub(crate) fn read_begins(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read_at(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
    }

    /// Returns whether that was the last reader.
    pub(crate) fn read_ends(&self) -> bool {
        *self.used_at.lock() = Instant::now();
        self.readers.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Returns whether a reader is at most so many bytes before the piece.
    pub(crate) fn is_awaited(&self, piece: PieceIndex, within_bytes: u64) -> bool {
        let position = self.position.load(Ordering::Relaxed);
        let end = self.geometry().map(|geometry| geometry.range(piece).end);
        self.readers.load(Ordering::Relaxed) > 0
            && end.is_some_and(|end| end > position && end - position <= within_bytes)
    }

    pub(crate) fn status(&self) -> BlobStatus {
        let progress = self.now();
        let geometry = progress.description.map(|known| *known.geometry());
        BlobStatus {
            name: self.name,
            length_bytes: geometry.map(|geometry| geometry.length()),
            pieces: geometry.map_or(0, |geometry| geometry.pieces()),
            have: progress.have.as_ref().map_or(0, Bitfield::count),
            is_complete: progress.is_complete(),
            is_growing: matches!(progress.description, Some(Description::Growing(_))),
            failure: progress.failure.as_ref().map(failure_text),
            from_agents_bytes: self.bytes[0].load(Ordering::Relaxed),
            from_origins_bytes: self.bytes[1].load(Ordering::Relaxed),
            readers: self.readers.load(Ordering::Relaxed),
        }
    }
}

/// A blob for people and tests to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobStatus {
    pub name: SwarmName,
    /// Absent until somebody told it.
    pub length_bytes: Option<u64>,
    pub pieces: u32,
    /// Pieces that are here.
    pub have: u32,
    pub is_complete: bool,
    /// Whether an origin still hashes it.
    pub is_growing: bool,
    /// Why it ended without the blob.
    pub failure: Option<String>,
    /// Payload received from agents, with what was received twice or was damaged.
    pub from_agents_bytes: u64,
    pub from_origins_bytes: u64,
    pub readers: usize,
}

fn failure_text(failure: &Failure) -> String {
    match failure {
        Failure::Absent => "no storage has it".to_owned(),
        Failure::Unavailable(reason) => format!("it cannot be had now: {reason}"),
        Failure::Revoked(reason) => format!("it was revoked: {reason}"),
    }
}
