//! End-to-end tests: the built binary against real clients. One binary, so that it is linked once.
#![expect(
    clippy::print_stderr,
    reason = "what was measured, for who reads why a test failed"
)]

mod answers;
mod authorities;
mod cold;
mod command_line;
mod compose;
mod containerd;
mod distribution;
mod dns;
mod docker;
mod durability;
mod faults;
mod full_disk;
mod integrity;
mod linearizable;
mod nydus;
mod outages;
mod pull;
mod runtimes;
mod skopeo;
mod start;
mod storage;
mod swarm;
mod tls;
mod uploads;
