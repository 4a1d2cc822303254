//! Byte ranges of GET requests.
//!
//! Source: RFC 9110, section 14, with two rules of Shoal's own: a reversed range such as `500-0`
//! is unsatisfiable (a client that asks for it is better told so than sent everything), and
//! several ranges in one request are refused.

use std::ops::Range;

/// A `Range` header that asks for one range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// `first-last`, both included. `last` may be less than `first`.
    FromTo(u64, u64),
    /// `first-`
    From(u64),
    /// `-length`
    Suffix(u64),
}

/// A range that cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Status 400.
    #[error("several ranges in one request are not supported; ask for one at a time")]
    Several,
    /// Status 416.
    #[error("the range does not lie within the {length} bytes there are")]
    Unsatisfiable { length: u64 },
}

impl RangeRequest {
    /// Parses the value of a `Range` header; `None` where the header is to be ignored because its
    /// unit is not bytes or it is malformed.
    ///
    /// # Errors
    /// [`RangeError::Several`]
    pub fn parse(header: &str) -> Result<Option<Self>, RangeError> {
        let Some((unit, list)) = header.split_once('=') else {
            return Ok(None);
        };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Ok(None);
        }
        // Lists may have empty elements (RFC 9110, section 5.6.1).
        let elements = list
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty());
        let mut only = None;
        let mut several = false;
        for element in elements {
            match Self::parse_element(element) {
                Some(range) => several |= only.replace(range).is_some(),
                None => return Ok(None),
            }
        }
        if several {
            return Err(RangeError::Several);
        }
        Ok(only)
    }

    fn parse_element(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first, last) {
            ("", length) => Some(Self::Suffix(parse_number(length)?)),
            (first, "") => Some(Self::From(parse_number(first)?)),
            (first, last) => Some(Self::FromTo(parse_number(first)?, parse_number(last)?)),
        }
    }

    /// Returns the bytes meant in content of `length` bytes; `None` where the content is empty, of
    /// which no range can be named, so that the whole is sent.
    ///
    /// # Errors
    /// [`RangeError::Unsatisfiable`]
    pub const fn resolve(self, length: u64) -> Result<Option<ByteRange>, RangeError> {
        let end = match self {
            Self::FromTo(first, last) if last < first => {
                return Err(RangeError::Unsatisfiable { length });
            }
            Self::FromTo(_, last) if last < length => last + 1,
            Self::FromTo(..) | Self::From(_) | Self::Suffix(_) => length,
        };
        if length == 0 {
            return Ok(None);
        }
        let start = match self {
            Self::FromTo(first, _) | Self::From(first) => first,
            Self::Suffix(suffix) => length.saturating_sub(suffix),
        };
        if start >= end {
            return Err(RangeError::Unsatisfiable { length });
        }
        Ok(Some(ByteRange { start, end, length }))
    }
}

/// Digits only: no sign and no space. What is too large for 64 bits is past any end.
fn parse_number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// At least one byte of content, and how long the content is. Made by [`RangeRequest::resolve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    start: u64,
    end: u64,
    length: u64,
}

impl ByteRange {
    /// Returns the offsets in bytes.
    #[must_use]
    pub const fn bytes(&self) -> Range<u64> {
        self.start..self.end
    }

    /// Returns the number of bytes of the range, for `Content-Length`.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.end - self.start
    }

    /// Returns the value of `Content-Range`.
    #[must_use]
    pub fn content_range(&self) -> String {
        format!("bytes {}-{}/{}", self.start, self.end - 1, self.length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolve(header: &str, length: u64) -> Result<Option<Range<u64>>, RangeError> {
        match RangeRequest::parse(header)? {
            Some(range) => Ok(range.resolve(length)?.map(|range| range.bytes())),
            None => Ok(None),
        }
    }

    #[test]
    fn one_range_is_resolved() {
        for (header, expected) in [
            ("bytes=500-1499", 500..1500),
            ("bytes=500-", 500..3000),
            ("bytes=-500", 2500..3000),
            ("bytes=2000-5000", 2000..3000),
            ("bytes=-5000", 0..3000),
            ("bytes=0-", 0..3000),
            ("bytes=0-0", 0..1),
            ("bytes=2999-2999", 2999..3000),
            ("BYTES=0-0", 0..1),
            ("bytes= 0-0 ,", 0..1),
            ("bytes=0-99999999999999999999999", 0..3000),
        ] {
            assert_eq!(resolve(header, 3000), Ok(Some(expected)), "{header}");
        }
    }

    #[test]
    fn what_lies_outside_is_unsatisfiable() {
        for header in [
            "bytes=500-0",
            "bytes=3000-",
            "bytes=5000-10000",
            "bytes=-0",
            "bytes=99999999999999999999999-",
        ] {
            let expected = Err(RangeError::Unsatisfiable { length: 3000 });
            assert_eq!(resolve(header, 3000), expected, "{header}");
        }
    }

    #[test]
    fn of_nothing_there_is_no_range() {
        for header in ["bytes=0-", "bytes=-500", "bytes=0-0"] {
            assert_eq!(resolve(header, 0), Ok(None), "{header}");
        }
        let unsatisfiable = RangeError::Unsatisfiable { length: 0 };
        assert_eq!(resolve("bytes=500-0", 0), Err(unsatisfiable));
    }

    #[test]
    fn several_ranges_are_refused() {
        for header in ["bytes=0-1,5-6", "bytes=0-1, -1", "bytes=0-1,0-1"] {
            assert_eq!(resolve(header, 3000), Err(RangeError::Several), "{header}");
        }
    }

    #[test]
    fn other_units_and_nonsense_are_ignored() {
        for header in [
            "items=0-1",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=+1-2",
            "bytes=1 -2",
            "bytes=0-1,x",
            "bytes=--1",
            "",
            "=0-1",
        ] {
            assert_eq!(resolve(header, 3000), Ok(None), "{header}");
        }
    }

    #[test]
    fn content_range_counts_to_the_last_byte() {
        let range = RangeRequest::Suffix(500).resolve(3000).unwrap().unwrap();
        assert_eq!(range.content_range(), "bytes 2500-2999/3000");
        assert_eq!(range.count(), 500);
    }

    proptest! {
        #[test]
        fn what_is_served_lies_within(first: u64, last: u64, length: u64, open: bool) {
            let header = if open {
                format!("bytes={first}-")
            } else {
                format!("bytes={first}-{last}")
            };
            match resolve(&header, length) {
                Ok(Some(range)) => {
                    prop_assert_eq!(range.start, first);
                    prop_assert!(range.start < range.end && range.end <= length);
                    prop_assert!(open || range.end - 1 <= last);
                }
                Ok(None) => prop_assert_eq!(length, 0),
                Err(error) => {
                    prop_assert_eq!(error, RangeError::Unsatisfiable { length });
                    prop_assert!(first >= length || (!open && last < first));
                }
            }
        }

        #[test]
        fn no_header_panics(header in "(bytes=)?[0-9,a -]{0,30}", length: u64) {
            let _ = resolve(&header, length);
        }
    }
}
