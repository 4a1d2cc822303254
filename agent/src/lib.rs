//! A registry on each host: what it serves comes out of the swarm.

pub mod belonging;
pub mod cache;
pub mod content;
pub mod forward;
