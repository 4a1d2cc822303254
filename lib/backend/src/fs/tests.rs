use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{Prefix, conformance};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn conforms() {
    let (root, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let backend = FsBackend::open(root.path()).unwrap();
    conformance::check(Arc::new(backend), scratch.path()).await;
    let left = std::fs::read_dir(root.path().join(".shoal/tmp"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "temporary files were left behind");
}

/// Two handles are two processes to `flock`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_openers_exclude_each_other() {
    let root = tempfile::tempdir().unwrap();
    let openers = [
        FsBackend::open(root.path()).unwrap(),
        FsBackend::open(root.path()).unwrap(),
    ];
    let at = key("counter");
    openers[0]
        .put(&at, "0".into(), Condition::IfAbsent)
        .await
        .unwrap();
    let adders: Vec<_> = (0..8)
        .map(|adder| {
            let (backend, at) = (openers[adder % 2].clone(), at.clone());
            tokio::spawn(async move {
                let mut added = 0;
                while added < 10 {
                    let (bytes, stat) = backend.read(&at, 100).await.unwrap();
                    let count: u32 = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
                    let next = (count + 1).to_string();
                    match backend
                        .put(&at, next.into(), Condition::IfMatch(stat.etag))
                        .await
                    {
                        Ok(_) => added += 1,
                        Err(Error::Precondition { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for adder in adders {
        adder.await.unwrap();
    }
    assert_eq!(openers[1].read(&at, 100).await.unwrap().0, "80");
}

#[tokio::test]
async fn changes_from_outside_show_in_the_tag() {
    let root = tempfile::tempdir().unwrap();
    let backend = FsBackend::open(root.path()).unwrap();
    for (name, size) in [("small", 10), ("large", 200_000)] {
        let at = key(name);
        let before = backend
            .put(&at, vec![1; size].into(), Condition::Any)
            .await
            .unwrap();
        // As docker-registry does: another file over ours.
        let other = root.path().join("other");
        std::fs::write(&other, vec![2; size]).unwrap();
        #[expect(clippy::disallowed_methods, reason = "plays a foreign program")]
        std::fs::rename(&other, root.path().join(name)).unwrap();
        assert_ne!(backend.stat(&at).await.unwrap().etag, before, "{name}");
        let put = backend
            .put(&at, "x".into(), Condition::IfMatch(before))
            .await;
        assert!(put.unwrap_err().is_precondition(), "{name}");
    }
}

#[tokio::test]
async fn a_file_cut_short_is_an_error_not_an_end() {
    let root = tempfile::tempdir().unwrap();
    let backend = FsBackend::open(root.path()).unwrap();
    let at = key("long");
    backend
        .put(&at, vec![1; 4 << 20].into(), Condition::Any)
        .await
        .unwrap();
    let object = backend.get(&at, None).await.unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(root.path().join("long"))
        .unwrap();
    file.set_len(2 << 20).unwrap();
    let error = object.into_bytes(&at).await.unwrap_err();
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
}

#[tokio::test]
async fn foreign_files_are_not_objects() {
    let root = tempfile::tempdir().unwrap();
    let backend = FsBackend::open(root.path()).unwrap();
    backend
        .put(&key("a/b"), "x".into(), Condition::Any)
        .await
        .unwrap();
    std::fs::create_dir_all(root.path().join("empty/inner")).unwrap();
    std::fs::write(root.path().join(".hidden"), "x").unwrap();
    for list in [
        List::objects(Prefix::root(), 10),
        List::folders(Prefix::root(), 10),
    ] {
        let page = backend.list(list).await.unwrap();
        assert_eq!(page.entries.len(), 1, "{page:?}");
    }
    assert!(
        backend.stat(&key("a")).await.unwrap_err().is_not_found(),
        "a folder"
    );
    assert!(
        backend
            .stat(&key("a/b/c"))
            .await
            .unwrap_err()
            .is_not_found(),
        "under a file"
    );
    backend.delete(&key("a")).await.unwrap();
    assert_eq!(backend.read(&key("a/b"), 9).await.unwrap().0, "x");
}

#[test]
fn a_folder_that_cannot_serve_is_one_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let check = |path: PathBuf, part: &str| {
        let message = FsBackend::open(path).unwrap_err().to_string();
        assert!(
            message.contains(part) && !message.contains('\n'),
            "{message}"
        );
    };
    check(root.path().join("missing"), "it is missing; create it");
    let file = root.path().join("file");
    std::fs::write(&file, "x").unwrap();
    check(file, "it is a file");
    let locked = root.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o500)).unwrap();
    // Root may write anywhere; then there is nothing to see.
    if std::fs::write(locked.join("probe"), "x").is_err() {
        check(locked, "it cannot be written to");
    }
}

#[test]
fn the_leftovers_of_dead_writers_are_swept() {
    let root = tempfile::tempdir().unwrap();
    FsBackend::open(root.path()).unwrap();
    let leave = |name: &str, age_s| {
        let path = root.path().join(".shoal/tmp").join(name);
        let file = File::create(&path).unwrap();
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(age_s);
        file.set_modified(time).unwrap();
        path
    };
    let (old, young) = (leave("old", 7200), leave("young", 60));
    FsBackend::open(root.path()).unwrap();
    assert!(!old.exists() && young.exists());
}
