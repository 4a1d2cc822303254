//! One blob on the disk: the pieces that are there, and what they are checked against.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use disk::{DataFile, Pool};
use parking_lot::Mutex;
use torrent::{
    Bitfield, ClusterPublicKey, Cv, Description, Geometry, MetaInfo, MetaInfoError, PieceIndex,
    SignedCv, Summary, SwarmName,
};

use crate::durable::{self, DiskError, failed};
use crate::layout::BlobTree;
use crate::piece_log::PieceLog;
use crate::proof::{self, Check, Proof};

pub use crate::proof::ProofError;

/// A blob that is open. While anybody holds it, it is not evicted.
#[derive(Debug)]
pub struct Blob {
    name: SwarmName,
    geometry: Geometry,
    key: ClusterPublicKey,
    tree: BlobTree,
    data: DataFile,
    account: Arc<Account>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    proof: Proof,
    have: Bitfield,
    log: PieceLog,
    /// Set when the blob was removed; its files may be gone already.
    gone: bool,
}

/// Bytes that one blob has on the disk, and all blobs together.
#[derive(Debug)]
pub(crate) struct Account {
    own: AtomicU64,
    total: Arc<AtomicU64>,
}

impl Account {
    pub(crate) fn new(total: Arc<AtomicU64>, bytes: u64) -> Self {
        total.fetch_add(bytes, Ordering::Relaxed);
        let own = AtomicU64::new(bytes);
        Self { own, total }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }

    /// Sets the blob's bytes. Calls for one blob must not overlap.
    pub(crate) fn set(&self, bytes: u64) {
        let before = self.own.swap(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_sub(before, Ordering::Relaxed);
    }
}

/// The bytes of a piece that were checked against the blob's chaining values, in memory, just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPiece {
    name: SwarmName,
    piece: PieceIndex,
    bytes: Bytes,
}

/// Bytes that are not taken as a piece.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("piece {piece} of {name} does not match its chaining value")]
    Corrupt { name: SwarmName, piece: PieceIndex },
    #[error("nothing is known yet that piece {piece} of {name} could be checked against")]
    Unproven { name: SwarmName, piece: PieceIndex },
}

/// A piece that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("piece {piece} of {name} is not here")]
    Missing { name: SwarmName, piece: PieceIndex },
    #[error("piece {piece} of {name} was damaged on the disk; it was dropped")]
    Corrupt { name: SwarmName, piece: PieceIndex },
    #[error("{0} was removed")]
    Gone(SwarmName),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A piece that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0} was removed")]
    Gone(SwarmName),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl VerifiedPiece {
    #[must_use]
    pub const fn name(&self) -> &SwarmName {
        &self.name
    }

    #[must_use]
    pub const fn piece(&self) -> PieceIndex {
        self.piece
    }

    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl Blob {
    /// Makes the folder of a blob that is not here yet.
    pub(crate) fn create(
        tree: BlobTree,
        key: ClusterPublicKey,
        description: &Description,
        account: Arc<Account>,
        pool: &Pool,
    ) -> Result<Self, DiskError> {
        proof::make_folder(&tree)?;
        let proof = Proof::create(tree.clone(), description)?;
        let have = Bitfield::empty(description.geometry());
        Self::assemble(tree, key, proof, have, account, pool)
    }

    /// Opens a blob that is here; `None` where what is here is no blob any more.
    ///
    /// Where the log does not claim all pieces, what it claims is hashed: those pieces may have
    /// been on their way to the disk when the power went. A blob that is complete is taken at its
    /// word, because each read checks it again.
    pub(crate) fn load(
        tree: BlobTree,
        key: ClusterPublicKey,
        account: Arc<Account>,
        pool: &Pool,
    ) -> Result<Option<Self>, DiskError> {
        let Some(proof) = Proof::load(tree.clone(), &key)? else {
            return Ok(None);
        };
        let geometry = proof.geometry();
        let claims = PieceLog::claims(&tree.pieces(), &geometry)?;
        let whole = claims.is_full() && tree.complete().exists() && proof.proven().is_some();
        let have = if whole {
            claims
        } else {
            rehash(&tree, &proof, &claims, pool)?
        };
        Self::assemble(tree, key, proof, have, account, pool).map(Some)
    }

    fn assemble(
        tree: BlobTree,
        key: ClusterPublicKey,
        proof: Proof,
        have: Bitfield,
        account: Arc<Account>,
        pool: &Pool,
    ) -> Result<Self, DiskError> {
        let description = proof.description();
        let geometry = *description.geometry();
        let path = tree.data();
        let data = DataFile::create(&path, geometry.length(), pool);
        let data = data.map_err(failed("open", &path))?;
        if !have.is_full() {
            unmark(&tree)?;
        }
        let log = PieceLog::start(&tree.pieces(), &geometry, &have)?;
        account.set(stored_bytes(&geometry, &have));
        let blob = Self {
            name: *description.name(),
            geometry,
            key,
            tree,
            data,
            account,
            state: Mutex::new(State {
                proof,
                have,
                log,
                gone: false,
            }),
        };
        blob.mark(&blob.state.lock())?;
        Ok(blob)
    }

    #[must_use]
    pub const fn name(&self) -> &SwarmName {
        &self.name
    }

    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    #[must_use]
    pub fn description(&self) -> Description {
        self.state.lock().proof.description()
    }

    /// Returns the pieces that are here.
    #[must_use]
    pub fn have(&self) -> Bitfield {
        self.state.lock().have.clone()
    }

    /// Returns whether all pieces are here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state.lock().have.is_full()
    }

    /// Returns the chaining values of the whole blob, where they are proven.
    #[must_use]
    pub fn metainfo(&self) -> Option<Arc<MetaInfo>> {
        self.state.lock().proof.proven().cloned()
    }

    /// Returns the bytes of the pieces that are here.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.account.bytes()
    }

    /// Proves chaining values against the root and keeps them. Returns the pieces dropped because
    /// they were checked against a signed value that turned out wrong.
    ///
    /// # Errors
    /// [`ProofError::MetaInfo`] where they are not those of this blob, or its root is not known.
    pub fn prove(&self, cvs: Arc<[Cv]>) -> Result<Vec<PieceIndex>, ProofError> {
        let mut state = self.state.lock();
        state.proof.prove(cvs)?;
        Ok(self.drop_wrong(&mut state)?)
    }

    /// Takes the final description of a blob that grew. Returns the pieces dropped, as
    /// [`Self::prove`].
    ///
    /// # Errors
    /// [`ProofError::MetaInfo`] where it is not signed, or of another blob.
    pub fn describe(&self, summary: Summary) -> Result<Vec<PieceIndex>, ProofError> {
        summary.verify(&self.key)?;
        let mut state = self.state.lock();
        state.proof.describe(summary)?;
        Ok(self.drop_wrong(&mut state)?)
    }

    /// Checks the signatures of values of a growing blob and keeps them; returns their pieces.
    ///
    /// # Errors
    /// [`ProofError::MetaInfo`] at the first that is not signed for this blob and generation, or
    /// contradicts one that is known.
    pub fn grow(&self, values: &[SignedCv]) -> Result<Vec<PieceIndex>, ProofError> {
        let head = self.state.lock().proof.head();
        let head = head.ok_or(MetaInfoError::Mismatch)?;
        // Signatures take a while: readers need not wait for them.
        let checked = values
            .iter()
            .map(|signed| Ok((head.check_cv(&self.key, signed)?, *signed)))
            .collect::<Result<Vec<_>, MetaInfoError>>()?;
        let mut state = self.state.lock();
        state.proof.grow(&head, &checked)?;
        self.drop_wrong(&mut state)?;
        Ok(checked.into_iter().map(|(piece, _)| piece).collect())
    }

    /// Returns the signed values known of at most `count` pieces from `first`.
    #[must_use]
    pub fn signed_cvs(&self, first: PieceIndex, count: u32) -> Vec<SignedCv> {
        self.state.lock().proof.signed(first, count as usize)
    }

    /// Returns whether the piece can be checked now.
    #[must_use]
    pub fn can_verify(&self, piece: PieceIndex) -> bool {
        self.state.lock().proof.check(piece).is_some()
    }

    /// Checks bytes that came for a piece. Only hashes; the disk is not touched.
    ///
    /// # Errors
    /// [`VerifyError::Corrupt`] where they are not the piece.
    pub fn verify(&self, piece: PieceIndex, bytes: Bytes) -> Result<VerifiedPiece, VerifyError> {
        let name = self.name;
        let check = self.check(piece);
        let check = check.ok_or(VerifyError::Unproven { name, piece })?;
        if check.holds(piece, &bytes) {
            Ok(VerifiedPiece { name, piece, bytes })
        } else {
            Err(VerifyError::Corrupt { name, piece })
        }
    }

    /// Reads a piece and checks it. A piece that is damaged is dropped.
    ///
    /// # Errors
    /// [`ReadError::Missing`] where it is not here; [`ReadError::Corrupt`] where it is not any
    /// more: tell the swarm.
    pub fn read(&self, piece: PieceIndex) -> Result<VerifiedPiece, ReadError> {
        let name = self.name;
        let check = {
            let state = self.state.lock();
            if state.gone {
                return Err(ReadError::Gone(name));
            }
            let check = state.proof.check(piece);
            check.filter(|_| state.have.contains(piece))
        };
        let check = check.ok_or(ReadError::Missing { name, piece })?;
        match read_piece(&self.data, &self.geometry, piece) {
            Ok(Some(bytes)) if check.holds(piece, &bytes) => {
                return Ok(VerifiedPiece { name, piece, bytes });
            }
            Ok(_) => {}
            // A sector that went bad is damage like any other.
            Err(error) => tracing::warn!(%name, %piece, %error, "cannot read a cached piece"),
        }
        self.lose(piece)?;
        Err(ReadError::Corrupt { name, piece })
    }

    /// Reads a piece for somebody who checks it.
    ///
    /// # Errors
    /// As [`Self::read`], but that damage is not seen.
    pub fn read_unchecked(&self, piece: PieceIndex) -> Result<Bytes, ReadError> {
        let name = self.name;
        {
            let state = self.state.lock();
            if state.gone {
                return Err(ReadError::Gone(name));
            }
            if !state.have.contains(piece) {
                return Err(ReadError::Missing { name, piece });
            }
        }
        match read_piece(&self.data, &self.geometry, piece) {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(error) => tracing::warn!(%name, %piece, %error, "cannot read a cached piece"),
        }
        self.lose(piece)?;
        Err(ReadError::Corrupt { name, piece })
    }

    /// Drops a piece; returns whether it was here.
    ///
    /// # Errors
    /// [`DiskError`]; the piece is dropped all the same, until the blob is opened again.
    pub fn lose(&self, piece: PieceIndex) -> Result<bool, DiskError> {
        self.lose_locked(&mut self.state.lock(), piece)
    }

    fn lose_locked(&self, state: &mut State, piece: PieceIndex) -> Result<bool, DiskError> {
        if state.gone || !state.have.remove(piece) {
            return Ok(false);
        }
        self.account.set(stored_bytes(&self.geometry, &state.have));
        let unmarked = unmark(&self.tree);
        state.log.lost(piece)?;
        unmarked.map(|()| true)
    }

    /// Writes a piece; one that is here already is not written again.
    pub(crate) fn write(&self, piece: &VerifiedPiece) -> Result<(), WriteError> {
        assert!(
            piece.name == self.name,
            "a piece of {} is not one of {}",
            piece.name,
            self.name
        );
        let index = piece.piece;
        {
            let state = self.state.lock();
            if state.gone {
                return Err(WriteError::Gone(self.name));
            }
            if state.have.contains(index) {
                return Ok(());
            }
        }
        self.data
            .write_all_at(&piece.bytes, self.geometry.range(index).start)
            .map_err(failed("write", &self.tree.data()))?;
        let mut state = self.state.lock();
        // It may have been removed meanwhile.
        if state.gone {
            return Err(WriteError::Gone(self.name));
        }
        // What it was checked against may have been replaced by a proof that says otherwise.
        if state.have.contains(index) || !state.proof.grew_right(index) {
            return Ok(());
        }
        state.log.gained(index)?;
        state.have.insert(index);
        self.account
            .set(self.account.bytes() + u64::from(self.geometry.size(index)));
        self.mark(&state)?;
        Ok(())
    }

    /// Makes everybody who still holds the blob fail.
    pub(crate) fn go(&self) {
        let mut state = self.state.lock();
        state.gone = true;
        self.account.set(0);
    }

    fn check(&self, piece: PieceIndex) -> Option<Check> {
        self.state.lock().proof.check(piece)
    }

    /// Notes on the disk that all pieces are here, once they are.
    fn mark(&self, state: &State) -> Result<(), DiskError> {
        if state.have.is_full() && state.proof.proven().is_some() {
            durable::replace(&self.tree.complete(), b"")?;
        }
        Ok(())
    }

    fn drop_wrong(&self, state: &mut State) -> Result<Vec<PieceIndex>, DiskError> {
        if state.proof.proven().is_none() {
            return Ok(Vec::new());
        }
        let wrong: Vec<_> = state
            .have
            .iter(&self.geometry)
            .filter(|piece| !state.proof.grew_right(*piece))
            .collect();
        for piece in &wrong {
            self.lose_locked(state, *piece)?;
        }
        self.mark(state)?;
        Ok(wrong)
    }
}

fn unmark(tree: &BlobTree) -> Result<(), DiskError> {
    match fs::remove_file(tree.complete()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", &tree.complete())(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns those of the claimed pieces that are what they should be.
fn rehash(
    tree: &BlobTree,
    proof: &Proof,
    claims: &Bitfield,
    pool: &Pool,
) -> Result<Bitfield, DiskError> {
    let geometry = proof.geometry();
    let mut have = Bitfield::empty(&geometry);
    let path = tree.data();
    if !path.exists() {
        return Ok(have);
    }
    let data = DataFile::create(&path, geometry.length(), pool).map_err(failed("read", &path))?;
    for piece in claims.iter(&geometry) {
        let Some(check) = proof.check(piece) else {
            continue;
        };
        let bytes = read_piece(&data, &geometry, piece).map_err(failed("read", &path))?;
        if bytes.is_some_and(|bytes| check.holds(piece, &bytes)) {
            have.insert(piece);
        }
    }
    Ok(have)
}

/// Reads a piece; `None` where the file ends before it does.
fn read_piece(
    data: &DataFile,
    geometry: &Geometry,
    piece: PieceIndex,
) -> std::io::Result<Option<Bytes>> {
    let length = geometry.size(piece) as usize;
    data.read_exact_at(length, geometry.range(piece).start)
}

/// Returns the bytes of a set of pieces.
pub(crate) fn stored_bytes(geometry: &Geometry, have: &Bitfield) -> u64 {
    have.iter(geometry)
        .map(|piece| u64::from(geometry.size(piece)))
        .sum()
}
