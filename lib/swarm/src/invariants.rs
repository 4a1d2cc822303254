//! What must hold of a swarm at every moment.

/// A breach of what must always hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct Broken {
    /// The rule.
    pub rule: &'static str,
    pub detail: String,
}
