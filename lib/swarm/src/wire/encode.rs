//! Messages to bytes: one arm per message, in the order of `docs/wire.md`.

use torrent::codec::{put_count, put_string};
use torrent::{Description, Generation, Peer, PeerId};

use super::{
    MAX_ANNOUNCES, MAX_BITFIELD_BYTES, MAX_CONNECTED, MAX_DATA_BYTES, MAX_GRANT_PIECES,
    MAX_GROWING_CVS, MAX_HAVE_BLOCKS, MAX_HAVE_PIECES, MAX_OWNERS, MAX_PEERS, MAX_PIECES,
    MAX_REASON_BYTES, MAX_WANT_PIECES, kind,
};
use crate::message::{Announce, AnnounceEvent, HandoutStatus, Message, RejectReason, Target};

/// Appends type and body.
#[expect(clippy::too_many_lines, reason = "a flat table, one arm per message")]
pub(super) fn body(message: &Message, out: &mut Vec<u8>) {
    out.push(kind_of(message));
    match message {
        Message::Hello { version, me } => {
            out.extend_from_slice(&version.to_be_bytes());
            me.encode(out);
        }
        Message::Ping { token } | Message::Pong { token } => {
            out.extend_from_slice(&token.to_be_bytes());
        }
        Message::Bitfield {
            name,
            description,
            have,
        } => {
            name.encode(out);
            put_description(out, description.as_ref());
            put_bounded_count(out, have.len(), MAX_BITFIELD_BYTES);
            out.extend_from_slice(have);
        }
        Message::Have {
            name,
            pieces,
            blocks,
            queue,
        } => {
            name.encode(out);
            put_pieces(out, pieces, MAX_HAVE_PIECES);
            put_bounded_count(out, blocks.len(), MAX_HAVE_BLOCKS);
            for (piece, first, mask) in blocks {
                out.extend_from_slice(&piece.to_be_bytes());
                out.extend_from_slice(&first.to_be_bytes());
                out.extend_from_slice(&mask.to_be_bytes());
            }
            out.extend_from_slice(&queue.to_be_bytes());
        }
        Message::Request {
            id,
            name,
            target,
            priority,
            lag_us,
        } => {
            out.extend_from_slice(&id.0.to_be_bytes());
            name.encode(out);
            put_target(out, target);
            out.push(*priority as u8);
            out.extend_from_slice(&lag_us.to_be_bytes());
        }
        Message::Data {
            id,
            piece,
            offset,
            length,
            last,
        } => {
            assert!((1..=MAX_DATA_BYTES).contains(length), "payload of a frame");
            for field in [id.0, *piece, *offset, *length] {
                out.extend_from_slice(&field.to_be_bytes());
            }
            out.push(u8::from(*last));
        }
        Message::Cancel { id } => out.extend_from_slice(&id.0.to_be_bytes()),
        Message::Queued { id, ahead } => {
            out.extend_from_slice(&id.0.to_be_bytes());
            out.extend_from_slice(&ahead.to_be_bytes());
        }
        Message::Reject { id, reason } => {
            out.extend_from_slice(&id.0.to_be_bytes());
            out.push(reject_code(*reason));
        }
        Message::CvRequest { name, first, count } => {
            name.encode(out);
            out.extend_from_slice(&first.to_be_bytes());
            out.extend_from_slice(&count.to_be_bytes());
        }
        Message::Cvs { name, cvs } => {
            name.encode(out);
            put_bounded_count(out, cvs.len(), MAX_PIECES);
            for cv in cvs.iter() {
                out.extend_from_slice(&cv.0);
            }
        }
        Message::GrowingCvs {
            name,
            generation,
            cvs,
        } => {
            name.encode(out);
            out.extend_from_slice(&generation.0.to_be_bytes());
            put_bounded_count(out, cvs.len(), MAX_GROWING_CVS);
            for cv in cvs {
                cv.encode(out);
            }
        }
        Message::Grown { description } => description.encode(out),
        Message::Want { name, pieces } => {
            name.encode(out);
            put_pieces(out, pieces, MAX_WANT_PIECES);
        }
        Message::Served { name, pieces } => {
            name.encode(out);
            put_pieces(out, pieces, MAX_HAVE_PIECES);
        }
        Message::Revoke {
            name,
            generation,
            reason,
        } => {
            name.encode(out);
            put_generation(out, *generation);
            put_reason(out, reason);
        }
        Message::Complaint { name, piece } => {
            name.encode(out);
            out.extend_from_slice(&piece.to_be_bytes());
        }
        Message::Announce {
            entries,
            connected,
            credits,
        } => {
            put_bounded_count(out, entries.len(), MAX_ANNOUNCES);
            for entry in entries {
                put_announce(out, entry);
            }
            put_ids(out, connected, MAX_CONNECTED);
            out.extend_from_slice(&credits.to_be_bytes());
        }
        Message::Handout {
            name,
            status,
            peers,
        } => {
            name.encode(out);
            put_status(out, status);
            put_peers(out, peers);
        }
        Message::Grant {
            name,
            agent,
            origin,
            count,
            pieces,
            zone,
            deadline,
            owners,
        } => {
            name.encode(out);
            out.extend_from_slice(agent.as_bytes());
            origin.encode(out);
            out.extend_from_slice(&count.to_be_bytes());
            put_pieces(out, pieces, MAX_GRANT_PIECES);
            put_string(out, zone);
            out.extend_from_slice(&deadline.0.to_be_bytes());
            put_ids(out, owners, MAX_OWNERS);
        }
        Message::Lease {
            name,
            first,
            count,
            members,
        } => {
            name.encode(out);
            out.extend_from_slice(&first.to_be_bytes());
            out.extend_from_slice(&count.to_be_bytes());
            put_peers(out, members);
        }
        Message::Withdraw {
            name,
            agent,
            origin,
        } => {
            name.encode(out);
            out.extend_from_slice(agent.as_bytes());
            out.extend_from_slice(origin.as_bytes());
        }
    }
}

const fn kind_of(message: &Message) -> u8 {
    match message {
        Message::Hello { .. } => kind::HELLO,
        Message::Ping { .. } => kind::PING,
        Message::Pong { .. } => kind::PONG,
        Message::Bitfield { .. } => kind::BITFIELD,
        Message::Have { .. } => kind::HAVE,
        Message::Request { .. } => kind::REQUEST,
        Message::Data { .. } => kind::DATA,
        Message::Cancel { .. } => kind::CANCEL,
        Message::Queued { .. } => kind::QUEUED,
        Message::Reject { .. } => kind::REJECT,
        Message::CvRequest { .. } => kind::CV_REQUEST,
        Message::Cvs { .. } => kind::CVS,
        Message::GrowingCvs { .. } => kind::GROWING_CVS,
        Message::Grown { .. } => kind::GROWN,
        Message::Want { .. } => kind::WANT,
        Message::Served { .. } => kind::SERVED,
        Message::Revoke { .. } => kind::REVOKE,
        Message::Complaint { .. } => kind::COMPLAINT,
        Message::Announce { .. } => kind::ANNOUNCE,
        Message::Handout { .. } => kind::HANDOUT,
        Message::Grant { .. } => kind::GRANT,
        Message::Lease { .. } => kind::LEASE,
        Message::Withdraw { .. } => kind::WITHDRAW,
    }
}

fn put_bounded_count(out: &mut Vec<u8>, count: usize, max: usize) {
    assert!(count <= max, "a list of {count} exceeds its bound of {max}");
    put_count(out, count);
}

fn put_pieces(out: &mut Vec<u8>, pieces: &[u32], max: usize) {
    put_bounded_count(out, pieces.len(), max);
    for piece in pieces {
        out.extend_from_slice(&piece.to_be_bytes());
    }
}

fn put_ids(out: &mut Vec<u8>, ids: &[PeerId], max: usize) {
    put_bounded_count(out, ids.len(), max);
    for id in ids {
        out.extend_from_slice(id.as_bytes());
    }
}

fn put_peers(out: &mut Vec<u8>, peers: &[Peer]) {
    put_bounded_count(out, peers.len(), MAX_PEERS);
    for peer in peers {
        peer.encode(out);
    }
}

fn put_description(out: &mut Vec<u8>, description: Option<&Description>) {
    out.push(u8::from(description.is_some()));
    if let Some(description) = description {
        description.encode(out);
    }
}

fn put_generation(out: &mut Vec<u8>, generation: Option<Generation>) {
    out.push(u8::from(generation.is_some()));
    if let Some(generation) = generation {
        out.extend_from_slice(&generation.0.to_be_bytes());
    }
}

/// Cuts at a character, so that the reason stays text.
fn put_reason(out: &mut Vec<u8>, reason: &str) {
    put_string(out, &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]);
}

fn put_target(out: &mut Vec<u8>, target: &Target) {
    match target {
        Target::Piece(piece) => {
            out.push(0);
            out.extend_from_slice(&piece.to_be_bytes());
        }
        Target::Blocks(piece, blocks) => {
            out.push(1);
            out.extend_from_slice(&piece.to_be_bytes());
            out.extend_from_slice(&blocks.first.to_be_bytes());
            out.extend_from_slice(&blocks.count.to_be_bytes());
        }
        Target::Any => out.push(2),
    }
}

const fn reject_code(reason: RejectReason) -> u8 {
    match reason {
        RejectReason::NotHere => 0,
        RejectReason::Cancelled => 1,
        RejectReason::Busy => 2,
        RejectReason::NoGrant => 3,
        RejectReason::NothingToGive => 4,
        RejectReason::Revoked => 5,
    }
}

fn put_announce(out: &mut Vec<u8>, entry: &Announce) {
    entry.name.encode(out);
    match entry.event {
        AnnounceEvent::Join { sixteenths } => out.extend_from_slice(&[0, sixteenths]),
        AnnounceEvent::Progress { sixteenths } => out.extend_from_slice(&[1, sixteenths]),
        AnnounceEvent::Complete { unserved } => out.extend_from_slice(&[2, u8::from(unserved)]),
        AnnounceEvent::Growing => out.push(3),
        AnnounceEvent::Absent => out.push(4),
        AnnounceEvent::Failed => out.push(5),
        AnnounceEvent::Starving => out.push(6),
        AnnounceEvent::Leave => out.push(7),
    }
    put_description(out, entry.description.as_ref());
}

fn put_status(out: &mut Vec<u8>, status: &HandoutStatus) {
    match status {
        HandoutStatus::Known(description) => {
            out.push(0);
            description.encode(out);
        }
        HandoutStatus::Pending => out.push(1),
        HandoutStatus::Absent => out.push(2),
        HandoutStatus::Failed(reason) => {
            out.push(3);
            put_reason(out, reason);
        }
    }
}
