//! From a request to an answer.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response};
use oci::ErrorCode;
use serde::{Deserialize, Serialize};

use crate::body::Incoming;
use crate::error::Error;
use crate::metrics::{Endpoint, Metrics};
use crate::pull::Pull;
use crate::push::Writes;
use crate::route::{Route, parameters};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// What clients of a registry shall do when it cannot serve what exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// Clients have another registry to go to: failures are answered as absence (404), upon which
    /// they do so at once.
    Mirror,
    /// Clients have no other registry: failures are answered as such (503), upon which they retry.
    #[default]
    Registry,
}

/// How a router answers.
#[derive(Clone, Debug)]
pub struct Options {
    pub fallback: Fallback,
    /// Hosts other than this one's own whose images are served here, as mirrors are asked for them
    /// (`?ns=`). Requests for images of any other host are answered with 404.
    pub namespaces: BTreeSet<String>,
    /// How long a manifest or a list may take.
    pub manifest_wait: Duration,
    /// How long the head of a blob's answer may take.
    pub blob_wait: Duration,
    /// The same for a part of a blob, and for HEAD.
    pub part_wait: Duration,
    /// How long a body in either direction may pause.
    pub body_wait: Duration,
    /// Counts what is answered.
    pub metrics: Metrics,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fallback: Fallback::default(),
            namespaces: BTreeSet::new(),
            manifest_wait: Duration::from_secs(10),
            blob_wait: Duration::from_secs(30),
            // Who mounts images gives up after 5 s (nydusd).
            part_wait: Duration::from_secs(4),
            body_wait: Duration::from_secs(60),
            metrics: Metrics::default(),
        }
    }
}

/// Returns the routes under `/v2/`. Every path it does not know is 404 with a body as clients of
/// registries expect it.
pub fn router(pull: Arc<dyn Pull>, writes: Writes, options: Options) -> Router {
    let registry = Registry {
        pull,
        writes,
        options,
    };
    Router::new()
        .fallback(answer)
        .with_state(Arc::new(registry))
}

#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) pull: Arc<dyn Pull>,
    pub(crate) writes: Writes,
    pub(crate) options: Options,
}

async fn answer(State(registry): State<Arc<Registry>>, request: Request<Body>) -> Response<Body> {
    let method = request.method().clone();
    let uri = request.uri().clone();
    let namespace = parameters(uri.query()).find_map(|(key, value)| (key == "ns").then_some(value));
    let route = Route::parse(uri.path());
    let endpoint = route.as_ref().map_or(Endpoint::Unknown, Endpoint::from);
    let answer = registry.dispatch(route, request, namespace.as_deref());
    let mut response = match answer.await {
        Ok(response) => response,
        Err(error) => {
            let path = uri.path();
            if error.is_failure() || matches!(error, Error::Mirror { .. }) {
                tracing::warn!(%method, path, %error, "request failed");
            } else {
                tracing::debug!(%method, path, %error, "request refused");
            }
            error.into_response()
        }
    };
    let metrics = &registry.options.metrics;
    metrics.answered(endpoint, &method, response.status());
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    if let Some(Ok(namespace)) = namespace.map(HeaderValue::try_from) {
        headers.insert(NAMESPACE, namespace);
    }
    response
}

impl Registry {
    async fn dispatch(
        &self,
        route: Result<Route, Error>,
        request: Request<Body>,
        namespace: Option<&str>,
    ) -> Result<Response<Body>, Error> {
        let is_write = |route: &Route| route.is_write(request.method());
        if let (Writes::Forward(forward), true) = (&self.writes, route.as_ref().is_ok_and(is_write))
        {
            return forward.forward(request).await;
        }
        let (parts, body) = request.into_parts();
        let asks_first = parts.headers.contains_key(header::EXPECT);
        let (incoming, rest) = Incoming::new(body, asks_first, &self.options);
        let result = match route {
            Ok(route) => match self.check_namespace(&parts, namespace) {
                Ok(()) if route.is_write(&parts.method) => {
                    self.write(&route, &parts, incoming).await
                }
                Ok(()) => self.read(&route, &parts).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let result = match result {
            Err(error) if error.is_failure() && rest.failed() => {
                tracing::debug!(%error, "a request's body broke off");
                Err(Error::SizeInvalid)
            }
            result => result,
        };
        let refused = result
            .as_ref()
            .map_or(true, |response| !response.status().is_success());
        if refused {
            // The answer does not wait for it.
            tokio::spawn(rest.drain());
        }
        result
    }

    fn check_namespace(&self, parts: &Parts, namespace: Option<&str>) -> Result<(), Error> {
        let Some(namespace) = namespace else {
            return Ok(());
        };
        let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
        if host == Some(namespace.as_bytes()) || self.options.namespaces.contains(namespace) {
            return Ok(());
        }
        Err(Error::Namespace(namespace.chars().take(255).collect()))
    }

    /// Makes a failure what clients of this registry shall see.
    pub(crate) fn soften(&self, code: ErrorCode, error: Error) -> Error {
        match self.options.fallback {
            Fallback::Mirror if error.is_failure() => Error::Mirror {
                code,
                error: Box::new(error),
            },
            Fallback::Mirror | Fallback::Registry => error,
        }
    }
}

/// Waits for what somebody else must answer, but not for ever.
pub(crate) async fn bounded<T>(
    limit: Duration,
    what: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, what).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", limit.as_secs_f32());
        Err(Error::Unavailable(text))
    })
}

/// Returns the value of a header. What is not valid in one came from storage.
pub(crate) fn value(text: impl Display) -> Result<HeaderValue, Error> {
    let text = text.to_string();
    HeaderValue::try_from(&text)
        .map_err(|_| Error::Internal(format!("{text:?} cannot be sent in a header")))
}
