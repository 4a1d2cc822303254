//! The log of the pieces in a blob's data file: 4 bytes per piece gained or lost.
//!
//! It is a claim that is checked before it is believed, so nothing in it is synced or checksummed:
//! a torn or damaged log costs hashing or downloading a piece again, no more.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use torrent::{Bitfield, Geometry, PieceIndex};

use crate::durable::{self, DiskError, failed};

/// Set in the record of a piece that was lost.
const LOST: u32 = 1 << 31;

/// Records read from a log at most, per piece of its blob; more is damage.
const MAX_RECORDS_PER_PIECE: u64 = 64;

/// A log to append to.
#[derive(Debug)]
pub(crate) struct PieceLog {
    file: File,
    path: PathBuf,
}

impl PieceLog {
    /// Returns the pieces that the log claims; none where there is no log.
    pub(crate) fn claims(path: &Path, geometry: &Geometry) -> Result<Bitfield, DiskError> {
        let mut claims = Bitfield::empty(geometry);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(claims),
            Err(error) => return Err(failed("read", path)(error)),
        };
        let mut bytes = Vec::new();
        let limit = u64::from(geometry.pieces()) * MAX_RECORDS_PER_PIECE * 4;
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(failed("read", path))?;
        // What a crash left of a record at the end is no record.
        for record in bytes.as_chunks::<4>().0 {
            let record = u32::from_be_bytes(*record);
            match geometry.index(record & !LOST) {
                Some(piece) if record & LOST == 0 => _ = claims.insert(piece),
                Some(piece) => _ = claims.remove(piece),
                None => {}
            }
        }
        Ok(claims)
    }

    /// Starts a log over with these pieces.
    pub(crate) fn start(
        path: &Path,
        geometry: &Geometry,
        have: &Bitfield,
    ) -> Result<Self, DiskError> {
        let bytes: Vec<u8> = have
            .iter(geometry)
            .flat_map(|piece| piece.get().to_be_bytes())
            .collect();
        durable::replace(path, &bytes)?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .map_err(failed("open", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    pub(crate) fn gained(&mut self, piece: PieceIndex) -> Result<(), DiskError> {
        self.append(piece.get())
    }

    pub(crate) fn lost(&mut self, piece: PieceIndex) -> Result<(), DiskError> {
        self.append(piece.get() | LOST)
    }

    fn append(&mut self, record: u32) -> Result<(), DiskError> {
        // One write of 4 bytes: a full disk takes all of it or nothing.
        self.file
            .write_all(&record.to_be_bytes())
            .map_err(failed("append to", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_says_what_was_last_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pieces");
        let geometry = Geometry::new(5 << 20).unwrap();
        let piece = |raw| geometry.index(raw).unwrap();
        assert!(PieceLog::claims(&path, &geometry).unwrap().is_empty());
        let mut log = PieceLog::start(&path, &geometry, &Bitfield::empty(&geometry)).unwrap();
        for raw in [0, 3, 4] {
            log.gained(piece(raw)).unwrap();
        }
        log.lost(piece(3)).unwrap();
        let claims = || {
            let claims = PieceLog::claims(&path, &geometry).unwrap();
            claims
                .iter(&geometry)
                .map(PieceIndex::get)
                .collect::<Vec<_>>()
        };
        assert_eq!(claims(), [0, 4]);
        // A torn record, and one of a piece that the blob does not have.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(&77_u32.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(claims(), [0, 4]);
        let have = PieceLog::claims(&path, &geometry).unwrap();
        PieceLog::start(&path, &geometry, &have)
            .unwrap()
            .gained(piece(1))
            .unwrap();
        assert_eq!(claims(), [0, 1, 4]);
    }
}
