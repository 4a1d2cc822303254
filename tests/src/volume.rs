//! Small volumes, which get full.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{attempt, run};

/// What kind of a volume it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// In memory (tmpfs): nothing goes around the page cache.
    Memory,
    /// In a file (ext4): what it has no room for shows where it is written, around the page cache
    /// too.
    Ext4,
}

/// A volume, which is unmounted at the end.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
}

impl Volume {
    /// Mounts a volume of this many bytes over a folder.
    ///
    /// # Panics
    /// Where it cannot be mounted, which takes root.
    #[must_use]
    pub fn new(file_system: FileSystem, path: &Path, size: u64) -> Self {
        std::fs::create_dir_all(path).expect("the folder is ours");
        let mut mount = Command::new("mount");
        match file_system {
            FileSystem::Memory => {
                mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]);
            }
            FileSystem::Ext4 => {
                let image = path.with_extension("ext4");
                let file = std::fs::File::create(&image).expect("the folder is ours");
                file.set_len(size).expect("a file can have holes");
                let program = crate::program("/usr/sbin/mkfs.ext4", "e2fsprogs");
                run(Command::new(program).args(["-q", "-m", "0"]).arg(&image));
                mount.args(["-o", "loop"]).arg(&image);
            }
        }
        run(mount.arg(path));
        // Of mkfs, and nobody's.
        let _ = std::fs::remove_dir(path.join("lost+found"));
        Self {
            path: path.to_owned(),
        }
    }

    /// Fills the volume with bytes of somebody else, until so many are left, about.
    ///
    /// # Panics
    /// Where fewer are left already.
    pub fn fill(&self, left: u64) {
        let free = self.free();
        let bytes = free.checked_sub(left);
        let bytes = bytes.unwrap_or_else(|| panic!("only {free} bytes are left"));
        let bytes = bytes.to_string();
        run(Command::new("fallocate")
            .args(["--length", &bytes])
            .arg(self.ballast()));
    }

    /// Fills what is left, to the last byte.
    ///
    /// # Panics
    /// Where the volume fails in another way.
    pub fn fill_up(&self) {
        let mut options = std::fs::File::options();
        let file = options.create(true).append(true).open(self.ballast());
        let mut file = file.expect("the folder is ours");
        for part in [&[0; 64 << 10][..], &[0; 4 << 10], &[0]] {
            let error = loop {
                if let Err(error) = file.write_all(part) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }

    /// Takes those bytes away again.
    ///
    /// # Panics
    /// Where it was not filled.
    pub fn make_room(&self) {
        std::fs::remove_file(self.ballast()).expect("it was filled");
    }

    /// Returns the bytes that files take on it, holes not counted.
    ///
    /// # Panics
    /// Where the system does not tell.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.ask("used")
    }

    fn free(&self) -> u64 {
        self.ask("avail")
    }

    fn ask(&self, field: &str) -> u64 {
        let mut df = Command::new("df");
        df.args(["--block-size=1", &format!("--output={field}")]);
        let text = run(df.arg(&self.path));
        let number = text
            .lines()
            .last()
            .and_then(|line| line.trim().parse().ok());
        number.unwrap_or_else(|| panic!("df says {text}"))
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        // Who uses it may still be there.
        let _ = attempt(unmount.arg("--lazy").arg(&self.path));
    }
}
