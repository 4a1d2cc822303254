//! Figures of a cluster on this machine: every role is a process of its own, clients pull through
//! the agents, and what it cost is read where nobody can embellish it.
//!
//! CPU time and memory come from the kernel's accounts of each process, bytes from the counters
//! that the roles keep at their sockets and at the storage. What the clients here do themselves
//! (making payload, hashing answers) is in no figure but the times.

mod client;
mod cluster;
mod counters;
mod document;
mod idle;
mod machine;
mod payload;
mod process;
mod push;
mod small;
mod storage;
mod suite;
mod swarm;

pub use cluster::Place;
pub use document::document;
pub use idle::{IdleReport, idle};
pub use machine::Machine;
pub use push::{PushReport, push};
pub use small::{SmallPlan, SmallReport, small};
pub use storage::Storage;
pub use suite::Suite;
pub use swarm::{ByRole, Percentiles, SwarmPlan, SwarmReport, swarm};
