//! Counters of a swarm.

/// What a swarm did and holds, for metrics and the status page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub connections: usize,
}
