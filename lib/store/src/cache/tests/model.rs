//! Random lives of a cache against a model: what was written and not lost is there, what was
//! damaged is never handed out, whatever a crash does to the logs.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const BLOBS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Write {
        blob: usize,
        piece: u32,
    },
    Read {
        blob: usize,
        piece: u32,
    },
    Lose {
        blob: usize,
        piece: u32,
    },
    /// A bit on the disk turns.
    Flip {
        blob: usize,
        piece: u32,
    },
    /// The process dies, and this many bytes at the end of each piece log with it.
    Crash {
        torn_bytes: u64,
    },
    Remove {
        blob: usize,
    },
}

/// What a piece must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Piece {
    Good,
    Damaged,
    /// Good or absent: a crash may have taken its record.
    Perhaps {
        damaged: bool,
    },
}

type Model = [BTreeMap<u32, Piece>; BLOBS];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || (0..BLOBS, 0..3_u32);
    let step = prop_oneof![
        6 => at().prop_map(|(blob, piece)| Step::Write { blob, piece }),
        6 => at().prop_map(|(blob, piece)| Step::Read { blob, piece }),
        2 => at().prop_map(|(blob, piece)| Step::Lose { blob, piece }),
        2 => at().prop_map(|(blob, piece)| Step::Flip { blob, piece }),
        2 => Just(Step::Crash { torn_bytes: 0 }),
        1 => (1..14_u64).prop_map(|torn_bytes| Step::Crash { torn_bytes }),
        1 => (0..BLOBS).prop_map(|blob| Step::Remove { blob }),
    ];
    prop::collection::vec(step, 1..40)
}

fn run(folder: &Path, samples: &[Sample], steps: &[Step]) {
    let mut cache = open(folder, 1 << 30);
    let mut model = Model::default();
    for step in steps {
        match *step {
            Step::Write { blob, piece } => {
                let open = cache.open_blob(&samples[blob].description()).unwrap();
                // Opening hashes what is there, unless the blob is open or complete.
                open.prove(Arc::clone(samples[blob].info.cvs())).unwrap();
                let sample = &samples[blob];
                let there = open.have().contains(sample.index(piece));
                let verified = open
                    .verify(sample.index(piece), sample.piece(piece))
                    .unwrap();
                cache.write(&open, &verified).unwrap();
                if !there {
                    model[blob].insert(piece, Piece::Good);
                }
            }
            Step::Read { blob, piece } => read(&cache, &samples[blob], &mut model[blob], piece),
            Step::Lose { blob, piece } => {
                if let Some(open) = cache.get(samples[blob].info.name()).unwrap() {
                    open.lose(samples[blob].index(piece)).unwrap();
                }
                model[blob].remove(&piece);
            }
            Step::Flip { blob, piece } => {
                if let Some(state) = model[blob].get_mut(&piece) {
                    let offset = u64::from(piece) * MIB + 3;
                    flip(&cache, samples[blob].info.name(), offset);
                    *state = match *state {
                        Piece::Good => Piece::Damaged,
                        // Damage may have been found, and the piece dropped.
                        Piece::Damaged => Piece::Perhaps { damaged: false },
                        Piece::Perhaps { damaged } => Piece::Perhaps { damaged: !damaged },
                    };
                }
            }
            Step::Crash { torn_bytes } => {
                drop(cache);
                crash(folder, samples, &mut model, torn_bytes);
                cache = open(folder, 1 << 30);
                forget_empty(folder, samples, &mut model);
            }
            Step::Remove { blob } => {
                cache.remove(samples[blob].info.name()).unwrap();
                model[blob].clear();
            }
        }
    }
    for (blob, sample) in samples.iter().enumerate() {
        for piece in 0..3 {
            read(&cache, sample, &mut model[blob], piece);
        }
    }
}

fn read(cache: &Cache, sample: &Sample, model: &mut BTreeMap<u32, Piece>, piece: u32) {
    let blob = cache.get(sample.info.name()).unwrap();
    let result = blob.as_ref().map(|blob| blob.read(sample.index(piece)));
    let expected = model.get(&piece).copied();
    match result {
        Some(Ok(verified)) => {
            assert!(
                verified.into_bytes() == sample.piece(piece),
                "wrong bytes were handed out"
            );
            let good = matches!(
                expected,
                Some(Piece::Good | Piece::Perhaps { damaged: false })
            );
            assert!(good, "read what is {expected:?}");
        }
        Some(Err(ReadError::Corrupt { .. })) => {
            let bad = matches!(
                expected,
                Some(Piece::Damaged | Piece::Perhaps { damaged: true })
            );
            assert!(bad, "a piece that is {expected:?} was called damaged");
            model.remove(&piece);
        }
        Some(Err(ReadError::Missing { .. })) | None => {
            // Damage may have been found when the blob was opened.
            let gone = matches!(
                expected,
                None | Some(Piece::Damaged | Piece::Perhaps { .. })
            );
            assert!(gone, "a piece that is {expected:?} is missing");
            model.remove(&piece);
        }
        Some(Err(error)) => panic!("{error}"),
    }
}

/// Cuts the end of each piece log off.
fn crash(folder: &Path, samples: &[Sample], model: &mut Model, torn_bytes: u64) {
    let tree = CacheTree(folder.to_owned());
    for (sample, model) in samples.iter().zip(model) {
        let path = tree.blob(sample.info.name()).pieces();
        let Ok(file) = fs::OpenOptions::new().write(true).open(path) else {
            continue;
        };
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(torn_bytes)).unwrap();
        if torn_bytes > 0 {
            // A record of a loss may be gone too: then the bytes on the disk decide.
            for piece in 0..3 {
                let state = match model.get(&piece) {
                    Some(Piece::Damaged | Piece::Perhaps { damaged: true }) => {
                        Piece::Perhaps { damaged: true }
                    }
                    Some(Piece::Good | Piece::Perhaps { damaged: false }) => {
                        Piece::Perhaps { damaged: false }
                    }
                    None => on_disk(&tree, sample, piece),
                };
                model.insert(piece, state);
            }
        }
    }
}

/// A blob of which the log claims nothing is removed at the start.
fn forget_empty(folder: &Path, samples: &[Sample], model: &mut Model) {
    let tree = CacheTree(folder.to_owned());
    for (sample, model) in samples.iter().zip(model) {
        if !tree.blob(sample.info.name()).folder().exists() {
            let good = model.values().filter(|state| **state == Piece::Good);
            assert_eq!(good.count(), 0, "a blob with pieces was removed");
            model.clear();
        }
    }
}

fn on_disk(tree: &CacheTree, sample: &Sample, piece: u32) -> Piece {
    let data = fs::read(tree.blob(sample.info.name()).data()).unwrap();
    let range = sample.info.geometry().range(sample.index(piece));
    let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
    Piece::Perhaps {
        damaged: data[range] != sample.piece(piece),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_cache_behaves_as_its_model(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let samples: Vec<_> = (0..3).map(|seed| sample(40 + seed, 2 * MIB + 100)).collect();
        run(folder.path(), &samples, &steps);
    }
}
