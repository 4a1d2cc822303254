//! A deterministic simulator of the swarm: many agents, origins and trackers in one thread, time
//! that jumps from event to event, links with rate and latency, and faults.
//!
//! Every process runs the real [`swarm::Swarm`] or [`swarm::Tracker`], and every message crosses
//! the real codec. Only the shells are stand-ins: payload is counted, not moved. The same scenario
//! and seed give the same run to the last event; [`Report::trace_hash`] tells.

mod blob;
mod check;
mod fault;
mod link;
mod member;
mod network;
mod presets;
mod queue;
mod receive;
mod report;
mod scenario;
mod storage;
mod trackers;
mod world;

pub use presets::{scenario, scenarios};
pub use report::Report;
pub use scenario::{BlobSpec, Expect, Fault, FaultKind, LinkSpec, Presence, Scenario};

/// Runs the scenario to its end: everybody who stays has everything, or its time is up.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    world::World::new(scenario, seed).run()
}

#[cfg(test)]
mod tests;
