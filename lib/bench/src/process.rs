//! A role in a process of its own, and what the kernel says it used.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

/// Last bytes of a log that are shown when its process fails.
const TAIL_BYTES: usize = 4000;

/// A process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process used since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Time on a CPU, of all its threads, in user mode and in the kernel.
    pub(crate) cpu_s: f64,
    /// Memory that is resident now.
    pub(crate) rss_bytes: u64,
    /// Most memory that was resident since [`Process::forget_peak`].
    pub(crate) peak_bytes: u64,
}

impl Process {
    /// Starts a process with its output in a file, and without settings of Shoal in its
    /// environment.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("SHOAL_") {
                command.env_remove(key);
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Fails where the process has ended, with the end of what it wrote.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let log = fs::read(&self.log).unwrap_or_default();
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(TAIL_BYTES)..]);
        bail!("{} ended ({status}); it wrote:\n{tail}", self.name);
    }

    /// Ends the process at once, as a power cut would.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let stat = self.account("stat")?;
        let status = self.account("status")?;
        parse(&stat, &status).with_context(|| format!("the kernel's account of {}", self.name))
    }

    /// Lets the peak of the resident memory begin anew.
    pub(crate) fn forget_peak(&self) -> anyhow::Result<()> {
        let path = format!("/proc/{}/clear_refs", self.child.id());
        fs::write(path, "5").context("the kernel does not reset peaks of memory")
    }

    fn account(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("{} has ended", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads `/proc/PID/stat` and `/proc/PID/status` (proc(5)).
fn parse(stat: &str, status: &str) -> Option<Usage> {
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    // Fields 14 and 15 of the line, of which 1 and 2 are cut off.
    let mut times = fields.split_whitespace().skip(11);
    let mut time = || times.next()?.parse::<u64>().ok();
    let ticks = time()? + time()?;
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        let kib = line.split_whitespace().next()?.parse::<u64>().ok()?;
        Some(kib * 1024)
    };
    Some(Usage {
        cpu_s: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        rss_bytes: bytes("VmRSS:")?,
        peak_bytes: bytes("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_of_the_kernel_is_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 9 9 20 0 4 0 55 1 1";
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let usage = parse(stat, status).unwrap();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert!((usage.cpu_s - 400.0 / ticks).abs() < 1e-9);
        assert_eq!((usage.rss_bytes, usage.peak_bytes), (1 << 20, 2 << 20));
        assert!(parse("7 (a) S 1", status).is_none());
        assert!(parse(stat, "Name:\ta\n").is_none());
    }
}
