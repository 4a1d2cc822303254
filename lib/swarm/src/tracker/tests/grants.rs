//! Credits, grants and wants.

use proptest::prelude::*;

use super::*;

/// One origin that has the blob, and agents that want it.
fn downloading(seed: u64, agents: u32) -> Harness {
    let mut harness = Harness::new(seed);
    harness.connect(&origin(1));
    harness.seed(&origin(1), name(1));
    for number in 1..=agents {
        harness.connect(&agent(number));
        harness.join(&agent(number), name(1));
    }
    harness
}

fn end_first_pass(harness: &mut Harness) {
    let event = AnnounceEvent::Complete { unserved: false };
    harness.announce(&origin(1), name(1), event, Some(description(name(1))));
}

/// §7.4.
#[test]
fn credits_become_grants_that_both_ends_get() {
    let mut harness = downloading(1, 40);
    harness.credit(&origin(1), 6);
    let grants = harness.grants(&origin(1));
    assert_eq!(grants.len(), 6);
    for grant in &grants {
        assert_eq!((grant.count, &grant.pieces[..]), (2, &[][..]));
        assert_eq!((grant.name, grant.origin), (name(1), origin(1).id));
    }
    let agents: BTreeSet<PeerId> = grants.iter().map(|grant| grant.agent).collect();
    assert!(agents.len() >= 3, "random agents: {agents:?}");
    let told: usize = (1..=40)
        .map(|number| harness.grants(&agent(number)).len())
        .sum();
    assert_eq!(told, 6);
    assert_eq!(harness.tracker.stats().credits, 0);
}

#[test]
fn a_lone_agent_gets_every_credit() {
    let mut harness = downloading(1, 1);
    harness.credit(&origin(1), 6);
    assert_eq!(harness.grants(&agent(1)).len(), 6);
    harness.credit(&origin(1), 1);
    assert_eq!(harness.grants(&agent(1)).len(), 1);
}

#[test]
fn credits_wait_for_an_agent() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[origin(1), agent(1)]);
    harness.credit(&origin(1), 6);
    harness.seed(&origin(1), name(1));
    assert_eq!(harness.tracker.stats().credits, 6);
    harness.join(&agent(1), name(1));
    assert_eq!(harness.grants(&agent(1)).len(), 6);
}

/// §7.5.
#[test]
fn after_the_first_pass_and_with_a_complete_peer_nothing_is_granted() {
    let mut harness = downloading(1, 3);
    let event = AnnounceEvent::Complete { unserved: false };
    harness.announce(&agent(1), name(1), event, None);
    harness.credit(&origin(1), 6);
    assert_eq!(harness.grants(&origin(1)), [], "a peer has everything");
    harness.announce(&agent(1), name(1), AnnounceEvent::Leave, None);
    assert_eq!(harness.grants(&origin(1)).len(), 6);
    end_first_pass(&mut harness);
    harness.credit(&origin(1), 6);
    assert_eq!(harness.grants(&origin(1)), [], "every piece was served");
}

/// §7.6.
#[test]
fn a_want_of_a_lone_agent_is_granted_at_once_by_name() {
    let mut harness = downloading(1, 1);
    harness.credit(&origin(1), 1);
    harness.take(&origin(1));
    harness.want(&agent(1), name(1), &[7, 8, 99, 100]);
    harness.credit(&origin(1), 1);
    let grants = harness.grants(&origin(1));
    assert_eq!(grants[0].pieces, [7, 8, 99], "the blob has 100 pieces");
    assert_eq!(grants[0].count, 3);
}

#[test]
fn a_want_is_met_by_an_introduction_before_the_origin() {
    let mut harness = downloading(1, 60);
    let progressed = agent(3);
    let event = AnnounceEvent::Progress { sixteenths: 9 };
    harness.announce(&progressed, name(1), event, None);
    end_first_pass(&mut harness);
    harness.credit(&origin(1), 6);
    let starving = (4..=60)
        .map(agent)
        .find(|agent| {
            let handouts = harness.handouts(agent);
            !handouts[0].1.contains(&progressed.id)
        })
        .unwrap();
    harness.take(&origin(1));
    harness.want(&starving, name(1), &[7]);
    assert_eq!(harness.handouts(&starving).len(), 1);
    assert_eq!(harness.grants(&origin(1)), []);
    // It says so again, and nobody had it.
    harness.pass(Micros::from_millis(120));
    harness.want(&starving, name(1), &[7]);
    harness.pass(Micros::from_millis(150));
    let grants = harness.grants(&origin(1));
    assert_eq!(grants.len(), 1);
    assert_eq!(
        (grants[0].agent, &grants[0].pieces[..]),
        (starving.id, &[7][..])
    );
}

#[test]
fn a_want_that_was_met_by_progress_is_forgotten() {
    let mut harness = downloading(1, 2);
    let event = AnnounceEvent::Progress { sixteenths: 1 };
    harness.announce(&agent(1), name(1), event, None);
    end_first_pass(&mut harness);
    harness.want(&agent(2), name(1), &[7]);
    harness.want(&agent(1), name(1), &[8]);
    harness.announce(&agent(2), name(1), event, None);
    harness.credit(&origin(1), 6);
    harness.pass(Micros::from_secs(2));
    let grants = harness.grants(&origin(1));
    assert_eq!(grants.len(), 1);
    assert_eq!(
        (grants[0].agent, &grants[0].pieces[..]),
        (agent(1).id, &[8][..])
    );
}

/// A piece that many want leaves the origin once; the others are introduced to who got it.
#[test]
fn a_piece_wanted_by_all_is_granted_once() {
    let mut harness = downloading(1, 50);
    end_first_pass(&mut harness);
    harness.credit(&origin(1), 60);
    for number in 1..=50 {
        harness.take(&agent(number));
        harness.want(&agent(number), name(1), &[7]);
    }
    let grants = harness.grants(&origin(1));
    assert_eq!(grants.len(), 1);
    let holder = grants[0].agent;
    let mut introduced = 0;
    for number in 1..=50 {
        let handouts = harness.handouts(&agent(number));
        introduced += usize::from(handouts.iter().any(|(_, peers)| peers.contains(&holder)));
    }
    assert!(introduced >= 20, "{introduced}");
}

#[test]
fn wants_are_split_into_grants_and_bounded() {
    let policy = Policy {
        max_wants: 40,
        ..Policy::default()
    };
    let mut harness = Harness::with(1, policy);
    harness.connect_all(&[origin(1), agent(1)]);
    harness.seed(&origin(1), name(1));
    end_first_pass(&mut harness);
    harness.join(&agent(1), name(1));
    let all: Vec<u32> = (0..100).collect();
    harness.want(&agent(1), name(1), &all);
    harness.want(&agent(1), name(1), &all);
    harness.credit(&origin(1), 10);
    let grants = harness.grants(&origin(1));
    let named: Vec<u32> = grants
        .iter()
        .flat_map(|grant| grant.pieces.clone())
        .collect();
    assert_eq!(named, (0..40).collect::<Vec<_>>());
    let lengths: Vec<usize> = grants.iter().map(|grant| grant.pieces.len()).collect();
    assert_eq!(lengths, [16, 16, 8]);
}

fn withdrawals(messages: Vec<Message>) -> Vec<(PeerId, PeerId)> {
    let messages = messages.into_iter();
    messages
        .filter_map(|message| {
            let Message::Withdraw { agent, origin, .. } = message else {
                return None;
            };
            Some((agent, origin))
        })
        .collect()
}

#[test]
fn grants_of_those_who_leave_or_complete_are_withdrawn() {
    let pair = (agent(1).id, origin(1).id);
    for end in 0..3 {
        let mut harness = downloading(1, 1);
        harness.credit(&origin(1), 2);
        harness.take(&origin(1));
        match end {
            0 => harness.disconnect(&agent(1)),
            1 => harness.announce(&agent(1), name(1), AnnounceEvent::Leave, None),
            _ => {
                let event = AnnounceEvent::Complete { unserved: false };
                harness.announce(&agent(1), name(1), event, None);
            }
        }
        assert_eq!(withdrawals(harness.take(&origin(1))), [pair]);
    }
    let mut harness = downloading(1, 1);
    harness.credit(&origin(1), 2);
    harness.take(&agent(1));
    harness.disconnect(&origin(1));
    assert_eq!(withdrawals(harness.take(&agent(1))), [pair]);
}

#[test]
fn a_grant_that_ended_is_not_withdrawn() {
    let mut harness = downloading(1, 1);
    harness.credit(&origin(1), 2);
    harness.pass(Micros::from_secs(6));
    harness.take(&origin(1));
    harness.disconnect(&agent(1));
    assert_eq!(withdrawals(harness.take(&origin(1))), []);
}

#[derive(Clone, Debug)]
enum Step {
    Credit(u32, u16),
    Join(u32, u8),
    Complete(u32, u8),
    Leave(u32, u8),
    Want(u32, u8, Vec<u32>),
    Seed(u32, u8, bool),
    Absent(u32, u8),
    Reconnect(u32),
    ReconnectOrigin(u32),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let agents = || 1..=6u32;
    let blobs = || 1..=3u8;
    let origins = || 1..=3u32;
    prop_oneof![
        3 => (origins(), 0..8u16).prop_map(|(origin, credits)| Step::Credit(origin, credits)),
        4 => (agents(), blobs()).prop_map(|(agent, blob)| Step::Join(agent, blob)),
        1 => (agents(), blobs()).prop_map(|(agent, blob)| Step::Complete(agent, blob)),
        1 => (agents(), blobs()).prop_map(|(agent, blob)| Step::Leave(agent, blob)),
        3 => (agents(), blobs(), prop::collection::vec(0..110u32, 0..30))
            .prop_map(|(agent, blob, pieces)| Step::Want(agent, blob, pieces)),
        2 => (origins(), blobs(), any::<bool>())
            .prop_map(|(origin, blob, unserved)| Step::Seed(origin, blob, unserved)),
        1 => (origins(), blobs()).prop_map(|(origin, blob)| Step::Absent(origin, blob)),
        1 => agents().prop_map(Step::Reconnect),
        1 => origins().prop_map(Step::ReconnectOrigin),
        3 => (0..3_000_000u64).prop_map(Step::Pass),
    ]
}

impl Harness {
    fn perform(&mut self, step: &Step) {
        let complete = |unserved| AnnounceEvent::Complete { unserved };
        match step {
            Step::Credit(number, credits) => self.credit(&origin(*number), *credits),
            Step::Join(number, blob) => self.join(&agent(*number), name(*blob)),
            Step::Complete(number, blob) => {
                let known = Some(description(name(*blob)));
                self.announce(&agent(*number), name(*blob), complete(false), known);
            }
            Step::Leave(number, blob) => {
                self.announce(&agent(*number), name(*blob), AnnounceEvent::Leave, None);
            }
            Step::Want(number, blob, pieces) => self.want(&agent(*number), name(*blob), pieces),
            Step::Seed(number, blob, unserved) => {
                let known = Some(description(name(*blob)));
                self.announce(&origin(*number), name(*blob), complete(*unserved), known);
            }
            Step::Absent(number, blob) => {
                self.announce(&origin(*number), name(*blob), AnnounceEvent::Absent, None);
            }
            Step::Reconnect(number) => {
                self.disconnect(&agent(*number));
                self.connect(&agent(*number));
            }
            Step::ReconnectOrigin(number) => {
                self.disconnect(&origin(*number));
                self.connect(&origin(*number));
            }
            Step::Pass(micros) => self.pass(Micros(*micros)),
        }
        // Nobody is silent for so long that it is taken for dead.
        let peers = (1..=6).map(agent).chain((1..=3).map(origin));
        for peer in peers.collect::<Vec<_>>() {
            self.say(&peer, Message::Pong { token: 0 });
        }
    }
}

fn run(seed: u64, steps: &[Step]) -> Harness {
    let mut harness = Harness::new(seed);
    harness.connect_all(&(1..=6).map(agent).collect::<Vec<_>>());
    harness.connect_all(&(1..=3).map(origin).collect::<Vec<_>>());
    let mut ledger: BTreeMap<PeerId, u64> = BTreeMap::new();
    for step in steps {
        if let Step::Credit(number, credits) = step {
            *ledger.entry(origin(*number).id).or_default() += u64::from(*credits);
        }
        if let Step::ReconnectOrigin(number) = step {
            ledger.remove(&origin(*number).id);
            harness.take(&origin(*number));
        }
        harness.perform(step);
        for origin in (1..=3).map(origin) {
            let spent = harness.grants(&origin).into_iter();
            let spent = spent.filter(|grant| grant.count > 0).count() as u64;
            let left = ledger.entry(origin.id).or_default();
            assert!(spent <= *left, "{origin:?} was granted what it never gave");
            *left -= spent;
        }
        let left: u64 = ledger.values().sum();
        assert_eq!(harness.tracker.stats().credits, left, "after {step:?}");
        for agent in (1..=6).map(agent) {
            for message in harness.take(&agent) {
                if let Message::Handout { peers, .. } = message {
                    assert!(peers.iter().all(|peer| peer.id != agent.id));
                }
            }
        }
    }
    harness
}

proptest! {
    /// Credits that came in are granted or left, whatever happens; nobody is named to itself; and
    /// the same seed does the same.
    #[test]
    fn credits_are_conserved(seed in any::<u64>(), steps in prop::collection::vec(step(), 0..60)) {
        let one = run(seed, &steps);
        let two = run(seed, &steps);
        prop_assert_eq!(one.log, two.log);
    }

    /// When everybody has left nothing is kept, and nobody waits for an answer for ever.
    #[test]
    fn nothing_is_kept_of_those_who_left(seed in any::<u64>(), steps in prop::collection::vec(step(), 0..60)) {
        let mut harness = run(seed, &steps);
        harness.pass(Micros::from_secs(9));
        for peer in (1..=6).map(agent).chain((1..=3).map(origin)) {
            if harness.sessions.contains_key(&peer.id) {
                harness.disconnect(&peer);
            }
        }
        harness.pass(Micros::from_secs(60));
        let stats = harness.tracker.stats();
        prop_assert_eq!((stats.sessions, stats.swarms, stats.pending), (0, 0, 0));
        prop_assert_eq!(stats.credits, 0);
        prop_assert_eq!(harness.tracker.poll_timeout(), None);
    }
}
