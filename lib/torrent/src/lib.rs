//! A blob as the swarm moves it: its name, its pieces, the hashes that prove them, and the peers
//! that have them. Values only: nothing here does IO or reads a clock.

pub mod bitfield;
pub mod codec;
pub mod key;
pub mod metainfo;
pub mod name;
pub mod peer;
pub mod piece;
pub mod tree;

pub use bitfield::Bitfield;
pub use key::{ClusterKey, ClusterPublicKey, KeyError, Signature};
pub use metainfo::{
    Description, Generation, GrowingMetaInfo, MetaInfo, MetaInfoError, SignedCv, Summary,
};
pub use name::SwarmName;
pub use peer::{Peer, PeerId, Role};
pub use piece::{Geometry, GeometryError, PieceIndex};
pub use tree::{Cv, Root, TreeHasher};
