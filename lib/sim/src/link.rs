//! Links: each machine has a FIFO up and a FIFO down, messages first, then frames of the uploads
//! in turn; between them half a round trip.

use std::collections::VecDeque;

use swarm::{Micros, Priority, RequestId, Time};
use torrent::PieceIndex;

/// Bytes of one frame of payload; four uploads share a link frame by frame.
pub(crate) const FRAME_BYTES: u32 = 256 * 1024;
/// Payload of one connection that may be under way: what socket buffers hold.
const WINDOW_BYTES: u64 = 2 * FRAME_BYTES as u64;
/// Bytes that TCP and IP put around a message.
const OVERHEAD_BYTES: u64 = 66;

/// Index of a connection in the world.
pub(crate) type Conn = usize;

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    Message(Vec<u8>),
    /// A frame of payload behind its header.
    Frame {
        header: Vec<u8>,
        length: u32,
        damaged: bool,
    },
    /// The sender closed its end.
    Close,
}

impl Packet {
    pub(crate) const fn payload(&self) -> u64 {
        match self {
            Self::Message(_) | Self::Close => 0,
            Self::Frame { length, .. } => *length as u64,
        }
    }

    fn size(&self) -> u64 {
        let length = match self {
            Self::Message(bytes) => bytes.len() as u64,
            Self::Frame { header, length, .. } => header.len() as u64 + u64::from(*length),
            Self::Close => 0,
        };
        length + OVERHEAD_BYTES
    }
}

/// A piece that is being sent.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) conn: Conn,
    pub(crate) id: RequestId,
    pub(crate) piece: PieceIndex,
    pub(crate) priority: Priority,
    pub(crate) sent: u32,
    pub(crate) size: u32,
}

/// A machine's link.
#[derive(Debug)]
pub(crate) struct Link {
    up_bytes_per_s: u64,
    down_bytes_per_s: u64,
    down_free_at: Time,
    pub(crate) messages: VecDeque<(Conn, Packet)>,
    pub(crate) uploads: Vec<Upload>,
    /// What is being sent: the connection, and the upload where this is its last frame.
    pub(crate) sending: Option<(Conn, Option<RequestId>)>,
}

impl Link {
    pub(crate) const fn new(up_bytes_per_s: u64, down_bytes_per_s: u64) -> Self {
        Self {
            up_bytes_per_s,
            down_bytes_per_s,
            down_free_at: Time(0),
            messages: VecDeque::new(),
            uploads: Vec::new(),
            sending: None,
        }
    }

    /// Forgets everything that was to be sent.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.uploads.clear();
        self.sending = None;
    }

    /// Returns the upload whose frame is next: the most urgent, and of those the one that was
    /// not served for longest. `under_way` tells the payload of a connection.
    pub(crate) fn next_upload(&self, under_way: impl Fn(Conn) -> u64) -> Option<usize> {
        let fits = |upload: &&Upload| under_way(upload.conn) < WINDOW_BYTES;
        let urgency = self
            .uploads
            .iter()
            .filter(fits)
            .map(|upload| upload.priority);
        let urgency = urgency.min()?;
        self.uploads
            .iter()
            .position(|upload| upload.priority == urgency && fits(&upload))
    }

    /// Returns how long the packet occupies the way up.
    pub(crate) fn up_time(&self, packet: &Packet) -> Micros {
        time_of(packet.size(), self.up_bytes_per_s)
    }

    /// Takes the packet, which is there at `now`; returns when it is in.
    pub(crate) fn take(&mut self, now: Time, packet: &Packet) -> Time {
        let start = self.down_free_at.max(now);
        self.down_free_at = start + time_of(packet.size(), self.down_bytes_per_s);
        self.down_free_at
    }
}

const fn time_of(bytes: u64, bytes_per_s: u64) -> Micros {
    Micros((bytes * 1_000_000).div_ceil(bytes_per_s))
}

#[cfg(test)]
mod tests {
    use torrent::Geometry;

    use super::*;

    fn upload(conn: Conn, priority: Priority) -> Upload {
        let geometry = Geometry::new(1).unwrap();
        Upload {
            conn,
            id: RequestId(0),
            piece: geometry.index(0).unwrap(),
            priority,
            sent: 0,
            size: 1,
        }
    }

    #[test]
    fn packets_wait_for_each_other() {
        let mut link = Link::new(1_000_000, 1_000_000);
        let packet = Packet::Message(vec![0; 934]);
        assert_eq!(link.up_time(&packet), Micros(1_000));
        assert_eq!(link.take(Time(5), &packet), Time(1_005));
        assert_eq!(link.take(Time(6), &packet), Time(2_005));
        assert_eq!(link.take(Time(9_000), &packet), Time(10_000));
    }

    #[test]
    fn the_urgent_goes_first_and_a_full_connection_waits() {
        let mut link = Link::new(1, 1);
        assert_eq!(link.next_upload(|_| 0), None);
        link.uploads = vec![
            upload(1, Priority::Bulk),
            upload(2, Priority::Foreground),
            upload(3, Priority::Foreground),
        ];
        assert_eq!(link.next_upload(|_| 0), Some(1));
        let full = |conns: &'static [Conn]| {
            move |conn: Conn| {
                if conns.contains(&conn) {
                    WINDOW_BYTES
                } else {
                    0
                }
            }
        };
        assert_eq!(link.next_upload(full(&[2])), Some(2));
        assert_eq!(link.next_upload(full(&[2, 3])), Some(0));
        assert_eq!(link.next_upload(full(&[1, 2, 3])), None);
    }
}
