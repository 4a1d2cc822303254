//! Connections that come and go.

use swarm::{ConnId, Input};
use tokio::net::TcpStream;
use torrent::Peer;

use super::Driver;
use crate::connection::Connection;

impl Driver {
    pub(super) fn connected(&mut self, peer: Option<Peer>, socket: TcpStream) {
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
