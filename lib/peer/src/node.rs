//! The handle of a node, and how it is started.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::Pool;
use parking_lot::RwLock;
use service::tls::Tls;
use swarm::event::Found;
use swarm::{Failure, Priority, ReaderId};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use torrent::{Description, Generation, Peer, PieceIndex, SignedCv, SwarmName};

use crate::blob::{Blob, OpenError};
use crate::buffers::Buffers;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::driver::Driver;
use crate::kept::Kept;
use crate::limiter::Limiter;
use crate::metrics::Metrics;
use crate::pieces::Pieces;
use crate::progress::{BlobStatus, Torrent};
use crate::readers::Readers;

/// Commands that wait for the driver.
const MAX_COMMANDS: usize = 1024;

/// What a node is made of.
#[derive(Debug)]
pub struct Setup {
    pub config: Config,
    /// This process, with its advertised address.
    pub me: Peer,
    /// Accepts connections of peers.
    pub listener: TcpListener,
    pub pieces: Arc<dyn Pieces>,
    pub cluster: Arc<dyn Cluster>,
    /// How it speaks to peers and trackers.
    pub tls: Tls,
    pub metrics: Metrics,
    /// Where given, descriptions that this key did not sign are refused before storage sees them.
    pub key: Option<torrent::ClusterPublicKey>,
    /// Decides everything that is left to chance.
    pub seed: u64,
}

/// A process of the swarm: exchanges pieces with peers. Clones are the same node.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

/// What the parts of a node share.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) me: Peer,
    pub(crate) pieces: Arc<dyn Pieces>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) tls: Tls,
    pub(crate) metrics: Metrics,
    pub(crate) kept: Kept,
    pub(crate) buffers: Buffers,
    /// Held while a piece is hashed and stored.
    pub(crate) checks: Semaphore,
    pub(crate) limiter: Limiter,
    pub(crate) readers: Readers,
    /// Blobs of this process. The driver alone changes which there are.
    pub(crate) torrents: RwLock<HashMap<SwarmName, Arc<Torrent>>>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Whether there ever was a session with a tracker.
    pub(crate) reached_tracker: AtomicBool,
    started: Instant,
    commands: mpsc::Sender<Command>,
}

/// What a handle asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Download {
        wants: Vec<Want>,
        /// Answered with the torrents, in the order of the wants.
        reply: Option<oneshot::Sender<Vec<Arc<Torrent>>>>,
    },
    /// Nobody waits for this one any more, as far as the sender knows.
    GiveUp(Arc<Torrent>),
    Read {
        name: SwarmName,
        reader: ReaderId,
        range: Range<u64>,
    },
    Lost {
        name: SwarmName,
        piece: PieceIndex,
    },
    Seed(Vec<Description>),
    Remove(Vec<SwarmName>),
    Partners(Vec<Peer>),
    Resolved {
        name: SwarmName,
        found: Found,
    },
    Hashed {
        name: SwarmName,
        signed: Box<SignedCv>,
    },
    Grown {
        description: Description,
    },
    Revoke {
        name: SwarmName,
        generation: Option<Generation>,
        reason: Arc<str>,
    },
    Look(oneshot::Sender<Overview>),
}

/// A blob that shall be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub name: SwarmName,
    pub priority: Priority,
    /// Whether all of it shall be downloaded; else the swarm is joined, and what readers ask for
    /// is fetched.
    pub whole: bool,
}

/// What a node is connected to, and what its decisions count.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    pub stats: swarm::Stats,
    pub peers: Vec<PeerStatus>,
    pub trackers: Vec<TrackerStatus>,
}

/// A connection with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Absent until it said who it is.
    pub peer: Option<Peer>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// A tracker, and whether there is a session with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerStatus {
    pub addr: Arc<str>,
    pub is_up: bool,
}

/// Returns how many pieces are hashed and stored at a time: one for each CPU, and one that waits
/// for the disk. With more of them all would be late.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get) + 1
}

impl Node {
    /// Starts a node. It runs until [`Self::shutdown`]; must be called inside a tokio runtime.
    #[must_use]
    pub fn start(setup: Setup) -> Self {
        let Setup {
            config,
            me,
            listener,
            pieces,
            cluster,
            tls,
            metrics,
            key,
            seed,
        } = setup;
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let kept_bytes = usize::try_from(config.kept_pieces.as_u64()).unwrap_or(usize::MAX);
        // All that was in use at a time: memory that is given back and asked for anew costs as much
        // as filling it.
        let in_use = config.receive_buffer.as_u64() + config.kept_pieces.as_u64();
        let spare_bytes = usize::try_from(in_use).unwrap_or(usize::MAX);
        let inner = Arc::new(Inner {
            kept: Kept::new(kept_bytes),
            checks: Semaphore::new(at_once()),
            buffers: Buffers::new(config.receive_buffer.as_u64(), Pool::new(spare_bytes)),
            limiter: Limiter::new(config.upload_rate.map(|rate| rate.as_u64())),
            readers: Readers::new(config.max_readers),
            config,
            me,
            pieces,
            cluster,
            tls,
            metrics,
            torrents: RwLock::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            reached_tracker: AtomicBool::new(false),
            started: Instant::now(),
            commands,
        });
        let driver = Driver::new(Arc::clone(&inner), receiver, key, seed);
        inner.tasks.spawn(driver.run(listener));
        Self { inner }
    }

    /// Stops the node and waits until its tasks have ended. Open reads fail.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Waits until the node has ended: it was shut down, or it broke.
    pub async fn ended(&self) {
        self.inner.commands.closed().await;
    }

    /// Returns whether the node knows its way: a tracker was reached since the start, or none
    /// could be for as long as opening a blob may take, so that it does without.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.inner.reached_tracker.load(Ordering::Relaxed)
            || self.inner.started.elapsed() >= self.inner.config.open_timeout
    }

    /// Returns who this node is to others.
    #[must_use]
    pub fn me(&self) -> &Peer {
        &self.inner.me
    }

    /// Opens a blob and downloads it whole, whatever becomes of the caller. Waits until its length
    /// is known, at most for the configured time; callers of the same blob share one download.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(&self, name: SwarmName, priority: Priority) -> Result<Blob, OpenError> {
        self.open_as(name, priority, true).await
    }

    /// Opens a blob of which only what is read shall be downloaded.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open_lazy(&self, name: SwarmName, priority: Priority) -> Result<Blob, OpenError> {
        self.open_as(name, priority, false).await
    }

    async fn open_as(
        &self,
        name: SwarmName,
        priority: Priority,
        whole: bool,
    ) -> Result<Blob, OpenError> {
        if let Some(blob) = Blob::empty(&name) {
            return Ok(blob);
        }
        let patience = self.inner.config.open_timeout;
        let deadline = Instant::now() + patience;
        // First of all: what is here must not be evicted while it is looked at.
        let pin = self.inner.pieces.pin(&name).await;
        let want = Want {
            name,
            priority,
            whole,
        };
        let torrent = tokio::time::timeout_at(deadline, self.torrent(want)).await;
        let torrent = torrent.map_err(|_| OpenError::Timeout(patience))??;
        let described = tokio::time::timeout_at(deadline, torrent.described()).await;
        let Ok(described) = described else {
            self.inner.send(Command::GiveUp(torrent)).await;
            return Err(OpenError::Timeout(patience));
        };
        described?;
        let geometry = torrent.geometry();
        let geometry = geometry.expect("a description has a length");
        Ok(Blob::new(Arc::clone(&self.inner), torrent, geometry, pin))
    }

    async fn torrent(&self, want: Want) -> Result<Arc<Torrent>, OpenError> {
        let known = self.inner.torrents.read().get(&want.name).cloned();
        if let Some(torrent) = known
            && torrent.now().is_complete()
        {
            return Ok(torrent);
        }
        let (reply, answer) = oneshot::channel();
        let download = Command::Download {
            wants: vec![want],
            reply: Some(reply),
        };
        if !self.inner.send(download).await {
            return Err(OpenError::Stopped);
        }
        let torrents = answer.await.map_err(|_| OpenError::Stopped)?;
        torrents.into_iter().next().ok_or(OpenError::Stopped)
    }

    /// Asks for blobs that will be wanted soon, in one message per tracker, and returns at once.
    pub async fn prefetch(&self, mut wants: Vec<Want>) {
        wants.retain(|want| Blob::empty(&want.name).is_none());
        let download = Command::Download { wants, reply: None };
        self.inner.send(download).await;
    }

    /// Gives blobs to the swarm that are all here.
    pub async fn seed(&self, descriptions: Vec<Description>) {
        self.inner.send(Command::Seed(descriptions)).await;
    }

    /// Leaves the swarms of blobs that are not here any more. Open reads fail.
    pub async fn remove(&self, names: Vec<SwarmName>) {
        self.inner.send(Command::Remove(names)).await;
    }

    /// Of an origin: tells its fellow members of the ring.
    pub async fn set_partners(&self, partners: Vec<Peer>) {
        self.inner.send(Command::Partners(partners)).await;
    }

    /// Of an origin: says what storage has, unasked (a blob was uploaded, or is being hashed).
    pub async fn resolved(&self, name: SwarmName, found: Found) {
        self.inner.send(Command::Resolved { name, found }).await;
    }

    /// Of an origin: the next piece of a growing blob was hashed and can be read.
    pub async fn hashed(&self, name: SwarmName, signed: SignedCv) {
        let signed = Box::new(signed);
        self.inner.send(Command::Hashed { name, signed }).await;
    }

    /// Of an origin: a growing blob was read to its end and its digest was right.
    pub async fn grown(&self, description: Description) {
        self.inner.send(Command::Grown { description }).await;
    }

    /// Of an origin: the source of a blob did not match its digest, or changed.
    pub async fn revoke(&self, name: SwarmName, generation: Option<Generation>, reason: Arc<str>) {
        let revoke = Command::Revoke {
            name,
            generation,
            reason,
        };
        self.inner.send(revoke).await;
    }

    /// Returns the blobs of this node, in the order of their names.
    #[must_use]
    pub fn blobs(&self) -> Vec<BlobStatus> {
        let torrents = self.inner.torrents.read();
        let mut blobs: Vec<_> = torrents.values().map(|torrent| torrent.status()).collect();
        drop(torrents);
        blobs.sort_by_key(|blob| blob.name);
        blobs
    }

    #[must_use]
    pub fn count_blobs(&self) -> usize {
        self.inner.torrents.read().len()
    }

    /// Returns one blob as [`Self::blobs`] does.
    #[must_use]
    pub fn blob(&self, name: &SwarmName) -> Option<BlobStatus> {
        let torrents = self.inner.torrents.read();
        torrents.get(name).map(|torrent| torrent.status())
    }

    /// Returns connections and counters; those of a node that was shut down are empty.
    pub async fn overview(&self) -> Overview {
        let (reply, answer) = oneshot::channel();
        self.inner.send(Command::Look(reply)).await;
        answer.await.unwrap_or_default()
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }
}

impl Inner {
    /// Waits for room and sends; returns whether the driver is still there.
    pub(crate) async fn send(&self, command: Command) -> bool {
        self.commands.send(command).await.is_ok()
    }

    pub(crate) async fn begin_read(
        &self,
        name: SwarmName,
        reader: ReaderId,
        range: Range<u64>,
    ) -> bool {
        self.send(Command::Read {
            name,
            reader,
            range,
        })
        .await
    }

    /// Notes that a piece turned out not to be in storage.
    pub(crate) async fn lost(&self, torrent: &Torrent, piece: PieceIndex) {
        torrent.lost(piece);
        self.metrics.pieces_lost.inc();
        let name = torrent.name;
        self.send(Command::Lost { name, piece }).await;
    }

    pub(crate) fn swarm_config(&self, key: Option<torrent::ClusterPublicKey>) -> swarm::Config {
        let mut config = swarm::Config::new(self.me.clone());
        config.key = key;
        config.download_rate = self.config.download_rate.map(|rate| rate.as_u64());
        // The rest is for what is on its way.
        config.policy.max_checking_bytes = self.config.receive_buffer.as_u64() / 4;
        config
    }

    pub(crate) fn torrent(&self, name: &SwarmName) -> Option<Arc<Torrent>> {
        self.torrents.read().get(name).cloned()
    }

    /// Ends a blob for everybody who waits for it.
    pub(crate) fn drop_torrent(&self, name: &SwarmName, failure: Failure) {
        let torrent = self.torrents.write().remove(name);
        if let Some(torrent) = torrent {
            torrent.fail(failure);
        }
        self.kept.forget(name);
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}
