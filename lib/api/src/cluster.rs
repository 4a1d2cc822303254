//! Where the parts of a cluster are, and which of them own what.

use oci::RepositoryName;
use serde::{Deserialize, Serialize};
use torrent::{PeerId, SwarmName};

use crate::members::{BuildIndex, Members, Origin, Tracker};

/// The members of all rings. The same on every machine of a cluster, but for the order of lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// Each with `name`, `http` and `peer`, and its `zone` where there are several. As the other
    /// rings, they may be the addresses of a DNS name: see [`crate::dns`].
    pub origins: Members<Origin>,
    /// Each with `name` and `peer`.
    pub trackers: Members<Tracker>,
    /// Each with `name` and `http`.
    pub build_indexes: Members<BuildIndex>,
    /// Origins that own each blob; at least 1 counts.
    pub replicas: u8,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            origins: Members::default(),
            trackers: Members::default(),
            build_indexes: Members::default(),
            replicas: 2,
        }
    }
}

impl Cluster {
    /// Returns the origins that own a blob; the first is to be asked first.
    #[must_use]
    pub fn owners(&self, name: &SwarmName) -> Vec<&Origin> {
        let replicas = usize::from(self.replicas.max(1));
        self.origins.ring().owners(&blob_key(name), replicas)
    }

    /// Returns the ids of the origins that own a blob.
    #[must_use]
    pub fn owner_ids(&self, name: &SwarmName) -> Vec<PeerId> {
        let owners = self.owners(name).into_iter();
        owners.map(Origin::peer_id).collect()
    }

    /// Returns the indexes of all origins, the owners of the blob first.
    #[must_use]
    pub fn origin_order(&self, name: &SwarmName) -> Vec<usize> {
        self.origins.ring().indexes(&blob_key(name)).collect()
    }

    /// Returns the indexes of all trackers in the order in which the blob belongs to them.
    #[must_use]
    pub fn tracker_order(&self, name: &SwarmName) -> Vec<usize> {
        self.trackers.ring().indexes(&blob_key(name)).collect()
    }

    /// Returns the indexes of all build-indexes in the order in which they answer for a repository.
    #[must_use]
    pub fn build_index_order(&self, repository: &RepositoryName) -> Vec<usize> {
        let key = repository.as_str().as_bytes();
        self.build_indexes.ring().indexes(key).collect()
    }
}

/// Returns the bytes by which rings know a blob: its name as the wire has it.
fn blob_key(name: &SwarmName) -> Vec<u8> {
    let mut key = Vec::with_capacity(65);
    name.encode(&mut key);
    key
}

#[cfg(test)]
mod tests {
    use oci::Digest;

    use super::*;

    fn cluster() -> Cluster {
        let text = "
origins:
  - {name: o1, http: 'o1:1', peer: 'o1:2'}
  - {name: o2, http: 'o2:1', peer: 'o2:2'}
  - {name: o3, http: 'o3:1', peer: 'o3:2'}
trackers:
  - {name: t1, peer: 't1:2'}
  - {name: t2, peer: 't2:2'}
build_indexes:
  - {name: b1, http: 'b1:1'}
";
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn owners_are_the_first_of_the_order() {
        let mut cluster = cluster();
        for number in 0..50_u8 {
            let name = SwarmName::Blob(Digest::sha256(&[number]));
            let order = cluster.origin_order(&name);
            let origins = cluster.origins.as_slice();
            let first: Vec<_> = order.iter().take(2).map(|at| &origins[*at]).collect();
            assert_eq!(cluster.owners(&name), first);
            assert_eq!(cluster.owner_ids(&name)[0], origins[order[0]].peer_id());
            let mut trackers = cluster.tracker_order(&name);
            trackers.sort_unstable();
            assert_eq!(trackers, [0, 1]);
        }
        cluster.replicas = 0;
        let name = SwarmName::Blob(Digest::sha256(b""));
        assert_eq!(cluster.owners(&name).len(), 1);
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in [
            "tracker: []",
            "trackers: [{name: a, peer: 'a:1', http: 'a:2'}]",
        ] {
            assert!(serde_saphyr::from_str::<Cluster>(text).is_err(), "{text}");
        }
        assert_eq!(
            serde_saphyr::from_str::<Cluster>("{}").unwrap(),
            Cluster::default()
        );
    }
}
