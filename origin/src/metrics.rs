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
use crate::write_back::WriteBack;

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
    /// Bytes that went into storage.
    pub backend_written_bytes: Counter,
    /// Blobs hashed that somebody else had put into storage.
    pub grown: Counter,
    /// Sources that were not what their digest says, or changed.
    pub revoked: Counter,
    /// Reads that found their run in the cache, or being read.
    pub run_hits: Counter,
    /// Reads that had to begin one.
    pub run_misses: Counter,
    /// Bytes of runs that had to make room for others.
    pub run_evicted_bytes: Counter,
    /// Origins that did not keep up with the second copy of an upload.
    pub mirrors_dropped: Counter,
    /// Reads between origins.
    pub ring_reads: Family<RingRead, Counter>,
}

/// A read between origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RingRead {
    pub way: Way,
    pub outcome: Outcome,
}

/// Who asked whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// This origin asked another one.
    Asked,
    /// Another origin asked this one.
    Served,
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

impl Operation {
    const ALL: [Self; 5] = [Self::Stat, Self::Get, Self::Put, Self::Delete, Self::List];
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

impl EncodeLabelValue for Way {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Asked => "asked",
            Self::Served => "served",
        })
    }
}

impl Metrics {
    /// Makes the counters known to the registry of the process.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("origin");
        for (name, help, counter) in metrics.counts() {
            registry.register(name, help, counter);
        }
        for (name, help, counter) in metrics.bytes() {
            registry.register_with_unit(name, help, Unit::Bytes, counter);
        }
        let requests = metrics.backend_requests.clone();
        registry.register("backend_requests", "Requests to storage", requests);
        let reads = metrics.ring_reads.clone();
        registry.register("ring_reads", "Reads between origins", reads);
        metrics.begin_at_zero();
        metrics
    }

    /// Makes every series there is: one that is missing until something happens has no rate.
    fn begin_at_zero(&self) {
        for outcome in [Outcome::Done, Outcome::Absent, Outcome::Failed] {
            for operation in Operation::ALL {
                let request = Request { operation, outcome };
                let _ = self.backend_requests.get_or_create(&request);
            }
            for way in [Way::Asked, Way::Served] {
                let _ = self.ring_reads.get_or_create(&RingRead { way, outcome });
            }
        }
    }

    fn counts(&self) -> [(&'static str, &'static str, Counter); 6] {
        let revoked = "Sources that were not what their digest says, or changed";
        [
            ("uploads", "Uploads that became blobs", self.uploads.clone()),
            (
                "grown",
                "Blobs hashed that others had stored",
                self.grown.clone(),
            ),
            ("revoked", revoked, self.revoked.clone()),
            (
                "run_hits",
                "Reads that found their run cached",
                self.run_hits.clone(),
            ),
            (
                "run_misses",
                "Reads that began a run",
                self.run_misses.clone(),
            ),
            (
                "mirrors_dropped",
                "Origins that did not keep up with the second copy of an upload",
                self.mirrors_dropped.clone(),
            ),
        ]
    }

    fn bytes(&self) -> [(&'static str, &'static str, Counter); 4] {
        [
            (
                "committed",
                "Bytes of uploads that became blobs",
                self.committed_bytes.clone(),
            ),
            (
                "backend_read",
                "Bytes read from storage",
                self.backend_read_bytes.clone(),
            ),
            (
                "backend_written",
                "Bytes written to storage",
                self.backend_written_bytes.clone(),
            ),
            (
                "run_evicted",
                "Bytes of runs that made room for others",
                self.run_evicted_bytes.clone(),
            ),
        ]
    }

    /// Lets the registry of the process ask how many blobs are being hashed.
    pub(crate) fn watch(registry: &mut Registry, fetcher: &Arc<Fetcher>) {
        let registry = registry.sub_registry_with_prefix("origin");
        registry.register_collector(Box::new(Hashing(Arc::clone(fetcher))));
    }
}

impl Metrics {
    /// Lets the registry of the process ask what storage does not have yet.
    pub(crate) fn watch_pending(registry: &mut Registry, write_back: &Arc<WriteBack>) {
        let registry = registry.sub_registry_with_prefix("origin");
        registry.register_collector(Box::new(Unwritten(Arc::clone(write_back))));
    }
}

#[derive(Debug)]
struct Unwritten(Arc<WriteBack>);

impl Collector for Unwritten {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let total = self.0.held().total();
        let oldest = self.0.pending().oldest.unwrap_or_default();
        let (blobs, bytes) = (total.blobs as u64, total.bytes);
        for (name, help, unit, value) in [
            (
                "write_back_pending",
                "Blobs that storage lacks yet",
                None,
                blobs,
            ),
            (
                "write_back_pending",
                "Bytes of them",
                Some(&Unit::Bytes),
                bytes,
            ),
            (
                "write_back_oldest_age",
                "How long the oldest of them has waited",
                Some(&Unit::Seconds),
                oldest.as_secs(),
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
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
