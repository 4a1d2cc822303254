use std::collections::BTreeSet;
use std::sync::Arc;

use backend::flaky::{Faults, FlakyBackend};
use backend::fs::FsBackend;
use backend::memory::MemoryBackend;
use backend::{Backend, Entry, List};
use tempfile::TempDir;

use super::*;

const WAIT: Duration = Duration::from_secs(30);

fn tags_over(backend: &Arc<dyn Backend>, process: u128) -> Tags {
    let storage = Storage::new(Arc::clone(backend));
    Tags::new(storage, Metrics::new(), WAIT, process, true)
}

fn names() -> (RepositoryName, Tag) {
    ("team/app".parse().unwrap(), "v1".parse().unwrap())
}

fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

fn made(change: Change) -> u64 {
    match change {
        Change::Made(version) => version,
        Change::Overtaken => panic!("nobody asked twice"),
    }
}

/// Storage in memory and on disk.
fn backends() -> (TempDir, [Arc<dyn Backend>; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let fs = FsBackend::open(folder.path()).unwrap();
    (folder, [Arc::new(MemoryBackend::new()), Arc::new(fs)])
}

/// What docker-registry would answer.
async fn linked(backend: &Arc<dyn Backend>) -> Option<Digest> {
    let (repository, tag) = names();
    let link = layout::tag_link(&repository, &tag);
    layout::read_link(&**backend, &link).await.unwrap()
}

/// What docker-registry does to move a tag.
async fn link_outside(backend: &Arc<dyn Backend>, digest: &Digest) {
    let (repository, tag) = names();
    for link in [
        layout::tag_index_link(&repository, &tag, digest),
        layout::tag_link(&repository, &tag),
    ] {
        let bytes = layout::link_to(digest);
        backend.put(&link, bytes, Condition::Any).await.unwrap();
    }
}

/// What docker-registry does to remove a tag.
async fn unlink_outside(backend: &Arc<dyn Backend>) {
    for key in keys(backend).await {
        if key.as_str().starts_with("docker/") {
            backend.delete(&key).await.unwrap();
        }
    }
}

async fn keys(backend: &Arc<dyn Backend>) -> Vec<Key> {
    let list = List::objects(backend::Prefix::root(), 1000);
    let listing = backend.list(list).await.unwrap();
    assert!(!listing.more);
    let key = |entry| match entry {
        Entry::Object(key) => key,
        Entry::Folder(folder) => panic!("{folder:?}"),
    };
    listing.entries.into_iter().map(key).collect()
}

async fn record(backend: &Arc<dyn Backend>) -> Record {
    let (repository, tag) = names();
    let key = layout::tag_record(&repository, &tag);
    let (bytes, _) = backend.read(&key, MAX_RECORD_BYTES).await.unwrap();
    Record::from_bytes(&bytes).unwrap()
}

#[tokio::test]
async fn a_tag_names_what_was_put_last() {
    let (_folder, backends) = backends();
    let (repository, tag) = names();
    for backend in backends {
        let tags = tags_over(&backend, 1);
        assert_eq!(tags.resolve(&repository, &tag).await.unwrap(), None);
        for (version, text) in [(1, "a"), (2, "b"), (3, "a")] {
            let put = tags.put(&repository, &tag, &digest(text), None).await;
            assert_eq!(put.unwrap(), Change::Made(version));
            let found = tags.resolve(&repository, &tag).await.unwrap();
            assert_eq!(found, Some(digest(text)));
            assert_eq!(linked(&backend).await, Some(digest(text)));
            assert_eq!(record(&backend).await.pending, None);
        }
        // The same once more is no change.
        let put = tags.put(&repository, &tag, &digest("a"), None).await;
        assert_eq!(put.unwrap(), Change::Made(3));
        for text in ["a", "b"] {
            let index = layout::tag_index_link(&repository, &tag, &digest(text));
            let link = layout::read_link(&*backend, &index).await.unwrap();
            assert_eq!(link, Some(digest(text)));
        }
    }
}

#[tokio::test]
async fn a_removed_tag_is_gone_for_everybody() {
    let (_folder, backends) = backends();
    let (repository, tag) = names();
    for backend in backends {
        let tags = tags_over(&backend, 1);
        assert!(!tags.delete(&repository, &tag, None, None).await.unwrap());
        for text in ["a", "b"] {
            tags.put(&repository, &tag, &digest(text), None)
                .await
                .unwrap();
        }
        let another = tags
            .delete(&repository, &tag, Some(&digest("a")), None)
            .await;
        assert!(!another.unwrap());
        let only = tags
            .delete(&repository, &tag, Some(&digest("b")), None)
            .await;
        assert!(only.unwrap());
        assert_eq!(tags.resolve(&repository, &tag).await.unwrap(), None);
        // docker-registry takes any folder for a tag.
        let left: Vec<_> = keys(&backend).await;
        assert_eq!(left, [layout::tag_record(&repository, &tag)]);
        assert!(!tags.delete(&repository, &tag, None, None).await.unwrap());
        // It goes on where it was.
        let put = tags.put(&repository, &tag, &digest("a"), None).await;
        assert_eq!(put.unwrap(), Change::Made(4));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixteen_writers_each_has_its_version() {
    let (_folder, backends) = backends();
    let (repository, tag) = names();
    for backend in backends {
        let mut writers = Vec::new();
        for number in 0..16_u8 {
            // Each in a process of its own, as far as it can tell.
            let tags = tags_over(&backend, u128::from(number));
            let (repository, tag) = (repository.clone(), tag.clone());
            writers.push(tokio::spawn(async move {
                let digest = Digest::sha256(&[number]);
                let put = tags.put(&repository, &tag, &digest, None).await;
                let version = made(put.unwrap());
                // What was acknowledged is seen, unless somebody wrote later.
                (version, digest)
            }));
        }
        let mut written = Vec::new();
        for writer in writers {
            written.push(writer.await.unwrap());
        }
        written.sort_unstable_by_key(|(version, _)| *version);
        let versions: Vec<_> = written.iter().map(|(version, _)| *version).collect();
        assert_eq!(versions, (1..=16).collect::<Vec<_>>());
        let last = written[15].1;
        let tags = tags_over(&backend, 99);
        assert_eq!(tags.resolve(&repository, &tag).await.unwrap(), Some(last));
        assert_eq!(linked(&backend).await, Some(last));
        let record = record(&backend).await;
        assert_eq!((record.version, record.pending), (16, None));
    }
}

/// Readers beside writers see only what was written, never older than what they saw, and no
/// reader takes a link that is late for a change.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_see_versions_in_order() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (repository, tag) = names();
    let version_of: Vec<_> = (0..60_u8).map(|number| Digest::sha256(&[number])).collect();
    let mut readers = Vec::new();
    for process in 0..4 {
        let tags = tags_over(&backend, 100 + process);
        let (repository, tag) = (repository.clone(), tag.clone());
        let version_of = version_of.clone();
        readers.push(tokio::spawn(async move {
            let mut before = 0;
            while before + 1 < version_of.len() {
                let Some(found) = tags.resolve(&repository, &tag).await.unwrap() else {
                    continue;
                };
                let version = version_of.iter().position(|digest| *digest == found);
                let version = version.unwrap();
                assert!(version >= before, "{version} after {before}");
                before = version;
            }
        }));
    }
    // The writes come from two processes in turn.
    let writers = [tags_over(&backend, 1), tags_over(&backend, 2)];
    for (number, digest) in version_of.iter().enumerate() {
        let version = writers[number % 2]
            .put(&repository, &tag, digest, None)
            .await;
        assert_eq!(
            made(version.unwrap()),
            number as u64 + 1,
            "nobody else wrote"
        );
    }
    for reader in readers {
        tokio::time::timeout(WAIT, reader).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn changes_made_outside_count() {
    let (_folder, backends) = backends();
    let (repository, tag) = names();
    for backend in backends {
        let tags = tags_over(&backend, 1);
        let resolve = async || tags.resolve(&repository, &tag).await.unwrap();
        // A tag that only docker-registry wrote.
        link_outside(&backend, &digest("theirs")).await;
        assert_eq!(resolve().await, Some(digest("theirs")));
        assert!(
            keys(&backend)
                .await
                .iter()
                .all(|key| key.as_str().starts_with("docker/"))
        );
        // Shoal moves it.
        tags.put(&repository, &tag, &digest("ours"), None)
            .await
            .unwrap();
        assert_eq!(linked(&backend).await, Some(digest("ours")));
        // docker-registry moves it, to and fro: the links have all the same length.
        for text in ["x", "y", "x", "theirs"] {
            link_outside(&backend, &digest(text)).await;
            assert_eq!(resolve().await, Some(digest(text)), "{text}");
        }
        assert_eq!(record(&backend).await.version, 5);
        // It removes it.
        unlink_outside(&backend).await;
        assert_eq!(resolve().await, None);
        assert!(record(&backend).await.tombstone);
        // It makes it again.
        link_outside(&backend, &digest("again")).await;
        assert_eq!(resolve().await, Some(digest("again")));
        // And Shoal moves it without having looked.
        link_outside(&backend, &digest("unseen")).await;
        let put = tags.put(&repository, &tag, &digest("ours"), None).await;
        assert_eq!(
            put.unwrap(),
            Change::Made(9),
            "the unseen change has a version too"
        );
        assert_eq!(resolve().await, Some(digest("ours")));
        link_outside(&backend, &digest("unseen")).await;
        assert!(tags.delete(&repository, &tag, None, None).await.unwrap());
        assert_eq!(resolve().await, None);
    }
}

/// Storage in which something happens just before an object is removed.
#[derive(Debug)]
struct BeforeDelete {
    inner: Arc<dyn Backend>,
    reached: tokio::sync::Semaphore,
    go_on: tokio::sync::Semaphore,
}

#[async_trait::async_trait]
impl Backend for BeforeDelete {
    async fn stat(&self, key: &Key) -> Result<backend::Stat, Error> {
        self.inner.stat(key).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<backend::Object, Error> {
        self.inner.get(key, range).await
    }

    async fn read(&self, key: &Key, limit: u64) -> Result<(bytes::Bytes, backend::Stat), Error> {
        self.inner.read(key, limit).await
    }

    async fn put(
        &self,
        key: &Key,
        bytes: bytes::Bytes,
        condition: Condition,
    ) -> Result<ETag, Error> {
        self.inner.put(key, bytes, condition).await
    }

    async fn put_stream(
        &self,
        key: &Key,
        body: backend::PutStream,
        condition: Condition,
    ) -> Result<ETag, Error> {
        self.inner.put_stream(key, body, condition).await
    }

    async fn adopt(&self, key: &Key, file: &std::path::Path) -> Result<ETag, Error> {
        self.inner.adopt(key, file).await
    }

    fn staging(&self) -> Option<std::path::PathBuf> {
        None
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        if key.as_str().ends_with("current/link") {
            self.reached.add_permits(1);
            self.go_on.acquire().await.unwrap().forget();
        }
        self.inner.delete(key).await
    }

    async fn list(&self, list: List) -> Result<backend::Listing, Error> {
        self.inner.list(list).await
    }
}

/// A tag is removed, and while that is under way somebody else finishes it and writes the tag
/// again. The removal comes late, but does not win.
#[tokio::test(start_paused = true)]
async fn a_late_removal_is_undone() {
    let memory: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (repository, tag) = names();
    let others = tags_over(&memory, 1);
    others
        .put(&repository, &tag, &digest("a"), None)
        .await
        .unwrap();
    let late = Arc::new(BeforeDelete {
        inner: Arc::clone(&memory),
        reached: tokio::sync::Semaphore::new(0),
        go_on: tokio::sync::Semaphore::new(0),
    });
    let removing = {
        let backend: Arc<dyn Backend> = Arc::clone(&late) as Arc<dyn Backend>;
        let tags = tags_over(&backend, 2);
        let (repository, tag) = (repository.clone(), tag.clone());
        tokio::spawn(async move { tags.delete(&repository, &tag, None, None).await.unwrap() })
    };
    late.reached.acquire().await.unwrap().forget();
    let put = others.put(&repository, &tag, &digest("b"), None).await;
    assert_eq!(put.unwrap(), Change::Made(3));
    late.go_on.add_permits(100);
    // Who looks right now does not take it for removed.
    let looking = others.read(&repository, &tag);
    let (found, removed) = tokio::join!(looking, removing);
    assert!(removed.unwrap());
    assert_eq!(found.unwrap(), Some(digest("b")));
    assert_eq!(linked(&memory).await, Some(digest("b")));
    assert_eq!(record(&memory).await.version, 3);
}

#[tokio::test]
async fn a_tag_of_docker_registry_can_be_removed() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (repository, tag) = names();
    let tags = tags_over(&backend, 1);
    link_outside(&backend, &digest("theirs")).await;
    assert!(tags.delete(&repository, &tag, None, None).await.unwrap());
    assert_eq!(tags.resolve(&repository, &tag).await.unwrap(), None);
    assert_eq!(linked(&backend).await, None);
}

/// A writer that dies between record and link: what it wrote counts, and is finished later.
#[tokio::test]
async fn what_a_dead_writer_began_is_finished() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (repository, tag) = names();
    let tags = tags_over(&backend, 1);
    let resolve = async || tags.resolve(&repository, &tag).await.unwrap();
    tags.put(&repository, &tag, &digest("a"), None)
        .await
        .unwrap();
    let key = layout::tag_record(&repository, &tag);
    let mut record = Record {
        digest: digest("b"),
        version: 2,
        tombstone: false,
        before: Vec::new(),
        writer: "dead".into(),
        time: record::now(),
        pending: Some(record::Pending {
            from: Some(digest("a")),
        }),
    };
    let die = async |record: &Record| {
        let put = backend.put(&key, record.to_bytes(), Condition::Any);
        put.await.unwrap();
    };
    die(&record).await;
    // It may still come to its link.
    assert_eq!(resolve().await, Some(digest("b")));
    assert_eq!(linked(&backend).await, Some(digest("a")));
    record.time -= 60_000;
    die(&record).await;
    assert_eq!(resolve().await, Some(digest("b")));
    assert_eq!(linked(&backend).await, Some(digest("b")));
    assert_eq!(self::record(&backend).await.pending, None);
    // Now the link says "a" because somebody wants that.
    link_outside(&backend, &digest("a")).await;
    assert_eq!(resolve().await, Some(digest("a")));
    // Who writes after a dead one does not wait for its time to be over.
    record.version = 4;
    record.time = record::now();
    die(&record).await;
    let put = tags.put(&repository, &tag, &digest("c"), None).await;
    assert_eq!(put.unwrap(), Change::Made(5));
    assert_eq!(linked(&backend).await, Some(digest("c")));
}

#[tokio::test]
async fn damage_is_not_taken_for_a_change() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (repository, tag) = names();
    let tags = tags_over(&backend, 1);
    let resolve = async || tags.resolve(&repository, &tag).await.unwrap();
    tags.put(&repository, &tag, &digest("a"), None)
        .await
        .unwrap();
    let damage = async |key: &Key, text: &'static str| {
        let put = backend.put(key, text.into(), Condition::Any);
        put.await.unwrap();
    };
    damage(&layout::tag_link(&repository, &tag), "sha256:12").await;
    assert_eq!(resolve().await, Some(digest("a")));
    let put = tags.put(&repository, &tag, &digest("a"), None).await;
    assert_eq!(put.unwrap(), Change::Made(1));
    assert_eq!(linked(&backend).await, Some(digest("a")));
    // A record that says nothing leaves the link.
    damage(&layout::tag_record(&repository, &tag), "{").await;
    assert_eq!(resolve().await, Some(digest("a")));
    tags.put(&repository, &tag, &digest("b"), None)
        .await
        .unwrap();
    assert_eq!(resolve().await, Some(digest("b")));
}

/// Storage that fails, and that does what it says it did not do.
#[tokio::test(start_paused = true)]
async fn lost_answers_lose_no_writes() {
    for seed in 0..40 {
        let memory: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let faults = Faults {
            error: 0.1,
            lost_answer: 0.2,
            ..Faults::default()
        };
        let flaky: Arc<dyn Backend> =
            Arc::new(FlakyBackend::new(Arc::clone(&memory), seed, faults));
        let (repository, tag) = names();
        let mut writers = Vec::new();
        for number in 0..6_u8 {
            let tags = tags_over(&flaky, u128::from(number));
            let (repository, tag) = (repository.clone(), tag.clone());
            writers.push(tokio::spawn(async move {
                let digest = Digest::sha256(&[number]);
                let put = tags.put(&repository, &tag, &digest, None).await;
                match put {
                    Ok(Change::Made(version)) => Some((version, digest)),
                    Ok(Change::Overtaken) | Err(_) => None,
                }
            }));
        }
        let mut acknowledged = Vec::new();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        acknowledged.sort_unstable_by_key(|(version, _)| *version);
        let versions: BTreeSet<_> = acknowledged.iter().map(|(version, _)| *version).collect();
        assert_eq!(versions.len(), acknowledged.len(), "seed {seed}");
        let tags = tags_over(&memory, 99);
        let found = tags.read(&repository, &tag).await.unwrap();
        let record = record(&memory).await;
        assert_eq!(found, record.current(), "seed {seed}");
        let Some((version, digest)) = acknowledged.last() else {
            continue;
        };
        // Whoever was not told may have written later; nobody else can have.
        assert!(record.version >= *version, "seed {seed}");
        if record.version == *version {
            assert_eq!(found, Some(*digest), "seed {seed}");
        }
        // Once storage is well again, the next write brings all in step.
        let put = tags
            .put(&repository, &tag, &self::digest("well"), None)
            .await;
        assert_eq!(
            put.unwrap(),
            Change::Made(record.version + 1),
            "seed {seed}"
        );
        assert_eq!(linked(&memory).await, Some(self::digest("well")));
    }
}

#[tokio::test]
async fn those_who_ask_at_once_share_reads() {
    let memory: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let slow = Arc::new(FlakyBackend::new(Arc::clone(&memory), 1, Faults::default()));
    let backend: Arc<dyn Backend> = Arc::clone(&slow) as Arc<dyn Backend>;
    let (repository, tag) = names();
    let tags = tags_over(&backend, 1);
    tags.put(&repository, &tag, &digest("a"), None)
        .await
        .unwrap();
    let before = slow.reads();
    let asked: Vec<_> = (0..100).map(|_| tags.resolve(&repository, &tag)).collect();
    for found in futures_util::future::join_all(asked).await {
        assert_eq!(found.unwrap(), Some(digest("a")));
    }
    let reads = slow.reads() - before;
    assert!(reads <= 4, "{reads} reads for two objects, twice at most");
}

/// A store that takes no notice of conditions. It ends when the server is dropped.
async fn careless() -> (TempDir, fake_s3::Server, Arc<dyn Backend>) {
    let folder = tempfile::tempdir().unwrap();
    let server = fake_s3::Server::start(fake_s3::Options {
        addr: ([127, 0, 0, 1], 0).into(),
        folder: folder.path().to_owned(),
        bucket: "images".into(),
        conditions: fake_s3::Conditions::Ignored,
        access_key_id: "id".into(),
        secret_access_key: "secret".into(),
    });
    let server = server.await.unwrap();
    let config = backend::s3::S3Config {
        bucket: "images".into(),
        endpoint: Some(format!("http://{}", server.addr())),
        access_key_id: Some("id".into()),
        secret_access_key: Some("secret".to_owned().try_into().unwrap()),
        ..backend::s3::S3Config::default()
    };
    let opened = backend::Config::S3(Box::new(config)).open().await;
    (folder, server, opened.unwrap())
}

fn reader_over(backend: &Arc<dyn Backend>) -> Tags {
    let storage = Storage::new(Arc::clone(backend));
    Tags::new(storage, Metrics::new(), WAIT, 2, false)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_writer_needs_no_conditions() {
    const WRITES: usize = 24;
    let (_folder, _server, backend) = careless().await;
    let (repository, tag) = names();
    let (writer, reader) = (tags_over(&backend, 1), reader_over(&backend));
    let puts = (0..WRITES).map(|number| {
        let (writer, repository, tag) = (writer.clone(), repository.clone(), tag.clone());
        let digest = digest(&number.to_string());
        tokio::spawn(async move { writer.put(&repository, &tag, &digest, None).await })
    });
    let mut versions = BTreeSet::new();
    for put in futures_util::future::join_all(puts).await {
        versions.insert(made(put.unwrap().unwrap()));
        assert!(reader.resolve(&repository, &tag).await.unwrap().is_some());
    }
    assert_eq!(versions.len(), WRITES, "none is lost");
    let record = record(&backend).await;
    assert_eq!(record.version, WRITES as u64);
    let found = reader.resolve(&repository, &tag).await.unwrap();
    assert_eq!(found, record.current());
    assert_eq!(linked(&backend).await, record.current());
}

#[tokio::test]
async fn who_may_not_write_leaves_what_it_finds() {
    let (_folder, backends) = backends();
    let (repository, tag) = names();
    for backend in backends {
        let (tags, reader) = (tags_over(&backend, 1), reader_over(&backend));
        let put = tags.put(&repository, &tag, &digest("ours"), None).await;
        assert_eq!(put.unwrap(), Change::Made(1));
        link_outside(&backend, &digest("theirs")).await;
        let found = reader.resolve(&repository, &tag).await.unwrap();
        assert_eq!(found, Some(digest("theirs")));
        assert_eq!(record(&backend).await.version, 1);
        let found = tags.resolve(&repository, &tag).await.unwrap();
        assert_eq!(found, Some(digest("theirs")));
        let mut record = record(&backend).await;
        assert_eq!(record.version, 2);

        // What a writer left that is gone.
        record.digest = digest("next");
        record.pending = Some(record::Pending {
            from: Some(digest("theirs")),
        });
        record.time = 0;
        let key = layout::tag_record(&repository, &tag);
        let put = backend.put(&key, record.to_bytes(), Condition::Any).await;
        put.unwrap();
        for (tags, follows) in [(&reader, "theirs"), (&tags, "next")] {
            let found = tags.resolve(&repository, &tag).await.unwrap();
            assert_eq!(found, Some(digest("next")));
            assert_eq!(linked(&backend).await, Some(digest(follows)));
        }
    }
}

/// Whoever may not write cannot note what it waited for, and does not wait for it again.
#[tokio::test(start_paused = true)]
async fn a_link_that_is_gone_is_waited_for_once() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (repository, tag) = names();
    let (tags, reader) = (tags_over(&backend, 1), reader_over(&backend));
    let resolve = async || {
        let start = tokio::time::Instant::now();
        let found = reader.resolve(&repository, &tag).await.unwrap();
        (found, start.elapsed() >= GONE_FOR)
    };
    for text in ["a", "b"] {
        let put = tags.put(&repository, &tag, &digest(text), None).await;
        put.unwrap();
        assert_eq!(resolve().await, (Some(digest(text)), false));
        unlink_outside(&backend).await;
        assert_eq!(resolve().await, (None, true));
        assert_eq!(resolve().await, (None, false));
        // A link that is there again counts.
        link_outside(&backend, &digest("theirs")).await;
        assert_eq!(resolve().await, (Some(digest("theirs")), false));
        unlink_outside(&backend).await;
        assert_eq!(resolve().await, (None, false));
    }
}

/// The answer was lost, and it is asked for again after others have written.
#[tokio::test]
async fn a_change_is_made_once() {
    let (_folder, backends) = backends();
    let (repository, tag) = names();
    for backend in backends {
        let (tags, others) = (tags_over(&backend, 1), tags_over(&backend, 2));
        let ids = [WriteId::random(), WriteId::random()];
        let put = |tags: &Tags, text, id| {
            let (tags, (repository, tag)) = (tags.clone(), names());
            async move {
                tags.put(&repository, &tag, &digest(text), id)
                    .await
                    .unwrap()
            }
        };
        assert_eq!(put(&tags, "a", Some(ids[0])).await, Change::Made(1));
        assert_eq!(put(&others, "a", Some(ids[0])).await, Change::Made(1));
        assert_eq!(put(&tags, "b", None).await, Change::Made(2));
        assert_eq!(put(&others, "a", Some(ids[0])).await, Change::Overtaken);
        let found = tags.resolve(&repository, &tag).await.unwrap();
        assert_eq!(found, Some(digest("b")), "it is not written again");

        for tags in [&tags, &others] {
            let deleted = tags.delete(&repository, &tag, None, Some(ids[1])).await;
            assert!(deleted.unwrap());
        }
        put(&tags, "c", None).await;
        let deleted = others.delete(&repository, &tag, None, Some(ids[1])).await;
        assert!(deleted.unwrap());
        let found = tags.resolve(&repository, &tag).await.unwrap();
        assert_eq!(found, Some(digest("c")), "it is not removed again");
    }
}
