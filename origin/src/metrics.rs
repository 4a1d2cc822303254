//! Counters of an origin.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, LabelValueEncoder,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::fetch::Fetcher;

/// Counters of an origin. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Uploads that became blobs.
    pub uploads: Counter,
    /// Bytes of those blobs.
    pub committed_bytes: Counter,
    /// Requests to storage.
    pub backend_requests: Family<Request, Counter>,
    /// Bytes that came out of storage.
    pub backend_read_bytes: Counter,
    /// Blobs hashed that somebody else had put into storage.
    pub grown: Counter,
    /// Sources that were not what their digest says, or changed.
    pub revoked: Counter,
}

/// A request to storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    pub operation: Operation,
    pub outcome: Outcome,
}

/// What storage was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Stat,
    Get,
    Put,
    Delete,
    List,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Done,
    Absent,
    Failed,
}

impl EncodeLabelValue for Operation {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Stat => "stat",
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::List => "list",
        })
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Done => "done",
            Self::Absent => "absent",
            Self::Failed => "failed",
        })
    }
}

impl Metrics {
    /// Makes the counters known to the registry of the process.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("origin");
        let Self {
            uploads,
            committed_bytes,
            backend_requests,
            backend_read_bytes,
            grown,
            revoked,
        } = metrics.clone();
        for (name, help, counter) in [
            ("uploads", "Uploads that became blobs", uploads),
            ("grown", "Blobs hashed that others had stored", grown),
            (
                "revoked",
                "Sources that were not what their digest says, or changed",
                revoked,
            ),
        ] {
            registry.register(name, help, counter);
        }
        for (name, help, counter) in [
            (
                "committed",
                "Bytes of uploads that became blobs",
                committed_bytes,
            ),
            (
                "backend_read",
                "Bytes read from storage",
                backend_read_bytes,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, counter);
        }
        registry.register("backend_requests", "Requests to storage", backend_requests);
        metrics
    }

    /// Lets the registry of the process ask how many blobs are being hashed.
    pub(crate) fn watch(registry: &mut Registry, fetcher: &Arc<Fetcher>) {
        let registry = registry.sub_registry_with_prefix("origin");
        registry.register_collector(Box::new(Hashing(Arc::clone(fetcher))));
    }
}

#[derive(Debug)]
struct Hashing(Arc<Fetcher>);

impl Collector for Hashing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = ConstGauge::new(self.0.count_growing() as u64);
        let help = "Blobs that are being hashed, or wait for it";
        let metric = encoder.encode_descriptor("growing", help, None, gauge.metric_type())?;
        gauge.encode(metric)
    }
}
