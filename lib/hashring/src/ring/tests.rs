use std::collections::BTreeSet;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;

const KEYS: u64 = 50_000;

fn names(seed: u64, count: usize) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let cluster: u32 = rng.random();
    (0..count)
        .map(|number| format!("origin-{number}.{cluster:08x}"))
        .collect()
}

fn ring(names: &[String]) -> Ring<String> {
    Ring::new(names.to_vec()).unwrap()
}

fn key(number: u64) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key
}

/// Checks the shares of 5 members for some seeds. The tests below run beside each other.
fn shares_are_even(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let ring = ring(&names(seed, 5));
        let mut counts = [0_u64; 5];
        for number in 0..KEYS {
            counts[ring.indexes(&key(number)).next().unwrap()] += 1;
        }
        for count in counts {
            let off = count as f64 / (KEYS as f64 / 5.0) - 1.0;
            assert!(off.abs() <= 0.1, "seed {seed}: {counts:?}");
        }
    }
}

#[test]
fn shares_are_even_for_seeds_to_64() {
    shares_are_even(0..64);
}

#[test]
fn shares_are_even_for_seeds_to_128() {
    shares_are_even(64..128);
}

#[test]
fn shares_are_even_for_seeds_to_192() {
    shares_are_even(128..192);
}

#[test]
fn shares_are_even_for_seeds_to_256() {
    shares_are_even(192..256);
}

/// For each number of replicas: whoever did not own a key together with the departed member keeps
/// it, in the same place; of those who did at most one is new.
#[test]
fn only_keys_of_the_departed_member_move() {
    for seed in 0..12 {
        let all = names(seed, 6);
        let departed = &all[(seed % 6) as usize];
        let (before, after) = (ring(&all), {
            let rest: Vec<_> = all
                .iter()
                .filter(|name| *name != departed)
                .cloned()
                .collect();
            ring(&rest)
        });
        let mut moved = 0;
        for number in 0..2_000 {
            let key = key(number);
            for replicas in 1..=4 {
                let old = before.owners(&key, replicas);
                let new = after.owners(&key, replicas);
                assert_eq!(new.len(), replicas);
                if !old.contains(&departed) {
                    assert_eq!(old, new, "seed {seed}, key {number}");
                    continue;
                }
                moved += 1;
                let kept: BTreeSet<_> = old.iter().filter(|name| **name != departed).collect();
                assert!(
                    kept.iter().all(|name| new.contains(name)),
                    "seed {seed}, key {number}: {old:?} became {new:?}"
                );
            }
        }
        assert!(moved > 0);
    }
}

#[test]
fn owners_are_different_members_and_the_first_ones_stay_first() {
    let ring = ring(&names(1, 5));
    for number in 0..1_000 {
        let all = ring.owners(&key(number), 9);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 5);
        for replicas in 0..5 {
            assert_eq!(ring.owners(&key(number), replicas), all[..replicas]);
        }
    }
}

#[test]
fn the_order_of_the_configuration_does_not_matter() {
    let forward = names(7, 5);
    let backward: Vec<_> = forward.iter().rev().cloned().collect();
    let (one, two) = (ring(&forward), ring(&backward));
    for number in 0..1_000 {
        assert_eq!(one.owners(&key(number), 3), two.owners(&key(number), 3));
    }
}

/// Processes of different releases must agree on who owns what.
#[test]
fn owners_never_change_from_release_to_release() {
    let ring = Ring::new(vec!["a", "b", "c"]).unwrap();
    let owners: String = (0..24)
        .map(|number| *ring.owners(&key(number), 1)[0])
        .collect();
    assert_eq!(owners, "cbbaaabbbcbbabcaababbaac");
}

#[test]
fn those_who_are_up_are_asked_in_order() {
    let ring = ring(&names(3, 5));
    for number in 0..200 {
        let key = key(number);
        let all = ring.owners(&key, 3);
        let down = ring.indexes(&key).next().unwrap();
        assert_eq!(ring.owners_up(&key, 3, |index| index != down), all[1..]);
        assert_eq!(ring.owners_up(&key, 3, |_| true), all);
        assert_eq!(
            ring.owners_up(&key, 3, |_| false),
            all,
            "better than nobody"
        );
    }
}

#[test]
fn small_rings() {
    let none: Ring<&str> = Ring::new(Vec::new()).unwrap();
    assert!(none.owners(b"key", 2).is_empty());
    let one = Ring::new(vec!["a"]).unwrap();
    assert_eq!(one.owners(b"key", 2), [&"a"]);
    assert_eq!(
        Ring::new(vec!["a", "b", "a"]).unwrap_err(),
        RingError::Duplicate("a".into())
    );
}
