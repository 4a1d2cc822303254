//! The task that owns the decisions. Something happens, the swarm is told, and what it says is
//! done; nothing here waits for a socket or a disk, and nothing but this task decides.

mod act;
mod connections;
mod handshakes;
mod lazy;
mod trackers;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use service::tls::{Caller, Stream};
use swarm::event::Found;
use swarm::message::Announce;
use swarm::{ConnId, Failure, Input, Message, RequestId, Swarm, Time};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use torrent::{Bitfield, ClusterPublicKey, Description, Peer, PieceIndex, SignedCv, SwarmName};

use crate::announcer::{self, SessionEvent};
use crate::connection::Connection;
use crate::node::{Command, Inner, Overview, Want};
use crate::pieces::{Opened, Pin};
use crate::progress::Torrent;
use crate::sessions::Sessions;

/// Events that wait for the driver. Who sends one more waits.
const MAX_EVENTS: usize = 1024;
/// Events and commands that are taken together, so that what they announce goes in one message.
const MAX_BATCH: usize = 64;

/// What tasks tell the driver.
#[derive(Debug)]
pub(crate) enum Event {
    Accepted(Stream, Caller),
    Connected {
        peer: Peer,
        socket: Stream,
        caller: Caller,
    },
    ConnectFailed {
        peer: Peer,
    },
    Closed {
        conn: ConnId,
        why: String,
    },
    Received {
        conn: ConnId,
        message: Message,
    },
    UploadDone {
        conn: ConnId,
        id: RequestId,
    },
    UploadFailed {
        conn: ConnId,
        id: RequestId,
    },
    Session {
        tracker: usize,
        event: SessionEvent,
    },
    Opened {
        torrent: Arc<Torrent>,
        description: Description,
        opened: Opened,
    },
    /// About a blob, as long as it is the same one.
    OfTorrent {
        torrent: Arc<Torrent>,
        input: Input,
    },
    /// A stored piece is damaged or gone.
    Lost {
        name: SwarmName,
        piece: PieceIndex,
    },
    Evicted(Vec<SwarmName>),
    /// It shall be kept from eviction.
    Pinned {
        torrent: Arc<Torrent>,
        pin: Pin,
    },
    Resolved {
        name: SwarmName,
        found: Found,
    },
}

impl Event {
    pub(crate) const fn of_torrent(torrent: Arc<Torrent>, input: Input) -> Self {
        Self::OfTorrent { torrent, input }
    }
}

/// Owner of the swarm.
pub(crate) struct Driver {
    node: Arc<Inner>,
    swarm: Swarm,
    key: Option<ClusterPublicKey>,
    epoch: Instant,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Receiver<Event>,
    /// For the tasks.
    sender: mpsc::Sender<Event>,
    conns: HashMap<ConnId, Connection>,
    next_conn: u64,
    sessions: Sessions,
    trackers_up: Option<bool>,
    uploads: HashMap<(ConnId, RequestId), Arc<AtomicBool>>,
    /// Blobs that are being downloaded, kept from eviction.
    pins: HashMap<SwarmName, Pin>,
    /// What came of doing what the swarm said, told to it next.
    pending: VecDeque<Input>,
    /// What the swarm announced since trackers were last told.
    announces: Vec<Announce>,
}

impl Driver {
    pub(crate) fn new(
        node: Arc<Inner>,
        commands: mpsc::Receiver<Command>,
        key: Option<ClusterPublicKey>,
        seed: u64,
    ) -> Self {
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        let swarm = Swarm::new(node.swarm_config(key), seed);
        let sessions = Sessions::new(Arc::clone(&node.cluster));
        Self {
            node,
            swarm,
            key,
            epoch: Instant::now(),
            commands,
            events,
            sender,
            conns: HashMap::new(),
            next_conn: 0,
            sessions,
            trackers_up: None,
            uploads: HashMap::new(),
            pins: HashMap::new(),
            pending: VecDeque::new(),
            announces: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self, listener: TcpListener) {
        let accepting = connections::accept(Arc::clone(&self.node), listener, self.sender.clone());
        self.node.tasks.spawn(accepting);
        for (tracker, addr) in self.sessions.addrs().into_iter().enumerate() {
            let (node, events) = (Arc::clone(&self.node), self.sender.clone());
            let session = announcer::keep(node, tracker, addr, events);
            self.node.tasks.spawn(session);
        }
        self.tell_trackers_up();
        self.announce();
        let (node, stop) = (Arc::clone(&self.node), self.node.stop.clone());
        let mut sweeps = tokio::time::interval(self.sweep_every());
        while !stop.is_cancelled() {
            let wake = self.wake_at();
            let sleep = tokio::time::sleep_until(wake.unwrap_or(self.epoch));
            tokio::select! {
                () = stop.cancelled() => break,
                Some(event) = self.events.recv() => self.happened(event),
                Some(command) = self.commands.recv() => self.asked(command),
                () = node.readers.noted() => {}
                _ = sweeps.tick() => self.sweep(),
                () = sleep, if wake.is_some() => {}
            }
            self.take_batch();
            if self.swarm.poll_timeout().is_some_and(|at| at <= self.now()) {
                let now = self.now();
                self.swarm.handle_timeout(now);
                self.drain();
            }
            self.announce();
        }
        self.end();
    }

    /// Takes what else is there already.
    fn take_batch(&mut self) {
        for _ in 0..MAX_BATCH {
            let mut took = false;
            if let Ok(event) = self.events.try_recv() {
                self.happened(event);
                took = true;
            }
            if let Ok(command) = self.commands.try_recv() {
                self.asked(command);
                took = true;
            }
            if !took {
                break;
            }
        }
        for note in self.node.readers.take() {
            self.tell(note);
        }
    }

    fn end(&mut self) {
        let names: Vec<_> = self.node.torrents.read().keys().copied().collect();
        for name in names {
            let failure = Failure::Unavailable("this node is shutting down".into());
            self.node.drop_torrent(&name, failure);
        }
        self.conns.clear();
    }

    fn now(&self) -> Time {
        let micros = self.epoch.elapsed().as_micros();
        Time(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn wake_at(&self) -> Option<Instant> {
        let at = self.swarm.poll_timeout()?;
        self.epoch.checked_add(Duration::from_micros(at.0))
    }

    /// Tells the swarm what happened, and does what it says before anything else happens: it speaks
    /// of the connections and blobs of this moment.
    fn tell(&mut self, input: Input) {
        let now = self.now();
        self.swarm.handle(now, input);
        self.drain();
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Accepted(socket, caller) => self.connected(None, (socket, caller)),
            Event::Connected {
                peer,
                socket,
                caller,
            } => self.connected(Some(peer), (socket, caller)),
            Event::ConnectFailed { peer } => self.tell(Input::ConnectFailed { peer: peer.id }),
            Event::Closed { conn, why } => self.closed(conn, &why),
            Event::Received { conn, message } => {
                // What a closed connection said before is nobody's.
                if self.conns.contains_key(&conn) {
                    self.tell(Input::Received { conn, message });
                }
            }
            Event::UploadDone { conn, id } => {
                if self.uploads.remove(&(conn, id)).is_some() {
                    self.tell(Input::UploadDone { conn, id });
                }
            }
            Event::UploadFailed { conn, id } => {
                if self.uploads.remove(&(conn, id)).is_some() {
                    self.tell(Input::UploadFailed { conn, id });
                }
            }
            Event::Session { tracker, event } => self.session(tracker, event),
            Event::Opened {
                torrent,
                description,
                opened,
            } => self.opened(&torrent, description, opened),
            Event::OfTorrent { torrent, input } => {
                if self.is_current(&torrent) {
                    self.tell(input);
                }
            }
            Event::Lost { name, piece } => self.lost(name, piece),
            Event::Evicted(names) => self.remove(names, "it was evicted"),
            Event::Pinned { torrent, pin } => {
                if self.is_current(&torrent) && !torrent.now().is_complete() {
                    self.pins.insert(torrent.name, pin);
                }
            }
            Event::Resolved { name, found } => self.resolved(name, found),
        }
    }

    fn asked(&mut self, command: Command) {
        match command {
            Command::Download { wants, reply } => {
                let torrents = wants.into_iter().map(|want| self.download(want)).collect();
                if let Some(reply) = reply {
                    // Who asked may have gone; the download goes on.
                    let _ = reply.send(torrents);
                }
            }
            Command::GiveUp(torrent) => self.give_up(&torrent),
            Command::Read {
                name,
                reader,
                range,
            } => self.tell(Input::Read {
                name,
                reader,
                range,
            }),
            Command::Lost { name, piece } => self.lost(name, piece),
            Command::Seed(descriptions) => {
                for description in descriptions {
                    self.seed(description);
                }
            }
            Command::Remove(names) => self.remove(names, "it was removed"),
            Command::Partners(partners) => self.tell(Input::Partners(partners)),
            Command::Resolved { name, found } => self.resolved(name, found),
            Command::Hashed { name, signed } => self.hashed(name, signed),
            Command::Grown { description } => self.grown(description),
            Command::Revoke {
                name,
                generation,
                reason,
            } => self.tell(Input::Revoke {
                name,
                generation,
                reason,
            }),
            Command::Look(reply) => {
                let overview = Overview {
                    stats: self.swarm.stats(),
                    peers: self.conns.values().map(|one| one.known.status()).collect(),
                    trackers: self.sessions.status(),
                };
                let _ = reply.send(overview);
            }
        }
    }

    // --- blobs ---

    fn is_current(&self, torrent: &Arc<Torrent>) -> bool {
        let torrents = self.node.torrents.read();
        let current = torrents.get(&torrent.name);
        current.is_some_and(|current| Arc::ptr_eq(current, torrent))
    }

    fn torrent(&self, name: SwarmName) -> Arc<Torrent> {
        let mut torrents = self.node.torrents.write();
        let torrent = torrents.entry(name).or_insert_with(|| Torrent::new(name));
        let torrent = Arc::clone(torrent);
        let count = i64::try_from(torrents.len()).unwrap_or(i64::MAX);
        drop(torrents);
        self.node.metrics.blobs.set(count);
        torrent
    }

    fn forget_torrent(&mut self, name: &SwarmName, failure: Failure) {
        self.node.drop_torrent(name, failure);
        self.pins.remove(name);
        let count = self.node.torrents.read().len();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.node.metrics.blobs.set(count);
    }

    fn download(&mut self, want: Want) -> Arc<Torrent> {
        let torrent = self.torrent(want.name);
        torrent.want(want.whole);
        let is_complete = torrent.now().is_complete();
        if !is_complete {
            if want.whole {
                self.pin(&torrent);
            }
            self.tell(Input::Download {
                name: want.name,
                priority: want.priority,
                whole: want.whole,
            });
        }
        torrent
    }

    /// Drops a blob that nobody waits for and nobody could describe.
    fn give_up(&mut self, torrent: &Arc<Torrent>) {
        let is_unknown = torrent.now().description.is_none();
        if is_unknown && torrent.is_unwatched() && self.is_current(torrent) {
            let names = vec![torrent.name];
            self.remove(names, "nobody could say how long it is");
        }
    }

    fn seed(&mut self, description: Description) {
        let name = *description.name();
        let torrent = self.torrent(name);
        torrent.describe(description);
        let have = Bitfield::full(description.geometry());
        torrent.opened(description, have);
        self.tell(Input::Seed { description });
    }

    fn remove(&mut self, names: Vec<SwarmName>, why: &str) {
        for name in names {
            self.forget_torrent(&name, Failure::Unavailable(why.into()));
            self.tell(Input::Remove { name });
        }
    }

    fn lost(&mut self, name: SwarmName, piece: PieceIndex) {
        self.node.kept.remove(&name, piece);
        if let Some(torrent) = self.node.torrent(&name) {
            torrent.lost(piece);
            self.tell(Input::PieceLost { name, piece });
        }
    }

    fn opened(&mut self, torrent: &Arc<Torrent>, description: Description, opened: Opened) {
        if !self.is_current(torrent) {
            return;
        }
        let Opened { have, proven, pin } = opened;
        let name = torrent.name;
        torrent.opened(description, have.clone());
        if !have.is_full() {
            self.pins.insert(name, pin);
        }
        self.tell(Input::Opened { name, have, proven });
    }

    // --- origins ---

    fn resolved(&mut self, name: SwarmName, found: Found) {
        if let Found::Here(description) = &found {
            self.torrent(name).describe(*description);
        }
        self.tell(Input::Resolved { name, found });
    }

    fn hashed(&mut self, name: SwarmName, signed: Box<SignedCv>) {
        let torrent = self.torrent(name);
        let geometry = torrent.geometry();
        if let Some(piece) = geometry.and_then(|known| known.index(signed.piece)) {
            torrent.gained(piece);
        }
        self.tell(Input::Hashed { name, signed });
    }

    fn grown(&mut self, description: Description) {
        let torrent = self.torrent(*description.name());
        torrent.opened(description, Bitfield::full(description.geometry()));
        torrent.describe(description);
        self.tell(Input::Grown { description });
    }
}
