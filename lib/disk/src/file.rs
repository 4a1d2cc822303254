//! A file, open both ways.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::pace::Pace;
use crate::{ALIGNMENT, Buffer, Pool};

/// Reads shorter than this go through the page cache: who wants little often wants it again.
const MIN_AROUND: usize = 128 * 1024;

/// A file of content, written and read around the page cache where the disk is fast. What was
/// written through it is read from there: a disk is slow in both, or its file system writes back
/// first.
#[derive(Debug)]
pub struct DataFile {
    file: File,
    /// The same file around the page cache, where the file system has that.
    direct: Option<File>,
    /// Held by who writes: the kernel takes one write of a file at a time, and those who wait for
    /// it there spin.
    pace: Mutex<Pace>,
    pool: Pool,
}

impl DataFile {
    /// Opens a file, made where it is missing, and gives it a length. What is read comes in
    /// buffers of the pool.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path, length: u64, pool: &Pool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.clone().create(true).truncate(false).open(path)?;
        file.set_len(length)?;
        Ok(Self::new(file, &options, path, pool))
    }

    /// Opens a file that is there, as long as it is.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, pool: &Pool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        Ok(Self::new(options.open(path)?, &options, path, pool))
    }

    /// Reads a file that was opened at `path`, whatever lies there by now.
    #[must_use]
    pub fn of(file: File, path: &Path, pool: &Pool) -> Self {
        Self::new(file, OpenOptions::new().read(true), path, pool)
    }

    fn new(file: File, options: &OpenOptions, path: &Path, pool: &Pool) -> Self {
        let flag = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let direct = options.clone().custom_flags(flag).open(path).ok();
        Self {
            direct: direct.filter(|direct| is_same(direct, &file)),
            file,
            pace: Mutex::default(),
            pool: pool.clone(),
        }
    }

    /// Returns the file, to be synced and asked for its length.
    #[must_use]
    pub const fn as_file(&self) -> &File {
        &self.file
    }

    /// Writes bytes. They can go around the page cache where they lie in memory as in the file: at
    /// a multiple of [`ALIGNMENT`]. What remains of the last such unit goes through it.
    ///
    /// # Errors
    /// The system's; a part of the bytes may have been written.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
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
                    let rest = offset + whole as u64;
                    return self.file.write_all_at(&bytes[whole..], rest);
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

    /// Reads bytes; `None` where the file ends before they do.
    ///
    /// # Errors
    /// The system's.
    pub fn read_exact_at(&self, length: usize, offset: u64) -> io::Result<Option<Bytes>> {
        // A read around the page cache begins at a multiple, and reaches to one.
        let before = usize::try_from(offset % ALIGNMENT as u64).unwrap_or_default();
        let start = offset - before as u64;
        let end = before + length;
        let mut buffer = self.pool.take(end.next_multiple_of(ALIGNMENT));
        let reads = self.pool.reads();
        let direct = self.direct.as_ref().filter(|_| length >= MIN_AROUND);
        let direct = direct.filter(|_| reads.lock().goes_around());
        let began = Instant::now();
        while buffer.len() < end {
            match self.read_more(direct, &mut buffer, start, end) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let took = began.elapsed();
        match direct {
            Some(_) => reads.lock().went_around(length, took),
            None => reads.lock().went_through(length, took),
        }
        Ok(Some(buffer.freeze().slice(before..end)))
    }

    /// Reads on; returns how many bytes came.
    fn read_more(
        &self,
        direct: Option<&File>,
        buffer: &mut Buffer,
        start: u64,
        end: usize,
    ) -> io::Result<usize> {
        let here = buffer.len();
        if let Some(direct) = direct {
            buffer.truncate(here / ALIGNMENT * ALIGNMENT);
            let at = start + buffer.len() as u64;
            let room = end.next_multiple_of(ALIGNMENT) - buffer.len();
            match direct.read_at(buffer.unfilled(room), at) {
                Ok(read) => {
                    buffer.filled(read);
                    return Ok(buffer.len().saturating_sub(here));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    buffer.filled(here - buffer.len());
                }
                Err(error) => return Err(error),
            }
        }
        let read = self
            .file
            .read_at(buffer.unfilled(end - here), start + here as u64)?;
        buffer.filled(read);
        Ok(read)
    }
}

/// Returns whether both are the same file: another may lie at its path by now.
fn is_same(one: &File, other: &File) -> bool {
    let identity = |file: &File| {
        let metadata = file.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(one).is_some_and(|identity_of_one| identity(other) == Some(identity_of_one))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LENGTH: usize = 80 * ALIGNMENT + 77;

    fn content() -> Vec<u8> {
        (0..LENGTH)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect()
    }

    /// Returns bytes of which those from `shift` on lie `shift` past a multiple.
    fn shifted(bytes: &[u8], shift: usize) -> (Vec<u8>, usize) {
        let mut vec = vec![0; bytes.len() + 2 * ALIGNMENT];
        let start = vec.as_ptr().align_offset(ALIGNMENT) + shift;
        vec[start..start + bytes.len()].copy_from_slice(bytes);
        (vec, start)
    }

    /// Has the page cache forget the file.
    fn forget(file: &File) {
        file.sync_all().unwrap();
        rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }

    fn check_reads(file: &DataFile, content: &[u8]) {
        for range in [
            0..LENGTH,
            ALIGNMENT..LENGTH,
            ALIGNMENT..2 * ALIGNMENT,
            5..LENGTH,
            2 * ALIGNMENT - 1..60 * ALIGNMENT + 1,
        ] {
            for forgotten in [true, false] {
                if forgotten {
                    forget(&file.file);
                }
                let read = file.read_exact_at(range.len(), range.start as u64);
                let read = read.unwrap().expect("the file is long enough");
                assert!(read == content[range.clone()], "{range:?} {forgotten}");
            }
        }
        let past = |length, offset| file.read_exact_at(length, offset).unwrap();
        assert!(past(ALIGNMENT, LENGTH as u64).is_none());
        assert!(past(LENGTH, 1).is_none());
        assert!(past(LENGTH + 1, 0).is_none());
    }

    #[test]
    fn what_is_written_either_way_is_read_either_way() {
        let folder = tempfile::tempdir().unwrap();
        let (content, pool) = (content(), Pool::new(1 << 20));
        for around in [true, false] {
            for shift in [0, 8] {
                let path = folder.path().join(format!("{around}-{shift}"));
                let mut file = DataFile::create(&path, LENGTH as u64, &pool).unwrap();
                if !around {
                    file.direct = None;
                }
                // The second part first, as pieces come in any order.
                for range in [40 * ALIGNMENT..LENGTH, 0..40 * ALIGNMENT] {
                    let (vec, start) = shifted(&content[range.clone()], shift);
                    let bytes = &vec[start..start + range.len()];
                    file.write_all_at(bytes, range.start as u64).unwrap();
                }
                check_reads(&file, &content);
                assert_eq!(std::fs::read(&path).unwrap(), content);
            }
        }
    }

    /// Reads are made the same way by all files of a pool.
    #[test]
    fn a_slow_disk_is_read_through_the_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        let (content, pool) = (content(), Pool::new(0));
        let path = folder.path().join("file");
        std::fs::write(&path, &content).unwrap();
        let file = DataFile::open(&path, &pool).unwrap();
        for _ in 0..10 {
            pool.reads()
                .lock()
                .went_around(1 << 20, Duration::from_secs(1));
        }
        pool.reads().lock().went_through(1 << 20, Duration::ZERO);
        assert!(!pool.reads().lock().goes_around());
        check_reads(&file, &content);
    }

    #[test]
    fn a_file_that_was_replaced_is_read_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (content, path) = (content(), folder.path().join("file"));
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        let other = folder.path().join("other");
        std::fs::write(&other, vec![0; LENGTH]).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&other, &path).unwrap();
        check_reads(&DataFile::of(file, &path, &Pool::new(0)), &content);
    }

    #[test]
    fn appending_grows_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (content, path) = (content(), folder.path().join("file"));
        File::create(&path).unwrap();
        let file = DataFile::open(&path, &Pool::new(0)).unwrap();
        let (vec, start) = shifted(&content, 0);
        let aligned = &vec[start..start + LENGTH];
        file.write_all_at(aligned, 0).unwrap();
        // From here on nothing lies as the disk likes it.
        file.write_all_at(aligned, LENGTH as u64).unwrap();
        assert_eq!(file.as_file().metadata().unwrap().len(), 2 * LENGTH as u64);
        let read = file.read_exact_at(2 * LENGTH, 0).unwrap().unwrap();
        assert!(read == [&content[..], &content].concat());
    }
}
