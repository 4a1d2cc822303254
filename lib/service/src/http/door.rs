//! Where connections come in, and who may come in.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tower::Service as _;

use super::turn_away;
use crate::access::Access;
use crate::tls::{Caller, ConnectError, HANDSHAKE_TIMEOUT, Registry, Stream, Tls};

/// First byte of a connection that speaks TLS: the type of the record with its handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// A port, and what a connection must be to be served there.
#[derive(Debug)]
pub struct Door {
    pub(super) listener: TcpListener,
    pub(super) lock: Lock,
}

#[derive(Clone, Debug)]
pub(super) enum Lock {
    /// Plaintext, whoever it is.
    Open,
    /// TLS with a certificate of the cluster, whose roles decide what is answered.
    Cluster(Tls, &'static Access),
    /// TLS without certificates of clients, and perhaps plaintext too.
    Registry(Registry),
}

impl From<TcpListener> for Door {
    fn from(listener: TcpListener) -> Self {
        let lock = Lock::Open;
        Self { listener, lock }
    }
}

impl Door {
    /// Makes a door for other parts of the cluster, who may ask for what the table says.
    #[must_use]
    pub fn of_cluster(listener: TcpListener, tls: &Tls, access: &'static Access) -> Self {
        let lock = if tls.is_plain() {
            Lock::Open
        } else {
            Lock::Cluster(tls.clone(), access)
        };
        Self { listener, lock }
    }

    /// Makes a door for clients of a registry.
    #[must_use]
    pub fn of_registry(listener: TcpListener, registry: Registry) -> Self {
        let lock = if registry.is_plain() {
            Lock::Open
        } else {
            Lock::Registry(registry)
        };
        Self { listener, lock }
    }
}

impl Lock {
    /// Lets a connection in, or says why not. Who may speak plaintext may be silent for `patience`:
    /// clients open connections before they have something to ask.
    pub(super) async fn open(
        &self,
        socket: TcpStream,
        patience: Duration,
    ) -> Result<(Stream, Guard), ConnectError> {
        let unguarded = Guard(None);
        match self {
            Self::Open => Ok((socket.into(), unguarded)),
            Self::Cluster(tls, access) => {
                let socket = speaking_tls(socket).await?;
                let (stream, caller) = tls.accept(socket).await?;
                Ok((stream, Guard(Some((caller, access)))))
            }
            Self::Registry(registry) if registry.takes_plaintext() => {
                let stream = if begins_tls(&socket, patience).await? {
                    registry.accept(socket).await?
                } else {
                    socket.into()
                };
                Ok((stream, unguarded))
            }
            Self::Registry(registry) => {
                let socket = speaking_tls(socket).await?;
                Ok((registry.accept(socket).await?, unguarded))
            }
        }
    }
}

/// Returns whether the client begins as TLS does. Nothing of it is taken.
async fn begins_tls(socket: &TcpStream, patience: Duration) -> Result<bool, ConnectError> {
    let mut first = [0];
    let peek = tokio::time::timeout(patience, socket.peek(&mut first));
    let count = peek.await.map_err(|_| ConnectError::Silent(patience))??;
    if count == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(first[0] == TLS_HANDSHAKE)
}

/// Returns the socket of a client that speaks TLS; one that does not is told so, in its own words.
async fn speaking_tls(socket: TcpStream) -> Result<TcpStream, ConnectError> {
    if begins_tls(&socket, HANDSHAKE_TIMEOUT).await? {
        return Ok(socket);
    }
    let why = "this port takes TLS only; set `tls` in the configuration of the caller, or use \
               https";
    let body = refusal("BAD_REQUEST", why);
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    turn_away(socket, answer.as_bytes()).await?;
    let text = "the client does not speak TLS; set `tls` in its configuration, or use https";
    Err(io::Error::new(io::ErrorKind::InvalidData, text).into())
}

/// Returns an error as services write it, and as registries do.
fn refusal(code: &str, message: &str) -> String {
    serde_json::json!({
        "code": code,
        "message": message,
        "errors": [{"code": "DENIED", "message": message}],
    })
    .to_string()
}

/// Who sends the requests of a connection, and what it may ask for. Absent: whatever it likes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard(Option<(Caller, &'static Access)>);

impl Guard {
    /// Returns what answers the requests of a connection.
    pub(super) fn service(
        self,
        router: Router,
    ) -> impl hyper::service::Service<
        Request<Incoming>,
        Response = Response,
        Error = Infallible,
        Future: Send,
    > {
        service_fn(move |request: Request<Incoming>| {
            let mut router = router.clone();
            async move {
                match self.refused(&request) {
                    Some(refused) => Ok(refused),
                    None => router.call(request).await,
                }
            }
        })
    }

    fn refused(self, request: &Request<Incoming>) -> Option<Response> {
        let (caller, access) = self.0?;
        let path = request.uri().path();
        if access.allows(caller, request.method(), path) {
            return None;
        }
        let method = request.method();
        tracing::warn!(%caller, %method, path, "a request was refused");
        let message = format!(
            "a certificate of role {caller} does not allow {method} {path}; check which \
             certificate is configured there"
        );
        let mut response = Response::new(Body::from(refusal("FORBIDDEN", &message)));
        *response.status_mut() = StatusCode::FORBIDDEN;
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Some(response)
    }
}
