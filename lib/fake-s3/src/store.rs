//! Files behind a layer that decides about conditions, and about what lists show.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use s3s::dto::{self, StreamingBlob};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::RwLock;
use tokio_util::io::ReaderStream;

use crate::Conditions;

/// How many keys can be written at a time.
const STRIPES: usize = 64;
/// From so many bytes on, bodies go in pieces of [`READ_BYTES`], not of 4 KiB.
const LONG_BYTES: i64 = 64 << 10;
const READ_BYTES: usize = 256 << 10;
/// How often something is listed that changes meanwhile.
const LISTS: usize = 5;

/// Mark of a request whose list shall be stale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StaleList;

/// What lists show that are stale. Clones are the same.
#[derive(Clone)]
pub(crate) struct Stale {
    bucket: PathBuf,
    frozen: Arc<Mutex<Option<Arc<FileSystem>>>>,
    folder: PathBuf,
}

pub(crate) struct Store {
    files: FileSystem,
    bucket: PathBuf,
    conditions: Conditions,
    stripes: Vec<RwLock<()>>,
    hasher: RandomState,
    /// Folders that objects are about to be written to.
    busy: Mutex<Vec<PathBuf>>,
    stale: Stale,
}

/// Keeps a folder until an object is in it.
struct Busy<'a> {
    store: &'a Store,
    folder: PathBuf,
}

impl Store {
    pub(crate) fn open(folder: &Path, bucket: &str, conditions: Conditions) -> io::Result<Self> {
        let live = folder.join("live");
        let path = live.join(bucket);
        std::fs::create_dir_all(&path)?;
        let stale = Stale {
            bucket: path.clone(),
            frozen: Arc::default(),
            folder: folder.join("stale"),
        };
        Ok(Self {
            files: FileSystem::new(&live)
                .map_err(|error| io::Error::other(format!("{error:?}")))?,
            bucket: path,
            conditions,
            stripes: (0..STRIPES).map(|_| RwLock::new(())).collect(),
            hasher: RandomState::new(),
            busy: Mutex::default(),
            stale,
        })
    }

    pub(crate) fn stale(&self) -> Stale {
        self.stale.clone()
    }

    fn stripe(&self, key: &str) -> &RwLock<()> {
        let stripe = usize::try_from(self.hasher.hash_one(key) % STRIPES as u64);
        &self.stripes[stripe.unwrap_or(0)]
    }

    fn keep_folder(&self, key: &str) -> Busy<'_> {
        let path = self.bucket.join(key);
        let folder = path.parent().unwrap_or(&self.bucket).to_owned();
        self.busy.lock().push(folder.clone());
        Busy {
            store: self,
            folder,
        }
    }

    /// Removes a folder, and those it is in, that have nothing in them: buckets have no folders.
    fn tidy(&self, folder: &Path) {
        let busy = self.busy.lock();
        for folder in folder
            .ancestors()
            .take_while(|folder| folder.starts_with(&self.bucket) && **folder != self.bucket)
        {
            let is_busy = busy.iter().any(|busy| busy.starts_with(folder));
            if is_busy || std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }

    async fn put(
        &self,
        mut request: S3Request<dto::PutObjectInput>,
    ) -> S3Result<S3Response<dto::PutObjectOutput>> {
        // Nobody waits for a client that is slow.
        if let Some(body) = request.input.body.take() {
            let whole = collect(body).await?;
            let whole = stream::iter([Ok::<_, io::Error>(whole)]);
            request.input.body = Some(StreamingBlob::wrap(whole));
        }
        let key = request.input.key.clone();
        let _busy = self.keep_folder(&key);
        match self.conditions {
            // What is behind looks at conditions, and writes a moment later.
            Conditions::Racy => self.files.put_object(request).await,
            Conditions::Atomic => {
                let _turn = self.stripe(&key).write().await;
                self.files.put_object(request).await
            }
            Conditions::Ignored => {
                request.input.if_match = None;
                request.input.if_none_match = None;
                self.files.put_object(request).await
            }
        }
    }

    async fn complete(
        &self,
        mut request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CompleteMultipartUploadOutput>> {
        let key = request.input.key.clone();
        let _busy = self.keep_folder(&key);
        match self.conditions {
            Conditions::Racy => self.files.complete_multipart_upload(request).await,
            Conditions::Atomic => {
                let _turn = self.stripe(&key).write().await;
                self.files.complete_multipart_upload(request).await
            }
            Conditions::Ignored => {
                request.input.if_match = None;
                request.input.if_none_match = None;
                self.files.complete_multipart_upload(request).await
            }
        }
    }

    async fn get(
        &self,
        request: S3Request<dto::GetObjectInput>,
    ) -> S3Result<S3Response<dto::GetObjectOutput>> {
        let key = request.input.key.clone();
        let range = request.input.range;
        // Content and version are two files.
        let _turn = match self.conditions {
            Conditions::Atomic => Some(self.stripe(&key).read().await),
            Conditions::Racy | Conditions::Ignored => None,
        };
        let mut response = self.files.get_object(request).await?;
        let length = response.output.content_length.unwrap_or_default();
        if length >= LONG_BYTES {
            let whole = self.long_body(&key, range, length).await;
            let body = whole.map_err(|error| s3_error!(error, InternalError))?;
            response.output.body = Some(body);
        }
        Ok(response)
    }

    /// Returns a body that is cheap to send.
    async fn long_body(
        &self,
        key: &str,
        range: Option<dto::Range>,
        length: i64,
    ) -> io::Result<StreamingBlob> {
        let mut file = tokio::fs::File::open(self.bucket.join(key)).await?;
        let from = match range {
            Some(dto::Range::Int { first, .. }) => SeekFrom::Start(first),
            Some(dto::Range::Suffix { .. }) => SeekFrom::End(-length),
            None => SeekFrom::Start(0),
        };
        file.seek(from).await?;
        let part = file.take(u64::try_from(length).unwrap_or_default());
        let body = ReaderStream::with_capacity(part, READ_BYTES);
        Ok(StreamingBlob::wrap(body))
    }

    async fn head(
        &self,
        request: S3Request<dto::HeadObjectInput>,
    ) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        let key = request.input.key.clone();
        let _turn = match self.conditions {
            Conditions::Atomic => Some(self.stripe(&key).read().await),
            Conditions::Racy | Conditions::Ignored => None,
        };
        self.files.head_object(request).await
    }

    async fn delete(
        &self,
        request: S3Request<dto::DeleteObjectInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        let path = self.bucket.join(&request.input.key);
        let _turn = self.stripe(&request.input.key).write().await;
        let deleted = self.files.delete_object(request).await;
        if let Some(folder) = path.parent() {
            self.tidy(folder);
        }
        deleted
    }

    async fn list(
        &self,
        request: S3Request<dto::ListObjectsV2Input>,
    ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        let frozen = self.stale.frozen.lock().clone();
        if let Some(frozen) = frozen.filter(|_| request.extensions.get::<StaleList>().is_some()) {
            return frozen.list_objects_v2(request).await;
        }
        // A folder that is removed while it is listed is an error there.
        for _ in 1..LISTS {
            if let Ok(listed) = self.files.list_objects_v2(request.clone()).await {
                return Ok(listed);
            }
        }
        self.files.list_objects_v2(request).await
    }
}

macro_rules! impl_store {
    ($($call:ident: $input:ident -> $output:ident = |$store:ident, $request:ident| $answer:expr,)*) => {
        #[async_trait]
        impl S3 for Store {
            $(
                async fn $call(
                    &self,
                    $request: S3Request<dto::$input>,
                ) -> S3Result<S3Response<dto::$output>> {
                    let $store = self;
                    $answer.await
                }
            )*
        }
    };
}

impl_store!(
    get_object: GetObjectInput -> GetObjectOutput =
        |store, request| store.get(request),
    head_object: HeadObjectInput -> HeadObjectOutput =
        |store, request| store.head(request),
    put_object: PutObjectInput -> PutObjectOutput =
        |store, request| store.put(request),
    delete_object: DeleteObjectInput -> DeleteObjectOutput =
        |store, request| store.delete(request),
    list_objects_v2: ListObjectsV2Input -> ListObjectsV2Output =
        |store, request| store.list(request),
    create_bucket: CreateBucketInput -> CreateBucketOutput =
        |store, request| store.files.create_bucket(request),
    head_bucket: HeadBucketInput -> HeadBucketOutput =
        |store, request| store.files.head_bucket(request),
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput =
        |store, request| store.files.create_multipart_upload(request),
    upload_part: UploadPartInput -> UploadPartOutput =
        |store, request| store.files.upload_part(request),
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput =
        |store, request| store.complete(request),
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput =
        |store, request| store.files.abort_multipart_upload(request),
);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut busy = self.store.busy.lock();
        if let Some(at) = busy.iter().position(|busy| *busy == self.folder) {
            busy.swap_remove(at);
        }
        drop(busy);
        self.store.tidy(&self.folder);
    }
}

impl Stale {
    /// Takes what is stored now for what stale lists show.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        let name = self.bucket.file_name().unwrap_or_default();
        let _ = std::fs::remove_dir_all(&self.folder);
        link_all(&self.bucket, &self.folder.join(name))?;
        let frozen = FileSystem::new(&self.folder);
        let frozen = frozen.map_err(|error| io::Error::other(format!("{error:?}")))?;
        *self.frozen.lock() = Some(Arc::new(frozen));
        Ok(())
    }
}

/// Makes a folder of the same names; objects are replaced, not changed, so they stay as they are.
fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_all(&entry.path(), &to)?;
        } else {
            std::fs::hard_link(entry.path(), to)?;
        }
    }
    Ok(())
}

async fn collect(mut body: StreamingBlob) -> S3Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| s3_error!(IncompleteBody, "{error}"))?;
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}
