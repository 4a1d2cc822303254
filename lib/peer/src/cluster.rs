//! Where trackers and origins are.

use std::fmt;
use std::sync::Arc;

use torrent::{Peer, SwarmName};

/// The rings of a cluster, as this process knows them.
pub trait Cluster: fmt::Debug + Send + Sync + 'static {
    /// Returns the addresses (`host:port`) of the trackers. Their number and order never change.
    fn trackers(&self) -> Vec<Arc<str>>;

    /// Returns indexes into [`Self::trackers`] in the order in which a blob belongs to them: the
    /// first that can be reached is its tracker.
    fn tracker_order(&self, name: &SwarmName) -> Vec<usize>;

    /// Returns the origins that own a blob, in the order of the ring.
    fn owners(&self, name: &SwarmName) -> Vec<Peer>;
}
