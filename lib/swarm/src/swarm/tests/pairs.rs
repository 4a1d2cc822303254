//! Whole swarms against each other.

use super::*;

/// An agent that has all of a blob of so many pieces, and one that wants it and knows the other.
fn pair(pieces: u64) -> (Net, Description) {
    let mut net = Net::new(vec![agent(1), agent(2)]);
    let description = complete(name(1), pieces * MIB);
    net.seed(0, description);
    net.download(1, name(1), true);
    net.hand_out(1, description, &[0]);
    (net, description)
}

#[test]
fn a_blob_goes_from_one_agent_to_the_other() {
    for pieces in [1, 2, 30, 100] {
        let (mut net, _) = pair(pieces);
        net.millis(500);
        assert!(net.is_complete(1, name(1)), "{pieces} pieces");
        let wanted = usize::try_from(pieces).unwrap();
        let asked = net.count(|message| matches!(message, Message::Request { .. }));
        assert_eq!(asked, wanted, "nothing is asked for twice");
        let lists = net.count(|message| matches!(message, Message::Cvs { .. }));
        assert_eq!(
            lists,
            usize::from(pieces > 1),
            "one piece has no list (§5.3)"
        );
        let complete = AnnounceEvent::Complete { unserved: false };
        assert_eq!(net.events(1).last(), Some(&complete));
        let haves = net.count(|message| matches!(message, Message::Have { .. }));
        assert_eq!(haves, 0, "who has it is not told (§4.2)");
    }
}

#[test]
fn the_blob_of_nothing_is_complete_when_it_is_described() {
    let mut net = Net::new(vec![agent(1)]);
    net.download(0, name(1), true);
    net.hand_out(0, complete(name(1), 0), &[]);
    net.millis(5);
    assert!(net.is_complete(0, name(1)));
}

#[test]
fn progress_is_announced_by_sixteenths() {
    let (mut net, _) = pair(64);
    net.millis(500);
    let events = net.events(1);
    let steps = (1..16).map(|sixteenths| AnnounceEvent::Progress { sixteenths });
    let mut expected = vec![AnnounceEvent::Join { sixteenths: 0 }];
    expected.extend(steps);
    expected.push(AnnounceEvent::Complete { unserved: false });
    assert_eq!(events, expected);
}

#[test]
fn of_two_connections_both_ends_keep_the_same() {
    let mut net = Net::new(vec![agent(1), agent(2)]);
    net.connect(1, 0);
    net.connect(0, 1);
    net.millis(10);
    for member in &net.members {
        // §2.2: the one that the lower id opened.
        let kept: Vec<_> = member.swarm.peers.values().copied().collect();
        assert_eq!(kept, [ConnId(1)]);
        assert_eq!(member.swarm.conns.len(), 1);
        assert!(
            member
                .closed
                .iter()
                .all(|why| *why == CloseReason::Duplicate)
        );
    }
}

#[test]
fn pieces_asked_for_on_the_connection_that_goes_come_on_the_other() {
    let (mut net, _) = pair(40);
    net.millis(6);
    assert!(!net.is_complete(1, name(1)));
    net.connect(0, 1);
    net.millis(500);
    assert!(net.is_complete(1, name(1)));
    assert_eq!(net.members[0].swarm.conns.len(), 1);
}

#[test]
fn who_meets_himself_hangs_up() {
    let mut net = Net::new(vec![agent(1), agent(1)]);
    net.connect(0, 1);
    net.millis(10);
    assert_eq!(net.members[0].closed, [CloseReason::Myself]);
    assert!(net.members.iter().all(|one| one.swarm.conns.is_empty()));
}

#[test]
fn who_damages_is_left_and_told() {
    let mut net = Net::new(vec![agent(1), agent(2), agent(3)]);
    let description = complete(name(1), 20 * MIB);
    net.seed(0, description);
    net.seed(1, description);
    net.members[0].damages = true;
    net.download(2, name(1), true);
    net.hand_out(2, description, &[0, 1]);
    net.millis(500);
    assert!(net.is_complete(2, name(1)));
    assert_eq!(net.members[2].closed, [CloseReason::Corrupt]);
    // What else was on its way from it is damaged too; nobody is told of that any more.
    assert!(net.members[2].swarm.stats().pieces_corrupt <= 2);
    assert_eq!(net.members[0].rechecked.len(), 1, "§5.6");
    // It is named again, and left alone.
    net.tell(
        2,
        Input::PieceLost {
            name: name(1),
            piece: description.geometry().index(3).unwrap(),
        },
    );
    net.hand_out(2, description, &[0]);
    net.millis(500);
    assert_eq!(net.members[2].swarm.peers.len(), 1);
    assert_eq!(net.members[2].completed.len(), 2, "it was fetched again");
}

#[test]
fn a_peer_that_vanishes_is_replaced_within_its_silence() {
    let mut net = Net::new(vec![agent(1), agent(2), agent(3)]);
    let description = complete(name(1), 60 * MIB);
    net.seed(0, description);
    net.seed(1, description);
    net.download(2, name(1), true);
    net.hand_out(2, description, &[0, 1]);
    net.millis(8);
    net.lost.push(0);
    net.millis(400);
    assert!(net.is_complete(2, name(1)));
    assert!(net.members[2].swarm.stats().silences <= 1);
    net.millis(4_000);
    assert!(
        net.members[2]
            .closed
            .iter()
            .all(|why| *why == CloseReason::Silent),
        "{:?}",
        net.members[2].closed
    );
}

#[test]
fn who_stopped_having_it_says_so() {
    let (mut net, description) = pair(60);
    net.millis(8);
    net.tell(0, Input::Remove { name: name(1) });
    net.millis(100);
    assert!(!net.is_complete(1, name(1)));
    assert_eq!(net.events(0).last(), Some(&AnnounceEvent::Leave));
    assert!(net.events(1).contains(&AnnounceEvent::Starving));
    net.seed(0, description);
    net.hand_out(1, description, &[0]);
    net.millis(2_000);
    assert!(net.is_complete(1, name(1)));
}

#[test]
fn a_lazy_download_fetches_what_is_read() {
    let mut net = Net::new(vec![agent(1), agent(2)]);
    let description = complete(name(1), 100 * MIB);
    net.seed(0, description);
    net.download(1, name(1), false);
    net.hand_out(1, description, &[0]);
    net.millis(200);
    assert_eq!(net.members[1].swarm.stats().requests, 0);
    let reader = ReaderId(4);
    let range = 50 * MIB + 5..52 * MIB;
    net.tell(
        1,
        Input::Read {
            name: name(1),
            reader,
            range,
        },
    );
    net.millis(100);
    assert_eq!(net.members[1].swarm.stats().pieces_verified, 2);
    let timers = net.members[1].swarm.stats().downloading;
    assert_eq!(timers, 0, "nobody waits for anything");
    net.tell(1, Input::ReadDone { reader });
    net.millis(60_000);
    assert!(net.members[1].failed.is_empty(), "there is no hurry");
}

#[test]
fn a_revoked_blob_is_dropped_by_all() {
    let mut net = Net::new(vec![agent(1), agent(2), agent(3)]);
    let description = growing(name(1), 20 * MIB);
    for member in 0..3 {
        net.download(member, name(1), true);
    }
    net.hand_out(0, description, &[1]);
    net.hand_out(1, description, &[2]);
    net.hand_out(2, description, &[]);
    net.millis(20);
    let reason: Arc<str> = "another digest".into();
    let revoke = Message::Revoke {
        name: name(1),
        generation: Some(Generation(1)),
        reason: Arc::clone(&reason),
    };
    // §8.1: the one that a tracker tells passes it on, and so do its neighbours, once.
    net.tell(0, Input::Tracker(revoke));
    net.millis(20);
    for member in &net.members {
        let expected = vec![(name(1), Failure::Revoked(Arc::clone(&reason)))];
        assert_eq!(member.failed, expected);
        assert!(member.swarm.torrents.is_empty());
    }
    let told = net.count(|message| matches!(message, Message::Revoke { .. }));
    assert_eq!(told, 2);
}

#[test]
fn a_blob_is_passed_on_while_it_grows() {
    let mut net = Net::new(vec![origin(1), agent(2), agent(3)]);
    let description = growing(name(1), 6 * MIB);
    net.tell(
        0,
        Input::Resolved {
            name: name(1),
            found: crate::Found::Here(description),
        },
    );
    net.millis(1);
    for member in [1, 2] {
        net.download(member, name(1), true);
    }
    net.hand_out(1, description, &[2]);
    net.hand_out(2, description, &[]);
    net.millis(5);
    net.grant(1, 0, name(1), 6, &[]);
    for piece in 0..6 {
        net.tell(
            0,
            Input::Hashed {
                name: name(1),
                signed: Box::new(signed(piece)),
            },
        );
        net.millis(10);
    }
    let here = |net: &Net, member: usize| net.members[member].swarm.stats().pieces_verified;
    assert_eq!((here(&net, 1), here(&net, 2)), (6, 6));
    assert!(
        net.members[1].completed.is_empty(),
        "nobody said that it is right"
    );
    let description = complete(name(1), 6 * MIB);
    net.tell(0, Input::Grown { description });
    net.millis(10);
    assert!(net.is_complete(1, name(1)) && net.is_complete(2, name(1)));
    let unproven = net.log.iter().filter(|(member, message)| {
        *member == 2
            && matches!(
                message,
                Message::Request {
                    target: Target::Any,
                    ..
                }
            )
    });
    assert_eq!(unproven.count(), 0);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let (mut net, _) = pair(40);
        net.millis(300);
        format!("{:?}", net.log)
    };
    assert_eq!(run(), run());
}
