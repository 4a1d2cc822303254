//! What an agent's or origin's swarm must know, and the numbers of its policy.

use torrent::Peer;

use crate::time::Micros;

/// What a swarm must know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this process is to others.
    pub me: Peer,
    /// Limit on payload received, in bytes per second; `None` where only the link limits it.
    pub download_rate: Option<u64>,
    pub policy: Policy,
}

impl Config {
    /// Returns the configuration of a process without limits and with the policy of choice.
    #[must_use]
    pub fn new(me: Peer) -> Self {
        Self {
            me,
            download_rate: None,
            policy: Policy::default(),
        }
    }
}

/// The numbers of the policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// After this long without a useful byte a download fails.
    pub patience: Micros,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            patience: Micros::from_secs(30),
        }
    }
}
