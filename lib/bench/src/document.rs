//! The page with the figures.

use std::fmt::Write as _;

use serde::Serialize;

use crate::suite::Suite;

const MIB: f64 = (1 << 20) as f64;

/// A goal, and how far we are.
struct Row {
    what: &'static str,
    measured: f64,
    /// Most that it may be.
    goal: f64,
    unit: &'static str,
    kraken: &'static str,
    dragonfly: &'static str,
}

/// Writes the page.
#[must_use]
pub fn document(suite: &Suite) -> String {
    let machine = &suite.machine;
    let mut page = format!(
        "# Figures\n\n\
         `make bench` wrote this page; run it to have your own. Every role is a process of its own \
         on one machine, they speak over the loopback, and clients hash what they get. CPU time and \
         memory are the kernel's accounts of each process (clients are in none of them), bytes come \
         from counters at the sockets and at the storage.\n\n\
         | | |\n|---|---|\n\
         | commit | {} |\n| machine | {}, {} CPUs, {:.0} GiB |\n| kernel | {} |\n\
         | file system | {} |\n\n",
        suite.commit,
        machine.cpu,
        machine.cpus,
        machine.memory_bytes as f64 / MIB / 1024.0,
        machine.kernel,
        machine.file_system,
    );
    page.push_str(
        "## Goals\n\n\
         Kraken (2a7fbcb7, data in memory) and Dragonfly (scheduler 66db456, client 1.5.10) were \
         measured elsewhere, on a virtual machine with 2 CPUs such as this one, each once with the \
         settings it comes with. They are no part of `make bench`: read them as orders of \
         magnitude.\n\n\
         | | measured | goal | met | Kraken | Dragonfly |\n|---|---|---|---|---|---|\n",
    );
    for row in rows(suite) {
        let met = if row.measured <= row.goal {
            "yes"
        } else {
            "**no**"
        };
        let _ = writeln!(
            page,
            "| {} | {} {} | ≤ {} | {met} | {} | {} |",
            row.what,
            short(row.measured),
            row.unit,
            row.goal,
            row.kraken,
            row.dragonfly,
        );
    }
    page.push_str(
        "\nWall-clock times depend on what else the machine does; CPU time does so less.\n",
    );
    page.push_str("\n## Raw\n");
    raw(&mut page, "Roles without work", "idle", &suite.idle);
    raw(&mut page, "Pushing 1 GiB", "push --size 1GiB", &suite.push);
    raw(&mut page, "One agent", "swarm --agents 1", &suite.one);
    raw(&mut page, "8 agents", "swarm --agents 8", &suite.eight);
    let flags = "swarm --agents 8 --backend s3 --cold --kill-tracker";
    raw(
        &mut page,
        "8 agents, tracker killed",
        flags,
        &suite.tracker_killed,
    );
    let flags = "swarm --agents 1 --backend s3 --cold";
    raw(&mut page, "One agent, cold origin", flags, &suite.one_cold);
    let flags = "swarm --agents 8 --backend s3 --cold";
    raw(&mut page, "8 agents, cold origin", flags, &suite.eight_cold);
    let flags = "small --backend s3";
    raw(
        &mut page,
        "64 blobs of 64 KiB, cold origin",
        flags,
        &suite.small_cold,
    );
    page
}

fn raw(page: &mut String, title: &str, command: &str, report: &impl Serialize) {
    let json = serde_json::to_string(report).expect("a report is plain data");
    let _ = write!(
        page,
        "\n{title} (`shoal bench {command} --json`):\n\n```json\n{json}\n```\n"
    );
}

#[expect(clippy::too_many_lines, reason = "one entry for each goal")]
fn rows(suite: &Suite) -> Vec<Row> {
    let (one, eight) = (&suite.one, &suite.eight);
    let (cold, eight_cold, small) = (&suite.one_cold, &suite.eight_cold, &suite.small_cold);
    let requests = eight_cold.bytes.div_ceil(8 << 20) + 2;
    let row = |what, measured, goal, unit, kraken, dragonfly| Row {
        what,
        measured,
        goal,
        unit,
        kraken,
        dragonfly,
    };
    let killed = suite.tracker_killed.backend_read_ratio.unwrap_or_default();
    let total = eight.cpu_s_per_gb.total.unwrap_or_default();
    vec![
        row(
            "first byte of 1 GiB, origin warm",
            one.first_byte_ms.p50,
            50.0,
            "ms",
            "2200–3300",
            "–",
        ),
        row(
            "first byte of 1 GiB, origin reads S3",
            cold.first_byte_ms.p50,
            150.0,
            "ms",
            "6500–11400",
            "570–770",
        ),
        row(
            "one agent, CPU per GB",
            one.cpu_s_per_gb.agent,
            1.0,
            "s",
            "2.2–3.6",
            "3.6–3.9",
        ),
        row(
            "one agent, peak memory",
            one.rss_peak_bytes.agent as f64 / MIB,
            64.0,
            "MiB",
            "79–222",
            "137–160",
        ),
        row(
            "agent without work, memory",
            suite.idle.rss_bytes.agent as f64 / MIB,
            16.0,
            "MiB",
            "35 + 26",
            "80",
        ),
        row(
            "8 agents, bytes from origins",
            eight.origin_egress_ratio,
            1.3,
            "×",
            "3.6–5.0",
            "–",
        ),
        row(
            "8 agents, duplicates",
            eight.duplicate_ratio * 100.0,
            2.0,
            "%",
            "–",
            "–",
        ),
        row(
            "8 agents, CPU of all roles per GB",
            total,
            2.0,
            "s",
            "5.3–7.6",
            "3.7",
        ),
        row(
            "8 agents, bytes from S3",
            eight_cold.backend_read_ratio.unwrap_or_default(),
            1.005,
            "×",
            "1.00",
            "1.00",
        ),
        row(
            "8 agents, requests to S3",
            eight_cold.backend_requests as f64,
            requests as f64,
            "",
            "–",
            "256 + 9",
        ),
        row(
            "8 agents, tracker killed, bytes from S3",
            killed,
            1.05,
            "×",
            "–",
            "6.43",
        ),
        row(
            "push of 1 GiB, CPU of all roles",
            suite.push.cpu_s.total,
            4.0,
            "s",
            "11–13.5",
            "–",
        ),
        row(
            "push of 1 GiB, peak memory of the proxy",
            suite.push.rss_peak_bytes.proxy as f64 / MIB,
            64.0,
            "MiB",
            "–",
            "–",
        ),
        row(
            "64 × 64 KiB cold, one after another",
            small.one_after_another_s,
            1.0,
            "s",
            "145",
            "–",
        ),
        row(
            "64 × 64 KiB cold, 8 agents at once",
            small.at_once_s,
            1.0,
            "s",
            "–",
            "2.2 at 8×, 9.2 at 1×",
        ),
    ]
}

/// Returns a figure with about three digits that mean something.
fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (value, text) in [
            (0.0034, "0.00"),
            (1.468, "1.47"),
            (87.51, "87.5"),
            (1154.0, "1154"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
