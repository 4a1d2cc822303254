//! Members that a DNS name stands for: each address that it has is one.
//!
//! Names are asked for at the start, until two answers are the same, and every now and then while
//! the process runs. It goes on with the members that it started with: where the name has other
//! addresses by then, it says so in its log, its status and a metric, until it is started again.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::members::{Addr, MAX_MEMBERS, Members, MembersError};

/// How long a name is asked for at the start, and the pause in between.
const WAIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);
/// How long one answer may take.
const LOOKUP_WAIT: Duration = Duration::from_secs(5);
/// How often names are asked for later.
const AGAIN: Duration = Duration::from_secs(30);

/// A name that stands for all members of a ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsName {
    /// The name, and the port of each address: that of services, where the member has one.
    pub dns: Addr,
    /// The port for peers, where members have both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_port: Option<NonZeroU16>,
}

/// What asks DNS for the addresses of a host; its port does not count.
pub type Lookup = Arc<dyn Fn(Addr) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// A name that has no addresses, or that cannot stand for members.
#[derive(Debug, thiserror::Error)]
#[error(
    "`cluster.{ring}`: {name} has no addresses that stay after {} s ({reason}); check the name, or \
     list the members one by one",
    WAIT.as_secs()
)]
pub struct DnsError {
    ring: &'static str,
    name: Addr,
    reason: String,
}

/// Asks the system.
#[must_use]
pub fn system() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host(name.as_str()).await?;
            Ok(found.map(|addr| addr.ip()).collect())
        })
    })
}

impl Cluster {
    /// Gives each ring that a name stands for the members that its addresses are.
    ///
    /// # Errors
    /// [`DnsError`] where a name stays without addresses, or they do not stay the same.
    pub async fn resolve(&mut self, lookup: &Lookup) -> Result<(), DnsError> {
        tokio::try_join!(
            fill("origins", &mut self.origins, lookup),
            fill("trackers", &mut self.trackers, lookup),
            fill("build_indexes", &mut self.build_indexes, lookup),
        )?;
        Ok(())
    }

    /// Returns the rings that names stand for, with the names of their members.
    fn named(&self) -> Vec<Ring> {
        fn ring<M: AsRef<str>>(ring: &'static str, members: &Members<M>) -> Option<Ring> {
            let mut in_use: Vec<_> = members.iter().map(|one| one.as_ref().to_owned()).collect();
            in_use.sort();
            Some(Ring {
                ring,
                name: members.dns()?.dns.clone(),
                in_use,
            })
        }
        [
            ring("origins", &self.origins),
            ring("trackers", &self.trackers),
            ring("build_indexes", &self.build_indexes),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

async fn fill<M: FromDns>(
    ring: &'static str,
    members: &mut Members<M>,
    lookup: &Lookup,
) -> Result<(), DnsError> {
    let Some(name) = members.dns().cloned() else {
        return Ok(());
    };
    let mut reason = "no answer".to_owned();
    let found = tokio::time::timeout(WAIT, settled(ring, &name, lookup, &mut reason)).await;
    *members = found.map_err(|_| DnsError {
        ring,
        name: name.dns,
        reason,
    })?;
    Ok(())
}

/// Returns the members that a name stands for when two answers in a row were the same: while a
/// cluster starts, a name has a part of its addresses. `reason` is what was wrong last.
async fn settled<M: FromDns>(
    ring: &'static str,
    name: &DnsName,
    lookup: &Lookup,
    reason: &mut String,
) -> Members<M> {
    let mut before = Vec::new();
    loop {
        *reason = match addresses(&name.dns, lookup).await {
            Ok(addresses) if addresses.is_empty() => "it has none".to_owned(),
            Ok(addresses) if addresses == before => {
                match Members::from_dns(name.clone(), &addresses) {
                    Ok(found) => {
                        tracing::info!(ring, name = %name.dns, ?addresses, "found members");
                        return found;
                    }
                    Err(error) => error.to_string(),
                }
            }
            Ok(addresses) => {
                let reason = format!("its addresses were {addresses:?} last, and change");
                before = addresses;
                reason
            }
            Err(error) => error.to_string(),
        };
        tracing::debug!(ring, name = %name.dns, reason, "asking again");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns the addresses of a name, each once, in order.
async fn addresses(name: &Addr, lookup: &Lookup) -> io::Result<Vec<IpAddr>> {
    let found = tokio::time::timeout(LOOKUP_WAIT, lookup(name.clone())).await;
    let mut found = found.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    found.sort();
    found.dedup();
    found.truncate(MAX_MEMBERS + 1);
    Ok(found)
}

/// Members that an address makes.
pub trait FromDns: AsRef<str> + Sized {
    /// Checks that a name has what such members need.
    ///
    /// # Errors
    /// What it lacks, or has too much.
    fn check(name: &DnsName) -> Result<(), MembersError>;

    /// Makes the member at an address.
    ///
    /// # Errors
    /// As [`Self::check`].
    fn at(name: &DnsName, ip: IpAddr) -> Result<Self, MembersError>;
}

/// A ring that a name stands for.
#[derive(Clone, Debug)]
struct Ring {
    ring: &'static str,
    name: Addr,
    /// Names of the members that this process started with.
    in_use: Vec<String>,
}

/// What names have come to since the start. Clones are the same.
#[derive(Clone, Debug)]
pub struct Watch {
    rings: Arc<[Ring]>,
    /// The other members that a name stands for by now, by ring.
    changed: Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>,
}

impl Watch {
    /// Watches the names of a cluster that was resolved; `None` where it has none.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Option<Self> {
        let rings = cluster.named();
        (!rings.is_empty()).then(|| Self {
            rings: rings.into(),
            changed: Arc::default(),
        })
    }

    /// Asks for the names again and again; it never ends.
    pub async fn run(self, lookup: Lookup) {
        loop {
            tokio::time::sleep(AGAIN).await;
            self.look(&lookup).await;
        }
    }

    async fn look(&self, lookup: &Lookup) {
        for Ring { ring, name, in_use } in &*self.rings {
            let found = match addresses(name, lookup).await {
                Ok(found) => found,
                // Members are asked whether DNS answers or not.
                Err(error) => {
                    tracing::debug!(ring, %name, %error, "cannot look whether members changed");
                    continue;
                }
            };
            let mut found: Vec<_> = found.into_iter().map(name_of).collect();
            found.sort();
            let mut changed = self.changed.lock();
            if found.is_empty() || found == *in_use {
                if changed.remove(ring).is_some() {
                    tracing::info!(ring, %name, "the members are those in use again");
                }
            } else if changed.get(ring) != Some(&found) {
                tracing::warn!(
                    ring, %name, ?found, ?in_use,
                    "the members changed; this process uses the old ones until it is started again"
                );
                changed.insert(ring, found);
            }
        }
    }

    /// Returns how many rings have other members than are used.
    #[must_use]
    pub fn outdated(&self) -> usize {
        self.changed.lock().len()
    }

    /// Returns what people want to know of each ring.
    #[must_use]
    pub fn status(&self) -> Value {
        let changed = self.changed.lock();
        let ring = |ring: &Ring| {
            let status = json!({
                "dns": ring.name,
                "in_use": ring.in_use,
                "found": changed.get(ring.ring).unwrap_or(&ring.in_use),
                "restart_needed": changed.contains_key(ring.ring),
            });
            (ring.ring.to_owned(), status)
        };
        Value::Object(self.rings.iter().map(ring).collect())
    }
}

/// Returns the name of the member at an address: the address, as names can have it.
pub(crate) fn name_of(ip: IpAddr) -> String {
    ip.to_canonical().to_string().replace(':', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with these, one after the other, and then with the last one.
    fn answers(answers: &[&str]) -> Lookup {
        let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
        let next = Mutex::new(0);
        Arc::new(move |_| {
            let mut next = next.lock();
            let answer = answers[(*next).min(answers.len() - 1)].clone();
            *next += 1;
            Box::pin(async move {
                if answer == "failure" {
                    return Err(io::Error::other("no such name"));
                }
                let ips = answer.split_whitespace();
                Ok(ips.map(|ip| ip.parse().unwrap()).collect())
            })
        })
    }

    fn cluster() -> Cluster {
        let text = "
origins: {dns: 'origins.example:5002', peer_port: 5012}
trackers: {dns: 'trackers.example:5003'}
build_indexes: [{name: b1, http: 'b1:1'}]
";
        serde_saphyr::from_str(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_is_a_member() {
        let mut cluster = cluster();
        assert!(!cluster.origins.is_empty(), "somebody is named");
        let of_origins = answers(&["10.0.0.2 10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2"]);
        let of_trackers = answers(&["fd00::2 10.0.0.9"]);
        let lookup: Lookup = Arc::new(move |name| match name.as_str() {
            "origins.example:5002" => of_origins(name),
            _ => of_trackers(name),
        });
        cluster.resolve(&lookup).await.unwrap();
        let origins: Vec<_> = cluster.origins.iter().collect();
        assert_eq!(origins.len(), 2);
        assert_eq!(origins[0].name.as_str(), "10.0.0.1");
        assert_eq!(origins[0].http.as_str(), "10.0.0.1:5002");
        assert_eq!(origins[0].peer.as_str(), "10.0.0.1:5012");
        let trackers: Vec<_> = cluster.trackers.iter().collect();
        assert_eq!(trackers[1].name.as_str(), "fd00--2");
        assert_eq!(trackers[1].peer.as_str(), "[fd00::2]:5003");
        assert_eq!(cluster.build_indexes.len(), 1);
    }

    fn of_trackers() -> Cluster {
        serde_saphyr::from_str("trackers: {dns: 'trackers.example:5003'}").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_waited_for_and_not_for_ever() {
        let mut cluster = of_trackers();
        let lookup = answers(&["failure", "", "10.0.0.1"]);
        cluster.resolve(&lookup).await.unwrap();
        assert_eq!(cluster.trackers.len(), 1);

        let silent: Lookup = Arc::new(|_| Box::pin(std::future::pending()));
        for (lookup, reason) in [
            (answers(&["failure"]), "no such name"),
            (silent, "timed out"),
        ] {
            let began = tokio::time::Instant::now();
            let error = cluster_error(&lookup).await;
            assert_eq!(began.elapsed().as_secs(), WAIT.as_secs());
            for word in ["cluster.trackers", "trackers.example:5003", "30 s", reason] {
                assert!(error.contains(word), "{error}");
            }
        }
    }

    async fn cluster_error(lookup: &Lookup) -> String {
        of_trackers().resolve(lookup).await.unwrap_err().to_string()
    }

    /// Members of a cluster that starts come one after the other.
    #[tokio::test(start_paused = true)]
    async fn two_answers_in_a_row_are_believed() {
        let mut cluster = of_trackers();
        let (one, two) = ("10.0.0.1", "10.0.0.1 10.0.0.2");
        let lookup = answers(&[one, two, one, "10.0.0.2 10.0.0.1", two, one]);
        let began = tokio::time::Instant::now();
        cluster.resolve(&lookup).await.unwrap();
        assert_eq!(cluster.trackers.len(), 2);
        assert_eq!(began.elapsed().as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_noticed_and_not_acted_on() {
        let mut cluster = cluster();
        cluster.resolve(&answers(&["10.0.0.1"])).await.unwrap();
        let watch = Watch::new(&cluster).unwrap();
        for (found, outdated) in [
            ("10.0.0.1", 0),
            ("10.0.0.1 10.0.0.2", 2),
            ("failure", 2),
            ("10.0.0.1", 0),
            ("10.0.0.3", 2),
            ("", 0),
        ] {
            watch.look(&answers(&[found])).await;
            assert_eq!(watch.outdated(), outdated, "{found}");
            let status = &watch.status()["trackers"];
            assert_eq!(status["restart_needed"], outdated > 0);
            assert_eq!(status["in_use"], json!(["10.0.0.1"]));
        }
        assert!(Watch::new(&Cluster::default()).is_none());
    }

    #[test]
    fn names_have_the_ports_that_members_need() {
        for (text, word) in [
            ("origins: {dns: 'o:1'}", "peer_port"),
            ("trackers: {dns: 't:1', peer_port: 2}", "peer_port"),
            ("trackers: {dns: 't'}", "host:port"),
            ("trackers: {dns: 't:1', port: 2}", "port"),
            ("build_indexes: {}", "dns"),
        ] {
            let error = serde_saphyr::from_str::<Cluster>(text).unwrap_err();
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        let cluster = cluster();
        let again = serde_saphyr::to_string(&cluster).unwrap();
        assert_eq!(serde_saphyr::from_str::<Cluster>(&again).unwrap(), cluster);
    }
}
