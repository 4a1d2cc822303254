//! Doing what the swarm says.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use swarm::{CloseReason, ConnId, Failure, Input, Message, Output};
use tokio::sync::mpsc;
use torrent::{Peer, SwarmName};

use super::{Driver, Event, connections};
use crate::connection::{Asked, Outgoing};
use crate::jobs::{self, Requested};
use crate::node::Inner;
use crate::proof::Proof;

impl Driver {
    /// Does what the swarm says, and tells it what came of that.
    pub(super) fn drain(&mut self) {
        loop {
            while let Some(output) = self.swarm.poll_output() {
                self.act(output);
            }
            let Some(input) = self.pending.pop_front() else {
                return;
            };
            let now = self.now();
            self.swarm.handle(now, input);
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each output")]
    fn act(&mut self, output: Output) {
        match output {
            Output::Connect { peer } => self.connect(peer),
            Output::Close { conn, reason } => self.close(conn, reason),
            Output::Send { conn, message } => self.send(conn, message),
            Output::Announce(entry) => self.announces.push(entry),
            Output::Tracker { name, message } => {
                if let Some(tracker) = self.sessions.route(&name) {
                    self.sessions.send(tracker, message);
                }
            }
            Output::Credit { count } => self.give_credits(count),
            Output::FindOwners { name } => {
                let mut peers = self.node.cluster.owners(&name);
                peers.retain(|peer| peer.id != self.node.me.id);
                self.pending.push_back(Input::Owners { name, peers });
            }
            Output::Open { description } => {
                let job = self.proof(*description.name());
                self.spawn(job.open(description, self.key));
            }
            Output::Described { description } => {
                let job = self.proof(*description.name());
                self.spawn(job.describe(description));
            }
            Output::ProveCvs { conn, name, cvs } => {
                let job = self.proof(name);
                self.spawn(job.prove(conn, cvs));
            }
            Output::CheckGrowingCvs {
                conn, name, cvs, ..
            } => {
                let job = self.proof(name);
                self.spawn(job.grow(conn, cvs));
            }
            Output::SendCvs {
                conn,
                name,
                first,
                count,
            } => {
                if let Some(connection) = self.conns.get_mut(&conn) {
                    let (turn, queue) = (connection.values.take(), connection.queue.clone());
                    let node = Arc::clone(&self.node);
                    self.spawn(jobs::send_cvs(node, turn, name, first, count, queue));
                }
            }
            Output::Upload {
                conn,
                id,
                name,
                piece,
                blocks,
                priority,
            } => self.upload(Requested {
                conn,
                id,
                name,
                piece,
                blocks,
                priority,
                cancelled: Arc::default(),
            }),
            Output::CancelUpload { conn, id } => {
                if let Some(cancelled) = self.uploads.remove(&(conn, id)) {
                    cancelled.store(true, Ordering::Relaxed);
                }
            }
            Output::Recheck { name, piece } => {
                let (node, events) = self.for_job();
                self.spawn(jobs::recheck(node, name, piece, events));
            }
            Output::Completed { name } => self.completed(&name),
            Output::Failed { name, failure } => self.failed(name, failure),
            Output::Resolve { name } => {
                let (node, events) = self.for_job();
                self.spawn(async move {
                    let found = node.pieces.resolve(&name).await;
                    let _ = events.send(Event::Resolved { name, found }).await;
                });
            }
        }
    }

    fn for_job(&self) -> (Arc<Inner>, mpsc::Sender<Event>) {
        (Arc::clone(&self.node), self.sender.clone())
    }

    fn proof(&self, name: SwarmName) -> Proof {
        let torrent = self.torrent(name);
        let turn = torrent.proofs.lock().take();
        let (node, events) = self.for_job();
        Proof {
            node,
            torrent,
            turn,
            events,
        }
    }

    /// Runs a job until its end or that of the node.
    pub(super) fn spawn(&self, job: impl Future<Output = ()> + Send + 'static) {
        let stop = self.node.stop.clone();
        let job = async move { stop.run_until_cancelled_owned(job).await };
        self.node.tasks.spawn(job);
    }

    fn upload(&mut self, requested: Requested) {
        let Some(connection) = self.conns.get(&requested.conn) else {
            return;
        };
        let (queue, values) = (connection.queue.clone(), connection.values.so_far());
        let cancelled = Arc::clone(&requested.cancelled);
        self.uploads
            .insert((requested.conn, requested.id), cancelled);
        let (node, events) = self.for_job();
        self.spawn(requested.upload(node, values, queue, events));
    }

    fn connect(&self, peer: Peer) {
        let (node, events) = self.for_job();
        self.spawn(connections::connect(node, peer, events));
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(connection) = self.conns.remove(&conn) else {
            return;
        };
        let peer = connection.known.peer.get().map(|peer| peer.addr.as_ref());
        match reason {
            CloseReason::Protocol(_) | CloseReason::Corrupt => {
                tracing::warn!(conn = conn.0, peer, ?reason, "closing a connection");
            }
            CloseReason::Silent
            | CloseReason::Duplicate
            | CloseReason::Myself
            | CloseReason::Spare
            | CloseReason::Idle => {
                tracing::debug!(conn = conn.0, peer, ?reason, "closing a connection");
            }
        }
        connection.finish();
        self.cancel_uploads(conn);
        self.forget_conn(conn);
    }

    fn cancel_uploads(&self, conn: ConnId) {
        for ((of, _), cancelled) in &self.uploads {
            if *of == conn {
                cancelled.store(true, Ordering::Relaxed);
            }
        }
    }

    fn send(&mut self, conn: ConnId, message: Message) {
        // It may have been cut since.
        let Some(connection) = self.conns.get(&conn) else {
            return;
        };
        if let Message::Request {
            id, name, target, ..
        } = &message
        {
            let torrent = self.node.torrent(name);
            let known = torrent.and_then(|torrent| Some((torrent.geometry()?, torrent)));
            let Some((geometry, torrent)) = known else {
                debug_assert!(false, "a request for a blob of unknown length");
                return;
            };
            let asked = Asked {
                torrent,
                geometry,
                target: *target,
            };
            // The data is welcome before anybody can send it.
            connection.expected.insert(*id, asked);
        }
        if let Message::Cancel { id } = &message {
            connection.expected.cancel(*id);
        }
        let sent = connection.queue.try_send(Outgoing::Message(message));
        if sent.is_err() {
            self.cut(conn, "the peer does not take what is sent to it");
        }
    }

    /// Ends a connection at once.
    fn cut(&mut self, conn: ConnId, why: &str) {
        if let Some(connection) = self.conns.remove(&conn) {
            let peer = connection.known.peer.get().map(|peer| peer.addr.as_ref());
            tracing::warn!(conn = conn.0, peer, why, "cutting a connection");
            self.cancel_uploads(conn);
            self.forget_conn(conn);
            self.pending.push_back(Input::Closed { conn });
        }
    }

    fn completed(&mut self, name: &SwarmName) {
        self.pins.remove(name);
        if let Some(torrent) = self.node.torrent(name) {
            let status = torrent.status();
            tracing::info!(
                %name,
                length_bytes = status.length_bytes,
                from_agents_bytes = status.from_agents_bytes,
                from_origins_bytes = status.from_origins_bytes,
                "a blob is complete"
            );
        }
    }

    fn failed(&mut self, name: SwarmName, failure: Failure) {
        match &failure {
            Failure::Absent => tracing::debug!(%name, "no storage has a blob"),
            Failure::Unavailable(reason) => tracing::warn!(%name, %reason, "a blob failed"),
            Failure::Revoked(reason) => {
                tracing::error!(%name, %reason, "a blob was revoked");
                let pieces = Arc::clone(&self.node.pieces);
                self.node
                    .tasks
                    .spawn(async move { pieces.remove(&name).await });
            }
        }
        self.forget_torrent(&name, failure);
    }
}
