//! Stores that say what is not so.

use super::*;
use crate::{Entry, Prefix};

async fn names(backend: &Arc<dyn Backend>) -> Vec<String> {
    let listing = backend.list(List::objects(Prefix::root(), 10)).await;
    let entries = listing.unwrap().entries;
    entries
        .iter()
        .map(|entry: &Entry| entry.as_str().to_owned())
        .collect()
}

/// Whoever was told a wrong version writes nothing with it, and reads no bytes of two versions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_etag_does_no_harm() {
    let server = Server::start(Kept::Atomic).await;
    let backend = open(&server).await;
    let at = key("a/b");
    for operation in [Operation::Put, Operation::Head, Operation::Get] {
        server.faults([Fault::WrongEtag.on(operation)]);
        let put = backend.put(&at, "first".into(), Condition::Any).await;
        let etag = if operation == Operation::Put {
            put.unwrap()
        } else if operation == Operation::Head {
            backend.stat(&at).await.unwrap().etag
        } else {
            backend.read(&at, 100).await.unwrap().1.etag
        };
        server.faults([]);
        let put = backend.put(&at, "second".into(), Condition::IfMatch(etag));
        assert!(put.await.unwrap_err().is_precondition(), "{operation:?}");
        assert_eq!(backend.read(&at, 100).await.unwrap().0, "first");
    }

    let whole = bytes(2_000_000);
    let put = backend.put(&at, whole.clone(), Condition::Any);
    put.await.unwrap();
    server.faults([
        Fault::CutAfter(500_000).times(1),
        Fault::WrongEtag.on(Operation::Get),
    ]);
    let object = backend.get(&at, None).await.unwrap();
    let read = object.into_bytes(&at).await;
    assert!(matches!(read, Err(Error::Truncated { .. })), "{read:?}");
}

/// A list may lag behind: it shows what was. Nothing else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_list_does_not_hide_objects_from_readers() {
    let server = Server::start(Kept::Atomic).await;
    let backend = open(&server).await;
    let (gone, kept, new) = (key("a/gone"), key("a/kept"), key("a/new"));
    for at in [&gone, &kept] {
        let put = backend.put(at, "old".into(), Condition::IfAbsent);
        put.await.unwrap();
    }
    server.faults([Fault::StaleList.on(Operation::List)]);
    backend.delete(&gone).await.unwrap();
    for at in [&kept, &new] {
        let put = backend.put(at, "new".into(), Condition::Any);
        put.await.unwrap();
    }
    assert_eq!(names(&backend).await, ["a/gone", "a/kept"]);
    assert!(backend.stat(&gone).await.unwrap_err().is_not_found());
    for at in [&kept, &new] {
        assert_eq!(backend.read(at, 10).await.unwrap().0, "new");
        let put = backend.put(at, "again".into(), Condition::IfAbsent);
        assert!(put.await.unwrap_err().is_precondition());
    }
    server.faults([]);
    assert_eq!(names(&backend).await, ["a/kept", "a/new"]);
}

/// An answer that says that nothing was done, after it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_is_lost_is_found_to_be_there() {
    let server = Server::start(Kept::Atomic).await;
    let backend = open(&server).await;
    for (number, fault) in [Fault::LateReset, late()].into_iter().enumerate() {
        let at = key(&format!("a/{number}"));
        server.faults([fault.on(Operation::Put).times(1)]);
        // It is asked for again, and then somebody has written already.
        let put = backend.put(&at, "x".into(), Condition::IfAbsent).await;
        assert!(put.unwrap_err().is_precondition());
        assert_eq!(backend.read(&at, 10).await.unwrap().0, "x");
    }
}

fn late() -> Fault {
    Fault::LateStatus {
        status: 500,
        code: "InternalError".into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_clock_is_told_at_the_start() {
    let server = Server::start(Kept::Atomic).await;
    server.faults([Fault::status(403, "RequestTimeTooSkewed").into()]);
    let config = server.config();
    let error = S3Backend::open(&config).await.unwrap_err().to_string();
    let endpoint = config.endpoint.unwrap();
    for word in [
        "RequestTimeTooSkewed",
        "set the clock",
        &config.bucket,
        &endpoint,
    ] {
        assert!(error.contains(word), "{word}: {error}");
    }
}

/// A long write whose caller goes away, before its first part was taken and after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_left_leaves_no_parts() {
    let server = Server::start(Kept::Atomic).await;
    let backend = open(&server).await;
    let at = key("long/left");
    for aborted in 1..=2 {
        let parts = stream::iter([Ok(bytes(PART_BYTES)), Ok(bytes(PART_BYTES))]);
        let body = parts.chain(stream::pending()).boxed();
        if aborted == 2 {
            server.faults([Fault::Hang.on(Operation::PutPart)]);
        }
        let (inner, key) = (Arc::clone(&backend), at.clone());
        let parts = server.counts().of(Operation::PutPart);
        let put = tokio::spawn(async move { inner.put_stream(&key, body, Condition::Any).await });
        until(|| server.counts().of(Operation::PutPart) >= parts + 2).await;
        if aborted == 1 {
            // A part that is being taken while its upload is forgotten would stay in any store,
            // until its lifecycle rule removes it.
            until(|| server.stored_parts() == 2).await;
        }
        put.abort();
        until(|| server.counts().of(Operation::AbortUpload) == aborted).await;
        until(|| server.stored_parts() == 0).await;
        server.faults([]);
    }
    assert!(backend.stat(&at).await.unwrap_err().is_not_found());
}

/// The store takes longer for a body than it may take for an answer: the body has its own time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_reads_slowly_has_time_for_a_long_body() {
    let server = Server::start(Kept::Atomic).await;
    let mut config = server.config();
    config.read_timeout = Duration::from_millis(400);
    config.attempts = std::num::NonZeroU32::MIN;
    let backend = S3Backend::open(&config).await.unwrap();
    let at = key("a/long");
    server.faults([
        Fault::Slow(1000).on(Operation::Put),
        Fault::Slow(1000).on(Operation::PutPart),
    ]);
    for length in [1 << 20, PART_BYTES + (1 << 20)] {
        let whole = bytes(length);
        let body = stream::iter([Ok(whole.clone())]).boxed();
        let put = backend.put_stream(&at, body, Condition::Any).await;
        put.unwrap();
        let stat = backend.stat(&at).await.unwrap();
        assert_eq!(stat.length, length as u64);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let length = PART_BYTES + (1 << 20);
    std::fs::write(&file, bytes(length)).unwrap();
    backend.adopt(&at, &file).await.unwrap();

    // A short body makes no difference.
    let put = backend.put(&at, "short".into(), Condition::Any).await;
    let error = put.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
}

/// Nothing is under way of it any more when the caller hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_must_be_sent_once_is() {
    let server = Server::start(Kept::Ignored).await;
    let mut config = server.config();
    config.send_once = true;
    let backend = S3Backend::open(&config).await.unwrap();
    let at = key("a/b");
    let etag = backend.put(&at, "x".into(), Condition::Any).await.unwrap();
    for (condition, sent) in [
        (Condition::IfAbsent, 1),
        (Condition::IfMatch(etag), 1),
        // What everybody would write may be written twice.
        (Condition::Any, 2),
    ] {
        let before = server.counts().of(Operation::Put);
        server.faults([Fault::LateReset.on(Operation::Put).times(1)]);
        let put = backend.put(&at, "x".into(), condition).await;
        assert_eq!(put.is_ok(), sent == 2, "{put:?}");
        assert_eq!(server.counts().of(Operation::Put) - before, sent);
    }
    server.faults([Fault::LateReset.on(Operation::Delete).times(1)]);
    let error = backend.delete(&at).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert_eq!(server.counts().of(Operation::Delete), 1);
}

async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    waited.expect("it comes to that");
}
