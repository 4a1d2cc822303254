//! Progress: a bar per blob on a terminal, a line per blob elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stderr};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use oci::{Descriptor, Digest};

use crate::output;

const STYLE: &str = "{prefix} {bar:30} {binary_bytes:>12}/{binary_total_bytes:<12} {msg}";

/// Progress of all blobs.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Kept for as long as its bars are drawn.
    _all: MultiProgress,
    bars: BTreeMap<Digest, Bar>,
}

/// Progress of one blob.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    line: String,
    on_terminal: bool,
}

impl Progress {
    pub(crate) fn new(blobs: &[Descriptor]) -> Self {
        let on_terminal = stderr().is_terminal();
        let all = MultiProgress::new();
        let style =
            ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bars = blobs.iter().map(|target| {
            let short = target.digest.short();
            let bar = if on_terminal {
                let bar = all.add(ProgressBar::new(target.size));
                bar.set_style(style.clone());
                bar.set_prefix(short.clone());
                bar.tick();
                bar
            } else {
                ProgressBar::hidden()
            };
            let line = format!("{short} {}", output::bytes(target.size));
            let bar = Bar {
                bar,
                line,
                on_terminal,
            };
            (target.digest, bar)
        });
        Self {
            bars: bars.collect(),
            _all: all.clone(),
        }
    }

    /// Returns the progress of a blob.
    pub(crate) fn of(&self, digest: &Digest) -> Option<&Bar> {
        self.bars.get(digest)
    }
}

impl Bar {
    /// So many bytes of the blob are there.
    pub(crate) fn set(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// The blob is there, and right. `how` tells where it came from.
    ///
    /// # Errors
    /// The line cannot be written.
    pub(crate) fn done(&self, how: &'static str) -> anyhow::Result<()> {
        self.bar.finish_with_message(how);
        if self.on_terminal {
            return Ok(());
        }
        output::line(format_args!("{} {how}", self.line))
    }
}
