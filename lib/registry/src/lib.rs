//! The registry API in front of agents and proxies: OCI distribution-spec 1.1 and what Docker adds.
//!
//! [`router()`] speaks HTTP: paths, headers, ranges, uploads, errors. What is behind it says a
//! [`Pull`] and, where this process takes writes, a [`Push`]. It keeps nothing, knows nothing of
//! swarms, and holds to two promises whoever implements the traits:
//!
//! - No wrong answer is ever completed. A body that fails, stalls or has the wrong number of bytes
//!   ends the connection before its announced length, and a manifest's bytes are hashed before
//!   they are sent.
//! - Nothing waits for ever: see [`Options`].

mod body;
mod error;
mod metrics;
mod names;
mod pull;
mod push;
mod reads;
mod route;
mod router;
mod upload;
mod writes;

pub use body::ByteStream;
pub use error::Error;
pub use metrics::{Endpoint, Metrics, Verb};
pub use names::{Listing, MAX_PAGE_NAMES, Page};
pub use pull::{Blob, Extent, ManifestBytes, ManifestInfo, Pull};
pub use push::{Forward, Push, PushedManifest, Upload, Writes};
pub use router::{Fallback, Options, router};
pub use upload::UploadSecret;

#[cfg(test)]
mod tests;
