//! What is simulated: machines, links, blobs, faults, and what is expected of the run.

use serde::{Deserialize, Serialize};

/// A cluster, what its agents download, and what happens to it meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// One sentence for people.
    pub about: String,
    pub agents: u32,
    pub origins: u32,
    /// Origins that own each blob.
    pub owners: u32,
    pub trackers: u32,
    /// Zones that the agents are spread over.
    pub zones: u32,
    pub agent_link: LinkSpec,
    pub origin_link: LinkSpec,
    /// Time of a message to the other end and back, in microseconds.
    pub rtt_us: u64,
    /// Agents ask for the blobs at random moments of this many milliseconds.
    pub join_spread_ms: u64,
    pub blobs: Vec<BlobSpec>,
    /// Agents that send damaged pieces, all the time.
    pub corrupt_agents: u32,
    /// Agents whose links have a tenth of the rate.
    pub slow_agents: u32,
    /// Agents that have everything, say so, and send none of it.
    #[serde(default)]
    pub mute_agents: u32,
    /// Where given, agents do not want whole blobs but read parts of them.
    #[serde(default)]
    pub parts: Option<Parts>,
    pub faults: Vec<Fault>,
    /// When a run that did not finish is given up.
    pub limit_ms: u64,
    pub expect: Expect,
}

/// Rates of a machine's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    pub up_bytes_per_s: u64,
    pub down_bytes_per_s: u64,
}

/// What an agent reads of each blob: parts at random places, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    pub count: u32,
    /// Length of each in bytes.
    pub bytes: u64,
}

/// A blob that all agents want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobSpec {
    pub bytes: u64,
    pub presence: Presence,
}

/// Where a blob is when the run starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Its owners announce it from the start.
    Seeded,
    /// Its owners find it in storage when they are asked.
    Stored,
    /// Its owners hash it while they read it, at this rate, from when they are asked.
    Growing { bytes_per_s: u64 },
    /// It is as `Growing`, and after this many pieces its source turns out to be another one.
    Revoked { bytes_per_s: u64, after_pieces: u32 },
    /// No storage has it.
    Absent,
    /// Storage answers with errors.
    Unreadable,
}

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub at_ms: u64,
    pub what: FaultKind,
    /// When what was killed starts again, with the pieces it had on disk.
    #[serde(default)]
    pub restart_after_ms: Option<u64>,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Some random agents end; the other ends of their connections see it.
    KillAgents {
        count: u32,
    },
    /// Some random agents vanish; nobody is told.
    LoseAgents {
        count: u32,
    },
    KillOrigin {
        index: u32,
    },
    LoseOrigin {
        index: u32,
    },
    KillTracker {
        index: u32,
    },
}

/// Bounds that a run must keep. Ratios are of the sum of the blobs' bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Downloads that end without the blob.
    pub failed: u64,
    /// Longest download, as a multiple of the ideal one.
    pub max_x: f64,
    /// Bytes that agents got from origins.
    pub max_egress_ratio: f64,
    /// Bytes that agents got and had or could not use.
    pub max_duplicate_ratio: f64,
    /// Longest read of a part, in seconds.
    #[serde(default)]
    pub max_read_s: Option<f64>,
}

impl Scenario {
    /// Returns the least time in which all agents could have all blobs: no link, no origin and no
    /// source may be idle for a moment, and the whole cluster's capacity must suffice.
    #[must_use]
    pub fn ideal_s(&self) -> f64 {
        let bytes: u64 = self.blobs.iter().map(|blob| blob.bytes).sum();
        let source = self.blobs.iter().map(|blob| match blob.presence {
            Presence::Growing { bytes_per_s } | Presence::Revoked { bytes_per_s, .. } => {
                blob.bytes as f64 / bytes_per_s.max(1) as f64
            }
            Presence::Seeded | Presence::Stored | Presence::Absent | Presence::Unreadable => 0.0,
        });
        let origins_up = self.origin_link.up_bytes_per_s * u64::from(self.origins);
        let agents_up = self.agent_link.up_bytes_per_s * u64::from(self.agents);
        let all = bytes * u64::from(self.agents);
        [
            bytes as f64 / self.agent_link.down_bytes_per_s.max(1) as f64,
            bytes as f64 / origins_up.max(1) as f64,
            all as f64 / (origins_up + agents_up).max(1) as f64,
        ]
        .into_iter()
        .chain(source)
        .fold(1e-6, f64::max)
    }
}
