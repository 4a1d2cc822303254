//! Logs, and what a process measures of itself.

use std::io::{IsTerminal as _, stderr};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// The variable that wins over what is configured.
const VARIABLE: &str = "RUST_LOG";
/// Milliseconds of a tick in which the kernel counts time for everybody: 1/100 s, on every
/// machine that this runs on.
const TICK_MS: u64 = 10;

/// How a process logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    /// What is logged, such as `info` or `info,peer=debug`. `RUST_LOG` wins.
    pub filter: String,
}

/// Form of a line in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs that cannot be written as configured.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("{origin}: {filter:?} is no filter of logs: {reason}; write info, or info,peer=debug")]
    Filter {
        origin: &'static str,
        filter: String,
        reason: String,
    },
    #[error("logs are set up already")]
    Twice,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            filter: "info".into(),
        }
    }
}

impl Log {
    /// Checks what is configured, whatever `RUST_LOG` says.
    ///
    /// # Errors
    /// The filter means nothing.
    pub fn validate(&self) -> Result<(), TelemetryError> {
        filter(None, self).map(drop)
    }
}

/// Lets everything that is logged go to standard error.
///
/// # Errors
/// The filter means nothing, or logs are set up already.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let wins = std::env::var(VARIABLE).ok();
    let filter = filter(wins.as_deref(), log)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    let done = match log.format {
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|_| TelemetryError::Twice)
}

/// Makes the version and what the process uses known to its registry.
pub fn build_info(registry: &mut Registry) {
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("shoal_build", "Version of Shoal", version);
    registry.register_collector(Box::new(Process));
}

fn filter(variable: Option<&str>, log: &Log) -> Result<EnvFilter, TelemetryError> {
    let (origin, text) = match variable {
        Some(text) if !text.trim().is_empty() => (VARIABLE, text),
        Some(_) | None => ("log.filter", &*log.filter),
    };
    let parsed = EnvFilter::builder().parse(text);
    parsed.map_err(|error| TelemetryError::Filter {
        origin,
        filter: text.into(),
        reason: error.to_string(),
    })
}

/// What the kernel counts of this process. It is asked when somebody wants to know; what it does
/// not tell is left out.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut write = |name, help, unit: Option<Unit>, metric: &dyn Measured| {
            let kind = metric.metric_type();
            let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            metric.encode_into(encoder)
        };
        let stat = read("/proc/self/stat").unwrap_or_default();
        if let Some(started) = started_ms(&stat, &read("/proc/stat").unwrap_or_default()) {
            let gauge = ConstGauge::new(seconds(started));
            let help = "Start of the process, seconds after 1970";
            write("process_start_time", help, Some(Unit::Seconds), &gauge)?;
        }
        if let Some(used) = cpu_ms(&stat) {
            let counter = ConstCounter::new(seconds(used));
            let help = "Time of processors used";
            write("process_cpu", help, Some(Unit::Seconds), &counter)?;
        }
        if let Some(bytes) = resident_bytes(&read("/proc/self/status").unwrap_or_default()) {
            let gauge = ConstGauge::new(bytes);
            let help = "Memory in use";
            write("process_resident_memory", help, Some(Unit::Bytes), &gauge)?;
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            let count = i64::try_from(files.count()).unwrap_or(i64::MAX);
            // One of them is the folder that is being read.
            let gauge = ConstGauge::new(count.saturating_sub(1));
            write("process_open_fds", "Open files and sockets", None, &gauge)?;
        }
        Ok(())
    }
}

/// A metric behind a reference.
trait Measured {
    fn metric_type(&self) -> prometheus_client::metrics::MetricType;

    fn encode_into(
        &self,
        encoder: prometheus_client::encoding::MetricEncoder<'_>,
    ) -> Result<(), std::fmt::Error>;
}

impl<M: EncodeMetric> Measured for M {
    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        EncodeMetric::metric_type(self)
    }

    fn encode_into(
        &self,
        encoder: prometheus_client::encoding::MetricEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        self.encode(encoder)
    }
}

fn read(path: &str) -> Option<String> {
    // No disk is behind these files: reading them does not wait.
    std::fs::read_to_string(path).ok()
}

fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

/// Returns a field of `/proc/self/stat`, counted from 1 as its manual page does. The name of the
/// program may have spaces and parentheses.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_ms(stat: &str) -> Option<u64> {
    let ticks = field(stat, 14)?.checked_add(field(stat, 15)?)?;
    ticks.checked_mul(TICK_MS)
}

/// Returns when the process started, in milliseconds after 1970.
fn started_ms(stat: &str, system: &str) -> Option<u64> {
    let booted_s: u64 = value_of(system, "btime ")?;
    let after = field(stat, 22)?.checked_mul(TICK_MS)?;
    booted_s.checked_mul(1000)?.checked_add(after)
}

fn resident_bytes(status: &str) -> Option<i64> {
    let kib: i64 = value_of(status, "VmRSS:")?;
    kib.checked_mul(1024)
}

fn value_of<T: std::str::FromStr>(text: &str, key: &str) -> Option<T> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(key));
    values.next()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_understood() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 700 1 2";
        assert_eq!(cpu_ms(stat), Some(3000));
        assert_eq!(started_ms(stat, "cpu 1\nbtime 100\n"), Some(107_000));
        assert_eq!(
            resident_bytes("VmSize: 9 kB\nVmRSS:\t   3 kB\n"),
            Some(3072)
        );
        assert_eq!(cpu_ms(""), None);
        assert_eq!(started_ms(stat, ""), None);
    }

    #[test]
    fn a_process_measures_itself() {
        let mut registry = Registry::default();
        build_info(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let lines = [
            &*format!("shoal_build_info{{version=\"{version}\"}} 1"),
            "process_start_time_seconds 1",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
        ];
        for line in lines {
            let found = text.lines().any(|there| there.starts_with(line));
            assert!(found, "{line}: {text}");
        }
    }

    #[test]
    fn the_variable_wins() {
        let log = Log {
            filter: "peer=debug".into(),
            ..Log::default()
        };
        let text = |variable| filter(variable, &log).map(|filter| filter.to_string());
        assert_eq!(text(None).unwrap(), "peer=debug");
        assert_eq!(text(Some("")).unwrap(), "peer=debug");
        assert_eq!(text(Some("off")).unwrap(), "off");
        let error = text(Some("peer=loud")).unwrap_err().to_string();
        assert!(
            error.contains("RUST_LOG") && error.contains("peer=loud"),
            "{error}"
        );
    }
}
