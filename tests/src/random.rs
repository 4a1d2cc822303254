//! Bytes that look random and are the same in every run.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Returns `count` bytes of the stream that this seed has.
#[must_use]
pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    ChaCha8Rng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}
