use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use oci::{Descriptor, Digest, Manifest, Reference, RepositoryName, Tag};

use crate::{
    Blob, ByteStream, Error, Extent, Listing, ManifestBytes, Page, Pull, Push, PushedManifest,
    Upload,
};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Fault {
    #[default]
    None,
    Unavailable,
    /// It never answers.
    Silent,
    /// Blobs break off after so many bytes.
    CutAfter(usize),
    /// Blobs just end after so many bytes.
    EndAfter(usize),
    /// Blobs stop after so many bytes, but do not end.
    StallAfter(usize),
    /// Blobs have one byte too many, manifests another one.
    WrongBytes,
}

/// A registry in memory.
#[derive(Debug, Default)]
pub(super) struct Fake(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    fault: Fault,
    blobs: HashMap<Digest, Bytes>,
    linked: BTreeSet<(RepositoryName, Digest)>,
    manifests: BTreeMap<(RepositoryName, Digest), (String, Bytes)>,
    tags: BTreeMap<(RepositoryName, Tag), Digest>,
    uploads: BTreeMap<String, Vec<u8>>,
    started: u64,
    reads: Arc<Mutex<Vec<Extent>>>,
}

impl Fake {
    /// Returns what blobs were read for since the last call.
    pub(super) fn reads(&self) -> Vec<Extent> {
        let reads = Arc::clone(&self.0.lock().unwrap().reads);
        std::mem::take(&mut *reads.lock().unwrap())
    }

    pub(super) fn fail(&self, fault: Fault) {
        self.0.lock().unwrap().fault = fault;
    }

    pub(super) fn uploads(&self) -> usize {
        self.0.lock().unwrap().uploads.len()
    }

    pub(super) fn blobs(&self) -> usize {
        self.0.lock().unwrap().blobs.len()
    }

    async fn state(&self) -> Result<MutexGuard<'_, State>, Error> {
        let fault = self.0.lock().unwrap().fault;
        match fault {
            Fault::Silent => std::future::pending().await,
            Fault::Unavailable => Err(Error::Unavailable("storage is away".to_owned())),
            Fault::None
            | Fault::CutAfter(_)
            | Fault::EndAfter(_)
            | Fault::StallAfter(_)
            | Fault::WrongBytes => Ok(self.0.lock().unwrap()),
        }
    }
}

impl State {
    fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<&Bytes, Error> {
        let unknown = Error::BlobUnknown {
            repository: repository.clone(),
            digest: *digest,
        };
        if self.linked.contains(&(repository.clone(), *digest)) {
            self.blobs.get(digest).ok_or(unknown)
        } else {
            Err(unknown)
        }
    }

    fn resolve(&self, repository: &RepositoryName, reference: &Reference) -> Result<Digest, Error> {
        let digest = match reference {
            Reference::Tag(tag) => self.tags.get(&(repository.clone(), tag.clone())).copied(),
            Reference::Digest(digest) => Some(*digest),
        };
        digest
            .filter(|digest| self.manifests.contains_key(&(repository.clone(), *digest)))
            .ok_or_else(|| Error::ManifestUnknown {
                repository: repository.clone(),
                reference: reference.clone(),
            })
    }
}

fn page_of<T: Clone + AsRef<str>>(all: impl Iterator<Item = T>, page: &Page) -> Listing<T> {
    let last = page.last.as_deref().unwrap_or_default();
    let mut names: Vec<T> = all.filter(|name| name.as_ref() > last).collect();
    let more = names.len() > page.limit;
    names.truncate(page.limit);
    let next = more.then(|| names.last().map(|name| name.as_ref().to_owned()));
    Listing {
        names,
        next: next.flatten(),
    }
}

#[async_trait]
impl Pull for Fake {
    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestBytes, Error> {
        let state = self.state().await?;
        let digest = state.resolve(repository, reference)?;
        let (media_type, bytes) = &state.manifests[&(repository.clone(), digest)];
        let mut bytes = bytes.to_vec();
        if state.fault == Fault::WrongBytes {
            bytes[0] ^= 1;
        }
        Ok(ManifestBytes {
            media_type: media_type.clone(),
            digest,
            bytes: bytes.into(),
        })
    }

    async fn blob_length(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64, Error> {
        let state = self.state().await?;
        Ok(state.blob(repository, digest)?.len() as u64)
    }

    async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Box<dyn Blob>, Error> {
        let state = self.state().await?;
        let bytes = state.blob(repository, digest)?.clone();
        let (fault, reads) = (state.fault, Arc::clone(&state.reads));
        Ok(Box::new(FakeBlob {
            bytes,
            fault,
            reads,
        }))
    }

    async fn tags(&self, repository: &RepositoryName, page: &Page) -> Result<Listing<Tag>, Error> {
        let state = self.state().await?;
        if !state.manifests.keys().any(|(found, _)| found == repository) {
            return Err(Error::NameUnknown(repository.clone()));
        }
        let tags = state.tags.keys().filter(|(found, _)| found == repository);
        Ok(page_of(tags.map(|(_, tag)| tag.clone()), page))
    }

    async fn repositories(&self, page: &Page) -> Result<Listing<RepositoryName>, Error> {
        let state = self.state().await?;
        let names: BTreeSet<_> = state
            .manifests
            .keys()
            .map(|(name, _)| name.clone())
            .collect();
        Ok(page_of(names.into_iter(), page))
    }

    async fn referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let state = self.state().await?;
        let mut found = Vec::new();
        for ((name, key), (media_type, bytes)) in &state.manifests {
            let manifest = Manifest::parse(Some(media_type), bytes).unwrap();
            let subject = manifest.subject.as_ref().map(|subject| subject.digest);
            if name == repository && subject == Some(*digest) {
                found.push(manifest.as_referrer(*key, bytes.len() as u64));
            }
        }
        found.retain(|referrer| {
            artifact_type.is_none() || referrer.artifact_type.as_deref() == artifact_type
        });
        Ok(found)
    }
}

struct FakeBlob {
    bytes: Bytes,
    fault: Fault,
    reads: Arc<Mutex<Vec<Extent>>>,
}

#[async_trait]
impl Blob for FakeBlob {
    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn read(self: Box<Self>, range: Range<u64>, extent: Extent) -> Result<ByteStream, Error> {
        self.reads.lock().unwrap().push(extent);
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let bytes = self.bytes.slice(range);
        // In several parts, as they come from anywhere.
        let parts = |bytes: &[u8]| {
            let parts: Vec<_> = bytes
                .chunks(700)
                .map(|part| Ok(Bytes::copy_from_slice(part)))
                .collect();
            stream::iter(parts)
        };
        Ok(match self.fault {
            Fault::CutAfter(count) => {
                let cut = io::Error::from(io::ErrorKind::ConnectionReset);
                Box::pin(parts(&bytes[..count]).chain(stream::iter([Err(cut)])))
            }
            Fault::EndAfter(count) => Box::pin(parts(&bytes[..count])),
            Fault::StallAfter(count) => Box::pin(parts(&bytes[..count]).chain(stream::pending())),
            Fault::WrongBytes => {
                let more = Ok(Bytes::from_static(b"x"));
                Box::pin(parts(&bytes).chain(stream::iter([more])))
            }
            Fault::None | Fault::Unavailable | Fault::Silent => Box::pin(parts(&bytes)),
        })
    }
}

const MEMBER: &str = "origin-1";

#[async_trait]
impl Push for Fake {
    async fn start_upload(&self, _: &RepositoryName) -> Result<Upload, Error> {
        let mut state = self.state().await?;
        state.started += 1;
        let id = format!("upload-{}", state.started);
        state.uploads.insert(id.clone(), Vec::new());
        Ok(Upload {
            member: MEMBER.to_owned(),
            id,
        })
    }

    async fn upload_offset(&self, _: &RepositoryName, upload: &Upload) -> Result<u64, Error> {
        assert_eq!(upload.member, MEMBER);
        let state = self.state().await?;
        let bytes = state.uploads.get(&upload.id).ok_or(Error::UploadUnknown)?;
        Ok(bytes.len() as u64)
    }

    async fn append(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
        offset: Option<u64>,
        mut body: ByteStream,
    ) -> Result<u64, Error> {
        let has = self.upload_offset(repository, upload).await?;
        if offset.is_some_and(|offset| offset != has) {
            return Err(Error::UploadOffset { offset: has });
        }
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| Error::Unavailable(error.to_string()))?;
            let mut state = self.state().await?;
            let upload = state
                .uploads
                .get_mut(&upload.id)
                .ok_or(Error::UploadUnknown)?;
            upload.extend_from_slice(&bytes);
        }
        self.upload_offset(repository, upload).await
    }

    async fn commit(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
        digest: &Digest,
    ) -> Result<(), Error> {
        let mut state = self.state().await?;
        let bytes = state
            .uploads
            .remove(&upload.id)
            .ok_or(Error::UploadUnknown)?;
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return Err(Error::DigestMismatch(*digest));
        }
        state.blobs.insert(*digest, bytes.into());
        state.linked.insert((repository.clone(), *digest));
        Ok(())
    }

    async fn cancel(&self, _: &RepositoryName, upload: &Upload) -> Result<(), Error> {
        let mut state = self.state().await?;
        state
            .uploads
            .remove(&upload.id)
            .ok_or(Error::UploadUnknown)?;
        Ok(())
    }

    async fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<bool, Error> {
        let mut state = self.state().await?;
        let has = from.is_some_and(|from| state.blob(from, digest).is_ok());
        if has {
            state.linked.insert((repository.clone(), *digest));
        }
        Ok(has)
    }

    async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        media_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<PushedManifest, Error> {
        let mut state = self.state().await?;
        let manifest = Manifest::parse(media_type, &bytes)
            .map_err(|error| Error::ManifestInvalid(error.to_string()))?;
        let missing: Vec<_> = manifest
            .references()
            .filter(|referenced| referenced.role.must_exist())
            .map(|referenced| (referenced.role.is_manifest(), referenced.descriptor.digest))
            .filter(|(is_manifest, digest)| {
                let key = (repository.clone(), *digest);
                let has = if *is_manifest {
                    state.manifests.contains_key(&key)
                } else {
                    state.linked.contains(&key)
                };
                !has
            })
            .map(|(_, digest)| digest)
            .collect();
        if !missing.is_empty() {
            return Err(Error::ManifestBlobUnknown { missing });
        }
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(_) => Digest::sha256(&bytes),
        };
        let key = (repository.clone(), digest);
        let media_type = manifest.kind.media_type().to_owned();
        state.manifests.insert(key, (media_type, bytes));
        for tag in tags.iter().chain(reference.tag()) {
            state.tags.insert((repository.clone(), tag.clone()), digest);
        }
        Ok(PushedManifest {
            digest,
            subject: manifest.subject.map(|subject| subject.digest),
            tags: tags.to_vec(),
        })
    }

    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<(), Error> {
        let mut state = self.state().await?;
        let digest = state.resolve(repository, reference)?;
        match reference {
            Reference::Tag(tag) => {
                state.tags.remove(&(repository.clone(), tag.clone()));
            }
            Reference::Digest(_) => {
                state.manifests.remove(&(repository.clone(), digest));
                state.tags.retain(|_, found| *found != digest);
            }
        }
        Ok(())
    }

    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<(), Error> {
        let mut state = self.state().await?;
        state.blob(repository, digest)?;
        state.linked.remove(&(repository.clone(), *digest));
        Ok(())
    }
}
