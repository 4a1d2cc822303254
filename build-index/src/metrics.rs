//! What a build-index counts.

use std::fmt::{self, Write as _};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Counters of a build-index. Clones count the same.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Requests that were answered.
    pub(crate) requests: Family<Request, Counter>,
    /// How long answers took.
    pub(crate) latency: Family<Asked, Histogram, fn() -> Histogram>,
    /// Questions what a tag names.
    pub(crate) resolves: Counter,
    /// Reads of storage that answered them: fewer, where many ask at once.
    pub(crate) resolve_reads: Counter,
    /// Looks into storage whether a repository has a blob: fewer than questions, where many ask.
    pub(crate) blob_looks: Counter,
    /// Such questions that memory answered because storage could not be asked.
    pub(crate) stale_blobs: Counter,
    /// Manifests that were stored.
    pub(crate) manifests_stored: Counter,
    /// Tags that were written or removed.
    pub(crate) tags_written: Counter,
    /// Times that somebody else wrote a tag meanwhile.
    pub(crate) tag_conflicts: Counter,
    /// Tags found changed by somebody who does not write records.
    pub(crate) tags_changed_outside: Counter,
}

/// What was asked, and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Request {
    pub(crate) endpoint: Endpoint,
    pub(crate) method: Verb,
    pub(crate) code: u16,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Asked {
    pub(crate) endpoint: Endpoint,
    pub(crate) method: Verb,
}

/// What a path is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    Repositories,
    Tags,
    Manifest,
    Blob,
    Referrers,
}

/// Method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    Get,
    Head,
    Put,
    Delete,
    Other,
}

impl EncodeLabelValue for Endpoint {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Repositories => "repositories",
            Self::Tags => "tags",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Referrers => "referrers",
        })
    }
}

impl EncodeLabelValue for Verb {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Other => "other",
        })
    }
}

impl Metrics {
    /// Makes the counters known to the registry of the process.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::new();
        let registry = registry.sub_registry_with_prefix("build_index");
        let Self {
            requests,
            latency,
            resolves,
            resolve_reads,
            blob_looks,
            stale_blobs,
            manifests_stored,
            tags_written,
            tag_conflicts,
            tags_changed_outside,
        } = metrics.clone();
        registry.register("requests", "Requests answered", requests);
        let help = "How long answers took";
        registry.register_with_unit("request_duration", help, Unit::Seconds, latency);
        registry.register("resolves", "Questions what a tag names", resolves);
        let help = "Reads of storage for the question what a tag names";
        registry.register("resolve_reads", help, resolve_reads);
        let help = "Looks into storage whether a repository has a blob";
        registry.register("blob_looks", help, blob_looks);
        let help = "Blobs known from memory alone, because storage could not be asked";
        registry.register("stale_blobs", help, stale_blobs);
        registry.register("manifests_stored", "Manifests stored", manifests_stored);
        registry.register("tags_written", "Tags written or removed", tags_written);
        let help = "Times somebody else wrote a tag meanwhile";
        registry.register("tag_conflicts", help, tag_conflicts);
        let help = "Tags found changed by another registry";
        registry.register("tags_changed_outside", help, tags_changed_outside);
        metrics
    }

    pub(crate) fn new() -> Self {
        Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(|| {
                // A millisecond to a minute and a half.
                Histogram::new(exponential_buckets(0.001, 2.6, 13))
            }),
            resolves: Counter::default(),
            resolve_reads: Counter::default(),
            blob_looks: Counter::default(),
            stale_blobs: Counter::default(),
            manifests_stored: Counter::default(),
            tags_written: Counter::default(),
            tag_conflicts: Counter::default(),
            tags_changed_outside: Counter::default(),
        }
    }

    pub(crate) fn answered(
        &self,
        endpoint: Endpoint,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let method = Verb::from(method);
        let request = Request {
            endpoint,
            method,
            code: status.as_u16(),
        };
        self.requests.get_or_create(&request).inc();
        let asked = Asked { endpoint, method };
        self.latency
            .get_or_create(&asked)
            .observe(took.as_secs_f64());
    }
}

impl From<&Method> for Verb {
    fn from(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::PUT => Self::Put,
            Method::DELETE => Self::Delete,
            _ => Self::Other,
        }
    }
}
