//! Blobs and uploads on a disk: verified pieces, partial blobs that resume, eviction by bytes.
//!
//! Every call here blocks on the disk: run it in `tokio::task::spawn_blocking`.
//!
//! What is on the disk is a claim, never a fact. A piece is written only as a [`VerifiedPiece`],
//! which nothing but a check against signed or proven chaining values makes, and it leaves the
//! disk only as one: it is hashed again after each read. So the cache needs no fsync, and neither
//! a crash nor a flipped bit can do more than cost a download.

pub mod blob;
pub mod cache;
pub mod durable;
pub mod evict;
mod layout;
mod piece_log;
mod proof;
pub mod upload;
pub mod volume;

pub use blob::{Blob, ProofError, ReadError, VerifiedPiece, VerifyError, WriteError};
pub use cache::{Cache, Config, Known, OpenError};
pub use durable::DiskError;
pub use evict::Watermarks;
pub use upload::{FinishedUpload, Limits, UploadError, UploadId, Uploads};
