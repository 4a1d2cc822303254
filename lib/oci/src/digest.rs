//! Content digests: `sha256:<hex>` and `sha512:<hex>`.
//!
//! Source: OCI image-spec, `descriptor.md`, "Digests".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// Hash function of a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// Returns the name used before the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Returns the length of the hash in bytes.
    #[must_use]
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// Name of a blob: the hash of its bytes.
///
/// Bytes inside, `algorithm:hex` (lower case) at the edges.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

/// A string that is no digest Shoal knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error(
        "digest {0:?} has no ':' between algorithm and hex; write it as sha256:<64 hex digits>"
    )]
    NoAlgorithm(String),
    #[error("digest algorithm {0:?} is not supported; use sha256 or sha512")]
    UnknownAlgorithm(String),
    #[error("digest {0:?} must have {1} lower-case hex digits after the colon")]
    BadHex(String, usize),
}

impl Digest {
    /// Returns the digest of `bytes` under `algorithm`.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = DigestHasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the sha256 digest of `bytes`.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// Returns the hex digits after the colon.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        let mut out = String::with_capacity(self.as_bytes().len() * 2);
        for byte in self.as_bytes() {
            let _ = write!(out, "{byte:02x}");
        }
        out
    }

    /// Returns the first 12 hex digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(DigestError::NoAlgorithm(clip(text)));
        };
        match algorithm {
            "sha256" => parse_hex(hex)
                .map(Self::Sha256)
                .ok_or_else(|| DigestError::BadHex(clip(text), 64)),
            "sha512" => parse_hex(hex)
                .map(Self::Sha512)
                .ok_or_else(|| DigestError::BadHex(clip(text), 128)),
            _ => Err(DigestError::UnknownAlgorithm(clip(algorithm))),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream of bytes into a [`Digest`].
#[derive(Clone)]
pub struct DigestHasher(Inner);

#[derive(Clone)]
enum Inner {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl DigestHasher {
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => Inner::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Inner::Sha512(sha2::Sha512::new()),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Sha256(hasher) => hasher.update(bytes),
            Inner::Sha512(hasher) => hasher.update(bytes),
        }
    }

    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            Inner::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Inner::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

impl fmt::Debug for DigestHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestHasher")
    }
}

/// Keeps error messages short whatever a client sent.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(160).collect()
}

fn parse_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let hex = hex.as_bytes();
    if hex.len() != N * 2 {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, b"shoal");
            assert_eq!(digest.to_string().parse(), Ok(digest));
        }
        // Test vector of the empty message, FIPS 180-4.
        assert_eq!(
            Digest::sha256(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn what_is_no_digest_says_why() {
        let check = |text: &str, part: &str| {
            let message = text.parse::<Digest>().unwrap_err().to_string();
            assert!(message.contains(part), "{text:?} gave {message:?}");
        };
        check("latest", "no ':'");
        check("md5:00", "not supported");
        check("sha256:baddigeststring", "64 lower-case hex");
        check(&format!("sha256:{}", "A".repeat(64)), "64 lower-case hex");
        check(&format!("sha512:{}", "a".repeat(64)), "128 lower-case hex");
    }
}
