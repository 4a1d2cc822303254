//! The swarm on real sockets and a real clock: one task owns the decisions, two small ones each
//! connection, and payload goes from socket to memory to storage without passing through either.

mod config;
mod pieces;

pub use config::Config;
pub use pieces::{
    Opened, Pieces, Pin, ProveError, Proven, ReadError, StorageError, StoreError, Values,
};
