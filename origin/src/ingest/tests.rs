use backend::fs::FsBackend;
use backend::memory::MemoryBackend;
use backend::{Backend, layout};
use futures_util::stream;
use oci::Algorithm;
use torrent::{ClusterKey, SwarmName};

use super::*;

struct Bench {
    folder: tempfile::TempDir,
    backend: Arc<dyn Backend>,
    blobs: Arc<Blobs>,
    ingest: Ingest,
}

fn bench(backend: Arc<dyn Backend>, folder: tempfile::TempDir) -> Bench {
    let blobs = Arc::new(Blobs::new(
        Arc::clone(&backend),
        ClusterKey::from_seed([3; 32]),
    ));
    let area = backend
        .staging()
        .unwrap_or_else(|| folder.path().to_owned());
    let uploads = Uploads::open(area.join("uploads"), store::Limits::default()).unwrap();
    Bench {
        ingest: Ingest::new(Arc::new(uploads), Arc::clone(&blobs), Metrics::default()),
        folder,
        backend,
        blobs,
    }
}

fn in_folder() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let backend = FsBackend::open(folder.path()).unwrap();
    bench(Arc::new(backend), folder)
}

fn bytes(length: usize) -> Bytes {
    (0..length)
        .map(|i| u8::try_from(i * 7 % 251).unwrap())
        .collect()
}

fn body(bytes: &Bytes, step: usize) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let parts: Vec<_> = bytes
        .chunks(step)
        .map(|part| Ok(Bytes::copy_from_slice(part)))
        .collect();
    stream::iter(parts)
}

async fn push(bench: &Bench, bytes: &Bytes, digest: Digest) -> Result<Committed, IngestError> {
    let id = bench.ingest.create().await?;
    let offset = bench
        .ingest
        .append(id, Some(0), false, body(bytes, 70_001))
        .await?;
    assert_eq!(offset, bytes.len() as u64);
    bench.ingest.commit(id, digest, Task::default()).await
}

#[tokio::test]
async fn a_push_becomes_a_blob_with_metainfo() {
    let memory = || bench(Arc::new(MemoryBackend::new()), tempfile::tempdir().unwrap());
    for bench in [in_folder(), memory()] {
        for (length, algorithm) in [
            (0, Algorithm::Sha256),
            (3_000_000, Algorithm::Sha256),
            (2_000_000, Algorithm::Sha512),
        ] {
            let bytes = bytes(length);
            let digest = Digest::of(algorithm, &bytes);
            let committed = push(&bench, &bytes, digest).await.unwrap();
            let metainfo = committed.metainfo;
            assert_eq!(committed.sha256, Digest::sha256(&bytes));
            assert_eq!(*metainfo.name(), SwarmName::Blob(digest));
            let content = bench.blobs.find(&digest).await.unwrap().unwrap();
            assert_eq!(content.key, layout::blob(&Digest::sha256(&bytes)));
            let object = bench.blobs.read(&content, None).await.unwrap();
            assert!(object.into_bytes(&content.key).await.unwrap() == bytes);
            // What is kept in storage is the same, and the blocks are beside it.
            let fresh = Blobs::new(Arc::clone(&bench.backend), ClusterKey::from_seed([3; 32]));
            assert_eq!(fresh.metainfo(&digest).await.unwrap(), Some(metainfo));
            let blocks = bench.backend.stat(&layout::blocks(&digest)).await;
            let expected = length.div_ceil(64 << 10) as u64 * 32;
            assert_eq!(blocks.map_or(0, |stat| stat.length), expected);
        }
    }
}

#[tokio::test]
async fn wrong_content_is_refused_and_nothing_is_stored() {
    let bench = in_folder();
    let digest = Digest::sha256(b"something else");
    let error = push(&bench, &bytes(100_000), digest).await.unwrap_err();
    assert!(
        matches!(error, IngestError::Upload(UploadError::Digest(_))),
        "{error}"
    );
    let all = backend::List::objects(backend::Prefix::root(), 10);
    assert!(bench.backend.list(all).await.unwrap().entries.is_empty());
    let left = std::fs::read_dir(bench.folder.path().join(".shoal/staging/uploads")).unwrap();
    assert_eq!(left.count(), 1, "only the lock");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again() {
    let bench = in_folder();
    let bytes = bytes(100_000);
    let digest = Digest::sha256(&bytes);
    let id = bench.ingest.create().await.unwrap();
    bench
        .ingest
        .append(id, None, false, body(&bytes, 999))
        .await
        .unwrap();
    let (one, two) = tokio::join!(
        bench.ingest.commit(id, digest, Task::default()),
        bench.ingest.commit(id, digest, Task::default())
    );
    let again = bench
        .ingest
        .commit(id, digest, Task::default())
        .await
        .unwrap();
    assert_eq!(one.unwrap(), two.unwrap());
    let error = bench
        .ingest
        .commit(id, Digest::sha256(b"x"), Task::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, IngestError::Upload(UploadError::Unknown)),
        "{error}"
    );
    assert_eq!(push(&bench, &bytes, digest).await.unwrap(), again);
}

#[tokio::test]
async fn what_came_before_a_break_is_kept() {
    let bench = in_folder();
    let bytes = bytes(2_500_000);
    let id = bench.ingest.create().await.unwrap();
    let first = bytes.slice(..1_234_567);
    let cut = io::Error::from(io::ErrorKind::ConnectionReset);
    let broken = body(&first, 10_000).chain(stream::iter([Err(cut)]));
    let error = bench
        .ingest
        .append(id, None, false, broken)
        .await
        .unwrap_err();
    assert!(matches!(error, IngestError::Body(_)), "{error}");
    assert_eq!(bench.ingest.offset(id).await.unwrap(), 1_234_567);
    let error = bench
        .ingest
        .append(id, Some(0), false, body(&bytes, 10_000))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        IngestError::Upload(UploadError::Offset { offset: 1_234_567 })
    ));
    let rest = bytes.slice(1_234_567..);
    bench
        .ingest
        .append(id, Some(1_234_567), false, body(&rest, 10_000))
        .await
        .unwrap();
    bench
        .ingest
        .commit(id, Digest::sha256(&bytes), Task::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_deleted_blob_leaves_nothing() {
    let bench = in_folder();
    let bytes = bytes(200_000);
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    push(&bench, &bytes, digest).await.unwrap();
    bench.blobs.delete(&digest).await.unwrap();
    bench.blobs.delete(&digest).await.unwrap();
    let all = backend::List::objects(backend::Prefix::root(), 10);
    assert_eq!(bench.backend.list(all).await.unwrap().entries, []);
    assert!(bench.blobs.metainfo(&digest).await.unwrap().is_none());
}
