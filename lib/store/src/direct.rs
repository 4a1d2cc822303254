//! The data file of a blob, written and read around the page cache where the disk is fast.
//!
//! A cache of images fills the page cache with bytes that mostly nobody asks for again, at the cost
//! of the pages that programs need and of a copy: 0.2 CPU-seconds per GB, more than 2 on a virtual
//! machine whose host has not given it the memory yet, against 0.1 with `O_DIRECT`. A disk that is
//! slow gets it all through the page cache, so that nobody waits for it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

/// Memory, offsets and lengths that go around the page cache are multiples of this. Devices ask
/// for 512 bytes or for 4 KiB.
pub const ALIGNMENT: usize = 4096;

/// A disk that takes 1 MiB in this time is fast enough to be waited for: 170 MB/s.
const FAST: Duration = Duration::from_millis(6);

/// After so many writes through the page cache the other way is tried again.
const TRY_EVERY: u32 = 16;

/// Writes shorter than this say nothing about a disk.
const MIN_TIMED: usize = 256 * 1024;

/// Buffers of one file that are kept for the next reads.
const MAX_SPARE: usize = 2;

/// A file of pieces.
#[derive(Debug)]
pub(crate) struct DataFile {
    file: File,
    /// The same file around the page cache, where the file system has that.
    direct: Option<File>,
    /// Held by who writes: the kernel takes one write of a file at a time, and those who wait for
    /// it there spin.
    pace: Mutex<Pace>,
    spare: Spare,
}

/// How long writes of 1 MiB took lately.
#[derive(Debug, Default)]
struct Pace {
    around: Duration,
    through: Duration,
    /// Writes through the page cache since the last one around it.
    passed: u32,
}

impl DataFile {
    /// Opens a file, made where it is missing, and gives it a length.
    pub(crate) fn open(path: &Path, length: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.clone().create(true).truncate(false).open(path)?;
        file.set_len(length)?;
        let flag = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        Ok(Self {
            file,
            direct: options.custom_flags(flag).open(path).ok(),
            pace: Mutex::default(),
            spare: Spare::default(),
        })
    }

    /// Writes bytes. They go around the page cache where they lie in memory as in the file: at a
    /// multiple of [`ALIGNMENT`].
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let whole = bytes.len() / ALIGNMENT * ALIGNMENT;
        let fits = bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
            && offset.is_multiple_of(ALIGNMENT as u64);
        let direct = self.direct.as_ref().filter(|_| fits && whole > 0);
        let mut pace = self.pace.lock();
        let start = Instant::now();
        if let Some(direct) = direct.filter(|_| pace.goes_around()) {
            match direct.write_all_at(&bytes[..whole], offset) {
                Ok(()) => {
                    pace.went_around(whole, start.elapsed());
                    return self
                        .file
                        .write_all_at(&bytes[whole..], offset + whole as u64);
                }
                // The device wants more than was thought: it goes the other way.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                Err(error) => return Err(error),
            }
        }
        self.file.write_all_at(bytes, offset)?;
        pace.went_through(bytes.len(), start.elapsed());
        Ok(())
    }

    /// Reads bytes; `None` where the file ends before they do. From a fast disk they come without
    /// leaving anything in the page cache.
    pub(crate) fn read_exact_at(&self, length: usize, offset: u64) -> io::Result<Option<Bytes>> {
        let room = length.next_multiple_of(ALIGNMENT);
        let mut buffer = self.spare.take(room);
        let into = &mut buffer.bytes[buffer.start..buffer.start + room];
        let direct = self
            .direct
            .as_ref()
            .filter(|_| offset.is_multiple_of(ALIGNMENT as u64) && self.pace.lock().around <= FAST);
        let mut done = 0;
        while done < length {
            // A read around the page cache begins at a multiple, and may reach past the end.
            let from = done / ALIGNMENT * ALIGNMENT;
            let read =
                match direct.map(|file| file.read_at(&mut into[from..], offset + from as u64)) {
                    Some(Err(error)) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
                    Some(Ok(read)) => Ok(read),
                    _ => self
                        .file
                        .read_at(&mut into[from..length], offset + from as u64),
                };
            match read {
                Ok(read) if from + read > done => done = from + read,
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.length = length;
        Ok(Some(Bytes::from_owner(buffer)))
    }
}

/// Buffers for reads, used again: memory that is given back and asked for anew costs as much as
/// reading into it.
#[derive(Debug, Default)]
struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer that goes back when nobody reads it any more.
struct Buffer {
    bytes: Vec<u8>,
    /// Where the bytes begin that were read, and how many they are.
    start: usize,
    length: usize,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Spare {
    fn take(&self, room: usize) -> Buffer {
        let size = room + ALIGNMENT;
        let found = self.0.lock().pop();
        let bytes = found.filter(|bytes| bytes.len() >= size);
        let bytes = bytes.unwrap_or_else(|| vec![0; size]);
        Buffer {
            start: bytes.as_ptr().align_offset(ALIGNMENT),
            length: 0,
            bytes,
            spare: Arc::clone(&self.0),
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = self.spare.lock();
        if spare.len() < MAX_SPARE {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Pace {
    /// Returns whether the next write goes around the page cache: the disk is fast, or at least
    /// faster than the other way, or was not tried for a while.
    fn goes_around(&self) -> bool {
        self.around <= FAST.max(self.through) || self.passed >= TRY_EVERY
    }

    fn went_around(&mut self, bytes: usize, took: Duration) {
        if let Some(took) = per_mib(bytes, took) {
            // Where others went the other way meanwhile, what was before says little.
            let before = if self.passed > 0 { took } else { self.around };
            self.around = (before * 3 + took) / 4;
            self.passed = 0;
        }
    }

    fn went_through(&mut self, bytes: usize, took: Duration) {
        self.passed += 1;
        if let Some(took) = per_mib(bytes, took) {
            self.through = (self.through * 3 + took) / 4;
        }
    }
}

fn per_mib(bytes: usize, took: Duration) -> Option<Duration> {
    let share = f64::from(1 << 20) / bytes as f64;
    (bytes >= MIN_TIMED).then(|| took.mul_f64(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 5 * ALIGNMENT + 77;

    /// Returns bytes of which those from `shift` on lie `shift` past a multiple.
    fn shifted(bytes: &[u8], shift: usize) -> (Vec<u8>, usize) {
        let mut vec = vec![0; bytes.len() + 2 * ALIGNMENT];
        let start = vec.as_ptr().align_offset(ALIGNMENT) + shift;
        vec[start..start + bytes.len()].copy_from_slice(bytes);
        (vec, start)
    }

    #[test]
    fn what_is_written_either_way_is_read_either_way() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..LENGTH)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        for around in [true, false] {
            for shift in [0, 8] {
                let path = folder.path().join(format!("{around}-{shift}"));
                let mut file = DataFile::open(&path, LENGTH as u64).unwrap();
                if !around {
                    file.direct = None;
                }
                // The second part first, as pieces come in any order.
                for range in [2 * ALIGNMENT..LENGTH, 0..2 * ALIGNMENT] {
                    let (vec, start) = shifted(&content[range.clone()], shift);
                    let bytes = &vec[start..start + range.len()];
                    file.write_all_at(bytes, range.start as u64).unwrap();
                }
                for range in [
                    0..LENGTH,
                    ALIGNMENT..LENGTH,
                    ALIGNMENT..2 * ALIGNMENT,
                    5..LENGTH,
                ] {
                    let read = file.read_exact_at(range.len(), range.start as u64);
                    assert!(
                        read.unwrap().unwrap() == content[range.clone()],
                        "{range:?}"
                    );
                }
                assert!(
                    file.read_exact_at(ALIGNMENT, LENGTH as u64)
                        .unwrap()
                        .is_none()
                );
                assert!(file.read_exact_at(LENGTH, 1).unwrap().is_none());
                assert_eq!(std::fs::read(&path).unwrap(), content);
            }
        }
    }

    #[test]
    fn a_slow_disk_is_tried_now_and_then() {
        let mut pace = Pace::default();
        let (slow, soon) = (FAST * 2, FAST / 10);
        let write = |pace: &mut Pace, around| {
            if pace.goes_around() {
                pace.went_around(1 << 20, around);
                return true;
            }
            pace.went_through(1 << 20, soon);
            false
        };
        let count = |pace: &mut Pace, around, writes| -> usize {
            (0..writes).map(|_| usize::from(write(pace, around))).sum()
        };
        assert_eq!(count(&mut pace, soon, 100), 100);
        // Once is no pattern; then it is tried once for 16 others.
        assert!(write(&mut pace, slow));
        assert!(write(&mut pace, soon));
        assert!(count(&mut pace, slow, 10) < 8);
        assert_eq!(count(&mut pace, slow, 170), 10);
        // It got faster, and is believed at once.
        assert!(count(&mut pace, soon, 100) > 80);
        // The other way is even slower.
        pace.around = slow;
        pace.through = slow * 2;
        assert!(pace.goes_around());
    }

    #[test]
    fn short_writes_say_nothing() {
        let mut pace = Pace::default();
        pace.went_around(MIN_TIMED - 1, FAST * 100);
        assert!(pace.goes_around());
    }
}
