//! The one range that a request may ask for (RFC 9110, section 14).

use std::ops::Range;

use axum::http::{HeaderMap, header};

use super::error::Failure;

/// Returns the part of a blob of `length` bytes that a request asks for; `None` for all of it.
/// Units other than bytes are ignored, as the RFC has it.
pub(super) fn of(headers: &HeaderMap, length: u64) -> Result<Option<Range<u64>>, Failure> {
    let Some(value) = headers.get(header::RANGE) else {
        return Ok(None);
    };
    let Some(text) = value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("bytes="))
    else {
        return Ok(None);
    };
    let wrong = |message| Failure::Range { length, message };
    if text.contains(',') {
        return Err(Failure::Query("one range at a time, please".to_owned()));
    }
    let (first, last) = text.split_once('-').ok_or(wrong("a range has a '-'"))?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let parsed = digits.then(|| text.parse().unwrap_or(u64::MAX));
        parsed.ok_or(wrong("a range has numbers on both sides of the '-'"))
    };
    let range = match (first.is_empty(), last.is_empty()) {
        (true, _) => length.saturating_sub(number(last)?)..length,
        (false, true) => number(first)?..length,
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(wrong("the range ends before it starts"));
            }
            first..last.saturating_add(1).min(length)
        }
    };
    if range.start >= range.end {
        return Err(wrong("the range lies past the end"));
    }
    Ok(Some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Option<Range<u64>>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, text.parse().unwrap());
        of(&headers, 1000)
    }

    #[test]
    fn a_range_is_taken_as_the_rfc_has_it() {
        for (text, expected) in [
            ("bytes=0-0", 0..1),
            ("bytes=500-1499", 500..1000),
            ("bytes=500-", 500..1000),
            ("bytes=-1", 999..1000),
            ("bytes=-5000", 0..1000),
            ("bytes=0-99999999999999999999999", 0..1000),
        ] {
            assert_eq!(check(text).unwrap(), Some(expected), "{text}");
        }
        assert_eq!(check("lines=1-2").unwrap(), None);
        assert_eq!(of(&HeaderMap::new(), 10).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_satisfied_says_so() {
        for text in [
            "bytes=500-0",
            "bytes=1000-",
            "bytes=5000-6000",
            "bytes=-0",
            "bytes=a-b",
            "bytes=1",
            "bytes=-",
        ] {
            assert!(
                matches!(check(text), Err(Failure::Range { length: 1000, .. })),
                "{text}"
            );
        }
        assert!(matches!(check("bytes=0-1,3-4"), Err(Failure::Query(_))));
    }
}
