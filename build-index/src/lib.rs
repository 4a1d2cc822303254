//! What a cluster knows of its repositories: tags, manifests, which blobs belong where, and what
//! refers to what.
//!
//! Storage is the truth. Nothing of it is remembered here but bytes that are named by their digest,
//! and for seconds which blobs a repository has ([`belonging`]), so any build-index gives the same
//! answers, and one that was just started too. Everything stands in the layout of CNCF Distribution
//! besides; see [`backend::layout`].

mod belonging;
mod config;
mod error;
mod flights;
mod http;
mod locks;
mod manifests;
mod media;
mod metrics;
mod names;
mod referrers;
mod repositories;
mod start;
mod storage;
mod tags;
mod writer;

pub use config::Config;
pub use start::{Listeners, StartError, start};
