//! A disk that takes pieces more slowly than they come.

use super::*;

fn data(alone: &mut Alone, conn: ConnId, id: RequestId, piece: u32) -> Vec<Output> {
    let length = u32::try_from(MIB).unwrap();
    alone.hear(
        conn,
        Message::Data {
            id,
            piece,
            offset: 0,
            length,
            last: true,
        },
    )
}

#[test]
fn no_more_is_asked_for_than_the_disk_takes() {
    let mut alone = Alone::new(agent(1));
    alone.swarm.config.policy.max_checking_bytes = 3 * MIB;
    let description = complete(name(1), 40 * MIB);
    alone.begin(description, true);
    let conn = alone.meet_proven(agent(2));
    let all: Vec<u32> = (0..40).collect();
    let mut asked = requests(&alone.link(conn, description, &all));
    let mut unchecked = Vec::new();
    while let Some((_, id, target, _)) = asked.pop() {
        let Target::Piece(piece) = target else {
            panic!("{target:?}");
        };
        asked.extend(requests(&data(&mut alone, conn, id, piece)));
        unchecked.push((id, piece));
    }
    // What was under way when the third came is taken, and no more.
    assert!((3..8).contains(&unchecked.len()), "{unchecked:?}");
    assert_eq!(requests(&alone.pass(Micros::from_millis(100))), []);
    let geometry = *description.geometry();
    let mut more = Vec::new();
    for (id, raw) in unchecked {
        let piece = geometry.index(raw).unwrap();
        let name = name(1);
        more.extend(requests(&alone.tell(Input::PieceVerified {
            conn,
            id,
            name,
            piece,
        })));
    }
    assert!(!more.is_empty(), "the disk has room again");
}
