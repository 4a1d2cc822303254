//! Rules of uploads: which bytes a chunk has, and the sealed state that lets any proxy go on.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use oci::RepositoryName;
use sha2::Sha256;

use crate::error::Error;
use crate::push::Upload;

const MAC_BYTES: usize = 32;

/// Most bytes of the name of a ring member.
const MAX_MEMBER_BYTES: usize = 255;

/// Key that seals the state of uploads; the same at all proxies of a cluster.
#[derive(Clone)]
pub struct UploadSecret(Hmac<Sha256>);

impl std::fmt::Debug for UploadSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UploadSecret")
    }
}

impl UploadSecret {
    /// Makes the secret of any bytes; 32 random ones are best.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    /// Returns the path and query that go on with an upload. They do not depend on how far it is,
    /// so that a client may use any that it was given.
    pub(crate) fn location(&self, repository: &RepositoryName, upload: &Upload) -> String {
        let mut state = self
            .mac(repository, &upload.id, &upload.member)
            .finalize()
            .into_bytes()
            .to_vec();
        state.extend_from_slice(upload.member.as_bytes());
        let state = URL_SAFE_NO_PAD.encode(state);
        format!(
            "/v2/{repository}/blobs/uploads/{}?_state={state}",
            upload.id
        )
    }

    /// Returns the upload that an id and its sealed state name.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] where this cluster did not seal it: the client starts again.
    pub(crate) fn open(
        &self,
        repository: &RepositoryName,
        id: &str,
        state: Option<&str>,
    ) -> Result<Upload, Error> {
        let state = state.ok_or(Error::UploadUnknown)?;
        if state.len() > (MAC_BYTES + MAX_MEMBER_BYTES) * 4 / 3 + 2 {
            return Err(Error::UploadUnknown);
        }
        let state = URL_SAFE_NO_PAD
            .decode(state)
            .map_err(|_| Error::UploadUnknown)?;
        let (mac, member) = state
            .split_at_checked(MAC_BYTES)
            .ok_or(Error::UploadUnknown)?;
        let member = str::from_utf8(member).map_err(|_| Error::UploadUnknown)?;
        self.mac(repository, id, member)
            .verify_slice(mac)
            .map_err(|_| Error::UploadUnknown)?;
        Ok(Upload {
            member: member.to_owned(),
            id: id.to_owned(),
        })
    }

    fn mac(&self, repository: &RepositoryName, id: &str, member: &str) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        // None of the parts can have a zero byte but the last.
        for part in ["shoal upload v1", repository.as_str(), id, member] {
            mac.update(part.as_bytes());
            mac.update(b"\0");
        }
        mac
    }
}

/// Bytes of an upload that one request brings, by its `Content-Range`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UploadChunk {
    /// Offset of the first byte.
    pub(crate) offset: u64,
    /// Number of bytes.
    pub(crate) count: u64,
}

impl UploadChunk {
    /// Parses `first-last`, as the specification of registries has it, or `bytes first-last/total`,
    /// as that of HTTP does.
    pub(crate) fn parse(header: &str) -> Result<Self, Error> {
        let invalid = || {
            let header: String = header.chars().take(80).collect();
            Error::UploadInvalid(format!("Content-Range {header:?} is not <first>-<last>"))
        };
        let text = header.trim();
        let text = match text.get(..5) {
            Some(unit) if unit.eq_ignore_ascii_case("bytes") => {
                text[5..].trim_start_matches([' ', '='])
            }
            _ => text,
        };
        let (text, _total) = text.split_once('/').unwrap_or((text, ""));
        let (first, last) = text.split_once('-').ok_or_else(invalid)?;
        let number = |text: &str| -> Option<u64> {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok())?
        };
        let first = number(first).ok_or_else(invalid)?;
        let last = number(last).ok_or_else(invalid)?;
        let before_last = last.checked_sub(first).ok_or_else(invalid)?;
        let count = before_last.checked_add(1).ok_or_else(invalid)?;
        Ok(Self {
            offset: first,
            count,
        })
    }
}

/// Returns the value of `Range` that says how far an upload is. For one without bytes it is that
/// of an upload with one byte, as clients know it from other registries.
pub(crate) fn progress(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    fn state(location: &str) -> &str {
        location.split_once("?_state=").unwrap().1
    }

    #[test]
    fn any_proxy_with_the_secret_goes_on() {
        let upload = Upload {
            member: "origin-1:7000".to_owned(),
            id: "0af3".to_owned(),
        };
        let repository = name("team/app");
        let location = UploadSecret::new(b"secret").location(&repository, &upload);
        assert!(location.starts_with("/v2/team/app/blobs/uploads/0af3?_state="));
        let opened = UploadSecret::new(b"secret").open(&repository, "0af3", Some(state(&location)));
        assert_eq!(opened.unwrap(), upload);
    }

    #[test]
    fn what_was_not_sealed_is_not_opened() {
        let secret = UploadSecret::new(b"secret");
        let upload = Upload {
            member: "origin-1".to_owned(),
            id: "0af3".to_owned(),
        };
        let repository = name("team/app");
        let location = secret.location(&repository, &upload);
        let sealed = state(&location);
        let check = |secret: &UploadSecret, repository: &str, id: &str, state: Option<&str>| {
            let opened = secret.open(&name(repository), id, state);
            assert!(matches!(opened, Err(Error::UploadUnknown)), "{state:?}");
        };
        check(
            &UploadSecret::new(b"other"),
            "team/app",
            "0af3",
            Some(sealed),
        );
        check(&secret, "team/other", "0af3", Some(sealed));
        check(&secret, "team/app", "0af4", Some(sealed));
        check(&secret, "team/app", "0af3", None);
        check(&secret, "team/app", "0af3", Some(""));
        check(&secret, "team/app", "0af3", Some("not base64!"));
        check(&secret, "team/app", "0af3", Some(&"A".repeat(10_000)));
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            let forged = URL_SAFE_NO_PAD.encode(&bytes);
            check(&secret, "team/app", "0af3", Some(&forged));
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn chunks_are_read_in_both_ways() {
        let chunk = |offset, count| UploadChunk { offset, count };
        for (header, expected) in [
            ("0-1023", chunk(0, 1024)),
            ("1024-1024", chunk(1024, 1)),
            ("bytes 5-9/10", chunk(5, 5)),
            ("bytes 5-9/*", chunk(5, 5)),
            ("bytes=5-9", chunk(5, 5)),
        ] {
            assert_eq!(UploadChunk::parse(header).unwrap(), expected, "{header}");
        }
        for header in [
            "",
            "5",
            "9-5",
            "-5",
            "5-",
            "a-b",
            "+1-2",
            "0-18446744073709551615",
        ] {
            assert!(UploadChunk::parse(header).is_err(), "{header}");
        }
    }
}
