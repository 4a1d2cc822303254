//! A peer that says anything that decodes, at any time.

use proptest::prelude::*;

use super::*;
use crate::message::{BlockRange, RejectReason};

const PIECES: u64 = 6;

fn blob() -> impl Strategy<Value = SwarmName> {
    (1..4_u8).prop_map(name)
}

fn piece() -> impl Strategy<Value = u32> {
    prop_oneof![9 => 0..8_u32, 1 => any::<u32>()]
}

fn pieces() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(piece(), 0..5)
}

fn id() -> impl Strategy<Value = RequestId> {
    (0..6_u32).prop_map(RequestId)
}

fn described() -> impl Strategy<Value = Option<Description>> {
    (1..4_u8, 0..4_u8).prop_map(|(number, kind)| match kind {
        0 => None,
        1 => Some(growing(name(number), PIECES * MIB)),
        2 => Some(complete(name(number), 3 * MIB)),
        _ => Some(complete(name(number), PIECES * MIB)),
    })
}

fn reason() -> impl Strategy<Value = RejectReason> {
    prop::sample::select(vec![
        RejectReason::NotHere,
        RejectReason::Cancelled,
        RejectReason::Busy,
        RejectReason::NoGrant,
        RejectReason::NothingToGive,
        RejectReason::Revoked,
    ])
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        4 => piece().prop_map(Target::Piece),
        1 => (piece(), 0..20_u16, 0..20_u16)
            .prop_map(|(piece, first, count)| Target::Blocks(piece, BlockRange { first, count })),
        1 => Just(Target::Any),
    ]
}

/// Anything a peer can say. Messages for trackers are left out: they close at once.
fn message() -> impl Strategy<Value = Message> {
    prop_oneof![about_pieces(), about_proof(), about_requests()]
}

fn about_pieces() -> impl Strategy<Value = Message> {
    let bitfield = (
        blob(),
        described(),
        prop::collection::vec(any::<u8>(), 0..2),
    );
    prop_oneof![
        bitfield.prop_map(|(name, description, mut have)| {
            // Most are of the right length, with spare bits clear.
            if let Some(byte) = have.first_mut() {
                *byte &= 0xe0;
            }
            Message::Bitfield {
                name,
                description,
                have,
            }
        }),
        (blob(), pieces()).prop_map(|(name, pieces)| Message::Have {
            name,
            pieces,
            blocks: Vec::new(),
            queue: 0,
        }),
        (blob(), piece()).prop_map(|(name, piece)| Message::Complaint { name, piece }),
        (blob(), pieces()).prop_map(|(name, pieces)| Message::Served { name, pieces }),
        (blob(), pieces()).prop_map(|(name, pieces)| Message::Want { name, pieces }),
    ]
}

fn about_proof() -> impl Strategy<Value = Message> {
    prop_oneof![
        (blob(), piece(), piece()).prop_map(|(name, first, count)| Message::CvRequest {
            name,
            first,
            count
        }),
        (blob(), 0..8_usize).prop_map(|(name, count)| Message::Cvs {
            name,
            cvs: vec![Cv([3; 32]); count].into(),
        }),
        (blob(), 0..3_u64, pieces()).prop_map(|(name, generation, pieces)| Message::GrowingCvs {
            name,
            generation: Generation(generation),
            cvs: pieces.into_iter().map(signed).collect(),
        }),
        described().prop_map(|description| match description {
            Some(description) => Message::Grown { description },
            None => Message::Ping { token: 1 },
        }),
        (blob(), prop::option::of(0..3_u64)).prop_map(|(name, generation)| Message::Revoke {
            name,
            generation: generation.map(Generation),
            reason: "so".into(),
        }),
    ]
}

fn about_requests() -> impl Strategy<Value = Message> {
    prop_oneof![
        (id(), blob(), target(), any::<i64>()).prop_map(|(id, name, target, lag_us)| {
            Message::Request {
                id,
                name,
                target,
                priority: Priority::Bulk,
                lag_us,
            }
        }),
        (id(), piece(), 0..3_u32, any::<bool>()).prop_map(|(id, piece, frame, last)| {
            let length = 524_288;
            Message::Data {
                id,
                piece,
                offset: frame * length,
                length,
                last,
            }
        }),
        id().prop_map(|id| Message::Cancel { id }),
        (id(), any::<u16>()).prop_map(|(id, ahead)| Message::Queued { id, ahead }),
        (id(), reason()).prop_map(|(id, reason)| Message::Reject { id, reason }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Say(u8, Box<Message>),
    Pass(u64),
    /// Storage finishes the oldest thing that it was asked.
    Answer,
    /// The peer connects again.
    Return(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..2_u8, message()).prop_map(|(peer, message)| Step::Say(peer, Box::new(message))),
        2 => (1..400_u64).prop_map(Step::Pass),
        3 => Just(Step::Answer),
        2 => (0..2_u8).prop_map(Step::Return),
    ]
}

/// What storage says to an output; some outputs need no answer.
fn answer(output: &Output) -> Option<Input> {
    match output {
        Output::Open { description } => Some(Input::Opened {
            name: *description.name(),
            have: Bitfield::empty(description.geometry()),
            proven: false,
        }),
        Output::ProveCvs { name, .. } => Some(Input::CvsProven { name: *name }),
        Output::CheckGrowingCvs { name, cvs, .. } => {
            let geometry = Geometry::new(PIECES * MIB).unwrap();
            let pieces = cvs.iter().filter_map(|cv| geometry.index(cv.piece));
            Some(Input::GrowingCvsKnown {
                name: *name,
                pieces: pieces.collect(),
            })
        }
        Output::Upload { conn, id, .. } => Some(Input::UploadDone {
            conn: *conn,
            id: *id,
        }),
        Output::Resolve { name } => Some(Input::Resolved {
            name: *name,
            found: crate::Found::Here(complete(*name, PIECES * MIB)),
        }),
        _ => None,
    }
}

fn run(me: Peer, roles: [Role; 2], steps: Vec<Step>) {
    let is_origin = me.role == Role::Origin;
    let mut alone = Alone::new(me);
    let mut pending = VecDeque::new();
    let mut outputs = alone.tell(Input::Seed {
        description: complete(name(1), PIECES * MIB),
    });
    if !is_origin {
        alone.begin(complete(name(2), PIECES * MIB), true);
        outputs.extend(alone.tell(Input::Download {
            name: name(3),
            priority: Priority::Stream,
            whole: true,
        }));
    }
    let mut conns = [0, 1].map(|at| alone.meet(peer(10 + at, roles[usize::from(at)])));
    for step in steps {
        let said = match step {
            Step::Say(from, message) => alone.hear(conns[usize::from(from)], *message),
            Step::Pass(millis) => alone.pass(Micros::from_millis(millis)),
            Step::Answer => {
                let input = pending.pop_front();
                input.map_or_else(Vec::new, |input| alone.tell(input))
            }
            Step::Return(at) => {
                conns[usize::from(at)] = alone.meet(peer(10 + at, roles[usize::from(at)]));
                Vec::new()
            }
        };
        assert!(said.len() < 10_000, "outputs without end");
        pending.extend(said.iter().filter_map(answer));
    }
    let stats = alone.swarm.stats();
    assert!(stats.torrents <= 3 && stats.left_alone <= 2, "{stats:?}");
    assert!(stats.uploads_waiting <= 2 * 64, "{stats:?}");
    let names = alone.swarm.conns.values().map(|one| one.names.len());
    assert!(names.max().unwrap_or(0) <= 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn an_agent_survives_any_peers(steps in prop::collection::vec(step(), 0..120), origin in any::<bool>()) {
        let other = if origin { Role::Origin } else { Role::Agent };
        run(agent(1), [Role::Agent, other], steps);
    }

    #[test]
    fn an_origin_survives_any_peers(steps in prop::collection::vec(step(), 0..120), partner in any::<bool>()) {
        let other = if partner { Role::Origin } else { Role::Agent };
        run(origin(1), [Role::Agent, other], steps);
    }
}

/// §5.1: a forged description goes no further, and only who told it is blamed.
#[test]
fn a_forged_description_is_not_passed_on() {
    let forged = |growing: Option<Description>| {
        let key = ClusterKey::from_seed([6; 32]);
        let forged = Summary::sign(&key, name(1), 3 * MIB, Root([1; 32])).unwrap();
        let description = Description::Complete(forged);
        match growing {
            Some(_) => Message::Grown { description },
            None => Message::Bitfield {
                name: name(1),
                description: Some(description),
                have: vec![0],
            },
        }
    };
    for known in [None, Some(growing(name(1), 3 * MIB))] {
        let mut alone = Alone::new(agent(1));
        alone.swarm.config.key = Some(key().public());
        match known {
            Some(description) => alone.begin(description, true),
            None => {
                let priority = Priority::Stream;
                alone.tell(Input::Download {
                    name: name(1),
                    priority,
                    whole: true,
                });
            }
        }
        let [liar, other] = [2, 3].map(|number| alone.meet(agent(number)));
        if let Some(description) = known {
            alone.link(other, description, &[0]);
        }
        let outputs = alone.hear(liar, forged(known));
        assert_eq!(closes(&outputs), [(liar, CloseReason::Corrupt)]);
        let told = sent(&outputs);
        assert!(told.iter().all(|(conn, _)| *conn != other), "{told:?}");
        let description = alone.swarm.torrents[&name(1)].description;
        assert_eq!(description, known);
    }
}
