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

impl Cluster for api::Cluster {
    fn trackers(&self) -> Vec<Arc<str>> {
        let trackers = self.trackers.iter();
        trackers.map(|tracker| tracker.peer.to_shared()).collect()
    }

    fn tracker_order(&self, name: &SwarmName) -> Vec<usize> {
        api::Cluster::tracker_order(self, name)
    }

    fn owners(&self, name: &SwarmName) -> Vec<Peer> {
        let owners = api::Cluster::owners(self, name).into_iter();
        owners.map(api::Origin::as_peer).collect()
    }
}
