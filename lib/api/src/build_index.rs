//! What a build-index answers: manifests, tags, and what belongs to a repository.
//!
//! ```text
//! GET    /v1/repositories?n=&last=                                    Names, in byte order
//! GET    /v1/repositories/{repository}/tags?n=&last=                  Names, in byte order
//! GET    /v1/repositories/{repository}/manifests/{reference}          bytes; HEAD too
//! PUT    /v1/repositories/{repository}/manifests/{reference}?tag=     201 ManifestStored
//! DELETE /v1/repositories/{repository}/manifests/{reference}          204
//! GET    /v1/repositories/{repository}/blobs/{digest}                 BlobStat
//! PUT    /v1/repositories/{repository}/blobs/{digest}                 200 BlobStat
//! PUT    /v1/repositories/{repository}/blobs/{digest}?sha256=&length= 200 BlobStat
//! PUT    /v1/repositories/{repository}/blobs/{digest}?from=           200 BlobStat
//! DELETE /v1/repositories/{repository}/blobs/{digest}                 204
//! GET    /v1/repositories/{repository}/referrers/{digest}?artifact_type=   Referrers
//! ```
//!
//! `{repository}` is one segment: its slashes are encoded (`%2F`). `{reference}` is a tag or a
//! digest. Errors have an [`crate::ErrorBody`].
//!
//! The answer to GET of a manifest has its media type as `Content-Type` and its digest as
//! [`DIGEST_HEADER`]. Changes of manifests may have a [`WRITE_HEADER`]. The PUT may have a `Content-Type`; the manifest's own `mediaType` must agree.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{self, HeaderName};
use oci::{Descriptor, Digest, Reference, RepositoryName, Tag};
use rand::TryRng as _;
use rand::rngs::SysRng;
use reqwest::{Method, RequestBuilder};
use serde::{Deserialize, Serialize};

use crate::client::{CallError, Http, Turns, text_of};
use crate::cluster::Cluster;
use crate::error::ErrorCode;
use crate::members::{Addr, Name};

/// Header with the digest of a manifest.
pub const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");
/// Header of a change that another build-index passes on; its value is the name of that.
pub const PASSED_ON_HEADER: HeaderName = HeaderName::from_static("shoal-passed-on");
/// Header with the [`WriteId`] of a change.
pub const WRITE_HEADER: HeaderName = HeaderName::from_static("shoal-write");
/// Most names in one answer.
pub const MAX_PAGE_NAMES: usize = 1000;
/// Most tags that one manifest is stored under besides its reference: what a registry takes.
pub const MAX_TAGS: usize = 64;

/// Path of the list of repositories.
pub const REPOSITORIES: &str = "/v1/repositories";
/// Path of the tags of a repository.
pub const TAGS: &str = "/v1/repositories/{repository}/tags";
/// Path of a manifest.
pub const MANIFEST: &str = "/v1/repositories/{repository}/manifests/{reference}";
/// Path of a blob in a repository.
pub const BLOB: &str = "/v1/repositories/{repository}/blobs/{digest}";
/// Path of what refers to a manifest.
pub const REFERRERS: &str = "/v1/repositories/{repository}/referrers/{digest}";

/// Names a change, so that it is made once where it is asked for again because an answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriteId(u128);

impl WriteId {
    /// Returns one that nobody else has.
    ///
    /// # Panics
    /// Where the system gives no randomness.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        let filled = SysRng.try_fill_bytes(&mut bytes);
        filled.expect("a system that runs gives randomness");
        Self(u128::from_le_bytes(bytes))
    }
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for WriteId {
    type Err = WriteIdError;

    fn from_str(text: &str) -> Result<Self, WriteIdError> {
        let is_whole = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let parsed = is_whole.then(|| u128::from_str_radix(text, 16).ok());
        parsed.flatten().map(Self).ok_or(WriteIdError)
    }
}

/// A text that is no [`WriteId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a change is 32 hex digits")]
pub struct WriteIdError;

/// Query of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Most names, at most [`MAX_PAGE_NAMES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// Only names after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// Names in byte order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    pub names: Vec<String>,
    /// `last` of the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A manifest that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestStored {
    pub digest: Digest,
    /// Digest of the manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// Of the tags in the query, those that now name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
}

/// A blob of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobStat {
    /// Bytes; `None` where the repository has it and storage does not, or not yet: origins know.
    pub length: Option<u64>,
    /// How long ago that was so, in milliseconds: a build-index remembers what storage said.
    #[serde(default, skip_serializing_if = "is_now")]
    pub age_ms: u64,
}

impl BlobStat {
    /// Describes a blob as it is now.
    #[must_use]
    pub const fn new(length: Option<u64>) -> Self {
        Self { length, age_ms: 0 }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_now(age_ms: &u64) -> bool {
    *age_ms == 0
}

/// A blob that an origin has taken, and that need not be in storage yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The name that its content has, or will have, in storage.
    pub sha256: Digest,
    pub length: u64,
}

/// Query of a blob that is put into a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkQuery {
    /// The repository that must have the blob already. Absent where the caller has just stored it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RepositoryName>,
    /// Without `from`: the name that the content will have in storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Bytes. Whoever gives them was told by an origin that holds the blob: it need not be in
    /// storage yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// Query of referrers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferrersQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// What refers to a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Referrers {
    pub descriptors: Vec<Descriptor>,
}

/// A manifest as a build-index has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestContent {
    pub media_type: String,
    pub digest: Digest,
    pub bytes: Bytes,
}

/// Calls of the build-indexes of a cluster.
#[derive(Clone, Debug)]
pub struct BuildIndexClient {
    http: Http,
    cluster: Arc<Cluster>,
    turns: Turns,
    /// The build-index that passes changes on by this client.
    passing_on_for: Option<Name>,
}

impl BuildIndexClient {
    #[must_use]
    pub fn new(http: Http, cluster: Arc<Cluster>) -> Self {
        let count = cluster.build_indexes.len();
        Self {
            http,
            turns: Turns::new("build-index", count),
            cluster,
            passing_on_for: None,
        }
    }

    /// Says with every change that a build-index passes it on.
    #[must_use]
    pub fn passing_on_for(mut self, name: &Name) -> Self {
        self.passing_on_for = Some(name.clone());
        self
    }

    /// Returns a manifest.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestContent, CallError> {
        let reference = reference.to_string();
        self.ask(repository, |addr| {
            let reference = &reference;
            async move {
                let segments = ["manifests", reference];
                let request = self.request(Method::GET, &addr, repository, &segments);
                let patience = self.http.limits().answer;
                let (headers, bytes) = self.http.bytes(&addr, request, patience).await?;
                let (media_type, digest) = manifest_headers(&addr, &headers)?;
                Ok(ManifestContent {
                    media_type,
                    digest,
                    bytes,
                })
            }
        })
        .await
    }

    /// Stores a manifest under `reference`, and under `tags` besides. Asking again is safe.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        media_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<ManifestStored, CallError> {
        let id = WriteId::random();
        self.put_manifest_as(id, repository, reference, tags, media_type, bytes)
            .await
    }

    /// As [`Self::put_manifest`], for a change that has a name already.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_manifest_as(
        &self,
        id: WriteId,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        media_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<ManifestStored, CallError> {
        let reference = reference.to_string();
        let query: Vec<(&str, String)> = tags.iter().map(|tag| ("tag", tag.to_string())).collect();
        self.ask(repository, |addr| {
            let segments = ["manifests", &reference];
            let mut request = self.change(id, Method::PUT, &addr, repository, &segments);
            if let Some(media_type) = media_type {
                request = request.header(header::CONTENT_TYPE, media_type);
            }
            let request = request.query(&query).body(bytes.clone());
            async move {
                self.http
                    .json(&addr, request, self.http.limits().commit)
                    .await
            }
        })
        .await
    }

    /// Removes a tag, or a manifest with all its tags.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<(), CallError> {
        let id = WriteId::random();
        self.delete_manifest_as(id, repository, reference).await
    }

    /// As [`Self::delete_manifest`], for a change that has a name already.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn delete_manifest_as(
        &self,
        id: WriteId,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<(), CallError> {
        let reference = reference.to_string();
        self.ask(repository, |addr| {
            let segments = ["manifests", &reference];
            let request = self.change(id, Method::DELETE, &addr, repository, &segments);
            async move {
                let patience = self.http.limits().commit;
                self.http.send(&addr, request, patience).await.map(|_| ())
            }
        })
        .await
    }

    /// Returns what is known of a blob of a repository.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<BlobStat, CallError> {
        let digest = digest.to_string();
        self.ask(repository, |addr| {
            let request = self.request(Method::GET, &addr, repository, &["blobs", &digest]);
            async move {
                self.http
                    .json(&addr, request, self.http.limits().answer)
                    .await
            }
        })
        .await
    }

    /// Puts a blob that storage has into a repository: one that was just stored, or with `from` one
    /// of that repository. Returns `None` where it is not there.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn link_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<Option<BlobStat>, CallError> {
        let query = LinkQuery {
            from: from.cloned(),
            ..LinkQuery::default()
        };
        self.link(repository, digest, &query).await
    }

    /// Puts a blob into a repository that an origin has taken, whether it is in storage yet or not.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn link_taken(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        taken: &Taken,
    ) -> Result<(), CallError> {
        let query = LinkQuery {
            from: None,
            sha256: Some(taken.sha256),
            length: Some(taken.length),
        };
        self.link(repository, digest, &query).await.map(|_| ())
    }

    /// Puts a blob of another repository into this one, whose length an origin has told: it need
    /// not be in storage yet. Returns `None` where the other one does not have it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn mount_taken(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
        length: u64,
    ) -> Result<Option<BlobStat>, CallError> {
        let query = LinkQuery {
            from: Some(from.clone()),
            sha256: None,
            length: Some(length),
        };
        self.link(repository, digest, &query).await
    }

    async fn link(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        query: &LinkQuery,
    ) -> Result<Option<BlobStat>, CallError> {
        let digest = digest.to_string();
        let linked = self.ask(repository, |addr| {
            let request = self.request(Method::PUT, &addr, repository, &["blobs", &digest]);
            let request = request.query(query);
            async move {
                self.http
                    .json(&addr, request, self.http.limits().commit)
                    .await
            }
        });
        match linked.await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if matches!(error.code(), Some(ErrorCode::BlobUnknown)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a blob from a repository.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn unlink_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), CallError> {
        let digest = digest.to_string();
        self.ask(repository, |addr| {
            let request = self.request(Method::DELETE, &addr, repository, &["blobs", &digest]);
            async move {
                let patience = self.http.limits().commit;
                self.http.send(&addr, request, patience).await.map(|_| ())
            }
        })
        .await
    }

    /// Returns tags of a repository.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn tags(
        &self,
        repository: &RepositoryName,
        page: &PageQuery,
    ) -> Result<Names, CallError> {
        self.ask(repository, |addr| {
            let request = self.request(Method::GET, &addr, repository, &["tags"]);
            let request = request.query(page);
            async move {
                self.http
                    .json(&addr, request, self.http.limits().answer)
                    .await
            }
        })
        .await
    }

    /// Returns names of repositories. Every build-index knows all of them.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn repositories(&self, page: &PageQuery) -> Result<Names, CallError> {
        let order = (0..self.cluster.build_indexes.len()).collect();
        let ask = |index| async move {
            let addr = self.addr(index)?;
            let request = self
                .http
                .request(Method::GET, &addr, &["v1", "repositories"]);
            let patience = self.http.limits().answer;
            self.http.json(&addr, request.query(page), patience).await
        };
        self.turns.ask(order, ask).await
    }

    /// Returns descriptors of what refers to a manifest; none where nothing is known of it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, CallError> {
        let digest = digest.to_string();
        let query = ReferrersQuery {
            artifact_type: artifact_type.map(str::to_owned),
        };
        let referrers: Referrers = self
            .ask(repository, |addr| {
                let segments = ["referrers", &digest];
                let request = self.request(Method::GET, &addr, repository, &segments);
                let request = request.query(&query);
                async move {
                    self.http
                        .json(&addr, request, self.http.limits().answer)
                        .await
                }
            })
            .await?;
        Ok(referrers.descriptors)
    }

    /// Asks those who answer for the repository, the first of the ring first.
    async fn ask<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        repository: &RepositoryName,
        mut call: impl FnMut(Addr) -> F,
    ) -> Result<T, CallError> {
        let order = self.cluster.build_index_order(repository);
        let ask = |index| {
            let called = self.addr(index).map(&mut call);
            async move { called?.await }
        };
        self.turns.ask(order, ask).await
    }

    fn addr(&self, index: usize) -> Result<Addr, CallError> {
        let member = self.cluster.build_indexes.as_slice().get(index);
        Ok(member
            .ok_or(CallError::NoMember("build-index"))?
            .http
            .clone())
    }

    /// Returns a request that changes manifests or tags.
    fn change(
        &self,
        id: WriteId,
        method: Method,
        addr: &Addr,
        repository: &RepositoryName,
        rest: &[&str],
    ) -> RequestBuilder {
        let request = self.request(method, addr, repository, rest);
        let request = request.header(WRITE_HEADER, id.to_string());
        match &self.passing_on_for {
            Some(name) => request.header(PASSED_ON_HEADER, name.as_str()),
            None => request,
        }
    }

    fn request(
        &self,
        method: Method,
        addr: &Addr,
        repository: &RepositoryName,
        rest: &[&str],
    ) -> RequestBuilder {
        let mut segments = vec!["v1", "repositories", repository.as_str()];
        segments.extend(rest);
        self.http.request(method, addr, &segments)
    }
}

fn manifest_headers(addr: &Addr, headers: &HeaderMap) -> Result<(String, Digest), CallError> {
    let media_type = text_of(headers, header::CONTENT_TYPE);
    match text_of(headers, DIGEST_HEADER).parse() {
        Ok(digest) if !media_type.is_empty() => Ok((media_type.to_owned(), digest)),
        Ok(_) | Err(_) => Err(CallError::Malformed {
            member: addr.clone(),
            reason: "a manifest without its type and digest".into(),
        }),
    }
}

#[cfg(test)]
mod tests;
