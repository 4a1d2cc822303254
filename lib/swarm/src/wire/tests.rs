//! Properties of the codec, and the bytes of version 1 as they must stay.

mod arbitrary;

use std::fmt::Write as _;

use proptest::prelude::*;
use torrent::{
    ClusterKey, Cv, Description, Generation, GrowingMetaInfo, Peer, PeerId, Role, Root, SignedCv,
    Summary, SwarmName,
};

use self::arbitrary::message;
use super::*;
use crate::message::{
    Announce, AnnounceEvent, BlockRange, HandoutStatus, Priority, RejectReason, RequestId, Target,
};
use crate::time::Micros;

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, &mut out);
    out
}

proptest! {
    /// §3.1, §3.2.
    #[test]
    fn messages_survive_the_round_trip(message in message(), behind in any::<[u8; 3]>()) {
        let mut bytes = encoded(&message);
        let length = bytes.len();
        bytes.extend_from_slice(&behind);
        prop_assert_eq!(decode(&bytes), Ok(Some((message, length))));
    }

    /// §3.1: half a frame is no message, and never an error.
    #[test]
    fn half_a_frame_is_waited_for(message in message()) {
        let bytes = encoded(&message);
        for cut in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..cut]), Ok(None), "cut at {}", cut);
        }
    }

    /// §3.4: a body that ends early is an error, whatever the frame says.
    #[test]
    fn a_shortened_body_is_refused(message in message(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&message);
        bytes.truncate(HEADER_BYTES + cut.index(bytes.len() - HEADER_BYTES));
        let length = u32::try_from(bytes.len() - 4).unwrap();
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        let refused = matches!(decode(&bytes), Err(WireError::Malformed { .. }));
        prop_assert!(refused);
    }

    /// §3.4: anything may come; what decodes has exactly one encoding.
    #[test]
    fn any_body_is_a_message_or_an_error(kind in 0..0x40u8, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let length = u32::try_from(body.len() + 1).unwrap();
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.push(kind);
        bytes.extend_from_slice(&body);
        match decode(&bytes) {
            Ok(Some((message, consumed))) => {
                prop_assert_eq!(consumed, bytes.len());
                let later = matches!(message, Message::Hello { version, .. } if version > VERSION);
                prop_assert!(later || encoded(&message) == bytes);
            }
            Ok(None) => prop_assert!(false, "the frame was whole"),
            Err(_) => {}
        }
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }

    /// One damaged byte gives another message or an error, and is never trusted for a size.
    #[test]
    fn damage_is_survived(message in message(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = encoded(&message);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = decode(&bytes);
    }
}

/// §3.2.
#[test]
fn a_frame_that_is_too_long_is_refused_by_its_header() {
    let header = |length: usize, kind: u8| {
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes().to_vec();
        bytes.push(kind);
        bytes
    };
    let refused = |length, kind, limit| {
        let error = WireError::TooLong { length, limit };
        assert_eq!(decode(&header(length, kind)), Err(error));
    };
    refused(MAX_FRAME_BYTES + 1, kind::CVS, MAX_FRAME_BYTES);
    refused(MAX_SMALL_FRAME_BYTES + 1, kind::HAVE, MAX_SMALL_FRAME_BYTES);
    assert_eq!(decode(&header(MAX_FRAME_BYTES, kind::CVS)), Ok(None));
    assert_eq!(decode(&header(0, kind::CVS)), Err(WireError::Empty));
    assert_eq!(decode(&header(1, 0x3f)), Err(WireError::UnknownType(0x3f)));
    assert!(matches!(
        decode(b"GET / HTTP/1.1\r\n"),
        Err(WireError::TooLong { .. })
    ));
}

/// §2.3.
#[test]
fn the_hello_of_a_later_version_is_understood() {
    let me = golden_peer(Role::Agent);
    let mut bytes = encoded(&Message::Hello { version: 2, me });
    bytes.extend_from_slice(b"more");
    let length = u32::try_from(bytes.len() - 4).unwrap();
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    let decoded = decode(&bytes).unwrap().unwrap();
    assert!(matches!(decoded.0, Message::Hello { version: 2, .. }));
    bytes[6] = 1;
    assert!(decode(&bytes).is_err());
}

/// §8.1.
#[test]
fn a_long_reason_is_cut_at_a_character() {
    let message = Message::Revoke {
        name: SwarmName::Source([1; 32]),
        generation: None,
        reason: "é".repeat(400).into(),
    };
    let (decoded, _) = decode(&encoded(&message)).unwrap().unwrap();
    let Message::Revoke { reason, .. } = decoded else {
        panic!("{decoded:?}");
    };
    assert_eq!(&*reason, "é".repeat(256));
}

#[test]
#[should_panic(expected = "exceeds its bound")]
fn an_unbounded_list_is_a_bug_of_the_sender() {
    encoded(&Message::Want {
        name: SwarmName::Source([1; 32]),
        pieces: vec![0; MAX_WANT_PIECES + 1],
    });
}

fn golden_peer(role: Role) -> Peer {
    Peer {
        id: PeerId::new([0x11; 20]),
        role,
        zone: "zone-a".into(),
        addr: "10.0.0.1:7000".into(),
    }
}

fn golden_descriptions(name: SwarmName) -> (Description, Description) {
    let key = ClusterKey::from_seed([3; 32]);
    let complete = Summary::sign(&key, name, 3_000_000, Root([0x22; 32])).unwrap();
    let growing = GrowingMetaInfo::sign(&key, name, 3_000_000, Generation(9)).unwrap();
    (
        Description::Complete(complete),
        Description::Growing(growing),
    )
}

/// One of each message, and of each variant inside.
fn golden_messages() -> Vec<Message> {
    let blob = SwarmName::Blob(oci::Digest::Sha256([0xab; 32]));
    let mut messages = golden_transfer_messages(blob);
    messages.extend(golden_blob_messages(blob));
    messages.extend(golden_tracker_messages(blob));
    messages
}

fn golden_transfer_messages(name: SwarmName) -> Vec<Message> {
    let id = RequestId(7);
    let request = |target, priority, lag_us| Message::Request {
        id,
        name,
        target,
        priority,
        lag_us,
    };
    let blocks = BlockRange { first: 2, count: 3 };
    let mut messages = vec![
        Message::Hello {
            version: 1,
            me: golden_peer(Role::Agent),
        },
        Message::Ping {
            token: 0x0102_0304_0506_0708,
        },
        Message::Pong {
            token: 0x0102_0304_0506_0708,
        },
        request(Target::Piece(5), Priority::Metadata, 1),
        request(Target::Blocks(5, blocks), Priority::Foreground, -1),
        request(Target::Any, Priority::Stream, 0),
        request(Target::Any, Priority::Prefetch, 0),
        request(Target::Any, Priority::Bulk, 0),
        Message::Data {
            id,
            piece: 5,
            offset: 65_536,
            length: 262_144,
            last: true,
        },
        Message::Cancel { id },
        Message::Queued { id, ahead: 3 },
    ];
    messages.extend(
        [
            RejectReason::NotHere,
            RejectReason::Cancelled,
            RejectReason::Busy,
            RejectReason::NoGrant,
            RejectReason::NothingToGive,
            RejectReason::Revoked,
        ]
        .map(|reason| Message::Reject { id, reason }),
    );
    messages
}

fn golden_blob_messages(name: SwarmName) -> Vec<Message> {
    let (complete, growing) = golden_descriptions(name);
    let bitfield = |name, description| Message::Bitfield {
        name,
        description,
        have: vec![0b1010_0000],
    };
    vec![
        bitfield(name, Some(complete)),
        bitfield(name, Some(growing)),
        bitfield(SwarmName::Blob(oci::Digest::Sha512([0xcd; 64])), None),
        Message::Have {
            name: SwarmName::Source([0xef; 32]),
            pieces: vec![1, 2],
            blocks: vec![(3, 4, 5)],
            queue: 6,
        },
        Message::CvRequest {
            name,
            first: 0,
            count: 3,
        },
        Message::Cvs {
            name,
            cvs: [Cv([1; 32]), Cv([2; 32])].into(),
        },
        Message::GrowingCvs {
            name,
            generation: Generation(9),
            cvs: vec![SignedCv {
                piece: 1,
                cv: Cv([3; 32]),
                signature: torrent::Signature([4; 64]),
            }],
        },
        Message::Grown {
            description: complete,
        },
        Message::Want {
            name,
            pieces: vec![8],
        },
        Message::Served {
            name,
            pieces: vec![8, 9],
        },
        Message::Revoke {
            name,
            generation: Some(Generation(9)),
            reason: "digest differs".into(),
        },
        Message::Complaint { name, piece: 8 },
    ]
}

fn golden_tracker_messages(name: SwarmName) -> Vec<Message> {
    let (complete, growing) = golden_descriptions(name);
    let peer = golden_peer(Role::Origin);
    let events = [
        AnnounceEvent::Join { sixteenths: 1 },
        AnnounceEvent::Progress { sixteenths: 16 },
        AnnounceEvent::Complete { unserved: true },
        AnnounceEvent::Growing,
        AnnounceEvent::Absent,
        AnnounceEvent::Failed,
        AnnounceEvent::Starving,
        AnnounceEvent::Leave,
    ];
    let handout = |status| Message::Handout {
        name,
        status,
        peers: vec![peer.clone()],
    };
    vec![
        Message::Announce {
            entries: events
                .map(|event| Announce {
                    name,
                    event,
                    description: (event == AnnounceEvent::Growing).then_some(growing),
                })
                .to_vec(),
            connected: vec![peer.id],
            credits: 6,
        },
        handout(HandoutStatus::Known(complete)),
        handout(HandoutStatus::Pending),
        handout(HandoutStatus::Absent),
        handout(HandoutStatus::Failed("no origin".into())),
        Message::Grant {
            name,
            agent: PeerId::new([0x33; 20]),
            origin: peer.clone(),
            count: 2,
            pieces: vec![4],
            zone: "zone-b".into(),
            deadline: Micros(5_000_000),
            owners: vec![peer.id],
        },
        Message::Lease {
            name,
            first: 8,
            count: 8,
            members: vec![peer.clone()],
        },
        Message::Withdraw {
            name,
            agent: PeerId::new([0x33; 20]),
            origin: peer.id,
        },
    ]
}

/// §1.4: version 1 is frozen by these bytes. A difference means a new version, not a new table.
#[test]
fn version_1_has_these_bytes() {
    let mut table = String::new();
    let mut kinds = std::collections::BTreeSet::new();
    for message in golden_messages() {
        let bytes = encoded(&message);
        assert_eq!(decode(&bytes), Ok(Some((message, bytes.len()))));
        kinds.insert(bytes[4]);
        for byte in bytes {
            write!(table, "{byte:02x}").unwrap();
        }
        table.push('\n');
    }
    assert!((0..=u8::MAX).all(|kind| decode::is_known(kind) == kinds.contains(&kind)));
    let golden = include_str!("golden.txt");
    assert!(
        table == golden,
        "the wire format drifted; the table would be:\n{table}"
    );
}
