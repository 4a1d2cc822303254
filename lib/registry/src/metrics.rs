//! Counters of a registry.

use std::fmt::{self, Write as _};

use http::{Method, StatusCode};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

use crate::route::Route;

/// Counters of a registry. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Requests that were answered.
    pub requests: Family<Request, Counter>,
    /// Bytes of blobs sent to clients.
    pub sent_bytes: Counter,
    /// Bytes of uploads and manifests received from clients.
    pub received_bytes: Counter,
    /// Answers whose body ended before its length.
    pub bodies_cut: Counter,
}

/// What was asked, and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    pub endpoint: Endpoint,
    pub method: Verb,
    pub code: u16,
}

/// What a path is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Base,
    Catalog,
    Manifest,
    Blob,
    Upload,
    Tags,
    Referrers,
    Unknown,
}

/// Method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Other,
}

impl EncodeLabelValue for Endpoint {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Upload => "upload",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Unknown => "unknown",
        })
    }
}

impl EncodeLabelValue for Verb {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Post => "post",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Other => "other",
        })
    }
}

impl Metrics {
    /// Makes the counters known to the registry of the process.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("registry");
        let Self {
            requests,
            sent_bytes,
            received_bytes,
            bodies_cut,
        } = metrics.clone();
        registry.register("requests", "Requests answered", requests);
        let help = "Bytes of blobs sent to clients";
        registry.register_with_unit("sent", help, Unit::Bytes, sent_bytes);
        let help = "Bytes received from clients";
        registry.register_with_unit("received", help, Unit::Bytes, received_bytes);
        let help = "Answers whose body ended before its length";
        registry.register("bodies_cut", help, bodies_cut);
        metrics
    }

    pub(crate) fn answered(&self, endpoint: Endpoint, method: &Method, status: StatusCode) {
        let request = Request {
            endpoint,
            method: method.into(),
            code: status.as_u16(),
        };
        self.requests.get_or_create(&request).inc();
    }
}

impl From<&Route> for Endpoint {
    fn from(route: &Route) -> Self {
        match route {
            Route::Base => Self::Base,
            Route::Catalog => Self::Catalog,
            Route::Manifest(..) => Self::Manifest,
            Route::Blob(..) => Self::Blob,
            Route::Uploads(_) | Route::Upload(..) => Self::Upload,
            Route::Tags(_) => Self::Tags,
            Route::Referrers(..) => Self::Referrers,
        }
    }
}

impl From<&Method> for Verb {
    fn from(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::POST => Self::Post,
            Method::PUT => Self::Put,
            Method::PATCH => Self::Patch,
            Method::DELETE => Self::Delete,
            _ => Self::Other,
        }
    }
}
