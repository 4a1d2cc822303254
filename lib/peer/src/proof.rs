//! What changes what pieces are checked against: done for each blob one after the other, in the
//! order in which the swarm asked for it.

use std::sync::Arc;

use swarm::{ConnId, Input};
use tokio::sync::mpsc;
use torrent::{ClusterPublicKey, Cv, Description, PieceIndex, SignedCv};

use crate::driver::Event;
use crate::node::Inner;
use crate::pieces::{ProveError, Proven};
use crate::progress::Torrent;
use crate::turns::Turn;

/// A job about what proves a blob.
pub(crate) struct Proof {
    pub(crate) node: Arc<Inner>,
    pub(crate) torrent: Arc<Torrent>,
    pub(crate) turn: Turn,
    pub(crate) events: mpsc::Sender<Event>,
}

impl Proof {
    /// Makes storage ready.
    pub(crate) async fn open(mut self, description: Description, key: Option<ClusterPublicKey>) {
        self.turn.come().await;
        let name = self.torrent.name;
        let signed = key.map_or(Ok(()), |key| description.verify(&key));
        let opened = match signed {
            Ok(()) => {
                self.torrent.describe(description);
                let opened = self.node.pieces.open(&description).await;
                opened.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        self.torrent.values.send_replace(());
        match opened {
            Ok(opened) => {
                let torrent = Arc::clone(&self.torrent);
                let opened = Event::Opened {
                    torrent,
                    description,
                    opened,
                };
                let _ = self.events.send(opened).await;
            }
            Err(reason) => {
                tracing::warn!(%name, reason, "cannot open a blob");
                let reason = reason.into();
                self.tell(Input::OpenFailed { name, reason }).await;
            }
        }
    }

    /// Takes the final description of a blob that was growing.
    pub(crate) async fn describe(mut self, description: Description) {
        self.turn.come().await;
        let name = self.torrent.name;
        match self.node.pieces.describe(&description).await {
            Ok(Proven { proven, dropped }) => {
                self.torrent.describe(description);
                self.torrent.values.send_replace(());
                self.lose(dropped).await;
                if proven {
                    self.tell(Input::CvsProven { name }).await;
                }
            }
            Err(error) => self.cannot_prove(&error, None).await,
        }
    }

    /// Proves chaining values.
    pub(crate) async fn prove(mut self, conn: ConnId, cvs: Arc<[Cv]>) {
        self.turn.come().await;
        let name = self.torrent.name;
        match self.node.pieces.prove(&name, cvs).await {
            Ok(Proven { dropped, .. }) => {
                self.torrent.values.send_replace(());
                self.lose(dropped).await;
                self.tell(Input::CvsProven { name }).await;
            }
            Err(error) => self.cannot_prove(&error, Some(conn)).await,
        }
    }

    /// Checks signed values.
    pub(crate) async fn grow(mut self, conn: ConnId, values: Vec<SignedCv>) {
        self.turn.come().await;
        let name = self.torrent.name;
        match self.node.pieces.grow(&name, values).await {
            Ok(pieces) => {
                self.torrent.values.send_replace(());
                self.tell(Input::GrowingCvsKnown { name, pieces }).await;
            }
            Err(error) => self.cannot_prove(&error, Some(conn)).await,
        }
    }

    async fn tell(&self, input: Input) {
        let torrent = Arc::clone(&self.torrent);
        let _ = self.events.send(Event::of_torrent(torrent, input)).await;
    }

    async fn lose(&self, pieces: Vec<PieceIndex>) {
        let name = self.torrent.name;
        for piece in pieces {
            self.torrent.lost(piece);
            self.node.kept.remove(&name, piece);
            self.node.metrics.pieces_lost.inc();
            self.tell(Input::PieceLost { name, piece }).await;
        }
    }

    async fn cannot_prove(&self, error: &ProveError, conn: Option<ConnId>) {
        let name = self.torrent.name;
        let input = match (error, conn) {
            (ProveError::Wrong, Some(conn)) => Input::CvsWrong { conn, name },
            (ProveError::Wrong | ProveError::Storage(_), _) => {
                tracing::warn!(%name, %error, "cannot keep what proves a blob");
                let reason = error.to_string().into();
                Input::OpenFailed { name, reason }
            }
        };
        self.tell(input).await;
    }
}
