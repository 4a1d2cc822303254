//! Seeder of last resort: takes uploads, hashes what storage has, and gives it to the swarm.
//!
//! [`start()`] runs an origin on listeners that somebody else bound.

pub mod blobs;
pub mod config;
pub mod copies;
pub mod counted;
pub mod fetch;
pub mod held;
pub mod http;
pub mod ingest;
pub mod key;
pub mod metrics;
pub mod mirror;
pub mod pieces;
pub mod reads;
pub mod recent;
mod report;
pub mod ring;
pub mod runs;
pub mod seeder;
pub mod serve;
mod source;
mod start;
pub mod tier;
pub mod write_back;

pub use config::Config;
pub use start::{Listeners, StartError, start};
