//! Bytes to messages. Nothing is trusted: every count is checked against its bound and against
//! the bytes that are there before anything is allocated, and every value has one encoding only.

use std::sync::Arc;

use torrent::codec::{DecodeError, Reader};
use torrent::peer::MAX_ZONE_BYTES;
use torrent::{Cv, Description, Generation, Peer, PeerId, SignedCv, SwarmName};

use super::{
    MAX_ANNOUNCES, MAX_BITFIELD_BYTES, MAX_CONNECTED, MAX_DATA_BYTES, MAX_GRANT_PIECES,
    MAX_GROWING_CVS, MAX_HAVE_BLOCKS, MAX_HAVE_PIECES, MAX_OWNERS, MAX_PEERS, MAX_PIECES,
    MAX_REASON_BYTES, MAX_WANT_PIECES, kind,
};
use crate::message::{
    Announce, AnnounceEvent, BlockRange, HandoutStatus, Message, Priority, RejectReason, RequestId,
    Target, VERSION,
};
use crate::time::Micros;

type Result<T> = std::result::Result<T, DecodeError>;

/// Fewest bytes of a swarm name, of an announced blob, of a peer.
const MIN_NAME_BYTES: usize = 33;
const MIN_ANNOUNCE_BYTES: usize = MIN_NAME_BYTES + 2;
const MIN_PEER_BYTES: usize = 20 + 1 + 2 + 2;
/// Blocks in the longest piece: 16 MiB of 64 KiB.
const MAX_BLOCKS: u16 = 256;

/// Returns whether version 1 has messages of this type.
pub(super) const fn is_known(kind: u8) -> bool {
    matches!(
        kind,
        kind::HELLO..=kind::PONG | kind::BITFIELD..=kind::COMPLAINT | kind::ANNOUNCE..=kind::WITHDRAW
    )
}

/// Reads a body to its end.
pub(super) fn body(kind: u8, mut reader: Reader<'_>) -> Result<Message> {
    let message = if kind < kind::BITFIELD {
        session(kind, &mut reader)
    } else if kind < kind::ANNOUNCE {
        between_peers(kind, &mut reader)
    } else {
        with_tracker(kind, &mut reader)
    }?;
    // A later version may say more in its HELLO (§2.3).
    if !matches!(message, Message::Hello { version, .. } if version > VERSION) {
        reader.finish()?;
    }
    Ok(message)
}

fn session(kind: u8, reader: &mut Reader<'_>) -> Result<Message> {
    Ok(match kind {
        kind::HELLO => Message::Hello {
            version: reader.u16()?,
            me: Peer::decode(reader)?,
        },
        kind::PING => Message::Ping {
            token: reader.u64()?,
        },
        kind::PONG => Message::Pong {
            token: reader.u64()?,
        },
        _ => return Err(DecodeError::Unknown("message type")),
    })
}

fn between_peers(kind: u8, reader: &mut Reader<'_>) -> Result<Message> {
    Ok(match kind {
        kind::BITFIELD => bitfield(reader)?,
        kind::HAVE => have(reader)?,
        kind::REQUEST => request(reader)?,
        kind::DATA => data(reader)?,
        kind::CANCEL => Message::Cancel {
            id: RequestId(reader.u32()?),
        },
        kind::QUEUED => Message::Queued {
            id: RequestId(reader.u32()?),
            ahead: reader.u16()?,
        },
        kind::REJECT => Message::Reject {
            id: RequestId(reader.u32()?),
            reason: reject_reason(reader)?,
        },
        kind::CV_REQUEST => Message::CvRequest {
            name: SwarmName::decode(reader)?,
            first: reader.u32()?,
            count: reader.u32()?,
        },
        kind::CVS => cvs(reader)?,
        kind::GROWING_CVS => growing_cvs(reader)?,
        kind::GROWN => Message::Grown {
            description: Description::decode(reader)?,
        },
        kind::WANT => Message::Want {
            name: SwarmName::decode(reader)?,
            pieces: pieces(reader, MAX_WANT_PIECES)?,
        },
        kind::SERVED => Message::Served {
            name: SwarmName::decode(reader)?,
            pieces: pieces(reader, MAX_HAVE_PIECES)?,
        },
        kind::REVOKE => Message::Revoke {
            name: SwarmName::decode(reader)?,
            generation: generation(reader)?,
            reason: reason(reader)?,
        },
        kind::COMPLAINT => Message::Complaint {
            name: SwarmName::decode(reader)?,
            piece: reader.u32()?,
        },
        _ => return Err(DecodeError::Unknown("message type")),
    })
}

fn with_tracker(kind: u8, reader: &mut Reader<'_>) -> Result<Message> {
    Ok(match kind {
        kind::ANNOUNCE => Message::Announce {
            entries: list(
                reader,
                "announces",
                MAX_ANNOUNCES,
                MIN_ANNOUNCE_BYTES,
                announce,
            )?,
            connected: ids(reader, "neighbours", MAX_CONNECTED)?,
            credits: reader.u16()?,
        },
        kind::HANDOUT => Message::Handout {
            name: SwarmName::decode(reader)?,
            status: status(reader)?,
            peers: peers(reader)?,
        },
        kind::GRANT => Message::Grant {
            name: SwarmName::decode(reader)?,
            agent: id(reader)?,
            origin: Peer::decode(reader)?,
            count: reader.u16()?,
            pieces: pieces(reader, MAX_GRANT_PIECES)?,
            zone: reader.string("zone", MAX_ZONE_BYTES)?.into(),
            deadline: Micros(reader.u64()?),
            owners: ids(reader, "owners", MAX_OWNERS)?,
        },
        kind::LEASE => Message::Lease {
            name: SwarmName::decode(reader)?,
            first: reader.u32()?,
            count: reader.u32()?,
            members: peers(reader)?,
        },
        kind::WITHDRAW => Message::Withdraw {
            name: SwarmName::decode(reader)?,
            agent: id(reader)?,
            origin: id(reader)?,
        },
        _ => return Err(DecodeError::Unknown("message type")),
    })
}

fn bitfield(reader: &mut Reader<'_>) -> Result<Message> {
    let name = SwarmName::decode(reader)?;
    let description = description(reader)?;
    let length = reader.count("bitfield", MAX_BITFIELD_BYTES, 1)?;
    Ok(Message::Bitfield {
        name,
        description,
        have: reader.take(length)?.to_vec(),
    })
}

fn have(reader: &mut Reader<'_>) -> Result<Message> {
    Ok(Message::Have {
        name: SwarmName::decode(reader)?,
        pieces: pieces(reader, MAX_HAVE_PIECES)?,
        blocks: list(reader, "block masks", MAX_HAVE_BLOCKS, 14, |reader| {
            Ok((reader.u32()?, reader.u16()?, reader.u64()?))
        })?,
        queue: reader.u16()?,
    })
}

fn request(reader: &mut Reader<'_>) -> Result<Message> {
    Ok(Message::Request {
        id: RequestId(reader.u32()?),
        name: SwarmName::decode(reader)?,
        target: target(reader)?,
        priority: priority(reader)?,
        lag_us: reader.i64()?,
    })
}

fn data(reader: &mut Reader<'_>) -> Result<Message> {
    let id = RequestId(reader.u32()?);
    let piece = reader.u32()?;
    let offset = reader.u32()?;
    let length = reader.u32()?;
    if length == 0 || length > MAX_DATA_BYTES || offset.checked_add(length).is_none() {
        return Err(DecodeError::OutOfBounds("payload length"));
    }
    Ok(Message::Data {
        id,
        piece,
        offset,
        length,
        last: flag(reader)?,
    })
}

fn cvs(reader: &mut Reader<'_>) -> Result<Message> {
    let name = SwarmName::decode(reader)?;
    let count = reader.count("chaining values", MAX_PIECES, 32)?;
    let cvs = (0..count)
        .map(|_| reader.array().map(Cv))
        .collect::<Result<Arc<[_]>>>()?;
    Ok(Message::Cvs { name, cvs })
}

fn growing_cvs(reader: &mut Reader<'_>) -> Result<Message> {
    Ok(Message::GrowingCvs {
        name: SwarmName::decode(reader)?,
        generation: Generation(reader.u64()?),
        cvs: list(
            reader,
            "signed chaining values",
            MAX_GROWING_CVS,
            SignedCv::BYTES,
            SignedCv::decode,
        )?,
    })
}

fn list<'a, T>(
    reader: &mut Reader<'a>,
    what: &'static str,
    max: usize,
    min_bytes: usize,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = reader.count(what, max, min_bytes)?;
    (0..count).map(|_| item(reader)).collect()
}

fn pieces(reader: &mut Reader<'_>, max: usize) -> Result<Vec<u32>> {
    list(reader, "pieces", max, 4, Reader::u32)
}

fn id(reader: &mut Reader<'_>) -> Result<PeerId> {
    reader.array().map(PeerId::from_wire)
}

fn ids(reader: &mut Reader<'_>, what: &'static str, max: usize) -> Result<Vec<PeerId>> {
    list(reader, what, max, 20, id)
}

fn peers(reader: &mut Reader<'_>) -> Result<Vec<Peer>> {
    list(reader, "peers", MAX_PEERS, MIN_PEER_BYTES, Peer::decode)
}

fn flag(reader: &mut Reader<'_>) -> Result<bool> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Unknown("flag")),
    }
}

fn description(reader: &mut Reader<'_>) -> Result<Option<Description>> {
    flag(reader)?
        .then(|| Description::decode(reader))
        .transpose()
}

fn generation(reader: &mut Reader<'_>) -> Result<Option<Generation>> {
    flag(reader)?
        .then(|| reader.u64().map(Generation))
        .transpose()
}

fn reason(reader: &mut Reader<'_>) -> Result<Arc<str>> {
    reader.string("reason", MAX_REASON_BYTES).map(Arc::from)
}

fn target(reader: &mut Reader<'_>) -> Result<Target> {
    Ok(match reader.u8()? {
        0 => Target::Piece(reader.u32()?),
        1 => {
            let piece = reader.u32()?;
            let (first, count) = (reader.u16()?, reader.u16()?);
            let end = first.checked_add(count);
            if count == 0 || end.is_none_or(|end| end > MAX_BLOCKS) {
                return Err(DecodeError::OutOfBounds("block range"));
            }
            Target::Blocks(piece, BlockRange { first, count })
        }
        2 => Target::Any,
        _ => return Err(DecodeError::Unknown("request target")),
    })
}

fn priority(reader: &mut Reader<'_>) -> Result<Priority> {
    Ok(match reader.u8()? {
        0 => Priority::Metadata,
        1 => Priority::Foreground,
        2 => Priority::Stream,
        3 => Priority::Prefetch,
        4 => Priority::Bulk,
        _ => return Err(DecodeError::Unknown("priority")),
    })
}

fn reject_reason(reader: &mut Reader<'_>) -> Result<RejectReason> {
    Ok(match reader.u8()? {
        0 => RejectReason::NotHere,
        1 => RejectReason::Cancelled,
        2 => RejectReason::Busy,
        3 => RejectReason::NoGrant,
        4 => RejectReason::NothingToGive,
        5 => RejectReason::Revoked,
        _ => return Err(DecodeError::Unknown("reject reason")),
    })
}

fn sixteenths(reader: &mut Reader<'_>) -> Result<u8> {
    match reader.u8()? {
        sixteenths @ 0..=16 => Ok(sixteenths),
        _ => Err(DecodeError::OutOfBounds("progress in sixteenths")),
    }
}

fn announce(reader: &mut Reader<'_>) -> Result<Announce> {
    let name = SwarmName::decode(reader)?;
    let event = match reader.u8()? {
        0 => AnnounceEvent::Join {
            sixteenths: sixteenths(reader)?,
        },
        1 => AnnounceEvent::Progress {
            sixteenths: sixteenths(reader)?,
        },
        2 => AnnounceEvent::Complete {
            unserved: flag(reader)?,
        },
        3 => AnnounceEvent::Growing,
        4 => AnnounceEvent::Absent,
        5 => AnnounceEvent::Failed,
        6 => AnnounceEvent::Starving,
        7 => AnnounceEvent::Leave,
        _ => return Err(DecodeError::Unknown("announce event")),
    };
    Ok(Announce {
        name,
        event,
        description: description(reader)?,
    })
}

fn status(reader: &mut Reader<'_>) -> Result<HandoutStatus> {
    Ok(match reader.u8()? {
        0 => HandoutStatus::Known(Description::decode(reader)?),
        1 => HandoutStatus::Pending,
        2 => HandoutStatus::Absent,
        3 => HandoutStatus::Failed(reason(reader)?),
        _ => return Err(DecodeError::Unknown("handout status")),
    })
}
