//! The bytes of a blob for a client, out of the swarm.

use std::ops::Range;
use std::pin::pin;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use oci::{Digest, RepositoryName};
use peer::{Node, Priority};
use registry::{ByteStream, Error, Extent};
use torrent::SwarmName;

use crate::failure;

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

    async fn open(&self, range: &Range<u64>, extent: Extent) -> Result<peer::Blob, Error> {
        let name = SwarmName::Blob(self.digest);
        let is_whole = *range == (0..self.length);
        let opened = match extent {
            // Only what is asked for is fetched.
            Extent::Part if !is_whole => self.node.open_lazy(name, Priority::Foreground).await,
            // Who goes on at some offset wants all that is missing.
            Extent::Part | Extent::Rest => self.node.open(name, Priority::Stream).await,
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

    async fn read(self: Box<Self>, range: Range<u64>, extent: Extent) -> Result<ByteStream, Error> {
        let blob = self.open(&range, extent).await?;
        let mut stream = blob.read(range);
        // A failure before the first byte can still be told from an answer that breaks off.
        let first = pin!(stream.next()).await.transpose();
        let first = first.map_err(|error| failure::of_first_read(&error, &self.digest))?;
        let first = futures_util::stream::iter(first.map(Ok));
        let all = first.chain(stream);
        Ok(Box::pin(all.map(|item| item.map_err(failure::of_read))))
    }
}
