//! What is written to the terminal.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes a line to standard output.
///
/// # Errors
/// Those of the terminal, file or pipe behind it. A reader that left early (`shoal … | head`) is
/// no error.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Writes the one line of a failed command to standard error: what happened and each cause that
/// its text does not repeat already.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    let text = text.replace('\n', " ");
    // Nobody is left to be told where this fails.
    let _ = writeln!(io::stderr().lock(), "shoal: {text}");
}

/// Returns what is at the bottom of a failed request; the layers above it say nothing to people.
pub(crate) fn root_cause(error: reqwest::Error) -> anyhow::Error {
    let error = anyhow::Error::new(error.without_url());
    anyhow::anyhow!("{}", error.root_cause())
}

/// Writes a number of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_for_people() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }
}
