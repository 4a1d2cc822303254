//! The swarm on real sockets and a real clock: one task owns the decisions, two small ones each
//! connection, and payload goes from socket to memory to storage without passing through either.

mod announcer;
mod blob;
mod buffers;
mod cluster;
mod config;
mod connection;
mod dial;
mod driver;
mod jobs;
mod kept;
mod limiter;
mod metrics;
mod node;
mod pieces;
mod progress;
mod proof;
mod readers;
mod sessions;
mod turns;

pub use blob::{Blob, OpenError, ReadError, ReadStream};
pub use cluster::Cluster;
pub use config::Config;
pub use metrics::{Metrics, PeerKind, Source};
pub use node::{Node, Overview, PeerStatus, Setup, TrackerStatus, Want};
pub use pieces::{
    Opened, PieceError, Pieces, Pin, ProveError, Proven, StorageError, StoreError, Values,
};
pub use progress::BlobStatus;
pub use swarm::{Found, Priority};

#[cfg(test)]
mod tests;
