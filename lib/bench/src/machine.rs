//! What a figure was measured on.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// This machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Type of the file system below the folder of the figures.
    pub file_system: String,
}

impl Machine {
    /// Looks at this machine; what it does not tell is called unknown.
    #[must_use]
    pub fn look(folder: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let cpu = value(&info, "model name", ':');
        let memory = read("/proc/meminfo");
        let kib = value(&memory, "MemTotal", ':');
        let kib = kib
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse::<u64>().ok());
        Self {
            cpu: cpu.to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kib.unwrap_or_default() * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(folder),
        }
    }
}

fn value<'a>(text: &'a str, key: &str, separator: char) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(key));
    let value = line.and_then(|line| line.split_once(separator));
    value.map_or("unknown", |(_, value)| value.trim())
}

/// Returns the type of the file system that a folder is on.
pub(crate) fn file_system(folder: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    type_of(&mounts, &folder).unwrap_or("unknown").to_owned()
}

/// Finds the mount with the longest path above a folder (proc(5), `mountinfo`).
fn type_of<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    let above = mounts.lines().filter_map(|line| {
        let (own, filesystem) = line.split_once(" - ")?;
        let point = own.split(' ').nth(4)?;
        folder.starts_with(point).then_some((point, filesystem))
    });
    // Of two at one place the later one hides the other.
    let (_, filesystem) = above.max_by_key(|(point, _)| point.len())?;
    filesystem.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let mounts =
            "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /tmp rw shared:1 - tmpfs tmpfs rw\n";
        assert_eq!(type_of(mounts, Path::new("/tmp/a")), Some("tmpfs"));
        assert_eq!(type_of(mounts, Path::new("/tmpx/a")), Some("ext4"));
        assert_eq!(type_of("", Path::new("/tmp")), None);
    }

    #[test]
    fn a_machine_is_looked_at() {
        let machine = Machine::look(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory_bytes > 0, "{machine:?}");
        assert_ne!(machine.file_system, "unknown");
    }
}
