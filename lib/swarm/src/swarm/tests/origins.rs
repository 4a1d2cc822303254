//! Origins: grants, the first pass, owners that share it, and life without trackers.

use super::*;
use crate::message::RejectReason;

/// An origin with a blob of so many pieces.
fn seeder(pieces: u64) -> Alone {
    let mut alone = Alone::new(origin(1));
    let outputs = alone.drain();
    assert!(matches!(outputs[..], [Output::Credit { count: 6 }]));
    alone.tell(Input::Seed {
        description: complete(name(1), pieces * MIB),
    });
    alone
}

fn grant(alone: &mut Alone, to: u8, count: u16, pieces: &[u32], owners: &[u8]) -> Vec<Output> {
    alone.tell(Input::Tracker(Message::Grant {
        name: name(1),
        agent: agent(to).id,
        origin: origin(1),
        count,
        pieces: pieces.to_vec(),
        zone: "".into(),
        deadline: Micros::from_secs(5),
        owners: owners.iter().map(|number| origin(*number).id).collect(),
    }))
}

fn any(alone: &mut Alone, conn: ConnId, id: u32) -> Vec<Output> {
    alone.hear(
        conn,
        Message::Request {
            id: RequestId(id),
            name: name(1),
            target: Target::Any,
            priority: Priority::Stream,
            lag_us: 0,
        },
    )
}

fn done(alone: &mut Alone, conn: ConnId, id: u32) -> Vec<Output> {
    let id = RequestId(id);
    alone.tell(Input::UploadDone { conn, id })
}

fn credits(outputs: &[Output]) -> u16 {
    let credits = outputs.iter().map(|output| match output {
        Output::Credit { count } => *count,
        _ => 0,
    });
    credits.sum()
}

fn rejected(outputs: &[Output]) -> Vec<RejectReason> {
    let reasons = sent(outputs).into_iter().filter_map(|(_, message)| {
        let Message::Reject { reason, .. } = message else {
            return None;
        };
        Some(reason)
    });
    reasons.collect()
}

fn announced(outputs: &[Output]) -> Vec<AnnounceEvent> {
    let events = outputs.iter().filter_map(|output| match output {
        Output::Announce(entry) => Some(entry.event),
        _ => None,
    });
    events.collect()
}

#[test]
fn each_piece_is_given_once_in_order_and_the_slot_comes_back() {
    let mut alone = seeder(3);
    let conns = [2, 3].map(|number| alone.meet(agent(number)));
    grant(&mut alone, 2, 2, &[], &[1]);
    grant(&mut alone, 3, 2, &[], &[1]);
    assert_eq!(uploads(&any(&mut alone, conns[0], 1)), [(0, 0)]);
    assert_eq!(uploads(&any(&mut alone, conns[1], 1)), [(1, 1)]);
    let queued = any(&mut alone, conns[0], 2);
    assert!(uploads(&queued).is_empty() && credits(&queued) == 0);
    // The slot is free when the last piece begins (§7.2).
    let last = done(&mut alone, conns[0], 1);
    assert_eq!((uploads(&last), credits(&last)), (vec![(0, 2)], 1));
    let unserved = false;
    let over = [AnnounceEvent::Complete { unserved }];
    assert_eq!(announced(&last), over, "§7.5");
    // Nothing is left for the other.
    done(&mut alone, conns[1], 1);
    let nothing = any(&mut alone, conns[1], 2);
    assert_eq!(rejected(&nothing), [RejectReason::NothingToGive]);
    assert_eq!(credits(&nothing), 1);
}

#[test]
fn a_piece_that_was_not_sent_is_given_again() {
    let mut alone = seeder(2);
    let conns = [2, 3].map(|number| alone.meet(agent(number)));
    grant(&mut alone, 2, 2, &[], &[1]);
    grant(&mut alone, 3, 2, &[], &[1]);
    assert_eq!(uploads(&any(&mut alone, conns[0], 1)), [(0, 0)]);
    let conn = conns[0];
    alone.tell(Input::Closed { conn });
    assert_eq!(uploads(&any(&mut alone, conns[1], 1)), [(1, 0)]);
}

#[test]
fn named_pieces_are_paid_and_what_is_not_paid_is_rationed() {
    let mut alone = seeder(40);
    let conn = alone.meet(agent(2));
    grant(&mut alone, 2, 2, &[30, 31], &[1]);
    let first = alone.request(conn, 1, 30, 0);
    assert_eq!(uploads(&first), [(0, 30)]);
    alone.request(conn, 2, 31, 0);
    assert_eq!(credits(&done(&mut alone, conn, 1)), 1);
    done(&mut alone, conn, 2);
    // §7.9: a ration of two, after that it is busy.
    alone.request(conn, 3, 5, 0);
    alone.request(conn, 4, 6, 0);
    let third = alone.request(conn, 5, 7, 0);
    assert_eq!(rejected(&third), [RejectReason::Busy]);
    assert_eq!(rejected(&any(&mut alone, conn, 6)), [RejectReason::NoGrant]);
}

#[test]
fn granted_requests_go_before_rationed_ones() {
    let mut alone = seeder(40);
    let conns: Vec<ConnId> = (2..9).map(|number| alone.meet(agent(number))).collect();
    for conn in &conns[..5] {
        alone.request(*conn, 1, 9, 900_000);
    }
    grant(&mut alone, 8, 1, &[], &[1]);
    assert!(uploads(&any(&mut alone, conns[6], 1)).is_empty());
    assert_eq!(uploads(&done(&mut alone, conns[0], 1)), [(6, 0)]);
}

/// A tracker tells both of a grant, and the agent's request overtakes what the origin is told.
#[test]
fn a_grant_pays_for_what_came_before_it() {
    let mut alone = seeder(40);
    let conn = alone.meet(agent(2));
    assert_eq!(uploads(&any(&mut alone, conn, 1)), [(0, 0)], "by ration");
    any(&mut alone, conn, 2);
    // Both were asked already: the slot is free at once.
    assert_eq!(credits(&grant(&mut alone, 2, 2, &[], &[1])), 1);
    done(&mut alone, conn, 1);
    done(&mut alone, conn, 2);
    // Of this one there is one left, which is not there twice.
    alone.request(conn, 3, 20, 0);
    assert_eq!(credits(&grant(&mut alone, 2, 2, &[20, 21], &[1])), 0);
    done(&mut alone, conn, 3);
    assert_eq!(credits(&alone.request(conn, 4, 21, 0)), 1);
    done(&mut alone, conn, 4);
    // What came long ago is another matter.
    any(&mut alone, conn, 5);
    done(&mut alone, conn, 5);
    alone.pass(Micros::from_millis(150));
    assert_eq!(credits(&grant(&mut alone, 2, 1, &[], &[1])), 0);
    assert_eq!(credits(&any(&mut alone, conn, 6)), 1);
}

#[test]
fn the_slot_of_who_leaves_while_its_request_waits_comes_back() {
    let mut alone = seeder(3);
    let conn = alone.meet(agent(2));
    grant(&mut alone, 2, 2, &[], &[1]);
    assert_eq!(uploads(&any(&mut alone, conn, 1)), [(conn.0, 0)]);
    let second = any(&mut alone, conn, 2);
    assert_eq!(
        (uploads(&second).len(), credits(&second)),
        (0, 0),
        "it waits"
    );
    let left = alone.tell(Input::Closed { conn });
    assert_eq!(credits(&left), 1);
}

#[test]
fn a_grant_that_nobody_uses_gives_its_slot_back_and_stays_good() {
    let mut alone = seeder(4);
    grant(&mut alone, 2, 2, &[], &[1]);
    assert_eq!(credits(&alone.pass(Micros::from_millis(400))), 0);
    assert_eq!(credits(&alone.pass(Micros::from_millis(700))), 1);
    let conn = alone.meet(agent(2));
    assert_eq!(uploads(&any(&mut alone, conn, 1)).len(), 1);
    assert_eq!(credits(&alone.pass(Micros::from_secs(6))), 0, "once");
    grant(&mut alone, 3, 2, &[], &[1]);
    let withdraw = Message::Withdraw {
        name: name(1),
        agent: agent(3).id,
        origin: origin(1).id,
    };
    assert_eq!(credits(&alone.tell(Input::Tracker(withdraw))), 1);
}

#[test]
fn slots_of_busy_agents_are_lent_while_the_wire_is_idle() {
    let mut alone = seeder(40);
    let conn = alone.meet(agent(2));
    for _ in 0..6 {
        grant(&mut alone, 2, 2, &[], &[1]);
    }
    for id in 1..=12 {
        any(&mut alone, conn, id);
    }
    // One receiver has one upload at a time: there is room for three more.
    assert_eq!(credits(&alone.pass(Micros::from_millis(6))), 1);
}

#[test]
fn nobody_takes_the_id_of_an_origin() {
    let mut alone = seeder(64);
    alone.tell(Input::Partners(vec![origin(2)]));
    let partner = alone.meet(origin(2));
    let stranger = alone.meet(origin(3));
    let version = VERSION;
    let refused = CloseReason::Protocol("an id that is not of its role");
    let lie = |role, who: Peer| Peer { role, ..who };
    for (number, me, is_refused) in [
        (1, lie(Role::Agent, origin(2)), true),
        (2, lie(Role::Agent, origin(3)), true),
        (3, lie(Role::Origin, agent(4)), true),
        (4, agent(2), false),
    ] {
        let conn = ConnId(100 + number);
        let expected = None;
        alone.tell(Input::Connected { conn, expected });
        let outputs = alone.hear(conn, Message::Hello { version, me });
        let closed = is_refused.then_some((conn, refused));
        assert_eq!(closes(&outputs), closed.into_iter().collect::<Vec<_>>());
    }
    assert_eq!(alone.swarm.peers.get(&origin(3).id), Some(&stranger));
    assert!(alone.swarm.is_partner_conn(partner), "it is still there");
}

#[test]
fn owners_split_the_blob_by_runs_and_help_each_other_from_the_end() {
    let mut alone = seeder(64);
    let partner = origin(2);
    alone.tell(Input::Partners(vec![partner.clone()]));
    let other = alone.meet(partner);
    let conn = alone.meet(agent(3));
    grant(&mut alone, 3, 64, &[], &[1, 2]);
    let mut given = Vec::new();
    for id in 1..=40 {
        given.extend(
            uploads(&any(&mut alone, conn, id))
                .iter()
                .map(|(_, piece)| *piece),
        );
        done(&mut alone, conn, id);
    }
    let own = [0..8, 16..24, 32..40, 48..56].into_iter().flatten();
    let expected: Vec<u32> = own.chain((56..64).rev()).collect();
    assert_eq!(given, expected);
    // What the other delivered is not given again, and what we did is told (§7.7).
    let said = sent(&alone.pass(Micros::from_millis(5)));
    let told: usize = said
        .iter()
        .map(|(to, message)| match message {
            Message::Served { pieces, .. } if *to == other => pieces.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(told, 40);
    let pieces = (8..16).chain([24]).collect();
    alone.hear(
        other,
        Message::Served {
            name: name(1),
            pieces,
        },
    );
    let nothing = any(&mut alone, conn, 50);
    assert_eq!(rejected(&nothing), [RejectReason::NothingToGive]);
    // Alone it gives all that the other did not.
    alone.tell(Input::Closed { conn: other });
    grant(&mut alone, 3, 1, &[], &[1, 2]);
    assert_eq!(uploads(&any(&mut alone, conn, 51)), [(1, 25)]);
}

#[test]
fn a_partner_that_comes_back_hears_what_was_given() {
    let mut alone = seeder(4);
    alone.tell(Input::Partners(vec![origin(2)]));
    let conn = alone.meet(agent(3));
    grant(&mut alone, 3, 1, &[], &[1]);
    any(&mut alone, conn, 1);
    done(&mut alone, conn, 1);
    let other = ConnId(9);
    let expected = None;
    alone.tell(Input::Connected {
        conn: other,
        expected,
    });
    let hello = Message::Hello {
        version: VERSION,
        me: origin(2),
    };
    let said = sent(&alone.hear(other, hello));
    let pieces = vec![0];
    let served = Message::Served {
        name: name(1),
        pieces,
    };
    assert!(said.contains(&(other, served)), "{said:?}");
}

#[test]
fn a_question_takes_no_slot_and_is_answered_by_storage() {
    for (found, event) in [
        (crate::Found::Absent, AnnounceEvent::Absent),
        (crate::Found::Failed("500".into()), AnnounceEvent::Failed),
        (
            crate::Found::Here(complete(name(1), MIB)),
            AnnounceEvent::Complete { unserved: true },
        ),
        (
            crate::Found::Here(growing(name(1), MIB)),
            AnnounceEvent::Growing,
        ),
    ] {
        let mut alone = Alone::new(origin(1));
        alone.drain();
        let asked = grant(&mut alone, 2, 0, &[], &[1]);
        assert!(matches!(asked[..], [Output::Resolve { .. }]), "§7.4");
        let again = grant(&mut alone, 2, 2, &[], &[1]);
        assert!(again.is_empty(), "it is being asked");
        let name = name(1);
        let here = matches!(
            event,
            AnnounceEvent::Complete { .. } | AnnounceEvent::Growing
        );
        if !here {
            let found = found.clone();
            let early = alone.tell(Input::Resolved { name, found });
            assert!(matches!(early[..], [Output::Resolve { .. }]), "{early:?}");
        }
        let answer = alone.tell(Input::Resolved { name, found });
        assert_eq!(announced(&answer), [event]);
        assert_eq!(credits(&answer), u16::from(!here));
    }
}

#[test]
fn without_trackers_the_blob_comes_all_the_same() {
    let mut net = Net::new(vec![origin(1), origin(2), agent(3)]);
    let description = complete(name(1), 40 * MIB);
    for origin in [0, 1] {
        let partner = net.me(1 - origin);
        net.tell(origin, Input::Partners(vec![partner]));
        net.seed(origin, description);
    }
    net.millis(20);
    net.tell(2, Input::TrackersUp(false));
    net.download(2, name(1), true);
    let peers = vec![net.me(0), net.me(1)];
    for member in [0, 1, 2] {
        let peers = peers.clone();
        let name = name(1);
        net.later(LATENCY, member, Input::Owners { name, peers });
    }
    net.millis(1_000);
    assert!(net.is_complete(2, name(1)));
    let sent = [0, 1].map(|origin| net.members[origin].swarm.stats().uploads_done);
    assert_eq!(sent.iter().sum::<u64>(), 40, "{sent:?}");
    assert!(sent.iter().all(|pieces| *pieces >= 10), "{sent:?}");
}

#[test]
fn a_granted_agent_gets_what_the_origin_chooses() {
    let mut net = Net::new(vec![origin(1), agent(2)]);
    let description = complete(name(1), 10 * MIB);
    net.seed(0, description);
    net.download(1, name(1), true);
    net.hand_out(1, description, &[]);
    net.millis(5);
    net.grant(1, 0, name(1), 4, &[]);
    net.millis(50);
    assert_eq!(net.members[1].swarm.stats().pieces_verified, 4);
    net.grant(1, 0, name(1), 6, &[4, 5, 6, 7, 8, 9]);
    net.millis(50);
    assert!(net.is_complete(1, name(1)));
    assert_eq!(net.members[0].credits, 6 + 2);
}

fn named(outputs: &[Output]) -> Vec<(ConnId, Vec<Peer>)> {
    let handouts = sent(outputs).into_iter().filter_map(|(conn, message)| {
        let Message::Handout { peers, .. } = message else {
            return None;
        };
        Some((conn, peers))
    });
    handouts.collect()
}

/// §7.9: an origin names agents to those who cannot ask a tracker; where it has one itself, only
/// to who asks by WANT.
#[test]
fn origins_name_agents_where_no_tracker_does() {
    for has_tracker in [false, true] {
        let mut alone = seeder(3);
        alone.tell(Input::TrackersUp(has_tracker));
        let [first, second, other] = [2, 3, 4].map(|number| alone.meet(agent(number)));
        let description = complete(name(1), 3 * MIB);
        let lone = alone.link(first, description, &[]);
        assert_eq!(named(&lone), [], "there is nobody to name");
        let unasked = named(&alone.link(second, description, &[]));
        let expected = vec![(second, vec![agent(2)])];
        assert_eq!(
            unasked,
            if has_tracker {
                vec![]
            } else {
                expected.clone()
            }
        );
        alone.pass(Micros::from_millis(200));
        let want = Message::Want {
            name: name(1),
            pieces: vec![1],
        };
        assert_eq!(named(&alone.hear(second, want.clone())), expected);
        assert_eq!(named(&alone.hear(second, want.clone())), [], "so soon");
        assert_eq!(named(&alone.hear(other, want)), [], "it takes no part");
    }
}

#[test]
fn agents_believe_origins_that_name_others_only_without_trackers() {
    for (by, up, connects) in [
        (origin(2), false, true),
        (origin(2), true, false),
        (agent(2), false, false),
    ] {
        let mut alone = Alone::new(agent(1));
        alone.tell(Input::TrackersUp(up));
        alone.begin(complete(name(1), 3 * MIB), true);
        let conn = alone.meet(by.clone());
        let handout = Message::Handout {
            name: name(1),
            status: HandoutStatus::Known(complete(name(1), 3 * MIB)),
            peers: vec![agent(3), origin(4), agent(1)],
        };
        let outputs = alone.hear(conn, handout);
        let dialled = outputs.iter().filter_map(|output| match output {
            Output::Connect { peer } => Some(peer.clone()),
            _ => None,
        });
        let expected = if connects { vec![agent(3)] } else { vec![] };
        assert_eq!(dialled.collect::<Vec<_>>(), expected);
        assert_eq!(closes(&outputs).is_empty(), by.role == Role::Origin);
    }
}
