//! Connections over TLS: the same requests, to whom the certificate says is of the expected role.
//!
//! The client of plaintext could speak TLS by itself, but takes one configuration for all of its
//! life; here each new connection uses the certificates of its moment.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use reqwest::{Body, RequestBuilder, Response};
use service::Role;
use service::tls::{Stream, Tls};
use tokio::net::TcpStream;

use super::{IDLE, Limits, cause};

/// A client of one role.
#[derive(Clone, Debug)]
pub(super) struct Secure(legacy::Client<Connector, Body>);

/// Makes connections.
#[derive(Clone, Debug)]
struct Connector {
    tls: Tls,
    expected: Role,
    patience: Duration,
}

impl Secure {
    pub(super) fn new(tls: Tls, expected: Role, limits: &Limits) -> Self {
        let connector = Connector {
            tls,
            expected,
            patience: limits.connect,
        };
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self(client)
    }

    /// Sends a request; returns its answer, or for people why there is none.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, String> {
        let request = request.build().map_err(|error| cause(&error))?;
        let request = http::Request::try_from(request).map_err(|error| cause(&error))?;
        let response = self.0.request(request).await;
        let response = response.map_err(|error| cause(&error))?;
        Ok(Response::from(response.map(Body::wrap)))
    }
}

impl Connector {
    async fn connect(self, uri: Uri) -> io::Result<TokioIo<Stream>> {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let connecting = async {
            let socket = TcpStream::connect(authority).await?;
            service::socket::prepare(&socket);
            Ok::<_, io::Error>(self.tls.connect(socket, self.expected).await?)
        };
        // One for both: who accepts and then says nothing is not better than who does not accept.
        let connected = tokio::time::timeout(self.patience, connecting).await;
        let (stream, _) = connected.map_err(|_| {
            let text = format!("no connection within {} s", self.patience.as_secs_f32());
            io::Error::new(io::ErrorKind::TimedOut, text)
        })??;
        Ok(TokioIo::new(stream))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

#[cfg(test)]
mod tests;
