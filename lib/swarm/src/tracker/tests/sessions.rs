//! Sessions that come, go and misbehave.

use super::*;

/// §7.1.
#[test]
fn the_tracker_says_hello_too() {
    let mut harness = Harness::new(1);
    harness.connect(&agent(1));
    assert!(harness.log[0].contains("Hello"), "{:?}", harness.log);
}

/// §2.1.
#[test]
fn whoever_breaks_the_protocol_is_closed() {
    let mut harness = Harness::new(1);
    let session = harness.open();
    let message = Message::Ping { token: 1 };
    harness.handle(TrackerInput::Received { session, message });
    let late = harness.open();
    harness.pass(Micros::from_secs(5));
    harness.connect_all(&[agent(1), agent(2)]);
    let me = agent(1);
    harness.say(&agent(1), Message::Hello { version: 1, me });
    harness.say(
        &agent(2),
        Message::Complaint {
            name: name(1),
            piece: 0,
        },
    );
    let closed: Vec<SessionId> = harness.closed.iter().map(|(session, _)| *session).collect();
    assert_eq!(closed, [session, late, SessionId(3), SessionId(4)]);
    assert_eq!(harness.tracker.stats().sessions, 0);
}

/// §2.4.
#[test]
fn silence_is_pinged_and_then_closed() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[agent(1), agent(2)]);
    for _ in 0..10 {
        harness.pass(Micros::from_secs(4));
        harness.say(&agent(1), Message::Pong { token: 0 });
    }
    let closed: Vec<_> = std::mem::take(&mut harness.closed);
    assert_eq!(
        closed,
        [(harness.sessions[&agent(2).id], CloseReason::Silent)]
    );
    let pings = |message: &&Message| matches!(message, Message::Ping { .. });
    assert_eq!(harness.take(&agent(2)).iter().filter(pings).count(), 1);
    assert_eq!(harness.take(&agent(1)).iter().filter(pings).count(), 0);
    harness.say(&agent(1), Message::Ping { token: 77 });
    assert_eq!(harness.take(&agent(1)), [Message::Pong { token: 77 }]);
}

#[test]
fn a_peer_that_came_back_takes_the_place_of_its_old_session() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[origin(1), agent(1), agent(2)]);
    harness.seed(&origin(1), name(1));
    harness.join(&agent(1), name(1));
    let old = harness.sessions[&agent(1).id];
    harness.connect(&agent(1));
    assert_eq!(harness.closed, [(old, CloseReason::Duplicate)]);
    harness.join(&agent(2), name(1));
    let handouts = harness.handouts(&agent(2));
    assert_eq!(handouts[0].1, [], "it must say again what it takes part in");
    harness.take(&agent(1));
    harness.join(&agent(1), name(1));
    assert_eq!(harness.handouts(&agent(1))[0].1, [agent(2).id]);
    // The shell reports the old one's end late.
    harness.handle(TrackerInput::Closed { session: old });
    assert_eq!(harness.tracker.stats().sessions, 3);
}

/// §2.6: everybody can derive the id of an origin.
#[test]
fn an_origin_is_not_displaced_by_who_is_none() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[origin(1), agent(1)]);
    let own = [&origin(1), &agent(1)].map(|peer| harness.sessions[&peer.id]);
    let refused = CloseReason::Protocol("an id that is not of its role");
    let agent_lies = Peer {
        role: Role::Agent,
        ..origin(1)
    };
    let origin_lies = Peer {
        role: Role::Origin,
        ..agent(1)
    };
    for me in [agent_lies, origin_lies] {
        let session = harness.open();
        let message = Message::Hello { version: 1, me };
        harness.handle(TrackerInput::Received { session, message });
        assert_eq!(std::mem::take(&mut harness.closed), [(session, refused)]);
    }
    let sessions = [&origin(1), &agent(1)].map(|peer| harness.tracker.ids[&peer.id]);
    assert_eq!(sessions, own);
}

/// After a restart of the tracker everybody says again what it has.
#[test]
fn progress_of_an_unknown_member_is_a_join() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[origin(1), agent(1), agent(2)]);
    harness.seed(&origin(1), name(1));
    let event = AnnounceEvent::Progress { sixteenths: 3 };
    harness.announce(&agent(1), name(1), event, Some(description(name(1))));
    harness.join(&agent(2), name(1));
    assert_eq!(harness.handouts(&agent(2))[0].1, [agent(1).id]);
}

#[test]
fn a_session_takes_part_in_a_bounded_number_of_blobs() {
    let policy = Policy {
        max_blobs_per_session: 2,
        ..Policy::default()
    };
    let mut harness = Harness::with(1, policy);
    harness.connect(&agent(1));
    for number in 1..=4 {
        harness.join(&agent(1), name(number));
    }
    assert_eq!(harness.tracker.stats().swarms, 2);
    harness.announce(&agent(1), name(1), AnnounceEvent::Leave, None);
    harness.join(&agent(1), name(3));
    assert_eq!(harness.tracker.stats().swarms, 2);
}

#[test]
fn nobody_announces_as_a_tracker() {
    let mut harness = Harness::new(1);
    let role = Role::Tracker;
    harness.connect(&Peer { role, ..agent(1) });
    assert_eq!(harness.closed.len(), 1);
}
