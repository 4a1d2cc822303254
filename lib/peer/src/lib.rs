//! The swarm on real sockets and a real clock: one task owns the decisions, two small ones each
//! connection, and payload goes from socket to memory to storage without passing through either.

mod cluster;
mod config;
mod metrics;
mod pieces;

pub use cluster::Cluster;
pub use config::Config;
pub use metrics::{Metrics, PeerKind, Source};
pub use pieces::{
    Opened, PieceError, Pieces, Pin, ProveError, Proven, StorageError, StoreError, Values,
};
