//! Metrics of several parts of one process as one text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::admin::Admin;

/// Families about the process, not about a part of it.
const OF_PROCESS: [&str; 2] = ["process_", "shoal_build"];
const END: &str = "# EOF";

/// Returns the metrics of several parts of one process as one OpenMetrics text. Families are
/// merged, a label `part` says which part each sample is of; what is measured of the whole process
/// stands there once.
#[must_use]
pub fn merged_metrics(parts: &[Admin]) -> String {
    let texts = parts.iter().map(|part| (part.name(), part.metrics()));
    let texts: Vec<_> = texts.collect();
    merge(texts.iter().map(|(name, text)| (*name, &**text)))
}

#[derive(Debug, Default)]
struct Family<'a> {
    about: Vec<&'a str>,
    samples: String,
    first: &'a str,
}

fn merge<'a>(texts: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for (part, text) in texts {
        let mut current = "";
        for line in text.lines().filter(|line| *line != END) {
            if let Some(about) = line.strip_prefix("# ") {
                current = about.split(' ').nth(1).unwrap_or_default();
                let family = families.entry(current).or_insert_with(|| Family {
                    first: part,
                    ..Family::default()
                });
                if family.first == part {
                    family.about.push(line);
                }
                continue;
            }
            let Some(family) = families.get_mut(current) else {
                continue;
            };
            if !OF_PROCESS.iter().any(|prefix| current.starts_with(prefix)) {
                label(&mut family.samples, line, part);
            } else if family.first == part {
                let _ = writeln!(family.samples, "{line}");
            }
        }
    }
    let mut merged = String::new();
    for family in families.values() {
        for line in &family.about {
            let _ = writeln!(merged, "{line}");
        }
        merged.push_str(&family.samples);
    }
    let _ = writeln!(merged, "{END}");
    merged
}

/// Writes a sample with one more label.
fn label(out: &mut String, sample: &str, part: &str) {
    let part = part
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    let at = sample.find(['{', ' ']).unwrap_or(sample.len());
    let (name, rest) = sample.split_at(at);
    let _ = match rest.strip_prefix('{') {
        Some(rest) if rest.starts_with('}') => writeln!(out, "{name}{{part=\"{part}\"{rest}"),
        Some(rest) => writeln!(out, "{name}{{part=\"{part}\",{rest}"),
        None => writeln!(out, "{name}{{part=\"{part}\"}}{rest}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_merged() {
        let a = "# HELP x_bytes X.\n# TYPE x_bytes counter\n# UNIT x_bytes bytes\n\
                 x_bytes_total{peer=\"a b\"} 1\nx_bytes_total{peer=\"{\"} 2\n\
                 # HELP process_open_fds F.\n# TYPE process_open_fds gauge\nprocess_open_fds 5\n\
                 # EOF\n";
        let b = "# HELP process_open_fds F.\n# TYPE process_open_fds gauge\nprocess_open_fds 6\n\
                 # HELP y Y.\n# TYPE y gauge\ny 3\n\
                 # HELP x_bytes X.\n# TYPE x_bytes counter\n# UNIT x_bytes bytes\n\
                 x_bytes_total{peer=\"c\"} 4\n# EOF\n";
        let merged = merge([("agent-1", a), ("o\"1", b)].into_iter());
        assert_eq!(
            merged,
            "# HELP process_open_fds F.\n# TYPE process_open_fds gauge\nprocess_open_fds 5\n\
             # HELP x_bytes X.\n# TYPE x_bytes counter\n# UNIT x_bytes bytes\n\
             x_bytes_total{part=\"agent-1\",peer=\"a b\"} 1\n\
             x_bytes_total{part=\"agent-1\",peer=\"{\"} 2\n\
             x_bytes_total{part=\"o\\\"1\",peer=\"c\"} 4\n\
             # HELP y Y.\n# TYPE y gauge\ny{part=\"o\\\"1\"} 3\n\
             # EOF\n"
        );
    }
}
