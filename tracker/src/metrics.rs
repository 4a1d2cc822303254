//! Counters of a tracker.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use swarm::tracker::Stats;

/// Counters of a tracker. Clones count the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) sessions: Gauge,
    pub(crate) swarms: Gauge,
    /// Blobs whose owners are being asked.
    pub(crate) pending: Gauge,
    /// Slots of origins that wait for an agent.
    pub(crate) credits: Gauge,
    /// Messages by which agents joined, each about one blob or many: what a client waits for.
    pub(crate) join_messages: Counter,
    /// Blobs that peers announced something about.
    pub(crate) announces: Counter,
    pub(crate) handouts: Counter,
    pub(crate) grants: Counter,
    pub(crate) withdrawals: Counter,
    /// Sessions that ended, by why.
    pub(crate) ended: Family<Ended, Counter>,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Ended {
    pub(crate) reason: Reason,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// The peer closed it, or its connection broke.
    Gone,
    /// It was silent, said no HELLO, or broke the protocol.
    Closed,
    /// It sent what is no message.
    Garbage,
    /// It did not take what was sent to it.
    Behind,
    /// There were too many, or its certificate is not one of the cluster, or of another role.
    Refused,
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Gone => "gone",
            Self::Closed => "closed",
            Self::Garbage => "garbage",
            Self::Behind => "behind",
            Self::Refused => "refused",
        })
    }
}

impl Metrics {
    /// Makes the counters known to the registry of the process.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("tracker");
        let Self {
            sessions,
            swarms,
            pending,
            credits,
            join_messages,
            announces,
            handouts,
            grants,
            withdrawals,
            ended,
        } = metrics.clone();
        for (name, help, gauge) in [
            ("sessions", "Agents and origins with a session", sessions),
            ("swarms", "Blobs somebody takes part in", swarms),
            ("pending", "Blobs whose owners are being asked", pending),
            (
                "credits",
                "Slots of origins that wait for an agent",
                credits,
            ),
        ] {
            registry.register(name, help, gauge);
        }
        for (name, help, counter) in [
            (
                "join_messages",
                "Messages by which agents joined, each about one blob or many",
                join_messages,
            ),
            (
                "announces",
                "Blobs that peers said something about",
                announces,
            ),
            ("handouts", "Lists of peers sent to agents", handouts),
            (
                "grants",
                "Permissions to ask an origin, sent to agents",
                grants,
            ),
            ("withdrawals", "Grants taken back", withdrawals),
        ] {
            registry.register(name, help, counter);
        }
        for reason in [
            Reason::Gone,
            Reason::Closed,
            Reason::Garbage,
            Reason::Behind,
            Reason::Refused,
        ] {
            // A family without members is not shown at all.
            drop(ended.get_or_create(&Ended { reason }));
        }
        registry.register("sessions_ended", "Sessions that ended", ended);
        metrics
    }

    pub(crate) fn end(&self, reason: Reason) {
        self.ended.get_or_create(&Ended { reason }).inc();
    }

    /// Takes over what the decisions have counted.
    pub(crate) fn update(&self, stats: &Stats) {
        let gauge = |gauge: &Gauge, count: usize| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        gauge(&self.sessions, stats.sessions);
        gauge(&self.swarms, stats.swarms);
        gauge(&self.pending, stats.pending);
        self.credits
            .set(i64::try_from(stats.credits).unwrap_or(i64::MAX));
        // One task calls this, so that nobody counts in between.
        let counter = |counter: &Counter, count: u64| {
            counter.inc_by(count.saturating_sub(counter.get()));
        };
        counter(&self.handouts, stats.handouts);
        counter(&self.grants, stats.grants);
        counter(&self.withdrawals, stats.withdrawals);
    }
}
