//! What goes wrong, and with which requests.

use serde::{Deserialize, Serialize};

use crate::Operation;

/// What becomes of a request, instead of the right answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An error of the store, such as 503 `SlowDown`. Nothing is done.
    Status { status: u16, code: String },
    /// As [`Self::Status`], after it was done.
    LateStatus { status: u16, code: String },
    /// The connection ends without an answer. Nothing is done.
    Reset,
    /// As [`Self::Reset`], after it was done.
    LateReset,
    /// There is never an answer.
    Hang,
    /// The body ends after so many bytes.
    CutAfter(usize),
    /// The body never comes.
    Stall,
    /// The answer names another version of the object.
    WrongEtag,
    /// The answer comes so many milliseconds late.
    Slow(u64),
    /// Lists show what was stored when the fault was set.
    StaleList,
    /// Nobody listens, and what was open is cut. Takes no notice of operations and counts.
    Unreachable,
}

/// A fault, and the requests it concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub fault: Fault,
    /// Which requests; `None` for all.
    #[serde(default)]
    pub operation: Option<Operation>,
    /// How many of those go well first.
    #[serde(default)]
    pub skip: usize,
    /// How many then go wrong; `None` for all.
    #[serde(default)]
    pub count: Option<usize>,
}

impl From<Fault> for Rule {
    /// A fault of all requests.
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            operation: None,
            skip: 0,
            count: None,
        }
    }
}

impl Fault {
    /// An error of the store.
    #[must_use]
    pub fn status(status: u16, code: &str) -> Self {
        Self::Status {
            status,
            code: code.into(),
        }
    }

    /// Concerns only some requests.
    #[must_use]
    pub fn on(self, operation: Operation) -> Rule {
        Rule {
            operation: Some(operation),
            ..Rule::from(self)
        }
    }

    /// Concerns only the next requests.
    #[must_use]
    pub fn times(self, count: usize) -> Rule {
        Rule::from(self).times(count)
    }
}

impl Rule {
    /// Concerns only the next requests that it fits.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.count = Some(count);
        self
    }

    /// Lets some requests go well first.
    #[must_use]
    pub fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }
}

/// Returns what goes wrong with the next request of a kind, and counts it.
pub(crate) fn next(rules: &mut Vec<Rule>, operation: Operation) -> Option<Fault> {
    let fits = |rule: &Rule| {
        let is_used_up = rule.count == Some(0);
        !is_used_up && rule.operation.is_none_or(|only| only == operation)
    };
    let at = rules.iter().position(fits)?;
    let rule = &mut rules[at];
    if rule.skip > 0 {
        rule.skip -= 1;
        return None;
    }
    let fault = rule.fault.clone();
    if let Some(count) = &mut rule.count {
        *count = count.saturating_sub(1);
        if *count == 0 {
            rules.remove(at);
        }
    }
    Some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_used_up_one_after_another() {
        let mut rules = vec![
            Fault::Reset.times(1).after(1),
            Fault::Stall.on(Operation::Get),
            Fault::Hang.times(1),
            Fault::Reset.times(0).after(1),
            Fault::Reset.times(0),
        ];
        let mut next = |operation| next(&mut rules, operation);
        assert_eq!(next(Operation::Get), None);
        assert_eq!(next(Operation::Put), Some(Fault::Reset));
        assert_eq!(next(Operation::Get), Some(Fault::Stall));
        assert_eq!(next(Operation::Put), Some(Fault::Hang));
        assert_eq!(next(Operation::Put), None);
        assert_eq!(next(Operation::Get), Some(Fault::Stall));
    }

    #[test]
    fn rules_are_written_as_json() {
        let text = r#"[{"fault": {"status": {"status": 503, "code": "SlowDown"}}, "count": 2},
                       {"fault": "stale_list", "operation": "list"}, {"fault": {"slow": 20}}]"#;
        let rules: Vec<Rule> = serde_json::from_str(text).unwrap();
        let expected = [
            Fault::status(503, "SlowDown").times(2),
            Fault::StaleList.on(Operation::List),
            Fault::Slow(20).into(),
        ];
        assert_eq!(rules, expected);
    }
}
