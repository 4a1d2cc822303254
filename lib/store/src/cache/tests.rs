mod model;

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use oci::Digest;
use torrent::{
    ClusterKey, Generation, GrowingMetaInfo, MetaInfo, PieceIndex, SignedCv, Summary, TreeHasher,
};

use super::*;
use crate::blob::{ReadError, VerifyError};

const MIB: u64 = 1 << 20;

/// A blob with all that an origin knows of it.
pub(super) struct Sample {
    pub(super) bytes: Bytes,
    pub(super) info: MetaInfo,
}

pub(super) fn key() -> ClusterKey {
    ClusterKey::from_seed([9; 32])
}

pub(super) fn sample(seed: u8, length: u64) -> Sample {
    let bytes: Bytes = (0..length)
        .map(|i| u8::try_from(i * 31 % 251).unwrap() ^ seed)
        .collect::<Vec<_>>()
        .into();
    let mut hasher = TreeHasher::new();
    hasher.update(&bytes);
    let tree = hasher.finish().unwrap();
    let name = Digest::sha256(&bytes).into();
    let info = MetaInfo::sign(&key(), name, &tree).unwrap();
    Sample { bytes, info }
}

impl Sample {
    pub(super) fn description(&self) -> Description {
        Description::Complete(*self.info.summary())
    }

    fn growing(&self, generation: u64) -> GrowingMetaInfo {
        let length = self.bytes.len() as u64;
        GrowingMetaInfo::sign(&key(), *self.info.name(), length, Generation(generation)).unwrap()
    }

    pub(super) fn index(&self, raw: u32) -> PieceIndex {
        self.info.geometry().index(raw).unwrap()
    }

    pub(super) fn piece(&self, raw: u32) -> Bytes {
        let range = self.info.geometry().range(self.index(raw));
        self.bytes
            .slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
    }

    fn signed(&self, generation: u64, raw: u32) -> SignedCv {
        let head = self.growing(generation);
        let piece = self.index(raw);
        head.sign_cv(&key(), piece, head.cv_of(piece, &self.piece(raw)))
    }
}

pub(super) fn open(folder: &Path, capacity_bytes: u64) -> Cache {
    Cache::open(Config::new(folder, capacity_bytes), key().public()).unwrap()
}

fn fill(cache: &Cache, sample: &Sample, pieces: impl IntoIterator<Item = u32>) -> Vec<SwarmName> {
    let blob = cache.open_blob(&sample.description()).unwrap();
    if blob.metainfo().is_none() {
        blob.prove(Arc::clone(sample.info.cvs())).unwrap();
    }
    let mut evicted = Vec::new();
    for raw in pieces {
        let piece = blob.verify(sample.index(raw), sample.piece(raw)).unwrap();
        evicted.extend(cache.write(&blob, &piece).unwrap());
    }
    evicted
}

fn flip(cache: &Cache, name: &SwarmName, offset: u64) {
    let path = cache.tree.blob(name).data();
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn only_what_verifies_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 100 * MIB);
    let sample = sample(1, 2 * MIB + 5);
    let blob = cache.open_blob(&sample.description()).unwrap();
    let (piece, bytes) = (sample.index(2), sample.piece(2));
    let unproven = blob.verify(piece, bytes.clone()).unwrap_err();
    assert!(matches!(unproven, VerifyError::Unproven { .. }));
    let mut wrong: Vec<_> = sample.info.cvs().to_vec();
    wrong.swap(0, 1);
    assert!(blob.prove(wrong.into()).is_err());
    blob.prove(Arc::clone(sample.info.cvs())).unwrap();
    for bad in [sample.piece(1), bytes.slice(1..), Bytes::new()] {
        let error = blob.verify(piece, bad).unwrap_err();
        assert!(matches!(error, VerifyError::Corrupt { .. }));
    }
    assert!(matches!(blob.read(piece), Err(ReadError::Missing { .. })));
    let verified = blob.verify(piece, bytes.clone()).unwrap();
    assert!(cache.write(&blob, &verified).unwrap().is_empty());
    assert_eq!(blob.read(piece).unwrap().into_bytes(), bytes);
    assert_eq!(cache.used_bytes(), 5);
}

#[test]
fn a_partial_blob_resumes_with_what_is_still_right() {
    let folder = tempfile::tempdir().unwrap();
    let sample = sample(2, 4 * MIB + 9);
    let cache = open(folder.path(), 100 * MIB);
    fill(&cache, &sample, [0, 2, 3, 4]);
    flip(&cache, sample.info.name(), 2 * MIB + 77);
    drop(cache);

    let cache = open(folder.path(), 100 * MIB);
    let known = cache.known();
    assert_eq!((known.len(), known[0].complete), (1, false));
    assert_eq!(known[0].bytes, 3 * MIB + 9, "a claim, until it is opened");
    let blob = cache.open_blob(&sample.description()).unwrap();
    let have = blob.have();
    let pieces: Vec<_> = have.iter(blob.geometry()).map(PieceIndex::get).collect();
    assert_eq!(
        pieces,
        [0, 3, 4],
        "the damaged piece is not taken for granted"
    );
    assert!(blob.metainfo().is_some(), "the values were kept");
    assert_eq!(cache.used_bytes(), 2 * MIB + 9);
}

#[test]
fn a_complete_blob_is_checked_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let sample = sample(3, 3 * MIB);
    let cache = open(folder.path(), 100 * MIB);
    fill(&cache, &sample, 0..3);
    flip(&cache, sample.info.name(), MIB + 1);
    drop(cache);

    let cache = open(folder.path(), 100 * MIB);
    assert!(cache.known()[0].complete);
    let blob = cache.get(sample.info.name()).unwrap().unwrap();
    assert!(blob.is_complete());
    assert_eq!(
        blob.read(sample.index(0)).unwrap().into_bytes(),
        sample.piece(0)
    );
    let error = blob.read(sample.index(1)).unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { .. }), "{error}");
    assert!(matches!(
        blob.read(sample.index(1)),
        Err(ReadError::Missing { .. })
    ));
    assert!(!blob.is_complete());
    drop((blob, cache));

    // The loss outlives the process, and the piece can come again.
    let cache = open(folder.path(), 100 * MIB);
    assert!(!cache.known()[0].complete);
    fill(&cache, &sample, [1]);
    let blob = cache.get(sample.info.name()).unwrap().unwrap();
    assert!(blob.is_complete());
    assert_eq!(
        blob.read(sample.index(1)).unwrap().into_bytes(),
        sample.piece(1)
    );
}

#[test]
fn small_blobs_need_no_values() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 100 * MIB);
    for length in [0, 1, MIB] {
        let sample = sample(4, length);
        let blob = cache.open_blob(&sample.description()).unwrap();
        assert!(blob.metainfo().is_some());
        if length > 0 {
            let piece = blob.verify(sample.index(0), sample.piece(0)).unwrap();
            cache.write(&blob, &piece).unwrap();
        }
        assert!(blob.is_complete());
    }
    assert!(cache.known().iter().all(|known| known.complete));
}

#[test]
fn a_growing_blob_takes_pieces_as_their_values_come() {
    let folder = tempfile::tempdir().unwrap();
    let sample = sample(5, 2 * MIB + 1);
    let name = *sample.info.name();
    let description = Description::Growing(sample.growing(7));
    let cache = open(folder.path(), 100 * MIB);
    let blob = cache.open_blob(&description).unwrap();
    assert!(blob.verify(sample.index(0), sample.piece(0)).is_err());
    assert_eq!(
        blob.grow(&[sample.signed(7, 0)]).unwrap(),
        [sample.index(0)]
    );
    assert!(
        blob.grow(&[sample.signed(8, 1)]).is_err(),
        "another generation"
    );
    let piece = blob.verify(sample.index(0), sample.piece(0)).unwrap();
    cache.write(&blob, &piece).unwrap();
    assert_eq!(blob.signed_cvs(sample.index(0), 9).len(), 1);
    drop((blob, cache));

    // It resumes as what it was.
    let cache = open(folder.path(), 100 * MIB);
    let blob = cache.open_blob(&description).unwrap();
    assert_eq!((blob.have().count(), blob.metainfo()), (1, None));
    blob.grow(&[sample.signed(7, 1), sample.signed(7, 2)])
        .unwrap();
    // All values are known: with the root they are proven.
    assert!(blob.describe(*sample.info.summary()).unwrap().is_empty());
    assert_eq!(blob.metainfo().as_deref(), Some(&sample.info));
    for raw in [1, 2] {
        let piece = blob.verify(sample.index(raw), sample.piece(raw)).unwrap();
        cache.write(&blob, &piece).unwrap();
    }
    drop((blob, cache));
    let cache = open(folder.path(), 100 * MIB);
    let blob = cache.get(&name).unwrap().unwrap();
    assert!(blob.is_complete() && blob.description() == sample.description());
}

#[test]
fn what_grew_wrong_goes_when_the_root_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 100 * MIB);
    let (right, wrong) = (sample(6, 2 * MIB), sample(7, 2 * MIB));
    let head = right.growing(1);
    let blob = cache.open_blob(&Description::Growing(head)).unwrap();
    // An origin read other bytes for piece 1 than those that the blob turned out to have.
    let cv = head.cv_of(right.index(1), &wrong.piece(1));
    let signed = head.sign_cv(&key(), right.index(1), cv);
    blob.grow(&[right.signed(1, 0), signed]).unwrap();
    assert!(
        blob.grow(&[right.signed(1, 1)]).is_err(),
        "two values for one piece"
    );
    for (raw, sample) in [(0, &right), (1, &wrong)] {
        let piece = blob.verify(right.index(raw), sample.piece(raw)).unwrap();
        cache.write(&blob, &piece).unwrap();
    }
    blob.describe(*right.info.summary()).unwrap();
    assert!(
        blob.metainfo().is_none(),
        "the values do not merge to the root"
    );
    let dropped = blob.prove(Arc::clone(right.info.cvs())).unwrap();
    assert_eq!(dropped, [right.index(1)]);
    assert_eq!(blob.have().count(), 1);
}

#[test]
fn another_source_starts_over() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 100 * MIB);
    let sample = sample(8, 2 * MIB);
    let old = cache
        .open_blob(&Description::Growing(sample.growing(1)))
        .unwrap();
    old.grow(&[sample.signed(1, 0)]).unwrap();
    let piece = old.verify(sample.index(0), sample.piece(0)).unwrap();
    cache.write(&old, &piece).unwrap();
    let new = cache
        .open_blob(&Description::Growing(sample.growing(2)))
        .unwrap();
    assert!(new.have().is_empty());
    assert_eq!(cache.used_bytes(), 0);
    assert!(matches!(old.read(sample.index(0)), Err(ReadError::Gone(_))));
    assert!(matches!(
        cache.write(&old, &piece),
        Err(WriteError::Gone(_))
    ));
    // Who knows the root knows more than who does not.
    let complete = cache.open_blob(&sample.description()).unwrap();
    let again = cache
        .open_blob(&Description::Growing(sample.growing(2)))
        .unwrap();
    assert_eq!(again.description(), complete.description());
}

#[test]
fn a_description_must_be_signed() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 100 * MIB);
    let sample = sample(9, MIB);
    let other = ClusterKey::from_seed([1; 32]);
    let summary = Summary::sign(
        &other,
        *sample.info.name(),
        MIB,
        *sample.info.summary().root(),
    );
    let error = cache
        .open_blob(&Description::Complete(summary.unwrap()))
        .unwrap_err();
    assert!(matches!(
        error,
        OpenError::MetaInfo(MetaInfoError::Signature)
    ));
    assert!(cache.known().is_empty());
    cache.open_blob(&sample.description()).unwrap();
    drop(cache);
    // A cache of another cluster is no cache.
    let cache = Cache::open(Config::new(folder.path(), MIB), other.public()).unwrap();
    assert!(cache.known().is_empty());
}

#[test]
fn the_least_recently_used_blobs_make_room() {
    let folder = tempfile::tempdir().unwrap();
    let samples: Vec<_> = (0..5).map(|seed| sample(20 + seed, 2 * MIB)).collect();
    let name = |at: usize| *samples[at].info.name();
    // 95 % of 8 MiB is less than four blobs, 85 % more than three.
    let cache = open(folder.path(), 8 * MIB);
    for sample in &samples[..3] {
        assert!(fill(&cache, sample, 0..2).is_empty());
    }
    cache.get(&name(0)).unwrap();
    let held = cache.get(&name(1)).unwrap().unwrap();
    assert_eq!(fill(&cache, &samples[3], 0..2), [name(2)]);
    assert!(cache.get(&name(2)).unwrap().is_none());
    drop(cache);

    // The order is kept: 1 is the oldest, but held.
    drop(held);
    let cache = open(folder.path(), 8 * MIB);
    assert_eq!(cache.used_bytes(), 6 * MIB);
    let held = cache.get(&name(1)).unwrap().unwrap();
    assert_eq!(fill(&cache, &samples[4], 0..2).len(), 1);
    assert!(held.read(samples[1].index(0)).is_ok());
    assert_eq!(cache.known().len(), 3);
    assert!(cache.used_bytes() <= 8 * MIB);
}

#[test]
fn a_removed_blob_is_gone_for_those_who_hold_it() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 100 * MIB);
    let sample = sample(10, 2 * MIB);
    fill(&cache, &sample, [0]);
    let blob = cache.get(sample.info.name()).unwrap().unwrap();
    cache.remove(sample.info.name()).unwrap();
    cache.remove(sample.info.name()).unwrap();
    assert!(matches!(
        blob.read(sample.index(0)),
        Err(ReadError::Gone(_))
    ));
    assert_eq!((cache.used_bytes(), cache.known().len()), (0, 0));
    assert_eq!(fs::read_dir(cache.tree.trash()).unwrap().count(), 0);
    fill(&cache, &sample, 0..2);
    assert_eq!(cache.used_bytes(), 2 * MIB);
}

#[test]
fn many_users_of_one_blob_agree() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 100 * MIB);
    let sample = sample(11, 8 * MIB);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (cache, sample) = (&cache, &sample);
            scope.spawn(move || {
                fill(cache, sample, (0..8).map(|piece| (piece + worker * 2) % 8));
                let blob = cache.get(sample.info.name()).unwrap().unwrap();
                for raw in 0..8 {
                    assert_eq!(
                        blob.read(sample.index(raw)).unwrap().into_bytes(),
                        sample.piece(raw)
                    );
                }
            });
        }
    });
    assert_eq!(cache.used_bytes(), 8 * MIB);
    assert!(cache.known()[0].complete);
}

#[test]
fn a_blob_without_pieces_takes_no_place() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, partial) = (sample(60, 2 * MIB), sample(61, 2 * MIB));
    let cache = open(folder.path(), 1 << 30);
    let held = cache.open_blob(&empty.description()).unwrap();
    assert!(
        !cache.remove_empty(empty.info.name()).unwrap(),
        "it is in use"
    );
    drop(held);
    fill(&cache, &partial, [0]);
    assert!(
        !cache.remove_empty(partial.info.name()).unwrap(),
        "it has a piece"
    );
    assert!(cache.remove_empty(empty.info.name()).unwrap());
    assert!(cache.get(empty.info.name()).unwrap().is_none());
    // One that was left behind is gone after a restart.
    cache.open_blob(&empty.description()).unwrap();
    assert_eq!(cache.known().len(), 2);
    drop(cache);
    let cache = open(folder.path(), 1 << 30);
    let known: Vec<_> = cache
        .known()
        .iter()
        .map(|known| *known.description.name())
        .collect();
    assert_eq!(known, [*partial.info.name()]);
}

#[test]
fn not_all_idle_blobs_stay_open() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(folder.path(), 1 << 30);
    config.max_idle_open = 4;
    let cache = Cache::open(config, key().public()).unwrap();
    let samples: Vec<_> = (0..12).map(|seed| sample(70 + seed, 2 * MIB)).collect();
    for (at, sample) in samples.iter().enumerate() {
        fill(&cache, sample, if at % 2 == 0 { 0..2 } else { 0..1 });
    }
    for _ in 0..CLOSE_EVERY {
        cache.get(samples[0].info.name()).unwrap();
    }
    let entries = cache.entries.lock();
    let open = entries
        .values()
        .filter(|entry| entry.cell.lock().blob.is_some());
    assert!(open.count() <= 4);
    drop(entries);
    for sample in &samples {
        let blob = cache.get(sample.info.name()).unwrap().unwrap();
        blob.read(sample.index(0)).unwrap();
    }
}

#[test]
fn a_folder_has_one_cache() {
    let folder = tempfile::tempdir().unwrap();
    let _cache = open(folder.path(), MIB);
    let again = Cache::open(Config::new(folder.path(), MIB), key().public());
    assert!(matches!(again, Err(DiskError::InUse(_))));
}
