//! One swarm against a script.

use super::*;
use crate::message::RejectReason;

const PIECES: u64 = 40;

fn description() -> Description {
    complete(name(1), PIECES * MIB)
}

fn data(id: RequestId, piece: u32, offset: u32, length: u32) -> Message {
    Message::Data {
        id,
        piece,
        offset,
        length,
        last: u64::from(offset) + u64::from(length) == MIB,
    }
}

fn piece_of(target: Target) -> u32 {
    let Target::Piece(piece) = target else {
        panic!("{target:?} is not a piece")
    };
    piece
}

/// Messages that nobody who keeps to the protocol sends.
fn breaches() -> Vec<Message> {
    let id = RequestId(7);
    let mebibyte = u32::try_from(MIB).unwrap();
    let request = |target| Message::Request {
        id,
        name: name(1),
        target,
        priority: Priority::Bulk,
        lag_us: 0,
    };
    let have = |pieces| Message::Have {
        name: name(1),
        pieces,
        blocks: Vec::new(),
        queue: 0,
    };
    vec![
        Message::Hello {
            version: VERSION,
            me: agent(9),
        },
        data(id, 0, 0, mebibyte),
        Message::Reject {
            id,
            reason: RejectReason::Busy,
        },
        request(Target::Piece(40)),
        request(Target::Blocks(
            0,
            crate::message::BlockRange {
                first: 16,
                count: 1,
            },
        )),
        have(vec![40]),
        Message::Bitfield {
            name: name(1),
            description: Some(complete(name(2), MIB)),
            have: vec![0],
        },
        Message::Bitfield {
            name: name(1),
            description: Some(description()),
            have: vec![0; 4],
        },
        Message::Bitfield {
            name: name(1),
            description: None,
            have: vec![0],
        },
        Message::Want {
            name: name(1),
            pieces: vec![1],
        },
        Message::Served {
            name: name(1),
            pieces: vec![1],
        },
        Message::Withdraw {
            name: name(1),
            agent: agent(1).id,
            origin: origin(2).id,
        },
    ]
}

#[test]
fn what_breaks_the_protocol_is_closed() {
    for message in breaches() {
        let mut alone = Alone::new(agent(1));
        alone.tell(Input::Seed {
            description: description(),
        });
        let conn = alone.meet(agent(2));
        alone.link(conn, description(), &[1]);
        let outputs = alone.hear(conn, message.clone());
        let closed = closes(&outputs);
        let is_protocol = |why: &CloseReason| matches!(why, CloseReason::Protocol(_));
        assert!(
            closed.len() == 1 && is_protocol(&closed[0].1),
            "{message:?}: {outputs:?}"
        );
    }
}

#[test]
fn who_does_not_say_hello_is_closed() {
    let mut alone = Alone::new(agent(1));
    let conn = ConnId(0);
    let expected = None;
    let said = alone.tell(Input::Connected { conn, expected });
    assert!(
        matches!(sent(&said)[..], [(_, Message::Hello { .. })]),
        "§2.1"
    );
    assert!(closes(&alone.pass(Micros::from_millis(4_900))).is_empty());
    assert_eq!(closes(&alone.pass(Micros::from_millis(200))).len(), 1);
    let conn = ConnId(1);
    alone.tell(Input::Connected { conn, expected });
    let closed = closes(&alone.hear(conn, Message::Ping { token: 1 }));
    assert_eq!(closed.len(), 1, "nothing before HELLO");
}

#[test]
fn an_unknown_blob_is_ignored_but_for_requests() {
    let mut alone = Alone::new(agent(1));
    let conn = alone.meet(agent(2));
    assert!(alone.link(conn, description(), &[1]).is_empty(), "§3.4");
    let outputs = alone.request(conn, 5, 0, 0);
    let reason = RejectReason::NotHere;
    let id = RequestId(5);
    assert_eq!(sent(&outputs), [(conn, Message::Reject { id, reason })]);
}

#[test]
fn a_blocked_reader_is_foreground_and_its_window_comes_first() {
    let mut alone = Alone::new(agent(1));
    alone.begin(description(), true);
    let reader = ReaderId(1);
    let range = 10 * MIB..PIECES * MIB;
    alone.tell(Input::Read {
        name: name(1),
        reader,
        range,
    });
    let all: Vec<u32> = (0..40).collect();
    let conn = alone.meet_proven(agent(2));
    let asked = requests(&alone.link(conn, description(), &all));
    assert_eq!(
        asked.len(),
        4,
        "a lone peer is not held to one piece per round trip"
    );
    assert_eq!(asked[0].2, Target::Piece(10));
    assert_eq!(asked[0].3, Priority::Foreground);
    assert!(
        asked[1..]
            .iter()
            .all(|(.., priority)| *priority == Priority::Stream)
    );
}

#[test]
fn many_peers_are_asked_for_one_piece_each() {
    let mut alone = Alone::new(agent(1));
    alone.begin(description(), true);
    let all: Vec<u32> = (0..40).collect();
    let mut asked = Vec::new();
    for number in 2..12 {
        let conn = alone.meet_proven(agent(number));
        asked.extend(requests(&alone.link(conn, description(), &all)));
    }
    assert_eq!(asked.len(), alone.swarm.cap(), "the cap holds: {asked:?}");
    for conn in 4..7 {
        let of_one = asked.iter().filter(|(of, ..)| of.0 == conn).count();
        assert!(of_one <= 1, "four peers are enough: {asked:?}");
    }
    let mut pieces: Vec<u32> = asked
        .iter()
        .map(|(_, _, target, _)| piece_of(*target))
        .collect();
    pieces.sort_unstable();
    pieces.dedup();
    assert_eq!(pieces.len(), asked.len(), "nothing is asked for twice");
}

#[test]
fn a_peer_is_asked_for_one_piece_until_it_was_right() {
    let mut alone = Alone::new(agent(1));
    alone.begin(description(), true);
    let conn = alone.meet(agent(2));
    let asked = requests(&alone.link(conn, description(), &[1, 2, 3, 4, 5, 6]));
    assert_eq!(asked.len(), 1);
    let (_, id, target, _) = asked[0];
    let raw = piece_of(target);
    let mebibyte = u32::try_from(MIB).unwrap();
    let said = alone.hear(conn, data(id, raw, 0, mebibyte));
    assert!(
        requests(&said).is_empty(),
        "it is not checked yet: {said:?}"
    );
    let piece = description().geometry().index(raw).unwrap();
    let verified = Input::PieceVerified {
        conn,
        id,
        name: name(1),
        piece,
    };
    assert_eq!(requests(&alone.tell(verified)).len(), 4);
}

#[test]
fn silence_is_asked_elsewhere_and_queued_is_not_silence() {
    let mut alone = Alone::new(agent(1));
    alone.begin(description(), true);
    let one = alone.meet(agent(2));
    let (_, id, ..) = requests(&alone.link(one, description(), &[3]))[0];
    for _ in 0..10 {
        alone.pass(Micros::from_millis(100));
        alone.hear(one, Message::Queued { id, ahead: 1 });
    }
    assert_eq!(alone.swarm.stats().silences, 0, "§6.6");
    let said = alone.pass(Micros::from_millis(251));
    assert!(sent(&said).contains(&(one, Message::Cancel { id })));
    let two = alone.meet(agent(3));
    let asked = requests(&alone.link(two, description(), &[3]));
    assert_eq!(asked[0].2, Target::Piece(3));
    // The data that crossed the CANCEL is no breach, nor is the end of the request (§6.5).
    let mebibyte = u32::try_from(MIB).unwrap();
    assert!(closes(&alone.hear(one, data(id, 3, 0, mebibyte))).is_empty());
    let reason = RejectReason::Cancelled;
    assert!(closes(&alone.hear(one, Message::Reject { id, reason })).is_empty());
}

#[test]
fn the_last_pieces_are_asked_for_twice_and_the_loser_is_cancelled() {
    let mut alone = Alone::new(agent(1));
    let description = complete(name(1), 2 * MIB);
    alone.begin(description, true);
    let one = alone.meet_proven(agent(2));
    let first = requests(&alone.link(one, description, &[0, 1]));
    assert_eq!(first.len(), 2);
    let two = alone.meet_proven(agent(3));
    assert!(requests(&alone.link(two, description, &[0, 1])).is_empty());
    // The first is held back: after a while the other is asked too.
    let mut again = Vec::new();
    for _ in 0..4 {
        again.extend(requests(&alone.pass(Micros::from_millis(50))));
        let id = first[0].1;
        alone.hear(one, Message::Queued { id, ahead: 3 });
    }
    let of_two: Vec<_> = again.iter().filter(|(conn, ..)| *conn == two).collect();
    assert_eq!(of_two.len(), 2, "{again:?}");
    let (_, id, target, _) = *of_two[0];
    let piece = piece_of(target);
    let said = alone.hear(two, data(id, piece, 0, 65_536));
    let loser = first
        .iter()
        .find(|(.., target, _)| piece_of(*target) == piece);
    let id = loser.unwrap().1;
    assert!(
        sent(&said).contains(&(one, Message::Cancel { id })),
        "{said:?}"
    );
}

#[test]
fn who_rejects_is_asked_for_something_else() {
    let mut alone = Alone::new(agent(1));
    alone.begin(description(), true);
    let conn = alone.meet_proven(agent(2));
    let first = requests(&alone.link(conn, description(), &[1, 2, 3, 4, 5, 6]));
    assert_eq!(first.len(), 4);
    let (_, id, target, _) = first[0];
    let reason = RejectReason::NotHere;
    let next = requests(&alone.hear(conn, Message::Reject { id, reason }));
    assert_eq!(next.len(), 1);
    assert_ne!(next[0].2, target, "§4.3: it is out of the picture");
    for (_, id, ..) in first[1..].iter().chain(&next) {
        alone.hear(conn, Message::Reject { id: *id, reason });
    }
    let asked = requests(&alone.pass(Micros::from_millis(100)));
    assert!(asked.is_empty(), "it has nothing: {asked:?}");
}

#[test]
fn who_has_nothing_to_ask_turns_to_the_tracker() {
    let mut alone = Alone::new(agent(1));
    alone.begin(description(), true);
    let conn = alone.meet(agent(2));
    alone.link(conn, description(), &[]);
    let starving = |outputs: &[Output]| {
        let is_starving = |output: &&Output| matches!(output, Output::Announce(entry) if entry.event == AnnounceEvent::Starving);
        outputs.iter().filter(is_starving).count()
    };
    let wants = |outputs: &[Output]| {
        let wants = outputs.iter().filter_map(|output| match output {
            Output::Tracker {
                message: Message::Want { pieces, .. },
                ..
            } => Some(pieces.len()),
            _ => None,
        });
        wants.collect::<Vec<usize>>()
    };
    let early = alone.pass(Micros::from_millis(40));
    assert_eq!((starving(&early), wants(&early)), (0, vec![]));
    let soon = alone.pass(Micros::from_millis(100));
    assert_eq!((starving(&soon), wants(&soon)), (1, vec![]));
    let later = alone.pass(Micros::from_millis(150));
    assert_eq!((starving(&later), wants(&later)), (0, vec![40]));
    // And again, until patience ends.
    let long = alone.pass(Micros::from_secs(25));
    assert!((44..=52).contains(&starving(&long)), "{}", starving(&long));
    let end = alone.pass(Micros::from_secs(10));
    let failed = end.iter().any(|output| {
        matches!(
            output,
            Output::Failed {
                failure: Failure::Unavailable(_),
                ..
            }
        )
    });
    assert!(failed, "{end:?}");
    assert!(alone.swarm.torrents.is_empty());
}

#[test]
fn a_forged_description_costs_the_forger_only() {
    let mut alone = Alone::new(agent(1));
    alone.tell(Input::Download {
        name: name(1),
        priority: Priority::Stream,
        whole: true,
    });
    let forger = alone.meet(agent(2));
    alone.swarm.torrents.get_mut(&name(1)).unwrap();
    alone.link(forger, complete(name(1), 7 * MIB), &[]);
    let outputs = alone.tell(Input::OpenFailed {
        name: name(1),
        reason: "not signed".into(),
    });
    assert_eq!(closes(&outputs), [(forger, CloseReason::Corrupt)]);
    let honest = alone.meet(agent(3));
    let outputs = alone.link(honest, description(), &[]);
    let opened = outputs.iter().any(
        |output| matches!(output, Output::Open { description: opened } if *opened == description()),
    );
    assert!(opened, "{outputs:?}");
}

#[test]
fn a_full_disk_is_tried_again_after_a_pause() {
    let mut alone = Alone::new(agent(1));
    let description = complete(name(1), MIB);
    alone.begin(description, true);
    let conn = alone.meet(agent(2));
    let (_, id, ..) = requests(&alone.link(conn, description, &[0]))[0];
    alone.hear(conn, data(id, 0, 0, u32::try_from(MIB).unwrap()));
    let not_stored = Input::PieceNotStored {
        conn,
        id,
        name: name(1),
        piece: description.geometry().index(0).unwrap(),
    };
    assert!(requests(&alone.tell(not_stored)).is_empty());
    assert!(requests(&alone.pass(Micros::from_millis(990))).is_empty());
    assert_eq!(requests(&alone.pass(Micros::from_millis(100))).len(), 1);
}

#[test]
fn without_trackers_an_owner_that_lacks_the_blob_ends_the_download() {
    let mut alone = Alone::new(agent(1));
    alone.tell(Input::TrackersUp(false));
    let said = alone.tell(Input::Download {
        name: name(1),
        priority: Priority::Stream,
        whole: true,
    });
    assert!(
        said.iter()
            .any(|output| matches!(output, Output::FindOwners { .. }))
    );
    let peers = vec![origin(2)];
    let said = alone.tell(Input::Owners {
        name: name(1),
        peers,
    });
    assert!(matches!(said[..], [Output::Connect { .. }]), "{said:?}");
    let conn = alone.meet(origin(2));
    let said = alone.hear(
        conn,
        Message::Bitfield {
            name: name(1),
            description: None,
            have: Vec::new(),
        },
    );
    let absent = said.iter().any(
        |output| matches!(output, Output::Failed { failure, .. } if *failure == Failure::Absent),
    );
    assert!(absent, "{said:?}");
}

// --- uploads ---

/// An agent that has the blob, and so many peers that want it.
fn uploader(peers: u8) -> (Alone, Vec<ConnId>) {
    let mut alone = Alone::new(agent(1));
    alone.tell(Input::Seed {
        description: description(),
    });
    let conns = (2..2 + peers)
        .map(|number| alone.meet(agent(number)))
        .collect();
    (alone, conns)
}

fn done(alone: &mut Alone, conn: ConnId, id: u32) -> Vec<Output> {
    let id = RequestId(id);
    alone.tell(Input::UploadDone { conn, id })
}

#[test]
fn four_share_the_wire_and_the_least_virtual_time_is_next() {
    let (mut alone, conns) = uploader(7);
    for conn in &conns[..4] {
        assert_eq!(uploads(&alone.request(*conn, 1, 0, 0)).len(), 1);
    }
    // They wait: who is further behind its schedule goes first, wherever it came.
    for (conn, lag_us) in conns[4..].iter().zip([10_000, 30_000, 20_000]) {
        assert!(uploads(&alone.request(*conn, 1, 1, lag_us)).is_empty());
    }
    assert_eq!(uploads(&done(&mut alone, conns[0], 1)), [(5, 1)]);
    assert_eq!(uploads(&done(&mut alone, conns[1], 1)), [(6, 1)]);
    // Waiting counts: the one that came 40 ms later is not first though it states more.
    alone.pass(Micros::from_millis(40));
    alone.request(conns[0], 2, 1, 45_000);
    assert_eq!(uploads(&done(&mut alone, conns[2], 1)), [(4, 1)]);
}

#[test]
fn a_piece_that_nobody_got_goes_before_one_that_somebody_did() {
    let (mut alone, conns) = uploader(6);
    for conn in &conns[..4] {
        alone.request(*conn, 1, 0, 0);
    }
    alone.request(conns[4], 1, 0, 90_000);
    alone.request(conns[5], 1, 7, 0);
    assert_eq!(uploads(&done(&mut alone, conns[0], 1)), [(5, 7)]);
}

#[test]
fn one_receiver_has_one_upload_at_a_time() {
    let (mut alone, conns) = uploader(1);
    assert_eq!(uploads(&alone.request(conns[0], 1, 0, 0)), [(0, 0)]);
    assert!(uploads(&alone.request(conns[0], 2, 1, 0)).is_empty());
    assert_eq!(uploads(&done(&mut alone, conns[0], 1)), [(0, 1)]);
}

#[test]
fn one_that_stalls_makes_room_up_to_eight() {
    let (mut alone, conns) = uploader(12);
    let mut started = 0;
    for conn in &conns {
        started += uploads(&alone.request(*conn, 1, 0, 0)).len();
    }
    assert_eq!(started, 4);
    let heard = |alone: &mut Alone, millis: u64| {
        let mut started = 0;
        for _ in 0..millis / 10 {
            started += uploads(&alone.pass(Micros::from_millis(10))).len();
            for conn in &conns {
                alone.hear(*conn, Message::Ping { token: 1 });
            }
        }
        started
    };
    assert_eq!(heard(&mut alone, 150), 4);
    assert_eq!(
        heard(&mut alone, 300),
        0,
        "eight were not taken by their receivers"
    );
}

#[test]
fn who_waits_is_told_so_every_tenth_of_a_second() {
    let (mut alone, conns) = uploader(5);
    for conn in &conns {
        alone.request(*conn, 1, 0, 0);
    }
    let said = sent(&alone.pass(Micros::from_millis(205)));
    let told = said
        .iter()
        .filter(|(conn, message)| *conn == conns[4] && matches!(message, Message::Queued { .. }));
    assert!(told.count() >= 1, "§6.6: {said:?}");
}

#[test]
fn every_request_ends_once() {
    let (mut alone, conns) = uploader(2);
    let conn = conns[0];
    let rejects = |outputs: &[Output]| -> Vec<(u32, RejectReason)> {
        let rejects = sent(outputs).into_iter().filter_map(|(_, message)| {
            let Message::Reject { id, reason } = message else {
                return None;
            };
            Some((id.0, reason))
        });
        rejects.collect()
    };
    alone.request(conn, 1, 0, 0);
    alone.request(conn, 2, 1, 0);
    // §6.5: a waiting one, one that is being sent, and one that ended.
    let cancel = |id: u32| Message::Cancel { id: RequestId(id) };
    let cancelled = RejectReason::Cancelled;
    assert_eq!(rejects(&alone.hear(conn, cancel(2))), [(2, cancelled)]);
    let said = alone.hear(conn, cancel(1));
    assert_eq!(rejects(&said), [(1, cancelled)]);
    assert!(
        said.iter()
            .any(|output| matches!(output, Output::CancelUpload { .. }))
    );
    assert!(done(&mut alone, conn, 1).is_empty());
    assert!(alone.hear(conn, cancel(1)).is_empty());
    // One whose piece cannot be read, and those of a blob that goes.
    alone.request(conn, 3, 0, 0);
    alone.request(conn, 4, 1, 0);
    let id = RequestId(3);
    let said = alone.tell(Input::UploadFailed { conn, id });
    assert_eq!(rejects(&said), [(3, RejectReason::NotHere)]);
    let said = alone.tell(Input::Remove { name: name(1) });
    assert_eq!(rejects(&said), [(4, RejectReason::NotHere)]);
    // A grantless `Any`, and more than may wait.
    let (mut alone, conns) = uploader(1);
    let conn = conns[0];
    let said = alone.hear(
        conn,
        Message::Request {
            id: RequestId(1),
            name: name(1),
            target: Target::Any,
            priority: Priority::Bulk,
            lag_us: 0,
        },
    );
    assert_eq!(rejects(&said), [(1, RejectReason::NoGrant)]);
    let mut busy = 0;
    for id in 2..200 {
        busy += rejects(&alone.request(conn, id, 0, 0)).len();
    }
    assert_eq!(busy, 198 - alone.swarm.config.policy.max_waiting_per_peer);
}

#[test]
fn complaints_are_looked_into_up_to_a_bound() {
    let (mut alone, conns) = uploader(1);
    let mut rechecks = 0;
    let mut closed = 0;
    for _ in 0..100 {
        let complaint = Message::Complaint {
            name: name(1),
            piece: 3,
        };
        let said = alone.hear(conns[0], complaint);
        rechecks += said
            .iter()
            .filter(|one| matches!(one, Output::Recheck { .. }))
            .count();
        closed += closes(&said).len();
    }
    assert_eq!((rechecks, closed), (64, 1));
}
