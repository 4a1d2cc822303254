//! Metainfo: what must be known to trust the bytes of a blob.
//!
//! Trust runs digest → signed summary (length, root) → chaining values → piece. A blob that nobody
//! hashed yet has a *growing* metainfo: its chaining values come one by one, each signed under a
//! generation, as an origin reads the source for the first time.

use std::sync::Arc;

use crate::codec::{DecodeError, Reader, put_count};
use crate::key::{ClusterKey, ClusterPublicKey, Signature};
use crate::name::SwarmName;
use crate::piece::{Geometry, GeometryError, MAX_LENGTH_BYTES, PieceIndex};
use crate::tree::{Cv, Root, Tree, merge_root, piece_cv};

/// Most pieces any blob can have.
pub const MAX_PIECES: usize = 1024 * 1024;

/// One reading of a source that nobody hashed yet. Derived from the source's validator, so that
/// two origins that read the same bytes use the same generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// Metainfo that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaInfoError {
    #[error(transparent)]
    Length(#[from] GeometryError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the signature is not that of this cluster's key; do all parts use the same key?")]
    Signature,
    #[error("the chaining values do not merge to the root")]
    Root,
    #[error("the chaining values are of another blob or generation")]
    Mismatch,
}

/// Length and root of a blob, signed: what a tracker hands out at a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    name: SwarmName,
    geometry: Geometry,
    root: Root,
    signature: Signature,
}

impl Summary {
    /// Signs the summary of a hashed blob.
    ///
    /// # Errors
    /// A length that no blob may have.
    pub fn sign(
        key: &ClusterKey,
        name: SwarmName,
        length: u64,
        root: Root,
    ) -> Result<Self, GeometryError> {
        let geometry = Geometry::new(length)?;
        let signature = key.sign(&Self::message(&name, length, &root));
        Ok(Self {
            name,
            geometry,
            root,
            signature,
        })
    }

    fn message(name: &SwarmName, length: u64, root: &Root) -> Vec<u8> {
        let mut message = b"shoal summary v1\0".to_vec();
        name.encode(&mut message);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&root.0);
        message
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
    pub fn length(&self) -> u64 {
        self.geometry.length()
    }

    #[must_use]
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// # Errors
    /// [`MetaInfoError::Signature`] where this cluster's key did not sign it.
    pub fn verify(&self, key: &ClusterPublicKey) -> Result<(), MetaInfoError> {
        let message = Self::message(&self.name, self.length(), &self.root);
        if key.verifies(&message, &self.signature) {
            Ok(())
        } else {
            Err(MetaInfoError::Signature)
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        self.name.encode(out);
        out.extend_from_slice(&self.length().to_be_bytes());
        out.extend_from_slice(&self.root.0);
        out.extend_from_slice(&self.signature.0);
    }

    /// Decodes without checking the signature: call [`Self::verify`] before trusting it.
    ///
    /// # Errors
    /// Truncated bytes or a length that no blob may have.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = SwarmName::decode(reader)?;
        let geometry =
            Geometry::new(reader.u64()?).map_err(|_| DecodeError::OutOfBounds("blob length"))?;
        let root = Root(reader.array()?);
        let signature = Signature(reader.array()?);
        Ok(Self {
            name,
            geometry,
            root,
            signature,
        })
    }
}

/// Length and generation of a blob that is being hashed, signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrowingMetaInfo {
    name: SwarmName,
    geometry: Geometry,
    generation: Generation,
    signature: Signature,
}

impl GrowingMetaInfo {
    /// # Errors
    /// A length that no blob may have.
    pub fn sign(
        key: &ClusterKey,
        name: SwarmName,
        length: u64,
        generation: Generation,
    ) -> Result<Self, GeometryError> {
        let geometry = Geometry::new(length)?;
        let signature = key.sign(&Self::message(&name, length, generation));
        Ok(Self {
            name,
            geometry,
            generation,
            signature,
        })
    }

    fn message(name: &SwarmName, length: u64, generation: Generation) -> Vec<u8> {
        let mut message = b"shoal growing v1\0".to_vec();
        name.encode(&mut message);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&generation.0.to_be_bytes());
        message
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
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// # Errors
    /// [`MetaInfoError::Signature`].
    pub fn verify(&self, key: &ClusterPublicKey) -> Result<(), MetaInfoError> {
        let message = Self::message(&self.name, self.geometry.length(), self.generation);
        if key.verifies(&message, &self.signature) {
            Ok(())
        } else {
            Err(MetaInfoError::Signature)
        }
    }

    /// Signs the chaining value of one piece under this generation.
    #[must_use]
    pub fn sign_cv(&self, key: &ClusterKey, piece: PieceIndex, cv: Cv) -> SignedCv {
        let signature = key.sign(&self.cv_message(piece.get(), &cv));
        SignedCv {
            piece: piece.get(),
            cv,
            signature,
        }
    }

    /// Returns the piece that the value is for.
    ///
    /// # Errors
    /// [`MetaInfoError::Mismatch`] for a piece the blob does not have,
    /// [`MetaInfoError::Signature`] where it was not signed for this blob and generation.
    pub fn check_cv(
        &self,
        key: &ClusterPublicKey,
        signed: &SignedCv,
    ) -> Result<PieceIndex, MetaInfoError> {
        let piece = self
            .geometry
            .index(signed.piece)
            .ok_or(MetaInfoError::Mismatch)?;
        if key.verifies(
            &self.cv_message(signed.piece, &signed.cv),
            &signed.signature,
        ) {
            Ok(piece)
        } else {
            Err(MetaInfoError::Signature)
        }
    }

    /// Returns the value to sign for a piece: its chaining value, or the root of a one-piece blob.
    #[must_use]
    pub fn cv_of(&self, piece: PieceIndex, bytes: &[u8]) -> Cv {
        if self.geometry.pieces() == 1 {
            Cv(*blake3::hash(bytes).as_bytes())
        } else {
            piece_cv(&self.geometry, piece, bytes)
        }
    }

    /// Returns whether `bytes` are the piece whose checked value is `cv`.
    #[must_use]
    pub fn verifies(&self, piece: PieceIndex, cv: &Cv, bytes: &[u8]) -> bool {
        bytes.len() == self.geometry.size(piece) as usize && self.cv_of(piece, bytes) == *cv
    }

    fn cv_message(&self, piece: u32, cv: &Cv) -> Vec<u8> {
        let mut message = b"shoal growing cv v1\0".to_vec();
        self.name.encode(&mut message);
        message.extend_from_slice(&self.geometry.length().to_be_bytes());
        message.extend_from_slice(&self.generation.0.to_be_bytes());
        message.extend_from_slice(&piece.to_be_bytes());
        message.extend_from_slice(&cv.0);
        message
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        self.name.encode(out);
        out.extend_from_slice(&self.geometry.length().to_be_bytes());
        out.extend_from_slice(&self.generation.0.to_be_bytes());
        out.extend_from_slice(&self.signature.0);
    }

    /// Decodes without checking the signature.
    ///
    /// # Errors
    /// Truncated bytes or a length that no blob may have.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = SwarmName::decode(reader)?;
        let geometry =
            Geometry::new(reader.u64()?).map_err(|_| DecodeError::OutOfBounds("blob length"))?;
        let generation = Generation(reader.u64()?);
        let signature = Signature(reader.array()?);
        Ok(Self {
            name,
            geometry,
            generation,
            signature,
        })
    }
}

/// Chaining value of one piece of a growing blob, signed under its generation. Anybody may pass
/// it on. Of a blob of one piece it is the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedCv {
    pub piece: u32,
    pub cv: Cv,
    pub signature: Signature,
}

impl SignedCv {
    /// Bytes of the encoded value.
    pub const BYTES: usize = 4 + 32 + 64;

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.piece.to_be_bytes());
        out.extend_from_slice(&self.cv.0);
        out.extend_from_slice(&self.signature.0);
    }

    /// # Errors
    /// Truncated bytes.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            piece: reader.u32()?,
            cv: Cv(reader.array()?),
            signature: Signature(reader.array()?),
        })
    }
}

/// What a join answers about a blob: enough to know its length, and whom to trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Description {
    Complete(Summary),
    Growing(GrowingMetaInfo),
}

impl Description {
    #[must_use]
    pub const fn name(&self) -> &SwarmName {
        match self {
            Self::Complete(summary) => summary.name(),
            Self::Growing(growing) => growing.name(),
        }
    }

    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        match self {
            Self::Complete(summary) => summary.geometry(),
            Self::Growing(growing) => growing.geometry(),
        }
    }

    /// Returns the generation of a growing description.
    #[must_use]
    pub const fn generation(&self) -> Option<Generation> {
        match self {
            Self::Complete(_) => None,
            Self::Growing(growing) => Some(growing.generation()),
        }
    }

    /// # Errors
    /// [`MetaInfoError::Signature`].
    pub fn verify(&self, key: &ClusterPublicKey) -> Result<(), MetaInfoError> {
        match self {
            Self::Complete(summary) => summary.verify(key),
            Self::Growing(growing) => growing.verify(key),
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Complete(summary) => {
                out.push(0);
                summary.encode(out);
            }
            Self::Growing(growing) => {
                out.push(1);
                growing.encode(out);
            }
        }
    }

    /// # Errors
    /// As the decoders of its two kinds, or an unknown tag.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Summary::decode(reader).map(Self::Complete),
            1 => GrowingMetaInfo::decode(reader).map(Self::Growing),
            _ => Err(DecodeError::Unknown("description tag")),
        }
    }
}

/// Summary and all chaining values of a hashed blob: every piece can be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaInfo {
    summary: Summary,
    /// Empty for blobs of at most one piece.
    cvs: Arc<[Cv]>,
}

impl MetaInfo {
    /// Signs what hashing a blob yielded.
    ///
    /// # Errors
    /// A length that no blob may have.
    pub fn sign(key: &ClusterKey, name: SwarmName, tree: &Tree) -> Result<Self, GeometryError> {
        let summary = Summary::sign(key, name, tree.length, tree.root)?;
        Ok(Self {
            summary,
            cvs: tree.pieces.as_slice().into(),
        })
    }

    /// Joins a summary with chaining values from anybody: they are proven against the root. The
    /// summary's own signature is the caller's to verify.
    ///
    /// # Errors
    /// [`MetaInfoError::Root`] where the values are not those of the blob.
    pub fn prove(summary: Summary, cvs: Arc<[Cv]>) -> Result<Self, MetaInfoError> {
        let geometry = summary.geometry();
        let expected = if geometry.pieces() < 2 {
            0
        } else {
            geometry.pieces() as usize
        };
        if cvs.len() != expected {
            return Err(MetaInfoError::Root);
        }
        if expected > 0
            && merge_root(&cvs, geometry.piece_length(), geometry.length()) != summary.root
        {
            return Err(MetaInfoError::Root);
        }
        Ok(Self { summary, cvs })
    }

    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    #[must_use]
    pub const fn name(&self) -> &SwarmName {
        self.summary.name()
    }

    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        self.summary.geometry()
    }

    /// Returns the chaining values of all pieces; none for blobs of at most one piece.
    #[must_use]
    pub const fn cvs(&self) -> &Arc<[Cv]> {
        &self.cvs
    }

    /// Returns whether `bytes` are the piece.
    #[must_use]
    pub fn verifies(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        let geometry = self.geometry();
        if bytes.len() != geometry.size(piece) as usize {
            return false;
        }
        match self.cvs.get(piece.as_usize()) {
            Some(cv) => piece_cv(geometry, piece, bytes) == *cv,
            None => *blake3::hash(bytes).as_bytes() == self.summary.root.0,
        }
    }

    /// Returns the form kept beside the blob and in caches.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.cvs.len() * 32);
        out.extend_from_slice(MAGIC);
        self.summary.encode(&mut out);
        put_count(&mut out, self.cvs.len());
        for cv in self.cvs.iter() {
            out.extend_from_slice(&cv.0);
        }
        out
    }

    /// Reads the stored form; trusts it only where this cluster's key signed it and the values
    /// merge to the root.
    ///
    /// # Errors
    /// Any damage, or a key of another cluster.
    pub fn from_bytes(key: &ClusterPublicKey, bytes: &[u8]) -> Result<Self, MetaInfoError> {
        let mut reader = Reader::new(bytes);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(DecodeError::Unknown("metainfo version").into());
        }
        let summary = Summary::decode(&mut reader)?;
        let count = reader.count("chaining values", MAX_PIECES, 32)?;
        let cvs = (0..count)
            .map(|_| reader.array().map(Cv))
            .collect::<Result<Arc<[_]>, _>>()?;
        reader.finish()?;
        summary.verify(key)?;
        Self::prove(summary, cvs)
    }
}

const MAGIC: &[u8] = b"shoal metainfo 1\n";

const _: () = assert!(MAX_LENGTH_BYTES / (16 * 1024 * 1024) <= MAX_PIECES as u64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::TreeHasher;

    fn metainfo(length: usize) -> (ClusterKey, MetaInfo, Vec<u8>) {
        let bytes: Vec<u8> = (0..length)
            .map(|i| u8::try_from(i % 253).unwrap())
            .collect();
        let mut hasher = TreeHasher::new();
        hasher.update(&bytes);
        let key = ClusterKey::from_seed([1; 32]);
        let name = oci::Digest::sha256(&bytes).into();
        let info = MetaInfo::sign(&key, name, &hasher.finish().unwrap()).unwrap();
        (key, info, bytes)
    }

    #[test]
    fn pieces_verify_and_flipped_bits_do_not() {
        for length in [0, 1, 65_536, 1 << 20, (1 << 20) + 1, 3_000_000] {
            let (_, info, mut bytes) = metainfo(length);
            for piece in info.geometry().indexes() {
                let range = info.geometry().range(piece);
                let range =
                    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                assert!(
                    info.verifies(piece, &bytes[range.clone()]),
                    "{length} {piece}"
                );
                bytes[range.start] ^= 1;
                assert!(
                    !info.verifies(piece, &bytes[range.clone()]),
                    "{length} {piece}"
                );
                assert!(!info.verifies(piece, &bytes[range.start..range.end - 1]));
                bytes[range.start] ^= 1;
            }
        }
    }

    #[test]
    fn stored_metainfo_is_trusted_only_whole_and_signed() {
        let (key, info, _) = metainfo(3_000_000);
        let bytes = info.to_bytes();
        assert_eq!(MetaInfo::from_bytes(&key.public(), &bytes), Ok(info));
        let other = ClusterKey::from_seed([2; 32]).public();
        assert_eq!(
            MetaInfo::from_bytes(&other, &bytes),
            Err(MetaInfoError::Signature)
        );
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(
                MetaInfo::from_bytes(&key.public(), &damaged).is_err(),
                "byte {at}"
            );
            assert!(
                MetaInfo::from_bytes(&key.public(), &bytes[..at]).is_err(),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn a_growing_value_is_good_for_its_generation_only() {
        let (key, info, bytes) = metainfo(3_000_000);
        let grow = |generation| {
            GrowingMetaInfo::sign(
                &key,
                *info.name(),
                bytes.len() as u64,
                Generation(generation),
            )
            .unwrap()
        };
        let (one, two) = (grow(1), grow(2));
        let piece = info.geometry().index(1).unwrap();
        let signed = one.sign_cv(&key, piece, info.cvs()[1]);
        assert_eq!(one.check_cv(&key.public(), &signed), Ok(piece));
        assert_eq!(
            two.check_cv(&key.public(), &signed),
            Err(MetaInfoError::Signature)
        );
        let moved = SignedCv { piece: 2, ..signed };
        assert_eq!(
            one.check_cv(&key.public(), &moved),
            Err(MetaInfoError::Signature)
        );
    }
}
