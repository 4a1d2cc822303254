//! Members of the rings, as configurations name them.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use hashring::{Ring, RingError};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use torrent::peer::{MAX_ADDR_BYTES, MAX_ZONE_BYTES};
use torrent::{Peer, PeerId, Role};

use crate::dns::{self, DnsName, FromDns};

/// Most members of one ring.
pub const MAX_MEMBERS: usize = 64;
/// Longest name of a member in bytes: that of a host.
pub const MAX_NAME_BYTES: usize = 253;

/// Text that names no member, address or zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    #[error("{0:?} cannot be a member's name; write letters, digits, '.', '_' and '-'")]
    Name(String),
    #[error("{0:?} is not an address; write host:port, such as origin-1:5002 or [::1]:5002")]
    Addr(String),
    #[error("{0:?} cannot be a zone; write at most {MAX_ZONE_BYTES} printable characters")]
    Zone(String),
    #[error("a DNS name of origins needs the port for peers too: add peer_port")]
    NoPeerPort,
    #[error("only a DNS name of origins has a peer_port; leave it out")]
    PeerPort,
    #[error("{0} members are more than the {MAX_MEMBERS} that one ring can have")]
    TooMany(usize),
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// Name of a member of a ring. It decides what the member owns, and stays when addresses change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Where somebody is reached: `host:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(Arc<str>);

/// Part of the network (rack, availability zone); empty where there is only one.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Arc<str>);

impl FromStr for Name {
    type Err = MembersError;

    fn from_str(text: &str) -> Result<Self, MembersError> {
        let good = !text.is_empty()
            && text.len() <= MAX_NAME_BYTES
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(MembersError::Name(clip(text)))
        }
    }
}

impl FromStr for Addr {
    type Err = MembersError;

    fn from_str(text: &str) -> Result<Self, MembersError> {
        let error = || MembersError::Addr(clip(text));
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let host_is_good = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
            None => {
                !host.is_empty()
                    && host.bytes().all(|byte| {
                        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
                    })
            }
        };
        let port_is_good = port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0);
        if host_is_good && port_is_good && text.len() <= MAX_ADDR_BYTES {
            Ok(Self(text.into()))
        } else {
            Err(error())
        }
    }
}

impl Addr {
    /// Returns the part after the last colon.
    #[must_use]
    pub fn port(&self) -> u16 {
        let port = self.0.rsplit_once(':').map(|(_, port)| port.parse());
        port.and_then(Result::ok).expect("it was parsed")
    }
}

impl FromStr for Zone {
    type Err = MembersError;

    fn from_str(text: &str) -> Result<Self, MembersError> {
        if text.len() <= MAX_ZONE_BYTES && !text.contains(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(MembersError::Zone(clip(text)))
        }
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Self(addr.to_string().into())
    }
}

macro_rules! impl_text {
    ($($type:ident),*) => {$(
        impl $type {
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the text for somebody who keeps it.
            #[must_use]
            pub fn to_shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

impl_text!(Name, Addr, Zone);

/// An origin: owns blobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    pub name: Name,
    /// Where services find it.
    pub http: Addr,
    /// Where peers find it.
    pub peer: Addr,
    #[serde(default)]
    pub zone: Zone,
}

impl Origin {
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        PeerId::of_origin(self.name.as_str())
    }

    /// Returns the origin as the swarm knows it.
    #[must_use]
    pub fn as_peer(&self) -> Peer {
        Peer {
            id: self.peer_id(),
            role: Role::Origin,
            zone: self.zone.to_shared(),
            addr: self.peer.to_shared(),
        }
    }
}

/// A tracker: knows who takes part in the blobs it owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tracker {
    pub name: Name,
    /// Where peers find it.
    pub peer: Addr,
}

/// A build-index: answers for the repositories it owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildIndex {
    pub name: Name,
    /// Where services find it.
    pub http: Addr,
}

macro_rules! impl_member {
    ($($type:ident),*) => {$(
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                self.name.as_str()
            }
        }
    )*};
}

impl_member!(Origin, Tracker, BuildIndex);

impl FromDns for Origin {
    fn check(name: &DnsName) -> Result<(), MembersError> {
        name.peer_port.map(drop).ok_or(MembersError::NoPeerPort)
    }

    fn at(name: &DnsName, ip: IpAddr) -> Result<Self, MembersError> {
        let peer = name.peer_port.ok_or(MembersError::NoPeerPort)?;
        Ok(Self {
            name: dns::name_of(ip).parse()?,
            http: SocketAddr::new(ip, name.dns.port()).into(),
            peer: SocketAddr::new(ip, peer.get()).into(),
            zone: Zone::default(),
        })
    }
}

impl FromDns for Tracker {
    fn check(name: &DnsName) -> Result<(), MembersError> {
        no_peer_port(name)
    }

    fn at(name: &DnsName, ip: IpAddr) -> Result<Self, MembersError> {
        Ok(Self {
            name: dns::name_of(ip).parse()?,
            peer: SocketAddr::new(ip, name.dns.port()).into(),
        })
    }
}

impl FromDns for BuildIndex {
    fn check(name: &DnsName) -> Result<(), MembersError> {
        no_peer_port(name)
    }

    fn at(name: &DnsName, ip: IpAddr) -> Result<Self, MembersError> {
        Ok(Self {
            name: dns::name_of(ip).parse()?,
            http: SocketAddr::new(ip, name.dns.port()).into(),
        })
    }
}

const fn no_peer_port(name: &DnsName) -> Result<(), MembersError> {
    match name.peer_port {
        Some(_) => Err(MembersError::PeerPort),
        None => Ok(()),
    }
}

/// All members of a ring. Clones are cheap.
pub struct Members<M> {
    ring: Arc<Ring<M>>,
    /// The name that stands for them, where they are not listed.
    dns: Option<Arc<DnsName>>,
}

impl<M: AsRef<str>> Members<M> {
    /// Makes the ring of these members.
    ///
    /// # Errors
    /// Two members of one name, or more than [`MAX_MEMBERS`].
    pub fn new(members: Vec<M>) -> Result<Self, MembersError> {
        if members.len() > MAX_MEMBERS {
            return Err(MembersError::TooMany(members.len()));
        }
        Ok(Self {
            ring: Arc::new(Ring::new(members)?),
            dns: None,
        })
    }

    /// Returns the member of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&M> {
        self.iter().find(|member| (*member).as_ref() == name)
    }
}

impl<M: FromDns> Members<M> {
    /// Makes the ring of the members at these addresses of a name.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn from_dns(name: DnsName, ips: &[IpAddr]) -> Result<Self, MembersError> {
        M::check(&name)?;
        let members: Result<_, _> = ips.iter().map(|ip| M::at(&name, *ip)).collect();
        Ok(Self {
            dns: Some(Arc::new(name)),
            ..Self::new(members?)?
        })
    }
}

impl<M> Members<M> {
    #[must_use]
    pub fn ring(&self) -> &Ring<M> {
        &self.ring
    }

    /// Returns the name that stands for the members, where they are not listed.
    #[must_use]
    pub fn dns(&self) -> Option<&DnsName> {
        self.dns.as_deref()
    }

    /// Returns the members in the order of the configuration.
    #[must_use]
    pub fn as_slice(&self) -> &[M] {
        self.ring.members()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, M> {
        self.as_slice().iter()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Returns whether it is known who the members are: they are listed, or their name was resolved.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.dns.is_none() || !self.as_slice().is_empty()
    }

    /// Returns whether nobody is named, not even by DNS.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty() && self.dns.is_none()
    }
}

impl<'a, M> IntoIterator for &'a Members<M> {
    type Item = &'a M;
    type IntoIter = std::slice::Iter<'a, M>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<M> Clone for Members<M> {
    fn clone(&self) -> Self {
        Self {
            ring: Arc::clone(&self.ring),
            dns: self.dns.clone(),
        }
    }
}

impl<M: AsRef<str>> Default for Members<M> {
    fn default() -> Self {
        Self::new(Vec::new()).expect("nobody is there twice")
    }
}

impl<M: PartialEq> PartialEq for Members<M> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice() && self.dns == other.dns
    }
}

impl<M: Eq> Eq for Members<M> {}

impl<M: fmt::Debug> fmt::Debug for Members<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<M: Serialize> Serialize for Members<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.dns {
            Some(name) => name.serialize(serializer),
            None => self.as_slice().serialize(serializer),
        }
    }
}

impl<'de, M: FromDns + Deserialize<'de>> Deserialize<'de> for Members<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListOrName(PhantomData))
    }
}

/// Reads members one by one, or the name that stands for them.
struct ListOrName<M>(PhantomData<M>);

impl<'de, M: FromDns + Deserialize<'de>> Visitor<'de> for ListOrName<M> {
    type Value = Members<M>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of members, or the DNS name that they have as {dns: \"host:port\"}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Members<M>, A::Error> {
        let members = Vec::deserialize(SeqAccessDeserializer::new(list))?;
        Members::new(members).map_err(serde::de::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Members<M>, A::Error> {
        let name = DnsName::deserialize(MapAccessDeserializer::new(map))?;
        Members::from_dns(name, &[]).map_err(serde::de::Error::custom)
    }
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in [
            "a:1",
            "127.0.0.1:65535",
            "[::1]:80",
            "o-1.o_2.svc.cluster.local:5",
        ] {
            assert_eq!(good.parse::<Addr>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:+1",
            "a:65536",
            "::1:80",
            "[::1]",
            "[a]:1",
            "a b:1",
            "http://a:1",
            "a/b:1",
        ] {
            assert_eq!(bad.parse::<Addr>(), Err(MembersError::Addr(bad.into())));
        }
    }

    #[test]
    fn names_are_plain() {
        for good in ["origin-1", "A.b_c"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "ä", &"a".repeat(254)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn members_are_read_from_a_list() {
        let text = "- {name: o1, http: 'o1:1', peer: 'o1:2'}\n\
                    - {name: o2, http: 'o2:1', peer: 'o2:2', zone: b}\n";
        let members: Members<Origin> = serde_saphyr::from_str(text).unwrap();
        assert_eq!(members.len(), 2);
        let second = members.get("o2").unwrap();
        assert_eq!(second.as_peer().id, PeerId::of_origin("o2"));
        assert_eq!(&*second.as_peer().zone, "b");
        let again = serde_saphyr::to_string(&members).unwrap();
        let again: Members<Origin> = serde_saphyr::from_str(&again).unwrap();
        assert_eq!(again, members);

        let twice = text.replace("o2,", "o1,");
        let error = serde_saphyr::from_str::<Members<Origin>>(&twice).unwrap_err();
        assert!(
            error.to_string().contains("two members are named"),
            "{error}"
        );
    }

    #[test]
    fn rings_have_a_limit() {
        let members = (0..=MAX_MEMBERS).map(|number| number.to_string());
        assert_eq!(
            Members::new(members.collect()).unwrap_err(),
            MembersError::TooMany(MAX_MEMBERS + 1)
        );
    }
}
