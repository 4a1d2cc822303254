//! The loop: take the earliest event, let time jump to it, let a process do what it does.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use swarm::{Input, Micros, RequestId, Time, Tracker};
use torrent::{ClusterKey, Peer, PeerId, PieceIndex, Role, SwarmName};

use crate::blob::{Blob, Download, Outcome, Stored};
use crate::link::{Conn, Link, Packet};
use crate::member::Member;
use crate::queue::Queue;
use crate::report::{Report, percentile};
use crate::scenario::Scenario;

/// Moment at which every run starts.
const START: Time = Time(1_000_000);

/// A machine, and the process that runs on it.
pub(crate) struct Machine {
    pub(crate) peer: Peer,
    pub(crate) process: Process,
    /// Counts the processes that ran here, so that what was meant for an earlier one is dropped.
    pub(crate) life: u32,
    pub(crate) link: Link,
    pub(crate) disk: BTreeMap<SwarmName, Stored>,
    /// Whether everything it sends is damaged.
    pub(crate) damages: bool,
    /// Whether it has everything and sends none of it.
    pub(crate) is_mute: bool,
    /// When its timer will ring.
    pub(crate) armed: Option<Time>,
}

pub(crate) enum Process {
    Down,
    Member(Box<Member>),
    Tracker(Box<Tracker>),
}

/// A connection between two machines.
pub(crate) struct Connection {
    pub(crate) machines: [usize; 2],
    pub(crate) open: [bool; 2],
    /// Payload that each end sent and that is not in yet.
    pub(crate) under_way: [u64; 2],
    /// It is a session with a tracker; the member is the first end.
    pub(crate) session: bool,
}

/// What will happen.
pub(crate) enum Event {
    Start(usize),
    /// A client of the machine asks for a blob.
    Ask {
        machine: usize,
        blob: usize,
    },
    Timer {
        machine: usize,
        life: u32,
    },
    /// The way up of the machine is free again.
    Sent {
        machine: usize,
        life: u32,
    },
    /// A packet is at the way down of an end.
    Arrived {
        conn: Conn,
        end: usize,
        packet: Packet,
    },
    /// A packet is in.
    Delivered {
        conn: Conn,
        end: usize,
        packet: Packet,
    },
    /// A connection was made, if both are still there.
    Connected {
        machines: [usize; 2],
        lives: [u32; 2],
        expected: Peer,
        session: bool,
    },
    /// The other process of a connection is gone.
    Reset {
        conn: Conn,
        end: usize,
    },
    /// A shell has an answer ready.
    Answer {
        machine: usize,
        life: u32,
        input: Box<Input>,
    },
    /// A piece was hashed after it came in.
    Checked {
        machine: usize,
        life: u32,
        conn: Conn,
        id: RequestId,
        name: SwarmName,
        piece: PieceIndex,
        damaged: bool,
    },
    /// An origin read a piece of a growing blob.
    Hashed {
        machine: usize,
        life: u32,
        blob: usize,
        piece: u32,
    },
    /// A member tries to reach a tracker (again).
    Reach {
        machine: usize,
        life: u32,
        tracker: usize,
    },
    Fault(usize),
}

/// Bytes of payload, by what became of them.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Sent by origins to agents.
    pub(crate) egress: u64,
    pub(crate) useful: u64,
    pub(crate) wasted: u64,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) queue: Queue<Event>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) addresses: BTreeMap<Arc<str>, usize>,
    pub(crate) conns: Vec<Connection>,
    pub(crate) blobs: Vec<Blob>,
    pub(crate) names: BTreeMap<SwarmName, usize>,
    pub(crate) key: ClusterKey,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) downloads: BTreeMap<(usize, usize), Download>,
    pub(crate) unfinished: usize,
    pub(crate) faults_left: usize,
    pub(crate) traffic: Traffic,
    /// The longest read of a part.
    pub(crate) longest_read: Micros,
    pub(crate) violations: Vec<String>,
    trace: blake3::Hasher,
    events: u64,
}

impl World {
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let key = ClusterKey::from_seed([1; 32]);
        let blobs: Vec<Blob> = scenario
            .blobs
            .iter()
            .enumerate()
            .filter_map(|(index, spec)| Blob::new(&key, index, spec))
            .collect();
        let names = blobs.iter().enumerate();
        let names = names.map(|(index, blob)| (blob.name, index)).collect();
        let mut world = Self {
            now: START,
            seed,
            queue: Queue::new(),
            machines: Vec::new(),
            addresses: BTreeMap::new(),
            conns: Vec::new(),
            blobs,
            names,
            key,
            rng: ChaCha8Rng::seed_from_u64(seed),
            downloads: BTreeMap::new(),
            unfinished: 0,
            faults_left: scenario.faults.len(),
            traffic: Traffic::default(),
            longest_read: Micros(0),
            violations: Vec::new(),
            trace: blake3::Hasher::new(),
            events: 0,
            scenario: scenario.clone(),
        };
        world.place_machines();
        world.plan();
        world
    }

    /// Trackers come first, then origins, then agents.
    fn place_machines(&mut self) {
        let scenario = &self.scenario;
        let (origin, agent) = (scenario.origin_link, scenario.agent_link);
        let slow = scenario.slow_agents;
        let first_corrupt = scenario.agents.saturating_sub(scenario.corrupt_agents);
        let first_mute = first_corrupt.saturating_sub(scenario.mute_agents);
        let kinds = [
            (Role::Tracker, scenario.trackers, "tracker"),
            (Role::Origin, scenario.origins, "origin"),
            (Role::Agent, scenario.agents, "agent"),
        ];
        let zones = scenario.zones.max(1);
        for (role, count, kind) in kinds {
            for number in 0..count {
                let addr: Arc<str> = format!("{kind}-{number}:7000").into();
                let spec = if role == Role::Agent { agent } else { origin };
                let divisor = if role == Role::Agent && number < slow {
                    10
                } else {
                    1
                };
                let zone = if zones > 1 && role == Role::Agent {
                    format!("zone-{}", number % zones)
                } else {
                    String::new()
                };
                let index = self.machines.len();
                self.addresses.insert(Arc::clone(&addr), index);
                self.machines.push(Machine {
                    peer: Peer {
                        id: id_of(role, &addr),
                        role,
                        zone: zone.into(),
                        addr,
                    },
                    process: Process::Down,
                    life: 0,
                    link: Link::new(
                        (spec.up_bytes_per_s / divisor).max(1),
                        (spec.down_bytes_per_s / divisor).max(1),
                    ),
                    disk: BTreeMap::new(),
                    damages: role == Role::Agent && number >= first_corrupt,
                    is_mute: role == Role::Agent && (first_mute..first_corrupt).contains(&number),
                    armed: None,
                });
            }
        }
    }

    fn plan(&mut self) {
        for machine in 0..self.machines.len() {
            self.queue.push(START, Event::Start(machine));
        }
        let spread_us = self.scenario.join_spread_ms * 1_000;
        // Sessions with trackers are up when the first clients ask.
        let open = START + Micros::from_millis(10);
        for machine in self.agents() {
            if self.machines[machine].is_mute {
                continue;
            }
            let at = open + Micros(self.rng.random_range(0..=spread_us));
            for blob in 0..self.blobs.len() {
                let download = Download {
                    joined: at,
                    outcome: None,
                };
                self.downloads.insert((machine, blob), download);
                self.unfinished += 1;
                self.queue.push(at, Event::Ask { machine, blob });
            }
        }
        for (index, fault) in self.scenario.faults.iter().enumerate() {
            let at = START + Micros::from_millis(fault.at_ms);
            self.queue.push(at, Event::Fault(index));
        }
    }

    pub(crate) fn agents(&self) -> std::ops::Range<usize> {
        let first = (self.scenario.trackers + self.scenario.origins) as usize;
        first..self.machines.len()
    }

    pub(crate) fn origins(&self) -> std::ops::Range<usize> {
        let first = self.scenario.trackers as usize;
        first..first + self.scenario.origins as usize
    }

    pub(crate) fn trackers(&self) -> std::ops::Range<usize> {
        0..self.scenario.trackers as usize
    }

    pub(crate) fn run(mut self) -> Report {
        let limit = START + Micros::from_millis(self.scenario.limit_ms);
        while self.violations.is_empty() && (self.unfinished > 0 || self.faults_left > 0) {
            let Some((at, event)) = self.queue.pop() else {
                break;
            };
            if at > limit {
                break;
            }
            self.now = at;
            self.events += 1;
            self.record(&event);
            self.perform(event);
        }
        self.report()
    }

    fn perform(&mut self, event: Event) {
        match event {
            Event::Start(machine) => self.start(machine),
            Event::Ask { machine, blob } => self.ask(machine, blob),
            Event::Timer { machine, life } => self.timer(machine, life),
            Event::Sent { machine, life } => self.sent(machine, life),
            Event::Arrived { conn, end, packet } => {
                let machine = self.conns[conn].machines[end];
                let at = self.machines[machine].link.take(self.now, &packet);
                self.queue.push(at, Event::Delivered { conn, end, packet });
            }
            Event::Delivered { conn, end, packet } => self.delivered(conn, end, packet),
            Event::Connected {
                machines,
                lives,
                expected,
                session,
            } => self.connected(machines, lives, &expected, session),
            Event::Reset { conn, end } => self.end_closed(conn, end),
            Event::Answer {
                machine,
                life,
                input,
            } => {
                if self.lives(machine, life) {
                    self.answered(machine, *input);
                }
            }
            Event::Checked {
                machine,
                life,
                conn,
                id,
                name,
                piece,
                damaged,
            } => {
                if self.lives(machine, life) {
                    self.checked(machine, conn, id, name, piece, damaged);
                }
            }
            Event::Hashed {
                machine,
                life,
                blob,
                piece,
            } => {
                if self.lives(machine, life) {
                    self.hashed(machine, blob, piece);
                }
            }
            Event::Reach {
                machine,
                life,
                tracker,
            } => {
                if self.lives(machine, life) {
                    self.reach(machine, tracker);
                }
            }
            Event::Fault(index) => self.fault(index),
        }
    }

    pub(crate) fn lives(&self, machine: usize, life: u32) -> bool {
        let machine = &self.machines[machine];
        machine.life == life && !matches!(machine.process, Process::Down)
    }

    pub(crate) fn latency(&self) -> Micros {
        Micros(self.scenario.rtt_us / 2)
    }

    pub(crate) fn later(&mut self, machine: usize, delay: Micros, input: Input) {
        let life = self.machines[machine].life;
        let input = Box::new(input);
        let answer = Event::Answer {
            machine,
            life,
            input,
        };
        self.queue.push(self.now + delay, answer);
    }

    fn timer(&mut self, machine: usize, life: u32) {
        if !self.lives(machine, life) || self.machines[machine].armed != Some(self.now) {
            return;
        }
        let now = self.now;
        self.machines[machine].armed = None;
        match &mut self.machines[machine].process {
            Process::Down => {}
            Process::Member(member) => {
                member.swarm.handle_timeout(now);
                self.drain(machine);
            }
            Process::Tracker(tracker) => {
                tracker.handle_timeout(now);
                self.drain_tracker(machine);
            }
        }
    }

    /// Sets the machine's timer to what its process waits for.
    pub(crate) fn arm(&mut self, machine: usize) {
        let due = match &self.machines[machine].process {
            Process::Down => None,
            Process::Member(member) => member.swarm.poll_timeout(),
            Process::Tracker(tracker) => tracker.poll_timeout(),
        };
        let Some(due) = due else { return };
        let due = due.max(self.now);
        let place = &mut self.machines[machine];
        if place.armed.is_none_or(|armed| due < armed) {
            place.armed = Some(due);
            let life = place.life;
            self.queue.push(due, Event::Timer { machine, life });
        }
    }

    fn record(&mut self, event: &Event) {
        let (tag, one, two): (u8, usize, u64) = match event {
            Event::Start(machine) => (0, *machine, 0),
            Event::Ask { machine, blob } => (1, *machine, *blob as u64),
            Event::Timer { machine, life } => (2, *machine, u64::from(*life)),
            Event::Sent { machine, life } => (3, *machine, u64::from(*life)),
            Event::Arrived { conn, end, .. } => (4, *conn, *end as u64),
            Event::Delivered { conn, end, packet } => {
                if let Packet::Message(bytes) | Packet::Frame { header: bytes, .. } = packet {
                    self.trace.update(bytes);
                }
                (5, *conn, *end as u64)
            }
            Event::Connected { machines, .. } => (6, machines[0], machines[1] as u64),
            Event::Reset { conn, end } => (7, *conn, *end as u64),
            Event::Answer { machine, life, .. } => (8, *machine, u64::from(*life)),
            Event::Checked { machine, piece, .. } => (9, *machine, u64::from(piece.get())),
            Event::Hashed { machine, piece, .. } => (10, *machine, u64::from(*piece)),
            Event::Reach {
                machine, tracker, ..
            } => (11, *machine, *tracker as u64),
            Event::Fault(index) => (12, *index, 0),
        };
        self.trace.update(&self.now.0.to_be_bytes());
        self.trace.update(&[tag]);
        self.trace.update(&(one as u64).to_be_bytes());
        self.trace.update(&two.to_be_bytes());
    }

    fn report(self) -> Report {
        let seconds = |micros: u64| Micros(micros).0 as f64 / 1e6;
        let mut times = Vec::new();
        let (mut failed, mut stuck) = (0, 0);
        for download in self.downloads.values() {
            match download.outcome {
                Some(Outcome::Completed(at)) => times.push(at.since(download.joined).0),
                Some(Outcome::Failed) => failed += 1,
                None => stuck += 1,
            }
        }
        times.sort_unstable();
        let bytes: u64 = self.scenario.blobs.iter().map(|blob| blob.bytes).sum();
        let ratio = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        Report {
            scenario: self.scenario.name.clone(),
            seed: self.seed,
            peers: self.scenario.agents + self.scenario.origins,
            bytes,
            ideal_s: self.scenario.ideal_s(),
            p50_s: seconds(percentile(&times, 50)),
            p99_s: seconds(percentile(&times, 99)),
            max_s: seconds(percentile(&times, 100)),
            egress_ratio: ratio(self.traffic.egress, bytes),
            duplicate_ratio: ratio(self.traffic.wasted, self.traffic.useful),
            longest_read_s: seconds(self.longest_read.0),
            completed: times.len() as u64,
            failed,
            stuck,
            events: self.events,
            end_s: seconds(self.now.since(START).0),
            trace_hash: self.trace.finalize().to_hex().to_string(),
            violations: self.violations,
        }
    }
}

/// Returns the id that a name gives a process of a role.
pub(crate) fn id_of(role: Role, name: &str) -> PeerId {
    let id = PeerId::of_origin(name);
    if role == Role::Origin {
        id
    } else {
        PeerId::new(*id.as_bytes())
    }
}
