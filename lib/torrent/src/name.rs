//! Names of swarms.

use std::fmt;

use oci::Digest;

use crate::codec::{DecodeError, Reader};

/// What a swarm is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SwarmName {
    /// The blob of this digest; nearly every swarm.
    Blob(Digest),
    /// BLAKE3 of URL, validator (`ETag`) and length of something that has no digest.
    Source([u8; 32]),
}

impl SwarmName {
    /// Returns the digest where the swarm is about a blob.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Blob(digest) => Some(digest),
            Self::Source(_) => None,
        }
    }

    /// Appends one tag byte and the hash.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Blob(Digest::Sha256(hash)) => {
                out.push(0);
                out.extend_from_slice(hash);
            }
            Self::Blob(Digest::Sha512(hash)) => {
                out.push(1);
                out.extend_from_slice(hash);
            }
            Self::Source(hash) => {
                out.push(2);
                out.extend_from_slice(hash);
            }
        }
    }

    /// # Errors
    /// Truncated bytes, or a tag that is not 0, 1 or 2.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(Self::Blob(Digest::Sha256(reader.array()?))),
            1 => Ok(Self::Blob(Digest::Sha512(reader.array()?))),
            2 => Ok(Self::Source(reader.array()?)),
            _ => Err(DecodeError::Unknown("swarm name tag")),
        }
    }
}

impl From<Digest> for SwarmName {
    fn from(digest: Digest) -> Self {
        Self::Blob(digest)
    }
}

impl fmt::Display for SwarmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "{digest}"),
            Self::Source(hash) => write!(f, "source:{}", Digest::Sha256(*hash).hex()),
        }
    }
}

impl fmt::Debug for SwarmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
