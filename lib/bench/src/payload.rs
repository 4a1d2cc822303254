//! Bytes that nothing can compress, made faster than they are sent, and the same in every run.

use bytes::Bytes;
use oci::{Algorithm, Digest, DigestHasher};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Bytes made at a time.
const PART_BYTES: u64 = 1 << 20;

/// The content of a blob.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    seed: u64,
    length: u64,
}

impl Payload {
    pub(crate) const fn new(seed: u64, length: u64) -> Self {
        Self { seed, length }
    }

    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Returns the bytes in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Bytes> + Send + use<> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut left = self.length;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let count = left.min(PART_BYTES);
            left -= count;
            let mut part = vec![0; usize::try_from(count).unwrap_or(usize::MAX)];
            random.fill_bytes(&mut part);
            Some(part.into())
        })
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = DigestHasher::new(Algorithm::Sha256);
        for part in self.parts() {
            hasher.update(&part);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_as_long_as_it_says_and_the_same_again() {
        let payload = Payload::new(7, PART_BYTES + 5);
        let all: Vec<u8> = payload.parts().flatten().collect();
        assert_eq!(all.len() as u64, payload.length());
        assert_eq!(payload.digest(), Digest::sha256(&all));
        assert_eq!(payload.digest(), payload.digest());
        assert_ne!(payload.digest(), Payload::new(8, PART_BYTES + 5).digest());
        // Each value as often as the others, roughly: a compressor finds nothing.
        let mut counts = [0_u32; 256];
        all.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        assert!(counts.iter().all(|count| (3600..4600).contains(count)));
    }
}
