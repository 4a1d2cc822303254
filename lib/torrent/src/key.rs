//! The cluster key: origins sign metainfo with it, everybody else holds its public half.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

/// Ed25519 signature (RFC 8032), 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signature:{:02x}{:02x}…", self.0[0], self.0[1])
    }
}

/// The secret half; only origins hold it.
#[derive(Clone)]
pub struct ClusterKey(SigningKey);

/// The public half; enough to trust what an origin signed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterPublicKey(VerifyingKey);

/// Text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a cluster key is 64 hex digits")]
    NotHex,
    #[error(
        "these 64 hex digits are no point of Ed25519; copy the public key that the origins print"
    )]
    NotAPoint,
}

impl ClusterKey {
    /// Makes the key of a 32-byte seed, which must come from the system's random source.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Returns the seed, to keep the key in a file only its owner may read.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    #[must_use]
    pub fn public(&self) -> ClusterPublicKey {
        ClusterPublicKey(self.0.verifying_key())
    }

    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey(secret of {})", self.public())
    }
}

impl ClusterPublicKey {
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        self.0.verify_strict(message, &signature).is_ok()
    }
}

impl fmt::Display for ClusterPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterPublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let digest: oci::Digest = format!("sha256:{text}")
            .parse()
            .map_err(|_| KeyError::NotHex)?;
        let bytes: [u8; 32] = digest.as_bytes().try_into().map_err(|_| KeyError::NotHex)?;
        VerifyingKey::from_bytes(&bytes)
            .map(Self)
            .map_err(|_| KeyError::NotAPoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signed_message_verifies() {
        let key = ClusterKey::from_seed([7; 32]);
        let public: ClusterPublicKey = key.public().to_string().parse().unwrap();
        let signature = key.sign(b"message");
        assert!(public.verifies(b"message", &signature));
        assert!(!public.verifies(b"massage", &signature));
        assert!(
            !ClusterKey::from_seed([8; 32])
                .public()
                .verifies(b"message", &signature)
        );
        assert_eq!("zz".parse::<ClusterPublicKey>(), Err(KeyError::NotHex));
    }
}
