//! The scenarios that are built in: small enough for a unit test each.
//!
//! What they expect is about 1.3 times the worst of seeds 1 to 20, so that they can fail.

use crate::scenario::{BlobSpec, Expect, Fault, FaultKind, LinkSpec, Parts, Presence, Scenario};

const MIB: u64 = 1 << 20;
/// Bytes per second of a gigabit link.
const GIGABIT: u64 = 125_000_000;
/// Bytes per second of a source that is slower than the links.
const SLOW_SOURCE: u64 = 40_000_000;

/// Returns the names of the built-in scenarios.
#[must_use]
pub fn scenarios() -> Vec<String> {
    let all = built_in().into_iter();
    all.map(|scenario| scenario.name).collect()
}

/// Returns the built-in scenario of this name.
#[must_use]
pub fn scenario(name: &str) -> Option<Scenario> {
    let mut all = built_in().into_iter();
    all.find(|scenario| scenario.name == name)
}

fn built_in() -> Vec<Scenario> {
    vec![
        share(),
        churn(),
        lone(),
        lone_fast(),
        layers(),
        zones(),
        slow(),
        growing(),
        kill_tracker(),
        restart_tracker(),
        no_tracker(),
        never_a_tracker(),
        two_trackers(),
        kill_origin(),
        lose_origin(),
        absent(),
        unreadable(),
        revoked(),
        parts(),
        parts_held_back(),
    ]
}

fn share() -> Scenario {
    let gigabit = LinkSpec {
        up_bytes_per_s: GIGABIT,
        down_bytes_per_s: GIGABIT,
    };
    Scenario {
        name: "share".into(),
        about: "50 agents and 2 origins share a blob of 64 MiB; nothing goes wrong".into(),
        agents: 50,
        origins: 2,
        owners: 2,
        trackers: 1,
        zones: 1,
        agent_link: gigabit,
        origin_link: gigabit,
        rtt_us: 500,
        join_spread_ms: 100,
        blobs: vec![blob(64 * MIB, Presence::Seeded)],
        corrupt_agents: 0,
        slow_agents: 0,
        mute_agents: 0,
        parts: None,
        faults: Vec::new(),
        limit_ms: 120_000,
        expect: Expect {
            failed: 0,
            max_x: 2.4,
            max_egress_ratio: 1.05,
            max_duplicate_ratio: 0.025,
            max_read_s: None,
        },
    }
}

const fn blob(bytes: u64, presence: Presence) -> BlobSpec {
    BlobSpec { bytes, presence }
}

const fn fault(at_ms: u64, what: FaultKind, restart_after_ms: Option<u64>) -> Fault {
    Fault {
        at_ms,
        what,
        restart_after_ms,
    }
}

fn churn() -> Scenario {
    Scenario {
        name: "churn".into(),
        about: "agents die, vanish and come back, and one sends damaged pieces".into(),
        corrupt_agents: 1,
        faults: vec![
            fault(150, FaultKind::KillAgents { count: 5 }, Some(300)),
            fault(300, FaultKind::LoseAgents { count: 5 }, None),
            fault(450, FaultKind::KillAgents { count: 5 }, None),
        ],
        expect: Expect {
            failed: 0,
            max_x: 6.5,
            max_egress_ratio: 2.5,
            max_duplicate_ratio: 0.04,
            max_read_s: None,
        },
        ..share()
    }
}

/// Twenty agents want one blob of 64 MiB.
fn of_presence(name: &str, about: &str, presence: Presence) -> Scenario {
    Scenario {
        name: name.into(),
        about: about.into(),
        agents: 20,
        blobs: vec![blob(64 * MIB, presence)],
        ..share()
    }
}

fn lone() -> Scenario {
    let mut lone = of_presence("lone", "one agent is all alone", Presence::Stored);
    lone.agents = 1;
    lone.expect.max_x = 1.3;
    lone
}

fn lone_fast() -> Scenario {
    let fast = LinkSpec {
        up_bytes_per_s: 10 * GIGABIT,
        down_bytes_per_s: 10 * GIGABIT,
    };
    Scenario {
        name: "lone-fast".into(),
        about: "one agent is all alone, with links of 10 gigabits".into(),
        agent_link: fast,
        origin_link: fast,
        blobs: vec![blob(1024 * MIB, Presence::Stored)],
        ..lone()
    }
}

fn layers() -> Scenario {
    let mut layers = of_presence("layers", "an image of 8 layers", Presence::Stored);
    layers.expect.max_x = 2.6;
    layers.blobs = [0, 1_000, MIB, MIB + 1, 5 * MIB, 8 * MIB, 20 * MIB, 30 * MIB]
        .map(|bytes| blob(bytes, Presence::Stored))
        .to_vec();
    layers
}

fn zones() -> Scenario {
    Scenario {
        name: "zones".into(),
        about: "as share, in three zones".into(),
        zones: 3,
        ..share()
    }
}

fn slow() -> Scenario {
    let mut slow = share();
    slow.name = "slow".into();
    slow.about = "as share, with 5 agents at a tenth of the rate".into();
    slow.slow_agents = 5;
    // A slow agent alone needs ten times as long.
    slow.expect.max_x = 13.5;
    slow.expect.max_egress_ratio = 1.5;
    slow
}

fn growing() -> Scenario {
    let about = "a blob is hashed while agents download it";
    let bytes_per_s = SLOW_SOURCE;
    let mut growing = of_presence("growing", about, Presence::Growing { bytes_per_s });
    growing.expect.max_x = 1.5;
    growing
}

fn absent() -> Scenario {
    let mut absent = of_presence("absent", "no storage has the blob", Presence::Absent);
    absent.expect.failed = 20;
    absent
}

fn unreadable() -> Scenario {
    let about = "storage answers with errors";
    let mut unreadable = of_presence("unreadable", about, Presence::Unreadable);
    unreadable.expect.failed = 20;
    unreadable
}

fn revoked() -> Scenario {
    let about = "the source of a growing blob turns out to be another one";
    let presence = Presence::Revoked {
        bytes_per_s: SLOW_SOURCE,
        after_pieces: 20,
    };
    let mut revoked = of_presence("revoked", about, presence);
    revoked.expect.failed = 20;
    revoked
}

fn of_fault(name: &str, about: &str, what: FaultKind, restart: Option<u64>) -> Scenario {
    Scenario {
        name: name.into(),
        about: about.into(),
        // While the origins still give what nobody has.
        faults: vec![fault(120, what, restart)],
        expect: Expect {
            failed: 0,
            max_x: 2.8,
            max_egress_ratio: 1.4,
            max_duplicate_ratio: 0.03,
            max_read_s: None,
        },
        ..share()
    }
}

fn kill_tracker() -> Scenario {
    let about = "the only tracker dies and comes back";
    let what = FaultKind::KillTracker { index: 0 };
    of_fault("kill-tracker", about, what, Some(2_000))
}

fn restart_tracker() -> Scenario {
    let about = "the only tracker dies and is back while agents still download";
    let what = FaultKind::KillTracker { index: 0 };
    of_fault("restart-tracker", about, what, Some(150))
}

fn no_tracker() -> Scenario {
    let about = "the only tracker dies for good before half of the agents came";
    let what = FaultKind::KillTracker { index: 0 };
    let mut scenario = of_fault("no-tracker", about, what, None);
    scenario.faults[0].at_ms = 60;
    scenario.expect.max_egress_ratio = 1.1;
    scenario
}

fn never_a_tracker() -> Scenario {
    let mut scenario = no_tracker();
    scenario.name = "never-a-tracker".into();
    scenario.about = "the only tracker dies before anybody could reach it".into();
    scenario.faults[0].at_ms = 0;
    scenario
}

fn two_trackers() -> Scenario {
    let about = "one of two trackers dies for good";
    let what = FaultKind::KillTracker { index: 0 };
    let mut scenario = of_fault("two-trackers", about, what, None);
    scenario.trackers = 2;
    scenario.blobs = vec![blob(32 * MIB, Presence::Stored); 2];
    scenario
}

fn kill_origin() -> Scenario {
    let about = "one of two origins dies for good";
    let what = FaultKind::KillOrigin { index: 0 };
    of_fault("kill-origin", about, what, None)
}

fn lose_origin() -> Scenario {
    let about = "one of two origins vanishes and comes back";
    let what = FaultKind::LoseOrigin { index: 1 };
    let mut scenario = of_fault("lose-origin", about, what, Some(1_000));
    scenario.expect.max_x = 3.7;
    scenario
}

fn parts() -> Scenario {
    let about = "agents read parts of a blob, as mounted images are read";
    let mut scenario = of_presence("parts", about, Presence::Stored);
    scenario.blobs = vec![blob(256 * MIB, Presence::Stored)];
    scenario.parts = Some(Parts {
        count: 12,
        bytes: MIB,
    });
    scenario.expect.max_x = 3.2;
    scenario.expect.max_read_s = Some(1.7);
    scenario
}

fn parts_held_back() -> Scenario {
    let mut scenario = parts();
    scenario.name = "parts-held-back".into();
    scenario.about = "as parts, and some agents have everything and send nothing".into();
    scenario.mute_agents = 4;
    scenario.expect.max_x = 6.1;
    scenario.expect.max_egress_ratio = 1.45;
    // nydusd gives up after 5 s.
    scenario.expect.max_read_s = Some(4.6);
    scenario
}
