//! What every backend must do. One suite, run by the tests of each.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use crate::{Backend, Condition, ETag, Entry, Error, Key, List, Prefix, PutStream};

/// Runs the suite on an empty store. `scratch` is a folder on another path than the store's own.
pub(crate) async fn check(backend: Arc<dyn Backend>, scratch: &Path) {
    absent_objects_say_so(&*backend).await;
    what_was_put_comes_back(&*backend).await;
    ranges_are_exact(&*backend).await;
    conditions_hold(&*backend).await;
    a_stream_that_fails_leaves_nothing(&*backend).await;
    files_are_adopted(&*backend, scratch).await;
    lists_are_in_order_and_in_pages(&*backend).await;
    a_reader_keeps_its_version(&*backend).await;
    for round in 0..4 {
        one_of_sixteen_creators_wins(&backend, round).await;
        one_of_sixteen_writers_wins_each_version(&backend, round).await;
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn body(parts: Vec<Result<&'static [u8], std::io::ErrorKind>>) -> PutStream {
    stream::iter(parts)
        .map(|part| part.map(Bytes::from_static).map_err(std::io::Error::from))
        .boxed()
}

async fn text(backend: &dyn Backend, at: &Key) -> Bytes {
    backend.read(at, 1 << 20).await.unwrap().0
}

async fn absent_objects_say_so(backend: &dyn Backend) {
    let at = key("absent/object");
    assert!(backend.stat(&at).await.unwrap_err().is_not_found());
    assert!(backend.get(&at, None).await.unwrap_err().is_not_found());
    assert!(backend.read(&at, 10).await.unwrap_err().is_not_found());
    backend.delete(&at).await.unwrap();
    let condition = Condition::IfMatch(ETag::new("x"));
    let error = backend.put(&at, Bytes::new(), condition).await.unwrap_err();
    assert!(error.is_precondition() && error.is_permanent());
}

async fn what_was_put_comes_back(backend: &dyn Backend) {
    let at = key("put/one");
    let first = backend
        .put(&at, "first".into(), Condition::Any)
        .await
        .unwrap();
    assert_eq!(text(backend, &at).await, "first");
    let stat = backend.stat(&at).await.unwrap();
    assert_eq!((stat.length, &stat.etag), (5, &first));
    let second = backend
        .put(&at, "other".into(), Condition::Any)
        .await
        .unwrap();
    assert_ne!(first, second, "the tag names the version");
    assert_eq!(backend.read(&at, 5).await.unwrap().1.etag, second);
    assert!(matches!(
        backend.read(&at, 4).await,
        Err(Error::TooLarge { length: 5, .. })
    ));

    // Longer than what is kept or hashed whole.
    let long: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let parts = stream::iter(
        long.chunks(70_001)
            .map(|part| Ok(Bytes::copy_from_slice(part)))
            .collect::<Vec<_>>(),
    );
    let etag = backend
        .put_stream(&at, parts.boxed(), Condition::IfMatch(second))
        .await
        .unwrap();
    let object = backend.get(&at, None).await.unwrap();
    assert_eq!((object.stat.length, &object.stat.etag), (3_000_000, &etag));
    assert!(object.into_bytes(&at).await.unwrap() == long);
    assert_eq!(backend.stat(&at).await.unwrap().etag, etag);

    backend.delete(&at).await.unwrap();
    assert!(backend.stat(&at).await.unwrap_err().is_not_found());
    // An object may stand where there was a folder of a deleted one.
    backend
        .put(&key("put"), "x".into(), Condition::IfAbsent)
        .await
        .unwrap();
    backend.delete(&key("put")).await.unwrap();
}

async fn ranges_are_exact(backend: &dyn Backend) {
    let at = key("ranges/one");
    let bytes: Vec<u8> = (0..2_500_000_u32).map(|i| (i % 253) as u8).collect();
    backend
        .put(&at, bytes.clone().into(), Condition::Any)
        .await
        .unwrap();
    for (start, end) in [
        (0, 0),
        (0, 1),
        (1_048_575, 1_048_577),
        (5, 2_499_999),
        (2_400_000, 9_000_000),
        (2_500_000, 2_500_001),
    ] {
        let object = backend.get(&at, Some(start..end)).await.unwrap();
        let cut = end.min(2_500_000);
        assert_eq!(object.range, start..cut);
        assert_eq!(object.stat.length, 2_500_000);
        let (from, to) = (
            usize::try_from(start).unwrap(),
            usize::try_from(cut).unwrap(),
        );
        assert!(
            object.into_bytes(&at).await.unwrap() == bytes[from..to],
            "{start}..{end}"
        );
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
    for wrong in [2_500_001..2_500_002, 7..6] {
        assert!(matches!(
            backend.get(&at, Some(wrong)).await,
            Err(Error::Range { .. })
        ));
    }
}

async fn conditions_hold(backend: &dyn Backend) {
    let at = key("conditions/one");
    let first = backend
        .put(&at, "1".into(), Condition::IfAbsent)
        .await
        .unwrap();
    let error = backend
        .put(&at, "2".into(), Condition::IfAbsent)
        .await
        .unwrap_err();
    assert!(error.is_precondition());
    assert_eq!(text(backend, &at).await, "1");
    let second = backend
        .put(&at, "2".into(), Condition::IfMatch(first.clone()))
        .await
        .unwrap();
    let error = backend
        .put(&at, "3".into(), Condition::IfMatch(first.clone()))
        .await
        .unwrap_err();
    assert!(error.is_precondition());
    let streamed = backend
        .put_stream(&at, body(vec![Ok(b"3")]), Condition::IfMatch(first))
        .await;
    assert!(streamed.unwrap_err().is_precondition());
    assert_eq!(text(backend, &at).await, "2");
    backend.delete(&at).await.unwrap();
    let error = backend
        .put(&at, "3".into(), Condition::IfMatch(second))
        .await
        .unwrap_err();
    assert!(error.is_precondition());
    backend
        .put(&at, "4".into(), Condition::IfAbsent)
        .await
        .unwrap();
}

async fn a_stream_that_fails_leaves_nothing(backend: &dyn Backend) {
    let at = key("streams/one");
    let broken = || body(vec![Ok(b"half"), Err(std::io::ErrorKind::ConnectionReset)]);
    let error = backend
        .put_stream(&at, broken(), Condition::Any)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Body { .. }), "{error}");
    assert!(backend.stat(&at).await.unwrap_err().is_not_found());
    backend
        .put(&at, "whole".into(), Condition::Any)
        .await
        .unwrap();
    assert!(
        backend
            .put_stream(&at, broken(), Condition::Any)
            .await
            .is_err()
    );
    assert_eq!(text(backend, &at).await, "whole");
    let listing = backend
        .list(List::objects(Prefix::new("streams/").unwrap(), 10))
        .await
        .unwrap();
    assert_eq!(listing.entries, [Entry::Object(at)]);
}

async fn files_are_adopted(backend: &dyn Backend, scratch: &Path) {
    let at = key("adopted/one");
    let mut folders = vec![scratch.to_owned()];
    folders.extend(backend.staging());
    for (number, folder) in folders.iter().enumerate() {
        let file = folder.join("finished");
        let content = format!("content {number}");
        std::fs::write(&file, &content).unwrap();
        let etag = backend.adopt(&at, &file).await.unwrap();
        assert!(!file.exists());
        assert_eq!(text(backend, &at).await, content);
        assert_eq!(backend.stat(&at).await.unwrap().etag, etag);
    }
    assert!(backend.adopt(&at, &scratch.join("nothing")).await.is_err());
    assert_eq!(
        text(backend, &at).await,
        format!("content {}", folders.len() - 1)
    );
}

async fn lists_are_in_order_and_in_pages(backend: &dyn Backend) {
    // "a-" sorts before "a/", which file systems do not know.
    let keys = ["l/a-b/x", "l/a/x", "l/a/y/z", "l/a0", "l/b", "l/c/d/e"];
    for text in keys {
        backend
            .put(&key(text), "x".into(), Condition::Any)
            .await
            .unwrap();
    }
    let emptied = key("l/gone/x");
    backend
        .put(&emptied, "x".into(), Condition::Any)
        .await
        .unwrap();
    backend.delete(&emptied).await.unwrap();
    let prefix = Prefix::new("l/").unwrap();
    let folders = ["l/a-b/", "l/a/", "l/a0", "l/b", "l/c/"];
    for limit in 1..=7 {
        for (make, expected) in [
            (List::objects as fn(Prefix, usize) -> List, &keys[..]),
            (List::folders, &folders[..]),
        ] {
            let mut seen: Vec<String> = Vec::new();
            loop {
                let mut list = make(prefix.clone(), limit);
                list.after = seen.last().cloned();
                let page = backend.list(list).await.unwrap();
                assert!(page.entries.len() <= limit);
                assert!(!page.more || page.entries.len() == limit);
                seen.extend(page.entries.iter().map(|entry| entry.as_str().to_owned()));
                if !page.more {
                    break;
                }
            }
            assert_eq!(seen, expected, "pages of {limit}");
        }
    }
    let page = backend
        .list(List::folders(prefix.clone(), 10).after("l/a/y"))
        .await
        .unwrap();
    assert_eq!(page.entries[0].as_str(), "l/a0", "`after` need not exist");
    let page = backend
        .list(List::objects(prefix, 10).after("l/a/y"))
        .await
        .unwrap();
    assert_eq!(page.entries[0].as_str(), "l/a/y/z");
    let page = backend
        .list(List::objects(Prefix::new("nowhere/").unwrap(), 10))
        .await
        .unwrap();
    assert!(page.entries.is_empty() && !page.more);
}

/// A body that was begun goes on with the version it began with.
async fn a_reader_keeps_its_version(backend: &dyn Backend) {
    let at = key("versions/one");
    let old = vec![1_u8; 3 << 20];
    backend
        .put(&at, old.clone().into(), Condition::Any)
        .await
        .unwrap();
    let mut object = backend.get(&at, None).await.unwrap();
    let first = object.body.next().await.unwrap().unwrap();
    backend
        .put(&at, vec![2_u8; 3 << 20].into(), Condition::Any)
        .await
        .unwrap();
    let mut seen = first.to_vec();
    while let Some(part) = object.body.next().await {
        seen.extend_from_slice(&part.unwrap());
    }
    assert!(seen == old);
}

async fn one_of_sixteen_creators_wins(backend: &Arc<dyn Backend>, round: u32) {
    let at = key(&format!("race/create-{round}"));
    let winners = race(backend, &at, &Condition::IfAbsent).await;
    assert_eq!(winners.len(), 1, "round {round}");
    assert_eq!(text(&**backend, &at).await, winners[0]);
}

async fn one_of_sixteen_writers_wins_each_version(backend: &Arc<dyn Backend>, round: u32) {
    let at = key(&format!("race/swap-{round}"));
    let mut etag = backend
        .put(&at, "start".into(), Condition::Any)
        .await
        .unwrap();
    for version in 0..4 {
        let winners = race(backend, &at, &Condition::IfMatch(etag)).await;
        assert_eq!(winners.len(), 1, "round {round}, version {version}");
        // The next race starts from what nobody of this one wrote.
        let stat = backend.stat(&at).await.unwrap();
        assert_eq!(text(&**backend, &at).await, winners[0]);
        etag = backend
            .put(
                &at,
                format!("version {version}").into(),
                Condition::IfMatch(stat.etag),
            )
            .await
            .unwrap();
    }
}

/// Lets 16 writers put at the same time; returns what those wrote that were told they had won.
async fn race(backend: &Arc<dyn Backend>, at: &Key, condition: &Condition) -> Vec<String> {
    let start = Arc::new(tokio::sync::Barrier::new(16));
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let (backend, at, condition) = (Arc::clone(backend), at.clone(), condition.clone());
            let start = Arc::clone(&start);
            tokio::spawn(async move {
                let content = format!("writer {writer}");
                start.wait().await;
                match backend.put(&at, content.clone().into(), condition).await {
                    Ok(_) => Some(content),
                    Err(Error::Precondition { .. }) => None,
                    Err(error) => panic!("{error}"),
                }
            })
        })
        .collect();
    let mut winners = Vec::new();
    for writer in writers {
        winners.extend(writer.await.unwrap());
    }
    winners
}
