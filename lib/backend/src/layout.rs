//! Where everything stands in a backend. Nobody else joins keys.
//!
//! ```text
//! docker/registry/v2/                      the layout of CNCF Distribution (docker-registry)
//!   blobs/sha256/ab/<hex>/data             content; sha512 content stands under its sha256
//!   repositories/<repository>/
//!     _layers/<algorithm>/<hex>/link       "this repository has this blob"
//!     _manifests/
//!       revisions/<algorithm>/<hex>/link   "this repository has this manifest"
//!       tags/<tag>/current/link            what the tag names: projection of the tag record
//!       tags/<tag>/index/<algorithm>/<hex>/link   what it named before, and names now
//! shoal/v1/                                what Shoal adds; can be rebuilt, but for tag history
//!   metainfo/<algorithm>/ab/<hex>/pieces   signed metainfo of a blob: its piece values
//!   metainfo/<algorithm>/ab/<hex>/blocks   its block values, 32 bytes each, readable by range
//!   aliases/sha512/ab/<hex>                link to the sha256 of the same content
//!   media-types/<algorithm>/ab/<hex>       media type that a manifest was pushed with
//!   tags/<repository>/_tags/<tag>          tag record: the truth about a tag
//!   referrers/<repository>/_subjects/<algorithm>/<hex>/<algorithm>/<hex>
//!                                          subject, then the manifest that refers to it
//! ```
//!
//! A `link` holds a digest as text, `sha256:<hex>`, and nothing else. The link of something that
//! is named by sha512 holds the sha256 under which the content stands, which is how Distribution
//! follows links. Segments that start with `_` cannot be part of a repository's name; that keeps
//! the repository `a/b` and the tag `b` of `a` apart.

use bytes::Bytes;
use oci::{Algorithm, Digest};

use crate::{Backend, Error, Key, KeyError, Prefix};

/// Longest content of a link in bytes: a sha512 digest and a line end.
const MAX_LINK_BYTES: u64 = 137;

/// Returns the key of a blob's content. `content` is its sha256: see [`content_digest`].
///
/// # Panics
/// For a sha512 digest: content never stands under one.
#[must_use]
pub fn blob(content: &Digest) -> Key {
    assert!(
        content.algorithm() == Algorithm::Sha256,
        "content stands under its sha256"
    );
    key(format!("{BLOBS}{}/data", spread(content)))
}

/// Returns the key of the signed metainfo of a blob, under the digest the swarm names it by.
#[must_use]
pub fn metainfo(digest: &Digest) -> Key {
    key(format!("{OURS}metainfo/{}/pieces", spread(digest)))
}

/// Returns the key of the block values of a blob.
#[must_use]
pub fn blocks(digest: &Digest) -> Key {
    key(format!("{OURS}metainfo/{}/blocks", spread(digest)))
}

/// Returns the key of the link from a sha512 digest to the sha256 of the same content.
#[must_use]
pub fn alias(digest: &Digest) -> Key {
    key(format!("{OURS}aliases/{}", spread(digest)))
}

/// Returns the key of the media type that a manifest was pushed with.
#[must_use]
pub fn media_type(manifest: &Digest) -> Key {
    key(format!("{OURS}media-types/{}", spread(manifest)))
}

/// Returns the folder of all repositories. A repository is a folder in it, at any depth, that
/// itself has folders which begin with `_`.
///
/// # Panics
/// Never: the text is constant.
#[must_use]
pub fn repositories() -> Prefix {
    Prefix::new(REPOSITORIES).expect("a constant that is a prefix")
}

/// Returns the folder of a repository, in which also those stand whose names continue its own.
///
/// # Errors
/// [`KeyError`], as all that follow, for a name that is no repository's.
pub fn repository(repository: &str) -> Result<Prefix, KeyError> {
    repositories().folder(checked(repository)?)
}

/// Returns the key of the link by which a repository has a blob.
///
/// # Errors
/// [`KeyError`] for a name that is no repository's.
pub fn layer_link(repository: &str, blob: &Digest) -> Result<Key, KeyError> {
    let digest = plain(blob);
    let text = format!(
        "{REPOSITORIES}{}/_layers/{digest}/link",
        checked(repository)?
    );
    Key::new(text)
}

/// Returns the folder of the links to a repository's manifests; in it `<algorithm>/<hex>/link`.
///
/// # Errors
/// [`KeyError`] for a name that is no repository's.
pub fn revisions(repository: &str) -> Result<Prefix, KeyError> {
    let text = format!(
        "{REPOSITORIES}{}/_manifests/revisions/",
        checked(repository)?
    );
    Prefix::new(text)
}

/// Returns the key of the link by which a repository has a manifest.
///
/// # Errors
/// [`KeyError`] for a name that is no repository's.
pub fn revision_link(repository: &str, manifest: &Digest) -> Result<Key, KeyError> {
    revisions(repository)?.key(&format!("{}/link", plain(manifest)))
}

/// Returns the folder of a repository's tags as Distribution has them; each is a folder in it.
///
/// # Errors
/// [`KeyError`] for a name that is no repository's.
pub fn tags(repository: &str) -> Result<Prefix, KeyError> {
    let text = format!("{REPOSITORIES}{}/_manifests/tags/", checked(repository)?);
    Prefix::new(text)
}

/// Returns the key of the link to what a tag names.
///
/// # Errors
/// [`KeyError`] for a name that is no repository's, or no tag.
pub fn tag_link(repository: &str, tag: &str) -> Result<Key, KeyError> {
    tags(repository)?.key(&format!("{}/current/link", segment(tag)?))
}

/// Returns the key of the link to something that a tag names, or named once.
///
/// # Errors
/// [`KeyError`] for a name that is no repository's, or no tag.
pub fn tag_index_link(repository: &str, tag: &str, manifest: &Digest) -> Result<Key, KeyError> {
    let (tag, digest) = (segment(tag)?, plain(manifest));
    tags(repository)?.key(&format!("{tag}/index/{digest}/link"))
}

/// Returns the folder of a repository's tag records; each is an object in it.
///
/// # Errors
/// [`KeyError`] for a name that is no repository's.
pub fn tag_records(repository: &str) -> Result<Prefix, KeyError> {
    Prefix::new(format!("{OURS}tags/{}/_tags/", checked(repository)?))
}

/// Returns the key of the record of a tag.
///
/// # Errors
/// [`KeyError`] for a name that is no repository's, or no tag.
pub fn tag_record(repository: &str, tag: &str) -> Result<Key, KeyError> {
    tag_records(repository)?.key(segment(tag)?)
}

/// Returns the folder of what refers to a manifest; in it `<algorithm>/<hex>` of each.
///
/// # Errors
/// [`KeyError`] for a name that is no repository's.
pub fn referrers(repository: &str, subject: &Digest) -> Result<Prefix, KeyError> {
    let subject = plain(subject);
    let text = format!(
        "{OURS}referrers/{}/_subjects/{subject}/",
        checked(repository)?
    );
    Prefix::new(text)
}

/// Returns the key of what is known of a manifest that refers to `subject`.
///
/// # Errors
/// [`KeyError`] for a name that is no repository's.
pub fn referrer(repository: &str, subject: &Digest, manifest: &Digest) -> Result<Key, KeyError> {
    referrers(repository, subject)?.key(&plain(manifest))
}

/// Returns what a link to this digest holds.
#[must_use]
pub fn link_to(digest: &Digest) -> Bytes {
    digest.to_string().into()
}

/// Returns the digest that a link holds, where it holds one.
#[must_use]
pub fn parse_link(bytes: &[u8]) -> Option<Digest> {
    std::str::from_utf8(bytes).ok()?.trim_end().parse().ok()
}

/// Reads a link; `None` where there is none, or none that holds a digest.
///
/// # Errors
/// A failure of the store.
pub async fn read_link(backend: &dyn Backend, link: &Key) -> Result<Option<Digest>, Error> {
    match backend.read(link, MAX_LINK_BYTES).await {
        Ok((bytes, _)) => Ok(parse_link(&bytes)),
        Err(Error::NotFound { .. } | Error::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the sha256 under which the content of `digest` stands; `None` where `digest` is a
/// sha512 that nothing was stored under.
///
/// # Errors
/// A failure of the store.
pub async fn content_digest(
    backend: &dyn Backend,
    digest: &Digest,
) -> Result<Option<Digest>, Error> {
    match digest {
        Digest::Sha256(_) => Ok(Some(*digest)),
        Digest::Sha512(_) => {
            let content = read_link(backend, &alias(digest)).await?;
            Ok(content.filter(|content| content.algorithm() == Algorithm::Sha256))
        }
    }
}

const BLOBS: &str = "docker/registry/v2/blobs/";
const REPOSITORIES: &str = "docker/registry/v2/repositories/";
const OURS: &str = "shoal/v1/";

fn key(text: String) -> Key {
    Key::new(text).expect("digests, repository names and tags make short, plain segments")
}

/// Returns `<algorithm>/<first two digits>/<hex>`: no folder gets too many entries.
fn spread(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}/{}/{hex}", digest.algorithm().as_str(), &hex[..2])
}

/// Returns `<algorithm>/<hex>`.
fn plain(digest: &Digest) -> String {
    format!("{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Returns the name of a repository, none of whose parts may be taken for a folder of ours.
fn checked(repository: &str) -> Result<&str, KeyError> {
    match repository.split('/').find(|part| part.starts_with('_')) {
        Some(part) => Err(KeyError::Segment(part.chars().take(80).collect())),
        None => Ok(repository),
    }
}

/// Returns a text that is one segment.
fn segment(text: &str) -> Result<&str, KeyError> {
    if text.contains('/') {
        return Err(KeyError::Segment(text.chars().take(80).collect()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Condition;
    use crate::memory::MemoryBackend;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn content_stands_where_distribution_looks_for_it() {
        let digest = Digest::sha256(b"");
        assert_eq!(
            blob(&digest).as_str(),
            format!("docker/registry/v2/blobs/sha256/e3/{HEX}/data")
        );
        assert_eq!(
            metainfo(&digest).as_str(),
            format!("shoal/v1/metainfo/sha256/e3/{HEX}/pieces")
        );
        assert_eq!(link_to(&digest), format!("sha256:{HEX}"));
    }

    #[test]
    fn repositories_stand_where_distribution_looks_for_them() {
        let digest = Digest::sha256(b"");
        let folder = "docker/registry/v2/repositories/team/app";
        let check = |key: Result<Key, KeyError>, rest: &str| {
            assert_eq!(key.unwrap().as_str(), format!("{folder}/{rest}"));
        };
        check(
            layer_link("team/app", &digest),
            &format!("_layers/sha256/{HEX}/link"),
        );
        check(
            revision_link("team/app", &digest),
            &format!("_manifests/revisions/sha256/{HEX}/link"),
        );
        check(
            tag_link("team/app", "v1"),
            "_manifests/tags/v1/current/link",
        );
        check(
            tag_index_link("team/app", "v1", &digest),
            &format!("_manifests/tags/v1/index/sha256/{HEX}/link"),
        );
        assert_eq!(
            repository("team/app").unwrap().as_str(),
            format!("{folder}/")
        );
        assert_eq!(
            tag_record("team/app", "v1").unwrap().as_str(),
            "shoal/v1/tags/team/app/_tags/v1"
        );
        assert_eq!(
            referrer("team/app", &digest, &digest).unwrap().as_str(),
            format!("shoal/v1/referrers/team/app/_subjects/sha256/{HEX}/sha256/{HEX}")
        );
    }

    #[test]
    fn names_cannot_reach_into_folders_of_others() {
        for name in [
            "",
            "..",
            "a/../b",
            "/a",
            "a//b",
            "a/_layers",
            "_manifests/tags",
            ".hidden",
        ] {
            assert!(tag_link(name, "v1").is_err(), "{name:?}");
            assert!(tag_record(name, "v1").is_err(), "{name:?}");
            assert!(referrers(name, &Digest::sha256(b"")).is_err(), "{name:?}");
        }
        for tag in ["", "..", "a/b", "../other"] {
            assert!(
                tag_link("app", tag).is_err() && tag_record("app", tag).is_err(),
                "{tag:?}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "content stands under its sha256")]
    fn content_never_stands_under_a_sha512() {
        let _ = blob(&Digest::of(Algorithm::Sha512, b""));
    }

    #[test]
    fn a_link_is_a_digest_and_nothing_else() {
        let digest = Digest::sha256(b"x");
        assert_eq!(parse_link(&link_to(&digest)), Some(digest));
        assert_eq!(parse_link(format!("{digest}\n").as_bytes()), Some(digest));
        for bad in [&b""[..], b"sha256:", b"\xff", b"latest"] {
            assert_eq!(parse_link(bad), None);
        }
    }

    #[tokio::test]
    async fn a_sha512_leads_to_its_content() {
        let backend = MemoryBackend::new();
        let (short, long) = (Digest::sha256(b"x"), Digest::of(Algorithm::Sha512, b"x"));
        let find = async |digest| content_digest(&backend, digest).await.unwrap();
        assert_eq!(find(&short).await, Some(short));
        assert_eq!(find(&long).await, None);
        backend
            .put(&alias(&long), link_to(&short), Condition::Any)
            .await
            .unwrap();
        assert_eq!(find(&long).await, Some(short));
        let loop_ = backend
            .put(&alias(&long), link_to(&long), Condition::Any)
            .await;
        loop_.unwrap();
        assert_eq!(find(&long).await, None, "a link to itself leads nowhere");
    }
}
