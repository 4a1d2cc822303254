//! Processes that speak the wire protocol.

use std::fmt;
use std::sync::Arc;

use librqbit_core::Id20;

use crate::codec::{DecodeError, Reader, put_string};

/// Longest advertised address, in bytes (a DNS name has at most 253, a port 5).
pub const MAX_ADDR_BYTES: usize = 260;
/// Longest zone name, in bytes.
pub const MAX_ZONE_BYTES: usize = 64;

/// The bit of the first byte that ids of origins have, and no others. Everybody can derive the id
/// of an origin; since the id tells the role, whoever may not be an origin cannot use it.
const OF_ORIGIN: u8 = 0x80;

/// Identity of a process for as long as it runs (an origin: for as long as its ring name stays).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PeerId(Id20);

impl PeerId {
    /// Returns the id of an agent or a tracker: these bytes without the bit of origins.
    #[must_use]
    pub fn new(mut bytes: [u8; 20]) -> Self {
        bytes[0] &= !OF_ORIGIN;
        Self(Id20::new(bytes))
    }

    /// Returns the id that somebody told, as it is.
    #[must_use]
    pub fn from_wire(bytes: [u8; 20]) -> Self {
        Self(Id20::new(bytes))
    }

    /// Returns the id of a member of the origin ring, which everybody can derive from its name.
    #[must_use]
    pub fn of_origin(ring_name: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("shoal 2026 origin peer id");
        hasher.update(ring_name.as_bytes());
        let mut bytes = [0; 20];
        hasher.finalize_xof().fill(&mut bytes);
        bytes[0] |= OF_ORIGIN;
        Self::from_wire(bytes)
    }

    #[must_use]
    pub fn is_of_origin(&self) -> bool {
        self.as_bytes()[0] & OF_ORIGIN != 0
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0.0
    }
}

impl PartialOrd for PeerId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PeerId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl std::hash::Hash for PeerId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.as_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a process is to the swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Agent,
    Origin,
    Tracker,
}

/// A process and where to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: PeerId,
    pub role: Role,
    /// Zone of the network (rack, availability zone); empty where there is only one.
    pub zone: Arc<str>,
    /// Advertised `host:port`, at most [`MAX_ADDR_BYTES`].
    pub addr: Arc<str>,
}

impl Peer {
    /// Returns whether the id is one that the role may have.
    #[must_use]
    pub fn id_fits_role(&self) -> bool {
        self.id.is_of_origin() == (self.role == Role::Origin)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id.as_bytes());
        out.push(match self.role {
            Role::Agent => 0,
            Role::Origin => 1,
            Role::Tracker => 2,
        });
        put_string(out, &self.zone);
        put_string(out, &self.addr);
    }

    /// # Errors
    /// Truncated bytes, an unknown role, or strings over their bounds.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = PeerId::from_wire(reader.array()?);
        let role = match reader.u8()? {
            0 => Role::Agent,
            1 => Role::Origin,
            2 => Role::Tracker,
            _ => return Err(DecodeError::Unknown("peer role")),
        };
        let zone = reader.string("zone", MAX_ZONE_BYTES)?.into();
        let addr = reader.string("address", MAX_ADDR_BYTES)?.into();
        Ok(Self {
            id,
            role,
            zone,
            addr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(id: PeerId, role: Role) -> bool {
        let (zone, addr) = ("".into(), "h:1".into());
        let peer = Peer {
            id,
            role,
            zone,
            addr,
        };
        let mut bytes = Vec::new();
        peer.encode(&mut bytes);
        let told = Peer::decode(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(told, peer, "the wire changes nothing");
        told.id_fits_role()
    }

    #[test]
    fn an_id_tells_whether_it_is_of_an_origin() {
        for number in 0..=u8::MAX {
            let origin = PeerId::of_origin(&format!("origin-{number}"));
            let other = PeerId::new([number; 20]);
            assert!(fits(origin, Role::Origin));
            assert!(!fits(other, Role::Origin));
            for role in [Role::Agent, Role::Tracker] {
                assert!(fits(other, role));
                assert!(!fits(origin, role));
            }
        }
    }
}
