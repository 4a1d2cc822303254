//! The picker, in pictures: one character per piece.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::SeedableRng as _;

use super::*;

/// Reads a set: `x` is in it.
fn set(picture: &str) -> PieceSet {
    let pieces = u32::try_from(picture.len()).unwrap();
    let mut set = PieceSet::empty(pieces);
    for (piece, mark) in (0..).zip(picture.chars()) {
        if mark == 'x' {
            set.insert(piece);
        }
    }
    set
}

/// Builds a picker. Of `mine`, `-` is missing, `x` is here and `o` is asked for.
fn picker(mine: &str, neighbours: &[&str]) -> Picker {
    let mut picker = Picker::new(u32::try_from(mine.len()).unwrap());
    for (piece, mark) in (0..).zip(mine.chars()) {
        if mark == '-' {
            picker.release(piece);
        }
    }
    for neighbour in neighbours {
        picker.add(&set(neighbour));
    }
    picker
}

/// Everything that a hundred draws give, sorted.
fn draws(picker: &Picker, have: &str) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let drawn: BTreeSet<u32> = (0..100)
        .filter_map(|_| picker.rarest(&mut rng, &set(have)))
        .collect();
    drawn.into_iter().collect()
}

#[test]
fn the_rarest_that_the_peer_has() {
    let cases: &[(&str, &[&str], &str, &[u32])] = &[
        // (mine, neighbours, the peer asked, what may be drawn)
        ("----", &["xxxx"], "xxxx", &[0, 1, 2, 3]),
        ("----", &["xx--", "x---"], "xx--", &[1]),
        ("----", &["xx--", "x---"], "x---", &[0]),
        ("----", &["xxx-", "x-x-", "xx--"], "xxx-", &[1, 2]),
        ("x---", &["xxxx", "-xxx", "--xx"], "xxxx", &[1]),
        ("xo--", &["xxxx", "-xxx", "--xx", "---x"], "xxxx", &[2]),
        ("xxoo", &["xxxx"], "xxxx", &[]),
        ("----", &["x---"], "----", &[]),
        // Who has all counts for all pieces alike.
        ("----", &["xxxx", "xxxx", "x-x-"], "xxxx", &[1, 3]),
    ];
    for (mine, neighbours, peer, expected) in cases {
        let drawn = draws(&picker(mine, neighbours), peer);
        assert_eq!(drawn, *expected, "{mine} {neighbours:?} {peer}");
    }
}

#[test]
fn the_lowest_of_a_window() {
    let cases: &[(&str, &str, Range<u32>, Option<u32>)] = &[
        ("------", "xxxxxx", 0..6, Some(0)),
        ("------", "xxxxxx", 2..4, Some(2)),
        ("xxo---", "xxxxxx", 0..6, Some(3)),
        ("------", "-----x", 0..5, None),
        ("------", "-x-x--", 2..6, Some(3)),
        ("xxxxxx", "xxxxxx", 0..6, None),
    ];
    for (mine, peer, range, expected) in cases {
        let picker = picker(mine, &[peer]);
        let lowest = picker.lowest(&set(peer), range.clone());
        assert_eq!(lowest, *expected, "{mine} {peer} {range:?}");
    }
}

#[test]
fn what_no_neighbour_has() {
    let picker_of = |neighbours: &[&str]| picker("--o--x", neighbours);
    assert_eq!(
        picker_of(&["x-----", "--xx--"]).far(0..6, 9),
        [1, 4],
        "asked for or here is not missed"
    );
    assert_eq!(picker_of(&["x-----"]).far(2..6, 1), [3]);
    assert!(picker_of(&["xxxxxx"]).far(0..6, 9).is_empty());
    let mut left = picker_of(&["x-----", "xxxxxx"]);
    left.remove(&set("xxxxxx"), true);
    left.remove(&set("x-----"), false);
    assert_eq!(left.far(0..6, 9), [0, 1, 3, 4]);
}

#[derive(Clone, Debug)]
enum Step {
    Release(u32),
    Take(u32),
    Arrive(u8, Vec<u32>),
    Have(u8, u32),
    Depart(u8),
}

fn step(pieces: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..pieces).prop_map(Step::Release),
        (0..pieces).prop_map(Step::Take),
        (0..6_u8, prop::collection::vec(0..pieces, 0..8))
            .prop_map(|(peer, have)| Step::Arrive(peer, have)),
        (0..6_u8, 0..pieces).prop_map(|(peer, piece)| Step::Have(peer, piece)),
        (0..6_u8).prop_map(Step::Depart),
    ]
}

proptest! {
    /// The picker against sets that are searched from end to end.
    #[test]
    fn behaves_as_a_full_search(pieces in 1..90_u32, steps in prop::collection::vec(step(90), 0..80), seed in any::<u64>()) {
        let mut picker = Picker::new(pieces);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut free = BTreeSet::new();
        let mut peers: BTreeMap<u8, (PieceSet, bool)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Release(piece) if piece < pieces => {
                    picker.release(piece);
                    free.insert(piece);
                }
                Step::Take(piece) if piece < pieces => {
                    prop_assert_eq!(picker.take(piece), free.remove(&piece));
                }
                Step::Arrive(peer, have) => {
                    if let std::collections::btree_map::Entry::Vacant(entry) = peers.entry(peer) {
                        let mut set = PieceSet::empty(pieces);
                        for piece in have {
                            set.insert(piece);
                        }
                        picker.add(&set);
                        let seeder = set.is_full();
                        entry.insert((set, seeder));
                    }
                }
                Step::Have(peer, piece) => {
                    if let Some((have, false)) = peers.get_mut(&peer) && have.insert(piece) {
                        picker.gained(piece);
                    }
                }
                Step::Depart(peer) => {
                    if let Some((have, seeder)) = peers.remove(&peer) {
                        picker.remove(&have, seeder);
                    }
                }
                Step::Release(_) | Step::Take(_) => {}
            }
        }
        let holders = |piece: u32| peers.values().filter(|(have, _)| have.contains(piece)).count();
        for (have, _) in peers.values() {
            let candidates = || free.iter().copied().filter(|piece| have.contains(*piece));
            prop_assert_eq!(picker.lowest(have, 0..pieces), candidates().next());
            let picked = picker.rarest(&mut rng, have);
            prop_assert_eq!(picked.map(holders), candidates().map(holders).min());
            prop_assert!(picked.is_none_or(|piece| candidates().any(|other| other == piece)));
        }
        let far: Vec<u32> = free.iter().copied().filter(|piece| holders(*piece) == 0).collect();
        prop_assert_eq!(picker.far(0..pieces, usize::MAX), far);
    }
}
