use std::os::unix::fs::FileExt as _;

use super::*;

fn open(folder: &Path) -> Uploads {
    Uploads::open(folder, Limits::default()).unwrap()
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| u8::try_from(i * 7 % 251).unwrap())
        .collect()
}

#[test]
fn parts_become_a_blob() {
    let folder = tempfile::tempdir().unwrap();
    let uploads = open(folder.path());
    let bytes = bytes(2_500_000);
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let id = uploads.create().unwrap();
        for part in bytes.chunks(300_007) {
            uploads.append(id, None, part).unwrap();
        }
        assert_eq!(uploads.offset(id).unwrap(), 2_500_000);
        let digest = Digest::of(algorithm, &bytes);
        let finished = uploads.finish(id, digest).unwrap();
        assert_eq!(finished.sha256, Digest::sha256(&bytes));
        assert_eq!(finished.tree.length, 2_500_000);
        assert_eq!(finished.tree.pieces.len(), 3);
        assert!(fs::read(&finished.path).unwrap() == bytes);
        // An answer that was lost is asked for again.
        assert_eq!(uploads.finish(id, digest).unwrap().tree, finished.tree);
        fs::remove_file(&finished.path).unwrap();
        uploads.forget(id);
        assert!(matches!(uploads.offset(id), Err(UploadError::Unknown)));
    }
}

#[test]
fn a_wrong_digest_ends_the_upload() {
    let folder = tempfile::tempdir().unwrap();
    let uploads = open(folder.path());
    for wrong in [Digest::sha256(b"b"), Digest::of(Algorithm::Sha512, b"b")] {
        let id = uploads.create().unwrap();
        uploads.append(id, None, b"a").unwrap();
        let error = uploads.finish(id, wrong).unwrap_err();
        assert!(matches!(error, UploadError::Digest(_)), "{error}");
        assert!(matches!(uploads.offset(id), Err(UploadError::Unknown)));
        assert!(!folder.path().join(id.to_string()).exists());
    }
}

#[test]
fn an_upload_outlives_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = bytes(1_500_000);
    let (first, rest) = bytes.split_at(700_001);
    let uploads = open(folder.path());
    let id = uploads.create().unwrap();
    uploads.append(id, Some(0), first).unwrap();
    drop(uploads);

    let uploads = open(folder.path());
    assert_eq!(uploads.offset(id).unwrap(), 700_001);
    let error = uploads.append(id, Some(700_000), rest).unwrap_err();
    assert!(matches!(error, UploadError::Offset { offset: 700_001 }));
    uploads.append(id, Some(700_001), rest).unwrap();
    uploads.finish(id, Digest::sha256(&bytes)).unwrap();
}

/// What is in the file counts, not what was hashed before.
#[test]
fn damage_between_two_processes_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let uploads = open(folder.path());
    let id = uploads.create().unwrap();
    uploads.append(id, None, b"some bytes").unwrap();
    drop(uploads);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(folder.path().join(id.to_string()))
        .unwrap();
    file.write_all_at(b"X", 3).unwrap();
    let error = open(folder.path())
        .finish(id, Digest::sha256(b"some bytes"))
        .unwrap_err();
    assert!(matches!(error, UploadError::Digest(_)), "{error}");
}

#[test]
fn bounds_hold() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        sessions: 2,
        blob_bytes: 10,
        idle: Duration::from_secs(60),
    };
    let uploads = Uploads::open(folder.path(), limits).unwrap();
    let id = uploads.create().unwrap();
    uploads.create().unwrap();
    assert!(matches!(uploads.create(), Err(UploadError::TooMany)));
    uploads.append(id, None, b"0123456789").unwrap();
    let error = uploads.append(id, None, b"0").unwrap_err();
    assert!(matches!(error, UploadError::TooLong { limit_bytes: 10 }));
    assert_eq!(uploads.offset(id).unwrap(), 10);

    assert_eq!(uploads.sweep(SystemTime::now()), 0);
    assert_eq!(
        uploads.sweep(SystemTime::now() + Duration::from_secs(120)),
        2
    );
    assert!(matches!(uploads.offset(id), Err(UploadError::Unknown)));
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "only the lock is left"
    );
    uploads.create().unwrap();
}

#[test]
fn only_our_ids_name_uploads() {
    let folder = tempfile::tempdir().unwrap();
    let uploads = open(folder.path());
    let id = uploads.create().unwrap();
    assert_eq!(id.to_string().parse::<UploadId>().unwrap(), id);
    let upper = "A".repeat(32);
    for bad in [
        "",
        "lock",
        "../../etc/passwd",
        "+1234567890123456789012345678901",
        &upper,
    ] {
        assert!(bad.parse::<UploadId>().is_err(), "{bad:?}");
    }
    assert!(
        Uploads::open(folder.path(), Limits::default()).is_err(),
        "in use"
    );
}
