//! Sizes in configurations.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Units, largest first.
const UNITS: [(u64, &str); 4] = [
    (1 << 40, "TiB"),
    (1 << 30, "GiB"),
    (1 << 20, "MiB"),
    (1 << 10, "KiB"),
];

/// A number of bytes. Text has it exactly, in the largest unit that divides it: what is printed is
/// what is used, and can be read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// Text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size; write a number with a unit, such as 64KiB, 256MiB or 20GiB")]
pub struct SizeError(String);

impl Size {
    /// Makes a size of bytes.
    #[must_use]
    pub const fn b(count: u64) -> Self {
        Self(count)
    }

    /// Makes a size of units of 1024² bytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Makes a size of units of 1024³ bytes.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(bytes, _): &&(u64, &str)| self.0 != 0 && self.0.is_multiple_of(*bytes);
        match UNITS.iter().find(exact) {
            Some((bytes, unit)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let size = text.parse::<ByteSize>();
        size.map(|size| Self(size.as_u64()))
            .map_err(|_| SizeError(text.chars().take(40).collect()))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A number alone counts bytes.
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size, such as 64KiB, 256MiB or 20GiB")]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_exact() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1_000_000, "1000000B"),
            (1_000_448, "977KiB"),
            (1 << 20, "1MiB"),
            ((1 << 20) + 1, "1048577B"),
            (20 << 30, "20GiB"),
            (3 << 39, "1536GiB"),
            (u64::MAX, "18446744073709551615B"),
        ] {
            let size = Size::b(bytes);
            assert_eq!(size.to_string(), text);
            let json = serde_json::to_string(&size).unwrap();
            assert_eq!(serde_json::from_str::<Size>(&json).unwrap(), size, "{text}");
        }
    }

    #[test]
    fn people_write_sizes_in_many_ways() {
        for (json, bytes) in [
            ("4096", 4096),
            (r#""4096""#, 4096),
            (r#""64 KiB""#, 65_536),
            (r#""1.5GiB""#, 3 << 29),
            (r#""2MB""#, 2_000_000),
        ] {
            let size = serde_json::from_str::<Size>(json).unwrap();
            assert_eq!(size, Size::b(bytes), "{json}");
        }
        for json in ["-1", "1.5", "true", "null", r#""much""#, r#""""#] {
            let error = serde_json::from_str::<Size>(json).unwrap_err().to_string();
            assert!(error.contains("such as 64KiB"), "{json}: {error}");
        }
    }
}
