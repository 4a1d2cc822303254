//! The suite of all backends on stores of different honesty, and what goes wrong on networks.

mod faults;
mod server;

use std::sync::Arc;
use std::time::Duration;

use fake_s3::{Conditions as Kept, Fault, Operation};
use futures_util::stream;

use self::server::Server;
use super::*;
use crate::conformance;
use crate::probe::{self, Conditions};

async fn open(server: &Server) -> Arc<dyn Backend> {
    Arc::new(S3Backend::open(&server.config()).await.unwrap())
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn bytes(length: usize) -> Bytes {
    (0..length)
        .map(|i| u8::try_from(i * 7 % 251).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_keeps_conditions_does_what_backends_do() {
    let server = Server::start(Kept::Atomic).await;
    let scratch = tempfile::tempdir().unwrap();
    conformance::check(open(&server).await, scratch.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_in_the_bucket_is_a_store_of_its_own() {
    let server = Server::start(Kept::Atomic).await;
    let mut config = server.config();
    config.prefix = "/some/folder/".into();
    let inner: Arc<dyn Backend> = Arc::new(S3Backend::open(&config).await.unwrap());
    let scratch = tempfile::tempdir().unwrap();
    conformance::check(Arc::clone(&inner), scratch.path()).await;
    inner
        .put(&key("a/b"), "x".into(), Condition::Any)
        .await
        .unwrap();
    let outer = open(&server).await;
    assert_eq!(outer.read(&key("some/folder/a/b"), 1).await.unwrap().0, "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_tells_honest_stores_from_others() {
    for (conditional, expected) in [
        (Kept::Atomic, Conditions::Atomic),
        (Kept::Racy, Conditions::Racy),
        (Kept::Ignored, Conditions::Ignored),
    ] {
        let server = Server::start(conditional).await;
        let backend = open(&server).await;
        assert_eq!(probe::conditions(&backend).await.unwrap(), expected);
        let left = backend
            .list(List::objects(crate::Prefix::root(), 10))
            .await
            .unwrap();
        assert!(left.entries.is_empty(), "the probe tidies up: {left:?}");
    }
}

/// Longer than a request, so that it goes in parts, from a stream and from a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_objects_go_in_parts() {
    let server = Server::start(Kept::Atomic).await;
    let backend = open(&server).await;
    let whole = bytes(2 * PART_BYTES + 12_345);
    let parts: Vec<_> = (0..whole.len())
        .step_by(1_000_003)
        .map(|from| Ok(whole.slice(from..whole.len().min(from + 1_000_003))))
        .collect();
    let at = key("long/stream");
    let put = backend
        .put_stream(&at, stream::iter(parts).boxed(), Condition::Any)
        .await;
    let stat = backend.stat(&at).await.unwrap();
    assert_eq!((stat.length, stat.etag), (whole.len() as u64, put.unwrap()));
    let object = backend.get(&at, None).await.unwrap();
    assert!(object.into_bytes(&at).await.unwrap() == whole);

    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, &whole).unwrap();
    let at = key("long/file");
    backend.adopt(&at, &file).await.unwrap();
    assert!(!file.exists());
    let object = backend.get(&at, None).await.unwrap();
    assert!(object.into_bytes(&at).await.unwrap() == whole);

    // One that breaks off in its third part leaves nothing.
    let broken = [
        Ok(whole.slice(..2 * PART_BYTES)),
        Err(std::io::ErrorKind::ConnectionReset.into()),
    ];
    let at = key("long/broken");
    let put = backend
        .put_stream(&at, stream::iter(broken).boxed(), Condition::Any)
        .await;
    assert!(matches!(put, Err(Error::Body { .. })), "{put:?}");
    assert!(backend.stat(&at).await.unwrap_err().is_not_found());
}

/// The object is deleted while its next version is on its way, in parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_objects_keep_conditions_too() {
    let server = Server::start(Kept::Atomic).await;
    let backend = open(&server).await;
    let at = key("long/gone");
    for (code, is_gone) in [("NoSuchKey", true), ("NoSuchUpload", false)] {
        let body = stream::iter([Ok(bytes(PART_BYTES)), Ok(bytes(1))]).boxed();
        server.faults([Fault::status(404, code)
            .on(Operation::CompleteUpload)
            .times(1)]);
        let condition = Condition::IfMatch(ETag::new("\"0\""));
        let error = backend.put_stream(&at, body, condition).await.unwrap_err();
        assert_eq!(error.is_precondition(), is_gone, "{error}");
        assert_eq!(error.is_permanent(), is_gone, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_tried_again() {
    let server = Server::start(Kept::Atomic).await;
    let backend = open(&server).await;
    let at = key("a/b");
    let whole = bytes(3_000_000);
    backend
        .put(&at, whole.clone(), Condition::Any)
        .await
        .unwrap();
    for fault in [
        Fault::status(503, "SlowDown"),
        Fault::status(500, "InternalError"),
        Fault::Reset,
        Fault::CutAfter(1_000_000),
        Fault::CutAfter(0),
    ] {
        server.faults([fault.clone().times(1)]);
        let object = backend.get(&at, None).await.unwrap();
        assert!(object.into_bytes(&at).await.unwrap() == whole, "{fault:?}");
        server.faults([fault.times(1)]);
        let part = backend.get(&at, Some(1_000..2_500_000)).await.unwrap();
        assert!(part.into_bytes(&at).await.unwrap() == whole[1_000..2_500_000]);
    }
    server.faults([
        Fault::status(503, "SlowDown").times(1),
        Fault::Reset.times(1),
    ]);
    backend
        .put(&key("a/c"), "x".into(), Condition::Any)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_broken_fails_in_bounded_time() {
    let server = Server::start(Kept::Atomic).await;
    let mut config = server.config();
    config.read_timeout = Duration::from_millis(200);
    let backend = S3Backend::open(&config).await.unwrap();
    let at = key("a/b");
    let whole = bytes(3_000_000);
    backend
        .put(&at, whole.clone(), Condition::Any)
        .await
        .unwrap();

    server.faults([Fault::CutAfter(1_000).into()]);
    let object = backend.get(&at, None).await.unwrap();
    // Each answer gives some bytes: it goes on, and never yields one that is wrong.
    let mut body = object.body;
    let mut seen = Vec::new();
    while let Some(Ok(part)) = body.next().await {
        seen.extend_from_slice(&part);
    }
    assert!(!seen.is_empty() && seen[..] == whole[..seen.len()]);

    server.faults([Fault::CutAfter(1_000).times(1), Fault::Stall.times(1)]);
    let object = backend.get(&at, None).await.unwrap();
    assert!(
        object.into_bytes(&at).await.unwrap() == whole,
        "silence is not waited for"
    );

    server.faults([Fault::status(503, "SlowDown").into()]);
    let error = backend.stat(&at).await.unwrap_err();
    assert!(
        !error.is_permanent() && matches!(error, Error::Unavailable(_)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_not_tried_again() {
    let server = Server::start(Kept::Atomic).await;
    let backend = open(&server).await;
    let before = server.counts().total();
    server.faults([Fault::status(403, "AccessDenied").into()]);
    let error = backend
        .put(&key("a/b"), "x".into(), Condition::Any)
        .await
        .unwrap_err();
    assert!(
        error.is_permanent() && error.to_string().contains("AccessDenied"),
        "{error}"
    );
    assert_eq!(server.counts().total(), before + 1);
}

/// A reader that was cut off does not go on with the bytes of another version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_was_replaced_is_not_mixed() {
    let server = Server::start(Kept::Atomic).await;
    let backend = open(&server).await;
    let at = key("a/b");
    backend
        .put(&at, vec![1; 2_000_000].into(), Condition::Any)
        .await
        .unwrap();
    server.faults([Fault::CutAfter(500_000).times(1)]);
    let mut object = backend.get(&at, None).await.unwrap();
    let first = object.body.next().await.unwrap().unwrap();
    assert!(first.iter().all(|byte| *byte == 1));
    backend
        .put(&at, vec![2; 2_000_000].into(), Condition::Any)
        .await
        .unwrap();
    let mut last = None;
    while let Some(part) = object.body.next().await {
        if let Ok(part) = &part {
            assert!(part.iter().all(|byte| *byte == 1), "bytes of two versions");
        }
        last = Some(part);
    }
    assert!(matches!(last, Some(Err(Error::Truncated { .. }))));
}

#[tokio::test]
async fn what_is_configured_wrongly_is_said_at_the_start() {
    let server = Server::start(Kept::Atomic).await;
    let right = server.config();
    let wrong = |change: fn(&mut S3Config)| {
        let mut config = right.clone();
        config.attempts = std::num::NonZeroU32::MIN;
        change(&mut config);
        config
    };
    for (config, word) in [
        (
            wrong(|config| config.bucket = "missing".into()),
            "NoSuchBucket",
        ),
        (wrong(|config| config.bucket.clear()), "name a bucket"),
        (
            wrong(|config| config.secret_access_key = Some(server::secret("wrong"))),
            "SignatureDoesNotMatch",
        ),
        (
            wrong(|config| config.secret_access_key = None),
            "access_key_id",
        ),
        (
            wrong(|config| config.endpoint = Some("http://127.0.0.1:1".into())),
            "refused",
        ),
        (
            wrong(|config| config.ca_file = Some("/no/such/file".into())),
            "/no/such/file",
        ),
    ] {
        let error = S3Backend::open(&config).await.unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
        assert!(error.contains(&config.bucket), "{error}");
        assert!(!error.contains(server::SECRET), "{error}");
    }
}

/// A bucket that is missing is made where that is wanted, by however many at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_made_once() {
    let server = Server::start(Kept::Atomic).await;
    let config = S3Config {
        bucket: "new".into(),
        create_bucket: true,
        ..server.config()
    };
    let opened = futures_util::future::join_all((0..4).map(|_| S3Backend::open(&config))).await;
    for backend in &opened {
        let backend = backend.as_ref().unwrap();
        let at = key("a/b");
        let put = backend.put(&at, "x".into(), Condition::Any);
        put.await.unwrap();
    }
    // What is there is used as it is.
    let there = S3Config {
        bucket: server.config().bucket,
        ..config.clone()
    };
    S3Backend::open(&there).await.unwrap();
    let refused = S3Config {
        bucket: "No Name".into(),
        ..config
    };
    let error = S3Backend::open(&refused).await.unwrap_err().to_string();
    assert!(error.contains("No Name"), "{error}");
}
