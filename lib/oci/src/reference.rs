//! Names of repositories, tags and images.
//!
//! Source: OCI distribution-spec 1.1, "Pulling manifests": the grammar of `<name>` and
//! `<reference>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, DigestError, clip};

/// Most bytes of a [`RepositoryName`].
pub const MAX_NAME_BYTES: usize = 255;

/// Most bytes of a [`Tag`].
pub const MAX_TAG_BYTES: usize = 128;

/// A string that names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error(
        "repository name {0:?} is not valid; write lower-case letters and digits, separated by \
         '.', '_', '__', '-' or '/'"
    )]
    Name(String),
    #[error("repository name {0:?}... is longer than {MAX_NAME_BYTES} bytes")]
    NameTooLong(String),
    #[error(
        "tag {0:?} is not valid; write up to {MAX_TAG_BYTES} letters, digits, '_', '.' or '-', \
         the first of them a letter, digit or '_'"
    )]
    Tag(String),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("registry {0:?} is not valid; write host, host:port or [IPv6]:port")]
    Host(String),
}

/// Name of a repository: the scope of tags and blobs in a registry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Arc<str>);

impl RepositoryName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() > MAX_NAME_BYTES {
            return Err(ReferenceError::NameTooLong(clip(text)));
        }
        if !text.split('/').all(is_component) {
            return Err(ReferenceError::Name(clip(text)));
        }
        Ok(Self(text.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let word = rest.iter().take_while(|&&byte| is_word(byte)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let between = rest.iter().take_while(|&&byte| !is_word(byte)).count();
        let is_separator = match &rest[..between] {
            b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|&byte| byte == b'-'),
        };
        if !is_separator {
            return false;
        }
        rest = &rest[between..];
    }
}

/// Mutable name of a manifest within a repository.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

impl Tag {
    /// Returns the tag that stands where none is written.
    #[must_use]
    pub fn latest() -> Self {
        Self("latest".into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let valid = match text.as_bytes() {
            [first, rest @ ..] => {
                is_word(*first)
                    && text.len() <= MAX_TAG_BYTES
                    && rest
                        .iter()
                        .all(|&byte| is_word(byte) || matches!(byte, b'.' | b'-'))
            }
            [] => false,
        };
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(ReferenceError::Tag(clip(text)))
        }
    }
}

/// What names a manifest within a repository: a tag or a digest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl Reference {
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Digest(digest) => Some(digest),
            Self::Tag(_) => None,
        }
    }

    #[must_use]
    pub const fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Tag(tag) => Some(tag),
            Self::Digest(_) => None,
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        // No tag has a colon, every digest has one.
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// An image as people write it: `[host[:port]/]name[:tag][@digest]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference {
    /// `host`, `host:port` or `[IPv6]:port`, where one was written.
    pub host: Option<String>,
    pub repository: RepositoryName,
    pub tag: Option<Tag>,
    pub digest: Option<Digest>,
}

impl ImageReference {
    /// Returns what names the manifest: the digest where there is one, else the tag, else the tag
    /// `latest`.
    #[must_use]
    pub fn reference(&self) -> Reference {
        match (self.digest, &self.tag) {
            (Some(digest), _) => digest.into(),
            (None, Some(tag)) => tag.clone().into(),
            (None, None) => Tag::latest().into(),
        }
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(digest.parse()?)),
            None => (text, None),
        };
        let (host, text) = match text.split_once('/') {
            Some((host, rest)) if looks_like_host(host) => (Some(parse_host(host)?), rest),
            Some(_) | None => (None, text),
        };
        let (name, tag) = match text.split_once(':') {
            Some((name, tag)) => (name, Some(tag.parse()?)),
            None => (text, None),
        };
        Ok(Self {
            host,
            repository: name.parse()?,
            tag,
            digest,
        })
    }
}

/// Docker's rule of what is a host and not the first part of a name.
fn looks_like_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':'])
}

fn parse_host(text: &str) -> Result<String, ReferenceError> {
    let error = || ReferenceError::Host(clip(text));
    let (host, port) = match text.strip_prefix('[') {
        Some(text) => {
            let (host, port) = text.split_once(']').ok_or_else(error)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
            match port {
                "" => (host, None),
                _ => (host, Some(port.strip_prefix(':').ok_or_else(error)?)),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_is_valid = !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':'));
    let port_is_valid = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    if host_is_valid && port_is_valid {
        Ok(text.to_owned())
    } else {
        Err(error())
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}/")?;
        }
        self.repository.fmt(f)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

macro_rules! impl_str {
    ($($type:ty),*) => {$(
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

impl_str!(RepositoryName, Tag);

macro_rules! impl_serde {
    ($($type:ty),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

impl_serde!(RepositoryName, Tag, Reference);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        let valid = [
            "a",
            "library/nginx",
            "quay.io/org/img",
            "a__b/c--d/e.f/g_h",
            "0/1/2",
            "a---b",
        ];
        for text in valid {
            assert_eq!(text.parse::<RepositoryName>().unwrap().as_str(), text);
        }
        let invalid = [
            "", "/", "a/", "/a", "a//b", "A", "a/B", "-a", "a-", "a..b", "a._b", "a___b", ".a",
            "a b", "a:b", "a@b", "ä", "a/../b", "a_-b",
        ];
        for text in invalid {
            let error = text.parse::<RepositoryName>().unwrap_err();
            assert_eq!(error, ReferenceError::Name(text.to_owned()));
        }
        assert!("a".repeat(255).parse::<RepositoryName>().is_ok());
        assert!(matches!(
            "a".repeat(256).parse::<RepositoryName>(),
            Err(ReferenceError::NameTooLong(_))
        ));
    }

    #[test]
    fn tags_follow_the_grammar() {
        for text in ["v1", "_", "1.0-rc.1", "latest", "A.b_C-9", &"x".repeat(128)] {
            assert_eq!(text.parse::<Tag>().unwrap().as_str(), text);
        }
        for text in ["", ".a", "-a", "a/b", "a:b", "a b", "ä", &"x".repeat(129)] {
            assert!(text.parse::<Tag>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest() {
        let digest = Digest::sha256(b"shoal");
        assert_eq!(digest.to_string().parse(), Ok(Reference::Digest(digest)));
        assert_eq!("v1".parse(), Ok(Reference::Tag("v1".parse().unwrap())));
        assert!(matches!(
            "sha256:baddigeststring".parse::<Reference>(),
            Err(ReferenceError::Digest(_))
        ));
    }

    #[test]
    fn images_are_taken_apart() {
        let digest = Digest::sha256(b"shoal");
        let check = |text: &str, host: Option<&str>, name: &str, tag: Option<&str>| {
            let image: ImageReference = text.parse().unwrap();
            assert_eq!(image.host.as_deref(), host, "{text}");
            assert_eq!(image.repository.as_str(), name, "{text}");
            assert_eq!(image.tag.as_ref().map(Tag::as_str), tag, "{text}");
            assert_eq!(image.to_string(), text);
        };
        check("nginx", None, "nginx", None);
        check("team/app:v1", None, "team/app", Some("v1"));
        check("localhost/app", Some("localhost"), "app", None);
        check(
            "127.0.0.1:5000/team/app:v1",
            Some("127.0.0.1:5000"),
            "team/app",
            Some("v1"),
        );
        check("[::1]:5000/app", Some("[::1]:5000"), "app", None);
        check("[fe80::1]/app:b", Some("[fe80::1]"), "app", Some("b"));
        check(
            "127.0.0.1:5000/quay.io/a/b:c",
            Some("127.0.0.1:5000"),
            "quay.io/a/b",
            Some("c"),
        );
        check(
            &format!("r.io/app:v1@{digest}"),
            Some("r.io"),
            "app",
            Some("v1"),
        );

        let image: ImageReference = format!("app:v1@{digest}").parse().unwrap();
        assert_eq!(image.reference(), digest.into());
        let image: ImageReference = "app".parse().unwrap();
        assert_eq!(image.reference(), Tag::latest().into());

        for text in [
            "",
            "host:99999/app",
            "host:/a:",
            "[::1/app",
            "[nothing]:1/app",
            "h_t.io/app",
            "app:",
            "app@sha256:1",
            "host:5000/App",
            "http://host:5000/app",
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn names_match_their_regular_expression(
            text in "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,3}){0,3}"
        ) {
            prop_assert_eq!(text.parse::<RepositoryName>().unwrap().to_string(), text);
        }

        #[test]
        fn whatever_parses_is_written_back(text in "[a-z.:/@_\\[\\]A-F0-9-]{0,40}") {
            if let Ok(image) = text.parse::<ImageReference>() {
                prop_assert_eq!(image.to_string(), text.clone());
            }
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert_eq!(name.to_string(), text.clone());
            }
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<ImageReference>();
            let _ = text.parse::<Reference>();
            let _ = text.parse::<RepositoryName>();
        }
    }
}
