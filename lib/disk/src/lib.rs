//! Files of content, written and read around the page cache where that is better for the host.
//!
//! What a distributor of images moves fills the page cache with bytes that mostly nobody asks for
//! again, at the cost of the pages that programs need and of a copy: 0.2 CPU-seconds per GB, more
//! than 2 on a virtual machine whose host has not given it the memory yet, against 0.1 with
//! `O_DIRECT`. Where the disk is slow the page cache takes the bytes after all, so that nobody waits
//! for the disk, and readers that come next find them there.
//!
//! Every call here blocks on the disk: run it in `tokio::task::spawn_blocking`.

mod file;
mod pace;
mod pool;

pub use file::DataFile;
pub use pool::{Buffer, Pool};

/// Memory, offsets and lengths that go around the page cache are multiples of this. Devices ask
/// for 512 bytes or for 4 KiB.
pub const ALIGNMENT: usize = 4096;
