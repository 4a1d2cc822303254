//! A tracker on sockets, with agents and an origin that speak through the real codec.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use service::Running;
use swarm::message::{Announce, AnnounceEvent, HandoutStatus, VERSION};
use swarm::{Message, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use torrent::{ClusterKey, Description, Peer, PeerId, Role, Root, Summary, SwarmName};

use crate::{Config, Listeners, StartError, start};

/// Longest wait for what must come.
const WAIT: Duration = Duration::from_secs(20);

struct Tracker {
    addr: SocketAddr,
    running: Running,
    shutdown: CancellationToken,
}

fn key() -> ClusterKey {
    ClusterKey::from_seed([3; 32])
}

fn name() -> SwarmName {
    SwarmName::Blob(oci::Digest::sha256(b"a blob"))
}

fn description(key: &ClusterKey) -> Description {
    Description::Complete(Summary::sign(key, name(), 100 << 20, Root([9; 32])).unwrap())
}

fn config() -> Config {
    serde_json::from_value(serde_json::json!({
        "name": "t1",
        "cluster": {
            "trackers": [{"name": "t1", "peer": "t1:5003"}],
            "origins": [{"name": "o1", "http": "o1:5002", "peer": "o1:5012"}],
        },
        "cluster_key": key().public().to_string(),
    }))
    .unwrap()
}

impl Tracker {
    async fn start(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let listeners = Listeners { peer: listener };
        let running = start(config, listeners, shutdown.clone()).await.unwrap();
        Self {
            addr,
            running,
            shutdown,
        }
    }

    async fn connect(&self) -> Session {
        let socket = TcpStream::connect(self.addr).await.unwrap();
        let buffer = BytesMut::new();
        Session { socket, buffer }
    }

    async fn join_as(&self, id: PeerId, role: Role) -> Session {
        let mut session = self.connect().await;
        let me = Peer {
            id,
            role,
            zone: "".into(),
            addr: "host:1".into(),
        };
        let version = VERSION;
        session.send(&Message::Hello { version, me }).await;
        let hello = session.receive().await.unwrap();
        assert!(
            matches!(&hello, Message::Hello { me, .. } if me.role == Role::Tracker && &*me.addr == "t1:5003"),
            "{hello:?}"
        );
        session
    }

    async fn agent(&self, number: u8) -> Session {
        self.join_as(PeerId::new([number; 20]), Role::Agent).await
    }

    /// Waits until a line of the metrics is there.
    async fn until_metric(&self, line: &str) {
        let there = async {
            while !self
                .running
                .admin
                .metrics()
                .lines()
                .any(|other| other == line)
            {
                tokio::task::yield_now().await;
            }
        };
        let came = tokio::time::timeout(WAIT, there).await;
        assert!(came.is_ok(), "{line}: {}", self.running.admin.metrics());
    }
}

struct Session {
    socket: TcpStream,
    buffer: BytesMut,
}

impl Session {
    async fn send(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        self.socket.write_all(&bytes).await.unwrap();
    }

    async fn announce(
        &mut self,
        event: AnnounceEvent,
        described: Option<Description>,
        credits: u16,
    ) {
        let entry = Announce {
            name: name(),
            event,
            description: described,
        };
        let message = Message::Announce {
            entries: vec![entry],
            connected: Vec::new(),
            credits,
        };
        self.send(&message).await;
    }

    async fn join(&mut self) {
        let event = AnnounceEvent::Join { sixteenths: 0 };
        self.announce(event, None, 0).await;
    }

    /// Returns the next message, or `None` where the tracker closed the session.
    async fn receive(&mut self) -> Option<Message> {
        let read = async {
            loop {
                if let Some((message, length)) = wire::decode(&self.buffer).unwrap() {
                    self.buffer.advance(length);
                    return Some(message);
                }
                // A reset is an end too: not all that was sent was read.
                if self.socket.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(WAIT, read).await.expect("in time")
    }

    async fn until_closed(&mut self) {
        while self.receive().await.is_some() {}
    }
}

#[tokio::test]
async fn agents_are_introduced_and_admitted() {
    let tracker = Tracker::start(config()).await;
    let mut origin = tracker.join_as(PeerId::of_origin("o1"), Role::Origin).await;
    let complete = AnnounceEvent::Complete { unserved: true };
    origin
        .announce(complete, Some(description(&key())), 6)
        .await;
    tracker.until_metric("tracker_credits 6").await;

    let mut first = tracker.agent(1).await;
    first.join().await;
    let (mut described, mut granted) = (false, false);
    while !(described && granted) {
        let message = first.receive().await.expect("the session stays");
        if let Message::Handout { status, .. } = message {
            described = status == HandoutStatus::Known(description(&key()));
        } else if let Message::Grant { origin, count, .. } = message {
            assert_eq!(origin.id, PeerId::of_origin("o1"));
            assert!(count > 0);
            granted = true;
        }
    }
    let told = loop {
        if let Message::Grant { agent, .. } = origin.receive().await.expect("the session stays") {
            break agent;
        }
    };
    assert_eq!(
        told,
        PeerId::new([1; 20]),
        "the origin hears whom it serves"
    );

    let mut second = tracker.agent(2).await;
    second.join().await;
    let peers = loop {
        let message = second.receive().await.expect("the session stays");
        if let Message::Handout { peers, .. } = message
            && !peers.is_empty()
        {
            break peers;
        }
    };
    assert_eq!(peers[0].id, PeerId::new([1; 20]));
    tracker.until_metric("tracker_sessions 3").await;
    tracker.until_metric("tracker_announces_total 3").await;
    let status = tracker.running.admin.status().await;
    assert_eq!(status["swarms"], 1);
    assert!(tracker.running.admin.not_ready().await.is_empty());
}

#[tokio::test]
async fn what_the_key_did_not_sign_is_not_passed_on() {
    let tracker = Tracker::start(config()).await;
    let mut forger = tracker.agent(1).await;
    let forged = description(&ClusterKey::from_seed([4; 32]));
    let complete = AnnounceEvent::Complete { unserved: false };
    forger.announce(complete, Some(forged), 0).await;
    tracker.until_metric("tracker_announces_total 1").await;
    let mut agent = tracker.agent(2).await;
    agent.join().await;
    let status = loop {
        if let Message::Handout { status, .. } = agent.receive().await.expect("it stays") {
            break status;
        }
    };
    assert!(!matches!(status, HandoutStatus::Known(_)), "{status:?}");
}

#[tokio::test]
async fn garbage_closes_the_session_and_nothing_else() {
    let tracker = Tracker::start(config()).await;
    let mut good = tracker.agent(1).await;
    let get = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    let no_frame = vec![0; 4];
    let too_long = [&(2_u32 << 20).to_be_bytes()[..], &[0x18]].concat();
    let unknown = vec![0, 0, 0, 1, 0xee];
    for bytes in [get, no_frame, too_long, unknown] {
        let mut bad = tracker.agent(2).await;
        bad.socket.write_all(&bytes).await.unwrap();
        bad.until_closed().await;
    }
    let line = "tracker_sessions_ended_total{reason=\"garbage\"} 4";
    tracker.until_metric(line).await;

    let mut early = tracker.connect().await;
    early.join().await;
    early.until_closed().await;
    tracker
        .until_metric("tracker_sessions_ended_total{reason=\"closed\"} 1")
        .await;

    good.send(&Message::Ping { token: 7 }).await;
    assert_eq!(good.receive().await, Some(Message::Pong { token: 7 }));
}

#[tokio::test]
async fn sessions_have_a_limit() {
    let config = Config {
        max_sessions: 1,
        ..config()
    };
    let tracker = Tracker::start(config).await;
    let first = tracker.agent(1).await;
    tracker.connect().await.until_closed().await;
    tracker
        .until_metric("tracker_sessions_ended_total{reason=\"refused\"} 1")
        .await;
    drop(first);
    tracker.until_metric("tracker_sessions 0").await;
}

#[tokio::test]
async fn who_does_not_read_is_closed() {
    let config = Config {
        max_queued_messages: 1,
        ..config()
    };
    let tracker = Tracker::start(config).await;
    let mut deaf = tracker.agent(1).await;
    let mut pings = Vec::new();
    for token in 0..1000 {
        wire::encode(&Message::Ping { token }, &mut pings);
    }
    // Until buffers of the kernel are full too.
    let closed = async { while deaf.socket.write_all(&pings).await.is_ok() {} };
    tokio::time::timeout(WAIT, closed)
        .await
        .expect("it is closed");
    tracker.until_metric("tracker_sessions 0").await;
    tracker
        .until_metric("tracker_sessions_ended_total{reason=\"behind\"} 1")
        .await;
}

#[tokio::test]
async fn shutdown_ends_everything() {
    let tracker = Tracker::start(config()).await;
    let mut agent = tracker.agent(1).await;
    tracker.shutdown.cancel();
    agent.until_closed().await;
    let end = tokio::time::timeout(WAIT, tracker.running.wait()).await;
    end.expect("in time").unwrap();
    assert!(TcpStream::connect(tracker.addr).await.is_err());
}

#[tokio::test]
async fn a_configuration_must_fit_together() {
    let attempt = |config| async {
        let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let started = start(config, Listeners { peer }, CancellationToken::new()).await;
        started.unwrap_err()
    };
    let mut nobody = config();
    nobody.cluster.origins = api::Members::default();
    assert!(matches!(attempt(nobody).await, StartError::NoOrigins));
    let mut stranger = config();
    stranger.name = "t2".parse().unwrap();
    let error = attempt(stranger).await;
    assert!(
        error.to_string().contains("t2") && error.to_string().contains("t1"),
        "{error}"
    );
}
