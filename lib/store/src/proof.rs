//! What is known of a blob that makes its pieces verifiable, and where it is kept.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use torrent::codec::{DecodeError, Reader};
use torrent::{
    ClusterPublicKey, Cv, Description, Geometry, GrowingMetaInfo, MetaInfo, MetaInfoError,
    PieceIndex, SignedCv, Summary,
};

use crate::durable::{self, DiskError, failed};
use crate::layout::BlobTree;

/// Longest metainfo read back: the values of the longest blob, and its head.
const MAX_METAINFO_BYTES: u64 = (torrent::metainfo::MAX_PIECES as u64) * 32 + 4096;

/// Chaining values that a blob's pieces are checked against, and the signed head they hang on.
#[derive(Debug)]
pub(crate) struct Proof {
    tree: BlobTree,
    summary: Option<Summary>,
    growing: Option<Growing>,
    proven: Option<Arc<MetaInfo>>,
}

#[derive(Debug)]
struct Growing {
    head: GrowingMetaInfo,
    /// Checked values by piece; at most one per piece of the blob.
    cvs: BTreeMap<PieceIndex, SignedCv>,
    log: File,
}

/// What one piece is checked against.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    Proven(Arc<MetaInfo>),
    Signed(GrowingMetaInfo, Cv),
}

impl Check {
    pub(crate) fn holds(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        match self {
            Self::Proven(metainfo) => metainfo.verifies(piece, bytes),
            Self::Signed(head, cv) => head.verifies(piece, cv, bytes),
        }
    }
}

impl Proof {
    /// Starts to keep what is known of a blob; its folder is there and empty.
    pub(crate) fn create(tree: BlobTree, description: &Description) -> Result<Self, DiskError> {
        let mut proof = Self {
            tree,
            summary: None,
            growing: None,
            proven: None,
        };
        match description {
            Description::Complete(summary) => proof.set_summary(*summary)?,
            Description::Growing(head) => {
                let mut bytes = Vec::new();
                head.encode(&mut bytes);
                durable::replace(&proof.tree.growing(), &bytes)?;
                proof.growing = Some(Growing {
                    head: *head,
                    cvs: BTreeMap::new(),
                    log: open_log(&proof.tree.cvs())?,
                });
            }
        }
        Ok(proof)
    }

    /// Returns what was kept, as far as this cluster's key signed it; `None` where there is
    /// nothing that holds.
    pub(crate) fn load(tree: BlobTree, key: &ClusterPublicKey) -> Result<Option<Self>, DiskError> {
        let summary = read_head(&tree.summary(), Summary::decode)?
            .filter(|summary| summary.verify(key).is_ok());
        let head = read_head(&tree.growing(), GrowingMetaInfo::decode)?
            .filter(|head| head.verify(key).is_ok())
            .filter(|head| summary.is_none_or(|summary| summary.geometry() == head.geometry()));
        let growing = head
            .map(|head| load_growing(&tree, key, head))
            .transpose()?;
        if summary.is_none() && growing.is_none() {
            return Ok(None);
        }
        let mut proof = Self {
            tree,
            summary,
            growing,
            proven: None,
        };
        if let Some(summary) = summary {
            proof.proven = proof.load_proven(key, &summary)?;
            if proof.proven.is_none() {
                proof.prove_by_itself()?;
            }
        }
        Ok(Some(proof))
    }

    fn load_proven(
        &self,
        key: &ClusterPublicKey,
        summary: &Summary,
    ) -> Result<Option<Arc<MetaInfo>>, DiskError> {
        let Some(bytes) = read_file(&self.tree.metainfo(), MAX_METAINFO_BYTES)? else {
            return Ok(None);
        };
        let metainfo = MetaInfo::from_bytes(key, &bytes).ok();
        let metainfo = metainfo.filter(|metainfo| metainfo.summary() == summary);
        Ok(metainfo.map(Arc::new))
    }

    pub(crate) fn description(&self) -> Description {
        match (&self.summary, &self.growing) {
            (Some(summary), _) => Description::Complete(*summary),
            (None, Some(growing)) => Description::Growing(growing.head),
            (None, None) => unreachable!("a proof is made with one of them"),
        }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        *self.description().geometry()
    }

    pub(crate) const fn proven(&self) -> Option<&Arc<MetaInfo>> {
        self.proven.as_ref()
    }

    /// Returns what the piece can be checked against now.
    pub(crate) fn check(&self, piece: PieceIndex) -> Option<Check> {
        if let Some(metainfo) = &self.proven {
            return Some(Check::Proven(Arc::clone(metainfo)));
        }
        let growing = self.growing.as_ref()?;
        let signed = growing.cvs.get(&piece)?;
        Some(Check::Signed(growing.head, signed.cv))
    }

    /// Takes the final description of a blob that grew, or of one that is known already.
    pub(crate) fn describe(&mut self, summary: Summary) -> Result<(), ProofError> {
        if summary.name() != self.description().name() || *summary.geometry() != self.geometry() {
            return Err(MetaInfoError::Mismatch.into());
        }
        match self.summary {
            Some(known) if known == summary => return Ok(()),
            // Signing is deterministic: a blob has one summary per cluster.
            Some(_) => return Err(MetaInfoError::Mismatch.into()),
            None => {}
        }
        self.set_summary(summary)?;
        Ok(())
    }

    fn set_summary(&mut self, summary: Summary) -> Result<(), DiskError> {
        let mut bytes = Vec::new();
        summary.encode(&mut bytes);
        durable::replace(&self.tree.summary(), &bytes)?;
        self.summary = Some(summary);
        self.prove_by_itself()
    }

    /// Proves the blob without anybody's help where that is possible: at most one piece, or all
    /// values of its growth known.
    fn prove_by_itself(&mut self) -> Result<(), DiskError> {
        let Some(summary) = self.summary else {
            return Ok(());
        };
        let cvs: Arc<[Cv]> = match &self.growing {
            _ if summary.geometry().pieces() < 2 => Arc::new([]),
            Some(growing) => growing.cvs.values().map(|signed| signed.cv).collect(),
            None => return Ok(()),
        };
        match self.prove(cvs) {
            // Not all of them, or those of a source that changed: a peer has the right ones.
            Ok(()) | Err(ProofError::MetaInfo(_)) => Ok(()),
            Err(ProofError::Disk(error)) => Err(error),
        }
    }

    /// Proves chaining values from anybody against the root, and keeps them.
    pub(crate) fn prove(&mut self, cvs: Arc<[Cv]>) -> Result<(), ProofError> {
        if self.proven.is_some() {
            return Ok(());
        }
        let summary = self.summary.ok_or(MetaInfoError::Mismatch)?;
        let metainfo = MetaInfo::prove(summary, cvs)?;
        if summary.geometry().pieces() > 1 {
            durable::replace(&self.tree.metainfo(), &metainfo.to_bytes())?;
        }
        self.proven = Some(Arc::new(metainfo));
        Ok(())
    }

    /// Returns the head that signed values hang on, of a blob that grows or grew.
    pub(crate) fn head(&self) -> Option<GrowingMetaInfo> {
        self.growing.as_ref().map(|growing| growing.head)
    }

    /// Keeps signed values that were checked against `head`.
    pub(crate) fn grow(
        &mut self,
        head: &GrowingMetaInfo,
        checked: &[(PieceIndex, SignedCv)],
    ) -> Result<(), ProofError> {
        let growing = self
            .growing
            .as_mut()
            .filter(|growing| growing.head == *head);
        let growing = growing.ok_or(MetaInfoError::Mismatch)?;
        let mut bytes = Vec::new();
        for (piece, signed) in checked {
            match growing.cvs.get(piece) {
                Some(known) if known.cv == signed.cv => {}
                // Two values for one piece under one generation: a source that changed.
                Some(_) => return Err(MetaInfoError::Mismatch.into()),
                None => {
                    bytes.clear();
                    signed.encode(&mut bytes);
                    let appended = growing.log.write_all(&bytes);
                    appended.map_err(failed("append to", &self.tree.cvs()))?;
                    growing.cvs.insert(*piece, *signed);
                }
            }
        }
        self.prove_by_itself()?;
        Ok(())
    }

    /// Returns the signed values known of `count` pieces from `first`.
    pub(crate) fn signed(&self, first: PieceIndex, count: usize) -> Vec<SignedCv> {
        let Some(growing) = &self.growing else {
            return Vec::new();
        };
        let from = growing.cvs.range(first..);
        from.map(|(_, signed)| *signed)
            .take_while(|signed| ((signed.piece - first.get()) as usize) < count)
            .collect()
    }

    /// Returns whether the value that the piece was checked against while the blob grew is the
    /// proven one. True where it was not checked so.
    pub(crate) fn grew_right(&self, piece: PieceIndex) -> bool {
        let signed = self
            .growing
            .as_ref()
            .and_then(|growing| growing.cvs.get(&piece));
        let (Some(signed), Some(metainfo)) = (signed, &self.proven) else {
            return true;
        };
        match metainfo.cvs().get(piece.as_usize()) {
            Some(cv) => *cv == signed.cv,
            None => metainfo.summary().root().0 == signed.cv.0,
        }
    }
}

/// Something about a blob that is not so, or cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error(transparent)]
    MetaInfo(#[from] MetaInfoError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

fn load_growing(
    tree: &BlobTree,
    key: &ClusterPublicKey,
    head: GrowingMetaInfo,
) -> Result<Growing, DiskError> {
    let path = tree.cvs();
    let limit = u64::from(head.geometry().pieces()) * SignedCv::BYTES as u64;
    let bytes = read_file(&path, limit)?.unwrap_or_default();
    let mut cvs = BTreeMap::new();
    let mut good = Vec::with_capacity(bytes.len());
    for record in bytes.chunks_exact(SignedCv::BYTES) {
        let Ok(signed) = SignedCv::decode(&mut Reader::new(record)) else {
            continue;
        };
        if let Ok(piece) = head.check_cv(key, &signed) {
            good.extend_from_slice(record);
            cvs.insert(piece, signed);
        }
    }
    if good.len() != bytes.len() {
        // A torn or damaged record would shift all that are appended after it.
        durable::replace(&path, &good)?;
    }
    let log = open_log(&path)?;
    Ok(Growing { head, cvs, log })
}

fn open_log(path: &Path) -> Result<File, DiskError> {
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).open(path);
    file.map_err(failed("open", path))
}

/// Reads a signed head; `None` where there is none, or it is damaged.
fn read_head<T>(
    path: &Path,
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DiskError> {
    let Some(bytes) = read_file(path, 4096)? else {
        return Ok(None);
    };
    let mut reader = Reader::new(&bytes);
    let head = decode(&mut reader);
    Ok(reader.finish().and(head).ok())
}

/// Reads a file of at most `limit` bytes, or that much of a longer one.
fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Reads the description kept in a folder without what proves its pieces.
pub(crate) fn read_description(
    tree: &BlobTree,
    key: &ClusterPublicKey,
) -> Result<Option<Description>, DiskError> {
    let summary = read_head(&tree.summary(), Summary::decode)?.map(Description::Complete);
    let summary = summary.filter(|summary| summary.verify(key).is_ok());
    if summary.is_some() {
        return Ok(summary);
    }
    let growing = read_head(&tree.growing(), GrowingMetaInfo::decode)?.map(Description::Growing);
    Ok(growing.filter(|growing| growing.verify(key).is_ok()))
}

/// Makes the folder of a blob.
pub(crate) fn make_folder(tree: &BlobTree) -> Result<(), DiskError> {
    fs::create_dir_all(tree.folder()).map_err(failed("create", tree.folder()))
}
