//! Which blobs have to go when the cache is full. Pure: no clock, no disk.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use torrent::SwarmName;

/// When to evict, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Above this many bytes eviction begins.
    pub high_bytes: u64,
    /// At this many bytes it ends.
    pub low_bytes: u64,
}

/// A blob that could be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub name: SwarmName,
    /// Bytes that its removal frees.
    pub bytes: u64,
    /// Grows with each use of any blob.
    pub last_used: u64,
    /// Whether somebody reads it, writes it or wants it kept.
    pub busy: bool,
}

/// Returns the blobs to remove, least recently used first, until `used_bytes` are down at the low
/// mark or only busy blobs are left. None below the high mark.
pub fn choose(
    used_bytes: u64,
    marks: &Watermarks,
    candidates: impl IntoIterator<Item = Candidate>,
) -> Vec<SwarmName> {
    if used_bytes <= marks.high_bytes {
        return Vec::new();
    }
    let mut idle: BinaryHeap<_> = candidates
        .into_iter()
        .filter(|candidate| !candidate.busy && candidate.bytes > 0)
        .map(|candidate| Reverse((candidate.last_used, candidate.name, candidate.bytes)))
        .collect();
    let mut left = used_bytes;
    let mut chosen = Vec::new();
    while left > marks.low_bytes
        && let Some(Reverse((_, name, bytes))) = idle.pop()
    {
        left = left.saturating_sub(bytes);
        chosen.push(name);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blobs as `name:bytes@last_used`, with `!` where busy; returns the first letters chosen.
    fn check(used_bytes: u64, blobs: &str, expected: &str) {
        let name = |letter: &str| SwarmName::Source([letter.as_bytes()[0]; 32]);
        let candidates = blobs.split_whitespace().map(|text| {
            let (letter, rest) = text.split_once(':').unwrap();
            let (bytes, used) = rest.split_once('@').unwrap();
            Candidate {
                name: name(letter),
                bytes: bytes.parse().unwrap(),
                last_used: used.trim_end_matches('!').parse().unwrap(),
                busy: used.ends_with('!'),
            }
        });
        let marks = Watermarks {
            high_bytes: 100,
            low_bytes: 80,
        };
        let expected: Vec<_> = expected.split_whitespace().map(name).collect();
        assert_eq!(choose(used_bytes, &marks, candidates), expected, "{blobs}");
    }

    #[test]
    fn the_least_recently_used_go_until_the_low_mark() {
        check(100, "a:50@1 b:50@2", "");
        check(101, "a:50@2 b:51@1", "b");
        check(120, "a:10@3 b:30@1 c:80@2", "b c");
        check(120, "a:40@1 b:80@2", "a");
        check(120, "", "");
    }

    #[test]
    fn what_is_busy_or_empty_stays() {
        check(120, "a:60@1! b:60@2", "b");
        check(500, "a:250@1! b:250@2!", "");
        check(120, "a:0@1 b:120@2", "b");
    }
}
