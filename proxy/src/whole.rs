//! Whole blobs are hashed as they pass: the last byte follows only when the digest was right.

use std::io;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use oci::{Digest, DigestHasher};
use registry::ByteStream;

struct Whole {
    stream: ByteStream,
    /// `None` once the digest was compared.
    hasher: Option<DigestHasher>,
    digest: Digest,
    /// The last part that came. It is not passed on before it is known whether it is the last.
    held: Bytes,
}

/// Returns the stream, which fails before its last part where all of it does not have the digest.
pub(crate) fn hashed(stream: ByteStream, digest: Digest) -> ByteStream {
    let whole = Whole {
        stream,
        hasher: Some(DigestHasher::new(digest.algorithm())),
        digest,
        held: Bytes::new(),
    };
    Box::pin(stream::unfold(Some(whole), |whole| async move {
        let mut whole = whole?;
        match whole.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(whole))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

impl Whole {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(hasher) = &mut self.hasher else {
                return Ok(None);
            };
            match self.stream.next().await.transpose()? {
                Some(bytes) => {
                    hasher.update(&bytes);
                    let before = std::mem::replace(&mut self.held, bytes);
                    if !before.is_empty() {
                        return Ok(Some(before));
                    }
                }
                None => {
                    let found = self.hasher.take().map(DigestHasher::finish);
                    if found != Some(self.digest) {
                        let digest = self.digest;
                        tracing::error!(%digest, "origins sent other bytes; the answer is cut");
                        let text = format!("the content is not {digest}");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                    let last = std::mem::take(&mut self.held);
                    return Ok((!last.is_empty()).then_some(last));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::Algorithm;

    use super::*;

    async fn pass(parts: &[&'static [u8]], digest: Digest) -> (Vec<u8>, bool) {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| Ok(Bytes::from_static(part)))
            .collect();
        let mut stream = hashed(Box::pin(stream::iter(parts)), digest);
        let mut all = Vec::new();
        while let Some(part) = stream.next().await {
            match part {
                Ok(part) => all.extend_from_slice(&part),
                Err(_) => return (all, false),
            }
        }
        (all, true)
    }

    #[tokio::test]
    async fn the_last_part_follows_the_digest() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, b"some bytes");
            let whole = pass(&[b"some ", b"", b"by", b"tes"], digest).await;
            assert_eq!(whole, (b"some bytes".to_vec(), true));
            let one = pass(&[b"some bytes"], digest).await;
            assert_eq!(one, (b"some bytes".to_vec(), true));
            // All but the last part may be out: the client sees that it has not all.
            let wrong = pass(&[b"some ", b"by", b"teZ"], digest).await;
            assert_eq!(wrong, (b"some by".to_vec(), false));
            let short = pass(&[b"some ", b"by"], digest).await;
            assert_eq!(short, (b"some ".to_vec(), false));
            assert_eq!(pass(&[], digest).await, (Vec::new(), false));
        }
    }
}
