//! Counters of a node.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use torrent::Role;

/// Counters of a node. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Payload received, by who sent it; with what was damaged or came twice.
    pub received_bytes: Family<Source, Counter>,
    /// Payload written to sockets, by who gets it.
    pub sent_bytes: Family<Source, Counter>,
    /// Messages received from peers, with the heads of payload, and exchanged with trackers.
    pub control_bytes: Counter,
    /// Pieces received, verified and stored.
    pub pieces: Counter,
    /// Pieces received whole that were not what they should be.
    pub corrupt_pieces: Counter,
    /// Payload received of pieces that were here already, or not wanted any more.
    pub duplicate_bytes: Counter,
    /// Stored pieces that turned out damaged or gone.
    pub pieces_lost: Counter,
    /// Verified pieces that could not be stored.
    pub pieces_not_stored: Counter,
    /// Connections let go because too many others had not ended their handshake.
    pub handshakes_refused: Counter,
    pub connections: Gauge,
    /// Trackers with a session.
    pub trackers: Gauge,
    /// Blobs this node takes part in.
    pub blobs: Gauge,
}

/// The other end of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Source {
    pub peer: PeerKind,
}

/// What a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerKind {
    Agent,
    Origin,
}

impl From<Role> for Source {
    fn from(role: Role) -> Self {
        let peer = match role {
            Role::Origin => PeerKind::Origin,
            Role::Agent | Role::Tracker => PeerKind::Agent,
        };
        Self { peer }
    }
}

impl EncodeLabelValue for PeerKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Agent => "agent",
            Self::Origin => "origin",
        })
    }
}

impl Metrics {
    /// Makes the counters known to the registry of the process.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.begin_at_zero();
        let registry = registry.sub_registry_with_prefix("peer");
        let Self {
            received_bytes,
            sent_bytes,
            control_bytes,
            pieces,
            corrupt_pieces,
            duplicate_bytes,
            pieces_lost,
            pieces_not_stored,
            handshakes_refused,
            connections,
            trackers,
            blobs,
        } = metrics.clone();
        for (name, help, family) in [
            ("received", "Payload received from peers", received_bytes),
            ("sent", "Payload sent to peers", sent_bytes),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, family);
        }
        for (name, help, counter) in [
            (
                "duplicate",
                "Payload received that was here already, or not wanted any more",
                duplicate_bytes,
            ),
            (
                "control",
                "Messages received from peers and exchanged with trackers",
                control_bytes,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, counter);
        }
        for (name, help, counter) in [
            ("pieces", "Pieces received, verified and stored", pieces),
            (
                "corrupt_pieces",
                "Pieces received that did not verify",
                corrupt_pieces,
            ),
            (
                "pieces_lost",
                "Stored pieces found damaged or gone",
                pieces_lost,
            ),
            (
                "pieces_not_stored",
                "Verified pieces that could not be stored",
                pieces_not_stored,
            ),
            (
                "handshakes_refused",
                "Connections let go because too many others were in their handshake",
                handshakes_refused,
            ),
        ] {
            registry.register(name, help, counter);
        }
        for (name, help, gauge) in [
            ("connections", "Open connections with peers", connections),
            ("trackers", "Trackers with a session", trackers),
            ("blobs", "Blobs this node takes part in", blobs),
        ] {
            registry.register(name, help, gauge);
        }
        metrics
    }

    /// A counter that appears only with its first count looks like a new one to who watches it.
    fn begin_at_zero(&self) {
        for peer in [PeerKind::Agent, PeerKind::Origin] {
            drop(self.received_bytes.get_or_create(&Source { peer }));
            drop(self.sent_bytes.get_or_create(&Source { peer }));
        }
    }
}
