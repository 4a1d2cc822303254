//! Blobs without bytes: names, descriptions and chaining values that are true by decree.

use std::collections::BTreeSet;
use std::sync::Arc;

use swarm::Time;
use torrent::{
    Bitfield, ClusterKey, Cv, Description, Generation, Geometry, GrowingMetaInfo, Root, Signature,
    SignedCv, Summary, SwarmName,
};

use crate::scenario::{BlobSpec, Presence};

/// The one generation of growing blobs.
pub(crate) const GENERATION: Generation = Generation(1);

/// A blob of the scenario.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) name: SwarmName,
    pub(crate) presence: Presence,
    pub(crate) complete: Description,
    pub(crate) growing: Description,
    /// As in a metainfo: none for at most one piece.
    pub(crate) cvs: Arc<[Cv]>,
}

impl Blob {
    pub(crate) fn new(key: &ClusterKey, index: usize, spec: &BlobSpec) -> Option<Self> {
        let hash = |what: &str| *blake3::hash(format!("{what} {index}").as_bytes()).as_bytes();
        let name = SwarmName::Blob(oci::Digest::Sha256(hash("name")));
        let root = if spec.bytes == 0 {
            Root::of_nothing()
        } else {
            Root(hash("root"))
        };
        let complete = Summary::sign(key, name, spec.bytes, root).ok()?;
        let growing = GrowingMetaInfo::sign(key, name, spec.bytes, GENERATION).ok()?;
        let pieces = complete.geometry().pieces();
        let listed = if pieces < 2 { 0 } else { pieces };
        let cvs = (0..listed).map(|piece| cv_of(&name, piece)).collect();
        Some(Self {
            name,
            presence: spec.presence,
            complete: Description::Complete(complete),
            growing: Description::Growing(growing),
            cvs,
        })
    }

    pub(crate) const fn geometry(&self) -> &Geometry {
        self.complete.geometry()
    }

    pub(crate) fn signed(&self, piece: u32) -> SignedCv {
        SignedCv {
            piece,
            cv: cv_of(&self.name, piece),
            signature: Signature([7; 64]),
        }
    }
}

fn cv_of(name: &SwarmName, piece: u32) -> Cv {
    Cv(*blake3::hash(format!("{name} {piece}").as_bytes()).as_bytes())
}

/// What a disk holds of a blob; it survives the process.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) have: Bitfield,
    /// All chaining values are known.
    pub(crate) proven: bool,
    /// Pieces whose signed value is known.
    pub(crate) known: BTreeSet<u32>,
}

impl Stored {
    pub(crate) fn nothing(geometry: &Geometry) -> Self {
        Self {
            have: Bitfield::empty(geometry),
            proven: geometry.pieces() == 0,
            known: BTreeSet::new(),
        }
    }

    pub(crate) fn everything(geometry: &Geometry) -> Self {
        Self {
            have: Bitfield::full(geometry),
            proven: true,
            known: BTreeSet::new(),
        }
    }
}

/// One agent's download of one blob.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Download {
    pub(crate) joined: Time,
    pub(crate) outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Completed(Time),
    Failed,
}
