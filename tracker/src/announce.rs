//! The task that owns the decisions: the clock and the randomness enter here.
//!
//! It never waits for a session. What is for one goes into that session's queue; where the queue
//! is full the session is closed, and its peer comes back and announces again.

use std::collections::HashMap;
use std::time::Duration;

use swarm::message::{Announce, AnnounceEvent};
use swarm::{CloseReason, Message, SessionId, Time, Tracker, TrackerInput, TrackerOutput};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metrics, Reason};

/// Events taken in before outputs are acted on.
const MAX_BATCH: usize = 64;
/// How long the task sleeps where nothing is due.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// What a session tells.
#[derive(Debug)]
pub(crate) enum Event {
    Opened(SessionId, Outgoing),
    Received(SessionId, Box<Message>),
    Closed(SessionId),
}

/// The way to a session.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) queue: mpsc::Sender<Message>,
    /// Cancelling it ends the session.
    pub(crate) cut: CancellationToken,
}

/// The owner of the decisions.
#[derive(Debug)]
pub(crate) struct Announcer {
    tracker: Tracker,
    sessions: HashMap<SessionId, Outgoing>,
    epoch: Instant,
    metrics: Metrics,
}

impl Announcer {
    pub(crate) fn new(tracker: Tracker, metrics: Metrics) -> Self {
        Self {
            tracker,
            sessions: HashMap::new(),
            epoch: Instant::now(),
            metrics,
        }
    }

    /// Works until nobody can send events any more.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            let due = match self.tracker.poll_timeout() {
                Some(at) => self.epoch + Duration::from_micros(at.0),
                None => Instant::now() + NOTHING_DUE,
            };
            tokio::select! {
                count = events.recv_many(&mut batch, MAX_BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for event in batch.drain(..) {
                        self.take(event);
                    }
                }
                () = tokio::time::sleep_until(due) => {
                    let now = self.now();
                    self.tracker.handle_timeout(now);
                    self.act();
                }
            }
            self.metrics.update(&self.tracker.stats());
        }
    }

    fn now(&self) -> Time {
        let micros = self.epoch.elapsed().as_micros();
        Time(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn take(&mut self, event: Event) {
        let input = match event {
            Event::Opened(session, outgoing) => {
                self.sessions.insert(session, outgoing);
                TrackerInput::Opened { session }
            }
            Event::Received(session, message) => {
                // Closed meanwhile; what it said before does not count any more.
                if !self.sessions.contains_key(&session) {
                    return;
                }
                if let Message::Announce { entries, .. } = &*message {
                    let joins =
                        |entry: &Announce| matches!(entry.event, AnnounceEvent::Join { .. });
                    if entries.iter().any(joins) {
                        self.metrics.join_messages.inc();
                    }
                    self.metrics.announces.inc_by(entries.len() as u64);
                }
                TrackerInput::Received {
                    session,
                    message: *message,
                }
            }
            Event::Closed(session) => {
                if self.sessions.remove(&session).is_none() {
                    return;
                }
                TrackerInput::Closed { session }
            }
        };
        self.handle(input);
    }

    fn handle(&mut self, input: TrackerInput) {
        let now = self.now();
        self.tracker.handle(now, input);
        self.act();
    }

    fn act(&mut self) {
        while let Some(output) = self.tracker.poll_output() {
            match output {
                TrackerOutput::Send { session, message } => self.send(session, message),
                TrackerOutput::Close { session, reason } => {
                    if self.cut(session, Reason::Closed) {
                        report(session, reason);
                    }
                }
            }
        }
    }

    fn send(&mut self, session: SessionId, message: Message) {
        let Some(outgoing) = self.sessions.get(&session) else {
            return;
        };
        match outgoing.queue.try_send(message) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(
                    session = session.0,
                    "closing a session that does not keep up"
                );
                self.cut(session, Reason::Behind);
                let now = self.now();
                // Its outputs are behind those that are being acted on.
                self.tracker.handle(now, TrackerInput::Closed { session });
            }
            // It is ending, and says so.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    fn cut(&mut self, session: SessionId, reason: Reason) -> bool {
        let Some(outgoing) = self.sessions.remove(&session) else {
            return false;
        };
        outgoing.cut.cancel();
        self.metrics.end(reason);
        true
    }
}

fn report(session: SessionId, reason: CloseReason) {
    let session = session.0;
    match reason {
        CloseReason::Protocol(why) => {
            tracing::warn!(session, why, "closing a session that breaks the protocol");
        }
        CloseReason::Silent => tracing::info!(session, "closing a session that is silent"),
        CloseReason::Duplicate => {
            tracing::info!(session, "a peer came back before its old session ended");
        }
        CloseReason::Corrupt | CloseReason::Myself | CloseReason::Spare | CloseReason::Idle => {
            tracing::info!(session, ?reason, "closing a session");
        }
    }
}
