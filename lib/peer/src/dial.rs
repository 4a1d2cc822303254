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
    /// Somebody is there; see [`ConnectError::is_refusal`].
    #[error(transparent)]
    Handshake(#[from] ConnectError),
}

impl DialError {
    /// Returns whether somebody is there, but not who should be.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Handshake(error) => error.is_refusal(),
            Self::Timeout(_) | Self::Io(_) => false,
        }
    }
}

/// Connects to somebody of this role.
pub(crate) async fn dial(
    node: &Inner,
    addr: &str,
    role: Role,
) -> Result<(Stream, Caller), DialError> {
    let patience = node.config.connect_timeout;
    let dialling = async {
        let socket = TcpStream::connect(addr).await?;
        service::socket::prepare(&socket);
        Ok(node.tls.connect(socket, access::of_peer(role)).await?)
    };
    // One for both: who accepts and then says nothing is not better than who does not accept.
    let dialled = tokio::time::timeout(patience, dialling).await;
    dialled.unwrap_or(Err(DialError::Timeout(patience)))
}
