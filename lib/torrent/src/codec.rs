//! Bounded reading and writing of canonical bytes (big-endian integers, length-prefixed strings).
//! Used by everything that is signed, sent to a peer or kept beside a blob.

/// Bytes that do not hold what was asked of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the bytes end before the value does")]
    Truncated,
    #[error("{0} is out of its bounds")]
    OutOfBounds(&'static str),
    #[error("{0} has an unknown value")]
    Unknown(&'static str),
    #[error("bytes are left over after the value")]
    Trailing,
}

/// Reads values off the front of a byte slice; never reads past its end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// # Errors
    /// [`DecodeError::Trailing`] where bytes are left.
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing)
        }
    }

    /// # Errors
    /// [`DecodeError::Truncated`] where fewer than `count` bytes are left.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// # Errors
    /// [`DecodeError::Truncated`] where fewer than `N` bytes are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// # Errors
    /// [`DecodeError::Truncated`], as the other integer readers.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// Reads a count (u32) of things that take at least `min_bytes` each, so that a forged count
    /// cannot make the reader allocate more than the message holds.
    ///
    /// # Errors
    /// [`DecodeError::OutOfBounds`] above `max` or above what the remaining bytes can hold.
    pub fn count(
        &mut self,
        what: &'static str,
        max: usize,
        min_bytes: usize,
    ) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.u32()?).map_err(|_| DecodeError::OutOfBounds(what))?;
        if count > max || count.saturating_mul(min_bytes) > self.remaining() {
            return Err(DecodeError::OutOfBounds(what));
        }
        Ok(count)
    }

    /// Reads a string of at most `max` bytes with a u16 length.
    ///
    /// # Errors
    /// [`DecodeError::OutOfBounds`] where it is longer or not UTF-8.
    pub fn string(&mut self, what: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        let length = usize::from(self.u16()?);
        if length > max {
            return Err(DecodeError::OutOfBounds(what));
        }
        std::str::from_utf8(self.take(length)?).map_err(|_| DecodeError::OutOfBounds(what))
    }
}

/// Writes a count as u32.
///
/// # Panics
/// Above `u32::MAX`: callers bound their lists long before.
pub fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("lists are bounded below u32::MAX");
    out.extend_from_slice(&count.to_be_bytes());
}

/// Writes a string with a u16 length; what exceeds 65,535 bytes is an error of the caller.
///
/// # Panics
/// Above 65,535 bytes.
pub fn put_string(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("strings on the wire are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
