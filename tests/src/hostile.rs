//! A peer that tells the truth about everything but the bytes.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use swarm::message::{AnnounceEvent, Message, RejectReason, RequestId, Target, VERSION};
use swarm::{message, wire};
use torrent::{Bitfield, Description, MetaInfo, Peer, PeerId, Role, SwarmName};

/// Payload bytes of one frame.
const FRAME_BYTES: u32 = 256 * 1024;

/// A peer in threads of its own. It ends with the process of the tests.
#[derive(Debug)]
pub struct Hostile {
    sent: Arc<AtomicU64>,
}

impl Hostile {
    /// Tells the tracker of having all of these blobs, and sends damaged pieces to everybody who
    /// asks.
    ///
    /// # Panics
    /// Where the tracker does not take it.
    #[must_use]
    pub fn start(tracker: SocketAddr, blobs: Vec<MetaInfo>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let me = Peer {
            id: PeerId::new(*b"a peer that damages."),
            role: Role::Agent,
            zone: "".into(),
            addr: addr.to_string().into(),
        };
        let sent = Arc::new(AtomicU64::new(0));
        let liar = Liar {
            me: me.clone(),
            blobs: blobs
                .into_iter()
                .map(|blob| (*blob.summary().name(), blob))
                .collect(),
            sent: Arc::clone(&sent),
        };
        let mut session = Connection::new(TcpStream::connect(tracker).expect("a tracker listens"));
        session.send(&liar.hello());
        session.send(&liar.announce());
        std::thread::spawn(move || {
            while let Some(message) = session.receive() {
                if let Message::Ping { token } = message {
                    session.send(&Message::Pong { token });
                }
            }
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let liar = liar.clone();
                std::thread::spawn(move || liar.serve(&mut Connection::new(stream)));
            }
        });
        Self { sent }
    }

    /// Returns how many damaged pieces were sent whole.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Debug)]
struct Liar {
    me: Peer,
    blobs: BTreeMap<SwarmName, MetaInfo>,
    sent: Arc<AtomicU64>,
}

impl Liar {
    fn hello(&self) -> Message {
        Message::Hello {
            version: VERSION,
            me: self.me.clone(),
        }
    }

    fn announce(&self) -> Message {
        let entries = self.blobs.iter().map(|(name, blob)| message::Announce {
            name: *name,
            event: AnnounceEvent::Complete { unserved: false },
            description: Some(Description::Complete(*blob.summary())),
        });
        Message::Announce {
            entries: entries.collect(),
            connected: Vec::new(),
            credits: 0,
        }
    }

    fn serve(&self, connection: &mut Connection) {
        connection.send(&self.hello());
        while let Some(message) = connection.receive() {
            self.answer(connection, message);
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what it does not lie about it does not answer"
    )]
    fn answer(&self, connection: &mut Connection, message: Message) {
        match message {
            Message::Bitfield { name, .. } => {
                if let Some(blob) = self.blobs.get(&name) {
                    let summary = *blob.summary();
                    connection.send(&Message::Bitfield {
                        name,
                        have: Bitfield::full(summary.geometry()).to_bytes(),
                        description: Some(Description::Complete(summary)),
                    });
                }
            }
            Message::CvRequest { name, .. } => {
                if let Some(blob) = self.blobs.get(&name) {
                    let cvs = Arc::clone(blob.cvs());
                    connection.send(&Message::Cvs { name, cvs });
                }
            }
            Message::Request {
                id, name, target, ..
            } => self.damage(connection, id, &name, target),
            Message::Ping { token } => connection.send(&Message::Pong { token }),
            _ => {}
        }
    }

    fn damage(&self, connection: &mut Connection, id: RequestId, name: &SwarmName, target: Target) {
        let geometry = self.blobs.get(name).map(|blob| *blob.summary().geometry());
        let piece = match target {
            Target::Piece(piece) | Target::Blocks(piece, _) => piece,
            Target::Any => u32::MAX,
        };
        let index = geometry.and_then(|geometry| Some((geometry, geometry.index(piece)?)));
        let Some((geometry, index)) = index else {
            let reason = RejectReason::NotHere;
            return connection.send(&Message::Reject { id, reason });
        };
        let size = geometry.size(index);
        let mut offset = 0;
        while offset < size {
            let length = FRAME_BYTES.min(size - offset);
            let last = offset + length == size;
            connection.send(&Message::Data {
                id,
                piece,
                offset,
                length,
                last,
            });
            connection.write(&vec![0x5a; length as usize]);
            offset += length;
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection that sends and receives whole messages. Once it broke it is silent.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        let patience = Some(Duration::from_secs(60));
        stream
            .set_read_timeout(patience)
            .expect("a time-out can be set");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    fn send(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        self.write(&bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        // The other side closes when it has had enough of us; reading shows it.
        let _ = self.stream.write_all(bytes);
    }

    fn receive(&mut self) -> Option<Message> {
        loop {
            let decoded = wire::decode(&self.buffer).ok()?;
            if let Some((message, consumed)) = decoded {
                self.buffer.drain(..consumed);
                return Some(message);
            }
            let mut chunk = [0; 16 * 1024];
            let count = self.stream.read(&mut chunk).ok()?;
            if count == 0 {
                return None;
            }
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }
}
