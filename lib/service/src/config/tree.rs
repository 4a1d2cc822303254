//! Settings as a tree: keys, and the values at its leaves.

use serde_json::{Map, Value};

/// How much alike two keys are that a typing mistake lies between.
const ALIKE: f64 = 0.6;

/// Settings of a whole configuration, or of one source.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tree(pub(super) Value);

/// One setting.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leaf {
    pub(super) path: Vec<String>,
    pub(super) value: Value,
}

impl Leaf {
    /// Writes the setting as a line of a file.
    pub(super) fn to_line(&self) -> String {
        format!("{}: {}", self.path.join("."), inline(&self.value))
    }
}

impl Tree {
    /// Makes the tree that has one setting.
    pub(super) fn of_leaf(leaf: &Leaf) -> Self {
        let mut tree = leaf.value.clone();
        for key in leaf.path.iter().rev() {
            tree = Value::Object(Map::from_iter([(key.clone(), tree)]));
        }
        Self(tree)
    }

    /// Puts these settings over others. `defaults` tell what is a choice between kinds.
    pub(super) fn merge_into(self, below: &mut Self, defaults: &Self) {
        merge(self.0, &mut below.0, Some(&defaults.0));
    }

    /// Returns all settings, in the order in which they stand.
    pub(super) fn leaves(&self) -> Vec<Leaf> {
        let mut found = Vec::new();
        collect(&self.0, &mut Vec::new(), &mut found);
        found
    }

    pub(super) fn get(&self, path: &[String]) -> Option<&Value> {
        path.iter().try_fold(&self.0, |value, key| value.get(key))
    }

    /// Returns how many parts of a path there are up to and with the first that is no key of this
    /// tree; `None` where all are, or where the tree does not say what keys there can be.
    pub(super) fn first_unknown(&self, path: &[String]) -> Option<usize> {
        let mut value = &self.0;
        for (index, key) in path.iter().enumerate() {
            value = match value {
                Value::Object(map) if !map.is_empty() => match map.get(key) {
                    Some(value) => value,
                    None => return Some(index + 1),
                },
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_)
                | Value::Object(_) => return None,
            };
        }
        None
    }

    /// Returns whether there can be a setting of this path. What is a choice between kinds has
    /// one kind's keys in the tree only, so that below the first part the type decides.
    pub(super) fn may_have(&self, path: &[String]) -> bool {
        match self.first_unknown(path) {
            None => true,
            Some(1) => false,
            Some(count) => {
                let parent = self.get(&path[..count - 1]);
                parent.and_then(Value::as_object).is_some_and(is_choice)
            }
        }
    }

    /// Returns the path of this tree that was probably meant by one that is not in it.
    pub(super) fn nearest(&self, path: &[String]) -> Option<Vec<String>> {
        let (last, parents) = path.split_last()?;
        let siblings = self.get(parents).and_then(Value::as_object);
        let siblings = siblings.into_iter().flat_map(Map::keys);
        let beside = best(siblings.map(|key| (key.clone(), strsim(key, last))));
        if let Some(key) = beside {
            let mut found = parents.to_vec();
            found.push(key);
            return Some(found);
        }
        let whole = path.join("_");
        let everywhere = self.leaves().into_iter().filter_map(|leaf| {
            let last_known = leaf.path.last()?;
            let score = strsim(last_known, last).max(strsim(&leaf.path.join("_"), &whole));
            Some((leaf.path, score))
        });
        best(everywhere)
    }
}

/// Returns the line of a YAML text, counted from 1, on which a key stands: each part of its path
/// is looked for below the one before.
pub(super) fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let lines: Vec<_> = text.lines().collect();
    let mut at = 0;
    for (depth, key) in path.iter().enumerate() {
        let found = lines[at..].iter().position(|line| has_key(line, key))?;
        at += found;
        if depth + 1 == path.len() {
            return Some(at + 1);
        }
    }
    None
}

/// Writes a value within a sentence.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => value.to_string(),
    }
}

fn has_key(line: &str, key: &str) -> bool {
    line.match_indices(key).any(|(start, _)| {
        let before = line[..start].trim_end_matches(['"', '\'']);
        let after = line[start + key.len()..].trim_start_matches(['"', '\'']);
        let begins = before.is_empty() || before.ends_with([' ', '{', ',', '\t']);
        begins && !before.contains('#') && after.trim_start().starts_with(':')
    })
}

fn merge(above: Value, below: &mut Value, defaults: Option<&Value>) {
    match (above, below) {
        (Value::Object(above), Value::Object(below)) => {
            // Two settings of a kind that is not the default one are no choice: both count.
            let chosen = defaults.and_then(Value::as_object).is_some_and(is_choice);
            if chosen && is_choice(&above) && is_choice(below) && above.keys().ne(below.keys()) {
                // Another kind takes the place of the one that was chosen.
                *below = above;
                return;
            }
            for (key, value) in above {
                let defaults = defaults.and_then(|defaults| defaults.get(&key));
                merge(value, below.entry(key).or_insert(Value::Null), defaults);
            }
        }
        (above, below) => *below = above,
    }
}

/// Returns whether a map may be a choice between kinds, such as `fs: {…}` or `memory: {…}`.
fn is_choice(map: &Map<String, Value>) -> bool {
    map.len() == 1
}

fn collect(value: &Value, path: &mut Vec<String>, found: &mut Vec<Leaf>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                path.push(key.clone());
                collect(value, path, found);
                path.pop();
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => found.push(Leaf {
            path: path.clone(),
            value: value.clone(),
        }),
    }
}

fn strsim(a: &str, b: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(a, b)
}

/// Returns the candidate with the highest score, if that is high enough.
fn best<T>(candidates: impl Iterator<Item = (T, f64)>) -> Option<T> {
    let alike = candidates.filter(|(_, score)| *score >= ALIKE);
    let best = alike.max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(candidate, _)| candidate)
}
