//! Faults and counts over HTTP, for stores in processes of their own.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::{Rule, Server};

/// Longest list of faults in bytes.
const MAX_BYTES: usize = 64 << 10;

/// Serves one connection at a time: there is one test.
pub(crate) async fn serve(server: &Server, listener: TcpListener) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        let service = service_fn(async |request| {
            let (status, text) = answer(server, request)
                .await
                .unwrap_or_else(|error| (StatusCode::BAD_REQUEST, error));
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(socket), service)
            .await;
    }
}

async fn answer(
    server: &Server,
    request: Request<Incoming>,
) -> Result<(StatusCode, String), String> {
    let (head, body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (&Method::PUT, "/faults") => {
            let body = Limited::new(body, MAX_BYTES).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            let rules: Vec<Rule> =
                serde_json::from_slice(&body).map_err(|error| error.to_string())?;
            server
                .set_faults(rules)
                .map_err(|error| error.to_string())?;
            Ok((StatusCode::OK, String::new()))
        }
        (&Method::GET, "/counts") => {
            let text = serde_json::to_string(&server.counts());
            Ok((StatusCode::OK, text.map_err(|error| error.to_string())?))
        }
        (&Method::DELETE, "/counts") => {
            server.reset_counts();
            Ok((StatusCode::OK, String::new()))
        }
        _ => Ok((
            StatusCode::NOT_FOUND,
            "PUT /faults, GET /counts, DELETE /counts".into(),
        )),
    }
}
