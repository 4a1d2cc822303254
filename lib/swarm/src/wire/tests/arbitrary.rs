//! Arbitrary messages, within the bounds of their lists.

use proptest::prelude::*;
use torrent::{
    ClusterKey, Cv, Description, Generation, GrowingMetaInfo, Peer, PeerId, Role, Root, SignedCv,
    Summary, SwarmName,
};

use crate::message::{
    Announce, AnnounceEvent, BlockRange, HandoutStatus, Message, Priority, RejectReason, RequestId,
    Target, VERSION,
};
use crate::time::Micros;
use crate::wire::MAX_DATA_BYTES;

fn name() -> impl Strategy<Value = SwarmName> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(|hash| SwarmName::Blob(oci::Digest::Sha256(hash))),
        (any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(one, two)| {
            let mut hash = [0; 64];
            hash[..32].copy_from_slice(&one);
            hash[32..].copy_from_slice(&two);
            SwarmName::Blob(oci::Digest::Sha512(hash))
        }),
        any::<[u8; 32]>().prop_map(SwarmName::Source),
    ]
}

fn id() -> impl Strategy<Value = PeerId> {
    any::<[u8; 20]>().prop_map(PeerId::from_wire)
}

fn peer() -> impl Strategy<Value = Peer> {
    let role = prop_oneof![Just(Role::Agent), Just(Role::Origin), Just(Role::Tracker)];
    (id(), role, "[a-z0-9é]{0,20}", ".{0,60}").prop_map(|(id, role, zone, addr)| Peer {
        id,
        role,
        zone: zone.into(),
        addr: addr.into(),
    })
}

/// Signing is slow in an unoptimised build; the codec does not look at signatures.
fn description() -> impl Strategy<Value = Description> {
    let key = ClusterKey::from_seed([7; 32]);
    (
        name(),
        0..1u64 << 44,
        any::<[u8; 32]>(),
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(move |(name, length, root, complete, generation)| {
            if complete {
                Description::Complete(Summary::sign(&key, name, length, Root(root)).unwrap())
            } else {
                let generation = Generation(generation);
                Description::Growing(GrowingMetaInfo::sign(&key, name, length, generation).unwrap())
            }
        })
}

fn list<T: std::fmt::Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(item, 0..5)
}

fn pieces() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 0..60)
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![
        Just(Priority::Metadata),
        Just(Priority::Foreground),
        Just(Priority::Stream),
        Just(Priority::Prefetch),
        Just(Priority::Bulk),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    let blocks = (0..256u16).prop_flat_map(|first| (Just(first), 1..=256 - first));
    prop_oneof![
        any::<u32>().prop_map(Target::Piece),
        (any::<u32>(), blocks)
            .prop_map(|(piece, (first, count))| Target::Blocks(piece, BlockRange { first, count })),
        Just(Target::Any),
    ]
}

fn reject() -> impl Strategy<Value = RejectReason> {
    prop_oneof![
        Just(RejectReason::NotHere),
        Just(RejectReason::Cancelled),
        Just(RejectReason::Busy),
        Just(RejectReason::NoGrant),
        Just(RejectReason::NothingToGive),
        Just(RejectReason::Revoked),
    ]
}

fn announce() -> impl Strategy<Value = Announce> {
    let event = prop_oneof![
        (0..=16u8).prop_map(|sixteenths| AnnounceEvent::Join { sixteenths }),
        (0..=16u8).prop_map(|sixteenths| AnnounceEvent::Progress { sixteenths }),
        any::<bool>().prop_map(|unserved| AnnounceEvent::Complete { unserved }),
        Just(AnnounceEvent::Growing),
        Just(AnnounceEvent::Absent),
        Just(AnnounceEvent::Failed),
        Just(AnnounceEvent::Starving),
        Just(AnnounceEvent::Leave),
    ];
    (name(), event, prop::option::of(description())).prop_map(|(name, event, description)| {
        Announce {
            name,
            event,
            description,
        }
    })
}

fn status() -> impl Strategy<Value = HandoutStatus> {
    prop_oneof![
        description().prop_map(HandoutStatus::Known),
        Just(HandoutStatus::Pending),
        Just(HandoutStatus::Absent),
        ".{0,80}".prop_map(|reason| HandoutStatus::Failed(reason.into())),
    ]
}

fn session_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (Just(VERSION), peer()).prop_map(|(version, me)| Message::Hello { version, me }),
        any::<u64>().prop_map(|token| Message::Ping { token }),
        any::<u64>().prop_map(|token| Message::Pong { token }),
    ]
}

fn transfer_message() -> impl Strategy<Value = Message> {
    let request_id = || any::<u32>().prop_map(RequestId);
    prop_oneof![
        (request_id(), name(), target(), priority(), any::<i64>()).prop_map(
            |(id, name, target, priority, lag_us)| Message::Request {
                id,
                name,
                target,
                priority,
                lag_us,
            }
        ),
        (
            request_id(),
            any::<u32>(),
            0..1u32 << 24,
            1..=MAX_DATA_BYTES,
            any::<bool>()
        )
            .prop_map(|(id, piece, offset, length, last)| Message::Data {
                id,
                piece,
                offset,
                length,
                last,
            }),
        request_id().prop_map(|id| Message::Cancel { id }),
        (request_id(), any::<u16>()).prop_map(|(id, ahead)| Message::Queued { id, ahead }),
        (request_id(), reject()).prop_map(|(id, reason)| Message::Reject { id, reason }),
    ]
}

fn blob_message() -> impl Strategy<Value = Message> {
    let signed =
        (any::<u32>(), any::<[u8; 32]>(), any::<u8>()).prop_map(|(piece, cv, byte)| SignedCv {
            piece,
            cv: Cv(cv),
            signature: torrent::Signature([byte; 64]),
        });
    prop_oneof![
        (
            name(),
            prop::option::of(description()),
            prop::collection::vec(any::<u8>(), 0..40)
        )
            .prop_map(|(name, description, have)| Message::Bitfield {
                name,
                description,
                have,
            }),
        (
            name(),
            pieces(),
            list(any::<(u32, u16, u64)>()),
            any::<u16>()
        )
            .prop_map(|(name, pieces, blocks, queue)| Message::Have {
                name,
                pieces,
                blocks,
                queue,
            }),
        (name(), any::<u32>(), any::<u32>()).prop_map(|(name, first, count)| Message::CvRequest {
            name,
            first,
            count
        }),
        (name(), list(any::<[u8; 32]>().prop_map(Cv))).prop_map(|(name, cvs)| Message::Cvs {
            name,
            cvs: cvs.into(),
        }),
        (name(), any::<u64>(), list(signed)).prop_map(|(name, generation, cvs)| {
            Message::GrowingCvs {
                name,
                generation: Generation(generation),
                cvs,
            }
        }),
        description().prop_map(|description| Message::Grown { description }),
        (name(), pieces()).prop_map(|(name, pieces)| Message::Want { name, pieces }),
        (name(), pieces()).prop_map(|(name, pieces)| Message::Served { name, pieces }),
        (name(), prop::option::of(any::<u64>()), ".{0,80}").prop_map(
            |(name, generation, reason)| Message::Revoke {
                name,
                generation: generation.map(Generation),
                reason: reason.into(),
            }
        ),
        (name(), any::<u32>()).prop_map(|(name, piece)| Message::Complaint { name, piece }),
    ]
}

fn tracker_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (list(announce()), list(id()), any::<u16>()).prop_map(|(entries, connected, credits)| {
            Message::Announce {
                entries,
                connected,
                credits,
            }
        }),
        (name(), status(), list(peer())).prop_map(|(name, status, peers)| Message::Handout {
            name,
            status,
            peers,
        }),
        (
            (name(), id(), peer(), any::<u16>()),
            (pieces(), "[a-z]{0,9}", any::<u64>(), list(id()))
        )
            .prop_map(
                |((name, agent, origin, count), (pieces, zone, deadline, owners))| {
                    Message::Grant {
                        name,
                        agent,
                        origin,
                        count,
                        pieces,
                        zone: zone.into(),
                        deadline: Micros(deadline),
                        owners,
                    }
                }
            ),
        (name(), any::<u32>(), any::<u32>(), list(peer())).prop_map(
            |(name, first, count, members)| Message::Lease {
                name,
                first,
                count,
                members,
            }
        ),
        (name(), id(), id()).prop_map(|(name, agent, origin)| Message::Withdraw {
            name,
            agent,
            origin,
        }),
    ]
}

/// Any message of version 1.
pub(super) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        session_message(),
        transfer_message(),
        blob_message(),
        tracker_message(),
    ]
}
