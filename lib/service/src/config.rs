//! Configurations: the environment wins over the file, and the file over defaults.
//!
//! The type of a configuration is the judge of what is right. Its defaults, written out as a tree,
//! are what mistakes are explained with: they have every key, and an example of each value.

mod tree;

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::tree::{Leaf, Tree};

/// What all variables start with.
const PREFIX: &str = "SHOAL_";
/// Between the parts of a nested key.
const SEPARATOR: &str = "__";
/// Variables that stand for flags of the command line.
const OF_FLAGS: [&str; 3] = ["SHOAL_CONFIG", "SHOAL_AGENT", "SHOAL_UP_DATA"];
/// Longest file in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A configuration that cannot be used. The text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("the configuration {} has more than {MAX_FILE_BYTES} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("{place} is not YAML: {reason}")]
    Yaml { place: String, reason: String },
    #[error("{place} must be keys with values, such as `{example}`")]
    NoMap { place: String, example: String },
    #[error("{place}: there is no key {key}{hint}")]
    UnknownKey {
        place: String,
        key: String,
        hint: String,
    },
    #[error("there is no setting {variable}{hint}")]
    UnknownVariable { variable: String, hint: String },
    #[error("{place}: {key} is wrong: {reason}{hint}")]
    Value {
        place: String,
        key: String,
        reason: String,
        hint: String,
    },
    #[error("the configuration is wrong: {0}")]
    Whole(String),
    #[error("the configuration cannot be written as YAML: {0}")]
    Write(String),
}

/// Loads a configuration: environment over file over defaults. Lists are replaced, not merged.
///
/// Every key is also a variable: `SHOAL_` and the key in capitals, nested keys joined by two
/// underscores, the value as YAML has it. `env` are the variables of the process; those that
/// Kubernetes sets for services are not taken for keys.
///
/// # Errors
/// The file cannot be read, or it or a variable has a key or value that is not known.
pub fn load<C: Serialize + DeserializeOwned + Default>(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<C, ConfigError> {
    let defaults = to_tree(&C::default())?;
    let mut layers = Vec::new();
    if let Some(path) = file {
        layers.extend(of_file(path, &defaults)?);
    }
    let mut variables: Vec<_> = env
        .into_iter()
        .filter(|(key, value)| is_setting(key, value))
        .collect();
    // The order of an environment means nothing: mistakes are reported in one that stays.
    variables.sort_unstable();
    for (variable, text) in variables {
        layers.push(of_variable::<C>(&defaults, variable, &text)?);
    }
    let mut whole = defaults.clone();
    for layer in &layers {
        layer.tree.clone().merge_into(&mut whole, &defaults);
    }
    serde_json::from_value(whole.0).map_err(|error| explain::<C>(&defaults, &layers, &error))
}

/// Writes a configuration as a file has it.
///
/// # Errors
/// It has a value that YAML cannot have.
pub fn to_yaml<C: Serialize>(config: &C) -> Result<String, ConfigError> {
    serde_saphyr::to_string(config).map_err(|error| ConfigError::Write(one_line(&error)))
}

/// Settings of one source.
#[derive(Debug)]
struct Layer {
    tree: Tree,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File { path: PathBuf, text: String },
    Variable(String),
}

fn to_tree<C: Serialize>(config: &C) -> Result<Tree, ConfigError> {
    let value = serde_json::to_value(config);
    value
        .map(Tree)
        .map_err(|error| ConfigError::Write(one_line(&error)))
}

/// Reads a file; an empty one sets nothing.
fn of_file(path: &Path, defaults: &Tree) -> Result<Option<Layer>, ConfigError> {
    let read = |error| ConfigError::Read {
        path: path.to_owned(),
        error,
    };
    let file = std::fs::File::open(path).map_err(read)?;
    let mut text = String::new();
    let mut file = file.take(MAX_FILE_BYTES + 1);
    let length = file.read_to_string(&mut text).map_err(read)?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLong(path.to_owned()));
    }
    let place = path.display().to_string();
    let value = serde_saphyr::from_str::<Value>(&text);
    let value = value.map_err(|error| ConfigError::Yaml {
        place: match error.location() {
            Some(location) => format!("{place}, line {}", location.line()),
            None => place.clone(),
        },
        reason: one_line(error.without_snippet()),
    })?;
    match value {
        Value::Null => Ok(None),
        Value::Object(_) => Ok(Some(Layer {
            tree: Tree(value),
            source: Source::File {
                path: path.to_owned(),
                text,
            },
        })),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            let example = defaults.leaves().into_iter().next();
            Err(ConfigError::NoMap {
                place,
                example: example.map_or_else(String::new, |leaf| leaf.to_line()),
            })
        }
    }
}

/// Returns whether a variable is meant as a setting. Kubernetes sets variables for each service,
/// named for it, and a service may well be named `shoal-agent`.
fn is_setting(variable: &str, value: &str) -> bool {
    let Some(name) = variable.strip_prefix(PREFIX) else {
        return false;
    };
    let is_url = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    let of_port = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let protocol = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let protocols = ["_TCP", "_UDP", "_SCTP"];
        protocol.len() < rest.len() && protocols.iter().any(|name| protocol.starts_with(name))
    });
    let of_service = name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_");
    !(OF_FLAGS.contains(&variable) || of_service || of_port || (name.ends_with("_PORT") && is_url))
}

fn of_variable<C: DeserializeOwned>(
    defaults: &Tree,
    variable: String,
    text: &str,
) -> Result<Layer, ConfigError> {
    let name = variable.strip_prefix(PREFIX).unwrap_or(&variable);
    let path: Vec<_> = name.split(SEPARATOR).map(str::to_lowercase).collect();
    if !defaults.may_have(&path) {
        let hint = nearest(defaults, &path, as_variable);
        return Err(ConfigError::UnknownVariable { variable, hint });
    }
    let at = |value| {
        Tree::of_leaf(&Leaf {
            path: path.clone(),
            value,
        })
    };
    let parsed = serde_saphyr::from_str::<Value>(text).ok();
    let parsed = parsed.map_or_else(|| at(Value::String(text.into())), at);
    // A key of digits only, or a name such as "on", is text that YAML takes for something else.
    let as_text = at(Value::String(text.into()));
    let fits = |tree: &Tree| try_out::<C>(defaults, tree.clone()).is_ok();
    let tree = if !fits(&parsed) && fits(&as_text) {
        as_text
    } else {
        parsed
    };
    let source = Source::Variable(variable);
    Ok(Layer { tree, source })
}

/// Returns what is wrong with a tree of settings over the defaults.
fn try_out<C: DeserializeOwned>(defaults: &Tree, tree: Tree) -> Result<C, serde_json::Error> {
    let mut whole = defaults.clone();
    tree.merge_into(&mut whole, defaults);
    serde_json::from_value(whole.0)
}

/// Finds out which setting is to blame: a key that is not known, or a value that is wrong by
/// itself.
fn explain<C: DeserializeOwned>(
    defaults: &Tree,
    layers: &[Layer],
    error: &serde_json::Error,
) -> ConfigError {
    for layer in layers {
        for leaf in layer.tree.leaves() {
            let Err(error) = try_out::<C>(defaults, Tree::of_leaf(&leaf)) else {
                continue;
            };
            if let Some(known) = defaults.first_unknown(&leaf.path) {
                let path = &leaf.path[..known];
                return ConfigError::UnknownKey {
                    place: layer.source.place(path),
                    key: path.join("."),
                    hint: nearest(defaults, path, |known| known.join(".")),
                };
            }
            let example = defaults.get(&leaf.path);
            let example = example.filter(|example| !example.is_null() && **example != leaf.value);
            return ConfigError::Value {
                place: layer.source.place(&leaf.path),
                key: leaf.path.join("."),
                reason: one_line(&error),
                hint: example.map_or_else(String::new, |example| {
                    format!("; write something like {}", tree::inline(example))
                }),
            };
        }
    }
    ConfigError::Whole(one_line(error))
}

impl Source {
    /// Says where a key stands.
    fn place(&self, path: &[String]) -> String {
        match self {
            Self::Variable(variable) => variable.clone(),
            Self::File { path: file, text } => {
                let mut place = file.display().to_string();
                if let Some(line) = tree::line_of(text, path) {
                    let _ = write!(place, ", line {line}");
                }
                place
            }
        }
    }
}

/// Returns the end of a sentence that names the key that was probably meant.
fn nearest(defaults: &Tree, path: &[String], write: impl Fn(&[String]) -> String) -> String {
    match defaults.nearest(path) {
        Some(known) => format!("; did you mean {}?", write(&known)),
        None => "; --print-config shows all there are".into(),
    }
}

fn as_variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join(SEPARATOR).to_uppercase())
}

fn one_line(error: &impl ToString) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.split_whitespace().collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests;
