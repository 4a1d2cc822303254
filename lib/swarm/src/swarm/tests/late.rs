//! Readers that wait: for a piece that a peer holds back, and for one that others read too.

use super::*;

/// Reads pieces 3 and 4 of a blob of which nothing else is wanted.
fn read(alone: &mut Alone, reader: u64) -> Vec<Output> {
    alone.tell(Input::Read {
        name: name(1),
        reader: ReaderId(reader),
        range: 3 * MIB..5 * MIB,
    })
}

fn wants(outputs: &[Output]) -> Vec<Vec<u32>> {
    let wants = outputs.iter().filter_map(|output| match output {
        Output::Tracker {
            message: Message::Want { pieces, .. },
            ..
        } => Some(pieces.clone()),
        _ => None,
    });
    wants.collect()
}

/// A peer that has everything, says that it is busy, and sends nothing: not silent, and of no use.
/// Returns what was said until `millis` have passed.
fn held_back(alone: &mut Alone, conn: ConnId, id: RequestId, millis: u64) -> Vec<Output> {
    let mut said = Vec::new();
    for _ in 0..millis / 100 {
        said.extend(alone.pass(Micros::from_millis(100)));
        said.extend(alone.hear(conn, Message::Queued { id, ahead: 1 }));
    }
    said
}

fn begun(whole: bool) -> (Alone, ConnId) {
    let mut alone = Alone::new(agent(1));
    let description = complete(name(1), 40 * MIB);
    alone.begin(description, whole);
    let all: Vec<u32> = (0..40).collect();
    let conn = alone.meet_proven(agent(2));
    alone.link(conn, description, &all);
    (alone, conn)
}

fn grant(pieces: &[u32]) -> Input {
    Input::Tracker(Message::Grant {
        name: name(1),
        agent: agent(1).id,
        origin: origin(9),
        count: u16::try_from(pieces.len().max(2)).unwrap(),
        pieces: pieces.to_vec(),
        zone: "".into(),
        deadline: Micros::from_secs(5),
        owners: vec![origin(9).id],
    })
}

fn id_of(asked: &[(ConnId, RequestId, Target, Priority)], piece: u32) -> RequestId {
    let target = Target::Piece(piece);
    let found = asked.iter().find(|(_, _, of, _)| *of == target);
    found
        .unwrap_or_else(|| panic!("{piece} was not asked for: {asked:?}"))
        .1
}

#[test]
fn an_origin_is_asked_for_what_a_peer_holds_back() {
    let (mut alone, peer) = begun(false);
    let asked = requests(&read(&mut alone, 1));
    assert_eq!(asked.len(), 2, "nothing else is fetched: {asked:?}");
    let id = id_of(&asked, 3);
    let early = held_back(&mut alone, peer, id, 400);
    assert_eq!(wants(&early), Vec::<Vec<u32>>::new());
    let late = held_back(&mut alone, peer, id, 200);
    assert_eq!(wants(&late), [[3, 4]], "they were asked for together");

    alone.tell(grant(&[3]));
    let origin = alone.meet(origin(9));
    let mut said = alone.link(origin, complete(name(1), 40 * MIB), &[]);
    said.extend(alone.pass(Micros::from_millis(30)));
    let again: Vec<_> = requests(&said)
        .into_iter()
        .filter(|(of, ..)| *of == origin)
        .collect();
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0].2, Target::Piece(3));
    assert_eq!(again[0].3, Priority::Foreground);

    // Whoever begins to send is waited for; the other is told.
    let data = Message::Data {
        id: again[0].1,
        piece: 3,
        offset: 0,
        length: 65_536,
        last: false,
    };
    let said = alone.hear(origin, data);
    assert!(
        sent(&said).contains(&(peer, Message::Cancel { id })),
        "{said:?}"
    );
}

#[test]
fn a_silent_peer_does_not_keep_a_piece_to_itself() {
    let (mut alone, _) = begun(false);
    read(&mut alone, 1);
    // It is the only one that has it, and its connection is not closed yet.
    let said = alone.pass(Micros::from_millis(600));
    assert!(
        wants(&said).iter().any(|pieces| pieces.contains(&3)),
        "{said:?}"
    );
}

#[test]
fn who_downloads_everything_has_other_pieces_meanwhile() {
    let (mut alone, peer) = begun(true);
    let asked = requests(&read(&mut alone, 1));
    let open = alone.swarm.torrents[&name(1)].asked.keys().next().copied();
    assert!(open.is_some(), "{asked:?}");
    let id = RequestId(0);
    let early = held_back(&mut alone, peer, id, 1_900);
    assert_eq!(wants(&early), Vec::<Vec<u32>>::new());
    let late = held_back(&mut alone, peer, id, 300);
    assert!(wants(&late).iter().all(|pieces| pieces[0] == 3), "{late:?}");
    assert!(!wants(&late).is_empty());
}

#[test]
fn without_trackers_the_origin_is_asked_for_what_is_late() {
    let (mut alone, peer) = begun(false);
    alone.tell(Input::TrackersUp(false));
    let peers = vec![origin(9)];
    alone.tell(Input::Owners {
        name: name(1),
        peers,
    });
    let conn = alone.meet(origin(9));
    alone.link(conn, complete(name(1), 40 * MIB), &[]);
    let asked = requests(&read(&mut alone, 1));
    let id = id_of(&asked, 3);
    let said = held_back(&mut alone, peer, id, 700);
    let of_origin: Vec<_> = requests(&said)
        .into_iter()
        .filter(|(of, ..)| *of == conn)
        .collect();
    assert_eq!(of_origin.len(), 1, "once: {of_origin:?}");
    assert_eq!(of_origin[0].2, Target::Piece(3));
}

#[test]
fn each_part_is_told_to_the_tracker_at_once() {
    let mut alone = Alone::new(agent(1));
    let description = complete(name(1), 40 * MIB);
    alone.begin(description, false);
    // A neighbour that has none of it yet, and reads the same: who of both asks the origin is the
    // tracker's business, so that it is not both.
    let conn = alone.meet_proven(agent(2));
    alone.link(conn, description, &[]);
    let origin = alone.meet(origin(9));
    alone.link(origin, description, &[]);
    alone.tell(grant(&[]));
    for (reader, piece) in [(1, 3), (2, 20), (3, 30)] {
        let said = alone.tell(Input::Read {
            name: name(1),
            reader: ReaderId(reader),
            range: u64::from(piece) * MIB..u64::from(piece + 1) * MIB,
        });
        assert_eq!(requests(&said), []);
        let said = alone.pass(Micros::from_millis(60));
        assert_eq!(requests(&said), [], "nobody granted it by name");
        let told = wants(&said);
        assert!(told.len() == 1 && told[0].contains(&piece), "{told:?}");
    }
}

#[test]
fn readers_of_the_same_bytes_share_one_request() {
    let (mut alone, _) = begun(false);
    let first = requests(&read(&mut alone, 1));
    assert_eq!(first.len(), 2);
    for (reader, range) in [
        (2, 3 * MIB..5 * MIB),
        (3, 3 * MIB + 7..4 * MIB + 9),
        (4, 4 * MIB..5 * MIB),
    ] {
        let said = alone.tell(Input::Read {
            name: name(1),
            reader: ReaderId(reader),
            range,
        });
        assert_eq!(requests(&said), [], "reader {reader}");
    }
}
