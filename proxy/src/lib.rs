//! The registry that clients push to. It keeps nothing: an upload streams to an origin, which names
//! it; what a repository has is the build-index's to say. So any proxy goes on with any upload, and
//! one that dies takes nothing with it.
//!
//! Clients without an agent can pull here too: the bytes are relayed from origins.

mod config;
mod failure;
mod pull;
mod push;
mod relay;
mod start;
mod waiting;
mod whole;

pub use config::Config;
pub use start::{Listeners, StartError, start};
