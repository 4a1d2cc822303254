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
use oci::{Algorithm, Digest, RepositoryName, Tag};

use crate::{Backend, Error, Key, Prefix};

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

/// Returns the folder of all content.
#[must_use]
pub fn blobs() -> Prefix {
    prefix(format!("{BLOBS}sha256/"))
}

/// Returns the sha256 of the content that stands under a key: the opposite of [`blob`].
#[must_use]
pub fn content_of(key: &Key) -> Option<Digest> {
    let hex = key.strip(&blobs())?.split('/').nth(1)?;
    let digest = format!("sha256:{hex}").parse().ok()?;
    (*key == blob(&digest)).then_some(digest)
}

/// Returns the folder of the links from sha512 digests.
#[must_use]
pub fn aliases() -> Prefix {
    prefix(format!("{OURS}aliases/sha512/"))
}

/// Returns the sha512 whose link stands under a key: the opposite of [`alias`].
#[must_use]
pub fn alias_of(key: &Key) -> Option<Digest> {
    let digest = format!("sha512:{}", key.name()).parse().ok()?;
    (*key == alias(&digest)).then_some(digest)
}

/// Returns the key of the signed metainfo of a blob, under the digest the swarm names it by.
#[must_use]
pub fn metainfo(digest: &Digest) -> Key {
    key(format!("{OURS}metainfo/{}/pieces", spread(digest)))
}

/// Returns the digest of the blob whose metainfo stands under a key: the opposite of [`metainfo`].
#[must_use]
pub fn metainfo_of(key: &Key) -> Option<Digest> {
    let folder = prefix(format!("{OURS}metainfo/"));
    let mut segments = key.strip(&folder)?.split('/');
    let (algorithm, hex) = (segments.next()?, segments.nth(1)?);
    let digest = format!("{algorithm}:{hex}").parse().ok()?;
    (*key == metainfo(&digest)).then_some(digest)
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
#[must_use]
pub fn repositories() -> Prefix {
    prefix(REPOSITORIES.to_owned())
}

/// Returns the folder of a repository, in which also those stand whose names continue its own.
#[must_use]
pub fn repository(repository: &RepositoryName) -> Prefix {
    prefix(format!("{REPOSITORIES}{repository}/"))
}

/// Returns the key of the link by which a repository has a blob.
#[must_use]
pub fn layer_link(repository: &RepositoryName, blob: &Digest) -> Key {
    key(format!(
        "{REPOSITORIES}{repository}/_layers/{}/link",
        plain(blob)
    ))
}

/// Returns the folder of the links to a repository's manifests; in it `<algorithm>/<hex>/link`.
#[must_use]
pub fn revisions(repository: &RepositoryName) -> Prefix {
    prefix(format!("{REPOSITORIES}{repository}/_manifests/revisions/"))
}

/// Returns the key of the link by which a repository has a manifest.
#[must_use]
pub fn revision_link(repository: &RepositoryName, manifest: &Digest) -> Key {
    key(format!("{}{}/link", revisions(repository), plain(manifest)))
}

/// Returns the folder of a repository's tags as Distribution has them; each is a folder in it.
#[must_use]
pub fn tags(repository: &RepositoryName) -> Prefix {
    prefix(format!("{REPOSITORIES}{repository}/_manifests/tags/"))
}

/// Returns the key of the link to what a tag names.
#[must_use]
pub fn tag_link(repository: &RepositoryName, tag: &Tag) -> Key {
    key(format!("{}{tag}/current/link", tags(repository)))
}

/// Returns the key of the link to something that a tag names, or named once.
#[must_use]
pub fn tag_index_link(repository: &RepositoryName, tag: &Tag, manifest: &Digest) -> Key {
    key(format!(
        "{}{tag}/index/{}/link",
        tags(repository),
        plain(manifest)
    ))
}

/// Returns the folder of a repository's tag records; each is an object in it.
#[must_use]
pub fn tag_records(repository: &RepositoryName) -> Prefix {
    prefix(format!("{OURS}tags/{repository}/_tags/"))
}

/// Returns the key of the record of a tag.
#[must_use]
pub fn tag_record(repository: &RepositoryName, tag: &Tag) -> Key {
    key(format!("{}{tag}", tag_records(repository)))
}

/// Returns the folder of what refers to a manifest; in it `<algorithm>/<hex>` of each.
#[must_use]
pub fn referrers(repository: &RepositoryName, subject: &Digest) -> Prefix {
    let subject = plain(subject);
    prefix(format!("{OURS}referrers/{repository}/_subjects/{subject}/"))
}

/// Returns the key of what is known of a manifest that refers to `subject`.
#[must_use]
pub fn referrer(repository: &RepositoryName, subject: &Digest, manifest: &Digest) -> Key {
    key(format!(
        "{}{}",
        referrers(repository, subject),
        plain(manifest)
    ))
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

fn prefix(text: String) -> Prefix {
    Prefix::new(text).expect("digests and repository names make short, plain segments")
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
        let name: RepositoryName = "team/app".parse().unwrap();
        let tag: Tag = "v1".parse().unwrap();
        let folder = "docker/registry/v2/repositories/team/app";
        let check = |key: Key, rest: &str| {
            assert_eq!(key.as_str(), format!("{folder}/{rest}"));
        };
        check(
            layer_link(&name, &digest),
            &format!("_layers/sha256/{HEX}/link"),
        );
        check(
            revision_link(&name, &digest),
            &format!("_manifests/revisions/sha256/{HEX}/link"),
        );
        check(tag_link(&name, &tag), "_manifests/tags/v1/current/link");
        check(
            tag_index_link(&name, &tag, &digest),
            &format!("_manifests/tags/v1/index/sha256/{HEX}/link"),
        );
        assert_eq!(repository(&name).as_str(), format!("{folder}/"));
        assert_eq!(
            tag_record(&name, &tag).as_str(),
            "shoal/v1/tags/team/app/_tags/v1"
        );
        assert_eq!(
            referrer(&name, &digest, &digest).as_str(),
            format!("shoal/v1/referrers/team/app/_subjects/sha256/{HEX}/sha256/{HEX}")
        );
        assert_eq!(repository(&name).strip(&repositories()), Some("team/app"));
    }

    /// What the types allow always makes a key.
    #[test]
    fn the_longest_names_make_keys() {
        let parts = ["a".repeat(127), "b".repeat(127)].join("/");
        let name: RepositoryName = parts.parse().unwrap();
        let one = "c".repeat(255);
        let tag: Tag = "t".repeat(128).parse().unwrap();
        let digest = Digest::of(Algorithm::Sha512, b"");
        for name in [name, one.parse().unwrap()] {
            let _ = referrer(&name, &digest, &digest);
            let _ = tag_index_link(&name, &tag, &digest);
            let _ = tag_record(&name, &tag);
        }
        let _ = tag_record(&"a".parse().unwrap(), &"_".parse().unwrap());
        let _ = tag_record(&"a".parse().unwrap(), &"0..-".parse().unwrap());
    }

    #[test]
    fn a_key_leads_back_to_its_digest() {
        let (short, long) = (Digest::sha256(b"x"), Digest::of(Algorithm::Sha512, b"x"));
        assert_eq!(content_of(&blob(&short)), Some(short));
        assert_eq!(alias_of(&alias(&long)), Some(long));
        for other in [metainfo(&short), blocks(&short), alias(&long)] {
            assert_eq!(content_of(&other), None);
        }
        assert_eq!(alias_of(&metainfo(&long)), None);
        for digest in [&short, &long] {
            assert_eq!(metainfo_of(&metainfo(digest)), Some(*digest));
            assert_eq!(metainfo_of(&blocks(digest)), None);
        }
        let hex = short.hex();
        let misplaced = blobs().key(&format!("00/{hex}/data")).unwrap();
        assert_eq!(content_of(&misplaced), None);
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
