//! Connections to others, in plaintext or to whom a certificate says is there.

use std::io;
use std::time::Duration;

use api::access;
use service::tls::{Caller, ConnectError, Stream};
use tokio::net::TcpStream;
use torrent::Role;

use crate::node::Inner;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot connect within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Somebody is there, but not who should be.
    #[error(transparent)]
    Refused(#[from] ConnectError),
}

/// Connects to somebody of this role.
pub(crate) async fn dial(
    node: &Inner,
    addr: &str,
    role: Role,
) -> Result<(Stream, Caller), DialError> {
    let patience = node.config.connect_timeout;
    let socket = tokio::time::timeout(patience, TcpStream::connect(addr)).await;
    let socket = socket.map_err(|_| DialError::Timeout(patience))??;
    socket.set_nodelay(true)?;
    Ok(node.tls.connect(socket, access::of_peer(role)).await?)
}
