//! The registry behind a forward proxy.
//!
//! Clients that can be given an HTTP proxy, such as nydusd, keep the whole URL of what they want
//! (`GET http://HOST/v2/…`). Where HOST means the registry of this cluster they are answered by the
//! same routes as on the registry's own port; requests go nowhere else. Failures are told as such:
//! to these clients an absence is final.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::{self, Next};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, Uri};
use http_body::Body as _;
use registry::{Error, Fallback, Options, Pull, Writes};
use serde::{Deserialize, Serialize};

/// A host that is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host; write it as in URLs, such as proxy:5001 or registry.example")]
pub struct HostError(String);

/// A host as it stands in URLs, in lower case and without the port that `http` has anyway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxiedHost(String);

impl ProxiedHost {
    /// Who asks is none of this: a user name before the host is left out.
    fn of(authority: &Authority) -> Self {
        let host = authority.host().to_ascii_lowercase();
        Self(match authority.port_u16() {
            None | Some(80) => host,
            Some(port) => format!("{host}:{port}"),
        })
    }
}

impl FromStr for ProxiedHost {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let error = || HostError(text.chars().take(255).collect());
        let authority: Authority = text.parse().map_err(|_| error())?;
        let host = authority.host();
        let rest = text.strip_prefix(host).ok_or_else(error)?;
        if host.is_empty() || !(rest.is_empty() || authority.port().is_some()) {
            return Err(error());
        }
        Ok(Self::of(&authority))
    }
}

impl TryFrom<String> for ProxiedHost {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, HostError> {
        text.parse()
    }
}

impl From<ProxiedHost> for String {
    fn from(host: ProxiedHost) -> Self {
        host.0
    }
}

impl fmt::Display for ProxiedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the routes of a forward proxy for these hosts. `GET /v2/`, which probes ask by its path
/// alone, is answered too.
pub fn router(pull: Arc<dyn Pull>, options: Options, hosts: BTreeSet<ProxiedHost>) -> Router {
    let options = Options {
        fallback: Fallback::Registry,
        ..options
    };
    let admitted = middleware::from_fn_with_state(Arc::new(hosts), admit);
    registry::router(pull, Writes::Refuse, options).layer(admitted)
}

type Hosts = Arc<BTreeSet<ProxiedHost>>;

async fn admit(State(hosts): State<Hosts>, request: Request<Body>, next: Next) -> Response<Body> {
    let method = request.method().clone();
    match to_registry(&hosts, request) {
        Ok(request) => next.run(request).await,
        Err(refusal) => {
            tracing::warn!(%method, %refusal, "the forward proxy refused a request");
            refusal.into_response()
        }
    }
}

/// Makes the request one to the registry, or says why it is none. Nothing but the host of its URL
/// is told: the query of one may hold secrets.
fn to_registry(
    hosts: &BTreeSet<ProxiedHost>,
    request: Request<Body>,
) -> Result<Request<Body>, Error> {
    let denied = |why: String| Err(Error::Denied(why));
    if request.method() == Method::CONNECT {
        let why = "this forward proxy makes no tunnels; give clients http:// URLs (nydusd: \
                   `use_http: true` in `proxy`)";
        return denied(why.into());
    }
    if !request.body().is_end_stream() {
        return denied("this forward proxy only reads, and takes no request bodies".into());
    }
    let (mut parts, body) = request.into_parts();
    match parts.uri.authority().map(ProxiedHost::of) {
        Some(host) if hosts.contains(&host) => {}
        Some(host) => {
            return denied(format!(
                "this forward proxy does not serve {host}; add it to `forward_proxy_hosts` of the \
                 agent if it is a name of the registry of this cluster"
            ));
        }
        None if matches!(parts.uri.path(), "/v2/" | "/v2") => {}
        None => {
            let why = "this is a forward proxy: ask it for http://HOST/v2/…, or ask the agent's \
                       `registry_addr`";
            return denied(why.into());
        }
    }
    let target = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Ok(Request::from_parts(parts, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> BTreeSet<ProxiedHost> {
        let hosts = ["Registry.Example", "proxy:5001", "[::1]:5001"];
        hosts.iter().map(|host| host.parse().unwrap()).collect()
    }

    fn ask(method: &str, uri: &str) -> Result<String, String> {
        let request = Request::builder().method(method).uri(uri);
        let request = request.body(Body::empty()).unwrap();
        match to_registry(&hosts(), request) {
            Ok(request) => Ok(request.uri().to_string()),
            Err(error) => {
                assert_eq!(error.status(), 403);
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn hosts_are_compared_as_urls_mean_them() {
        for host in [
            "",
            "http://proxy:5001",
            "a/b",
            "user@host",
            "host:",
            "host:x",
            "a b",
        ] {
            assert!(host.parse::<ProxiedHost>().is_err(), "{host:?}");
        }
        let paths = [
            ("http://proxy:5001/v2/a/blobs/x", "/v2/a/blobs/x"),
            (
                "http://registry.example/v2/a/tags/list?n=1",
                "/v2/a/tags/list?n=1",
            ),
            ("http://REGISTRY.example:80/v2/", "/v2/"),
            ("http://user:word@proxy:5001/v2/", "/v2/"),
            ("http://[::1]:5001/v2/", "/v2/"),
            ("/v2/", "/v2/"),
            ("/v2", "/v2"),
        ];
        for (uri, path) in paths {
            for method in ["GET", "HEAD"] {
                assert_eq!(ask(method, uri).as_deref(), Ok(path), "{uri}");
            }
        }
    }

    #[test]
    fn who_is_refused_is_told_what_to_change_and_no_secret() {
        for (method, uri, told) in [
            ("CONNECT", "proxy:5001", "use_http"),
            (
                "GET",
                "http://user:secret@other:5001/v2/?a=secret",
                "forward_proxy_hosts",
            ),
            ("GET", "http://proxy:5002/v2/?a=secret", "proxy:5002"),
            (
                "GET",
                "http://registry.example:81/v2/",
                "forward_proxy_hosts",
            ),
            ("GET", "/v2/a/tags/list?a=secret", "registry_addr"),
            ("GET", "/", "registry_addr"),
        ] {
            let refusal = ask(method, uri).unwrap_err();
            assert!(
                refusal.contains(told) && !refusal.contains("secret"),
                "{refusal}"
            );
        }
        let request = Request::post("http://proxy:5001/v2/a/blobs/uploads/").body("x".into());
        let refusal = to_registry(&hosts(), request.unwrap()).unwrap_err();
        assert!(refusal.to_string().contains("bodies"), "{refusal}");
    }
}
