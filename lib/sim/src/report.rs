//! Figures of a run.

use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;

/// What came out of a run. Seconds are of simulated time, from an agent's own join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub scenario: String,
    pub seed: u64,
    /// Agents and origins.
    pub peers: u32,
    /// Bytes of all blobs.
    pub bytes: u64,
    /// The least time in which all agents could have everything.
    pub ideal_s: f64,
    pub p50_s: f64,
    pub p99_s: f64,
    pub max_s: f64,
    /// Bytes that agents got from origins, over `bytes`.
    pub egress_ratio: f64,
    /// Bytes that agents got in vain (twice, or damaged), over those they could use.
    pub duplicate_ratio: f64,
    /// The longest read of a part; 0 where whole blobs are wanted.
    pub longest_read_s: f64,
    /// Downloads that completed.
    pub completed: u64,
    /// Downloads that ended without the blob.
    pub failed: u64,
    /// Downloads that had not ended when the run was given up.
    pub stuck: u64,
    pub events: u64,
    /// Simulated time at the end.
    pub end_s: f64,
    /// BLAKE3 over all events, in hex.
    pub trace_hash: String,
    /// What must never happen, and did. The run ended there.
    pub violations: Vec<String>,
}

impl Report {
    /// Compares the figures with what the scenario expects.
    ///
    /// # Errors
    /// Everything that is out of bounds, and the command that runs the same again.
    pub fn check(&self, scenario: &Scenario) -> Result<(), String> {
        let expect = &scenario.expect;
        let mut wrong = self.violations.clone();
        let max_x = self.max_s / self.ideal_s;
        let bounds = [
            ("longest download over the ideal", max_x, expect.max_x),
            ("egress ratio", self.egress_ratio, expect.max_egress_ratio),
            (
                "duplicate ratio",
                self.duplicate_ratio,
                expect.max_duplicate_ratio,
            ),
        ];
        for (what, value, bound) in bounds {
            if value > bound {
                wrong.push(format!("{what}: {value:.3} exceeds {bound:.3}"));
            }
        }
        if let Some(bound) = expect.max_read_s
            && self.longest_read_s > bound
        {
            let longest = self.longest_read_s;
            wrong.push(format!("longest read: {longest:.3} s exceeds {bound:.3} s"));
        }
        if self.stuck > 0 {
            wrong.push(format!("{} downloads are stuck", self.stuck));
        }
        if self.failed != expect.failed {
            let (failed, expected) = (self.failed, expect.failed);
            wrong.push(format!("{failed} downloads failed, not {expected}"));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{}\nrun it again: shoal sim run {} --seed {}",
            wrong.join("\n"),
            self.scenario,
            self.seed
        ))
    }
}

/// Returns the smallest sample that at least `percent` of all do not exceed; 0 of none.
pub(crate) fn percentile(sorted_us: &[u64], percent: usize) -> u64 {
    let rank = (sorted_us.len() * percent).div_ceil(100);
    sorted_us
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<u64> = (1..=200).collect();
        assert_eq!(percentile(&samples, 50), 100);
        assert_eq!(percentile(&samples, 99), 198);
        assert_eq!(percentile(&samples, 100), 200);
        assert_eq!(percentile(&[7], 50), 7);
        assert_eq!(percentile(&[], 50), 0);
    }
}
