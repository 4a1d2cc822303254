//! End-to-end tests: the built binary against real clients. One binary, so that it is linked once.

mod answers;
mod command_line;
mod compose;
mod containerd;
mod distribution;
mod dns;
mod docker;
mod faults;
mod durability;
mod integrity;
mod linearizable;
mod pull;
mod runtimes;
mod skopeo;
mod start;
mod storage;
mod swarm;
mod tls;
mod uploads;
