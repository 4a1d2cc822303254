//! Blobs that nobody announced.

use super::*;

fn three_who_wait() -> (Harness, Vec<Peer>) {
    let mut harness = Harness::new(1);
    harness.connect_all(&[origin(1), origin(2)]);
    harness.credit(&origin(1), 6);
    let agents: Vec<Peer> = (1..=3).map(agent).collect();
    harness.connect_all(&agents);
    for agent in &agents {
        harness.join(agent, name(1));
        let said = harness.sent[&agent.id].iter();
        let pending = said.filter(|message| {
            let status = HandoutStatus::Pending;
            matches!(message, Message::Handout { status: said, .. } if *said == status)
        });
        assert_eq!(pending.count(), 1);
    }
    (harness, agents)
}

fn statuses(harness: &mut Harness, agent: &Peer) -> Vec<HandoutStatus> {
    let handouts = harness.handouts(agent).into_iter();
    handouts.map(|(status, _)| status).collect()
}

/// §7.3, §7.4: every live owner is asked once; one that has a slot by a grant that both get, one
/// that has none by a question.
#[test]
fn owners_are_asked_by_a_grant() {
    let (mut harness, agents) = three_who_wait();
    let of_first = harness.grants(&origin(1));
    assert_eq!(of_first.len(), 1);
    assert_eq!((of_first[0].count, of_first[0].agent), (2, agents[0].id));
    assert_eq!(of_first[0].owners, [origin(1).id, origin(2).id]);
    assert_eq!(harness.grants(&agents[0]), of_first);
    let of_second = harness.grants(&origin(2));
    assert_eq!(of_second.len(), 1);
    assert_eq!(of_second[0].count, 0);
}

#[test]
fn all_who_wait_are_answered_when_an_origin_announces() {
    for growing_first in [false, true] {
        let (mut harness, agents) = three_who_wait();
        for agent in &agents {
            harness.take(agent);
        }
        if growing_first {
            let event = AnnounceEvent::Growing;
            harness.announce(&origin(2), name(1), event, Some(growing(name(1))));
        } else {
            harness.seed(&origin(2), name(1));
        }
        let known = if growing_first {
            growing(name(1))
        } else {
            description(name(1))
        };
        let mut named = 0;
        for agent in &agents {
            let handouts = harness.handouts(agent);
            assert_eq!(handouts.len(), 1);
            assert_eq!(handouts[0].0, HandoutStatus::Known(known));
            named += handouts[0].1.len();
        }
        assert_eq!(named, 1 + 2, "each is linked to those before it");
        assert_eq!(harness.tracker.stats().pending, 0);
        harness.pass(Micros::from_secs(9));
        assert!(
            agents
                .iter()
                .all(|agent| harness.handouts(agent).is_empty())
        );
    }
}

#[test]
fn absent_is_said_when_all_live_owners_said_it() {
    let (mut harness, agents) = three_who_wait();
    for agent in &agents {
        harness.take(agent);
    }
    harness.announce(&origin(1), name(1), AnnounceEvent::Absent, None);
    assert!(
        agents
            .iter()
            .all(|agent| harness.handouts(agent).is_empty())
    );
    harness.announce(&origin(2), name(1), AnnounceEvent::Absent, None);
    for agent in &agents {
        assert_eq!(statuses(&mut harness, agent), [HandoutStatus::Absent]);
    }
    assert_eq!(harness.tracker.stats().swarms, 0, "nothing is kept");
}

#[test]
fn an_owner_that_dies_is_not_waited_for() {
    let (mut harness, agents) = three_who_wait();
    harness.announce(&origin(1), name(1), AnnounceEvent::Absent, None);
    harness.disconnect(&origin(2));
    let last = statuses(&mut harness, &agents[2]).pop();
    assert_eq!(last, Some(HandoutStatus::Absent));
}

#[test]
fn after_absent_owners_are_asked_again() {
    let (mut harness, agents) = three_who_wait();
    harness.announce(&origin(1), name(1), AnnounceEvent::Absent, None);
    harness.announce(&origin(2), name(1), AnnounceEvent::Absent, None);
    harness.take(&origin(2));
    harness.take(&agents[0]);
    harness.join(&agents[0], name(1));
    assert_eq!(harness.grants(&origin(2)).len(), 1);
    assert_eq!(statuses(&mut harness, &agents[0]), [HandoutStatus::Pending]);
}

#[test]
fn an_owner_that_cannot_read_is_a_failure_not_an_absence() {
    let (mut harness, agents) = three_who_wait();
    harness.announce(&origin(1), name(1), AnnounceEvent::Absent, None);
    harness.announce(&origin(2), name(1), AnnounceEvent::Failed, None);
    let last = statuses(&mut harness, &agents[0]).pop();
    assert!(matches!(last, Some(HandoutStatus::Failed(_))), "{last:?}");
}

#[test]
fn silent_owners_are_waited_for_within_a_bound() {
    let (mut harness, agents) = three_who_wait();
    for agent in &agents {
        harness.take(agent);
    }
    harness.pass(Micros::from_millis(9_900));
    assert!(
        agents
            .iter()
            .all(|agent| harness.handouts(agent).is_empty())
    );
    // They must not look dead meanwhile.
    harness.credit(&origin(1), 1);
    harness.credit(&origin(2), 1);
    harness.pass(Micros::from_millis(200));
    for agent in &agents {
        let said = statuses(&mut harness, agent);
        assert!(matches!(&said[..], [HandoutStatus::Failed(_)]), "{said:?}");
    }
    assert_eq!(harness.tracker.stats().swarms, 0);
}

#[test]
fn where_no_origin_is_the_wait_is_short() {
    let mut harness = Harness::new(1);
    harness.connect(&agent(1));
    harness.join(&agent(1), name(1));
    assert_eq!(statuses(&mut harness, &agent(1)), [HandoutStatus::Pending]);
    harness.pass(Micros::from_millis(1_900));
    assert_eq!(statuses(&mut harness, &agent(1)), []);
    harness.pass(Micros::from_millis(200));
    let said = statuses(&mut harness, &agent(1));
    assert!(matches!(&said[..], [HandoutStatus::Failed(_)]), "{said:?}");
}

#[test]
fn an_owner_that_comes_is_asked_at_once() {
    let mut harness = Harness::new(1);
    harness.connect(&agent(1));
    harness.join(&agent(1), name(1));
    harness.pass(Micros::from_secs(1));
    harness.connect(&origin(2));
    assert_eq!(harness.grants(&origin(2)).len(), 1);
    harness.pass(Micros::from_secs(3));
    assert_eq!(statuses(&mut harness, &agent(1)), [HandoutStatus::Pending]);
    harness.seed(&origin(2), name(1));
    let said = statuses(&mut harness, &agent(1));
    assert_eq!(said, [HandoutStatus::Known(description(name(1)))]);
}

/// A complete agent is enough: no origin is asked, and none is needed.
#[test]
fn a_complete_agent_brings_the_description() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[agent(1), agent(2), origin(1)]);
    harness.credit(&origin(1), 6);
    let event = AnnounceEvent::Complete { unserved: false };
    harness.announce(&agent(1), name(1), event, Some(description(name(1))));
    harness.join(&agent(2), name(1));
    let handouts = harness.handouts(&agent(2));
    let known = HandoutStatus::Known(description(name(1)));
    assert_eq!(handouts, [(known, vec![agent(1).id])]);
    assert_eq!(harness.grants(&origin(1)), []);
}

/// §5.1.
#[test]
fn a_description_that_is_not_signed_goes_nowhere() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[agent(1), agent(2), origin(1)]);
    let foreign = ClusterKey::from_seed([6; 32]);
    let forged = Summary::sign(&foreign, name(1), 1, Root([0; 32])).unwrap();
    let other = description(name(2));
    for description in [Description::Complete(forged), other] {
        let event = AnnounceEvent::Complete { unserved: true };
        harness.announce(&agent(1), name(1), event, Some(description));
        harness.announce(&origin(1), name(1), event, Some(description));
    }
    harness.join(&agent(2), name(1));
    assert_eq!(statuses(&mut harness, &agent(2)), [HandoutStatus::Pending]);
}

#[test]
fn when_the_only_source_dies_the_other_owner_is_asked() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[agent(1), origin(1), origin(2)]);
    harness.seed(&origin(1), name(1));
    harness.join(&agent(1), name(1));
    assert_eq!(harness.grants(&origin(2)), []);
    harness.disconnect(&origin(1));
    assert_eq!(harness.grants(&origin(2)).len(), 1);
}

#[test]
fn a_member_that_starves_without_any_source_is_told_so() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[agent(1), origin(1)]);
    harness.seed(&origin(1), name(1));
    harness.join(&agent(1), name(1));
    harness.disconnect(&origin(1));
    harness.take(&agent(1));
    harness.announce(&agent(1), name(1), AnnounceEvent::Starving, None);
    harness.pass(Micros::from_millis(2_100));
    let said = statuses(&mut harness, &agent(1));
    assert!(matches!(&said[..], [HandoutStatus::Failed(_)]), "{said:?}");
}

/// §8.1.
#[test]
fn a_revoked_blob_is_dropped_by_everybody() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[agent(1), agent(2), origin(1), origin(2)]);
    let event = AnnounceEvent::Growing;
    harness.announce(&origin(1), name(1), event, Some(growing(name(1))));
    harness.join(&agent(1), name(1));
    harness.join(&agent(2), name(1));
    let revoke = |generation| Message::Revoke {
        name: name(1),
        generation: Some(Generation(generation)),
        reason: "the digest differs".into(),
    };
    harness.say(&agent(1), revoke(1));
    harness.say(&origin(1), revoke(2));
    assert_eq!(harness.tracker.stats().swarms, 1, "of another generation");
    harness.say(&origin(1), revoke(1));
    for agent in [agent(1), agent(2)] {
        assert_eq!(harness.take(&agent).pop(), Some(revoke(1)));
    }
    assert_eq!(harness.tracker.stats().swarms, 0);
}

/// §8.1: what was under way when a blob was revoked does not bring it back.
#[test]
fn a_revoked_description_is_not_learned_again() {
    let mut harness = Harness::new(1);
    harness.connect_all(&[agent(1), agent(2), origin(1)]);
    let event = AnnounceEvent::Growing;
    harness.announce(&origin(1), name(1), event, Some(growing(name(1))));
    harness.join(&agent(1), name(1));
    let revoke = Message::Revoke {
        name: name(1),
        generation: Some(Generation(1)),
        reason: "the digest differs".into(),
    };
    harness.say(&origin(1), revoke.clone());
    harness.take(&agent(1));
    let progress = AnnounceEvent::Progress { sixteenths: 3 };
    harness.announce(&agent(1), name(1), progress, Some(growing(name(1))));
    // Whoever still holds it may have missed that it was revoked.
    assert_eq!(harness.take(&agent(1)), [revoke]);
    assert_eq!(harness.tracker.stats().swarms, 0);
    harness.take(&origin(1));
    harness.join(&agent(2), name(1));
    assert_eq!(statuses(&mut harness, &agent(2)), [HandoutStatus::Pending]);
    assert_eq!(harness.grants(&origin(1)).len(), 1, "it is asked anew");
    // §8.2.
    let again = GrowingMetaInfo::sign(&key(), name(1), 100 << 20, Generation(2));
    let again = Description::Growing(again.unwrap());
    harness.announce(&origin(1), name(1), event, Some(again));
    let said = statuses(&mut harness, &agent(2));
    assert_eq!(said, [HandoutStatus::Known(again)]);
}

#[test]
fn who_waits_when_a_blob_is_revoked_is_answered() {
    let (mut harness, agents) = three_who_wait();
    harness.take(&agents[0]);
    harness.say(
        &origin(1),
        Message::Revoke {
            name: name(1),
            generation: Some(Generation(1)),
            reason: "the digest differs".into(),
        },
    );
    let said = statuses(&mut harness, &agents[0]);
    assert!(matches!(&said[..], [HandoutStatus::Failed(_)]), "{said:?}");
}
