//! Every decision of the swarm: whom to connect to, which piece to ask of whom, whom to serve
//! first, whom a tracker names, what an origin gives. It does no IO, reads no clock, draws no
//! randomness of its own, and never sees a byte of payload: inputs and outputs are data, so the
//! simulator drives exactly the code that production drives.

pub mod announce;
pub mod config;
mod connection;
mod download;
mod early;
pub mod event;
mod grants;
mod handout;
pub mod invariants;
mod lifecycle;
mod links;
pub mod message;
mod naming;
mod partners;
mod picker;
mod proof;
mod rate;
mod readers;
mod rescue;
mod resolve;
mod seed;
mod set;
pub mod stats;
mod swarm;
pub mod time;
mod timers;
mod torrent;
pub mod tracker;
mod upload;
mod verdict;
pub mod wire;

pub use config::Config;
pub use event::{
    CloseReason, ConnId, Failure, Found, Input, Output, ReaderId, SessionId, TrackerInput,
    TrackerOutput,
};
pub use invariants::Broken;
pub use message::{Message, Priority, RequestId};
pub use stats::Stats;
pub use swarm::Swarm;
pub use time::{Micros, Time};
pub use tracker::Tracker;
