//! Storage in memory, with faults on purpose. What it proves, it proves as a disk would.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use swarm::Found;
use tokio::sync::watch;
use torrent::{
    Bitfield, ClusterPublicKey, Cv, Description, GrowingMetaInfo, MetaInfo, PieceIndex, SignedCv,
    SwarmName,
};

use crate::{
    Opened, PieceError, Pieces, Pin, ProveError, Proven, StorageError, StoreError, Values,
};

#[derive(Debug)]
pub(super) struct MemoryPieces {
    key: ClusterPublicKey,
    blobs: Mutex<HashMap<SwarmName, Stored>>,
    /// What storage says of blobs that nobody opened.
    pub(super) found: Mutex<HashMap<SwarmName, Found>>,
    /// Peers get a wrong byte in each piece.
    pub(super) lies: AtomicBool,
    /// Nothing more can be written.
    pub(super) is_full: AtomicBool,
    /// Peers get only pieces below this one; the others wait.
    pub(super) gate: watch::Sender<u32>,
    pub(super) reads: AtomicU32,
}

#[derive(Debug)]
struct Stored {
    description: Description,
    metainfo: Option<MetaInfo>,
    growing: Option<GrowingMetaInfo>,
    signed: BTreeMap<u32, SignedCv>,
    pieces: HashMap<u32, Bytes>,
}

impl Stored {
    fn new(description: Description) -> Self {
        let mut stored = Self {
            description,
            metainfo: None,
            growing: None,
            signed: BTreeMap::new(),
            pieces: HashMap::new(),
        };
        match description {
            Description::Complete(summary) => {
                stored.metainfo = MetaInfo::prove(summary, Arc::new([])).ok();
            }
            Description::Growing(growing) => stored.growing = Some(growing),
        }
        stored
    }

    fn have(&self) -> Bitfield {
        let geometry = self.description.geometry();
        let mut have = Bitfield::empty(geometry);
        for raw in self.pieces.keys() {
            have.insert(geometry.index(*raw).unwrap());
        }
        have
    }

    fn check(&self, piece: PieceIndex, bytes: &[u8]) -> Option<bool> {
        if let Some(metainfo) = &self.metainfo {
            return Some(metainfo.verifies(piece, bytes));
        }
        let signed = self.signed.get(&piece.get())?;
        let growing = self.growing.as_ref()?;
        Some(growing.verifies(piece, &signed.cv, bytes))
    }
}

impl MemoryPieces {
    pub(super) fn new(key: ClusterPublicKey) -> Arc<Self> {
        Arc::new(Self {
            key,
            blobs: Mutex::default(),
            found: Mutex::default(),
            lies: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            gate: watch::Sender::new(u32::MAX),
            reads: AtomicU32::new(0),
        })
    }

    /// Puts a whole blob here.
    pub(super) fn put(&self, metainfo: &MetaInfo, bytes: &Bytes) {
        let description = Description::Complete(*metainfo.summary());
        let mut stored = Stored::new(description);
        stored.metainfo = Some(metainfo.clone());
        for piece in metainfo.geometry().indexes() {
            let bytes = slice(&description, bytes, piece);
            stored.pieces.insert(piece.get(), bytes);
        }
        let name = *metainfo.name();
        self.blobs.lock().insert(name, stored);
        let here = Found::Here(description);
        self.found.lock().insert(name, here);
    }

    /// Makes a growing blob known of which nothing is hashed.
    pub(super) fn begin(&self, growing: GrowingMetaInfo) {
        let description = Description::Growing(growing);
        let name = *growing.name();
        let stored = Stored::new(description);
        self.blobs.lock().insert(name, stored);
        let here = Found::Here(description);
        self.found.lock().insert(name, here);
    }

    /// Adds a hashed piece to a growing blob.
    pub(super) fn hashed(&self, name: &SwarmName, signed: SignedCv, bytes: Bytes) {
        let mut blobs = self.blobs.lock();
        let stored = blobs.get_mut(name).unwrap();
        stored.signed.insert(signed.piece, signed);
        stored.pieces.insert(signed.piece, bytes);
    }

    /// Makes a growing blob complete.
    pub(super) fn grown(&self, metainfo: &MetaInfo) {
        let mut blobs = self.blobs.lock();
        let stored = blobs.get_mut(metainfo.name()).unwrap();
        stored.description = Description::Complete(*metainfo.summary());
        stored.metainfo = Some(metainfo.clone());
    }

    /// Flips a bit of a stored piece.
    pub(super) fn damage(&self, name: &SwarmName, piece: u32) {
        let mut blobs = self.blobs.lock();
        let bytes = blobs.get_mut(name).unwrap().pieces.get_mut(&piece).unwrap();
        *bytes = flipped(bytes);
    }

    pub(super) fn has(&self, name: &SwarmName) -> bool {
        self.blobs.lock().contains_key(name)
    }

    fn stored(&self, name: &SwarmName, piece: PieceIndex) -> Option<Bytes> {
        let blobs = self.blobs.lock();
        blobs.get(name)?.pieces.get(&piece.get()).cloned()
    }
}

pub(super) fn slice(description: &Description, bytes: &Bytes, piece: PieceIndex) -> Bytes {
    let range = description.geometry().range(piece);
    bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[0] ^= 1;
    bytes.into()
}

#[async_trait]
impl Pieces for MemoryPieces {
    async fn open(&self, description: &Description) -> Result<Opened, StorageError> {
        description.verify(&self.key).map_err(StorageError::new)?;
        let mut blobs = self.blobs.lock();
        let stored = blobs
            .entry(*description.name())
            .or_insert_with(|| Stored::new(*description));
        Ok(Opened {
            have: stored.have(),
            proven: stored.metainfo.is_some(),
            pin: Pin::default(),
        })
    }

    async fn describe(&self, description: &Description) -> Result<Proven, ProveError> {
        let mut blobs = self.blobs.lock();
        let (Some(stored), Description::Complete(summary)) =
            (blobs.get_mut(description.name()), description)
        else {
            return Err(StorageError::new("not here").into());
        };
        stored.description = *description;
        let cvs = stored.signed.values().map(|signed| signed.cv).collect();
        stored.metainfo = MetaInfo::prove(*summary, cvs).ok();
        Ok(Proven {
            proven: stored.metainfo.is_some(),
            dropped: Vec::new(),
        })
    }

    async fn prove(&self, name: &SwarmName, cvs: Arc<[Cv]>) -> Result<Proven, ProveError> {
        let mut blobs = self.blobs.lock();
        let stored = blobs.get_mut(name);
        let stored = stored.ok_or_else(|| StorageError::new("not here"))?;
        let Description::Complete(summary) = stored.description else {
            return Err(ProveError::Wrong);
        };
        let metainfo = MetaInfo::prove(summary, cvs).map_err(|_| ProveError::Wrong)?;
        stored.metainfo = Some(metainfo);
        Ok(Proven {
            proven: true,
            dropped: Vec::new(),
        })
    }

    async fn grow(
        &self,
        name: &SwarmName,
        values: Vec<SignedCv>,
    ) -> Result<Vec<PieceIndex>, ProveError> {
        let mut blobs = self.blobs.lock();
        let stored = blobs.get_mut(name);
        let stored = stored.ok_or_else(|| StorageError::new("not here"))?;
        let growing = stored.growing.ok_or(ProveError::Wrong)?;
        let mut pieces = Vec::new();
        for signed in values {
            let piece = growing.check_cv(&self.key, &signed);
            pieces.push(piece.map_err(|_| ProveError::Wrong)?);
            stored.signed.insert(signed.piece, signed);
        }
        Ok(pieces)
    }

    async fn values(&self, name: &SwarmName, first: u32, count: u32) -> Option<Values> {
        let blobs = self.blobs.lock();
        let stored = blobs.get(name)?;
        if let Some(metainfo) = &stored.metainfo {
            return Some(Values::All(Arc::clone(metainfo.cvs())));
        }
        let known = stored.signed.range(first..first.saturating_add(count));
        let known = known.map(|(_, signed)| *signed).collect();
        Some(Values::Signed(stored.growing?.generation(), known))
    }

    async fn store(
        &self,
        name: &SwarmName,
        piece: PieceIndex,
        bytes: Bytes,
    ) -> Result<Vec<SwarmName>, StoreError> {
        let mut blobs = self.blobs.lock();
        let gone = || StoreError::NotStored(StorageError::new("not here"));
        let stored = blobs.get_mut(name).ok_or_else(gone)?;
        match stored.check(piece, &bytes) {
            None => return Err(StoreError::Unproven),
            Some(false) => return Err(StoreError::Corrupt),
            Some(true) => {}
        }
        if self.is_full.load(Ordering::Relaxed) {
            return Err(StoreError::NotStored(StorageError::new("disk full")));
        }
        stored.pieces.insert(piece.get(), bytes);
        Ok(Vec::new())
    }

    async fn read(&self, name: &SwarmName, piece: PieceIndex) -> Result<Bytes, PieceError> {
        let bytes = self.stored(name, piece).ok_or(PieceError::Lost)?;
        let mut blobs = self.blobs.lock();
        let stored = blobs.get_mut(name).ok_or(PieceError::Lost)?;
        if stored.check(piece, &bytes) == Some(true) {
            return Ok(bytes);
        }
        stored.pieces.remove(&piece.get());
        Err(PieceError::Lost)
    }

    async fn read_unchecked(
        &self,
        name: &SwarmName,
        piece: PieceIndex,
    ) -> Result<Bytes, PieceError> {
        let mut gate = self.gate.subscribe();
        let opened = gate.wait_for(|limit| piece.get() < *limit).await;
        opened.map_err(StorageError::new)?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        let bytes = self.stored(name, piece).ok_or(PieceError::Lost)?;
        let lies = self.lies.load(Ordering::Relaxed);
        Ok(if lies { flipped(&bytes) } else { bytes })
    }

    async fn release(&self, name: &SwarmName) {
        let is_empty = |stored: &mut Stored| stored.pieces.is_empty();
        let mut blobs = self.blobs.lock();
        if blobs.get_mut(name).is_some_and(is_empty) {
            blobs.remove(name);
        }
    }

    async fn remove(&self, name: &SwarmName) {
        self.blobs.lock().remove(name);
    }

    async fn resolve(&self, name: &SwarmName) -> Found {
        let found = self.found.lock().get(name).cloned();
        found.unwrap_or(Found::Absent)
    }
}
