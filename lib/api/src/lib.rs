//! What the services of Shoal say to each other over HTTP, and who they are.
//!
//! One module per service has its paths, requests, answers and a typed client; server and client
//! use the same constants and structs. [`Cluster`] says where everybody is and who owns what; it
//! and the other values that several configurations have are here too.
//!
//! Every call has a deadline. A call that may be repeated without harm is repeated at another
//! member of the ring where one does not answer.

pub mod access;
pub mod agent;
pub mod build_index;
pub mod client;
pub mod cluster;
pub mod dns;
pub mod error;
#[cfg(test)]
mod fake;
pub mod key_text;
pub mod members;
pub mod origin;
pub mod ring;
pub mod size;

pub use build_index::BuildIndexClient;
pub use client::{BlobStream, CallError, Http, Limits};
pub use cluster::Cluster;
pub use error::{ErrorBody, ErrorCode};
pub use members::{Addr, BuildIndex, Members, MembersError, Name, Origin, Tracker, Zone};
pub use origin::OriginClient;
pub use ring::RingClient;
pub use size::{Size, SizeError};
