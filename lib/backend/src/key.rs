//! Names of objects.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest key in bytes: the limit of S3.
pub const MAX_KEY_BYTES: usize = 1024;
/// Longest segment in bytes: the limit of most file systems.
pub const MAX_SEGMENT_BYTES: usize = 255;

/// Name of an object: segments joined by `/`.
///
/// No segment is empty, starts with a dot (so there is no `..`, and a backend may keep its own
/// files beside), or holds control characters or backslashes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// A text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a storage key has 1 to {MAX_KEY_BYTES} bytes, not {0}")]
    Length(usize),
    #[error("the segment {0:?} cannot be part of a storage key")]
    Segment(String),
}

impl Key {
    /// # Errors
    /// [`KeyError`] where the text is no key.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, KeyError> {
        let text = text.into();
        check(&text)?;
        Ok(Self(text))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last segment.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Returns the rest of the key after `prefix`, where it starts with it.
    #[must_use]
    pub fn strip<'a>(&'a self, prefix: &Prefix) -> Option<&'a str> {
        self.0.strip_prefix(prefix.as_str())
    }

    /// Returns the folder directly under `prefix` that the key is in, where it is in one.
    pub(crate) fn folder_under(&self, prefix: &Prefix) -> Option<Prefix> {
        let slash = self.strip(prefix)?.find('/')?;
        Some(Prefix(self.0[..=prefix.0.len() + slash].into()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

/// A folder of keys: nothing (the whole store), or segments that each end with `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Returns the prefix of all keys.
    #[must_use]
    pub fn root() -> Self {
        Self("".into())
    }

    /// Makes the prefix of a text such as `a/b/`.
    ///
    /// # Errors
    /// [`KeyError`] where the text without its last slash is no key.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, KeyError> {
        let text = text.into();
        if !text.is_empty() {
            let folder = text
                .strip_suffix('/')
                .ok_or_else(|| KeyError::Segment(clip(&text)))?;
            check(folder)?;
        }
        Ok(Self(text))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last segment, without its slash; empty for the root.
    #[must_use]
    pub fn name(&self) -> &str {
        let folder = self.0.strip_suffix('/').unwrap_or(&self.0);
        folder.rsplit('/').next().unwrap_or(folder)
    }

    /// Returns the key of this folder and `rest`.
    ///
    /// # Errors
    /// [`KeyError`] where the result is no key.
    pub fn key(&self, rest: &str) -> Result<Key, KeyError> {
        Key::new(format!("{}{rest}", self.0))
    }

    /// Returns the folder `rest` in this folder; `rest` has no slash at its end.
    ///
    /// # Errors
    /// [`KeyError`] where the result is no prefix.
    pub fn folder(&self, rest: &str) -> Result<Self, KeyError> {
        Self::new(format!("{}{rest}/", self.0))
    }

    /// Returns the rest of this prefix after `parent`, without the last slash.
    #[must_use]
    pub fn strip<'a>(&'a self, parent: &Self) -> Option<&'a str> {
        self.0.strip_prefix(parent.as_str())?.strip_suffix('/')
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(text: &str) -> Result<(), KeyError> {
    if text.is_empty() || text.len() > MAX_KEY_BYTES {
        return Err(KeyError::Length(text.len()));
    }
    for segment in text.split('/') {
        let good = !segment.is_empty()
            && segment.len() <= MAX_SEGMENT_BYTES
            && !segment.starts_with('.')
            && !segment.contains(|c: char| c.is_control() || c == '\\');
        if !good {
            return Err(KeyError::Segment(clip(segment)));
        }
    }
    Ok(())
}

/// Keeps error messages short whatever came in.
fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_keys() {
        for good in ["a", "a/b", "docker/registry/v2", "a.b/_c/d:e"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
            assert_eq!(
                Prefix::new(format!("{good}/"))
                    .unwrap()
                    .key("x")
                    .unwrap()
                    .as_str(),
                format!("{good}/x")
            );
        }
        let long = "a/".repeat(512) + "a";
        let wide = "a".repeat(256);
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/.hidden",
            "a\\b",
            "a\nb",
            &long,
            &wide,
        ] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        assert!(Prefix::new("a").is_err());
        assert!(Prefix::new("../").is_err());
    }

    #[test]
    fn names_are_last_segments() {
        let prefix = Prefix::new("a/b/").unwrap();
        assert_eq!(prefix.name(), "b");
        assert_eq!(prefix.strip(&Prefix::new("a/").unwrap()), Some("b"));
        assert_eq!(Prefix::root().name(), "");
        let key = prefix.key("c/d").unwrap();
        assert_eq!((key.name(), key.strip(&prefix)), ("d", Some("c/d")));
    }
}
