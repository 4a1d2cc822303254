//! `shoal sim`: scenarios of the simulator.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::Sim;
use crate::output;

/// Runs the simulator's command. The exit code is a failure where a scenario is not as expected.
///
/// # Errors
/// An unknown scenario, or output that cannot be written.
pub(crate) fn run(what: Sim) -> anyhow::Result<ExitCode> {
    match what {
        Sim::List => {
            for name in sim::scenarios() {
                output::line(format_args!("{name:14} {}", find(&name)?.about))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Sim::Run {
            scenarios,
            seed,
            json,
        } => {
            let names = if scenarios.is_empty() {
                sim::scenarios()
            } else {
                scenarios
            };
            run_all(&names, seed, json)
        }
    }
}

fn find(name: &str) -> anyhow::Result<sim::Scenario> {
    sim::scenario(name).with_context(|| {
        format!("there is no scenario {name:?}; `shoal sim list` prints those there are")
    })
}

fn run_all(names: &[String], seed: u64, json: bool) -> anyhow::Result<ExitCode> {
    let scenarios: Vec<_> = names
        .iter()
        .map(|name| find(name))
        .collect::<Result<_, _>>()?;
    let mut code = ExitCode::SUCCESS;
    for scenario in &scenarios {
        let report = sim::run(scenario, seed);
        if json {
            output::line(serde_json::to_string(&report)?)?;
        } else {
            output::line(describe(&report))?;
        }
        if let Err(wrong) = report.check(scenario) {
            output::complain(&anyhow::anyhow!("{}: {wrong}", scenario.name));
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn describe(report: &sim::Report) -> String {
    format!(
        "{}, seed {}: {} peers, {}: {} complete, {} without, {} stuck; \
         p50 {:.2} s, p99 {:.2} s, longest {:.2} s ({:.2} x ideal); \
         origins sent {:.2} x, in vain {:.1} %; {} events, trace {}",
        report.scenario,
        report.seed,
        report.peers,
        output::bytes(report.bytes),
        report.completed,
        report.failed,
        report.stuck,
        report.p50_s,
        report.p99_s,
        report.max_s,
        report.max_s / report.ideal_s,
        report.egress_ratio,
        report.duplicate_ratio * 100.0,
        report.events,
        report.trace_hash.get(..12).unwrap_or(&report.trace_hash),
    )
}
