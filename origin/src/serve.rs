//! The bytes of a blob for whoever asks over HTTP: checked before they leave, or cut.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use oci::{Digest, DigestHasher};
use torrent::{MetaInfo, PieceIndex, SwarmName};

use crate::blobs::{Blobs, Content, blocking};
use crate::source::{Source, SourceError};

/// Bytes of a blob nobody hashed that are read and passed on at a time.
const PART_BYTES: u64 = 1 << 20;

/// A body that is cut, because what would come next is not the blob.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("piece {piece} of {name} is damaged in storage")]
    Piece { name: SwarmName, piece: PieceIndex },
    #[error("what storage has as {expected} has the digest {actual}")]
    Digest {
        expected: Box<Digest>,
        actual: Box<Digest>,
    },
    #[error("storage stopped in the middle of a blob: {0}")]
    Source(String),
}

impl From<SourceError> for ServeError {
    fn from(error: SourceError) -> Self {
        Self::Source(error.to_string())
    }
}

/// Bytes for a client, in order.
pub type Body = BoxStream<'static, Result<Bytes, ServeError>>;

/// Returns a range of a hashed blob. Each piece is checked before any byte of it is passed on.
#[must_use]
pub fn hashed(
    blobs: Arc<Blobs>,
    content: Content,
    metainfo: Arc<MetaInfo>,
    range: Range<u64>,
) -> Body {
    let geometry = *metainfo.geometry();
    let mut pieces = geometry.pieces_in(range.clone()).peekable();
    let start = pieces
        .peek()
        .map_or(0, |piece| geometry.range(*piece).start);
    let source = Source::starting_at(start, blobs, content);
    let state = (source, pieces, metainfo);
    let body = stream::try_unfold(state, move |(mut source, mut pieces, metainfo)| {
        let range = range.clone();
        async move {
            let Some(piece) = pieces.next() else {
                return Ok(None);
            };
            let whole = geometry.range(piece);
            let bytes = source.next(whole.clone()).await?;
            let bytes = match check(&metainfo, piece, bytes).await {
                Ok(bytes) => bytes,
                // What was kept of storage may be damaged, and storage may be right: once.
                Err(error) => match source.again(whole.clone()).await? {
                    Some(bytes) => check(&metainfo, piece, bytes).await?,
                    None => return Err(error),
                },
            };
            let wanted = range.start.max(whole.start)..range.end.min(whole.end);
            let part = bytes.slice(within(&whole, wanted.start)..within(&whole, wanted.end));
            Ok(Some((part, (source, pieces, metainfo))))
        }
    });
    body.boxed()
}

async fn check(
    metainfo: &Arc<MetaInfo>,
    piece: PieceIndex,
    bytes: Bytes,
) -> Result<Bytes, ServeError> {
    let checker = Arc::clone(metainfo);
    let (right, bytes) = blocking(move || (checker.verifies(piece, &bytes), bytes)).await;
    if right {
        return Ok(bytes);
    }
    let name = *metainfo.name();
    Err(ServeError::Piece { name, piece })
}

/// Returns the index of a blob's offset in the bytes of a piece, which is at most 16 MiB long.
fn within(piece: &Range<u64>, offset: u64) -> usize {
    usize::try_from(offset - piece.start).unwrap_or(usize::MAX)
}

/// Returns the whole of a blob nobody hashed yet. Its last part is passed on only when the digest
/// of all turned out right.
#[must_use]
pub fn unhashed(blobs: Arc<Blobs>, content: Content, digest: Digest) -> Body {
    let length = content.stat.length;
    let state = (
        Source::starting_at(0, blobs, content),
        DigestHasher::new(digest.algorithm()),
        0,
    );
    let body = stream::try_unfold(state, move |(mut source, mut hasher, start)| async move {
        if start == length {
            return Ok(None);
        }
        let end = length.min(start + PART_BYTES);
        let bytes = source.next(start..end).await?;
        let (hasher, bytes) = blocking(move || {
            hasher.update(&bytes);
            (hasher, bytes)
        })
        .await;
        if end == length {
            let actual = hasher.clone().finish();
            if actual != digest {
                let (expected, actual) = (Box::new(digest), Box::new(actual));
                return Err(ServeError::Digest { expected, actual });
            }
        }
        Ok(Some((bytes, (source, hasher, end))))
    });
    body.boxed()
}

/// Returns a range of a blob nobody hashed yet, as storage has it: there is nothing to check it
/// against before the whole was read.
#[must_use]
pub fn unchecked(blobs: Arc<Blobs>, content: Content, range: Range<u64>) -> Body {
    let source = Source::starting_at(range.start, blobs, content);
    let body = stream::try_unfold((source, range), |(mut source, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let end = range.end.min(range.start + PART_BYTES);
        let bytes = source.next(range.start..end).await?;
        Ok::<_, ServeError>(Some((bytes, (source, end..range.end))))
    });
    body.boxed()
}

#[cfg(test)]
mod tests {
    use backend::flaky::{Faults, FlakyBackend};
    use backend::memory::MemoryBackend;
    use backend::{Backend as _, Condition, layout};
    use futures_util::TryStreamExt as _;
    use torrent::{ClusterKey, TreeHasher};

    use super::*;

    struct Bench {
        backend: Arc<FlakyBackend>,
        blobs: Arc<Blobs>,
        bytes: Bytes,
        digest: Digest,
        content: Content,
        metainfo: Arc<MetaInfo>,
    }

    async fn bench() -> Bench {
        let memory = Arc::new(MemoryBackend::new());
        let backend = Arc::new(FlakyBackend::new(memory, 1, Faults::default()));
        let key = ClusterKey::from_seed([3; 32]);
        let blobs = Arc::new(Blobs::new(backend.clone(), key.clone()));
        let bytes: Bytes = (0..2_500_000_u32)
            .map(|i| u8::try_from(i * 3 % 251).unwrap())
            .collect();
        let digest = Digest::sha256(&bytes);
        let at = layout::blob(&digest);
        backend
            .put(&at, bytes.clone(), Condition::Any)
            .await
            .unwrap();
        let mut hasher = TreeHasher::new();
        hasher.update(&bytes);
        let tree = hasher.finish().unwrap();
        Bench {
            metainfo: Arc::new(MetaInfo::sign(&key, digest.into(), &tree).unwrap()),
            content: blobs.find(&digest).await.unwrap().unwrap(),
            backend,
            blobs,
            bytes,
            digest,
        }
    }

    impl Bench {
        fn hashed(&self, range: Range<u64>) -> Body {
            let (blobs, metainfo) = (Arc::clone(&self.blobs), Arc::clone(&self.metainfo));
            hashed(blobs, self.content.clone(), metainfo, range)
        }
    }

    async fn collect(body: Body) -> (Vec<u8>, Option<ServeError>) {
        let mut seen = Vec::new();
        let ended = body
            .try_for_each(|part| {
                seen.extend_from_slice(&part);
                std::future::ready(Ok(()))
            })
            .await;
        (seen, ended.err())
    }

    #[tokio::test]
    async fn ranges_are_exact() {
        let bench = bench().await;
        let length = bench.bytes.len() as u64;
        for range in [
            0..length,
            0..1,
            1_048_575..1_048_577,
            2_400_000..length,
            7..7,
        ] {
            let index = |offset| usize::try_from(offset).unwrap();
            let expected = &bench.bytes[index(range.start)..index(range.end)];
            let (seen, error) = collect(bench.hashed(range.clone())).await;
            assert!(error.is_none() && seen == expected, "{range:?}");
            let (blobs, content) = (Arc::clone(&bench.blobs), bench.content.clone());
            let (seen, error) = collect(unchecked(blobs, content, range.clone())).await;
            assert!(error.is_none() && seen == expected, "{range:?}");
        }
        let (seen, error) = collect(unhashed(bench.blobs, bench.content, bench.digest)).await;
        assert!(error.is_none() && seen == bench.bytes);
    }

    #[tokio::test]
    async fn a_damaged_blob_is_cut_before_the_damage() {
        let bench = bench().await;
        bench.backend.set(Faults {
            wrong_bytes: 1.0,
            ..Faults::default()
        });
        for _ in 0..16 {
            let (seen, error) = collect(bench.hashed(0..2_500_000)).await;
            assert!(matches!(error, Some(ServeError::Piece { .. })), "{error:?}");
            assert!(bench.bytes.starts_with(&seen), "wrong bytes were passed on");
            let (blobs, content) = (Arc::clone(&bench.blobs), bench.content.clone());
            let (seen, error) = collect(unhashed(blobs, content, bench.digest)).await;
            assert!(
                matches!(error, Some(ServeError::Digest { .. })),
                "{error:?}"
            );
            assert!(seen.len() < bench.bytes.len(), "the end never comes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_goes_on_after_a_failure() {
        let bench = bench().await;
        bench.backend.set(Faults {
            truncated: 0.7,
            ..Faults::default()
        });
        for _ in 0..8 {
            let (seen, error) = collect(bench.hashed(100..2_500_000)).await;
            assert!(error.is_none(), "{error:?}");
            assert!(seen == bench.bytes[100..]);
        }
    }
}
