//! The vocabulary of OCI registries: digests, references, descriptors, manifests, ranges and
//! error codes. Values only: nothing here does IO or knows of swarms.

pub mod descriptor;
pub mod digest;
pub mod error;
pub mod manifest;
pub mod media_type;
pub mod range;
pub mod reference;

pub use descriptor::{Descriptor, Platform};
pub use digest::{Algorithm, Digest, DigestError, DigestHasher};
pub use error::{ErrorBody, ErrorCode, ErrorEntry};
pub use manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestError, Referenced, Role};
pub use media_type::ManifestKind;
pub use range::{ByteRange, RangeError, RangeRequest};
pub use reference::{ImageReference, Reference, ReferenceError, RepositoryName, Tag};
