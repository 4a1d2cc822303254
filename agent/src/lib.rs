//! A registry on each host: what it serves comes out of the swarm.
//!
//! [`start()`] runs an agent on listeners that somebody else bound. Names come from the build-index
//! ([`pull`]), bytes from peers through a cache of verified pieces ([`cache`]); writes are passed
//! on to a proxy ([`forward`]). Clients that take a forward proxy find the same registry behind
//! one ([`forward_proxy`]).

pub mod belonging;
#[cfg(test)]
mod bench;
pub mod cache;
#[cfg(test)]
mod cluster;
pub mod config;
pub mod content;
mod failure;
pub mod forward;
pub mod forward_proxy;
pub mod manifests;
pub mod pull;
mod report;
mod start;

pub use config::Config;
pub use start::{Listeners, StartError, start};
