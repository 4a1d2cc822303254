//! What an agent's or origin's swarm must know, and the numbers of its policy.

use torrent::{ClusterPublicKey, Peer};

use crate::time::Micros;

/// What a swarm must know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this process is to others.
    pub me: Peer,
    /// Where given, what neighbours say of a blob's length and root must be signed by it.
    pub key: Option<ClusterPublicKey>,
    /// Limit on payload received, in bytes per second; `None` where only the link limits it.
    pub download_rate: Option<u64>,
    pub policy: Policy,
}

impl Config {
    /// Returns the configuration of a process without limits and with the policy of choice.
    #[must_use]
    pub fn new(me: Peer) -> Self {
        Self {
            me,
            key: None,
            download_rate: None,
            policy: Policy::default(),
        }
    }
}

/// The numbers of the policy. Bytes are of payload; times are from the event that they follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    // --- connections ---
    /// How long a connection may take to say HELLO (`docs/wire.md` §2.1).
    pub hello_timeout: Micros,
    /// Neighbours of one blob that are connected to on a handout; more only when starving.
    pub max_degree: usize,
    /// Neighbours of one blob; whoever comes after them is not answered.
    pub max_links: usize,
    /// Connections of a process that are kept; of more, one that is not used is closed.
    pub max_connections: usize,
    /// Blobs that one connection may be about; one that names more is closed.
    pub max_names: usize,
    /// A connection that nothing was exchanged on for this long is closed.
    pub idle_timeout: Micros,
    /// The same for an agent's connection to an origin that grants it nothing: origins have few.
    pub origin_idle_timeout: Micros,
    /// How long a peer is left alone that could not be reached; doubles each time.
    pub back_off: Micros,
    /// How long a peer is left alone that sent what does not verify.
    pub corrupt_back_off: Micros,
    /// Most peers that are left alone; of more, the one that is due first is forgotten.
    pub max_back_offs: usize,

    // --- requests ---
    /// Bytes ahead of a reader that are asked for first.
    pub window_bytes: u64,
    /// Probability that a request is for the lowest missing piece of a window, else for the
    /// rarest. At 1 all peers want the same piece.
    pub window_share: f64,
    /// Most requests open at one peer: the rest of the bandwidth-delay product, and for a download
    /// with few peers enough that none waits for a round trip.
    pub max_open_per_peer: usize,
    /// Least requests that shall be open where the peers are few.
    pub few_peers_open: usize,
    /// Time of own download that the open requests shall cover.
    pub open_time: Micros,
    /// Bounds of the number of open requests that `open_time` leads to.
    pub min_open: usize,
    pub max_open: usize,
    /// Nothing more is asked for while so many bytes wait to be hashed and stored: a disk that does
    /// not keep up must not make peers look silent whose data nobody has room for.
    pub max_checking_bytes: u64,
    /// Rate in bytes per second that is assumed until one was measured.
    pub assumed_rate: u64,
    /// A piece asked for in vain is asked for elsewhere after this much silence (§6.6).
    pub silence: Micros,
    /// A connection that stays silent this long while something is due is closed.
    pub dead_after: Micros,
    /// At most so many missing pieces are asked for twice where the first request waits.
    pub end_game_pieces: u32,
    /// A piece is asked for again where another peer would be this many times sooner.
    pub steal_factor: u64,
    /// How often a download looks for what went slow.
    pub tick: Micros,
    /// Pause after a peer said that it is busy.
    pub busy_pause: Micros,
    /// Pause of a download after a piece could not be stored.
    pub store_pause: Micros,
    /// Verified pieces wait this long, so that one HAVE tells several (§4.2).
    pub have_delay: Micros,

    // --- who has nothing to do ---
    /// After this long without anything to ask for, the tracker is asked for one more peer.
    pub starving: Micros,
    /// After this long the tracker is told which pieces nobody near has (§7.6).
    pub want: Micros,
    /// A reader that has waited so long for a piece lets the tracker know, and an origin be asked,
    /// whoever was asked before.
    pub hedge: Micros,
    /// All of these are repeated after this long.
    pub starving_pause: Micros,
    /// After this long without a useful byte a download fails.
    pub patience: Micros,
    /// Of that, how long a download is kept that no neighbour helps and no origin could be asked
    /// for: an origin that restarts is back by then.
    pub helpless: Micros,

    // --- uploads ---
    /// Uploads that receivers have not taken yet.
    pub max_uploads: usize,
    /// Uploads that share the wire; those that take longer than `stall` do not count.
    pub max_interleaved: usize,
    /// An upload that takes longer waits for its receiver, not for the wire.
    pub stall: Micros,
    /// Requests of one peer that may wait; more are rejected.
    pub max_waiting_per_peer: usize,
    /// Requests that may wait in all; more are rejected.
    pub max_waiting: usize,
    /// How often somebody who waits is told so (§6.6).
    pub queued: Micros,

    // --- origins ---
    /// Grants that may be open at an origin.
    pub credits: u16,
    /// Bytes of the runs by which owners split a blob.
    pub run_bytes: u64,
    /// Where an owner has less than this left of its runs, no other helps it: what both have in
    /// flight would be given twice.
    pub help_pieces: u32,
    /// A grant that nobody used for this long gives its slot back, though it stays good.
    pub grant_idle: Micros,
    /// Requests without a grant that an origin holds at a time, and of one agent (§7.9).
    pub ration: usize,
    pub ration_per_agent: usize,
    /// An origin that could send more for this long lends slots whose agents are busy.
    pub lend_after: Micros,
    /// How often the owners look after each other.
    pub partner_tick: Micros,
    /// Blobs that storage is being asked for.
    pub max_resolving: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            hello_timeout: Micros::from_secs(5),
            max_degree: 16,
            max_links: 32,
            max_connections: 900,
            max_names: 16_384,
            idle_timeout: Micros::from_secs(60),
            origin_idle_timeout: Micros::from_secs(5),
            back_off: Micros::from_secs(1),
            corrupt_back_off: Micros::from_secs(60),
            max_back_offs: 1_024,
            window_bytes: 24 << 20,
            window_share: 0.7,
            max_open_per_peer: 4,
            few_peers_open: 4,
            open_time: Micros::from_millis(100),
            min_open: 4,
            max_open: 20,
            max_checking_bytes: 64 << 20,
            assumed_rate: 125_000_000,
            silence: Micros::from_millis(250),
            dead_after: Micros::from_secs(2),
            end_game_pieces: 5,
            steal_factor: 3,
            tick: Micros::from_millis(25),
            busy_pause: Micros::from_millis(50),
            store_pause: Micros::from_secs(1),
            have_delay: Micros::from_millis(2),
            starving: Micros::from_millis(50),
            want: Micros::from_millis(200),
            hedge: Micros::from_millis(500),
            starving_pause: Micros::from_millis(500),
            patience: Micros::from_secs(30),
            helpless: Micros::from_secs(5),
            max_uploads: 8,
            max_interleaved: 4,
            stall: Micros::from_millis(100),
            max_waiting_per_peer: 64,
            max_waiting: 4_096,
            queued: Micros::from_millis(100),
            credits: 6,
            run_bytes: 8 << 20,
            help_pieces: 16,
            grant_idle: Micros::from_millis(500),
            ration: 6,
            ration_per_agent: 2,
            lend_after: Micros::from_millis(5),
            partner_tick: Micros::from_millis(500),
            max_resolving: 4_096,
        }
    }
}
