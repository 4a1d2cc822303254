//! A tracker on a socket: the real decisions, the smallest shell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use swarm::tracker::{Config, Policy};
use swarm::{Message, SessionId, Time, Tracker, TrackerInput, TrackerOutput, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use torrent::{ClusterPublicKey, Peer, PeerId, Role};

/// Runs until it is dropped with the runtime, or aborted.
pub(super) async fn run(listener: TcpListener, key: ClusterPublicKey, owners: Vec<PeerId>) {
    let config = Config {
        me: Peer {
            id: PeerId::new(*b"the tracker of tests"),
            role: Role::Tracker,
            zone: "".into(),
            addr: "127.0.0.1:1".into(),
        },
        key: Some(key),
        policy: Policy::default(),
    };
    let mut tracker = Tracker::new(config, 1, Box::new(move |_| owners.clone()));
    let epoch = Instant::now();
    let (events, mut inputs) = mpsc::channel(64);
    let mut sessions: HashMap<SessionId, OwnedWriteHalf> = HashMap::new();
    let mut readers = JoinSet::new();
    let mut next = 0;
    loop {
        let now = || Time(u64::try_from(epoch.elapsed().as_micros()).unwrap());
        let wake = tracker.poll_timeout();
        let wake_at =
            epoch + wake.map_or(Duration::from_secs(3600), |at| Duration::from_micros(at.0));
        tokio::select! {
            Ok((socket, _)) = listener.accept() => {
                let session = SessionId(next);
                next += 1;
                socket.set_nodelay(true).unwrap();
                let (read_half, write_half) = socket.into_split();
                sessions.insert(session, write_half);
                readers.spawn(read(session, read_half, events.clone()));
                tracker.handle(now(), TrackerInput::Opened { session });
            }
            Some(input) = inputs.recv() => {
                if let TrackerInput::Closed { session } = &input {
                    sessions.remove(session);
                }
                tracker.handle(now(), input);
            }
            () = tokio::time::sleep_until(wake_at) => tracker.handle_timeout(now()),
        }
        while let Some(output) = tracker.poll_output() {
            match output {
                TrackerOutput::Send { session, message } => {
                    let mut bytes = Vec::new();
                    wire::encode(&message, &mut bytes);
                    if let Some(socket) = sessions.get_mut(&session) {
                        // One that is gone is told by its reader.
                        let _ = socket.write_all(&bytes).await;
                    }
                }
                TrackerOutput::Close { session, reason } => {
                    println!("tracker closes {session:?}: {reason:?}");
                    sessions.remove(&session);
                }
            }
        }
    }
}

async fn read(session: SessionId, mut socket: OwnedReadHalf, events: mpsc::Sender<TrackerInput>) {
    let mut buffer = BytesMut::new();
    loop {
        let message: Option<Message> = match wire::decode(&buffer).unwrap() {
            Some((message, length)) => {
                buffer.advance(length);
                Some(message)
            }
            None => None,
        };
        if let Some(message) = message {
            let received = TrackerInput::Received { session, message };
            let _ = events.send(received).await;
            continue;
        }
        if socket.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            let _ = events.send(TrackerInput::Closed { session }).await;
            return;
        }
    }
}

/// A cluster whose rings are lists.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    pub(super) trackers: Vec<Arc<str>>,
    pub(super) origins: Vec<Peer>,
}

impl crate::Cluster for Lists {
    fn trackers(&self) -> Vec<Arc<str>> {
        self.trackers.clone()
    }

    fn tracker_order(&self, _name: &torrent::SwarmName) -> Vec<usize> {
        (0..self.trackers.len()).collect()
    }

    fn owners(&self, _name: &torrent::SwarmName) -> Vec<Peer> {
        self.origins.clone()
    }
}
