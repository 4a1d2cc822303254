//! What goes wrong.

use std::ops::Range;

use rand::seq::IteratorRandom as _;
use swarm::Micros;

use crate::scenario::FaultKind;
use crate::world::{Event, Process, World};

impl World {
    pub(crate) fn fault(&mut self, index: usize) {
        self.faults_left -= 1;
        let fault = self.scenario.faults[index];
        let (victims, told) = match fault.what {
            FaultKind::KillAgents { count } => (self.some_agents(count), true),
            FaultKind::LoseAgents { count } => (self.some_agents(count), false),
            FaultKind::KillOrigin { index } => (nth(self.origins(), index), true),
            FaultKind::LoseOrigin { index } => (nth(self.origins(), index), false),
            FaultKind::KillTracker { index } => (nth(self.trackers(), index), true),
        };
        for machine in victims {
            self.kill(machine, told);
            match fault.restart_after_ms {
                Some(after) => {
                    let at = self.now + Micros::from_millis(after);
                    self.queue.push(at, Event::Start(machine));
                }
                None => self.give_up(machine),
            }
        }
    }

    /// Chooses agents that run.
    fn some_agents(&mut self, count: u32) -> Vec<usize> {
        let machines = &self.machines;
        let up = self
            .agents()
            .filter(|agent| !matches!(machines[*agent].process, Process::Down));
        let mut chosen = up.sample(&mut self.rng, count as usize);
        chosen.sort_unstable();
        chosen
    }

    /// Ends the process; `told` says whether the other ends of its connections see it.
    fn kill(&mut self, machine: usize, told: bool) {
        let place = &mut self.machines[machine];
        place.process = Process::Down;
        place.armed = None;
        place.link.clear();
        self.hang_up(machine, told);
    }

    /// Closes all connections of the machine, and tells the other ends.
    pub(crate) fn hang_up(&mut self, machine: usize, told: bool) {
        let at = self.now + self.latency();
        for conn in 0..self.conns.len() {
            let ends = self.conns[conn].machines;
            let Some(end) = ends.iter().position(|other| *other == machine) else {
                continue;
            };
            self.conns[conn].open[end] = false;
            if told && self.conns[conn].open[1 - end] {
                let end = 1 - end;
                self.queue.push(at, Event::Reset { conn, end });
            }
        }
    }

    /// Nobody waits for the downloads of a machine that does not come back.
    fn give_up(&mut self, machine: usize) {
        let before = self.downloads.len();
        self.downloads
            .retain(|(agent, _), download| *agent != machine || download.outcome.is_some());
        self.unfinished -= before - self.downloads.len();
    }
}

/// Returns the machine of this index, if there is one.
fn nth(mut machines: Range<usize>, index: u32) -> Vec<usize> {
    machines.nth(index as usize).into_iter().collect()
}
