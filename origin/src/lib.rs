//! Seeder of last resort: takes uploads, hashes what storage has, and gives it to the swarm.

pub mod blobs;
pub mod fetch;
pub mod http;
pub mod ingest;
pub mod key;
pub mod pieces;
pub mod serve;
mod source;
