//! What a server that is shutting down says to who comes late. A probe shall see that it is up and
//! takes no more, and clients that have somewhere else to go shall go there at once.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::door::Lock;

/// Clients that are answered at a time; more are closed without an answer.
const MAX_GUESTS: usize = 64;
/// How long one may take.
const VISIT: Duration = Duration::from_secs(2);

/// Answers everything with 503, until it is dropped.
pub(super) async fn turn_away(listener: &TcpListener, lock: &Lock) -> Infallible {
    let mut guests = JoinSet::new();
    loop {
        tokio::select! {
            (socket, _) = super::accept(listener) => {
                if guests.len() < MAX_GUESTS {
                    guests.spawn(tokio::time::timeout(VISIT, tell(socket, lock.clone())));
                }
            }
            Some(_) = guests.join_next() => {}
        }
    }
}

async fn tell(socket: TcpStream, lock: Lock) {
    // Whoever it is learns nothing but that.
    let mut socket = match lock.open(socket, VISIT).await {
        Ok((socket, _)) => socket,
        Err(error) => return tracing::debug!(%error, "a connection was refused"),
    };
    let served = http1::Builder::new()
        .half_close(true)
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(VISIT)
        .serve_connection(TokioIo::new(&mut socket), service_fn(answer))
        .await;
    match served {
        Ok(()) => super::linger(&mut socket).await,
        Err(error) => tracing::debug!(%error, "a connection broke off"),
    }
}

async fn answer(_: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut response = Response::new(Body::from("this process is shutting down\n"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}
