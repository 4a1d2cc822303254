//! The peer side of the swarm.

use std::collections::VecDeque;

use crate::config::Config;
use crate::event::{Input, Output};
use crate::invariants::Broken;
use crate::stats::Stats;
use crate::time::Time;

/// All blobs and connections of one agent or origin.
#[derive(Debug)]
pub struct Swarm {
    config: Config,
    outputs: VecDeque<Output>,
}

impl Swarm {
    #[must_use]
    pub fn new(config: Config, _seed: u64) -> Self {
        Self {
            config,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in what happened. Call [`Self::poll_output`] until it is empty afterwards.
    pub fn handle(&mut self, _now: Time, _input: Input) {}

    /// Does what is due. Call it when the time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, _now: Time) {}

    /// Returns the next thing to do; call it again until it returns `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns when [`Self::handle_timeout`] is due; ask again after each call of the others.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let _ = &self.config;
        Stats::default()
    }

    /// Checks every invariant.
    ///
    /// # Errors
    /// The first one that is broken.
    pub fn check(&self) -> Result<(), Broken> {
        Ok(())
    }
}
