//! Bytes of the messages. `docs/wire.md` is the specification; its clauses are cited as (§n).
//!
//! A frame is a big-endian `u32` length, then as many bytes: one of type, the rest the body (§3.1).
//! The payload of a [`Message::Data`] follows its frame and is not counted in it (§3.3).

mod decode;
mod encode;

use torrent::codec::{DecodeError, Reader};
use torrent::metainfo::MAX_PIECES;

use crate::message::{Message, VERSION};

/// Bytes before the body of a frame: length and type.
pub const HEADER_BYTES: usize = 5;
/// Longest frame, not counting its length: the chaining values of a blob of [`MAX_PIECES`].
pub const MAX_FRAME_BYTES: usize = 128 + MAX_PIECES * 32;
/// Longest frame of every message but [`Message::Cvs`].
pub const MAX_SMALL_FRAME_BYTES: usize = 1024 * 1024;
/// Longest payload of one [`Message::Data`].
pub const MAX_DATA_BYTES: u32 = 1024 * 1024;
/// Longest wire form of a bitfield.
pub const MAX_BITFIELD_BYTES: usize = MAX_PIECES / 8;
/// Most pieces in one [`Message::Have`] or [`Message::Served`].
pub const MAX_HAVE_PIECES: usize = 65_536;
/// Most block masks in one [`Message::Have`].
pub const MAX_HAVE_BLOCKS: usize = 32_768;
/// Most values in one [`Message::GrowingCvs`].
pub const MAX_GROWING_CVS: usize = 8_192;
/// Most pieces in one [`Message::Want`].
pub const MAX_WANT_PIECES: usize = 1_024;
/// Most blobs in one [`Message::Announce`].
pub const MAX_ANNOUNCES: usize = 4_096;
/// Most neighbours in one [`Message::Announce`].
pub const MAX_CONNECTED: usize = 256;
/// Most peers in one [`Message::Handout`], and members in one [`Message::Lease`].
pub const MAX_PEERS: usize = 64;
/// Most pieces named by one [`Message::Grant`].
pub const MAX_GRANT_PIECES: usize = 64;
/// Most owners in one [`Message::Grant`].
pub const MAX_OWNERS: usize = 16;
/// Longest reason that is for people. A longer one is cut when it is encoded.
pub const MAX_REASON_BYTES: usize = 512;

/// Type bytes (§3.1), grouped by who speaks.
mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const PING: u8 = 0x02;
    pub(super) const PONG: u8 = 0x03;

    pub(super) const BITFIELD: u8 = 0x10;
    pub(super) const HAVE: u8 = 0x11;
    pub(super) const REQUEST: u8 = 0x12;
    pub(super) const DATA: u8 = 0x13;
    pub(super) const CANCEL: u8 = 0x14;
    pub(super) const QUEUED: u8 = 0x15;
    pub(super) const REJECT: u8 = 0x16;
    pub(super) const CV_REQUEST: u8 = 0x17;
    pub(super) const CVS: u8 = 0x18;
    pub(super) const GROWING_CVS: u8 = 0x19;
    pub(super) const GROWN: u8 = 0x1a;
    pub(super) const WANT: u8 = 0x1b;
    pub(super) const SERVED: u8 = 0x1c;
    pub(super) const REVOKE: u8 = 0x1d;
    pub(super) const COMPLAINT: u8 = 0x1e;

    pub(super) const ANNOUNCE: u8 = 0x30;
    pub(super) const HANDOUT: u8 = 0x31;
    pub(super) const GRANT: u8 = 0x32;
    pub(super) const LEASE: u8 = 0x33;
    pub(super) const WITHDRAW: u8 = 0x34;
}

/// Bytes that are no message. The connection they came from is to be closed (§3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a frame of no bytes; the peer does not speak this protocol")]
    Empty,
    #[error(
        "a frame of {length} bytes exceeds the limit of {limit}; the peer does not speak this protocol"
    )]
    TooLong { length: usize, limit: usize },
    #[error(
        "message type {0:#04x} is not known in version {VERSION} of the protocol; run the same release everywhere"
    )]
    UnknownType(u8),
    #[error("message type {kind:#04x} is malformed: {error}")]
    Malformed { kind: u8, error: DecodeError },
}

/// Appends the frame of `message`. Of [`Message::Data`] this is the header frame; the caller
/// writes the payload behind it.
///
/// # Panics
/// Where a list is longer than its bound in this module: who fills a list splits it.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    encode::body(message, out);
    let length = out.len() - start - 4;
    assert!(
        length <= limit_of(out[start + 4]),
        "the bounds of the lists bound the frame"
    );
    let length = u32::try_from(length).expect("MAX_FRAME_BYTES is less than u32::MAX");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Takes one message off the front of `bytes`; returns it with the number of bytes it took, or
/// `None` where its frame is not there whole.
///
/// A frame that is too long for its type is refused as soon as length and type are there, so a
/// reader never buffers more than the type may need.
///
/// # Errors
/// Any [`WireError`]; the rest of the stream has no meaning then.
pub fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, WireError> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length == 0 {
        return Err(WireError::Empty);
    }
    if length > MAX_FRAME_BYTES {
        return Err(WireError::TooLong {
            length,
            limit: MAX_FRAME_BYTES,
        });
    }
    let Some(&kind) = rest.first() else {
        return Ok(None);
    };
    let limit = limit_of(kind);
    if length > limit {
        return Err(WireError::TooLong { length, limit });
    }
    if !decode::is_known(kind) {
        return Err(WireError::UnknownType(kind));
    }
    let Some(frame) = rest.get(..length) else {
        return Ok(None);
    };
    match decode::body(kind, Reader::new(&frame[1..])) {
        Ok(message) => Ok(Some((message, 4 + length))),
        Err(error) => Err(WireError::Malformed { kind, error }),
    }
}

/// Returns the longest frame a message of this type may have, not counting its length.
const fn limit_of(kind: u8) -> usize {
    if kind == kind::CVS {
        MAX_FRAME_BYTES
    } else {
        MAX_SMALL_FRAME_BYTES
    }
}

// The bounds of the lists keep every message but CVS inside a small frame.
const _: () = {
    /// Most bytes of a swarm name, a description and an encoded peer.
    const NAME: usize = 65;
    const DESCRIPTION: usize = 2 + NAME + 8 + 32 + 64;
    const PEER: usize = 20 + 1 + 2 + 64 + 2 + 260;
    const SLACK: usize = 64;

    assert!(MAX_PIECES * 32 + NAME + SLACK < MAX_FRAME_BYTES + 4);
    assert!(NAME + DESCRIPTION + MAX_BITFIELD_BYTES + SLACK < MAX_SMALL_FRAME_BYTES);
    assert!(NAME + MAX_HAVE_PIECES * 4 + MAX_HAVE_BLOCKS * 14 + SLACK < MAX_SMALL_FRAME_BYTES);
    assert!(NAME + MAX_GROWING_CVS * 100 + SLACK < MAX_SMALL_FRAME_BYTES);
    assert!(
        MAX_ANNOUNCES * (NAME + DESCRIPTION + 2) + MAX_CONNECTED * 20 + SLACK
            < MAX_SMALL_FRAME_BYTES
    );
    assert!(NAME + DESCRIPTION + MAX_REASON_BYTES + MAX_PEERS * PEER < MAX_SMALL_FRAME_BYTES);
};

#[cfg(test)]
mod tests;
