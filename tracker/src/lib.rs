//! Tells agents of each other, and decides who may ask an origin for how much.
//!
//! The decisions are `swarm::Tracker`, in one task (`announce`): an origin's credits, the ids of
//! peers and their sessions belong together. Around it are kept connections (`session`), one per
//! agent or origin. Nothing is stored: after a restart everybody connects and announces again.

mod announce;
pub mod config;
mod metrics;
mod report;
mod session;
mod start;

pub use config::Config;
pub use start::{Listeners, StartError, start};

#[cfg(test)]
mod tests;
