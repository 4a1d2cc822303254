//! The vocabulary of OCI registries: digests, references, descriptors, manifests, ranges and
//! error codes. Values only: nothing here does IO or knows of swarms.

pub mod digest;

pub use digest::{Algorithm, Digest, DigestError, DigestHasher};
