//! The bytes of a blob for a client, out of the swarm.

use std::ops::Range;
use std::pin::pin;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use oci::{Digest, RepositoryName};
use peer::{Node, Priority};
use registry::{ByteStream, Error};
use torrent::SwarmName;

use crate::failure;

/// Parts of a blob of at least this many bytes are read lazily: only they are fetched.
const LAZY_BLOB_BYTES: u64 = 64 << 20;

/// A blob of a repository, not opened yet.
#[derive(Debug)]
pub struct SwarmBlob {
    node: Node,
    repository: RepositoryName,
    digest: Digest,
    length: u64,
}

impl SwarmBlob {
    #[must_use]
    pub const fn new(node: Node, repository: RepositoryName, digest: Digest, length: u64) -> Self {
        Self {
            node,
            repository,
            digest,
            length,
        }
    }

    async fn open(&self, range: &Range<u64>) -> Result<peer::Blob, Error> {
        let name = SwarmName::Blob(self.digest);
        // Who resumes at some offset wants all that is missing; who takes a part out of a large
        // blob may never come for the rest.
        let is_part = range.end < self.length && self.length >= LAZY_BLOB_BYTES;
        let opened = if is_part {
            self.node.open_lazy(name, Priority::Foreground).await
        } else {
            self.node.open(name, Priority::Stream).await
        };
        let blob =
            opened.map_err(|error| failure::of_open(&error, &self.repository, &self.digest))?;
        if blob.length() != self.length {
            let (digest, here, there) = (self.digest, blob.length(), self.length);
            let text = format!("blob {digest} has {here} bytes, its manifest says {there}");
            return Err(Error::Unavailable(text));
        }
        Ok(blob)
    }
}

#[async_trait]
impl registry::Blob for SwarmBlob {
    fn length(&self) -> u64 {
        self.length
    }

    async fn read(self: Box<Self>, range: Range<u64>) -> Result<ByteStream, Error> {
        let blob = self.open(&range).await?;
        let mut stream = blob.read(range);
        // A failure before the first byte can still be told from an answer that breaks off.
        let first = pin!(stream.next()).await.transpose();
        let first = first.map_err(|error| failure::of_first_read(&error, &self.digest))?;
        let first = futures_util::stream::iter(first.map(Ok));
        let all = first.chain(stream);
        Ok(Box::pin(all.map(|item| item.map_err(failure::of_read))))
    }
}
