//! The counters of a role, as its admin port shows them.

use std::collections::HashMap;

/// Counters of one role, or the sums of several.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(HashMap<String, u64>);

impl Counters {
    /// Parses the text format of Prometheus. What is no whole number is left out.
    pub(crate) fn parse(text: &str) -> Self {
        let mut counters = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((key, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse()
            {
                counters.0.insert(key.to_owned(), value);
            }
        }
        counters
    }

    /// Returns the sum over all labels that contain each of `labels`; zero where nothing was
    /// counted yet.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let of_name = self.0.iter().filter(|(key, _)| {
            let (own, have) = key.split_once('{').unwrap_or((key, ""));
            own == name && labels.iter().all(|label| have.contains(label))
        });
        of_name.map(|(_, value)| value).sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (key, value) in &other.0 {
            *self.0.entry(key.clone()).or_default() += value;
        }
    }

    /// Returns what was counted since `before`. A role that was started meanwhile begins at zero.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let counted = self.0.iter().map(|(key, value)| {
            let earlier = before.0.get(key).copied().unwrap_or_default();
            (key.clone(), value.saturating_sub(earlier))
        });
        Self(counted.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_over_labels() {
        let text = "# HELP a b\na_total{x=\"1\",y=\"1\"} 3\na_total{x=\"2\",y=\"1\"} 4\n\
                    a_total_more 9\nb 5\nc 0.5\n";
        let mut counters = Counters::parse(text);
        assert_eq!(counters.sum("a_total", &[]), 7);
        assert_eq!(counters.sum("a_total", &["x=\"2\""]), 4);
        assert_eq!(counters.sum("nothing", &[]), 0);
        let before = counters.clone();
        counters.add(&Counters::parse("b 6\n"));
        assert_eq!(counters.since(&before).sum("b", &[]), 6);
        assert_eq!(counters.since(&before).sum("a_total", &[]), 0);
    }
}
