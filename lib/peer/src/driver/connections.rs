//! Connections that come and go.

use std::sync::Arc;
use std::time::Duration;

use service::tls::{Caller, ConnectError, Stream, Tls};
use swarm::{ConnId, Input};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use torrent::Peer;

use super::handshakes::Handshakes;
use super::{Driver, Event};
use crate::connection::Connection;
use crate::dial::dial;
use crate::node::Inner;

/// How long who connected may be silent before its handshake. Who calls begins at once.
const FIRST_BYTE_WAIT: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn connected(&mut self, peer: Option<Peer>, socket: (Stream, Caller)) {
        if self.conns.len() >= self.node.config.max_connections {
            tracing::warn!(
                limit = self.node.config.max_connections,
                "too many connections with peers; one more is refused"
            );
            if let Some(peer) = peer {
                self.tell(Input::ConnectFailed { peer: peer.id });
            }
            return;
        }
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let connection = Connection::start(&self.node, conn, socket, &self.sender);
        self.conns.insert(conn, connection);
        self.count_connections();
        let expected = peer.map(|peer| peer.id);
        self.tell(Input::Connected { conn, expected });
    }

    pub(super) fn closed(&mut self, conn: ConnId, why: &str) {
        if let Some(connection) = self.conns.remove(&conn) {
            let peer = connection.known.peer.get().map(|peer| peer.addr.as_ref());
            tracing::debug!(conn = conn.0, peer, why, "connection ended");
            self.forget_conn(conn);
            self.tell(Input::Closed { conn });
        }
    }

    pub(super) fn forget_conn(&mut self, conn: ConnId) {
        self.uploads.retain(|(of, _), _| *of != conn);
        self.count_connections();
    }

    fn count_connections(&self) {
        let count = i64::try_from(self.conns.len()).unwrap_or(i64::MAX);
        self.node.metrics.connections.set(count);
    }
}

/// Accepts connections of peers until the node stops.
pub(super) async fn accept(node: Arc<Inner>, listener: TcpListener, events: mpsc::Sender<Event>) {
    let handshakes = Handshakes::default();
    let stop = node.stop.clone();
    let accepting = async {
        loop {
            let (socket, addr) = service::http::accept(&listener).await;
            if node.tls.is_plain() {
                let accepted = Event::Accepted(socket.into(), Caller::Anybody);
                let _ = events.send(accepted).await;
                continue;
            }
            let Some(handshake) = handshakes.begin(addr) else {
                node.metrics.handshakes_refused.inc();
                tracing::debug!(%addr, "too many handshakes; one more is refused");
                continue;
            };
            let (tls, events) = (node.tls.clone(), events.clone());
            let accepting = async move {
                let handshake_ended = shake_hands(&tls, socket).await;
                drop(handshake);
                match handshake_ended {
                    Ok((socket, caller)) => {
                        let _ = events.send(Event::Accepted(socket, caller)).await;
                    }
                    Err(error) if error.is_departure() => {
                        tracing::debug!(%addr, %error, "a connection broke off");
                    }
                    Err(error) => tracing::warn!(%addr, %error, "refusing a peer"),
                }
            };
            let stop = stop.clone();
            let accepting = async move { stop.run_until_cancelled_owned(accepting).await };
            node.tasks.spawn(accepting);
        }
    };
    stop.run_until_cancelled(accepting).await;
}

async fn shake_hands(tls: &Tls, socket: TcpStream) -> Result<(Stream, Caller), ConnectError> {
    let mut first = [0];
    let first = tokio::time::timeout(FIRST_BYTE_WAIT, socket.peek(&mut first)).await;
    first.map_err(|_| ConnectError::Silent(FIRST_BYTE_WAIT))??;
    tls.accept(socket).await
}

/// Connects to a peer, and tells what came of it.
pub(super) async fn connect(node: Arc<Inner>, peer: Peer, events: mpsc::Sender<Event>) {
    let event = match dial(&node, &peer.addr, peer.role).await {
        Ok((socket, caller)) => Event::Connected {
            peer,
            socket,
            caller,
        },
        Err(error) => {
            if error.is_refusal() {
                tracing::warn!(peer = %peer.addr, %error, "this is not the peer it should be");
            } else {
                tracing::debug!(peer = %peer.addr, %error, "cannot connect to a peer");
            }
            Event::ConnectFailed { peer }
        }
    };
    let _ = events.send(event).await;
}
